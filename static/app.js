/** The page: wires what is shown and pressed to the call, which is connection.js. */

import { Captions } from "./captions.js";
import { Composer } from "./composer.js";
import { AvatarConnection } from "./connection.js";
import { $ } from "./dom.js";
import { Health, secondsWords } from "./health.js";
import { foreignLanguageOf } from "./language.js";
import { Latency } from "./latency.js";
import { Microphone } from "./microphone.js";
import { Playback } from "./playback.js";
import { Presets } from "./presets.js";
import { Recording } from "./recording.js";
import { Sharing } from "./sharing.js";
import { CallState, durationWords } from "./state.js";
import { takeToken } from "./storage.js";
import { startTheme } from "./theme.js";
import { Transcript } from "./transcript.js";

const ENGLISH_ONLY = ["pocket"]; // models that read every text as English
const NOTICE_MS = 2000; // an end that is nearer needs no words: it is there
const AT_REST = ["idle", "ended", "failed"];

const address = new URLSearchParams(location.search); // ?session=ID joins a session; &watch only watches it
const token = takeToken();
const connection = new AvatarConnection("whep", { token, session: address.get("session"), watch: address.has("session") && address.has("watch") });
const latency = new Latency();
const callState = new CallState({ watching: connection.watching });
const captions = new Captions($("captions"));
const composer = new Composer({ say });
const transcript = new Transcript({ say: (input) => composer.say(input), edit: (input) => composer.edit(input), changed: showControls });
const presets = new Presets({ choose: (chosen) => connection.choose(chosen), showPoster: (url) => connection.watching || callState.showPoster(url) });
const health = new Health(connection, latency);
const sharing = new Sharing(connection, { tell: (text) => composer.notice(text, "info") });
const microphone = new Microphone(connection, { startCall: () => AT_REST.includes(connection.state) && startCall(), tell: (text) => composer.notice(text) });
const recording = new Recording(connection, { token, tell: (text, tone) => composer.notice(text, tone) });
const playback = new Playback({
  onFrame(shownAt, receivedAt) {
    if (callState.pictureCame()) setTimeout(() => playback.listen());
    latency.frame(shownAt, receivedAt).forEach(showLatency);
  },
  onSound(rms) {
    if (connection.state !== "connected") return;
    callState.level = Math.min(1, rms * 6);
    latency.sound(rms, performance.now()).forEach(showLatency);
  },
});
let hadSession = false; // in this call
let model = null;
let answers = false; // a language model answers what is typed; else it is said as it is

// ---- what is pressed --------------------------------------------------------------------------------------------------------

function startCall() {
  hadSession = false;
  connection.start();
}

function say(input, mode) {
  if (AT_REST.includes(connection.state)) startCall();
  playback.allowSound();
  const id = answers ? connection.ask(input, mode) : connection.say(input, mode);
  latency.sent(id, performance.now());
  transcript.add(id, input, { answered: answers });
  const language = !answers && ENGLISH_ONLY.includes(model) && foreignLanguageOf(input);
  if (language) composer.notice(`That looks like ${language}, and is read as if it were English.`, "info");
}

function showAnswers(llm) {
  answers = Boolean(llm);
  composer.showAnswers(answers);
  callState.showAnswers(answers);
}

function interrupt() {
  latency.cancelled(performance.now());
  connection.cancel();
  composer.focus();
}

function showControls() {
  $("interrupt").disabled = !["connected", "resuming"].includes(connection.state) || !transcript.busy;
}

function showLatency(reply) {
  health.showLatency(reply);
  if (reply.textToFrameMs !== null) transcript.showTime(reply.id, `${secondsWords(reply.textToFrameMs)} to the first word`);
}

$("call").addEventListener("click", () => (AT_REST.includes(connection.state) ? startCall() : connection.stop()));
$("hangup").addEventListener("click", () => connection.stop());
$("interrupt").addEventListener("click", interrupt);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !$("interrupt").disabled) interrupt();
});

// ---- what comes from the call -------------------------------------------------------------------------------------------------

const SENDING = { full: "Waiting for a seat", waiting: "Waiting for a seat", resuming: "Waiting for the connection" };

connection.addEventListener("status", ({ detail: status }) => {
  const { state, reason } = status;
  const focus = document.activeElement;
  callState.show(status);
  transcript.showSending(reason === "full" || state === "resuming" ? SENDING[state] : undefined);
  if (state === "connecting") latency.callStarted(performance.now()); // again after a wait: a call is not slow because there is a line
  if (state === "connected") {
    latency.callOpen(performance.now());
    composer.notice("");
    if (focus === $("call")) composer.focus();
  } else if (state !== "resuming") {
    const keepSent = ["connecting", "waiting", "reconnecting", "full"].includes(state);
    for (const id of transcript.endOpen({ keepSent })) latency.done(id, "failed");
  }
  if (["ended", "failed"].includes(state)) {
    captions.clear();
    playback.clear();
    if ($("bar").contains(focus) || focus === document.body || focus === $("call")) $("call").focus({ preventScroll: true });
  }
  showControls();
});

connection.addEventListener("stream", ({ detail: { stream } }) => playback.show(stream));

const on = {
  "session.created"(message) {
    if (hadSession && !message.resumed) composer.notice("The conversation begins anew: the one before was lost with its connection.", "info");
    hadSession = true;
    model = message.model;
    showAnswers(message.llm);
    microphone.allow(message.listens);
    composer.maxChars = message.limits.max_prompt_chars;
    document.documentElement.style.setProperty("--aspect", message.width / message.height);
    callState.showMachine(message.notice);
    sharing.allow(message);
    recording.allow(message);
    if (message.may_speak === false) callState.becomeWatching();
    $("stage").dataset.session = message.session_id;
  },
  "session.updated": (message) => presets.update(message),
  "avatar.state"({ state, ready_in_ms }) {
    callState.showAvatar(state, ready_in_ms);
  },
  "session.closing"({ in_ms: inMs }) {
    if (inMs > NOTICE_MS) composer.notice(`The server is going to restart. This call can go on for about ${durationWords(inMs)}.`, "info");
  },
  "output.started": (message) => recording.runs(message),
  "output.updated": (message) => recording.runs(message),
  "output.ended": (message) => recording.ended(message),
  "input_audio_buffer.speech_started"(message) {
    microphone.heard("hearing");
    transcript.listen(message);
  },
  "input_audio_buffer.speech_stopped": () => microphone.heard("thinking"),
  "conversation.item.input_audio_transcription.updated": (message) => transcript.listen(message),
  "conversation.item.input_audio_transcription.completed"(message) {
    microphone.heard("listening");
    transcript.understood(message);
  },
  "conversation.item.input_audio_transcription.failed"(message) {
    microphone.heard("listening");
    composer.notice(message.message);
    transcript.understood({ ...message, text: "" });
  },
  "conversation.item.added": (message) => transcript.asked(message),
  "response.created": (message) => transcript.created(message),
  "output_audio_buffer.cleared": () => playback.hush(),
  "output_audio_buffer.started"(message, at) {
    playback.unhush();
    latency.started(message.response_id, at);
    captions.clear();
    transcript.started(message);
  },
  "response.output_audio_transcript.delta"(message) {
    captions.add(message.text);
    transcript.heard(message);
  },
  "response.done"(message) {
    latency.done(message.response_id, message.status);
    captions.end();
    transcript.done(message);
    if (message.status === "failed") composer.notice(message.message || "That line could not be said.");
  },
  error(message) {
    composer.notice(message.message || "The server could not do that.");
    transcript.failed(message);
    if (message.response_id) latency.done(message.response_id, "failed");
  },
};

connection.addEventListener("server", ({ detail: { message, at } }) => on[message.type]?.(message, at));

// ---- beginning ------------------------------------------------------------------------------------------------------------------

/** JSON of this server; null where it gives none. */
async function load(path) {
  const response = await fetch(path, { headers: token ? { Authorization: `Bearer ${token}` } : {} }).catch(() => null);
  return response?.ok ? response.json() : null;
}

/** For tests and benchmarks: everything that was measured, as plain values. */
window.avatarStats = () => ({
  state: connection.state,
  avatar: callState.avatar,
  session: connection.session,
  numResumed: connection.numResumed,
  soundRunning: playback.soundRunning,
  lastLoudAt: latency.lastLoudAt,
  ...latency.report(),
  ...health.report(),
});

startTheme();
if (matchMedia("(max-width: 900px), (max-height: 715px)").matches) $("who").open = false; // where it would push what is said away
presets.load(load);
load("readyz").then((ready) => callState.showMachine(ready?.notice));
load("v1/models").then((served) => (showAnswers(served?.llm), microphone.allow(served?.listens)));
addEventListener("hashchange", () => location.reload()); // a link with another token, opened in this tab
