/** What was said, what is being said and what waits, a line each. */

import { $ } from "./dom.js";

const STATUS_WORDS = { hearing: "Listening", sent: "Sending", queued: "Waiting", speaking: "Speaking", completed: "Said", cancelled: "Interrupted", failed: "Failed" };
// Codes of what is wrong with the text itself: to send it again helps nobody.
const REFUSED = ["unspeakable_text", "bad_prompt", "empty_text", "invalid_event"];
const KEPT_LINES = 200;

export class Transcript {
  #lines = new Map(); // reply id -> {element, spoken, isKnown, input, heardChars, read, number, position}; isKnown: what will be said; read: how its words are
  #numCreated = 0; // replies that the server took
  #sending = STATUS_WORDS.sent;
  #say;
  #edit;
  #changed;

  /**
   * @param {(input: string) => void} say says a line once more. @param {(input: string) => void} edit puts one back into the field.
   * @param {() => void} changed is told when `busy` may have changed.
   */
  constructor({ say, edit, changed }) {
    this.#say = say;
    this.#edit = edit;
    this.#changed = changed;
  }

  /** Whether something is being said or waits. */
  get busy() {
    return [...this.#lines.values()].some(({ element }) => ["sent", "queued", "speaking"].includes(element.dataset.status));
  }

  /** What was typed here: a line to be said, or, `answered`, to be answered. Of a full prompt only that is shown which is said. */
  add(id, input, { answered }) {
    const spoken = answered ? null : (/<S>(.*?)<E>/s.exec(input)?.[1].trim() ?? input);
    const line = this.#append(id, { spoken, input, question: answered ? input : null });
    this.#set(line, "sent");
    line.element.toggleAttribute("data-folded", true);
    const { scrollHeight, clientHeight } = line.element.querySelector(answered ? ".question" : ".line-text");
    if (scrollHeight <= clientHeight + 1) line.element.removeAttribute("data-folded");
    this.#showNewest();
  }

  /** Somebody speaks into a microphone: what they seem to have said so far. */
  listen({ item_id: id, text = "…" }) {
    const line = this.#lines.get(id) ?? this.#append(id, { spoken: null, input: null, question: text });
    line.element.querySelector(".question").textContent = text;
    this.#set(line, "hearing");
    this.#showNewest();
  }

  /** What was said in a turn is known; where it was nothing, its line goes. */
  understood({ item_id: id, text }) {
    if (text) return this.listen({ item_id: id, text });
    this.#lines.get(id)?.element.remove();
    this.#lines.delete(id);
  }

  /** Somebody has said something that is answered; perhaps it was typed here, or is shown since it was spoken. */
  asked({ response_id: id, item_id: itemId, text }) {
    if (this.#lines.has(id)) return;
    const line = this.#lines.get(itemId) ?? this.#append(id, { spoken: null, input: null, question: text });
    this.#lines.delete(itemId);
    this.#lines.set(id, line);
    this.#set(line, "queued", "Thinking");
    this.#showNewest();
  }

  /** What lines say that are not with the server yet. */
  showSending(words = STATUS_WORDS.sent) {
    this.#sending = words;
    for (const line of this.#lines.values()) if (line.element.dataset.status === "sent") this.#set(line, "sent");
  }

  created({ response_id: id, position }) {
    const line = this.#lines.get(id);
    if (!line) return;
    Object.assign(line, { number: ++this.#numCreated, position });
    this.#setWaiting(line);
  }

  started({ response_id: id }) {
    this.#set(this.#lineOf(id), "speaking");
  }

  /** A word was heard. Of answers, and of replies that others asked for, the text is known only so. */
  heard({ response_id: id, text, spoken }) {
    const line = this.#lineOf(id);
    this.#showRead(line, text, spoken);
    if (!line.isKnown) {
      line.spoken = `${line.spoken} ${text}`.trim();
      this.#showHeard(line, line.spoken.length);
      this.#showNewest();
      return;
    }
    const word = text.trim();
    const at = line.spoken.toLowerCase().indexOf(word.toLowerCase(), line.heardChars);
    if (word && at >= 0) this.#showHeard(line, at + word.length);
  }

  done({ response_id: id, status, code }) {
    const line = this.#lines.get(id);
    if (line) this.#set(line, status);
    if (line?.isKnown && REFUSED.includes(code)) this.#refuse(line);
    for (const other of this.#lines.values()) {
      if (!line || other.number < line.number || other.element.dataset.status !== "queued" || !other.position) continue;
      other.position -= 1;
      this.#setWaiting(other);
    }
  }

  failed({ response_id: id, code }) {
    const line = this.#lines.get(id);
    if (line) this.#set(line, "failed");
    if (line && REFUSED.includes(code)) this.#refuse(line);
  }

  /** The session is over: what it was to say is lost, except, with `keepSent`, what it did not have yet. Returns the ids of lost lines. */
  endOpen({ keepSent }) {
    const lost = [...this.#lines].filter(([, { element }]) => ["speaking", "queued", ...(keepSent ? [] : ["sent"])].includes(element.dataset.status));
    for (const [, line] of lost) this.#set(line, "cancelled", line.element.dataset.status === "speaking" ? "Cut off" : "Not said");
    return lost.map(([id]) => id);
  }

  showTime(id, words) {
    const line = this.#lines.get(id);
    if (line) line.element.querySelector(".line-time").textContent = words;
  }

  /** `spoken` null: it is not known what will be said. `input` null: it was not typed here. `question` null: it answers nothing. */
  #append(id, { spoken, input, question = null }) {
    const element = $("line").content.firstElementChild.cloneNode(true);
    const line = { element, spoken: spoken ?? "", isKnown: spoken !== null, input, heardChars: 0, read: "", number: Infinity, position: 0 };
    const asked = element.querySelector(".question");
    asked.textContent = question;
    asked.hidden = question === null;
    if (question !== null) element.querySelector(".again").ariaLabel = element.querySelector(".again").title = "Ask it again";
    element.querySelector(".again").hidden = input === null;
    element.querySelector(".again").addEventListener("click", () => ("refused" in element.dataset ? this.#edit(input) : this.#say(input)));
    element.querySelector(".unfold").addEventListener("click", () => element.removeAttribute("data-folded"));
    this.#lines.set(id, line);
    $("lines").append(element);
    if (this.#lines.size > KEPT_LINES) {
      const [oldest, { element: gone }] = this.#lines.entries().next().value;
      this.#lines.delete(oldest);
      gone.remove();
    }
    return line;
  }

  #lineOf(id) {
    const known = this.#lines.get(id);
    if (known) return known;
    const line = this.#append(id, { spoken: null, input: null });
    this.#set(line, "speaking");
    return line;
  }

  #set(line, status, note = "") {
    line.element.dataset.status = status;
    line.element.querySelector(".line-status").textContent = note || (status === "sent" ? this.#sending : STATUS_WORDS[status]);
    this.#showHeard(line, status === "completed" ? line.spoken.length : line.heardChars);
    this.#changed();
  }

  #setWaiting(line) {
    this.#set(line, "queued", line.position > 0 ? `Waiting, ${line.position} before it` : "Thinking");
  }

  /** A text that cannot be said comes back to be corrected: to repeat it would fail again. */
  #refuse(line) {
    line.element.dataset.refused = "";
    const button = line.element.querySelector(".again");
    button.ariaLabel = button.title = "Edit it";
    button.querySelector("use").setAttribute("href", "#i-edit");
    if ($("prompt").value === "") this.#edit(line.input);
  }

  /** Words that were heard are shown in full ink, the rest waits in grey. */
  #showHeard(line, heardChars) {
    line.heardChars = heardChars;
    line.element.querySelector(".heard").textContent = line.spoken.slice(0, heardChars);
    line.element.querySelector(".unheard").textContent = line.spoken.slice(heardChars);
  }

  /** Where words are read otherwise than they are written, it is shown how all of it was: numbers, times, abbreviations. */
  #showRead(line, text, spoken) {
    line.read = `${line.read} ${spoken ?? text}`.trim();
    const read = line.element.querySelector(".line-spoken");
    if (spoken) read.hidden = false;
    read.textContent = `Spoken: ${line.read}`;
  }

  #showNewest() {
    $("history").scrollTop = $("history").scrollHeight;
  }
}
