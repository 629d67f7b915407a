"""A deterministic model for tests, demos and load: pictures that can be read back and sounds at known times.

Each frame carries its number twice, as digits for people and as 24 black and white cells for ``read_counter``. Once a second, on
every frame whose number is a multiple of the frame rate, a patch flashes white for one frame and a beep sounds in the same 40 ms
of audio, so that the skew between the two can be measured wherever they come out. A spoken word is a tone of its own, and the
mouth follows it; the background is a colour that belongs to the scene. The voice changes nothing.
"""

from __future__ import annotations

import functools
import math
import os
import re
import time
import unicodedata
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from model.chunk import AVChunk, Mark, StreamInfo, StreamSettings
from model.errors import PromptError, UnspeakableTextError
from model.text.prompt import MAX_PROMPT_CHARS

SIZE_PX = 256
FPS = 25
SAMPLE_RATE_HZ = 24_000
CHUNK_FRAMES = 8
FRAME_SAMPLES = SAMPLE_RATE_HZ // FPS

INFO = StreamInfo(
    model="fake",
    width_px=SIZE_PX,
    height_px=SIZE_PX,
    fps=FPS,
    sample_rate_hz=SAMPLE_RATE_HZ,
    chunk_frames=CHUNK_FRAMES,
    chunk_samples=CHUNK_FRAMES * FRAME_SAMPLES,
)

STAGES = ("dit", "dit", "vae", "audio")
"""The steps of a chunk, which is a block."""

FLASH_EVERY_FRAMES = FPS
BEEP_HZ = 2000.0
BEEP_AMPLITUDE = 12_000
SPEECH_AMPLITUDE = 8_000
SYLLABLE_SAMPLES = SAMPLE_RATE_HZ * 120 // 1000
LEAD_SAMPLES = SAMPLE_RATE_HZ * 40 // 1000
WORD_GAP_SAMPLES = SAMPLE_RATE_HZ * 40 // 1000
REPLY_GAP_SAMPLES = SAMPLE_RATE_HZ * 200 // 1000

BLACK, WHITE = 16, 235
NUM_COUNTER_BITS, NUM_CHECK_BITS = 20, 4
CELL_PX = 10
COUNTER_LEFT_PX, COUNTER_TOP_PX, COUNTER_HEIGHT_PX = 8, 232, 16
FLASH_LEFT_PX, FLASH_TOP_PX, FLASH_WIDTH_PX, FLASH_HEIGHT_PX = 184, 8, 64, 48
MOUTH_X_PX, MOUTH_Y_PX, MOUTH_HALF_WIDTH_PX, MOUTH_MAX_HALF_HEIGHT_PX = 128, 172, 24, 14
DIGIT_SCALE_PX = 4
# Three columns by five rows a digit, row by row.
DIGIT_ROWS = (
    (7, 5, 5, 5, 7),
    (2, 6, 2, 2, 7),
    (7, 1, 7, 4, 7),
    (7, 1, 7, 1, 7),
    (5, 5, 7, 1, 1),
    (7, 4, 7, 1, 7),
    (7, 4, 7, 5, 7),
    (7, 1, 1, 1, 1),
    (7, 5, 7, 5, 7),
    (7, 5, 7, 1, 7),
)


@dataclass(frozen=True)
class FakeOptions:
    """What goes wrong, and when.

    Attributes:
        rtf: seconds of sleep a second of media: a slow model.
        flash_and_beep: whether the patch flashes and the beep sounds. Without them silence is silent.
        crash_on_text, hang_on_text: the chunk after a line that holds this text ends the process, or never ends.
        crash_after_chunks: each stream ends the process instead of making a further chunk.
    """

    rtf: float = 0.0
    flash_and_beep: bool = True
    crash_on_text: str | None = None
    hang_on_text: str | None = None
    crash_after_chunks: int | None = None


@dataclass(frozen=True)
class _Sound:
    """A word, or the silence before one (``tone_hz`` 0)."""

    reply_id: str
    num_samples: int
    tone_hz: float = 0.0
    text: str = ""
    is_first: bool = False
    is_last: bool = False


class FakeModel:
    """Implements ``model.stream.Model``."""

    info = INFO
    warm_up_chunks = 2

    def __init__(self, options: FakeOptions | None = None) -> None:
        self._options = options or FakeOptions()

    def open(self, settings: StreamSettings) -> FakeStream:
        return FakeStream(settings, self._options)


def load_fake(options: FakeOptions, on_progress: Callable[[str], None]) -> FakeModel:
    """A loader for ``avatar_rtc.engine.process_engine.ProcessEngine``."""
    on_progress("making pictures and sounds without a network")
    return FakeModel(options)


class FakeStream:
    """Implements ``model.stream.Stream``. The same calls at the same steps give the same chunks, bit for bit."""

    def __init__(self, settings: StreamSettings, options: FakeOptions) -> None:
        self._settings = settings
        self._options = options
        self._sounds: deque[_Sound] = deque()
        self._done_samples = 0
        self._open_reply_id: str | None = None
        self._index = 0
        self._num_steps = 0
        self._chunk: AVChunk | None = None
        self._fate = ""

    @property
    def stage(self) -> str:
        return STAGES[self._num_steps]

    def push(self, reply_id: str, text: str, *, last: bool = True) -> float:
        words, num_samples = _words(text), -WORD_GAP_SAMPLES
        for index, word in enumerate(words):
            is_first = index == 0 and reply_id != self._open_reply_id
            gap_samples = (REPLY_GAP_SAMPLES if self._sounds else LEAD_SAMPLES) if is_first else WORD_GAP_SAMPLES
            self._sounds.append(_Sound(reply_id, gap_samples))
            sound = _Sound(reply_id, SYLLABLE_SAMPLES * _num_syllables(word), word_tone_hz(word), word, is_first)
            self._sounds.append(replace(sound, is_last=last and index == len(words) - 1))
            num_samples += WORD_GAP_SAMPLES + sound.num_samples
        self._open_reply_id = None if last else reply_id
        self._fate += text
        return num_samples / SAMPLE_RATE_HZ

    def update(self, settings: StreamSettings) -> None:
        self._settings = settings

    def cancel(self) -> None:
        self._sounds.clear()
        self._done_samples = 0
        self._open_reply_id = None
        self._num_steps = 0
        self._chunk = None
        self._fate = ""

    @property
    def due_s(self) -> float:
        return math.inf

    def work(self) -> None:
        pass

    def step(self, deadline_s: float | None = None) -> AVChunk | None:
        if self._num_steps == 0:
            self._meet_fate()
            # What a block holds is settled when it begins, as in a real model.
            self._chunk = self._compose()
        if self._options.rtf:
            time.sleep(self._options.rtf * INFO.chunk_duration_s / len(STAGES))
        self._num_steps += 1
        if self._num_steps < len(STAGES):
            return None
        chunk, self._chunk = self._chunk, None
        self._num_steps = 0
        self._index += 1
        return chunk

    def close(self) -> None:
        self.cancel()

    def _meet_fate(self) -> None:
        options = self._options
        if self._index == options.crash_after_chunks or (options.crash_on_text and options.crash_on_text in self._fate):
            os._exit(70)
        while options.hang_on_text and options.hang_on_text in self._fate:
            time.sleep(1)

    def _compose(self) -> AVChunk:
        voice, marks, is_speaking = self._speak()
        openings = np.abs(voice).reshape(CHUNK_FRAMES, FRAME_SAMPLES).mean(axis=1) / (SPEECH_AMPLITUDE / 2)
        first_frame = self._index * CHUNK_FRAMES
        frames = np.repeat(_portrait(self._settings.scene)[None], CHUNK_FRAMES, axis=0)
        for offset, frame in enumerate(frames):
            number = first_frame + offset
            is_flash = self._options.flash_and_beep and number % FLASH_EVERY_FRAMES == 0
            _draw(frame, number, float(min(openings[offset], 1.0)), is_flash=is_flash)
            if is_flash:
                voice[offset * FRAME_SAMPLES : (offset + 1) * FRAME_SAMPLES] += _beep()
        return AVChunk(
            index=self._index,
            frames=frames,
            samples=np.clip(voice, -32768, 32767).astype(np.int16),
            fps=FPS,
            sample_rate_hz=SAMPLE_RATE_HZ,
            speaking=is_speaking,
            marks=tuple(marks),
        )

    def _speak(self) -> tuple[np.ndarray, list[Mark], bool]:
        """The next chunk of what is to be said: float samples [S], marks, and whether it holds anything of a reply."""
        samples = np.zeros(INFO.chunk_samples)
        marks: list[Mark] = []
        is_speaking = bool(self._sounds)
        at = 0
        while at < len(samples) and self._sounds:
            sound = self._sounds[0]
            num_samples = min(len(samples) - at, sound.num_samples - self._done_samples)
            if sound.tone_hz:
                if self._done_samples == 0:
                    if sound.is_first:
                        marks.append(Mark(sound.reply_id, "start", at, at))
                    marks.append(Mark(sound.reply_id, "word", at, at + sound.num_samples, sound.text))
                samples[at : at + num_samples] = _tone(sound.tone_hz, self._done_samples, num_samples)
            at += num_samples
            self._done_samples += num_samples
            if self._done_samples == sound.num_samples:
                self._sounds.popleft()
                self._done_samples = 0
                if sound.is_last:
                    marks.append(Mark(sound.reply_id, "end", at, at))
        return samples, marks, is_speaking


def _words(text: str) -> list[str]:
    """The words of a line, each with its punctuation. Raises as ``Stream.push``."""
    if len(text) > MAX_PROMPT_CHARS:
        raise PromptError(f"the line has {len(text)} characters, and {MAX_PROMPT_CHARS} are the most: send it in several pieces")
    for letter in text:
        if letter.isalpha() and not unicodedata.name(letter, "").startswith("LATIN"):
            raise UnspeakableTextError(f"{letter!r} has no pronunciation here: write the line in English, with Latin letters")
    words = [word for word in text.split() if any(letter.isalnum() for letter in word)]
    if not words:
        raise UnspeakableTextError("there is nothing to say in an empty line: write at least one word")
    return words


def _num_syllables(word: str) -> int:
    return max(1, len(re.findall(r"[aeiouy]+|\d", word.lower())))


def word_tone_hz(word: str) -> float:
    """The tone that a word is spoken with: one of 25 between 200 and 680 Hz, 20 Hz apart."""
    bare = "".join(letter for letter in word.lower() if letter.isalnum())
    return 200.0 + 20.0 * (zlib.crc32(bare.encode()) % 25)


def _tone(tone_hz: float, first_sample: int, num_samples: int) -> np.ndarray:
    """A piece of a word's sound: a tone that swells and fades with each syllable."""
    at = np.arange(first_sample, first_sample + num_samples)
    envelope = np.sin(np.pi * (at % SYLLABLE_SAMPLES + 0.5) / SYLLABLE_SAMPLES)
    return SPEECH_AMPLITUDE * envelope * np.sin(2 * np.pi * tone_hz * at / SAMPLE_RATE_HZ)


def _beep() -> np.ndarray:
    return BEEP_AMPLITUDE * np.sin(2 * np.pi * BEEP_HZ * np.arange(FRAME_SAMPLES) / SAMPLE_RATE_HZ)


# Pictures. A frame is I420, uint8 [H * 3 / 2, W]: H rows of luma, then both chroma planes, which are written once a portrait.


@functools.lru_cache(maxsize=16)
def _portrait(scene: str) -> np.ndarray:
    """Background and head, without what changes from frame to frame."""
    colour = zlib.crc32(scene.encode())
    frame = np.empty((SIZE_PX * 3 // 2, SIZE_PX), np.uint8)
    y, x = np.mgrid[:SIZE_PX, :SIZE_PX]
    is_head = ((x - 128) / 62) ** 2 + ((y - 132) / 80) ** 2 < 1
    is_hair = ((x - 128) / 70) ** 2 + ((y - 118) / 84) ** 2 < 1
    is_body = ((x - 128) / 110) ** 2 + ((y - 256) / 50) ** 2 < 1
    luma = np.full((SIZE_PX, SIZE_PX), 120, np.uint8)
    luma[is_body] = 70
    luma[is_hair] = 50
    luma[is_head] = 180
    for eye_x in (104, 152):
        luma[((x - eye_x) / 10) ** 2 + ((y - 116) / 6) ** 2 < 1] = 225
        luma[(x - eye_x) ** 2 + (y - 116) ** 2 < 20] = 30
    luma[COUNTER_TOP_PX - 4 :] = 90
    frame[:SIZE_PX] = luma
    chroma = frame[SIZE_PX:].reshape(2, SIZE_PX // 2, SIZE_PX // 2)
    chroma[0], chroma[1] = 88 + colour % 80, 88 + colour // 80 % 80
    head = (is_head | is_hair)[::2, ::2]
    chroma[0][head], chroma[1][head] = 112, 146
    return frame


def _draw(frame: np.ndarray, number: int, opening: float, *, is_flash: bool) -> None:
    """Write what changes into a frame, in place."""
    half_height_px = 1 + round(opening * (MOUTH_MAX_HALF_HEIGHT_PX - 1))
    y, x = np.mgrid[-half_height_px : half_height_px + 1, -MOUTH_HALF_WIDTH_PX : MOUTH_HALF_WIDTH_PX + 1]
    mouth = frame[
        MOUTH_Y_PX - half_height_px : MOUTH_Y_PX + half_height_px + 1,
        MOUTH_X_PX - MOUTH_HALF_WIDTH_PX : MOUTH_X_PX + MOUTH_HALF_WIDTH_PX + 1,
    ]
    mouth[(x / MOUTH_HALF_WIDTH_PX) ** 2 + (y / (half_height_px + 0.5)) ** 2 < 1] = 40
    for cell, bit in enumerate(_counter_bits(number)):
        left_px = COUNTER_LEFT_PX + cell * CELL_PX
        frame[COUNTER_TOP_PX : COUNTER_TOP_PX + COUNTER_HEIGHT_PX, left_px : left_px + CELL_PX] = WHITE if bit else BLACK
    for place, digit in enumerate(f"{number % 1_000_000:06d}"):
        rows = np.array([[row >> 2 & 1, row >> 1 & 1, row & 1] for row in DIGIT_ROWS[int(digit)]], np.uint8)
        pixels = np.kron(rows, np.ones((DIGIT_SCALE_PX, DIGIT_SCALE_PX), np.uint8))
        left_px = 8 + place * 4 * DIGIT_SCALE_PX
        frame[8 : 8 + pixels.shape[0], left_px : left_px + pixels.shape[1]][pixels == 1] = WHITE
    frame[FLASH_TOP_PX : FLASH_TOP_PX + FLASH_HEIGHT_PX, FLASH_LEFT_PX : FLASH_LEFT_PX + FLASH_WIDTH_PX] = (
        WHITE if is_flash else BLACK
    )


def _counter_bits(number: int) -> Iterator[bool]:
    """Most significant first: the number, then the inverted sum of its nibbles, so that neither black nor white is a number."""
    number %= 1 << NUM_COUNTER_BITS
    check = sum(number >> shift & 15 for shift in range(0, NUM_COUNTER_BITS, 4)) & 15 ^ 15
    code = number << NUM_CHECK_BITS | check
    for shift in reversed(range(NUM_COUNTER_BITS + NUM_CHECK_BITS)):
        yield bool(code >> shift & 1)


# Reading back, from whatever came out at the far end.


def _mean(luma: np.ndarray, left_px: float, top_px: float, width_px: float, height_px: float) -> float:
    """Mean of the inner half of a rectangle given at the original size, in a picture of any size."""
    height, width = luma.shape
    x, y = width / SIZE_PX, height / SIZE_PX
    part = luma[
        round((top_px + height_px / 4) * y) : max(
            round((top_px + height_px * 3 / 4) * y), round((top_px + height_px / 4) * y) + 1
        ),
        round((left_px + width_px / 4) * x) : max(
            round((left_px + width_px * 3 / 4) * x), round((left_px + width_px / 4) * x) + 1
        ),
    ]
    return float(part.mean())


def read_counter(luma: np.ndarray) -> int | None:
    """The number of a frame, modulo 2**20, from its brightness [H, W] at any size; None where it cannot be read."""
    code = 0
    for cell in range(NUM_COUNTER_BITS + NUM_CHECK_BITS):
        brightness = _mean(luma, COUNTER_LEFT_PX + cell * CELL_PX, COUNTER_TOP_PX, CELL_PX, COUNTER_HEIGHT_PX)
        code = code << 1 | (brightness > (BLACK + WHITE) / 2)
    number = code >> NUM_CHECK_BITS
    expected = 0
    for bit in _counter_bits(number):
        expected = expected << 1 | bit
    return number if code == expected else None


def read_flash(luma: np.ndarray) -> bool:
    """Whether the patch is white, from the brightness [H, W] of a frame at any size."""
    return _mean(luma, FLASH_LEFT_PX, FLASH_TOP_PX, FLASH_WIDTH_PX, FLASH_HEIGHT_PX) > (BLACK + WHITE) / 2


def read_mouth(luma: np.ndarray) -> bool:
    """Whether the mouth is open, from the brightness [H, W] of a frame at any size: the spot below closed lips is dark then."""
    return _mean(luma, MOUTH_X_PX - 6, MOUTH_Y_PX + 3, 12, 4) < 110


def read_beeps(samples: np.ndarray, sample_rate_hz: int) -> list[float]:
    """When beeps begin, in seconds from the first of these samples [S], to about a millisecond."""
    loudness = _loudness(samples, sample_rate_hz, BEEP_HZ, window_s=0.005)
    is_loud = loudness > BEEP_AMPLITUDE / 4
    onsets = np.flatnonzero(is_loud & ~np.concatenate([[False], is_loud[:-1]])) / sample_rate_hz
    beeps: list[float] = []
    for onset_s in onsets:
        if not beeps or onset_s - beeps[-1] > 0.2:
            beeps.append(float(onset_s))
    return beeps


def read_tone_hz(samples: np.ndarray, sample_rate_hz: int) -> float | None:
    """The word tone that is the loudest in these samples [S], at least some 50 ms; None in silence, beeps not counted."""
    tones_hz = [200.0 + 20.0 * step for step in range(25)]
    phase = 2j * np.pi * np.arange(len(samples)) / sample_rate_hz
    strengths = [abs(np.mean(samples * np.exp(-phase * tone_hz))) for tone_hz in tones_hz]
    best = int(np.argmax(strengths))
    return tones_hz[best] if strengths[best] > SPEECH_AMPLITUDE / 40 else None


def _loudness(samples: np.ndarray, sample_rate_hz: int, tone_hz: float, window_s: float) -> np.ndarray:
    """Amplitude of one tone over time [S], in a window round each sample."""
    turned = samples * np.exp(-2j * np.pi * tone_hz * np.arange(len(samples)) / sample_rate_hz)
    num_window = max(1, round(window_s * sample_rate_hz))
    return np.asarray(2 * np.abs(np.convolve(turned, np.ones(num_window) / num_window, mode="same")))
