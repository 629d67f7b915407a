/** The video element: its pictures, its sound, how loud it is. */

import { $ } from "./dom.js";
import { recall, remember } from "./storage.js";

const SOUND_PERIOD_MS = 20;
const HUSH_MS = 500; // what was cut off has left the browser's buffer by then

export class Playback {
  #video = $("video");
  #context = null;
  #meter = null;
  #hushed = null; // timer
  #onFrame;
  #onSound;

  /**
   * @param {(shownAt: number, receivedAt: number) => void} onFrame a picture is shown. @param {(rms: number) => void} onSound how
   *   loud the sound is, root mean square of full scale, every 20 ms.
   */
  constructor({ onFrame, onSound }) {
    this.#onFrame = onFrame;
    this.#onSound = onSound;
    this.#video.volume = Number(recall("volume") ?? 1);
    $("volume").value = this.#video.volume;
    $("unblock").addEventListener("click", () => {
      $("unblock").hidden = true;
      this.allowSound();
      this.#setMuted(false);
      this.#video.play().catch(() => {});
    });
    $("mute").addEventListener("click", () => this.#setMuted(!this.#video.muted));
    $("volume").addEventListener("input", ({ target }) => {
      this.#video.volume = Number(target.value);
      this.#setMuted(this.#video.volume === 0);
      remember("volume", target.value);
    });
    setInterval(() => this.#measureSound(), SOUND_PERIOD_MS);
  }

  get soundRunning() {
    return this.#context?.state === "running";
  }

  /** Browsers open sound only after the page was touched: call this where it was. */
  allowSound() {
    this.#context?.resume().catch(() => {});
  }

  show(stream) {
    this.#video.srcObject = stream;
    this.#play();
    const onFrame = (now, { expectedDisplayTime, receiveTime }) => {
      if (this.#video.srcObject !== stream) return;
      this.#onFrame(expectedDisplayTime ?? now, receiveTime ?? now);
      this.#video.requestVideoFrameCallback(onFrame);
    };
    this.#video.requestVideoFrameCallback(onFrame);
  }

  clear() {
    this.#video.srcObject = null;
  }

  /** The voice was cut off: what of it waits in the browser's buffer is not played either. */
  hush() {
    clearTimeout(this.#hushed);
    this.#hearTracks(false);
    this.#hushed = setTimeout(() => this.unhush(), HUSH_MS);
  }

  /** Somebody speaks anew. */
  unhush() {
    clearTimeout(this.#hushed);
    this.#hearTracks(true);
  }

  #hearTracks(enabled) {
    for (const track of this.#video.srcObject?.getAudioTracks() ?? []) track.enabled = enabled;
  }

  /** Begin to measure the sound of what is shown. Takes a tenth of a second: better after the first picture. */
  listen() {
    this.#context ??= new AudioContext({ latencyHint: "interactive" });
    this.allowSound();
    this.#meter?.source.disconnect();
    if (!this.#video.srcObject) return;
    const source = this.#context.createMediaStreamSource(this.#video.srcObject);
    const analyser = new AnalyserNode(this.#context, { fftSize: 1024 });
    source.connect(analyser);
    this.#meter = { source, analyser, samples: new Float32Array(analyser.fftSize) };
  }

  /** Browsers may refuse sound before the page was touched: then the picture starts muted, and a button asks for the sound. */
  async #play() {
    try {
      await this.#video.play();
    } catch (error) {
      if (error.name !== "NotAllowedError") return;
      this.#video.muted = true;
      $("unblock").hidden = false;
      await this.#video.play().catch(() => {});
    }
  }

  #setMuted(muted) {
    this.#video.muted = muted;
    $("mute").setAttribute("aria-pressed", String(muted));
    $("mute-icon").setAttribute("href", muted ? "#i-muted" : "#i-sound");
    $("mute").title = muted ? "Sound is off" : "Mute";
  }

  #measureSound() {
    if (!this.#meter) return;
    const { analyser, samples } = this.#meter;
    analyser.getFloatTimeDomainData(samples);
    let energy = 0;
    for (const sample of samples) energy += sample * sample;
    this.#onSound(Math.sqrt(energy / samples.length));
  }
}
