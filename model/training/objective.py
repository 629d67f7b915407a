"""The masked forward over whole sequences, and its flow-matching loss.

A sequence is the first block of a stream, whose first latent is the sink, followed by consecutive blocks from anywhere in the
same clip. Each block has a noise level of its own (diffusion forcing, arXiv 2407.01392): some are clean history, the others are
learned. What a block sees under these masks is exactly what it sees in a live stream.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from model.config import ModelConfig
from model.dit import masks
from model.dit.block import StreamView
from model.dit.transformer import DualStreamTransformer, Flow, TextMemory
from model.geometry import Geometry


@dataclass(frozen=True)
class Sequence:
    """A batch of latent sequences.

    Attributes:
        video: [B, C, N * F, h, w] normalised latents of N blocks; audio: [B, N * L, C].
        control: [B, N * F, control_channels]; no channels for networks that have none.
        blocks: int64 [B, N], each block's number in its clip; the first is the stream's first block.
    """

    video: Tensor
    audio: Tensor
    control: Tensor
    blocks: Tensor


@dataclass(frozen=True)
class TextBatch:
    """Encoded text [B, S, D], times in rotary units [B, S]; ``timed`` is False for caption tokens, ``mask`` for padding."""

    tokens: Tensor
    times: Tensor
    timed: Tensor
    mask: Tensor


def latent_indices(blocks: Tensor, per_block: int) -> Tensor:
    """[B, N] block numbers -> [B, N * per_block] latent numbers."""
    return (blocks.unsqueeze(-1) * per_block + torch.arange(per_block, device=blocks.device)).flatten(1)


def masked_forward(
    dit: DualStreamTransformer,
    config: ModelConfig,
    geometry: Geometry,
    sequence: Sequence,
    text: TextBatch,
    timesteps: Tensor,
) -> Flow:
    """Velocity of every block of (already noised) ``sequence`` at ``timesteps`` [B, N] on the 0..1000 scale."""
    per_video, per_audio, tokens = geometry.block_video_latents, geometry.block_audio_latents, geometry.tokens_per_video_latent
    window, blocks = config.sampling.window_blocks, sequence.blocks
    video_blocks = blocks.repeat_interleave(per_video * tokens, dim=1)
    audio_blocks = blocks.repeat_interleave(per_audio, dim=1)
    video_table, video_text_table = dit.video_tables(latent_indices(blocks, per_video), geometry.grid_height, geometry.grid_width)
    audio_table, audio_text_table = dit.audio_tables(latent_indices(blocks, per_audio))
    memory = dit.read_text(text.tokens, dit.text_tables(text.times, text.timed), None)

    # Computed a block, then repeated for its tokens: the masks are the same for all of them.
    def per_token(mask_BNS: Tensor, num: int) -> Tensor:
        return mask_BNS.repeat_interleave(num, dim=1).unsqueeze(1)

    video_see_video = masks.block_causal(blocks, video_blocks, window)
    num_sink = tokens if config.sampling.sink else 0
    if num_sink:
        video_see_video = torch.cat((masks.sink(blocks, blocks[:, 0], num_sink), video_see_video), dim=-1)
    audio_see_audio = masks.block_causal(blocks, audio_blocks, window)
    video_see_audio = masks.future_expanding(
        blocks, audio_blocks, latent_indices(blocks, per_audio), per_audio, config.dit.future_audio_latents, window
    )
    audio_see_video = masks.block_causal(blocks, video_blocks, window)
    block_time = per_audio * config.dit.audio.time_scale
    unit_s = float(geometry.block_duration_s) / block_time
    near = masks.time_window(blocks, text.times, block_time, config.text.past_s / unit_s, config.text.future_s / unit_s)
    text_mask = text.mask.unsqueeze(1) & (near | ~text.timed.unsqueeze(1))
    video_view = StreamView(
        video_table,
        video_text_table,
        per_token(video_see_video, per_video * tokens),
        per_token(text_mask, per_video * tokens),
        per_token(video_see_audio, per_video * tokens),
    )
    audio_view = StreamView(
        audio_table,
        audio_text_table,
        per_token(audio_see_audio, per_audio),
        per_token(text_mask, per_audio),
        per_token(audio_see_video, per_audio),
    )
    return dit(
        sequence.video,
        sequence.audio,
        timesteps.repeat_interleave(per_video, dim=1),
        timesteps.repeat_interleave(per_audio, dim=1),
        video_view,
        audio_view,
        TextMemory(memory.video, memory.audio, None),
        num_sink_tokens=num_sink,
        control=sequence.control,
    )
