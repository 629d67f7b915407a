"""Stage 4: how long each phoneme lasts, learned anew from many more sentences than were ever rendered.

    python -m model.training.durations --checkpoint model/weights/pocket --corpus corpus --minutes 6

The joint stage learns durations too, but from the sentences of its clips alone, hundreds of times over: it knows those by heart.
A duration costs a teacher milliseconds, a clip seconds, so this stage asks the teachers about thousands of sentences. It replaces
nothing but ``TextEncoder.durations``; phoneme and caption encoders stay as the transformer knows them.

With ``--kokoro-model`` and ``--kokoro-voices`` Kokoro's voices are asked too; without, they have the sentences of their
corpora, which are fewer, and spoken at slightly varied speeds.
Sentences for choosing the best weights are split off by their text; held-out sentences are never seen, neither here nor there.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from model.checkpoint import Weights, read_weights
from model.data.captions import caption
from model.data.face import Look
from model.data.sentences import WORDNET_DIR, is_held_out, training_sentences
from model.data.speech import HIBARI_VOICE, VOICES, DurationTeacher
from model.errors import UnspeakableTextError
from model.text.encoder import DURATION_UNIT_S, DurationPredictor
from model.text.g2p import pronounce
from model.text.phonemes import IDS, PAUSE_ID
from model.training.loop import Averaged, Piece, adamw, export, set_learning_rate

CAPTIONS_PER_VOICE = 96
PATIENCE = 10
"""Validations without a gain after which training ends."""


@dataclass(frozen=True)
class Example:
    """A sentence in one voice: its durations in the teachers' unit, one a phoneme, without the pauses at its ends."""

    voice: str
    phonemes: str
    units: np.ndarray


_teacher: DurationTeacher | None = None


def _start(model: Path | None, voices: Path | None) -> None:
    global _teacher
    _teacher = DurationTeacher(model, voices)


def _ask(job: tuple[str, str]) -> Example:
    assert _teacher is not None
    return Example(*job, _teacher(*job)[1:-1])


def ask_teachers(jobs: Sequence[tuple[str, str]], workers: int, model: Path | None, voices: Path | None) -> list[Example]:
    """The teachers' durations of (voice, phonemes), in order."""
    with multiprocessing.get_context("spawn").Pool(workers, _start, (model, voices)) as pool:
        return pool.map(_ask, jobs, chunksize=64)


def phonemes_of(texts: Sequence[str]) -> list[str]:
    """Each text's sentences as the service pronounces them, without repetition."""
    found: dict[str, None] = {}
    for text in texts:
        try:
            found.update((sentence.phonemes, None) for sentence in pronounce(text))
        except UnspeakableTextError:
            continue
    return list(found)


def read_corpora(directory: Path) -> list[Example]:
    """What the indices of the Kokoro corpora say; their sound is not needed."""
    examples = []
    for part in sorted(directory.glob("*.jsonl")):
        for line in part.read_text(encoding="utf-8").splitlines():
            voice, text, phonemes, units = json.loads(line)
            if not is_held_out(text):
                examples.append(Example(voice, phonemes, np.asarray(units[1:-1], np.int16)))
    return examples


def voice_summaries(weights: Weights, voice: str, rng: np.random.Generator) -> Tensor:
    """[CAPTIONS_PER_VOICE, D]: what captions of random looks of the voice's gender, with its descriptions, come to on average."""
    speaker = VOICES[voice]
    captions = [
        weights.tokenizer(caption(Look.sample(rng, speaker.gender), rng), str(rng.choice(speaker.descriptions)))
        for _ in range(CAPTIONS_PER_VOICE)
    ]
    with torch.no_grad():
        return weights.text.caption(torch.from_numpy(np.stack(captions))).mean(1)


class Batches:
    """Examples as tensors; what the frozen encoders make of them is computed once.

    Batches hold sentences of about the same length. Phonemes stand between two pauses, as in the service.
    """

    def __init__(
        self, weights: Weights, examples: Sequence[Example], contexts: dict[str, Tensor], summaries: dict[str, Tensor]
    ) -> None:
        self.examples, self._contexts, self._summaries = examples, contexts, summaries
        for phonemes in {e.phonemes for e in examples} - contexts.keys():
            contexts[phonemes] = encode(weights, phonemes).half()

    def get(self, indices: Sequence[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Context [B, S, D], a random caption of each voice [B, 1, D], units [B, S] and where they count [B, S]."""
        chosen = [self.examples[i] for i in indices]
        context = pad_sequence([self._contexts[e.phonemes].float() for e in chosen], batch_first=True)
        units = pad_sequence([F.pad(torch.from_numpy(e.units).float(), (1, 1), value=-1) for e in chosen], True, -1)
        captions = [self._summaries[e.voice][int(torch.randint(CAPTIONS_PER_VOICE, ()))] for e in chosen]
        return context, torch.stack(captions).unsqueeze(1), units.clamp(min=0), units >= 0

    def epoch(self, size: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Every example once: indices of batches, in random order."""
        lengths = np.asarray([len(e.units) for e in self.examples])
        order = np.argsort(lengths + rng.uniform(0, 6, len(lengths)))
        batches = [order[i : i + size] for i in range(0, len(order), size)]
        return [batches[i] for i in rng.permutation(len(batches))]


@torch.no_grad()
def encode(weights: Weights, phonemes: str) -> Tensor:
    """[len(phonemes) + 2, D], between two pauses."""
    ids = torch.tensor([[PAUSE_ID, *(IDS[p] for p in phonemes), PAUSE_ID]])
    return weights.text.phonemes.context(ids, torch.ones_like(ids, dtype=torch.bool))[0]


def loss(predictor: DurationPredictor, batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
    """As in the joint stage."""
    context, summary, units, counts = batch
    error = F.smooth_l1_loss(predictor(context, summary), torch.log1p(units), reduction="none", beta=0.2)
    return (error * counts).sum() / counts.sum()


@torch.no_grad()
def validate(predictor: DurationPredictor, batches: Batches, size: int) -> dict[str, tuple[float, float]]:
    """For each voice: mean absolute error in milliseconds a phoneme, and predicted total length over true length."""
    sums: dict[str, np.ndarray] = {}
    for indices in batches.epoch(size, np.random.default_rng(0)):
        context, summary, units, counts = batches.get(indices.tolist())
        predicted = ((torch.exp(predictor(context, summary)) - 1).clamp(0.3, 40)) * counts
        for i, index in enumerate(indices):
            row = torch.stack(((predicted[i] - units[i]).abs().sum(), counts[i].sum(), predicted[i].sum(), units[i].sum()))
            voice = batches.examples[index].voice
            sums[voice] = sums.get(voice, np.zeros(4)) + row.numpy()
    return {v: (1000 * DURATION_UNIT_S * e / n, p / t) for v, (e, n, p, t) in sorted(sums.items())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="its text.safetensors is replaced")
    parser.add_argument("--corpus", type=Path, default=Path("corpus"), help="directory of *.jsonl, read without --kokoro-model")
    parser.add_argument("--minutes", type=float, required=True, help="of training at most, after the teachers are asked")
    parser.add_argument("--sentences", type=int, default=12_000, help="asked of hibari")
    parser.add_argument("--kokoro-model", type=Path, help="Kokoro's ONNX file")
    parser.add_argument("--kokoro-voices", type=Path, help="directory of <voice>.bin")
    parser.add_argument("--kokoro-sentences", type=int, default=2_000, help="asked of Kokoro, for each of its voices")
    parser.add_argument("--wordnet", type=Path, default=WORDNET_DIR)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    if (args.kokoro_model is None) != (args.kokoro_voices is None):
        parser.error("--kokoro-model and --kokoro-voices go together")
    started_s = time.monotonic()
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    weights = read_weights(args.checkpoint)
    spoken = phonemes_of(training_sentences(args.sentences, args.seed, directory=args.wordnet))
    jobs = [(HIBARI_VOICE, p) for p in spoken]
    if args.kokoro_model:
        others = [v for v in VOICES if v != HIBARI_VOICE]
        jobs += [(v, p) for i, v in enumerate(others) for p in spoken[i :: len(others)][: args.kokoro_sentences]]
    examples = ask_teachers(jobs, args.workers, args.kokoro_model, args.kokoro_voices)
    if not args.kokoro_model:
        examples += read_corpora(args.corpus)
    voices = sorted({e.voice for e in examples})
    print(
        f"{ {v: sum(e.voice == v for e in examples) for v in voices} } sentences, {time.monotonic() - started_s:.0f} s",
        flush=True,
    )
    summaries = {v: voice_summaries(weights, v, rng) for v in voices}
    # By their phonemes, so that no voice trains on what another is judged by.
    texts = sorted({e.phonemes for e in examples})
    kept = {texts[i] for i in rng.permutation(len(texts))[: len(texts) // 12]}
    contexts: dict[str, Tensor] = {}
    training = Batches(weights, [e for e in examples if e.phonemes not in kept], contexts, summaries)
    validation = Batches(weights, [e for e in examples if e.phonemes in kept], contexts, summaries)
    print(f"{len(training.examples)} to learn from, {len(validation.examples)} to judge by", flush=True)

    predictor = DurationPredictor(weights.config.text)
    averaged = Averaged(predictor, 0.998)
    optimizer = adamw(list(predictor.parameters()), (0.9, 0.98), 0.02)
    piece = Piece(args.minutes, cooldown=0.6, warmup_steps=200)
    best, best_error, since_best = copy.deepcopy(predictor), float("inf"), 0
    epoch: list[np.ndarray] = []
    losses: list[float] = []
    for number in piece:
        epoch = epoch or training.epoch(args.batch, rng)
        set_learning_rate(optimizer, piece.learning_rate(args.learning_rate))
        value = loss(predictor, training.get(epoch.pop().tolist()))
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(predictor.parameters(), 1.0)
        optimizer.step()
        averaged.update(predictor, number)
        losses.append(float(value.detach()))
        if not epoch:
            judged = validate(averaged.module, validation, args.batch)
            error = float(np.mean([ms for ms, _ in judged.values()]))
            since_best = 0 if error < best_error else since_best + 1
            if error < best_error:
                best, best_error = copy.deepcopy(averaged.module), error
            piece.report({"loss": float(np.mean(losses)), "error_ms": error, **{v: ms for v, (ms, _) in judged.items()}})
            losses.clear()
            if since_best >= PATIENCE:
                break
    for voice, (error_ms, ratio) in validate(best, validation, args.batch).items():
        print(f"{voice}: {error_ms:.2f} ms a phoneme, {ratio:.3f} of the true length")
    weights.text.durations.load_state_dict(best.state_dict())
    export(args.checkpoint / "text.safetensors", weights.text)


if __name__ == "__main__":
    main()
