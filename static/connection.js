/**
 * One call to an avatar: WHEP carries the media, a data channel carries the events (docs/protocol.md). Never touches the page.
 *
 * It dispatches three kinds of events, and whoever shows the call listens:
 *   status  {state, reason, message, retryInMs}   state: idle, connecting, waiting, connected, resuming, reconnecting, full, ended,
 *                                                 failed. waiting: in line for a seat, with {place, waitMs}; waitMs null: not known
 *   stream  {stream}                              the remote MediaStream, once a connection
 *   server  {message, at}                         one parsed event of the server, and performance.now() of its arrival
 *
 * A session outlives its connection where the server says for how long it is held (`grace_ms`): a lost connection is resumed within
 * that time, and events that came before, by their numbers (`seq`), are not told again. After that, and with other servers, the call
 * is opened anew with growing pauses. Where all seats are taken it waits in line: each request with its ticket waits at the server for
 * a few seconds, and its answer is the seat, or the place by then. What was sent and never acknowledged is sent again either way, under the same event_id.
 */

const HEARTBEAT_MS = 1000;
const BEAT_MS = 250; // how often the heartbeat looks at the clock
const ASLEEP_MS = 2000; // a beat that comes so late was itself asleep: its page was, or the machine
const SILENCE_LIMIT_MS = { resumable: 2500, other: 4000 }; // no word from the server for so long: the connection is dead
const DISCONNECTED_LIMIT_MS = 1000; // ICE often finds its way back within this time
const OPEN_LIMIT_MS = 10_000; // from the offer to the open data channel
const RESUME_OPEN_LIMIT_MS = 5000;
const REQUEST_LIMIT_MS = 8000;
const WAIT_S = 5; // so long a request waits for a seat; its answer tells the place
const RESUME_REQUEST_LIMIT_MS = 3000;
const RESUME_PAUSE_MS = 500;
const GOODBYE_MS = 1000; // so soon before its announced end a session is over when its connection ends
const RETRY_PAUSES_MS = [500, 1000, 2000, 4000, 8000, 8000, 8000];
const REPEAT_PAUSES_MS = [150, 150, 300, 600, 1000, 2000]; // early repeats make SCTP retransmit a lost datagram before its 1 s timeout
const DEFAULT_RETRY_AFTER_S = 5;
const WANTS_REPLY = ["response.create", "user.message"];

/** Why a connection could not be opened, or ended. `retry`: trying again can help. `status`: the HTTP status of a refusal. */
class CallError extends Error {
  constructor(reason, message, { retry = false, retryAfterMs = null, status = null } = {}) {
    super(message);
    Object.assign(this, { reason, retry, retryAfterMs, status });
  }
}

export class AvatarConnection extends EventTarget {
  #whepUrl;
  #state = "idle";
  #pending = new Map(); // event_id -> {message, sends, nextAt}: sent and not yet acknowledged
  #chosen = {}; // {avatar, scene, voice}: told to each new session
  #stop = null; // AbortController of the running call
  #link = null; // {peer, channel, voice, resource, etag, heardAt, goodbye, goodbyeAt} of the open connection
  #resource = null; // where the session is ended: the Location of the last answer
  #former = null; // the peer of a lost connection: to close it would be to hang up, so it is kept until there is another
  #session = null; // {id, seq, graceMs}: what outlives a connection; graceMs null: this server's sessions do not
  #joined; // id of a session that was there before: null makes one
  #watching;
  #token;
  #rttMs = null;
  #numResumed = 0;
  #ticket = null; // of a place among those who wait for a seat
  #microphone = null; // MediaStreamTrack that the server hears
  #iceServers = []; // STUN and TURN, as the server last named them

  /**
   * @param {string} whepUrl where offers go, absolute or relative to the page.
   * @param {{token?: string | null, session?: string | null, watch?: boolean}} options a bearer token; the id of a session to join
   *   instead of making one; whether it is only watched.
   */
  constructor(whepUrl, { token = null, session = null, watch = false } = {}) {
    super();
    this.#whepUrl = new URL(whepUrl, location.href).href;
    this.#token = token;
    this.#joined = session;
    this.#watching = watch;
    // A page that may come back keeps its session: it finds its connection lost then, and resumes.
    addEventListener("pagehide", ({ persisted }) => persisted || this.stop());
    this.#askIceServers();
  }

  get state() {
    return this.#state;
  }

  /** Whether this is another's call that is only watched. */
  get watching() {
    return this.#watching;
  }

  /** {id, seq, graceMs}: the session, the number of its last event, how long it is held without a connection. Null outside a call. */
  get session() {
    return this.#session && { ...this.#session };
  }

  /** How many lost connections were resumed. */
  get numResumed() {
    return this.#numResumed;
  }

  /** Round trip of the last ping over the data channel, ms. */
  get rttMs() {
    return this.#rttMs;
  }

  /** What the server hears, a MediaStreamTrack, or null: in this connection, and in every one to come. */
  set microphone(track) {
    this.#microphone = track;
    this.#link?.voice?.replaceTrack(track);
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
    this.#end("ended", { reason: "hung_up" });
  }

  /** Say a line. Returns the reply's id. Before the call is open the line waits for it. */
  say(input, mode) {
    const id = newId("r");
    this.#submit({ type: "response.create", id, input, mode });
    return id;
  }

  /** Say something to the avatar, where a language model answers. Returns the answer's id. The rest is as for `say`. */
  ask(text, mode) {
    const id = newId("r");
    this.#submit({ type: "user.message", id, text, mode });
    return id;
  }

  /** Silence the avatar now, and forget what is queued. */
  cancel() {
    for (const [eventId, { message }] of this.#pending) if (WANTS_REPLY.includes(message.type)) this.#pending.delete(eventId);
    if (this.#inSession) this.#submit({ type: "response.cancel" });
  }

  /** Choose who is seen and heard, {avatar, scene, voice}, all optional: now, and for every connection to come. */
  choose(chosen) {
    this.#chosen = chosen;
    if (this.#inSession && !this.watching) this.#submit({ type: "session.update", ...chosen });
  }

  /** Tell the server what was seen here; nobody waits for an answer. */
  report(stats) {
    this.#transmit({ type: "client.stats", event_id: newId("e"), ...stats });
  }

  /** What the browser measured of the open connection: RTCInboundRtpStreamStats as `video` and `audio`, and `pairRttMs`; or null. */
  async stats() {
    const report = this.#state === "connected" ? await this.#link?.peer.getStats() : null;
    if (!report) return null;
    const measured = {};
    for (const entry of report.values()) {
      if (entry.type === "inbound-rtp") measured[entry.kind] = entry;
      if (entry.type === "candidate-pair" && entry.nominated) measured.pairRttMs = entry.currentRoundTripTime * 1000;
    }
    return measured;
  }

  // ---- the life of a call -------------------------------------------------------------------------------------------------

  get #inSession() {
    return ["connected", "resuming"].includes(this.#state);
  }

  get #resumable() {
    return this.#session?.graceMs != null;
  }

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
        do problem = await this.#untilLost(signal);
        while (problem.reason === "lost" && this.#resumable && !signal.aborted && !(problem = await this.#resume(signal)));
      } catch (error) {
        problem = callErrorOf(error);
      }
      if (signal.aborted) return; // `stop` has closed everything
      if (problem.reason === "over" || !problem.retry || (!problem.retryAfterMs && failures >= RETRY_PAUSES_MS.length)) {
        this.#end(problem.reason === "over" ? "ended" : "failed", problem);
        return;
      }
      const pauseMs = problem.retryAfterMs ?? RETRY_PAUSES_MS[failures++] * (0.8 + 0.4 * Math.random());
      const state = problem.retryAfterMs ? "full" : "reconnecting";
      this.#setState(state, { reason: problem.reason, message: problem.message, retryInMs: pauseMs });
      this.#leave(); // last, so that the page could still keep the last picture
      await pause(pauseMs, signal);
    }
  }

  /** Open a new connection to the same session, for as long as the server holds it. Returns null, or why it does not go on. */
  async #resume(signal) {
    const end = performance.now() + this.#session.graceMs;
    this.#setState("resuming", { reason: "lost", message: "Connection lost. Reconnecting …" });
    this.#former = this.#drop();
    let why = "It was lost for too long";
    while (performance.now() < end && !signal.aborted) {
      try {
        await this.#open(signal);
        this.#former?.close();
        this.#former = null;
        this.#numResumed += 1;
        return null;
      } catch (error) {
        const problem = callErrorOf(error);
        this.#drop()?.close();
        if (problem.reason === "node_lost") why = "The server that had it is gone";
        if (problem.status === 404) break;
        if (!problem.retry) return problem;
        await pause(RESUME_PAUSE_MS, signal);
      }
    }
    if (this.watching) return sessionOver("It is over.");
    return new CallError("too_late", `${why}; the conversation begins anew.`, { retry: true });
  }

  #end(state, problem) {
    this.#stop.abort();
    this.#stop = null;
    this.#pending.clear();
    this.#ticket = null;
    this.#setState(state, problem);
    this.#leave();
  }

  /** Ahead of the first offer, because addresses are gathered before its answer is here. */
  async #askIceServers() {
    const response = await fetch(this.#whepUrl, { method: "OPTIONS", headers: this.#headers() }).catch(() => null);
    if (response?.ok) this.#iceServers = iceServersOf(response.headers.get("Link"));
  }

  #headers(others = {}) {
    return { ...(this.#token && { Authorization: `Bearer ${this.#token}` }), ...others };
  }

  /** Offer, answer, data channel open: a new session, or the one that there is. Throws CallError. */
  async #open(signal) {
    const resuming = this.#session !== null;
    const peer = new RTCPeerConnection({ iceServers: this.#iceServers, bundlePolicy: "max-bundle" });
    const link = { peer, channel: null, voice: null, resource: null, etag: null, heardAt: performance.now(), goodbye: null, goodbyeAt: Infinity };
    this.#link = link;
    peer.addTransceiver("video", { direction: "recvonly" });
    // There is no renegotiation, so it may send from the start; it does once there is a microphone, and the server listens.
    link.voice = peer.addTransceiver("audio", { direction: this.watching ? "recvonly" : "sendrecv" }).sender;
    if (this.#microphone) link.voice.replaceTrack(this.#microphone);
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
    await this.#untilOpen(link, signal, resuming ? RESUME_OPEN_LIMIT_MS : OPEN_LIMIT_MS);
    link.heardAt = performance.now();
    this.#setState("connected");
    const told = resuming || this.#joined || !this.#chosen.scene; // avatar and voice went with the offer
    if (!told) this.#submit({ type: "session.update", ...this.#chosen });
    for (const entry of this.#pending.values()) Object.assign(entry, { sends: 0, nextAt: 0 });
    this.#repeatUnacknowledged();
  }

  /** What an offer asks for: the session that there is, another's, or a new one. */
  #query() {
    const role = this.watching ? "watch" : null;
    if (this.#session) return { session: this.#session.id, after: this.#session.seq, role };
    return this.#joined ? { session: this.#joined, role } : { avatar: this.#chosen.avatar, voice: this.#chosen.voice, ticket: this.#ticket };
  }

  /** The response to an offer, and the problem that it tells. Where all seats are taken it waits in line, until somebody hangs up. */
  async #answer(offer, signal) {
    let waitS = this.#ticket && WAIT_S; // who need not wait asks as any WHEP client does
    for (;;) {
      const response = await this.#ask(offer, waitS, signal);
      const problem = response.status === 201 ? null : await response.json().catch(() => ({}));
      const { code, ticket = null, place, wait_s: leftS } = problem ?? {};
      if (code !== "full" || this.#session || this.#joined || (waitS !== null && !ticket)) return { response, problem };
      this.#ticket = ticket;
      if (ticket) this.#setState("waiting", { reason: code, place, waitMs: leftS === null ? null : leftS * 1000 });
      waitS = ticket ? WAIT_S : 0;
    }
  }

  async #ask(offer, waitS, signal) {
    const limitMs = this.#session ? RESUME_REQUEST_LIMIT_MS : REQUEST_LIMIT_MS + waitS * 1000;
    const url = new URL(this.#whepUrl);
    for (const [name, value] of Object.entries(this.#query())) if (value != null) url.searchParams.set(name, value);
    const headers = { "Content-Type": "application/sdp", Accept: "application/sdp, application/problem+json" };
    if (waitS !== null) headers.Prefer = `wait=${waitS}`;
    const request = { method: "POST", headers: this.#headers(headers), body: offer, signal: AbortSignal.any([signal, AbortSignal.timeout(limitMs)]) };
    return fetch(url, request).catch(() => {
      throw new CallError("unreachable", "The server cannot be reached.", { retry: true });
    });
  }

  async #post(link, offer, signal) {
    const { response, problem } = await this.#answer(offer, signal);
    if (problem) throw problemOf(response, problem, { joining: this.#joined, watching: this.watching, token: this.#token });
    this.#ticket = null;
    if (this.#state === "waiting") this.#setState("connecting");
    const resource = new URL(response.headers.get("Location"), response.url).href;
    if (signal.aborted) {
      this.#release(resource); // the seat was given after we hung up
      throw new CallError("hung_up", "");
    }
    this.#resource = resource;
    const name = resource.split("/").pop();
    // The session is at another node now: this is its name there, should this try fail.
    if (this.#session && nodeOf(name) !== nodeOf(this.#session.id)) this.#session.id = name;
    Object.assign(link, { resource, etag: response.headers.get("ETag") });
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
    const headers = this.#headers({ "Content-Type": "application/trickle-ice-sdpfrag", ...(etag && { "If-Match": etag }) });
    fetch(resource, { method: "PATCH", headers, body }).catch(() => {});
  }

  #untilOpen(link, signal, limitMs) {
    return new Promise((resolve, reject) => {
      const limit = AbortSignal.any([signal, AbortSignal.timeout(limitMs)]);
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

  /** Heartbeat and watchdog of an open link. Resolves with the CallError that says why it ended; reason `lost`: nobody meant it to. */
  #untilLost(signal) {
    const link = this.#link;
    return new Promise((resolve) => {
      let beatAt = performance.now();
      let pingedAt = -Infinity;
      let doubt = null;
      const lost = (message = "The connection was lost.") => {
        for (const timer of [beat, repeat]) clearInterval(timer);
        clearTimeout(doubt);
        const isMeant = link.goodbyeAt - performance.now() < GOODBYE_MS;
        resolve(isMeant ? link.goodbye : new CallError("lost", message, { retry: true }));
      };
      const look = () => {
        const now = performance.now();
        // After a sleep the silence was our own: what came meanwhile is still to be read, and a ping is to be answered first.
        if (now - beatAt > ASLEEP_MS) link.heardAt = now;
        beatAt = now;
        const limitMs = this.#resumable ? SILENCE_LIMIT_MS.resumable : SILENCE_LIMIT_MS.other;
        if (now >= link.goodbyeAt) lost();
        else if (now - link.heardAt > limitMs) lost("The server has gone silent.");
        else if (now - pingedAt >= HEARTBEAT_MS - BEAT_MS / 2) {
          pingedAt = now;
          this.#transmit({ type: "ping", t: now });
        }
      };
      const beat = setInterval(look, BEAT_MS);
      const repeat = setInterval(() => this.#repeatUnacknowledged(), 50);
      look(); // the first ping tells a server that has held the session that this page plays what comes
      link.channel.onclose = () => lost();
      link.peer.onconnectionstatechange = () => {
        clearTimeout(doubt);
        if (["failed", "closed"].includes(link.peer.connectionState)) lost();
        if (link.peer.connectionState === "disconnected" && this.#resumable) doubt = setTimeout(lost, DISCONNECTED_LIMIT_MS);
      };
      signal.addEventListener("abort", () => lost(), { once: true });
    });
  }

  /** Let go of the connection. The session stays. Returns the peer, to be closed; null without one. */
  #drop() {
    const link = this.#link;
    if (!link) return null;
    this.#link = null;
    this.#rttMs = null;
    link.channel.onmessage = link.channel.onclose = link.peer.onconnectionstatechange = link.peer.ontrack = null;
    return link.peer;
  }

  /** Let go of connection and session. */
  #leave() {
    const [resource, ...peers] = [this.#resource, this.#drop(), this.#former];
    this.#session = this.#resource = this.#former = null;
    // The seat first: on a busy machine the end of the connection can overtake the request, which then finds no session.
    this.#release(resource).finally(() => peers.forEach((peer) => peer?.close()));
  }

  /** Free the seat. `keepalive` lets the request outlive the page. Never rejects. */
  async #release(resource) {
    if (!resource) return;
    const request = { method: "DELETE", headers: this.#headers(), keepalive: true, signal: AbortSignal.timeout(REQUEST_LIMIT_MS) };
    await fetch(resource, request).catch(() => {});
  }

  #setState(state, { reason = null, message = "", retryInMs = null, place, waitMs } = {}) {
    this.#state = state;
    this.dispatchEvent(new CustomEvent("status", { detail: { state, reason, message, retryInMs, place, waitMs } }));
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
        if (!WANTS_REPLY.includes(entry.message.type)) continue;
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
    if (message.type === "session.created") this.#session = this.#sessionOf(message);
    else if (Number.isInteger(message.seq) && this.#session) {
      if (message.seq <= (this.#session.seq ?? -Infinity)) return; // it came before the connection was lost
      this.#session.seq = message.seq;
    }
    const answered = this.#pending.get(message.event_id)?.message;
    if (message.type === "error" && answered?.id) message.response_id = answered.id;
    this.#acknowledge(message);
    if (message.type === "pong") {
      this.#rttMs = performance.now() - message.t;
    } else if (message.type === "session.closing") {
      // At once, or in minutes: until then the call goes on.
      Object.assign(link, { goodbye: goodbyeOf(message, this.watching), goodbyeAt: performance.now() + message.in_ms });
    }
    this.#deliver(message);
  }

  /** A resumed session goes on counting where it was. */
  #sessionOf({ session_id: id, grace_ms: graceMs = null, resumed = false }) {
    return { id, graceMs, seq: resumed ? (this.#session?.seq ?? null) : 0 };
  }

  #deliver(message) {
    this.dispatchEvent(new CustomEvent("server", { detail: { message, at: performance.now() } }));
  }

  #acknowledge(message) {
    const acknowledged = {
      "response.created": WANTS_REPLY,
      "response.done": [...WANTS_REPLY, "response.cancel"],
      "session.updated": ["session.update"],
      "output_audio_buffer.cleared": ["response.cancel"],
    }[message.type];
    if (message.event_id) this.#pending.delete(message.event_id);
    if (!acknowledged) return;
    for (const [eventId, { message: sent }] of this.#pending) {
      if (acknowledged.includes(sent.type) && (!WANTS_REPLY.includes(sent.type) || sent.id === message.response_id)) this.#pending.delete(eventId);
    }
  }
}

/** crypto.randomUUID is missing on a page that came over plain HTTP from another machine. */
const newId = (prefix) => `${prefix}-${Array.from(crypto.getRandomValues(new Uint32Array(4)), (word) => word.toString(16)).join("")}`;

/** The node of a cluster whose id this is; empty elsewhere. */
const nodeOf = (id) => id.slice(0, Math.max(0, id.lastIndexOf(".")));

const callErrorOf = (error) => (error instanceof CallError ? error : new CallError("unexpected", String(error?.message ?? error)));

/** An end that is none of a fault: nothing is tried again. */
const sessionOver = (message) => new CallError("over", message);

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
function problemOf(response, problem, { joining, watching, token }) {
  const { status } = response;
  const detail = problem.detail ?? problem.title;
  if (status === 503 || status === 429) {
    const retryAfterS = Number(response.headers.get("Retry-After")) || DEFAULT_RETRY_AFTER_S;
    return new CallError(problem.code ?? "full", detail ?? "All seats are taken.", { retry: true, retryAfterMs: retryAfterS * 1000, status });
  }
  if (status === 404 && joining) return new CallError("over", "There is no such call, or it is over. Ask for a new link.", { status });
  const words = {
    401: token
      ? "This server does not take the key of your link: it may be too old. Ask for a new link."
      : "This server asks who calls. Open the page by a link that ends in #token=…; whoever runs the server can give you one.",
    403: `With your link you may not ${watching ? "watch this call" : "call here"}. ${detail ?? ""}`.trim(),
  };
  const others = { 404: "There is no such avatar on this server.", 422: "This browser and the server share no video or audio format." };
  const message = words[status] ?? detail ?? others[status] ?? `The server refused the call (HTTP ${status}).`;
  return new CallError(problem.code ?? `http_${status}`, message, { retry: status >= 500 || status === 409, status });
}

/** What follows session.closing: a session that was ended on purpose stays ended, any other is worth another try. */
function goodbyeOf({ reason }, watching) {
  if (watching) return sessionOver("It is over.");
  if (reason === "deleted") return sessionOver("It was ended from the server.");
  const words = { shutdown: "The server is restarting.", vanished: "The connection was lost.", internal_error: "Something broke on the server." };
  return new CallError(reason, words[reason] ?? `The server ended the session (${reason}).`, { retry: true });
}
