"""The published text encoder, UMT5-XXL: a prompt in, what the transformer attends to out.

The network is transformers' own, which is imported when one is built and not before: pocket never needs it.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import UMT5Config
from model.errors import CheckpointError
from model.graphs import CudaGraphCache

if TYPE_CHECKING:
    from transformers import UMT5EncoderModel

TOKENIZER_FILE = "tokenizer.json"


def clean(text: str) -> str:
    """A prompt as the tokenizer was fed in training: garbled letters mended, HTML entities resolved, white space folded."""
    import ftfy

    # Twice, because scraped text is often escaped twice.
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", text).strip()


def build_umt5(config: UMT5Config) -> UMT5EncoderModel:
    """The network without its numbers: on the meta device, to be filled."""
    from transformers import UMT5Config as PublishedConfig
    from transformers import UMT5EncoderModel

    published = PublishedConfig(
        vocab_size=config.vocab_size,
        d_model=config.dim,
        d_kv=config.attention_dim // config.num_heads,
        d_ff=config.ffn_dim,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        relative_attention_num_buckets=config.num_buckets,
        relative_attention_max_distance=config.max_distance,
        feed_forward_proj="gated-gelu",
        layer_norm_epsilon=1e-6,
    )
    with torch.device("meta"):
        return UMT5EncoderModel(published).eval()


class UMT5Tokenizer:
    """Text to token ids, as the ``tokenizer.json`` of a directory says.

    Args:
        directory: the published ``google/umt5-xxl``.
        config: how many tokens at most, and how many the encoder knows.

    Raises:
        CheckpointError: the file is missing, damaged, or belongs to another model.
    """

    def __init__(self, directory: Path, config: UMT5Config) -> None:
        from tokenizers import Tokenizer

        path = directory / TOKENIZER_FILE
        if not path.is_file():
            raise CheckpointError(f"{path} is missing: fetch it with 'avatar-rtc download inference'")
        try:
            self._tokenizer = Tokenizer.from_buffer(path.read_bytes())
        except ValueError as error:
            raise CheckpointError(f"{path} is damaged or no tokenizer ({error}): fetch it again") from None
        if self._tokenizer.get_vocab_size() > config.vocab_size:
            raise CheckpointError(
                f"{path} has {self._tokenizer.get_vocab_size()} tokens, the encoder knows {config.vocab_size}: "
                "it belongs to another model"
            )
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(config.text_len)

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Clean and cut texts into tokens, with the one that ends a text.

        Returns:
            Ids and mask (1 for a token, 0 for filling), int64 [B, L], L the length of the longest text.
        """
        found = [encoding.ids for encoding in self._tokenizer.encode_batch([clean(text) for text in texts])]
        ids = torch.zeros(len(found), max(map(len, found)), dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(found):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
        return ids, mask


@torch.no_grad()
def encode(encoder: UMT5EncoderModel, ids: Tensor, mask: Tensor, text_len: int) -> Tensor:
    """What tokens condition the transformer with.

    Filling is attended by nothing, so ids need not be filled up to ``text_len`` beforehand.

    Args:
        ids, mask: int64 [B, L], L at most ``text_len``.

    Returns:
        [B, text_len, dim], zero wherever there is no token.
    """
    # Given two-dimensional, the library would look on the host whether it masks anything, and wait for the device.
    hides = (1 - mask[:, None, None]).to(encoder.dtype) * torch.finfo(encoder.dtype).min
    hidden: Any = encoder(input_ids=ids, attention_mask=hides).last_hidden_state
    hidden = hidden * mask.unsqueeze(-1).to(hidden.dtype)
    return F.pad(hidden, (0, 0, 0, text_len - ids.shape[1]))


LENGTHS = (64, 128, 256)
"""Tokens to which prompts are filled up where passes are recorded; longer ones to all that there may be."""


class TextEncoder:
    """Tokenizer and encoder together: prompts in, conditioning out. On a GPU it is recorded, see :mod:`model.graphs`."""

    def __init__(self, tokenizer: UMT5Tokenizer, encoder: UMT5EncoderModel, config: UMT5Config) -> None:
        self._tokenizer, self._encoder, self._text_len = tokenizer, encoder, config.text_len
        self.graphs = CudaGraphCache() if encoder.device.type == "cuda" else None

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """Of whole prompts, tags and all: [B, text_len, dim] on the encoder's device, in its precision; see :func:`encode`."""
        ids, mask = self._tokenizer(prompts)
        if self.graphs is None:
            return self._encode(*(tensor.to(self._encoder.device) for tensor in (ids, mask)))[0]
        filled = next((n for n in LENGTHS if ids.shape[1] <= n < self._text_len), self._text_len)
        padding = 0, filled - ids.shape[1]
        ids, mask = (F.pad(tensor, padding).to(self._encoder.device, non_blocking=True) for tensor in (ids, mask))
        return self.graphs("encode", self._encode, ids, mask)[0].clone()

    def warm_up(self) -> None:
        """Record all lengths, so that no prompt waits for it."""
        if self.graphs is not None:
            for length in (*LENGTHS, self._text_len):
                self(["a " * (length - 2)])

    def _encode(self, ids: Tensor, mask: Tensor) -> tuple[Tensor]:
        return (encode(self._encoder, ids, mask, self._text_len),)
