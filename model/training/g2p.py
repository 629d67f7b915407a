"""Makes the data of the text front end: ``python -m model.training.g2p lexicon | letters``.

``lexicon`` repacks the word list and the tagger's weights of the package ``hibari-tts`` (see model/text/data/README.md) into the
plain, small files that ``model.text`` reads. ``letters`` trains the net that reads words that no lexicon knows: each letter is
classified into the phonemes it stands for ('x' -> 'ks', a silent 'e' -> ''), seen with its neighbours through a few residual
convolutions. The targets come from aligning the lexicon by hard expectation-maximisation.

Minutes on one CPU core each. Running again with the same packages writes the same lexicon.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import lzma
import math
import random
import re
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from model.text.lexicon import DATA_DIR, Lexicon
from model.text.spelling import ALPHABET, MAX_LETTERS, fix_stress

_XZ = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 4, "lp": 0, "pb": 0}]
TAG_WEIGHT_STEPS = 2
"""The tagger's weights are kept in steps of a half: a third of the size, and next to no tag changes."""


# -- lexicon and tagger ----------------------------------------------------------------------------------------------------------


def _load_gzip_json(path: Path) -> Any:
    return json.loads(gzip.decompress(path.read_bytes()))


def _write_xz(path: Path, text: str) -> None:
    path.write_bytes(lzma.compress(text.encode(), format=lzma.FORMAT_XZ, filters=_XZ))
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}")


def repack_lexicon(assets: Path, out: Path) -> None:
    """One line a word: ``word<TAB>phonemes``, ``~`` before phonemes that are less sure, ``TAG=phonemes`` for a part of speech."""

    def line(word: str, entry: str | dict[str, str | None], mark: str) -> str:
        if isinstance(entry, str):
            return f"{word}\t{mark}{entry}"
        others = (f"{tag}={phonemes or ''}" for tag, phonemes in entry.items() if tag != "DEFAULT")
        return f"{word}\t{mark}{' '.join((entry['DEFAULT'] or '', *others))}"

    gold = _load_gzip_json(assets / "lexicon_us_gold.json.gz")
    silver = _load_gzip_json(assets / "lexicon_us_silver.json.gz")
    lines = [line(w, e, "") for w, e in gold.items()] + [line(w, e, "~") for w, e in silver.items() if w not in gold]
    _write_xz(out / "lexicon.tsv.xz", "\n".join(sorted(lines)))


def repack_tagger(assets: Path, out: Path) -> None:
    """JSON: ``tags``; ``known``, the tag of each word that has but one; ``vocabulary``; ``weights``, feature -> {tag: weight}."""
    source = _load_gzip_json(assets / "tagger.json.gz")
    weights = {}
    for feature, by_tag in sorted(source["weights"].items()):
        weights[feature] = {tag: round(weight * TAG_WEIGHT_STEPS) for tag, weight in sorted(by_tag.items())}
    packed = {
        "tags": source["tags"],
        "known": dict(sorted(source["tagdict"].items())),
        "vocabulary": sorted(source["vocab"]),
        "weights": weights,
    }
    _write_xz(out / "tagger.json.xz", json.dumps(packed, ensure_ascii=False, separators=(",", ":")))


# -- letters to phonemes ---------------------------------------------------------------------------------------------------------

_UNIT = re.compile("[ˈˌ]?.")
MAX_UNITS_PER_LETTER = 3


def is_held_out(word: str) -> bool:
    """One word family in twenty (a family shares its first five letters, so that no inflection leaks)."""
    return hashlib.sha1(word[:5].encode()).digest()[0] < 13


def spelled_words(lexicon: Lexicon) -> list[tuple[str, tuple[str, ...]]]:
    """Words of letters with their phonemes, a stress mark glued to its vowel."""
    words = []
    for word, phonemes in lexicon.readings():
        if 2 <= len(word) <= MAX_LETTERS and word[1:].islower() and word.isascii() and word.isalpha():
            units = tuple(_UNIT.findall(phonemes))
            if len(units) <= MAX_UNITS_PER_LETTER * len(word):
                words.append((word.lower(), units))
    return sorted(set(words))


def align(word: str, units: tuple[str, ...], cost: dict[tuple[str, str], float], unseen: float) -> list[str] | None:
    """The cheapest way to give each letter 0 to 3 units in order, or None when there is none."""
    best: list[dict[int, tuple[float, str]]] = [{0: (0.0, "")}]
    for letter in word:
        reached: dict[int, tuple[float, str]] = {}
        for start, (so_far, _) in best[-1].items():
            for end in range(start, min(start + MAX_UNITS_PER_LETTER, len(units)) + 1):
                chunk = "".join(units[start:end])
                total = so_far + cost.get((letter, chunk), unseen + 3.0 * (end - start))
                if end not in reached or total < reached[end][0]:
                    reached[end] = (total, chunk)
        best.append(reached)
    if len(units) not in best[-1]:
        return None
    chunks, at = [], len(units)
    for step in reversed(best[1:]):
        chunk = step[at][1]
        chunks.append(chunk)
        at -= len(_UNIT.findall(chunk))
    return chunks[::-1]


def _alignment_costs(words: Iterable[tuple[str, tuple[str, ...]]], num_rounds: int = 5) -> dict[tuple[str, str], float]:
    words = list(words)
    # Start from how often a letter and a unit share a word, so that the first alignments already make sense.
    together: Counter[tuple[str, str]] = Counter()
    letters: Counter[str] = Counter()
    units_seen: Counter[str] = Counter()
    for word, units in words:
        letters.update(set(word))
        units_seen.update(set(units))
        together.update((a, u) for a in set(word) for u in set(units))
    cost = {(a, u): -math.log(n * len(words) / (letters[a] * units_seen[u])) + 2.0 for (a, u), n in together.items()}
    cost.update({(a, ""): 4.0 for a in letters})
    for _ in range(num_rounds):
        pairs = Counter(p for word, units in words for p in zip(word, align(word, units, cost, 8.0) or (), strict=False))
        totals: Counter[str] = Counter()
        for (letter, _chunk), n in pairs.items():
            totals[letter] += n
        cost = {(a, c): -math.log(n / totals[a]) for (a, c), n in pairs.items()}
    return cost


class SpellingNet(nn.Module):
    """Letters -> chunk logits. The same arithmetic as ``model.text.spelling`` does with numpy, which reads its weights.

    Args:
        num_chunks: size of the output alphabet.
    """

    def __init__(self, num_chunks: int, width: int = 128, depth: int = 5, kernel: int = 5) -> None:
        super().__init__()
        self.embed = nn.Embedding(len(ALPHABET) + 1, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.kernel = kernel
        self.convs = nn.ModuleList(nn.Linear(kernel * width, width) for _ in range(depth))
        self.outs = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_chunks)

    def forward(self, letters_BL: Tensor, dropout: float = 0.0) -> Tensor:
        real_BL1 = (letters_BL > 0).unsqueeze(-1)
        x_BLD = self.embed(letters_BL) * real_BL1
        for norm, conv, out in zip(self.norms, self.convs, self.outs, strict=True):
            half, length = self.kernel // 2, x_BLD.shape[1]
            h_BLD = nn.functional.pad(norm(x_BLD) * real_BL1, (0, 0, half, half))
            h_BLD = torch.relu(conv(torch.cat([h_BLD[:, i : i + length] for i in range(self.kernel)], dim=-1)))
            x_BLD = x_BLD + nn.functional.dropout(out(h_BLD), dropout, self.training) * real_BL1
        return self.head(self.norm(x_BLD))


def _letter_ids(word: str) -> list[int]:
    return [ALPHABET.index(c) + 1 for c in word]


def train_letters(out: Path, *, minutes: float, seed: int = 0) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    rng = random.Random(seed)
    words = spelled_words(Lexicon.load())
    train = [w for w in words if not is_held_out(w[0])]
    test = [w for w in words if is_held_out(w[0])]
    cost = _alignment_costs(rng.sample(train, 15_000))
    aligned = [(w, a) for w, units in train if (a := align(w, units, cost, 8.0)) is not None]
    counts = Counter(c for _, chunks in aligned for c in chunks)
    chunks = sorted((c for c, n in counts.items() if n >= 10), key=lambda c: -counts[c])
    index = {c: i for i, c in enumerate(chunks)}
    data = [(_letter_ids(w), [index[c] for c in a]) for w, a in aligned if all(c in index for c in a)]
    data.sort(key=lambda d: len(d[0]))
    print(f"{len(words)} words, {len(data)} to learn from, {len(test)} held out, {len(chunks)} chunks")

    net = SpellingNet(len(chunks))
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, betas=(0.9, 0.98), weight_decay=0.01)
    average = {k: v.clone() for k, v in net.state_dict().items()}
    batches = [data[i : i + 192] for i in range(0, len(data), 192)]
    start, step = time.monotonic(), 0
    while (progress := (time.monotonic() - start) / (60 * minutes)) < 1:
        rng.shuffle(batches)
        total = 0.0
        for batch in batches:
            progress = min(1.0, (time.monotonic() - start) / (60 * minutes))
            optimizer.param_groups[0]["lr"] = 2e-3 * min(1.0, (step + 1) / 200) * (1 - progress) + 1e-6
            length = max(len(x) for x, _ in batch)
            x = torch.tensor([a + [0] * (length - len(a)) for a, _ in batch])
            y = torch.tensor([b + [-100] * (length - len(b)) for _, b in batch])
            with torch.autocast("cpu", torch.bfloat16):
                logits = net(x, 0.05)
            loss = nn.functional.cross_entropy(logits.float().flatten(0, 1), y.flatten(), label_smoothing=0.02)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            step += 1
            total += loss.item()
            for k, v in net.state_dict().items():
                average[k].lerp_(v, max(0.002, 1 / step))
            if progress >= 1:
                break
        print(f"{(time.monotonic() - start) / 60:.1f} min, step {step}, loss {total / len(batches):.4f}", flush=True)

        arrays = {k: v.numpy().astype(np.float16) for k, v in average.items()}
        np.savez_compressed(out / "letters.npz", chunks=np.array(chunks), **arrays)
    evaluate_letters(test)


def evaluate_letters(test: list[tuple[str, tuple[str, ...]]]) -> None:
    from model.text.spelling import SpellingReader

    reader = SpellingReader.load()
    exact = without_stress = errors = length = 0
    for word, units in test:
        truth, heard = "".join(units), fix_stress(reader.read(word))
        exact += truth == heard
        bare = [re.sub("[ˈˌ]", "", s) for s in (truth, heard)]
        without_stress += bare[0] == bare[1]
        errors += edit_distance(*bare)
        length += len(bare[0])
    n = len(test)
    print(f"held out: {exact / n:.1%} exact, {without_stress / n:.1%} but for stress, phoneme error rate {errors / length:.2%}")


def edit_distance(a: str, b: str) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("lexicon", "letters"))
    parser.add_argument("--assets", type=Path, help="the assets directory of hibari-tts (default: where it is installed)")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long to train")
    arguments = parser.parse_args()
    if arguments.what == "letters":
        train_letters(DATA_DIR, minutes=arguments.minutes)
        return
    assets = arguments.assets
    if assets is None:
        import hibari

        assets = Path(hibari.__file__).parent / "assets"
    repack_lexicon(assets, DATA_DIR)
    repack_tagger(assets, DATA_DIR)


if __name__ == "__main__":
    main()
