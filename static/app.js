/** The page: what is shown and pressed. The call itself is connection.js; what was waited for is latency.js. */

import { AvatarConnection } from "./connection.js";
import { Latency } from "./latency.js";

const $ = (id) => document.getElementById(id);
const stage = $("stage");
const video = $("video");
const history = $("history");
const prompt = $("prompt");

const CUSTOM = "custom";
const STATS_PERIOD_MS = 1000;
const REPORT_PERIOD_MS = 5000;
const SOUND_PERIOD_MS = 20;
const SLOW_MS = 1000;
const KEPT_LINES = 200;
const COUNT_PERIOD_MS = 100;

const connection = new AvatarConnection("whep");
const latency = new Latency();
const lines = new Map(); // reply id -> {element, spoken, input, heardChars, number, position}
let numCreated = 0; // replies that the server took
let limits = { max_prompt_chars: Infinity };
let avatarState = "idle";
let callStartedAt = null;
let stats = {};

// ---- state in words ---------------------------------------------------------------------------------------------------------

const AVATAR_WORDS = { initializing: "Waking up", idle: "One moment, it is being restarted", listening: "Listening", thinking: "Thinking", speaking: "Speaking" };
const AVATAR_TONES = { initializing: "wait", idle: "wait", listening: "live", thinking: "wait", speaking: "speak" };
const UNAVAILABLE = {
  full: ["Server is full", "Every seat is taken"],
  draining: ["Server is closing", "Back in a moment"],
  engine_unavailable: ["Not ready", "The avatar is waking up"],
};
// Codes of what is wrong with the text itself: to send it again helps nobody.
const REFUSED = ["unspeakable_text", "bad_prompt", "empty_text", "invalid_event"];
let countdown = null;
let preparing = null; // {since, until}: performance.now() at which the wait was told, and at which it should end

function showState(words, tone) {
  if ($("state-words").textContent !== words) $("state-words").textContent = words;
  $("state").dataset.tone = tone;
}

function showWelcome(title, text, label, kind) {
  $("welcome").hidden = false;
  $("welcome-title").textContent = title;
  $("welcome-text").textContent = text;
  $("call-label").textContent = label;
  $("call").dataset.kind = kind;
}

/** Counts down to the next try, in the welcome text: the live region says it once, not every second. */
function countDown(until, words) {
  clearInterval(countdown);
  const tick = () => {
    const leftS = Math.max(0, Math.ceil((until - performance.now()) / 1000));
    $("welcome-text").textContent = `${words} Trying again ${leftS > 0 ? `in ${leftS} s` : "now"}.`.trim();
  };
  tick();
  countdown = setInterval(tick, 250);
}

function onStatus({ detail: { state, reason, message, retryInMs } }) {
  clearInterval(countdown);
  const wasInCall = stage.dataset.state === "connected";
  stage.dataset.state = state;
  const inCall = state === "connected";
  if (wasInCall && !inCall) keepLastPicture();
  $("bar").hidden = !inCall;
  $("health").hidden = !inCall || !healthWanted;
  if (!inCall) setLevel(0);
  if (!inCall) showPreparing(null);
  if (!inCall) endOpenLines();
  switch (state) {
    case "connecting":
      showState("Connecting", "wait");
      showWelcome("Calling", "One moment.", "Cancel", "quiet");
      break;
    case "connected":
      latency.callOpen(performance.now());
      callStartedAt ??= Date.now();
      $("welcome").hidden = true;
      showNotice("");
      showAvatarState("initializing");
      break;
    case "reconnecting":
      showState("Reconnecting", "wait");
      showWelcome(callStartedAt ? "The call dropped" : "No connection yet", message || "Trying again.", "Stop trying", "quiet");
      if (retryInMs) countDown(performance.now() + retryInMs, message);
      break;
    case "full": {
      const [short, title] = UNAVAILABLE[reason] ?? UNAVAILABLE.full;
      showState(short, "wait");
      showWelcome(title, message, "Stop waiting", "quiet");
      countDown(performance.now() + retryInMs, reason === "full" ? "" : message.replace(/ *Try again in \d+ s\.$/, ""));
      break;
    }
    case "ended":
      showState("Ended", "off");
      showWelcome("Call ended", [durationWords(), message].filter(Boolean).join(" "), "Call again", "go");
      break;
    case "failed":
      showState("Error", "bad");
      showWelcome("The call did not work", message, "Try again", "go");
      break;
  }
  if (["ended", "failed"].includes(state)) {
    delete stage.dataset.still;
    callStartedAt = null;
    $("captions").textContent = "";
    video.srcObject = null;
    if (wasInCall || document.activeElement === document.body) $("call").focus({ preventScroll: true });
  } else if (inCall && document.activeElement === $("call")) {
    prompt.focus({ preventScroll: true });
  }
  $("announcement").textContent = inCall ? "" : message;
  showControls();
}

/** A dropped call keeps its last picture, dimmed, until the next one comes. */
function keepLastPicture() {
  const still = $("still");
  Object.assign(still, { width: video.videoWidth, height: video.videoHeight });
  if (video.videoWidth) still.getContext("2d").drawImage(video, 0, 0);
  stage.dataset.still = "";
  delete stage.dataset.picture;
}

function showAvatarState(state, readyInMs = null) {
  avatarState = state;
  const words = readyInMs === null ? AVATAR_WORDS[state] : "Preparing";
  if (connection.state === "connected") showState(words ?? state, AVATAR_TONES[state] ?? "live");
  showPreparing(readyInMs);
  stage.dataset.avatar = state;
  showControls();
}

/** How long it takes until a line begins, on a machine that cannot make speech as fast as it is spoken. Said aloud once. */
function showPreparing(readyInMs) {
  const now = performance.now();
  const told = preparing !== null;
  preparing = readyInMs === null ? null : { since: preparing?.since ?? now, until: now + readyInMs };
  $("preparing").hidden = preparing === null;
  if (preparing === null) return;
  if (!told) $("announcement").textContent = `The answer begins in about ${secondsWords(readyInMs)}.`;
  countPreparing();
}

const secondsWords = (ms) => `${Math.max(1, Math.round(ms / 1000))} s`;

function countPreparing() {
  if (preparing === null) return;
  const { since, until } = preparing;
  const leftMs = until - performance.now();
  const words = leftMs > 500 ? `The answer begins in about ${secondsWords(leftMs)}` : "The answer begins any moment";
  if ($("preparing-words").textContent !== words) $("preparing-words").textContent = words;
  const share = Math.min(1, (performance.now() - since) / Math.max(1, until - since));
  $("preparing-done").style.setProperty("--done", share.toFixed(3));
}
setInterval(countPreparing, COUNT_PERIOD_MS);

/** What the measured speed of the machine means, in the server's words; nothing where it keeps up. */
function showMachine(notice = "") {
  $("machine").textContent = notice;
  $("machine").hidden = !notice;
}

function showControls() {
  const busy = [...lines.values()].some(({ element }) => ["sent", "queued", "speaking"].includes(element.dataset.status));
  $("interrupt").disabled = connection.state !== "connected" || !busy;
  $("clock").hidden = !callStartedAt;
}

function durationWords() {
  return callStartedAt ? `It lasted ${clockWords()}.` : "";
}

function clockWords() {
  const totalS = Math.floor((Date.now() - callStartedAt) / 1000);
  return `${Math.floor(totalS / 60)}:${String(totalS % 60).padStart(2, "0")}`;
}

function showNotice(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
  history.scrollTop = history.scrollHeight;
}

// ---- call, hang up, sound -----------------------------------------------------------------------------------------------------

$("call").addEventListener("click", () => (["idle", "ended", "failed"].includes(connection.state) ? startCall() : connection.stop()));
$("hangup").addEventListener("click", () => connection.stop());

function startCall() {
  latency.callStarted(performance.now());
  connection.start();
}

function onStream({ detail: { stream } }) {
  video.srcObject = stream;
  play();
  watchFrames();
}

/** Browsers may refuse sound before the page was touched: then the picture starts muted, and a button asks for the sound. */
async function play() {
  try {
    await video.play();
  } catch (error) {
    if (error.name !== "NotAllowedError") return;
    video.muted = true;
    $("unblock").hidden = false;
    await video.play().catch(() => {});
  }
}

$("unblock").addEventListener("click", () => {
  $("unblock").hidden = true;
  soundContext?.resume();
  setMuted(false);
  video.play().catch(() => {});
});

$("mute").addEventListener("click", () => setMuted(!video.muted));
$("volume").addEventListener("input", ({ target }) => {
  video.volume = Number(target.value);
  setMuted(video.volume === 0);
  remember("volume", target.value);
});

function setMuted(muted) {
  video.muted = muted;
  $("mute").setAttribute("aria-pressed", String(muted));
  $("mute-icon").setAttribute("href", muted ? "#i-muted" : "#i-sound");
  $("mute").title = muted ? "Sound is off" : "Mute";
}

// ---- the prompt ---------------------------------------------------------------------------------------------------------------

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const input = prompt.value.trim();
  if (!input) {
    showNotice("Type what should be said first.");
    prompt.focus();
    return;
  }
  if (input.length > limits.max_prompt_chars) {
    showNotice(`That line has ${input.length} characters; the limit is ${limits.max_prompt_chars}. Split it in two.`);
    return;
  }
  say(input);
  prompt.value = "";
  prompt.focus();
});

function say(input) {
  showNotice("");
  if (["idle", "ended", "failed"].includes(connection.state)) startCall();
  const mode = document.querySelector("input[name=mode]:checked").value;
  soundContext?.resume().catch(() => {});
  const id = connection.say(input, mode);
  latency.sent(id, performance.now());
  addLine(id, /<S>(.*?)<E>/s.exec(input)?.[1].trim() ?? input, input);
}

for (const suggestion of document.querySelectorAll(".suggestion")) suggestion.addEventListener("click", () => say(suggestion.textContent));

prompt.addEventListener("input", () => showNotice(""));

prompt.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("composer").requestSubmit();
  }
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !$("interrupt").disabled) interrupt();
});
$("interrupt").addEventListener("click", interrupt);

function interrupt() {
  latency.cancelled(performance.now());
  connection.cancel();
  prompt.focus({ preventScroll: true });
}

// ---- what was said ------------------------------------------------------------------------------------------------------------

const STATUS_WORDS = { sent: "Sending", queued: "Waiting", speaking: "Speaking", completed: "Said", cancelled: "Interrupted", failed: "Failed" };

/** @param {string} spoken the words of `input` that are said: all of it, unless it is a full prompt. */
function addLine(id, spoken, input) {
  const element = $("line").content.firstElementChild.cloneNode(true);
  const line = { element, spoken, input, heardChars: 0, number: Infinity, position: 0 };
  element.querySelector(".again").addEventListener("click", () => ("refused" in element.dataset ? edit(input) : say(input)));
  lines.set(id, line);
  setLine(line, "sent");
  $("lines").append(element);
  if (lines.size > KEPT_LINES) {
    const [oldest, { element: gone }] = lines.entries().next().value;
    lines.delete(oldest);
    gone.remove();
  }
  history.scrollTop = history.scrollHeight;
}

function setLine(line, status, note = "") {
  line.element.dataset.status = status;
  line.element.querySelector(".line-status").textContent = note || STATUS_WORDS[status];
  showHeard(line, status === "completed" ? line.spoken.length : line.heardChars);
  showControls();
}

function setWaiting(line) {
  setLine(line, "queued", line.position > 0 ? `Waiting, ${line.position} before it` : "Thinking");
}

/** A text that cannot be said comes back to be corrected: to repeat it would fail again. */
function refuse(line) {
  line.element.dataset.refused = "";
  const button = line.element.querySelector(".again");
  button.ariaLabel = button.title = "Edit it";
  button.querySelector("use").setAttribute("href", "#i-edit");
  if (prompt.value === "") prompt.value = line.input;
}

function edit(input) {
  prompt.value = input;
  prompt.focus();
}

/** Words that were heard are shown in full ink, the rest waits in grey. */
function showHeard(line, heardChars) {
  line.heardChars = heardChars;
  line.element.querySelector(".heard").textContent = line.spoken.slice(0, heardChars);
  line.element.querySelector(".unheard").textContent = line.spoken.slice(heardChars);
}

/** Lines that a lost call can no longer finish. Those that still wait to be sent go out with the next connection. */
function endOpenLines() {
  for (const [id, line] of lines) {
    const { status } = line.element.dataset;
    const lost = status === "speaking" || status === "queued" || (status === "sent" && !["connecting", "reconnecting", "full"].includes(connection.state));
    if (lost) {
      setLine(line, "cancelled", status === "speaking" ? "Cut off" : "Not said");
      latency.done(id, "failed");
    }
  }
}

const on = {
  "session.created"(message) {
    limits = message.limits;
    document.documentElement.style.setProperty("--aspect", message.width / message.height);
    showMachine(message.notice);
  },
  "avatar.state"({ state, ready_in_ms }) {
    showAvatarState(state, ready_in_ms);
  },
  "response.created"(message) {
    const line = lines.get(message.response_id);
    if (!line) return;
    Object.assign(line, { number: ++numCreated, position: message.position });
    setWaiting(line);
  },
  "output_audio_buffer.started"(message, at) {
    const id = message.response_id;
    latency.started(id, at);
    $("captions").textContent = "";
    if (lines.has(id)) setLine(lines.get(id), "speaking");
  },
  "response.output_audio_transcript.delta"(message) {
    showCaption(message.text);
    const line = lines.get(message.response_id);
    if (!line) return;
    const word = message.text.trim();
    const at = line.spoken.toLowerCase().indexOf(word.toLowerCase(), line.heardChars);
    if (word && at >= 0) showHeard(line, at + word.length);
  },
  "response.done"(message) {
    const id = message.response_id;
    latency.done(id, message.status);
    const line = lines.get(id);
    if (line) setLine(line, message.status);
    if (line && REFUSED.includes(message.code)) refuse(line);
    for (const other of lines.values()) {
      if (!line || other.number < line.number || other.element.dataset.status !== "queued" || !other.position) continue;
      other.position -= 1;
      setWaiting(other);
    }
    if (message.status === "failed") showNotice(message.message || "That line could not be said.");
  },
  "session.updated"({ scene, voice }) {
    if (!$("who").contains(document.activeElement)) showWho({ scene, voice });
  },
  error(message) {
    showNotice(message.message || "The server could not do that.");
    const line = lines.get(message.response_id);
    if (line) setLine(line, "failed");
    if (line && REFUSED.includes(message.code)) refuse(line);
    if (line) latency.done(message.response_id, "failed");
  },
};

function onServer({ detail: { message, at } }) {
  on[message.type]?.(message, at);
}

/** A word as it is heard. There is room for two lines: a word that would begin a third one begins anew. */
function showCaption(text) {
  const captions = $("captions");
  const word = document.createElement("span");
  word.textContent = captions.lastChild ? ` ${text}` : text;
  captions.append(word);
  if (captions.scrollHeight > captions.clientHeight) {
    word.textContent = text;
    captions.replaceChildren(word);
  }
}

// ---- who speaks ---------------------------------------------------------------------------------------------------------------

let presets = { avatars: [], voices: [] };

async function loadPresets() {
  const response = await fetch("v1/avatars").catch(() => null);
  if (!response?.ok) return;
  presets = await response.json();
  fillSelect($("avatar"), presets.avatars.map(({ id, name }) => [id, name]));
  fillSelect($("voice"), presets.voices.map(({ name, voice }) => [voice, name]));
  const remembered = JSON.parse(recall("who") ?? "null");
  showWho(remembered ?? presets.avatars[0] ?? {});
  if (remembered) connection.choose(chosen());
}

async function loadMachine() {
  const response = await fetch("readyz").catch(() => null);
  if (response?.ok) showMachine((await response.json()).notice);
}

const titleOf = (text) => text.charAt(0).toUpperCase() + text.slice(1).replaceAll(/[-_]/g, " ");

function fillSelect(select, options) {
  select.replaceChildren(...options.map(([value, label]) => new Option(label, value)), new Option("In your words", CUSTOM));
}

function showWho({ scene = "", voice = "" }) {
  $("avatar").value = presets.avatars.find((preset) => preset.scene === scene)?.id ?? CUSTOM;
  $("scene").value = scene;
  $("voice").value = presets.voices.some((preset) => preset.voice === voice) ? voice : CUSTOM;
  $("voice-free").value = voice;
  showWhoNow();
}

function showWhoNow() {
  $("voice-free-field").hidden = $("voice").value !== CUSTOM;
  $("who-now").textContent = [$("avatar"), $("voice")].map((select) => select.selectedOptions[0]?.label).filter(Boolean).join(" · ");
}

/** A preset goes by its name, so that the very first picture is right; anything else by its words. */
function chosen() {
  const voice = $("voice").value === CUSTOM ? $("voice-free").value.trim() : $("voice").value;
  const scene = $("scene").value.trim();
  const look = $("avatar").value !== CUSTOM ? { avatar: $("avatar").value } : scene ? { scene } : {};
  return voice ? { ...look, voice } : look;
}

function tellWho() {
  showWhoNow();
  remember("who", JSON.stringify({ scene: $("scene").value.trim(), voice: chosen().voice }));
  connection.choose(chosen());
}

$("avatar").addEventListener("change", () => {
  const preset = presets.avatars.find(({ id }) => id === $("avatar").value);
  if (!preset) {
    showWhoNow();
    $("scene").focus();
    return;
  }
  showWho(preset);
  tellWho();
});
$("voice").addEventListener("change", () => {
  if ($("voice").value === CUSTOM) {
    showWhoNow();
    $("voice-free").focus();
  } else tellWho();
});
$("voice-free").addEventListener("change", tellWho);
$("scene").addEventListener("change", () => {
  $("avatar").value = presets.avatars.find(({ scene }) => scene === $("scene").value.trim())?.id ?? CUSTOM;
  tellWho();
});

// ---- what is seen and heard: latency and health ---------------------------------------------------------------------------------

let healthWanted = recall("health") === "shown";
let soundContext = null;
let soundMeter = null;

function watchFrames() {
  const mine = video.srcObject;
  const onFrame = (now, { expectedDisplayTime, receiveTime }) => {
    if (video.srcObject !== mine) return;
    // A connection that closes paints once more; that is no first picture.
    if (connection.state === "connected" && !("picture" in stage.dataset)) {
      stage.dataset.picture = "";
      delete stage.dataset.still;
      setTimeout(() => listenTo(mine)); // opening the sound meter takes a tenth of a second: after the first picture
    }
    for (const reply of latency.frame(expectedDisplayTime ?? now, receiveTime ?? now)) showLatency(reply);
    video.requestVideoFrameCallback(onFrame);
  };
  video.requestVideoFrameCallback(onFrame);
}

function listenTo(stream) {
  soundContext ??= new AudioContext({ latencyHint: "interactive" });
  soundContext.resume().catch(() => {});
  soundMeter?.source.disconnect();
  const source = soundContext.createMediaStreamSource(stream);
  const analyser = new AnalyserNode(soundContext, { fftSize: 1024 });
  source.connect(analyser);
  soundMeter = { source, analyser, samples: new Float32Array(analyser.fftSize) };
}

setInterval(() => {
  if (connection.state !== "connected" || !soundMeter) return;
  soundMeter.analyser.getFloatTimeDomainData(soundMeter.samples);
  let energy = 0;
  for (const sample of soundMeter.samples) energy += sample * sample;
  const rms = Math.sqrt(energy / soundMeter.samples.length);
  setLevel(Math.min(1, rms * 6));
  for (const reply of latency.sound(rms, performance.now())) showLatency(reply);
}, SOUND_PERIOD_MS);

let shownLevel = 0;
function setLevel(level) {
  const next = Math.round(Math.max(level, shownLevel * 0.8) * 20) / 20;
  if (next === shownLevel) return;
  shownLevel = next;
  stage.style.setProperty("--level", next);
}

function showLatency({ id, textToFrameMs, textToSoundMs }) {
  const words = (ms) => (ms === null ? "–" : `${(ms / 1000).toFixed(2)} s`);
  for (const [element, ms] of [[$("h-frame"), textToFrameMs], [$("h-sound"), textToSoundMs]]) {
    element.textContent = words(ms);
    element.toggleAttribute("data-slow", ms > SLOW_MS);
  }
  const line = lines.get(id);
  if (line && textToFrameMs !== null) line.element.querySelector(".line-time").textContent = `${words(textToFrameMs)} to the first word`;
}

async function readStats() {
  if (callStartedAt) $("clock").textContent = clockWords();
  const peer = connection.peer;
  if (!peer || connection.state !== "connected") return;
  const next = { at: performance.now(), rttMs: connection.rttMs };
  for (const entry of (await peer.getStats()).values()) {
    if (entry.type === "inbound-rtp") next[entry.kind] = entry;
    if (entry.type === "candidate-pair" && entry.nominated) next.pairRttMs = entry.currentRoundTripTime * 1000;
  }
  const since = (kind, field) => (next[kind]?.[field] ?? 0) - (stats[kind]?.id === next[kind]?.id ? (stats[kind]?.[field] ?? 0) : 0);
  const bufferMs = (kind) => (since(kind, "jitterBufferDelay") / since(kind, "jitterBufferEmittedCount")) * 1000;
  const packets = since("video", "packetsReceived") + since("audio", "packetsReceived");
  const lost = Math.max(0, since("video", "packetsLost") + since("audio", "packetsLost"));
  Object.assign(next, {
    fps: next.video?.framesPerSecond ?? null,
    bitrateKbps: ((since("video", "bytesReceived") + since("audio", "bytesReceived")) * 8) / (next.at - stats.at),
    lossPercent: packets ? (100 * lost) / (packets + lost) : 0,
    videoBufferMs: bufferMs("video"),
    audioBufferMs: bufferMs("audio"),
    jitterMs: Math.max(next.video?.jitter ?? 0, next.audio?.jitter ?? 0) * 1000,
  });
  stats = next;
  const ms = (value) => (Number.isFinite(value) ? `${Math.round(value)} ms` : "–");
  $("h-fps").textContent = next.fps ? `${Math.round(next.fps)} fps` : "–";
  $("h-size").textContent = next.fps ? ` · ${next.video.frameWidth}×${next.video.frameHeight}` : "";
  $("h-bitrate").textContent = Number.isFinite(next.bitrateKbps) ? `${Math.round(next.bitrateKbps)} kbit/s` : "–";
  $("h-buffer").textContent = `${Math.round(next.videoBufferMs) || "–"} · ${ms(next.audioBufferMs)}`;
  $("h-jitter").textContent = ms(next.jitterMs);
  $("h-loss").textContent = `${next.lossPercent.toFixed(1)} %`;
  $("h-rtt").textContent = ms(next.rttMs ?? next.pairRttMs);
}
setInterval(readStats, STATS_PERIOD_MS);

setInterval(() => {
  if (connection.state !== "connected" || !stats.video) return;
  const { call } = latency.report();
  const report = { first_frame_ms: call?.firstFrameMs, freezes: stats.video.freezeCount, jitter_ms: stats.jitterMs, rtt_ms: stats.rttMs };
  connection.report(Object.fromEntries(Object.entries(report).filter(([, value]) => value != null)));
}, REPORT_PERIOD_MS);

$("health-toggle").addEventListener("click", () => showHealth(!healthWanted));
function showHealth(wanted) {
  healthWanted = wanted;
  $("health").hidden = !wanted || connection.state !== "connected";
  $("health-toggle").setAttribute("aria-pressed", String(wanted));
  remember("health", wanted ? "shown" : "hidden");
}

/** For tests and benchmarks: everything that was measured, as plain values. */
window.avatarStats = () => ({
  state: connection.state,
  avatar: avatarState,
  soundRunning: soundContext?.state === "running",
  lastLoudAt: latency.lastLoudAt,
  ...latency.report(),
  video: stats.video && { fps: stats.fps, frames: stats.video.framesDecoded, dropped: stats.video.framesDropped, freezes: stats.video.freezeCount, bufferMs: stats.videoBufferMs },
  audio: stats.audio && { bufferMs: stats.audioBufferMs, concealedSamples: stats.audio.concealedSamples },
  bitrateKbps: stats.bitrateKbps ?? null,
  lossPercent: stats.lossPercent ?? null,
  jitterMs: stats.jitterMs ?? null,
  rttMs: connection.rttMs,
});

// ---- colours, and what is remembered ----------------------------------------------------------------------------------------------

const THEMES = ["auto", "light", "dark"];
const THEME_TITLES = { auto: "Colours: as the system says", light: "Colours: light", dark: "Colours: dark" };

function showTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  $("theme-name").textContent = titleOf(theme);
  $("theme").title = THEME_TITLES[theme];
  remember("theme", theme);
}
$("theme").addEventListener("click", () => {
  showTheme(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme ?? "auto") + 1) % THEMES.length]);
});

function remember(name, value) {
  try {
    localStorage.setItem(`avatar.${name}`, value);
  } catch {
    // storage may be forbidden; then nothing is remembered
  }
}

function recall(name) {
  try {
    return localStorage.getItem(`avatar.${name}`);
  } catch {
    return null;
  }
}

connection.addEventListener("status", onStatus);
connection.addEventListener("stream", onStream);
connection.addEventListener("server", onServer);

showTheme(THEMES.includes(recall("theme")) ? recall("theme") : "auto");
showHealth(healthWanted);
video.volume = Number(recall("volume") ?? 1);
$("volume").value = video.volume;
if (matchMedia("(max-width: 900px), (max-height: 480px)").matches) $("who").open = false;
loadPresets();
loadMachine();
