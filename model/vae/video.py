"""Video VAE: pictures <-> latents, 16 pixels a cell each way and 4 pictures a latent.

It works on I420 throughout, because that is what the codec wants: a picture is *packed* into six planes at half resolution, four
of luma (the 2 x 2 neighbours) and two of chroma. No colour conversion, and half the values of RGB.

Shapes: packed [B, 6, T, H / 2, W / 2], values (byte - 128) / 128; latents [B, C, L, H / 16, W / 16] with T = 4 L.
The encoder sees the four pictures of a latent and nothing else. The decoder is causal over latents.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import VideoVAEConfig
from model.vae.causal import CausalConv3d, Memory

PLANES = 6
TEMPORAL_STRIDE = 4
SPATIAL_STRIDE = 16


def pack_i420(frames: Tensor) -> Tensor:
    """Stacked I420 planes, uint8 [B, T, H * 3 / 2, W] -> packed float [B, 6, T, H / 2, W / 2]."""
    batch, num_frames, rows, width = frames.shape
    height = rows * 2 // 3
    luma = frames[:, :, :height].reshape(batch, num_frames, height // 2, 2, width // 2, 2).permute(0, 3, 5, 1, 2, 4)
    chroma = frames[:, :, height:].reshape(batch, num_frames, 2, height // 2, width // 2).transpose(1, 2)
    return (torch.cat((luma.flatten(1, 2), chroma), dim=1).float() - 128) / 128


def unpack_i420(packed: Tensor) -> Tensor:
    """The inverse of :func:`pack_i420`, rounded and clamped to bytes."""
    batch, _, num_frames, half_height, half_width = packed.shape
    planes = (packed * 128 + 128).round().clamp(0, 255).to(torch.uint8)
    luma = planes[:, :4].reshape(batch, 2, 2, num_frames, half_height, half_width).permute(0, 3, 4, 1, 5, 2)
    chroma = planes[:, 4:].transpose(1, 2)
    luma_rows = luma.reshape(batch, num_frames, 2 * half_height, 2 * half_width)
    return torch.cat((luma_rows, chroma.reshape(batch, num_frames, half_height, 2 * half_width)), dim=2)


class ChannelNorm(nn.Module):
    """Root-mean-square norm over channels, one gain a channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-6)
        return x * scale * self.gain.view(-1, *[1] * (x.ndim - 2))


class ResidualBlock(nn.Module):
    """One or two 3 x 3 convolutions a picture; ``causal`` makes the first one see two latents of the past."""

    def __init__(self, channels: int, *, causal: bool, num_convs: int = 2) -> None:
        super().__init__()
        self.causal, self.num_convs = causal, num_convs
        self.norm1 = ChannelNorm(channels)
        self.conv1 = CausalConv3d(channels, channels, (3 if causal else 1, 3, 3))
        if num_convs == 2:
            self.norm2 = ChannelNorm(channels)
            self.conv2 = CausalConv3d(channels, channels, (1, 3, 3))

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)), memory)
        return x + (self.conv2(F.silu(self.norm2(y)), memory) if self.num_convs == 2 else y)


class Upsample(nn.Module):
    """Twice the size each way, and ``time`` times the rate, by a 1 x 1 convolution and a shuffle of channels."""

    def __init__(self, in_channels: int, out_channels: int, *, time: int) -> None:
        super().__init__()
        self.time = time
        self.conv = nn.Conv3d(in_channels, out_channels * 4 * time, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, length, height, width = x.shape
        y = self.conv(x).view(batch, -1, self.time, 2, 2, length, height, width)
        return y.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(batch, -1, length * self.time, height * 2, width * 2)


MOTION_GAIN = 8.0


def picture_transform() -> Tensor:
    """What the encoder sees of the four pictures of a latent: float32 [4, 4] from pictures to their mean and three cosine terms.

    The cosine terms (a type-II cosine transform) hold all that happens between the pictures. It is little beside the pictures
    themselves, so it is enlarged by ``MOTION_GAIN``; otherwise the encoder learns to pass on the mean alone.
    """
    picture = torch.arange(TEMPORAL_STRIDE) + 0.5
    order = torch.arange(TEMPORAL_STRIDE)
    terms = torch.cos(torch.pi / TEMPORAL_STRIDE * torch.outer(order, picture))
    scale = torch.tensor([1 / TEMPORAL_STRIDE, *[MOTION_GAIN * (2 / TEMPORAL_STRIDE) ** 0.5] * (TEMPORAL_STRIDE - 1)])
    return terms * scale[:, None]


class VideoEncoder(nn.Module):
    """Packed pictures -> mean and log-variance [B, 2 C, L, h, w]."""

    transform: Tensor

    def __init__(self, config: VideoVAEConfig) -> None:
        super().__init__()
        widths = config.encoder_widths
        self.register_buffer("transform", picture_transform(), persistent=False)
        self.stem = nn.Conv2d(PLANES * TEMPORAL_STRIDE, widths[0], 3, padding=1)
        self.stages = nn.ModuleList(nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in itertools.pairwise(widths))
        self.refine = nn.ModuleList(nn.Conv2d(b, b, 3, padding=1) for b in widths[1:])
        self.head = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, packed: Tensor) -> Tensor:
        batch, planes, num_frames, height, width = packed.shape
        length = num_frames // TEMPORAL_STRIDE
        x = packed.view(batch, planes, length, TEMPORAL_STRIDE, height, width)
        x = torch.einsum("bpltyx,ot->blpoyx", x, self.transform.to(x.dtype))
        x = self.stem(x.reshape(batch * length, planes * TEMPORAL_STRIDE, height, width))
        for down, refine in zip(self.stages, self.refine, strict=True):
            x = down(F.silu(x))
            x = x + refine(F.silu(x))
        x = self.head(F.silu(x))
        return x.view(batch, length, *x.shape[1:]).transpose(1, 2)


class VideoDecoder(nn.Module):
    """Latents -> packed pictures, causal over latents; later stages treat each picture alone."""

    def __init__(self, config: VideoVAEConfig) -> None:
        super().__init__()
        low, *_ = widths = tuple(reversed(config.decoder_widths))
        self.stem = CausalConv3d(config.latent_channels, low, (3, 3, 3))
        self.body = nn.ModuleList(ResidualBlock(low, causal=True) for _ in range(2))
        times = (2, 2, *[1] * (len(widths) - 3))
        self.up = nn.ModuleList(Upsample(a, b, time=t) for a, b, t in zip(widths[:-1], widths[1:], times, strict=True))
        self.refine = nn.ModuleList(ResidualBlock(b, causal=False) for b in widths[1:-1])
        self.head_scale = config.head_scale
        if self.head_scale > 1:
            self.refine.append(ResidualBlock(widths[-1], causal=False, num_convs=1))
        self.head = nn.Conv3d(widths[-1], PLANES * self.head_scale**2, (1, 3, 3), padding=(0, 1, 1))

    def forward(self, latents: Tensor, memory: Memory) -> Tensor:
        x = self.stem(latents, memory)
        for block in self.body:
            x = block(x, memory)
        for up, refine in zip(self.up[: len(self.refine)], self.refine, strict=True):  # none at half resolution
            x = refine(up(x), memory)
        if self.head_scale == 1:
            return self.head(F.silu(self.up[-1](x)))
        x = self.head(F.silu(x))
        return F.pixel_shuffle(x.transpose(1, 2), self.head_scale).transpose(1, 2)


class VideoVAE(nn.Module):
    """Encoder and decoder, with the statistics that make latents zero-mean and unit-variance.

    Latents outside this module are always normalised.
    """

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, config: VideoVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = VideoEncoder(config)
        self.decoder = VideoDecoder(config)
        self.register_buffer("latent_mean", torch.zeros(config.latent_channels))
        self.register_buffer("latent_std", torch.ones(config.latent_channels))

    def posterior(self, packed: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance before normalisation, each [B, C, L, h, w]."""
        mean, log_variance = self.encoder(packed).chunk(2, dim=1)
        return mean, log_variance.clamp(-12, 4)

    def normalise(self, latents: Tensor) -> Tensor:
        return (latents - self.latent_mean.view(-1, 1, 1, 1)) / self.latent_std.view(-1, 1, 1, 1)

    def encode(self, packed: Tensor) -> Tensor:
        """Normalised latents [B, C, T / 4, h, w] of packed pictures."""
        return self.normalise(self.posterior(packed)[0])

    def decode(self, latents: Tensor, memory: Memory) -> Tensor:
        """Packed pictures of normalised latents; ``memory`` is of the chunk before, and its ``present`` is filled."""
        return self.decoder(latents * self.latent_std.view(-1, 1, 1, 1) + self.latent_mean.view(-1, 1, 1, 1), memory)
