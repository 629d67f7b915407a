"""What the tokens of a whole clip see, for forwards that take it at once: everything; all blocks so far; a stream's window."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from model.config import ModelConfig
from model.dit import masks
from model.dit.block import StreamView
from model.dit.masks import Staircase
from model.dit.transformer import DualStreamTransformer
from model.geometry import Geometry


@dataclass(frozen=True)
class BlockSizes:
    """Video latents and audio latents of a block."""

    video: int
    audio: int


@dataclass(frozen=True)
class TextBatch:
    """Encoded text [B, S, D], times in rotary units [B, S]; ``timed`` is False for caption tokens, ``mask`` for padding."""

    tokens: Tensor
    times: Tensor
    timed: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Views:
    """Of both towers, and how many first video tokens are seen a second time, without their time."""

    video: StreamView
    audio: StreamView
    num_sink_tokens: int = 0


def whole(dit: DualStreamTransformer, video: Tensor, audio: Tensor, text_mask: Tensor | None) -> Views:
    """Of a published clip, video [B, C, F, h, w] and audio [B, L, C], in which everything sees everything."""
    video_table, _ = dit.video_tables(torch.arange(video.shape[2], device=video.device), *dit.grid(*video.shape[3:]))
    audio_table, _ = dit.audio_tables(torch.arange(audio.shape[1], device=audio.device))
    of_video, of_audio = (StreamView(table, None, None, text_mask, None) for table in (video_table, audio_table))
    return Views(of_video, of_audio)


def staircase(
    dit: DualStreamTransformer,
    video: Tensor,
    audio: Tensor,
    text_mask: Tensor | None,
    block: BlockSizes,
    padded_audio: int | None,
) -> Views:
    """The same where each block sees itself and all before it, video also the first audio of the next block.

    Args:
        padded_audio: see :func:`model.training.ode.clip_forward`.
    """
    num_blocks, (rows, columns) = video.shape[2] // block.video, dit.grid(*video.shape[3:])
    assert num_blocks * block.video == video.shape[2]
    assert num_blocks * block.audio == audio.shape[1]
    videos, audios = (block.video * rows * columns,) * num_blocks, (block.audio,) * num_blocks
    seen = whole(dit, video, audio, text_mask)
    video_sees_audio = Staircase.of_blocks(videos, audios, dit.config.future_audio_latents, padded_audio)
    return Views(
        StreamView(seen.video.table, None, Staircase.of_blocks(videos, videos), text_mask, video_sees_audio),
        StreamView(seen.audio.table, None, Staircase.of_blocks(audios, audios), text_mask, Staircase.of_blocks(audios, videos)),
    )


def windowed(
    dit: DualStreamTransformer, config: ModelConfig, geometry: Geometry, blocks: Tensor, text: TextBatch, *, causal: bool = True
) -> Views:
    """Of a sequence of pocket's blocks, int64 [B, N]: each sees itself, the window before it, the sink, and the text around it.

    Args:
        causal: otherwise each sees the whole sequence, and the text around it.
    """
    per_video, per_audio, tokens = geometry.block_video_latents, geometry.block_audio_latents, geometry.tokens_per_video_latent
    video_table, video_text_table = dit.video_tables(latent_indices(blocks, per_video), geometry.grid_height, geometry.grid_width)
    audio_table, audio_text_table = dit.audio_tables(latent_indices(blocks, per_audio))

    # Computed a block, then repeated for its tokens: the masks are the same for all of them.
    def per_token(mask_BNS: Tensor, num: int) -> Tensor:
        return mask_BNS.repeat_interleave(num, dim=1).unsqueeze(1)

    block_time = per_audio * config.dit.audio.time_scale
    unit_s = float(geometry.block_duration_s) / block_time
    near = masks.time_window(blocks, text.times, block_time, config.text.past_s / unit_s, config.text.future_s / unit_s)
    text_mask = text.mask.unsqueeze(1) & (near | ~text.timed.unsqueeze(1))
    text_masks = per_token(text_mask, per_video * tokens), per_token(text_mask, per_audio)
    if not causal:
        return Views(
            StreamView(video_table, video_text_table, None, text_masks[0], None),
            StreamView(audio_table, audio_text_table, None, text_masks[1], None),
        )
    window = config.sampling.window_blocks
    video_blocks = blocks.repeat_interleave(per_video * tokens, dim=1)
    audio_blocks = blocks.repeat_interleave(per_audio, dim=1)
    video_see_video = masks.block_causal(blocks, video_blocks, window)
    num_sink = tokens if config.sampling.sink else 0
    if num_sink:
        video_see_video = torch.cat((masks.sink(blocks, blocks[:, 0], num_sink), video_see_video), dim=-1)
    audio_see_audio = masks.block_causal(blocks, audio_blocks, window)
    video_see_audio = masks.future_expanding(
        blocks, audio_blocks, latent_indices(blocks, per_audio), per_audio, config.dit.future_audio_latents, window
    )
    audio_see_video = masks.block_causal(blocks, video_blocks, window)
    return Views(
        StreamView(
            video_table,
            video_text_table,
            per_token(video_see_video, per_video * tokens),
            text_masks[0],
            per_token(video_see_audio, per_video * tokens),
        ),
        StreamView(
            audio_table,
            audio_text_table,
            per_token(audio_see_audio, per_audio),
            text_masks[1],
            per_token(audio_see_video, per_audio),
        ),
        num_sink,
    )


def latent_indices(blocks: Tensor, per_block: int) -> Tensor:
    """[B, N] block numbers -> [B, N * per_block] latent numbers."""
    return (blocks.unsqueeze(-1) * per_block + torch.arange(per_block, device=blocks.device)).flatten(1)
