/**
 * What the caller waits for, measured where it is seen and heard. Pure bookkeeping: times come in (performance.now(), ms), times go out.
 *
 * The first speaking frame of a reply is the first frame that reached us at or after the server's word that the reply is being
 * played; it counts from when it is shown. That may name the frame after the true one, never the one before.
 * The first sound is the first loud moment after the same word, and after the silence that came before it.
 */

const LOUD = 0.008; // RMS of full scale, about -42 dB
const SILENCE_MS = 300; // so long a quiet ends a voice, a shorter one is a pause

export class Latency {
  #replies = new Map();
  #call = null;
  #lastLoudAt = -Infinity;

  callStarted(at) {
    this.#call = { startedAt: at, openMs: null, firstFrameMs: null };
  }

  callOpen(at) {
    if (this.#call) this.#call.openMs ??= at - this.#call.startedAt;
  }

  sent(id, at) {
    this.#replies.set(id, { id, sentAt: at, startedAt: null, quietAt: null, textToFrameMs: null, textToSoundMs: null, cancelledAt: null, interruptMs: null, status: "sent" });
  }

  started(id, at) {
    const reply = this.#replies.get(id);
    if (reply) Object.assign(reply, { startedAt: at, status: "speaking" });
  }

  cancelled(at) {
    for (const reply of this.#replies.values()) if (reply.status === "speaking") reply.cancelledAt ??= at;
  }

  done(id, status) {
    const reply = this.#replies.get(id);
    if (reply) reply.status = status;
  }

  /** A frame was put on the screen at `shownAt`, whose last packet came in at `receivedAt`. Returns the replies that it begins. */
  frame(shownAt, receivedAt) {
    if (this.#call) this.#call.firstFrameMs ??= shownAt - this.#call.startedAt;
    const begun = [];
    for (const reply of this.#replies.values()) {
      if (reply.startedAt === null || reply.textToFrameMs !== null || receivedAt < reply.startedAt) continue;
      reply.textToFrameMs = shownAt - reply.sentAt;
      begun.push(reply);
    }
    return begun;
  }

  /** The sound was `rms` loud at `at`. Returns the replies that it begins. */
  sound(rms, at) {
    const loud = rms > LOUD;
    const begun = [];
    for (const reply of this.#replies.values()) {
      if (!loud) {
        reply.quietAt ??= at;
        if (reply.cancelledAt !== null && reply.interruptMs === null && at - Math.max(this.#lastLoudAt, reply.cancelledAt) > SILENCE_MS) {
          reply.interruptMs = Math.max(0, this.#lastLoudAt - reply.cancelledAt);
        }
      } else if (reply.startedAt !== null && reply.quietAt !== null && reply.textToSoundMs === null) {
        reply.textToSoundMs = at - reply.sentAt;
        begun.push(reply);
      }
    }
    if (loud) this.#lastLoudAt = at;
    return begun;
  }

  get lastLoudAt() {
    return this.#lastLoudAt;
  }

  /** All that was measured, as plain values. */
  report() {
    return { call: this.#call && { ...this.#call }, replies: [...this.#replies.values()].map((reply) => ({ ...reply })) };
  }
}
