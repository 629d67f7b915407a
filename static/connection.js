/**
 * One call to an avatar: WHEP carries the media, a data channel carries the events (docs/protocol.md). Never touches the page.
 *
 * It dispatches three kinds of events, and whoever shows the call listens:
 *   status  {state, reason, message, retryInMs}   state: idle, connecting, connected, reconnecting, full, ended, failed
 *   stream  {stream}                              the remote MediaStream, once a connection
 *   server  {message, at}                         one parsed event of the server, and performance.now() of its arrival
 *
 * A lost link is opened again with growing pauses; what was sent and never acknowledged is sent again, under the same event_id.
 */

const HEARTBEAT_MS = 1000;
const SILENCE_LIMIT_MS = 4000; // no word from the server for so long: the link is dead
const OPEN_LIMIT_MS = 10_000; // from the offer to the open data channel
const REQUEST_LIMIT_MS = 8000;
const RETRY_PAUSES_MS = [500, 1000, 2000, 4000, 8000, 8000, 8000];
const REPEAT_PAUSES_MS = [150, 150, 300, 600, 1000, 2000]; // early repeats make SCTP retransmit a lost datagram before its 1 s timeout
const DEFAULT_RETRY_AFTER_S = 5;

/** Why a connection could not be opened or ended. `retry` tells whether trying again can help. */
class CallError extends Error {
  constructor(reason, message, { retry = false, retryAfterMs = null } = {}) {
    super(message);
    this.reason = reason;
    this.retry = retry;
    this.retryAfterMs = retryAfterMs;
  }
}

export class AvatarConnection extends EventTarget {
  #whepUrl;
  #state = "idle";
  #pending = new Map(); // event_id -> {message, sends, nextAt}: sent and not yet acknowledged
  #chosen = {}; // {avatar, scene, voice}: told to each new session
  #stop = null; // AbortController of the running call
  #link = null; // {peer, channel, resource, etag, heardAt} of the open connection
  #rttMs = null;
  #iceServers = []; // STUN and TURN, as the server last named them

  /** @param {string} whepUrl where offers go, absolute or relative to the page. */
  constructor(whepUrl) {
    super();
    this.#whepUrl = new URL(whepUrl, location.href).href;
    addEventListener("pagehide", () => this.stop());
    this.#askIceServers();
  }

  get state() {
    return this.#state;
  }

  get peer() {
    return this.#link?.peer ?? null;
  }

  /** Round trip of the last ping over the data channel, ms. */
  get rttMs() {
    return this.#rttMs;
  }

  /** Begin a call, and keep it alive until `stop`, a final error, or the server's goodbye. */
  start() {
    if (this.#stop) return;
    this.#stop = new AbortController();
    this.#run(this.#stop.signal);
  }

  /** Hang up. Also frees the seat when the page goes away. */
  stop() {
    if (!this.#stop) return;
    this.#stop.abort();
    this.#stop = null;
    this.#pending.clear();
    this.#setState("ended", { reason: "hung_up" });
    this.#closeLink();
  }

  /** Say a line. Returns the reply's id. Before the call is open the line waits for it. */
  say(input, mode) {
    const id = newId("r");
    this.#submit({ type: "response.create", id, input, mode });
    return id;
  }

  /** Silence the avatar now, and forget what is queued. */
  cancel() {
    for (const [eventId, { message }] of this.#pending) if (message.type === "response.create") this.#pending.delete(eventId);
    if (this.#state === "connected") this.#submit({ type: "response.cancel" });
  }

  /** Choose who is seen and heard, {avatar, scene, voice}, all optional: now, and for every connection to come. */
  choose(chosen) {
    this.#chosen = chosen;
    if (this.#state === "connected") this.#submit({ type: "session.update", ...chosen });
  }

  /** Tell the server what was seen here; nobody waits for an answer. */
  report(stats) {
    this.#transmit({ type: "client.stats", event_id: newId("e"), ...stats });
  }

  // ---- the life of a call -------------------------------------------------------------------------------------------------

  async #run(signal) {
    let failures = 0;
    let everOpen = false;
    while (!signal.aborted) {
      this.#setState(everOpen ? "reconnecting" : "connecting");
      let problem;
      try {
        await this.#open(signal);
        failures = 0;
        everOpen = true;
        problem = await this.#untilLost(signal);
      } catch (error) {
        problem = error instanceof CallError ? error : new CallError("unexpected", String(error?.message ?? error));
      }
      if (signal.aborted) return; // `stop` has closed everything
      if (problem.reason === "closed_by_server" || !problem.retry || (!problem.retryAfterMs && failures >= RETRY_PAUSES_MS.length)) {
        this.#stop = null;
        this.#pending.clear();
        this.#setState(problem.reason === "closed_by_server" ? "ended" : "failed", problem);
        this.#closeLink();
        return;
      }
      const pauseMs = problem.retryAfterMs ?? RETRY_PAUSES_MS[failures++] * (0.8 + 0.4 * Math.random());
      const state = problem.retryAfterMs ? "full" : "reconnecting";
      this.#setState(state, { reason: problem.reason, message: problem.message, retryInMs: pauseMs });
      this.#closeLink(); // last, so that the page could still keep the last picture
      await pause(pauseMs, signal);
    }
  }

  /** Ahead of the first offer, because addresses are gathered before its answer is here. */
  async #askIceServers() {
    const response = await fetch(this.#whepUrl, { method: "OPTIONS" }).catch(() => null);
    if (response?.ok) this.#iceServers = iceServersOf(response.headers.get("Link"));
  }

  /** Offer, answer, data channel open. Throws CallError. */
  async #open(signal) {
    const peer = new RTCPeerConnection({ iceServers: this.#iceServers, bundlePolicy: "max-bundle" });
    const link = { peer, channel: null, resource: null, etag: null, heardAt: performance.now(), goodbye: null };
    this.#link = link;
    for (const kind of ["video", "audio"]) peer.addTransceiver(kind, { direction: "recvonly" });
    peer.ontrack = ({ streams: [stream] }) => {
      if (stream !== link.stream) this.dispatchEvent(new CustomEvent("stream", { detail: { stream: (link.stream = stream) } }));
    };
    link.channel = peer.createDataChannel("events");
    link.channel.onmessage = ({ data }) => this.#receive(link, data);

    // The offer does not wait for our addresses: the server has all of its own in the answer, and learns ours from the checks that
    // reach it. They follow in a PATCH all the same.
    peer.onicegatheringstatechange = () => peer.iceGatheringState === "complete" && this.#trickle(link);
    await peer.setLocalDescription();
    if (signal.aborted) throw new CallError("hung_up", "");
    await this.#post(link, peer.localDescription.sdp, signal);
    await this.#untilOpen(link, signal);
    link.heardAt = performance.now();
    this.#setState("connected");
    if (this.#chosen.scene) this.#submit({ type: "session.update", ...this.#chosen }); // avatar and voice went with the offer
    for (const entry of this.#pending.values()) Object.assign(entry, { sends: 0, nextAt: 0 });
    this.#repeatUnacknowledged();
  }

  async #post(link, offer, signal) {
    const limit = AbortSignal.any([signal, AbortSignal.timeout(REQUEST_LIMIT_MS)]);
    const url = new URL(this.#whepUrl);
    for (const name of ["avatar", "voice"]) if (this.#chosen[name]) url.searchParams.set(name, this.#chosen[name]);
    let response;
    try {
      response = await fetch(url, {
        method: "POST",
        headers: { "Content-Type": "application/sdp", Accept: "application/sdp, application/problem+json" },
        body: offer,
        signal: limit,
      });
    } catch {
      throw new CallError("unreachable", "The server cannot be reached.", { retry: true });
    }
    if (response.status !== 201) throw await problemOf(response);
    const resource = response.headers.get("Location");
    link.resource = new URL(resource, response.url).href;
    link.etag = response.headers.get("ETag");
    if (signal.aborted) {
      release(link); // the seat was given after we hung up
      throw new CallError("hung_up", "");
    }
    this.#iceServers = iceServersOf(response.headers.get("Link")); // fresh credentials, should another try need them
    await link.peer.setRemoteDescription({ type: "answer", sdp: await response.text() });
    if (link.peer.iceGatheringState === "complete") this.#trickle(link);
  }

  /** Tell our addresses, once both they and the session are known. */
  #trickle({ peer, resource, etag }) {
    if (!resource || !peer.localDescription) return;
    const lines = peer.localDescription.sdp.split("\r\n");
    const section = lines.slice(lines.findIndex((line) => line.startsWith("m="))); // all sections share one transport
    const wanted = ["a=ice-ufrag:", "a=ice-pwd:", "m=", "a=mid:", "a=candidate:", "a=end-of-candidates"];
    const [ufrag, pwd, media, mid, candidates, end] = wanted.map((start) => section.filter((line) => line.startsWith(start)));
    const body = [ufrag[0], pwd[0], media[0], mid[0], ...new Set(candidates), ...end.slice(0, 1), ""].join("\r\n");
    const headers = { "Content-Type": "application/trickle-ice-sdpfrag", ...(etag && { "If-Match": etag }) };
    fetch(resource, { method: "PATCH", headers, body }).catch(() => {});
  }

  #untilOpen(link, signal) {
    return new Promise((resolve, reject) => {
      const limit = AbortSignal.any([signal, AbortSignal.timeout(OPEN_LIMIT_MS)]);
      const blocked = "The server answers, but no media gets through: a firewall between here and there may block UDP.";
      const fail = () => reject(new CallError("no_media_path", blocked, { retry: true }));
      limit.addEventListener("abort", fail, { once: true });
      link.peer.onconnectionstatechange = () => {
        if (["failed", "closed"].includes(link.peer.connectionState)) fail();
      };
      link.channel.onopen = resolve;
      if (link.channel.readyState === "open") resolve();
    });
  }

  /** Heartbeat and watchdog of an open link. Resolves with the CallError that says why it ended. */
  #untilLost(signal) {
    const link = this.#link;
    return new Promise((resolve) => {
      const lost = (reason, message) => {
        clearInterval(beat);
        clearInterval(repeat);
        resolve(link.goodbye ?? new CallError(reason, message, { retry: true }));
      };
      const beat = setInterval(() => {
        if (link.goodbye) lost();
        else if (performance.now() - link.heardAt > SILENCE_LIMIT_MS) lost("silent", "The server has gone silent.");
        else this.#transmit({ type: "ping", t: performance.now() });
      }, HEARTBEAT_MS);
      const repeat = setInterval(() => this.#repeatUnacknowledged(), 50);
      link.channel.onclose = () => lost("lost", "The connection was lost.");
      link.peer.onconnectionstatechange = () => {
        if (["failed", "closed"].includes(link.peer.connectionState)) lost("lost", "The connection was lost.");
      };
      signal.addEventListener("abort", () => lost("hung_up", ""), { once: true });
    });
  }

  #closeLink() {
    const link = this.#link;
    if (!link) return;
    this.#link = null;
    this.#rttMs = null;
    link.channel.onmessage = link.channel.onclose = link.peer.onconnectionstatechange = link.peer.ontrack = null;
    // The seat first: on a busy machine the end of the connection can overtake the request, which then finds no session.
    release(link).finally(() => link.peer.close());
  }

  #setState(state, { reason = null, message = "", retryInMs = null } = {}) {
    this.#state = state;
    this.dispatchEvent(new CustomEvent("status", { detail: { state, reason, message, retryInMs } }));
  }

  // ---- events -------------------------------------------------------------------------------------------------------------

  #submit(message) {
    const eventId = newId("e");
    this.#pending.set(eventId, { message: { event_id: eventId, ...message }, sends: 0, nextAt: 0 });
    this.#repeatUnacknowledged();
  }

  #repeatUnacknowledged() {
    if (this.#state !== "connected") return;
    const now = performance.now();
    for (const [eventId, entry] of this.#pending) {
      if (now < entry.nextAt) continue;
      if (entry.sends >= REPEAT_PAUSES_MS.length) {
        this.#pending.delete(eventId);
        if (entry.message.type !== "response.create") continue;
        const message = "The server did not take that line. Send it again.";
        this.#deliver({ type: "error", code: "unacknowledged", message, event_id: eventId, response_id: entry.message.id });
        continue;
      }
      this.#transmit(entry.message);
      entry.nextAt = now + REPEAT_PAUSES_MS[entry.sends++];
    }
  }

  #transmit(message) {
    if (this.#link?.channel?.readyState === "open") this.#link.channel.send(JSON.stringify(message));
  }

  #receive(link, data) {
    link.heardAt = performance.now();
    let message;
    try {
      message = JSON.parse(data);
    } catch {
      console.warn("The server sent something that is not JSON:", data);
      return;
    }
    const answered = this.#pending.get(message.event_id)?.message;
    if (message.type === "error" && answered?.id) message.response_id = answered.id;
    this.#acknowledge(message);
    if (message.type === "pong") {
      this.#rttMs = performance.now() - message.t;
    } else if (message.type === "session.closing") {
      link.goodbye = goodbyeOf(message);
    }
    this.#deliver(message);
  }

  #deliver(message) {
    this.dispatchEvent(new CustomEvent("server", { detail: { message, at: performance.now() } }));
  }

  #acknowledge(message) {
    const acknowledged = {
      "response.created": ["response.create"],
      "response.done": ["response.create", "response.cancel"],
      "session.updated": ["session.update"],
      "output_audio_buffer.cleared": ["response.cancel"],
    }[message.type];
    if (message.event_id) this.#pending.delete(message.event_id);
    if (!acknowledged) return;
    for (const [eventId, { message: sent }] of this.#pending) {
      if (acknowledged.includes(sent.type) && (sent.type !== "response.create" || sent.id === message.response_id)) this.#pending.delete(eventId);
    }
  }
}

/** crypto.randomUUID is missing on a page that came over plain HTTP from another machine. */
const newId = (prefix) => `${prefix}-${Array.from(crypto.getRandomValues(new Uint32Array(4)), (word) => word.toString(16)).join("")}`;

/** Free the seat. `keepalive` lets the request outlive the page. Never rejects. */
async function release({ resource }) {
  if (resource) await fetch(resource, { method: "DELETE", keepalive: true, signal: AbortSignal.timeout(REQUEST_LIMIT_MS) }).catch(() => {});
}

function pause(durationMs, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, durationMs);
    signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}

/** RTCIceServer entries of WHEP's Link headers: <turn:host>; rel="ice-server"; username="u"; credential="c" */
function iceServersOf(header) {
  return [...(header ?? "").matchAll(/<([^>]+)>((?:\s*;\s*[\w-]+="[^"]*")*)/g)]
    .map(([, urls, parameters]) => ({ urls, ...Object.fromEntries([...parameters.matchAll(/([\w-]+)="([^"]*)"/g)].map(([, k, v]) => [k, v])) }))
    .filter(({ rel }) => rel === "ice-server")
    .map(({ urls, username, credential }) => ({ urls, username, credential }));
}

/** A refused offer, in words: the server's own where it gives some (RFC 9457). */
async function problemOf(response) {
  const problem = await response.json().catch(() => ({}));
  const detail = problem.detail ?? problem.title;
  if (response.status === 503 || response.status === 429) {
    const retryAfterS = Number(response.headers.get("Retry-After")) || DEFAULT_RETRY_AFTER_S;
    return new CallError(problem.code ?? "full", detail ?? "All seats are taken.", { retry: true, retryAfterMs: retryAfterS * 1000 });
  }
  const words = {
    401: "This server wants a sign-in.",
    403: "You are not allowed to call here.",
    404: "There is no such avatar on this server.",
    422: "This browser and the server share no video or audio format.",
  };
  const message = detail ?? words[response.status] ?? `The server refused the call (HTTP ${response.status}).`;
  return new CallError(problem.code ?? `http_${response.status}`, message, { retry: response.status >= 500 });
}

/** What follows session.closing: a session that was ended on purpose stays ended, any other is worth another try. */
function goodbyeOf({ reason }) {
  if (reason === "deleted") return new CallError("closed_by_server", "It was ended from the server.");
  const words = { shutdown: "The server is restarting.", vanished: "The connection was lost.", internal_error: "Something broke on the server." };
  return new CallError(reason, words[reason] ?? `The server ended the session (${reason}).`, { retry: true });
}
