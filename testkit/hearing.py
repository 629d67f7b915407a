"""What is heard of the fake model's voice, in which each word is a tone of its own."""

from __future__ import annotations

from itertools import groupby

import av
import numpy as np
from playwright.sync_api import Page

from avatar_rtc.client import Call
from avatar_rtc.fake import read_tone_hz, word_tone_hz

WORDS = "alpha charlie delta echo foxtrot hotel juliett kilo lima mike november papa"
"""Each has another tone."""
WINDOW_S = 0.05
LEAST_WINDOWS = 3
"""A word lasts 240 ms at least. What is shorter is a piece of one at the edge of a cut, or what a receiver made up over a gap."""
LOUD = 1000
"""Of 32767; what is less loud is a gap between words."""

PAGE_HZ = 8000
LISTEN = """() => {
    // What comes out of each connection, as whole numbers, 8000 a second.
    window.heard = [];
    const worklet = `registerProcessor("ear", class extends AudioWorkletProcessor {
        kept = [];
        at = 0;
        process([[samples]]) {
            for (let i = 0; samples && i < samples.length; i++, this.at++)
                if (this.at % 6 === 0) this.kept.push(Math.round(samples[i] * 32767));
            if (this.kept.length >= 800) this.port.postMessage(this.kept.splice(0));
            return true;
        }
    });`;
    let opened;
    async function open() {
        const audio = new AudioContext({ sampleRate: 48000 });
        await audio.resume();
        await audio.audioWorklet.addModule(URL.createObjectURL(new Blob([worklet], { type: "text/javascript" })));
        return audio;
    }
    async function listen(stream) {
        const audio = await (opened ??= open());
        const samples = [];
        window.heard.push(samples);
        const ear = new AudioWorkletNode(audio, "ear");
        ear.port.onmessage = ({ data }) => samples.push(...data);
        audio.createMediaStreamSource(stream).connect(ear).connect(audio.destination);
    }
    const Peer = window.RTCPeerConnection;
    window.RTCPeerConnection = class extends Peer {
        constructor(...given) {
            super(...given);
            this.addEventListener("track", ({ track, streams }) => track.kind === "audio" && listen(streams[0]));
        }
    };
}"""
"""To be run in a page before it begins."""


class Ear:
    """Keeps what a call hears from now on, 48 kHz, mono: each packet at the place that its time stamp says."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._packets: list[tuple[int, np.ndarray]] = []
        call.on_sound = self._hear

    def _hear(self, frame: av.AudioFrame) -> None:
        assert frame.pts is not None
        self._packets.append((frame.pts, frame.to_ndarray().reshape(-1, 2)[:, 0].copy()))

    @property
    def start_s(self) -> float:
        """Media time of the first sample, by the sender reports."""
        return (self._call.audio.ntp_at_zero_s or 0.0) + self._packets[0][0] / 48_000

    @property
    def samples(self) -> np.ndarray:
        """int16 [S]; what was lost on the way is silent."""
        if not self._packets:
            return np.empty(0, np.int16)
        start = self._packets[0][0]
        samples = np.zeros(max(pts + len(sound) for pts, sound in self._packets) - start, np.int16)
        for pts, sound in self._packets:
            samples[pts - start : pts - start + len(sound)] = sound
        return samples


def words_heard(*recordings: np.ndarray, sample_rate_hz: int) -> list[str]:
    """The words of ``WORDS`` that are heard in recordings [S], in turn; one that goes on in the next one counts once."""
    by_hz = {word_tone_hz(word): word for word in WORDS.split()}
    size = round(WINDOW_S * sample_rate_hz)
    windows = [window for samples in recordings for window in samples[: len(samples) // size * size].reshape(-1, size)]
    tones = [read_tone_hz(window.astype(float), sample_rate_hz) for window in windows if np.abs(window).max() > LOUD]
    found = [word for word, alike in groupby(by_hz[hz] for hz in tones if hz in by_hz) if len(list(alike)) >= LEAST_WINDOWS]
    return [word for word, _ in groupby(found)]


def words_heard_in(page: Page) -> list[str]:
    """Those that came out of a page in which ``LISTEN`` was run, over all of its connections."""
    return words_heard(*(np.array(samples, np.int16) for samples in page.evaluate("window.heard")), sample_rate_hz=PAGE_HZ)
