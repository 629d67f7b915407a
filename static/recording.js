/** The button that has the server record the call, and the link to what it recorded. */

import { $ } from "./dom.js";

export class Recording {
  #connection;
  #token;
  #tell;
  #output = null; // {id, fileUrl} of the recording that runs; another viewer may have begun it

  /** @param {{token: string | null, tell: (text: string, tone?: string) => void}} options `tell` shows a sentence to the caller. */
  constructor(connection, { token, tell }) {
    this.#connection = connection;
    this.#token = token;
    this.#tell = tell;
    $("record").addEventListener("click", () => this.#press());
    $("recorded").addEventListener("click", (event) => this.#token && this.#save(event));
    connection.addEventListener("status", ({ detail: { state } }) => {
      if (!["ended", "failed"].includes(state) || !this.#output) return;
      this.#offer(this.#output.fileUrl); // it ends with the call, which tells nobody any more
      this.#show(null);
    });
  }

  /** Whether the caller may, and the server can: `session.created` tells. */
  allow({ may_record: mayRecord = false, resumed = false }) {
    $("record").hidden = !mayRecord;
    if (!resumed) this.#show(null);
  }

  /** `output.started` and `output.updated`. */
  runs({ kind, output_id: id, file_url: fileUrl = null }) {
    if (kind === "recording") this.#show({ id, fileUrl: fileUrl ?? this.#output?.fileUrl ?? null });
  }

  /** `output.ended`. */
  ended({ kind, message, file_url: fileUrl = null }) {
    if (kind !== "recording") return;
    this.#show(null);
    if (message) this.#tell(message, "bad");
    this.#offer(fileUrl);
  }

  #show(output) {
    this.#output = output;
    const label = output ? "Stop recording" : "Record";
    $("record").ariaLabel = $("record").title = label;
    $("record").setAttribute("aria-pressed", String(output !== null));
    if (output) $("recorded").hidden = true;
  }

  #offer(fileUrl) {
    $("recorded").hidden = !fileUrl || $("record").hidden;
    if (fileUrl) $("recorded").href = ofThisPage(fileUrl);
  }

  async #press() {
    const { id } = this.#connection.session ?? {};
    if (!id) return;
    const outputs = `v1/sessions/${encodeURIComponent(id)}/outputs`;
    const request = this.#output
      ? this.#ask(`${outputs}/${encodeURIComponent(this.#output.id)}`, { method: "DELETE" })
      : this.#ask(outputs, { method: "POST", body: JSON.stringify({ type: "recording" }) });
    const response = await request.catch(() => null);
    if (response?.ok) return; // events tell the rest, to all viewers
    const problem = await response?.json().catch(() => null);
    this.#tell(problem?.detail ?? "The server cannot be reached.", "bad");
  }

  /** A link cannot say who asks. */
  async #save(event) {
    event.preventDefault();
    const { href } = $("recorded");
    const response = await this.#ask(href).catch(() => null);
    if (!response?.ok) return this.#tell("The recording cannot be fetched.", "bad");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await response.blob());
    link.download = href.split("/").at(-1);
    link.click();
    URL.revokeObjectURL(link.href);
  }

  #ask(url, options = {}) {
    return fetch(url, { ...options, headers: this.#token ? { Authorization: `Bearer ${this.#token}` } : {} });
  }
}

/** A path of the server's, behind a proxy that may have put another one in front. */
const ofThisPage = (path) => new URL(path.replace(/^\//, ""), document.baseURI).href;
