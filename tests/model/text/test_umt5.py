"""The published text encoder's wrapper, on a small random network and a small tokenizer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from model.config import UMT5Config
from model.errors import CheckpointError
from model.text.umt5 import TextEncoder, UMT5Tokenizer, build_umt5, clean, encode

CONFIG = UMT5Config(
    vocab_size=64, dim=32, attention_dim=24, ffn_dim=40, num_heads=4, num_layers=2, num_buckets=8, max_distance=16, text_len=24
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of the published kind: unigrams over words with a mark for the space, and a token at the end."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((letter, -5.0) for letter in "▁abcdefghijklmnopqrstuvwxyz.<>SE")]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    directory = tmp_path_factory.mktemp("umt5-xxl")
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory


@pytest.fixture(scope="module")
def encoder() -> torch.nn.Module:
    torch.manual_seed(0)
    made = build_umt5(CONFIG).to_empty(device="cpu")
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def test_texts_become_tokens_with_an_end_and_a_mask(directory: Path) -> None:
    ids, mask = UMT5Tokenizer(directory, CONFIG)(["  ab\n c ", "a"])
    assert ids[0, -1] == 1
    assert ids.tolist()[1][:3] == [3, 4, 1]
    assert mask.tolist() == [[1] * ids.shape[1], [1, 1, 1] + [0] * (ids.shape[1] - 3)]


def test_a_long_text_is_cut_and_still_ends(directory: Path) -> None:
    ids, mask = UMT5Tokenizer(directory, CONFIG)(["abc " * 100])
    assert ids.shape == (1, CONFIG.text_len)
    assert ids[0, -1] == 1
    assert mask.all()


def test_gradients_flow_to_what_reads_the_conditioning(directory: Path, encoder: torch.nn.Module) -> None:
    conditioning = TextEncoder(UMT5Tokenizer(directory, CONFIG), encoder, CONFIG)(["a"])  # type: ignore[arg-type]
    reader = torch.nn.Linear(CONFIG.dim, 3)
    reader(conditioning).sum().backward()
    assert reader.weight.grad is not None
    assert not conditioning.requires_grad


def test_conditioning_is_zero_where_there_is_no_token(directory: Path, encoder: torch.nn.Module) -> None:
    texts = ["a man says <S>hello.<E>", "a"]
    conditioning = TextEncoder(UMT5Tokenizer(directory, CONFIG), encoder, CONFIG)(texts)  # type: ignore[arg-type]
    _, mask = UMT5Tokenizer(directory, CONFIG)(texts)
    assert conditioning.shape == (2, CONFIG.text_len, CONFIG.dim)
    for row, length in enumerate(mask.sum(1).tolist()):
        assert conditioning[row, :length].abs().amin(dim=0).gt(0).any()
        assert not conditioning[row, length:].any()


def test_neither_filling_nor_neighbours_change_a_text(encoder: torch.nn.Module) -> None:
    ids = torch.randint(0, CONFIG.vocab_size, (2, 11), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(11) < torch.tensor([[11], [4]])).long()
    together = encode(encoder, ids, mask, CONFIG.text_len)  # type: ignore[arg-type]
    alone = encode(encoder, ids[1:, :4], mask[1:, :4], CONFIG.text_len)  # type: ignore[arg-type]
    torch.testing.assert_close(together[1:], alone, atol=1e-5, rtol=1e-5)
    ids[1, 4:] = 7
    torch.testing.assert_close(encode(encoder, ids, mask, CONFIG.text_len)[1:], alone, atol=1e-5, rtol=1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("", ""),
        ("  one\t two\n\nthree ", "one two three"),
        ("fish &amp;amp; chips", "fish & chips"),
        ("&lt;S&gt;Hi.&lt;E&gt;", "<S>Hi.<E>"),
        ("dÃ©jÃ\xa0 vu", "déjà vu"),
        ("wide\u3000space", "wide space"),
    ],
)
def test_cleaning(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


def test_a_missing_damaged_or_foreign_tokenizer_is_named(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is missing.*avatar-rtc download inference"):
        UMT5Tokenizer(tmp_path, CONFIG)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is damaged"):
        UMT5Tokenizer(tmp_path, CONFIG)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json has \d+ tokens, the encoder knows 10"):
        UMT5Tokenizer(directory, CONFIG.model_copy(update={"vocab_size": 10}))


def test_importing_it_does_not_import_transformers() -> None:
    script = "import sys, model.text.umt5, model.adapters.umt5; print({'transformers', 'ftfy', 'tokenizers'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "set()"
