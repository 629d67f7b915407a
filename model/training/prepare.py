"""Stage 0: make everything that pocket learns from, on this machine, from packages that install by name.

    python -m model.training.prepare --data /dev/shm/pocket --clips 5000 --sentences 6000 \
        --kokoro kokoro.onnx --voices voices --kokoro-sentences 3000

speaks sentences with hibari's voice and, on GPUs, with Kokoro's (see model.data.speech for where both are to be had; speech made
beforehand is taken with ``--corpus``), composes clips and renders them. A few clips come first, with hibari's speech under every
voice's name, so that both women and men are seen: the video VAE learns from their pictures while the other voices still speak.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import multiprocessing.queues
import os
import pickle
import time
from pathlib import Path

import numpy as np

from model.data.clips import make_clips
from model.data.sentences import WORDNET_DIR, training_sentences
from model.data.speech import KOKORO_VOICES, SAMPLE_RATE_HZ, VOICES, Corpus, HibariTeacher, KokoroTeacher, Utterance
from model.training.clips import wait_for

_teacher: HibariTeacher | None = None
_kokoro: KokoroTeacher | None = None
_front_end: object = None


def _start() -> None:
    global _teacher, _front_end
    from hibari import Hibari

    _teacher, _front_end = HibariTeacher(), Hibari()


def _start_kokoro(model: Path, voices: Path, places: multiprocessing.queues.Queue[str]) -> None:
    global _kokoro, _front_end
    import hibari
    import torch

    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False  # phases are sums of many small steps
    vocabulary = Path(hibari.__file__).parent / "assets" / "vocab.json"
    _kokoro = KokoroTeacher(model, voices, vocabulary, device=torch.device(places.get()))
    _front_end = hibari.Hibari()


def _speak_kokoro(job: tuple[str, str, float]) -> list[Utterance]:
    voice, sentence, speed = job
    assert _kokoro is not None
    parts = _front_end.phonemize(sentence)  # type: ignore[attr-defined]
    return [_kokoro.speak(voice, sentence, phonemes, speed=speed) for phonemes in parts]


def speak_kokoro(
    sentences: list[str], model: Path, voices: Path, *, devices: list[str], processes: int, seed: int
) -> list[Utterance]:
    """Speak ``sentences`` with Kokoro's voices in turns, a number of processes sharing each of some devices; in order."""
    speeds = np.random.default_rng(seed).uniform(0.92, 1.06, len(sentences)).tolist()
    names = KOKORO_VOICES
    jobs = [(names[i % len(names)], sentence, speed) for i, (sentence, speed) in enumerate(zip(sentences, speeds, strict=True))]
    context = multiprocessing.get_context("spawn")
    places = context.Queue()
    for i in range(processes * len(devices)):
        places.put(devices[i % len(devices)])
    with context.Pool(processes * len(devices), _start_kokoro, (model, voices, places)) as pool:
        spoken: list[Utterance] = []
        started_s = time.monotonic()
        for i, several in enumerate(pool.imap(_speak_kokoro, jobs, chunksize=8)):
            spoken += [u for u in several if len(u.phonemes) > 1]
            if i % 1000 == 999:
                seconds = sum(len(u.samples) for u in spoken) / SAMPLE_RATE_HZ
                print(
                    f"Kokoro: {i + 1} of {len(jobs)} sentences, {seconds / (time.monotonic() - started_s):.0f} times real time",
                    flush=True,
                )
    return spoken


def _speak(job: tuple[str, float]) -> list[Utterance]:
    sentence, speed = job
    assert _teacher is not None
    return [_teacher.speak(sentence, phonemes, speed=speed) for phonemes in _front_end.phonemize(sentence)]  # type: ignore[attr-defined]


def speak_all(sentences: list[str], workers: int, seed: int) -> list[Utterance]:
    """Speak sentences with hibari at slightly different speeds; in order, whatever the number of workers."""
    speeds = np.random.default_rng(seed).uniform(0.92, 1.06, len(sentences))
    with multiprocessing.get_context("spawn").Pool(workers, _start) as pool:
        spoken = pool.imap(_speak, zip(sentences, speeds.tolist(), strict=True), chunksize=32)
        return [u for several in spoken for u in several if len(u.phonemes) > 1]


LEVEL_DB = -25.0


def levelled(utterances: list[Utterance]) -> list[Utterance]:
    """Every voice at ``LEVEL_DB`` below full scale on average: the teachers' differ by 7 dB, and callers would notice."""
    power: dict[str, list[float]] = {}
    for u in utterances:
        power.setdefault(u.voice, []).append(float(np.square(u.samples.astype(np.float32) / 32768).mean()))
    gain = {voice: 10 ** (LEVEL_DB / 20) / float(np.mean(values)) ** 0.5 for voice, values in power.items()}
    return [
        dataclasses.replace(u, samples=(u.samples * gain[u.voice]).round().clip(-32768, 32767).astype(np.int16))
        for u in utterances
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--clip-frames", type=int, default=256, help="length of a clip, 25 a second")
    parser.add_argument("--first-clips", type=int, default=240, help="for the video VAE, of half that length")
    parser.add_argument("--sentences", type=int, default=4000, help="spoken by hibari")
    parser.add_argument(
        "--corpus", type=Path, default=Path("corpus"), help="directory of *.opus and *.jsonl parts, made beforehand"
    )
    parser.add_argument("--kokoro", type=Path, metavar="ONNX", help="Kokoro's model, to speak with it here")
    parser.add_argument("--voices", type=Path, help="directory of Kokoro's <voice>.bin")
    parser.add_argument("--kokoro-sentences", type=int, default=3000, help="spoken by all of Kokoro's voices together")
    parser.add_argument("--kokoro-devices", nargs="+", default=["cuda"], metavar="DEVICE")
    parser.add_argument("--kokoro-processes", type=int, default=4, help="a device")
    parser.add_argument("--wordnet", type=Path, default=WORDNET_DIR)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    if args.kokoro is not None and args.voices is None:
        parser.error("--kokoro needs --voices, the directory of its voices")
    started_s = time.monotonic()
    args.data.mkdir(parents=True, exist_ok=True)
    utterances = speak_all(training_sentences(args.sentences, args.seed, directory=args.wordnet), args.workers, args.seed)
    print(f"{len(utterances)} utterances of hibari, {time.monotonic() - started_s:.0f} s", flush=True)
    names = list(VOICES)
    anybody = [dataclasses.replace(u, voice=names[i % len(names)]) for i, u in enumerate(utterances)]
    first_frames = args.clip_frames // 8 * 4  # whole latents
    make_clips(args.data / "first", anybody, args.first_clips, args.seed + 1, num_frames=first_frames, workers=args.workers)
    (args.data / "first" / "done").touch()
    print(f"first: {args.first_clips} clips, {time.monotonic() - started_s:.0f} s", flush=True)
    if args.kokoro is not None:
        sentences = training_sentences(args.kokoro_sentences, args.seed + 1, directory=args.wordnet)
        utterances += speak_kokoro(
            sentences,
            wait_for(args.kokoro),
            args.voices,
            devices=args.kokoro_devices,
            processes=args.kokoro_processes,
            seed=args.seed,
        )
    parts = sorted(args.corpus.glob("*.jsonl"))
    with multiprocessing.get_context("spawn").Pool(min(args.workers, max(1, len(parts)))) as pool:
        for part in pool.imap(_read, parts):
            utterances += part
    utterances = levelled(utterances)
    voices = sorted({u.voice for u in utterances})
    hours = {v: round(sum(len(u.samples) for u in utterances if u.voice == v) / SAMPLE_RATE_HZ / 3600, 2) for v in voices}
    temporary = args.data / "utterances.tmp"
    temporary.write_bytes(pickle.dumps(utterances))
    os.replace(temporary, args.data / "utterances.pkl")
    print(f"{len(utterances)} utterances, hours: {hours}, {time.monotonic() - started_s:.0f} s", flush=True)
    make_clips(args.data / "clips", utterances, args.clips, args.seed, num_frames=args.clip_frames, workers=args.workers)
    (args.data / "clips" / "done").touch()
    print(f"clips: {args.clips}, {time.monotonic() - started_s:.0f} s", flush=True)


def _read(path: Path) -> list[Utterance]:
    return list(Corpus.read(path))


if __name__ == "__main__":
    main()
