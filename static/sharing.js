/** A link by which others watch the call, and recordings of it on the server. */

import { $ } from "./dom.js";

export class Sharing {
  #connection;
  #token;
  #tell;

  /** @param {(text: string) => void} tell shows a sentence to the caller. */
  constructor(connection, { token, tell }) {
    this.#connection = connection;
    this.#token = token;
    this.#tell = tell;
    $("share").addEventListener("click", () => this.#copyLink());
    $("record").addEventListener("click", () => connection.record($("record").getAttribute("aria-pressed") !== "true"));
  }

  /** What this session lets its caller do: `session.created` tells. Viewers may do neither. */
  allow({ may_speak: maySpeak = true, may_record: mayRecord = false, resumed = false }) {
    const { watching, session } = this.#connection;
    $("share").hidden = watching || !maySpeak || session.graceMs === null; // a server without it knows one viewer a session
    $("record").hidden = watching || !mayRecord;
    if (!resumed) this.showRecording(null);
  }

  /** @param {string | null} name of the recording that runs; null: none. */
  showRecording(name) {
    $("record").setAttribute("aria-pressed", String(name !== null));
    $("record").ariaLabel = $("record").title = name === null ? "Record" : "Stop recording";
    $("recording-runs").hidden = name === null;
    $("recording-runs").title = name ?? "";
  }

  /** A link cannot carry a token in its headers, so a server that asks for one is asked for the file as a whole. Null without. */
  get opener() {
    if (!this.#token) return null;
    return async (url, name) => {
      const response = await fetch(url, { headers: { Authorization: `Bearer ${this.#token}` } }).catch(() => null);
      if (!response?.ok) return this.#tell("The recording cannot be loaded.");
      const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(await response.blob()), download: name });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    };
  }

  async #copyLink() {
    const link = new URL(location.pathname, location.href);
    link.search = `?session=${encodeURIComponent(this.#connection.session.id)}&watch`;
    try {
      await navigator.clipboard.writeText(link.href);
      this.#tell("The link for viewers is copied.");
    } catch {
      this.#tell(`The link for viewers: ${link.href}`); // no clipboard without HTTPS, or forbidden
    }
  }
}
