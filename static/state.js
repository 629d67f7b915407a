/** How the call is, and the avatar in it, in words and in what is shown in the picture's place. */

import { $ } from "./dom.js";

const AVATAR_WORDS = { initializing: "Waking up", idle: "One moment, it is being restarted", listening: "Listening", thinking: "Thinking", speaking: "Speaking" };
const AVATAR_TONES = { initializing: "wait", idle: "wait", listening: "live", thinking: "wait", speaking: "speak" };
const UNAVAILABLE = {
  full: ["Server is full", "Every seat is taken"],
  draining: ["Server is closing", "Back in a moment"],
  engine_unavailable: ["Not ready", "The avatar is waking up"],
};
const WATCHING_WORDS = { call: "Watch", again: "Watch again", ended: "No call to watch", hangUp: "Leave" };
const TYPED_WORDS = { said: "Type a line, hear it said.", answered: "Ask something, hear the answer." };
const CALLING_WORDS = { call: "Call", again: "Call again", ended: "Call ended", hangUp: "Hang up" };
const SOON_MS = 3000; // less than this is not told in seconds: nobody knows it so well
const COUNT_PERIOD_MS = 100;
const BAR_STAYS_MS = 3000; // without a pointer near it

export class CallState {
  #stage = $("stage");
  #video = $("video");
  #avatar = "idle";
  #startedAt = null; // Date.now() of the first connection
  #countdown = null;
  #preparing = null; // {since, until}: performance.now() at which the wait was told, and at which it should end
  #words = CALLING_WORDS;
  #level = 0;

  constructor({ watching }) {
    if (watching) {
      this.becomeWatching();
      this.#invite();
    }
    setInterval(() => this.#countPreparing(), COUNT_PERIOD_MS);
    setInterval(() => ($("clock").textContent = this.#clockWords()), 1000);
    this.#fadeBar();
  }

  /** What the avatar does. */
  get avatar() {
    return this.#avatar;
  }

  /** Show a `status` of the connection. */
  show({ state, reason, message, retryInMs, place, waitMs }) {
    clearInterval(this.#countdown);
    const before = this.#stage.dataset.state;
    this.#stage.dataset.state = state;
    if (before === "connected" && state !== "connected") this.#keepLastPicture();
    const inCall = ["connected", "resuming"].includes(state);
    $("bar").hidden = !inCall;
    $("lost").hidden = state !== "resuming";
    if (inCall) $("welcome").hidden = true;
    if (state !== "connected") {
      this.#showLevel(0);
      this.#showPreparing(null);
    }
    switch (state) {
      case "connecting":
        this.#say("Connecting", "wait");
        this.#welcome("Calling", "One moment.", "Cancel", "quiet");
        break;
      case "waiting":
        this.#say("Waiting for a seat", "wait");
        this.#welcome(place === 1 ? "You are next" : `You are ${ordinal(place)} in line`, waitingWords(place, waitMs), "Stop waiting", "quiet");
        message = $("welcome-title").textContent; // to be said aloud when it changes, but not each time that the seconds do
        break;
      case "connected":
        this.#startedAt ??= Date.now();
        this.showAvatar(before === "resuming" ? this.#avatar : "initializing");
        break;
      case "resuming":
        this.#say("Reconnecting", "wait");
        $("lost-words").textContent = message;
        break;
      case "reconnecting":
        this.#say("Reconnecting", "wait");
        this.#welcome(this.#startedAt ? "The call dropped" : "No connection yet", message || "Trying again.", "Stop trying", "quiet");
        if (retryInMs) this.#countDown(performance.now() + retryInMs, message);
        break;
      case "full": {
        const [short, title] = UNAVAILABLE[reason] ?? UNAVAILABLE.full;
        this.#say(short, "wait");
        this.#welcome(title, message, "Stop waiting", "quiet");
        this.#countDown(performance.now() + retryInMs, reason === "full" ? "" : message.replace(/ *Try again in \d+ s\.$/, ""));
        break;
      }
      case "ended":
        this.#say("Ended", "off");
        this.#welcome(this.#startedAt ? "Call ended" : this.#words.ended, [this.#durationWords(), message].filter(Boolean).join(" "), this.#words.again, "go");
        break;
      case "failed":
        this.#say("Error", "bad");
        this.#welcome("The call did not work", message, "Try again", "go");
        break;
    }
    if (["ended", "failed"].includes(state)) {
      delete this.#stage.dataset.still;
      this.#startedAt = null;
    }
    $("clock").hidden = !this.#startedAt;
    $("announcement").textContent = state === "connected" ? "" : message;
  }

  /** Show what the avatar does, and how long it will take until a line begins, where that is known. */
  showAvatar(state, readyInMs = null) {
    this.#avatar = this.#stage.dataset.avatar = state;
    if (this.#stage.dataset.state !== "connected") return;
    this.#say(readyInMs === null ? (AVATAR_WORDS[state] ?? state) : "Preparing", AVATAR_TONES[state] ?? "live");
    this.#showPreparing(readyInMs);
  }

  /** What the measured speed of the machine means, in the server's words; nothing where it keeps up. */
  showMachine(notice = "") {
    $("machine").textContent = notice;
    $("machine").hidden = !notice;
  }

  /** The picture that is shown until the first one of a call is there; null: there is none. */
  showPoster(url) {
    if (url) $("poster").src = url;
    this.#stage.toggleAttribute("data-poster", url !== null);
  }

  /** A picture has come. Returns whether it is the first one of its connection. */
  pictureCame() {
    // A connection that closes paints once more; that is no first picture.
    if (this.#stage.dataset.state !== "connected" || "picture" in this.#stage.dataset) return false;
    this.#stage.dataset.picture = "";
    delete this.#stage.dataset.still;
    return true;
  }

  /** The halo around the picture, 0 to 1: how loud it speaks. */
  set level(level) {
    this.#showLevel(Math.round(Math.max(level, this.#level * 0.8) * 20) / 20);
  }

  #showLevel(level) {
    if (level === this.#level) return;
    this.#level = level;
    this.#stage.style.setProperty("--level", level);
  }

  #invite() {
    $("welcome-title").textContent = "Somebody invites you to watch.";
    $("welcome-text").textContent = "You see and hear a call; only its caller can speak in it.";
    $("call-label").textContent = this.#words.call;
  }

  /** A call of somebody else: there is nothing to type. */
  becomeWatching() {
    this.#words = WATCHING_WORDS;
    document.documentElement.dataset.watching = "";
    $("hangup").ariaLabel = $("hangup").title = this.#words.hangUp;
    for (const id of ["who", "history-empty"]) $(id).hidden = true;
    $("watching").hidden = false;
  }

  /** What is typed is answered: before the first call that is said where else the page says what it does. */
  showAnswers(answers) {
    const words = Object.values(TYPED_WORDS);
    if (words.includes($("welcome-title").textContent)) $("welcome-title").textContent = answers ? TYPED_WORDS.answered : TYPED_WORDS.said;
  }

  #say(words, tone) {
    if ($("state-words").textContent !== words) $("state-words").textContent = words;
    $("state").dataset.tone = tone;
  }

  #welcome(title, text, label, kind) {
    $("welcome").hidden = false;
    $("welcome-title").textContent = title;
    $("welcome-text").textContent = text;
    $("call-label").textContent = label;
    $("call").dataset.kind = kind;
  }

  /** Counts down to the next try, in the welcome text: the live region says it once, not every second. */
  #countDown(until, words) {
    const tick = () => {
      const leftS = Math.max(0, Math.ceil((until - performance.now()) / 1000));
      $("welcome-text").textContent = `${words} Trying again ${leftS > 0 ? `in ${leftS} s` : "now"}.`.trim();
    };
    tick();
    this.#countdown = setInterval(tick, 250);
  }

  /** A dropped call keeps its last picture, dimmed, until the next one comes. */
  #keepLastPicture() {
    delete this.#stage.dataset.picture;
    if (!this.#video.videoWidth) return;
    const still = $("still");
    Object.assign(still, { width: this.#video.videoWidth, height: this.#video.videoHeight });
    still.getContext("2d").drawImage(this.#video, 0, 0);
    this.#stage.dataset.still = "";
  }

  /** How long it takes until a line begins, on a machine that cannot make speech as fast as it is spoken. Said aloud once. */
  #showPreparing(readyInMs) {
    const now = performance.now();
    const told = this.#preparing !== null;
    this.#preparing = readyInMs === null ? null : { since: this.#preparing?.since ?? now, until: now + readyInMs };
    $("preparing").hidden = this.#preparing === null;
    if (this.#preparing === null) return;
    if (!told) $("announcement").textContent = `The answer begins in about ${secondsWords(readyInMs)}.`;
    this.#countPreparing();
  }

  #countPreparing() {
    if (this.#preparing === null) return;
    const { since, until } = this.#preparing;
    const leftMs = until - performance.now();
    const words = leftMs > 500 ? `The answer begins in about ${secondsWords(leftMs)}` : "The answer begins any moment";
    if ($("preparing-words").textContent !== words) $("preparing-words").textContent = words;
    const share = Math.min(1, (performance.now() - since) / Math.max(1, until - since));
    $("preparing-done").style.setProperty("--done", share.toFixed(3));
  }

  /** The buttons over the picture go while no pointer moves on it; the first touch only brings them back. */
  #fadeBar() {
    let timer = null;
    let swallow = false;
    const wake = (event) => {
      if (event?.type === "pointerdown") swallow = "faded" in this.#stage.dataset;
      delete this.#stage.dataset.faded;
      clearTimeout(timer);
      timer = setTimeout(() => (this.#stage.dataset.faded = ""), BAR_STAYS_MS);
    };
    for (const type of ["pointermove", "pointerdown", "focusin"]) this.#stage.addEventListener(type, wake, { capture: true });
    const stop = (event) => {
      if (swallow) event.stopPropagation();
      swallow = false;
    };
    $("bar").addEventListener("click", stop, { capture: true });
    new MutationObserver(() => wake()).observe($("bar"), { attributeFilter: ["hidden"] });
  }

  #durationWords() {
    return this.#startedAt ? `It lasted ${this.#clockWords()}.` : "";
  }

  #clockWords() {
    const totalS = Math.floor((Date.now() - (this.#startedAt ?? Date.now())) / 1000);
    return `${Math.floor(totalS / 60)}:${String(totalS % 60).padStart(2, "0")}`;
  }
}

function ordinal(number) {
  const ending = { one: "st", two: "nd", few: "rd", other: "th" }[new Intl.PluralRules("en", { type: "ordinal" }).select(number)];
  return `${number}${ending}`;
}

function waitingWords(place, waitMs) {
  if (waitMs === null) return place === 1 ? "Every seat is taken; the next one is yours." : "Every seat is taken; how long it takes is not known yet.";
  return `Every seat is taken. It should be your turn ${waitMs < SOON_MS ? "any moment" : `in about ${durationWords(waitMs)}`}.`;
}

/** How long something takes, as people say it. */
export function durationWords(ms) {
  if (ms < 50_000) return secondsWords(ms);
  const minutes = Math.round(ms / 60_000);
  return minutes === 1 ? "a minute" : `${minutes} minutes`;
}

const secondsWords = (ms) => `${Math.max(1, Math.round(ms / 1000))} s`;
