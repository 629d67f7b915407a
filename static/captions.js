/** Words as they are heard, in two lines below the picture. */

const STAYS_MS = 2000; // after a reply's end
const FADES_MS = 600; // as style.css says
const CARRIED_WORDS = 6; // a phrase of at most so many words is kept together
const PHRASE_END = /[,.;:!?…]["'”’)]*\s*$/;

export class Captions {
  #element;
  #timers = [];

  constructor(element) {
    this.#element = element;
  }

  /** The words of the reply before are gone. */
  clear() {
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers = [];
    delete this.#element.dataset.fading;
    this.#element.replaceChildren();
  }

  /** There is room for two lines: where a third would begin, the phrase that is being said begins new ones. */
  add(text) {
    if (this.#timers.length) this.clear();
    const word = document.createElement("span");
    word.textContent = this.#element.lastChild ? ` ${text}` : text;
    this.#element.append(word);
    if (this.#element.scrollHeight <= this.#element.clientHeight) return;
    const phrase = phraseEndingAt([...this.#element.children]);
    phrase[0].textContent = phrase[0].textContent.trimStart();
    this.#element.replaceChildren(...phrase);
    if (this.#element.scrollHeight > this.#element.clientHeight) this.#element.replaceChildren(word);
  }

  /** A reply has ended: its last words stay for a moment. */
  end() {
    if (!this.#element.lastChild || this.#timers.length) return;
    this.#timers = [setTimeout(() => (this.#element.dataset.fading = ""), STAYS_MS), setTimeout(() => this.clear(), STAYS_MS + FADES_MS)];
  }
}

/** The last word and those before it in the same phrase; of a long phrase the last two. */
function phraseEndingAt(words) {
  for (let length = 1; length <= CARRIED_WORDS; length++) {
    const before = words.at(-length - 1);
    if (!before || PHRASE_END.test(before.textContent)) return words.slice(-length);
  }
  return words.slice(-2);
}
