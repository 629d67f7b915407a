/** Figures of a call: what was waited for, and how the media come through. */

import { $ } from "./dom.js";
import { recall, remember } from "./storage.js";

const STATS_PERIOD_MS = 1000;
const REPORT_PERIOD_MS = 5000;
const SLOW_MS = 1000;

const inMs = (value) => (Number.isFinite(value) ? `${Math.round(value)} ms` : "–");

/** A wait in words. */
export const secondsWords = (ms) => (ms === null ? "–" : `${(ms / 1000).toFixed(2)} s`);

export class Health {
  #connection;
  #latency;
  #stats = {};
  #wanted = recall("health") === "shown";

  constructor(connection, latency) {
    this.#connection = connection;
    this.#latency = latency;
    this.#show(this.#wanted);
    $("health-toggle").addEventListener("click", () => this.#show(!this.#wanted));
    connection.addEventListener("status", () => this.#show(this.#wanted));
    setInterval(() => this.#read(), STATS_PERIOD_MS);
    setInterval(() => this.#report(), REPORT_PERIOD_MS);
  }

  /** How long the first picture and the first sound of a reply were waited for. */
  showLatency({ textToFrameMs, textToSoundMs }) {
    for (const [element, ms] of [[$("h-frame"), textToFrameMs], [$("h-sound"), textToSoundMs]]) {
      element.textContent = secondsWords(ms);
      element.toggleAttribute("data-slow", ms > SLOW_MS);
    }
  }

  /** Everything that was measured of the media, as plain values. */
  report() {
    const { video, audio, fps, bitrateKbps, lossPercent, jitterMs, videoBufferMs, audioBufferMs } = this.#stats;
    return {
      video: video && { fps, frames: video.framesDecoded, dropped: video.framesDropped, freezes: video.freezeCount, bufferMs: videoBufferMs },
      audio: audio && { bufferMs: audioBufferMs, concealedSamples: audio.concealedSamples },
      bitrateKbps: bitrateKbps ?? null,
      lossPercent: lossPercent ?? null,
      jitterMs: jitterMs ?? null,
      rttMs: this.#connection.rttMs,
    };
  }

  #show(wanted) {
    this.#wanted = wanted;
    $("health").hidden = !wanted || !["connected", "resuming"].includes(this.#connection.state);
    $("health-toggle").setAttribute("aria-pressed", String(wanted));
    remember("health", wanted ? "shown" : "hidden");
  }

  async #read() {
    const measured = await this.#connection.stats();
    if (!measured) return;
    const before = this.#stats;
    const next = { ...measured, at: performance.now(), rttMs: this.#connection.rttMs };
    const since = (kind, field) => (next[kind]?.[field] ?? 0) - (before[kind]?.id === next[kind]?.id ? (before[kind]?.[field] ?? 0) : 0);
    const bufferMs = (kind) => (since(kind, "jitterBufferDelay") / since(kind, "jitterBufferEmittedCount")) * 1000;
    const packets = since("video", "packetsReceived") + since("audio", "packetsReceived");
    const lost = Math.max(0, since("video", "packetsLost") + since("audio", "packetsLost"));
    Object.assign(next, {
      fps: next.video?.framesPerSecond ?? null,
      bitrateKbps: ((since("video", "bytesReceived") + since("audio", "bytesReceived")) * 8) / (next.at - before.at),
      lossPercent: packets ? (100 * lost) / (packets + lost) : 0,
      videoBufferMs: bufferMs("video"),
      audioBufferMs: bufferMs("audio"),
      jitterMs: Math.max(next.video?.jitter ?? 0, next.audio?.jitter ?? 0) * 1000,
    });
    this.#stats = next;
    $("h-fps").textContent = next.fps ? `${Math.round(next.fps)} fps` : "–";
    $("h-size").textContent = next.fps ? ` · ${next.video.frameWidth}×${next.video.frameHeight}` : "";
    $("h-bitrate").textContent = Number.isFinite(next.bitrateKbps) ? `${Math.round(next.bitrateKbps)} kbit/s` : "–";
    $("h-buffer").textContent = `${Math.round(next.videoBufferMs) || "–"} · ${inMs(next.audioBufferMs)}`;
    $("h-jitter").textContent = inMs(next.jitterMs);
    $("h-loss").textContent = `${next.lossPercent.toFixed(1)} %`;
    $("h-rtt").textContent = inMs(next.rttMs ?? next.pairRttMs);
  }

  /** Tells the server how its media came through. */
  #report() {
    if (this.#connection.state !== "connected" || !this.#stats.video) return;
    const { call } = this.#latency.report();
    const { video, jitterMs, rttMs } = this.#stats;
    const report = { first_frame_ms: call?.firstFrameMs, freezes: video.freezeCount, jitter_ms: jitterMs, rtt_ms: rttMs };
    this.#connection.report(Object.fromEntries(Object.entries(report).filter(([, value]) => value != null)));
  }
}
