/** The caller's microphone: whether it is on, which one, and what becomes of what is said into it. Only where the server listens. */

import { $ } from "./dom.js";
import { recall, remember } from "./storage.js";

const WORDS = { off: "Talk", asking: "Allow it …", listening: "Listening", hearing: "Hearing you", thinking: "Thinking", muted: "Muted" };
const ON = ["listening", "hearing", "thinking"];
const SOUND = { echoCancellation: true, noiseSuppression: true, autoGainControl: true };
const PROBLEMS = {
  NotAllowedError: "The microphone is not allowed. Allow it for this page, next to its address, and press Talk again.",
  NotFoundError: "There is no microphone. Plug one in, and press Talk again.",
  NotReadableError: "The microphone cannot be opened: another program may have it. Close that, and press Talk again.",
};
const INSECURE =
  "Browsers give a microphone to pages that come by https or from this machine. Open the page by its https address, or as http://localhost.";

export class Microphone {
  #connection;
  #startCall;
  #tell;
  #state = "off";
  #track = null;
  #held = false; // space, or the button, is held down

  /** @param {{startCall: () => void, tell: (text: string) => void}} options `tell` shows a sentence; none takes it away. */
  constructor(connection, { startCall, tell }) {
    this.#connection = connection;
    this.#startCall = startCall;
    this.#tell = tell;
    $("talk").addEventListener("click", () => this.#press());
    $("microphone").addEventListener("change", ({ target }) => {
      remember("microphone", target.value);
      this.#open();
    });
    document.addEventListener("keydown", (event) => this.#isToTalk(event) && this.#hold(true));
    document.addEventListener("keyup", (event) => this.#isToTalk(event) && this.#hold(false));
    addEventListener("blur", () => this.#held && this.#hold(false));
    connection.addEventListener("status", ({ detail: { state } }) => ["ended", "failed"].includes(state) && this.#close());
    navigator.mediaDevices?.addEventListener("devicechange", () => this.#track && this.#showDevices());
    this.#show("off");
  }

  /** Whether the server listens to this page. */
  allow(listens) {
    $("talk").hidden = $("talk-hint").hidden = !listens || this.#connection.watching;
    if (!listens) this.#close();
  }

  /** Somebody is heard, or has ended a turn; and what was said is being answered, or was nothing. */
  heard(state) {
    if (ON.includes(this.#state)) this.#show(state);
  }

  #press() {
    if (this.#state === "asking") return;
    if (!this.#track) this.#open();
    else this.#mute(this.#state !== "muted");
  }

  /** Space, wherever it does nothing else. */
  #isToTalk(event) {
    const at = document.activeElement;
    const isFree = at === document.body || at === $("talk") || at === $("history") || at === null;
    if (event.code !== "Space" || $("talk").hidden || !(isFree || this.#held)) return false;
    event.preventDefault();
    return !event.repeat;
  }

  #hold(isDown) {
    this.#held = isDown;
    if (isDown && !this.#track) this.#press();
    else if (this.#track) this.#mute(!isDown);
  }

  #mute(isMuted) {
    this.#track.enabled = !isMuted;
    this.#show(isMuted ? "muted" : "listening");
  }

  async #open() {
    if (!navigator.mediaDevices) return this.#tell(INSECURE);
    const wasHeld = this.#held;
    this.#show("asking");
    let stream;
    try {
      stream = await ask(recall("microphone"));
    } catch (error) {
      this.#close();
      return this.#tell(PROBLEMS[error.name] ?? `The microphone cannot be opened (${error.message}).`);
    }
    this.#tell("");
    this.#track?.stop();
    [this.#track] = stream.getAudioTracks();
    this.#track.addEventListener("ended", () => {
      this.#close();
      this.#tell("The microphone is gone.");
    });
    this.#mute(wasHeld && !this.#held); // let go while the browser asked
    this.#connection.microphone = this.#track;
    this.#startCall();
    this.#showDevices();
  }

  #close() {
    this.#track?.stop();
    this.#track = this.#connection.microphone = null;
    $("microphones").hidden = true;
    this.#show("off");
  }

  /** More than one can be chosen from; their names are known once one was allowed. */
  async #showDevices() {
    const devices = (await navigator.mediaDevices.enumerateDevices()).filter(({ kind }) => kind === "audioinput");
    $("microphone").replaceChildren(...devices.map(({ deviceId, label }) => new Option(label, deviceId)));
    $("microphone").value = this.#track?.getSettings().deviceId ?? "";
    $("microphones").hidden = !this.#track || devices.length < 2;
  }

  #show(state) {
    this.#state = $("talk").dataset.state = state;
    $("talk-words").textContent = WORDS[state];
    $("talk").ariaLabel = state === "off" ? "Talk" : `Microphone: ${WORDS[state]}`;
    $("talk").title = ON.includes(state) ? "Mute the microphone" : "Talk (or hold space)";
    $("talk").setAttribute("aria-pressed", String(ON.includes(state)));
  }
}

/** The microphone that was chosen last, or any where that one is gone. */
async function ask(deviceId) {
  const open = (which) => navigator.mediaDevices.getUserMedia({ audio: { ...SOUND, ...which } });
  if (!deviceId) return open({});
  return open({ deviceId: { exact: deviceId } }).catch((error) => {
    if (error.name !== "OverconstrainedError") throw error;
    return open({});
  });
}
