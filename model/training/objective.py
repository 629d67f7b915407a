"""pocket's forward over whole sequences.

A sequence is the first block of a stream, whose first latent is the sink, followed by consecutive blocks from anywhere in the
same clip. Each block has a noise level of its own (diffusion forcing, arXiv 2407.01392): some are clean history, the others are
learned. What a block sees under these masks is exactly what it sees in a live stream.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from model.config import ModelConfig
from model.dit.transformer import DualStreamTransformer, Flow
from model.geometry import Geometry
from model.training.views import TextBatch, windowed


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


def masked_forward(
    dit: DualStreamTransformer,
    config: ModelConfig,
    geometry: Geometry,
    sequence: Sequence,
    text: TextBatch,
    timesteps: Tensor,
) -> Flow:
    """Velocity of every block of (already noised) ``sequence`` at ``timesteps`` [B, N] on the 0..1000 scale."""
    of_latents = (timesteps.repeat_interleave(n, dim=1) for n in (geometry.block_video_latents, geometry.block_audio_latents))
    return sequence_forward(dit, config, geometry, sequence, text, *of_latents)


def sequence_forward(
    dit: DualStreamTransformer,
    config: ModelConfig,
    geometry: Geometry,
    sequence: Sequence,
    text: TextBatch,
    video_timesteps: Tensor,
    audio_timesteps: Tensor,
    *,
    causal: bool = True,
    skip_layer: int | None = None,
) -> Flow:
    """The same at a timestep for each latent, [B, N * F] and [B, N * L], or [B, 1] for all of them.

    Args:
        causal: under block-causal masks; otherwise everything sees everything.
        skip_layer: left out, for skip-layer guidance.
    """
    views = windowed(dit, config, geometry, sequence.blocks, text, causal=causal)
    return dit(
        sequence.video,
        sequence.audio,
        video_timesteps,
        audio_timesteps,
        views.video,
        views.audio,
        dit.read_text(text.tokens, dit.text_tables(text.times, text.timed), None),
        num_sink_tokens=views.num_sink_tokens,
        skip_layer=skip_layer,
        control=sequence.control,
    )
