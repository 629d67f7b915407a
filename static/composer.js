/** Where lines are typed, and where it is told what is wrong with one. */

import { $ } from "./dom.js";

const CHARS_PER_S = 15; // of pocket's speech
const LONG_S = 20; // from here on it is told how long a text will take
const SAID = {
  prompt: "What should be said?",
  empty: "Whatever you type is said, word for word. Try",
  suggestions: ["Hello, nice to meet you.", "It is twenty past nine, and the coffee is ready.", "Ask me anything, and I will read it out loud."],
};
const ANSWERED = {
  prompt: "What do you want to say?",
  empty: "Whatever you type is answered. Try",
  suggestions: ["Hello, nice to meet you.", "Tell me a very short story.", "What should I cook tonight?"],
};

export class Composer {
  #maxChars = Infinity;
  #answers = false;
  #say;

  /** @param {(input: string, mode: "replace" | "queue") => void} say takes a line that was sent. */
  constructor({ say }) {
    this.#say = say;
    $("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    $("prompt").addEventListener("input", () => {
      this.notice("");
      this.#showLength();
    });
    $("prompt").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      $("composer").requestSubmit();
    });
    for (const suggestion of document.querySelectorAll(".suggestion")) suggestion.addEventListener("click", () => this.say(suggestion.textContent));
  }

  set maxChars(number) {
    this.#maxChars = number;
  }

  /** Whether what is typed is answered, or said as it is. */
  showAnswers(answers) {
    this.#answers = answers;
    const words = answers ? ANSWERED : SAID;
    $("prompt-label").textContent = words.prompt;
    $("empty-words").textContent = words.empty;
    document.querySelectorAll(".suggestion").forEach((suggestion, index) => (suggestion.textContent = words.suggestions[index]));
    this.#showLength();
  }

  /** Say a line in the mode that is chosen. */
  say(input) {
    this.notice("");
    this.#say(input, document.querySelector("input[name=mode]:checked").value);
  }

  /** Put a text into the field, to be corrected. */
  edit(input) {
    $("prompt").value = input;
    this.#showLength();
    this.focus();
  }

  focus() {
    $("prompt").focus({ preventScroll: true });
  }

  /** What is wrong, or, with `tone` "info", good to know. Empty: nothing. */
  notice(text, tone = "bad") {
    $("notice").textContent = text;
    $("notice").dataset.tone = tone;
    $("notice").hidden = !text;
  }

  #send() {
    const input = $("prompt").value.trim();
    if (!input) {
      this.notice(this.#answers ? "Type what you want to say first." : "Type what should be said first.");
    } else if (input.length > this.#maxChars) {
      this.notice(`That line has ${input.length} characters; the limit is ${this.#maxChars}. Split it in two.`);
    } else {
      $("prompt").value = "";
      this.#showLength();
      this.say(input);
    }
    this.focus();
  }

  #showLength() {
    const numChars = $("prompt").value.trim().length;
    const aboutS = numChars / CHARS_PER_S;
    const limit = this.#maxChars < Infinity ? ` of ${this.#maxChars}` : "";
    const time = aboutS < 90 ? `${Math.round(aboutS / 10) * 10} seconds` : `${Math.round(aboutS / 60)} minutes`;
    $("length").textContent = this.#answers || aboutS < LONG_S ? "" : `${numChars}${limit} characters, about ${time}`;
  }
}
