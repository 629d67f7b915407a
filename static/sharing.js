/** A link by which others watch the call. */

import { $ } from "./dom.js";

export class Sharing {
  #connection;
  #tell;

  /** @param {(text: string) => void} tell shows a sentence to the caller. */
  constructor(connection, { tell }) {
    this.#connection = connection;
    this.#tell = tell;
    $("share").addEventListener("click", () => this.#copyLink());
  }

  /** Whether there is a link to give away: `session.created` tells. */
  allow({ may_speak: maySpeak = true }) {
    const { watching, session } = this.#connection;
    $("share").hidden = watching || !maySpeak || session.graceMs === null; // a server without it knows one viewer a session
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
