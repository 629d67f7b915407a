"""How well it listens: what is recognised, how soon it answers, how soon it falls silent, and whether it hears itself.

    python -m benchmarks.listen                      # words, answers and interruptions
    python -m benchmarks.listen echo --minutes 10

Callers speak with the voices of flite (apt-get install flite). ``words``: each of ``questions.txt`` is recognised on this
machine, in three voices in turn. ``answers`` and ``interruptions``: in Chromium, whose microphone plays a recording; a
stand-in for a language model answers at 20 words a second, and pocket speaks. An audio worklet of the page measures how loud
microphone and avatar are, on one clock. ``echo``: a headless client sends what it hears of pocket back, 20 dB softer and 0.2
s later, while pocket speaks all the time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
from playwright.sync_api import Page

from avatar_rtc import resources
from avatar_rtc.client import Call
from avatar_rtc.ears.whisper import LocalWhisper
from avatar_rtc.microphone import SAMPLE_RATE_HZ, Microphone
from benchmarks import machine, measurements
from benchmarks.figures import percentile
from model.evaluation.film import read_sound
from model.evaluation.speech import misheard, words
from signaling.vocabulary import SpeechStarted
from testkit.browser import call, microphone_flags, open_browser, run_server
from testkit.chat_server import ChatServer, Stream, chat_server
from testkit.threads import in_a_thread

QUESTIONS = Path(__file__).with_name("questions.txt")
VOICES = ("slt", "rms", "awb")
WORDS_PER_S = 20
LEAD_S = 3.0
"""The recording begins with so much silence: a browser's microphone takes a moment."""
ANSWER_GAP_S, TALK_S, CUT_GAP_S = 8.0, 5.0, 6.0
ANSWER = "It is a fine question. I think that the answer is yes."
LONG_ANSWER = "This is a long story, and it goes on for a while, because there is so much to be said about it. " * 3
INTERRUPTION, SHORT_ANSWER = "Excuse me, stop there, please.", "All right."
ECHO_DB, ECHO_DELAY_S = -20.0, 0.2
LOUD = 0.02
"""Root mean square of 8 ms, of 1, from which on the avatar is heard."""
BETWEEN_TURNS_S = 2.0
PAUSE_S = 0.6
"""Silence between words is shorter."""
BLOCK_S = 128 / SAMPLE_RATE_HZ

METER = """() => {
  const context = new AudioContext({ sampleRate: 16000 });
  const source = `registerProcessor("meter", class extends AudioWorkletProcessor {
    process(inputs) {
      const rms = ([samples]) => samples ? Math.sqrt(samples.reduce((sum, x) => sum + x * x, 0) / samples.length) : 0;
      this.port.postMessage(inputs.map(rms));
      return true;
    }
  })`;
  const meter = (window.meter = { levels: [] });
  const ready = context.audioWorklet.addModule(URL.createObjectURL(new Blob([source], { type: "text/javascript" }))).then(() => {
    meter.node = new AudioWorkletNode(context, "meter", { numberOfInputs: 2 });
    meter.node.port.onmessage = ({ data }) => meter.levels.push(data);
    meter.node.connect(context.destination);
  });
  const listen = (stream, input) => ready.then(() => context.createMediaStreamSource(stream).connect(meter.node, 0, input));
  const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
  navigator.mediaDevices.getUserMedia = async (wanted) => {
    const stream = await open(wanted);
    listen(stream, 0);
    return stream;
  };
  listen(document.querySelector("video").srcObject, 1);
}"""


def spoken(text: str, voice: str) -> np.ndarray:
    """A line in a voice of flite's, float32 [S] at 16 kHz, from its first sound to its last."""
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        subprocess.run(["flite", "-voice", voice, "-t", text, "-o", file.name], check=True)
        samples = read_sound(Path(file.name))
    loud = np.flatnonzero(np.abs(samples) > 0.02 * np.abs(samples).max())
    return np.asarray(samples[loud[0] : loud[-1] + 1])


def silence(length_s: float) -> np.ndarray:
    return np.zeros(round(length_s * SAMPLE_RATE_HZ), np.float32)


def write_wav(path: Path, samples: np.ndarray) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE_HZ)
        file.writeframes((samples * 32767).astype("<i2").tobytes())


# ---- words ----


def measure_words(count: int) -> dict[str, Any]:
    """What whisper hears of the questions, and what it costs. The machine should have nothing else to do."""
    recogniser = LocalWhisper("en")
    questions = QUESTIONS.read_text().splitlines()[:count]
    lines, took_s, cores_s, length_s, wrong = [], [], 0.0, 0.0, 0
    for index, question in enumerate(questions):
        samples = spoken(question, VOICES[index % len(VOICES)])
        begun_s, begun_cores_s = time.monotonic(), time.process_time()
        heard = recogniser.transcribe(samples)
        took_s.append(time.monotonic() - begun_s)
        cores_s += time.process_time() - begun_cores_s
        length_s += len(samples) / SAMPLE_RATE_HZ
        errors = sum(misheard(words(question), words(heard)))
        wrong += errors
        lines.append({"said": question, "heard": heard, "errors": errors})
        print(f"{errors:2} wrong: {question} | {heard}", file=sys.stderr)
    asyncio.run(recogniser.close())
    num_words = sum(len(words(question)) for question in questions)
    return {
        "questions": len(questions),
        "wrong": wrong / num_words,
        "took_ms_p50": percentile(took_s, 0.5) * 1000,
        "took_ms_p95": percentile(took_s, 0.95) * 1000,
        "core_s_a_second": cores_s / length_s,
        "lines": lines,
    }


# ---- in Chromium ----


@asynccontextmanager
async def language_model() -> AsyncIterator[ChatServer]:
    async def answer(stream: Stream) -> None:
        last = server.requests[-1]["messages"][-1]["content"].lower()
        text = SHORT_ANSWER if "stop" in last or "excuse" in last else LONG_ANSWER if "story" in last else ANSWER
        await stream.say(text, words_per_s=WORDS_PER_S)

    async with chat_server() as server:
        server.then(answer)
        yield server


def played(script: Sequence[np.ndarray], num_turns: int) -> tuple[np.ndarray, list[tuple[float, float]], dict[str, Any], int]:
    """How loud microphone and avatar were, [T, 2] a block of 8 ms; when turns began and ended; counters; answers asked for."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "microphone.wav"
        samples = np.concatenate([silence(LEAD_S), *script])
        write_wav(path, samples)
        with in_a_thread(language_model()) as model, open_browser(*microphone_flags(path)) as browser:
            model_config = {"base_url": model.base_url, "model": "m"}
            with run_server("pocket", llm=model_config, listen={"recognizer": "local"}) as server:
                page = browser.new_context(bypass_csp=True).new_page()
                page.goto(server.url)
                call(page)
                page.evaluate(METER)
                page.get_by_role("button", name="Talk").click()
                wait(page, len(samples) / SAMPLE_RATE_HZ)
                levels = np.array([[*level, 0.0, 0.0][:2] for level in page.evaluate("window.meter.levels")])
                session = page.locator("#stage").get_attribute("data-session")
                counters: dict[str, Any] = page.request.get(f"{server.url}/v1/sessions/{session}/stats").json()
            num_requests = len(model.requests)
    return levels, turns_of(levels[:, 0], num_turns), counters, num_requests


def turns_of(levels: np.ndarray, count: int) -> list[tuple[float, float]]:
    """First and last sound of each turn that a microphone of these levels has heard, in seconds.

    On a busy machine Chromium plays a recording with gaps, so the recording's own times do not count.

    Raises:
        SystemExit: there are more or fewer.
    """
    loud = np.flatnonzero(levels > 0.05 * levels.max()) * BLOCK_S
    first = np.flatnonzero(np.diff(loud, prepend=-np.inf) > BETWEEN_TURNS_S)
    turns = [(float(part[0]), float(part[-1])) for part in np.split(loud, first[1:])]
    if len(turns) != count:
        raise SystemExit(f"the page's microphone has played {len(turns)} of {count} turns: the machine is too busy to measure")
    return turns


def wait(page: Page, length_s: float) -> None:
    """Until the recording is over, with word of how far it is."""
    end_s = time.monotonic() + length_s + 1
    while (left_s := end_s - time.monotonic()) > 0:
        print(f"\r{left_s:4.0f} s left ", end="", file=sys.stderr, flush=True)
        page.wait_for_timeout(min(5.0, left_s) * 1000)
    print(file=sys.stderr)


def avatar_loud(levels: np.ndarray, from_s: float, to_s: float) -> np.ndarray:
    """When the avatar was heard between two moments, in seconds."""
    first, last = round(from_s / BLOCK_S), round(to_s / BLOCK_S)
    return np.asarray(from_s + np.flatnonzero(levels[first:last, 1] > LOUD) * BLOCK_S)


def measure_answers(count: int) -> dict[str, Any]:
    """End of a question to the first voice of its answer."""
    questions = [q for q in QUESTIONS.read_text().splitlines() if "story" not in q][:count]
    turns_said = [spoken(question, VOICES[index % len(VOICES)]) for index, question in enumerate(questions)]
    script = [piece for said in turns_said for piece in (said, silence(ANSWER_GAP_S))]
    levels, turns, counters, num_requests = played(script, count)
    waits_s = []
    for _, end_s in turns:
        heard = avatar_loud(levels, end_s, end_s + ANSWER_GAP_S)
        if len(heard):
            waits_s.append(float(heard[0] - end_s))
    return {"asked": count, "requests": num_requests, "underruns": counters["underruns"], **spread(waits_s)}


def measure_interruptions(count: int) -> dict[str, Any]:
    """First 0.2 s of somebody's voice to the avatar's silence."""
    question, interruption = spoken("Can you tell me a story about a small dog?", "slt"), spoken(INTERRUPTION, "rms")
    script = [question, silence(TALK_S), interruption, silence(CUT_GAP_S)] * count
    levels, turns, counters, _ = played(script, 2 * count)
    waits_s, spoke = [], 0
    for start_s, _ in turns[1::2]:
        before = avatar_loud(levels, start_s - PAUSE_S, start_s)
        if not len(before):
            continue  # it did not speak
        spoke += 1
        heard = [float(before[-1]), *avatar_loud(levels, start_s, start_s + CUT_GAP_S)]
        last = next((a for a, b in zip(heard, [*heard[1:], float("inf")], strict=True) if b - a > PAUSE_S), heard[-1])
        waits_s.append(last - start_s - 0.2)
    return {"asked": count, "spoke": spoke, "underruns": counters["underruns"], **spread(waits_s)}


def spread(waits_s: list[float]) -> dict[str, Any]:
    waits_ms = [wait_s * 1000 for wait_s in waits_s]
    print(" ".join(f"{wait_ms:.0f}" for wait_ms in waits_ms), "ms", file=sys.stderr)
    shares = {"p50": percentile(waits_ms, 0.5), "p95": percentile(waits_ms, 0.95), "max": max(waits_ms)} if waits_ms else {}
    return {"count": len(waits_ms), **shares}


# ---- echo ----


def echo_into(microphone: Microphone) -> Callable[[av.AudioFrame], None]:
    """What plays each frame that it is given into a microphone, as a speaker beside it does: ``ECHO_DELAY_S`` later.

    Not later each time that frames come late: of those that come all at once it leaves out what would wait twice as long.
    """
    resampler = av.AudioResampler("flt", "mono", SAMPLE_RATE_HZ)

    def play(frame: av.AudioFrame) -> None:
        if not microphone.pending_s:
            microphone.put(silence(ECHO_DELAY_S))
        for piece in resampler.resample(frame):
            if microphone.pending_s < 2 * ECHO_DELAY_S:
                microphone.put(piece.to_ndarray()[0] * 10 ** (ECHO_DB / 20))

    return play


async def hear_itself(url: str, minutes: float) -> dict[str, Any]:
    """A call on open speakers, in which pocket speaks all the time."""
    microphone = Microphone()
    client = Call(url, microphone=microphone)
    client.on_sound = echo_into(microphone)
    sentences = Path(__file__).with_name("sentences.txt").read_text().splitlines()
    end_s, num_lines, heard_ms, cut = time.monotonic() + minutes * 60, 0, 0, 0
    try:
        await client.connect()
        while time.monotonic() < end_s:
            line = await client.speak(sentences[num_lines % len(sentences)])
            num_lines, heard_ms, cut = num_lines + 1, heard_ms + line.heard_ms, cut + (line.status != "completed")
            print(f"\r{num_lines} lines, {len(client.received(SpeechStarted))} turns ", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        turns = len(client.received(SpeechStarted))
        return {"minutes": minutes, "lines": num_lines, "spoken_s": round(heard_ms / 1000), "cut": cut, "turns": turns}
    finally:
        await client.close()


def measure_echo(minutes: float) -> dict[str, Any]:
    with run_server("pocket", listen={"recognizer": "local"}) as server:
        return asyncio.run(hear_itself(server.url, minutes))


def in_words(result: dict[str, Any]) -> list[str]:
    """Rows of the table."""
    rows = []
    if (part := result.get("words")) is not None:
        rows.append(f"words wrong, of {part['questions']} questions: {part['wrong']:.1%}   (bar: 10 %)")
        rows.append(f"a question takes {part['took_ms_p50']:.0f} ms (p95 {part['took_ms_p95']:.0f} ms)")
        rows.append(f"a second of speech takes {part['core_s_a_second']:.2f} s of one core, recognised once")
    for name, what, bar in (
        ("answers", "end of the question to first voice", "p50 1500, p95 2500"),
        ("interruptions", "0.2 s of voice to silence", "p95 400"),
    ):
        if (part := result.get(name)) is not None and part["count"]:
            figures = f"p50 {part['p50']:.0f} ms, p95 {part['p95']:.0f} ms, max {part['max']:.0f} ms"
            rows.append(f"{what}: {figures}   (bar: {bar}; {part['count']} of {part['asked']}, {part['underruns']} underruns)")
    if (part := result.get("echo")) is not None:
        heard = f"{part['turns']} turns heard, {part['cut']} lines cut"
        rows.append(f"its own voice, {part['spoken_s']} s of it in {part['minutes']:g} min: {heard}   (bar: none)")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("words", "answers", "interruptions", "echo")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(parts)} (default: the first three)")
    parser.add_argument("--count", type=int, default=20, help="answers, and interruptions (default: 20)")
    parser.add_argument("--minutes", type=float, default=10.0, help="of echo (default: 10)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="put the figures into this file of measurements")
    options = parser.parse_args()
    if shutil.which("flite") is None:
        parser.error("there is no flite on this machine: apt-get install flite")
    if unknown := set(options.parts) - set(parts):
        parser.error(f"there is no part {', '.join(sorted(unknown))}: take some of {', '.join(parts)}")
    measures = {
        "words": lambda: measure_words(1000),
        "answers": lambda: measure_answers(options.count),
        "interruptions": lambda: measure_interruptions(options.count),
        "echo": lambda: measure_echo(options.minutes),
    }
    described = machine.describe(resources.num_cores())
    result = {part: measures[part]() for part in options.parts or parts[:3]}
    print(machine.headline(described))
    print("\n".join(in_words(result)))
    print(json.dumps({name: {key: value for key, value in part.items() if key != "lines"} for name, part in result.items()}))
    if options.out:
        measurements.keep(options.out, "listen", {"machine": described, **result})


if __name__ == "__main__":
    main()
