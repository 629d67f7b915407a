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

from model import kernels
from model.config import VideoVAEConfig
from model.vae.causal import Memory

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


def unpack_i420(packed_N6hw: Tensor) -> Tensor:
    """The inverse of :func:`pack_i420`, rounded and clamped to bytes, of pictures one after the other [N, 6, h, w]."""
    planes = (packed_N6hw * 128 + 128).round().clamp(0, 255).to(torch.uint8)
    _, _, height, width = planes.shape
    luma, chroma = F.pixel_shuffle(planes[:, :4], 2).squeeze(1), planes[:, 4:]
    return torch.cat((luma, chroma.reshape(-1, height, 2 * width)), dim=1)


class ChannelNorm(nn.Module):
    """Root-mean-square norm over channels, one gain a channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return kernels.on(x).channel_norm(x, self.gain, 1e-6)


class FrameConv(nn.Module):
    """A 3-D convolution, causal in time and of the same size in space, computed as one in two dimensions.

    Frames lie along the first axis, and those that a frame sees along the channels: that is the same sum, and every machine has
    fast convolutions in two dimensions.

    Args:
        frames: that one sees, itself included.
    """

    def __init__(self, in_channels: int, out_channels: int, frames: int) -> None:
        super().__init__()
        self.context = frames - 1
        self.conv = nn.Conv3d(in_channels, out_channels, (frames, 3, 3))  # in its shape, as it is stored

    def forward(self, x: Tensor, memory: Memory, batch: int) -> Tensor:
        """Frames [T * B, C, h, w], those of one time side by side."""
        if self.context:
            seen = memory.extend(x, self.context * batch, 0)
            x = torch.cat([seen[i * batch : i * batch + len(x)] for i in range(self.context + 1)], dim=1)
        return F.conv2d(x, self.conv.weight.transpose(1, 2).flatten(1, 2), self.conv.bias, padding=1)


class ResidualBlock(nn.Module):
    """One or two 3 x 3 convolutions a picture; ``causal`` makes the first one see two latents of the past."""

    def __init__(self, channels: int, *, causal: bool, num_convs: int = 2) -> None:
        super().__init__()
        self.num_convs = num_convs
        self.norm1 = ChannelNorm(channels)
        self.conv1 = FrameConv(channels, channels, 3 if causal else 1)
        if num_convs == 2:
            self.norm2 = ChannelNorm(channels)
            self.conv2 = FrameConv(channels, channels, 1)

    def forward(self, x: Tensor, memory: Memory, batch: int) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)), memory, batch)
        return x + (self.conv2(F.silu(self.norm2(y)), memory, batch) if self.num_convs == 2 else y)


class Upsample(nn.Module):
    """Twice the size each way, and ``time`` times the rate, by a 1 x 1 convolution and a shuffle of channels."""

    def __init__(self, in_channels: int, out_channels: int, *, time: int) -> None:
        super().__init__()
        self.time = time
        self.conv = nn.Conv3d(in_channels, out_channels * 4 * time, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Frames [N, C, h, w] -> [time * N, C', 2 h, 2 w]: all first ones of what a frame becomes, then all second ones."""
        weight = self.conv.weight.flatten(1).unflatten(0, (-1, self.time, 4))
        assert self.conv.bias is not None
        bias = self.conv.bias.unflatten(0, (-1, self.time, 4))
        phases = [F.conv2d(x, weight[:, t].flatten(0, 1)[..., None, None], bias[:, t].flatten()) for t in range(self.time)]
        return F.pixel_shuffle(phases[0] if self.time == 1 else torch.cat(phases), 2)


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
        self.stem = FrameConv(config.latent_channels, low, 3)
        self.body = nn.ModuleList(ResidualBlock(low, causal=True) for _ in range(2))
        self.times = (2, 2, *[1] * (len(widths) - 3))
        self.up = nn.ModuleList(Upsample(a, b, time=t) for a, b, t in zip(widths[:-1], widths[1:], self.times, strict=True))
        self.refine = nn.ModuleList(ResidualBlock(b, causal=False) for b in widths[1:-1])
        self.head_scale = config.head_scale
        if self.head_scale > 1:
            self.refine.append(ResidualBlock(widths[-1], causal=False, num_convs=1))
        self.head = nn.Conv3d(widths[-1], PLANES * self.head_scale**2, (1, 3, 3))

    def frames(self, latents: Tensor, memory: Memory) -> Tensor:
        """Packed pictures [N, 6, H / 2, W / 2] of latents [B, C, L, h, w], in the order that :meth:`in_order` undoes."""
        batch = len(latents)
        x = self.stem(latents.transpose(1, 2).transpose(0, 1).flatten(0, 1), memory, batch)
        for block in self.body:
            x = block(x, memory, batch)
        for up, refine in zip(self.up[: len(self.refine)], self.refine, strict=True):  # nothing at half resolution
            x = refine(up(x), memory, batch)
        x = self.up[-1](x) if self.head_scale == 1 else x
        x = F.conv2d(F.silu(x), self.head.weight.squeeze(2), self.head.bias, padding=1)
        return F.pixel_shuffle(x, self.head_scale) if self.head_scale > 1 else x

    def in_order(self, frames: Tensor, batch: int) -> Tensor:
        """What lies as :meth:`frames` leaves it [N, ...] as [B, T, ...]: there, later halvings of time lie further out."""
        phases = tuple(reversed(self.times))
        x = frames.unflatten(0, (*phases, -1, batch))
        last = len(phases)
        x = x.permute(last + 1, last, *reversed(range(last)), *range(last + 2, x.ndim))
        return x.flatten(1, last + 1)

    def forward(self, latents: Tensor, memory: Memory) -> Tensor:
        """Packed pictures [B, 6, T, H / 2, W / 2]."""
        return self.in_order(self.frames(latents, memory), len(latents)).transpose(1, 2)


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
        return self.decoder(self._raw(latents), memory)

    def decode_i420(self, latents: Tensor, memory: Memory) -> Tensor:
        """The same as stacked I420 planes, uint8 [B, T, H * 3 / 2, W]."""
        pictures = unpack_i420(self.decoder.frames(self._raw(latents), memory))
        return self.decoder.in_order(pictures, len(latents))

    def _raw(self, latents: Tensor) -> Tensor:
        return latents * self.latent_std.view(-1, 1, 1, 1) + self.latent_mean.view(-1, 1, 1, 1)
