"""How long each phoneme lasts, learned anew from many more sentences than were ever rendered.

The transformer's stage learns durations too, but from the sentences of its clips alone, hundreds of times over: it knows those by
heart. A duration costs a teacher milliseconds, a clip seconds, so this stage asks the teachers about thousands of sentences. It
learns nothing but ``TextEncoder.durations``; phoneme and caption encoders stay as the transformer knows them.

Sentences to judge by are split off by their phonemes, so that no voice learns what another is judged by; held-out sentences are
never seen, neither here nor there.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from model.data.captions import caption, vocabulary
from model.data.face import Look
from model.data.sentences import WORDNET_DIR, is_held_out, training_sentences
from model.data.speech import HIBARI_VOICE, KOKORO_VOICES, VOICES, DurationTeacher
from model.errors import TrainingError, UnspeakableTextError
from model.text.encoder import DURATION_UNIT_S, TextEncoder
from model.text.g2p import pronounce
from model.text.phonemes import IDS, PAUSE_ID
from model.text.tokenizer import CaptionTokenizer
from model.training.config import DurationsStage
from model.training.optimizers import Learner
from model.training.stage import Drawn, Loss, Stage

CAPTIONS_PER_VOICE = 96
PREDICTOR = "predictor"
_JUDGED_AT_ONCE = 64


@dataclass(frozen=True)
class Example:
    """A sentence in one voice: its durations in the teachers' unit, one a phoneme, without the pauses at its ends."""

    voice: str
    phonemes: str
    units: tuple[int, ...]


class Durations(Stage):
    """See the module's text.

    Args:
        text: whose predictor learns, where it will.
        max_words: of a caption.
        seed: of which captions voices have, and of what is judged by.
    """

    def __init__(
        self,
        config: DurationsStage,
        text: TextEncoder,
        max_words: int,
        examples: Sequence[Example],
        seed: int,
        device: torch.device,
    ) -> None:
        self._text, self._device = text, device
        self.nets = {PREDICTOR: text.durations}
        rng = np.random.default_rng(seed)
        sentences = sorted({e.phonemes for e in examples})
        kept = {sentences[i] for i in rng.permutation(len(sentences))[: max(1, round(len(sentences) * config.validation_share))]}
        self._learned = [e for e in examples if e.phonemes not in kept]
        self._judged = [e for e in examples if e.phonemes in kept]
        if not self._learned:
            raise TrainingError(f"{config.examples}: {len(examples)} examples are too few to learn from and to judge by")
        self.num_samples = len(self._learned)
        tokenizer = CaptionTokenizer(vocabulary(), max_words)
        self._summaries = {v: self._summaries_of(v, tokenizer, rng) for v in sorted({e.voice for e in examples})}
        self._contexts = {phonemes: self._context(phonemes) for phonemes in sentences}

    @torch.no_grad()
    def _summaries_of(self, voice: str, tokenizer: CaptionTokenizer, rng: np.random.Generator) -> Tensor:
        """[CAPTIONS_PER_VOICE, D]: what captions of random looks of the voice's gender, with its descriptions, come to on
        average."""
        speaker = VOICES[voice]
        captions = [
            tokenizer(caption(Look.sample(rng, speaker.gender), rng), str(rng.choice(speaker.descriptions)))
            for _ in range(CAPTIONS_PER_VOICE)
        ]
        return self._text.caption(torch.from_numpy(np.stack(captions)).to(self._device)).mean(1)

    @torch.no_grad()
    def _context(self, phonemes: str) -> Tensor:
        """[len(phonemes) + 2, D], between two pauses, as in the service."""
        ids = torch.tensor([[PAUSE_ID, *(IDS[p] for p in phonemes), PAUSE_ID]], device=self._device)
        return self._text.phonemes.context(ids, torch.ones_like(ids, dtype=torch.bool))[0].half()

    def draw(self, learner: str, update: int, samples: Sequence[int], dice: Sequence[torch.Generator]) -> Drawn:
        captions = [int(torch.randint(CAPTIONS_PER_VOICE, (), generator=one, device=one.device)) for one in dice]
        return self._batch([self._learned[i] for i in samples], captions)

    def _batch(self, examples: Sequence[Example], captions: Sequence[int]) -> Drawn:
        """Context [B, S, D], a caption of each voice [B, 1, D], units [B, S] and where they count [B, S]."""
        units = [F.pad(torch.tensor(e.units, dtype=torch.float32), (1, 1), value=-1) for e in examples]
        padded = pad_sequence(units, batch_first=True, padding_value=-1).to(self._device)
        summaries = torch.stack([self._summaries[e.voice][i] for e, i in zip(examples, captions, strict=True)])
        context = pad_sequence([self._contexts[e.phonemes].float() for e in examples], batch_first=True)
        return Drawn({"context": context, "summary": summaries.unsqueeze(1), "units": padded.clamp(min=0), "counts": padded >= 0})

    def loss(self, learner: str, drawn: Drawn) -> Loss:
        """As in the transformer's stage."""
        context, summary, units, counts = (drawn.tensors[name] for name in ("context", "summary", "units", "counts"))
        predicted = self._text.durations(context, summary)
        error = F.smooth_l1_loss(predicted, torch.log1p(units), reduction="none", beta=0.2)
        return Loss((error * counts).sum() / counts.sum(), {})

    def measure(self, learners: Mapping[str, Learner]) -> dict[str, float]:
        """Of the averaged weights, of each voice: mean absolute error in milliseconds a phoneme, and predicted total length over
        true length."""
        sums: dict[str, np.ndarray] = {}
        with learners[PREDICTOR].averaged(), torch.no_grad():
            for first in range(0, len(self._judged), _JUDGED_AT_ONCE):
                examples = self._judged[first : first + _JUDGED_AT_ONCE]
                drawn = self._batch(examples, [(first + i) % CAPTIONS_PER_VOICE for i in range(len(examples))])
                context, summary, units, counts = (drawn.tensors[name] for name in ("context", "summary", "units", "counts"))
                predicted = ((torch.exp(self._text.durations(context, summary)) - 1).clamp(0.3, 40)) * counts
                rows = torch.stack(((predicted - units).abs().sum(1), counts.sum(1), predicted.sum(1), units.sum(1)), dim=1)
                for example, row in zip(examples, rows.cpu().double().numpy(), strict=True):
                    sums[example.voice] = sums.get(example.voice, np.zeros(4)) + row
        figures = {}
        for voice, (error, num, predicted_sum, true_sum) in sorted(sums.items()):
            figures[f"{voice} ms a phoneme"] = 1000 * DURATION_UNIT_S * error / num
            figures[f"{voice} length share"] = predicted_sum / true_sum
        return figures


# Examples


def open_examples(config: DurationsStage, seed: int) -> list[Example]:
    """What the teachers said; asked first if there is no file."""
    if not config.examples.is_file():
        write_examples(config.examples, ask_teachers(config, seed))
    try:
        lines = [json.loads(line) for line in config.examples.read_text(encoding="utf-8").splitlines()]
        return [Example(voice, phonemes, tuple(units)) for voice, phonemes, units in lines]
    except (ValueError, TypeError) as error:
        raise TrainingError(f"{config.examples} is damaged ({error}): remove it, and the teachers are asked again") from None


def write_examples(path: Path, examples: Sequence[Example]) -> None:
    """One line of JSON each, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps([e.voice, e.phonemes, e.units], ensure_ascii=False) for e in examples)
    part = path.with_suffix(".part")
    part.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(part, path)


def ask_teachers(config: DurationsStage, seed: int) -> list[Example]:
    """hibari about many sentences; Kokoro about some, or what the corpora's indices say of its voices."""
    spoken = phonemes_of(training_sentences(config.sentences, seed, directory=WORDNET_DIR))
    jobs = [(HIBARI_VOICE, p) for p in spoken]
    if config.kokoro_model is not None:
        others = KOKORO_VOICES
        jobs += [(v, p) for i, v in enumerate(others) for p in spoken[i :: len(others)][: config.kokoro_sentences]]
    teachers = config.kokoro_model, config.kokoro_voices
    with multiprocessing.get_context("spawn").Pool(os.cpu_count() or 1, _start, teachers) as pool:
        examples = pool.map(_ask, jobs, chunksize=64)
    if config.corpus is not None:
        asked = {voice for voice, _ in jobs}
        examples += [example for example in read_corpora(config.corpus) if example.voice not in asked]
    return examples


_teacher: DurationTeacher | None = None


def _start(model: Path | None, voices: Path | None) -> None:
    global _teacher
    _teacher = DurationTeacher(model, voices)


def _ask(job: tuple[str, str]) -> Example:
    assert _teacher is not None
    return Example(*job, tuple(_teacher(*job)[1:-1].tolist()))


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
                examples.append(Example(voice, phonemes, tuple(units[1:-1])))
    return examples
