"""The published causal video VAE (Wan2.2): pictures <-> latents, 16 pixels a cell each way, 1 + 4 n pictures for 1 + n latents.

Encoder and decoder are two modules, so that a device that only decodes holds only the decoder. Neither has state: what its causal
layers remember is a :class:`FeatureCache`, passed in and given back. Any cutting of a clip into chunks gives the same numbers.

A causal convolution reads a *window*: the last frames of the chunk before, then this chunk's. What comes before the convolution,
a norm mostly, writes its result there itself. A convolution's bias is added by what comes after it.

Shapes: pictures [B, 3, T, H, W], RGB in [-1, 1]; latents [B, C, L, H / 16, W / 16], normalised. Weights may be bfloat16: norms
and SiLU then still run in float32 with one rounding after them, which is what autocast makes of the published code. Weights in
channels-last layout (:func:`channels_last`) keep every activation in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model import kernels
from model.config import WanVAEConfig
from model.kernels import eager
from model.vae.causal import CausalConv3d, Memory
from model.vae.pictures import cover, frames_from_rgb

OnLayer = Callable[[int], object]
"""Hears the number of a causal layer, counted in the order in which a forward meets them."""

PATCH_PX = 2
"""Pixels each way that the first layer takes as channels."""
RGB = 3


@dataclass(frozen=True)
class FeatureCache:
    """What the causal layers of an encoder or decoder remember between chunks of one stream: a value, at most 2 frames a layer.

    At 512 x 992 pixels the decoder's is 1.8 GB in bfloat16.
    """

    tensors: tuple[Tensor, ...]

    @property
    def num_bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in self.tensors)

    def clone(self) -> FeatureCache:
        """A copy to go back to, for instance to decode a latent that may still be replaced."""
        return FeatureCache(tuple(t.clone() for t in self.tensors))

    def copy_(self, other: FeatureCache) -> None:
        """Overwrite this one's tensors, which keep their addresses, as a captured graph needs it."""
        for mine, theirs in zip(self.tensors, other.tensors, strict=True):
            mine.copy_(theirs)


class _Recorder(Memory):
    """A memory whose tensors own their storage: a slice would keep all of a chunk's features alive.

    Args:
        cache: what the chunk before left; None at the beginning of a stream.
        into: where to put what this chunk leaves, which may be ``cache``; new tensors if None.
        before, after: told of each layer, before its tensor in ``cache`` is read, and once what it leaves is written.
    """

    def __init__(
        self,
        cache: FeatureCache | None,
        into: FeatureCache | None = None,
        before: OnLayer | None = None,
        after: OnLayer | None = None,
    ) -> None:
        super().__init__(None if cache is None else cache.tensors)
        self.begins = cache is None
        """Whether the stream's first chunk is being computed; its first frame takes other ways than all later ones."""
        self._into, self._before, self._after = into, before, after

    def extend(self, x: Tensor, length: int, dim: int) -> Tensor:
        assert dim == 2
        return self.window(x, length, lambda place: place.copy_(x))

    def window(self, x: Tensor, length: int, write: Callable[[Tensor], object]) -> Tensor:
        """Frames in the shape and layout of ``x``, as ``write`` puts them into their place, behind the ``length`` before them."""
        # Neither ``cat`` nor ``clone`` keeps channels last where a dimension of size 1 leaves the layout open.
        last = x.is_contiguous(memory_format=torch.channels_last_3d)
        layout = torch.channels_last_3d if last else torch.contiguous_format
        shape = list(x.shape)
        shape[2] += length
        window = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)
        past = window[:, :, :length]
        if self.begins:
            past.zero_()
        else:
            if self._before is not None:
                self._before(len(self.present))
            past.copy_(self.recall(x, past.shape))
        write(window[:, :, length:])
        latest = window[:, :, x.shape[2] :]
        if self._into is None:
            self.remember(latest.clone(memory_format=layout))
        else:
            self.remember(self._into.tensors[len(self.present)].copy_(latest))
        if self._after is not None:
            self._after(len(self.present) - 1)
        return window

    @property
    def cache(self) -> FeatureCache:
        return FeatureCache(tuple(self.present))


def _frames(x: Tensor) -> Tensor:
    """[B, C, T, H, W] -> [B * T, C, H, W], a view where channels are last."""
    return x.transpose(1, 2).flatten(0, 1)


def _clip(frames: Tensor, batch: int) -> Tensor:
    """The inverse of :func:`_frames`."""
    return frames.unflatten(0, (batch, -1)).transpose(1, 2)


class ChannelNorm(nn.Module):
    """Every position to length sqrt(C), times one gain a channel; in float32 whatever the weights are."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return eager.normalise(x, self.gain).to(x.dtype)

    def activated(self, x: Tensor, conv: CausalConv3d, memory: _Recorder, bias: Tensor | None = None) -> Tensor:
        """``conv`` over the normed SiLU of ``x + bias``; the convolution's own bias is left out."""
        norm_silu = kernels.on(x).norm_silu
        window = memory.window(x, conv.context, lambda place: norm_silu(x, bias, self.gain, place))
        return F.conv3d(window, conv.conv.weight, padding=conv.conv.padding)


def _bias(conv: nn.Conv2d | nn.Conv3d) -> Tensor:
    assert conv.bias is not None
    return conv.bias


class ResidualBlock(nn.Module):
    """Two causal 3 x 3 x 3 convolutions beside a shortcut."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = ChannelNorm(in_channels), ChannelNorm(out_channels)
        self.conv1 = CausalConv3d(in_channels, out_channels, (3, 3, 3))
        self.conv2 = CausalConv3d(out_channels, out_channels, (3, 3, 3))
        self.shortcut = nn.Identity() if in_channels == out_channels else nn.Conv3d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, memory: _Recorder) -> Tensor:
        y = self.norm1.activated(x, self.conv1, memory)
        y = self.norm2.activated(y, self.conv2, memory, _bias(self.conv1.conv))
        return kernels.on(y).add_residual(y, _bias(self.conv2.conv), self.shortcut(x))


class Attention(nn.Module):
    """One head over the positions of each frame alone."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, _, height, width = x.shape
        tokens = _frames(self.norm(x)).flatten(2).transpose(1, 2)
        query, key, value = self.qkv(tokens).unsqueeze(1).chunk(3, dim=3)
        y = self.out(F.scaled_dot_product_attention(query, key, value).squeeze(1))
        return x + _clip(y.transpose(1, 2).unflatten(2, (height, width)), batch)


class Middle(nn.Module):
    """Residual block, attention, residual block, at the latent grid's resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.before = ResidualBlock(channels, channels)
        self.attention = Attention(channels)
        self.after = ResidualBlock(channels, channels)

    def forward(self, x: Tensor, memory: _Recorder) -> Tensor:
        return self.after(self.attention(self.before(x, memory)), memory)


class NearestConv2d(nn.Conv2d):
    """Every pixel four times, then a 3 x 3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.interpolate(x, scale_factor=2, mode="nearest-exact"))

    def beside(self, x: Tensor, shortcut: Shortcut) -> Tensor:
        """Frames [B, C, T, H, W] twice as large, plus the shortcut."""
        return _clip(self(_frames(x)), x.shape[0]) + eager.duplicate(*shortcut)


class PhaseConv2d(nn.Module):
    """The same function with 4 / 9 of the products: each of the four pixels sees 2 x 2 different ones, not 3 x 3.

    Args:
        original: its weights are summed in float32 and rounded once to their type.
    """

    def __init__(self, original: NearestConv2d) -> None:
        super().__init__()
        weight = original.weight.detach()
        # Which of the three taps fall on the first and on the second of two neighbours, for an even and for an odd place.
        taps = torch.tensor([[[1.0, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], device=weight.device)
        folded = torch.einsum("pkd,qle,oide->pqoikl", taps, taps, weight.float()).flatten(0, 2)
        self.weight = nn.Parameter(folded.to(weight.dtype), requires_grad=False)
        self.bias = nn.Parameter(_bias(original).detach(), requires_grad=False)

    def phases(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, 4 C, H + 1, W + 1], see :func:`model.kernels.eager.interleave`; the bias is left out."""
        return F.conv2d(x, self.weight, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return eager.interleave(self.phases(x)) + self.bias.view(-1, 1, 1)

    def beside(self, x: Tensor, shortcut: Shortcut) -> Tensor:
        """Frames [B, C, T, H, W] twice as large, plus the shortcut."""
        return kernels.on(x).interleave_phases(self.phases(_frames(x)), self.bias, *shortcut)


def fold_upsampling(decoder: WanDecoder) -> None:
    """Put a :class:`PhaseConv2d` in place of every :class:`NearestConv2d`: 2.8 of 37.4 TFLOP a latent less at 512 x 992 pixels.

    Fold before the weights are rounded to bfloat16, so that sums are not made of rounded terms.
    """
    for module in decoder.modules():
        if isinstance(module, Upsample) and isinstance(module.space, NearestConv2d):
            module.space = PhaseConv2d(module.space)


class Shortcut(NamedTuple):
    """A way around an :class:`Upsample` without weights, from ``x`` [B, C, T, H, W]: :func:`model.kernels.eager.duplicate`."""

    x: Tensor
    out_channels: int
    time: int
    skip: int


class Upsample(nn.Module):
    """Twice the size each way, and twice the frames where asked: the stream's first frame stays one."""

    def __init__(self, channels: int, *, doubles_time: bool) -> None:
        super().__init__()
        self.channels = channels
        self.time = CausalConv3d(channels, 2 * channels, (3, 1, 1)) if doubles_time else None
        self.space: NearestConv2d | PhaseConv2d = NearestConv2d(channels)

    def forward(self, y: Tensor, x: Tensor, memory: _Recorder) -> Tensor:
        """``y`` upsampled, plus ``x`` [B, C, T, H, W] on the shortcut; as many frames."""
        time = 1
        if self.time is not None:
            y, time = self._double(self.time, y, memory), 2
        return self.space.beside(y, Shortcut(x, self.channels, time, time - 1 if memory.begins else 0))

    @staticmethod
    def _double(time: CausalConv3d, x: Tensor, memory: _Recorder) -> Tensor:
        """The stream's first frame passes as it is, and the second sees zeros behind it rather than the first."""
        first, rest = x.split((1, x.shape[2] - 1), dim=2) if memory.begins else (None, x)
        window = memory.extend(rest, time.context, 2)
        if first is not None and rest.shape[2] == 0:
            return first
        pairs = time.conv(window).permute(0, 2, 3, 4, 1).unflatten(4, (2, -1))
        doubled = pairs.permute(0, 1, 4, 2, 3, 5).flatten(1, 2).permute(0, 4, 1, 2, 3)
        return doubled if first is None else torch.cat((first, doubled), dim=2)


class DecoderStage(nn.Module):
    """The residual blocks of one resolution, and the way up to the next."""

    def __init__(self, in_channels: int, out_channels: int, num_blocks: int, *, grows: bool, doubles_time: bool) -> None:
        super().__init__()
        widths = (in_channels, *[out_channels] * num_blocks)
        self.blocks = nn.ModuleList(ResidualBlock(a, b) for a, b in pairwise(widths))
        self.up = Upsample(out_channels, doubles_time=doubles_time) if grows else None

    def forward(self, x: Tensor, memory: _Recorder) -> Tensor:
        y = x
        for block in self.blocks:
            y = block(y, memory)
        return y if self.up is None else self.up(y, x, memory)


class Downsample(nn.Module):
    """Half the size each way, and half the frames where asked: the stream's first frame stays one."""

    def __init__(self, channels: int, *, halves_time: bool) -> None:
        super().__init__()
        self.space = nn.Conv2d(channels, channels, 3, stride=2)
        self.time = nn.Conv3d(channels, channels, (3, 1, 1), stride=(2, 1, 1)) if halves_time else None

    def forward(self, x: Tensor, memory: _Recorder) -> Tensor:
        x = _clip(self.space(F.pad(_frames(x), (0, 1, 0, 1))), x.shape[0])
        if self.time is None:
            return x
        window = memory.extend(x, 1, 2)
        if not memory.begins:
            return self.time(window)
        first = x[:, :, :1]
        return first if x.shape[2] == 1 else torch.cat((first, self.time(x)), dim=2)


def pool(x: Tensor, out_channels: int, time: int, space: int) -> Tensor:
    """A shortcut around a :class:`Downsample` without weights: means over runs of channels and neighbours.

    Args:
        time: frames that become one. A stream's first frame has zeros before it.
    """
    x = F.pad(x, (0, 0, 0, 0, x.shape[2] % time, 0))
    y = x.unflatten(4, (-1, space)).unflatten(3, (-1, space)).unflatten(2, (-1, time))
    y = y.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4)
    return y.unflatten(1, (out_channels, -1)).mean(dim=2)


class EncoderStage(nn.Module):
    """The residual blocks of one resolution, and the way down to the next."""

    def __init__(self, in_channels: int, out_channels: int, num_blocks: int, *, shrinks: bool, halves_time: bool) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.time, self.space = (2 if halves else 1 for halves in (halves_time, shrinks))
        widths = (in_channels, *[out_channels] * num_blocks)
        self.blocks = nn.ModuleList(ResidualBlock(a, b) for a, b in pairwise(widths))
        self.down = Downsample(out_channels, halves_time=halves_time) if shrinks else None

    def forward(self, x: Tensor, memory: _Recorder) -> Tensor:
        y = x
        for block in self.blocks:
            y = block(y, memory)
        if self.down is not None:
            y = self.down(y, memory)
        return y + pool(x, self.out_channels, self.time, self.space)


class _Normalised(nn.Module):
    """Statistics of latents. The inverse is what is kept: that is what the published code rounds to bfloat16."""

    latent_mean: Tensor
    latent_inverse_std: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("latent_mean", torch.zeros(channels))
        self.register_buffer("latent_inverse_std", torch.ones(channels))

    def _statistics(self) -> tuple[Tensor, Tensor]:
        return self.latent_mean.view(-1, 1, 1, 1), self.latent_inverse_std.view(-1, 1, 1, 1)


class WanEncoder(_Normalised):
    """Pictures -> the posterior's mean, normalised."""

    def __init__(self, config: WanVAEConfig) -> None:
        super().__init__(config.latent_channels)
        self.config = config
        first, *_, last = widths = config.encoder_widths
        self.temporal_stride = 2 ** sum(config.halves_time)
        self.spatial_stride_px = PATCH_PX * 2 ** len(config.halves_time)
        self.stem = CausalConv3d(RGB * PATCH_PX**2, first, (3, 3, 3))
        steps = zip((first, *widths[:-1]), widths, (*config.halves_time, None), strict=True)
        self.stages = nn.ModuleList(
            EncoderStage(a, b, config.num_blocks, shrinks=halves is not None, halves_time=bool(halves)) for a, b, halves in steps
        )
        self.middle = Middle(last)
        self.norm = ChannelNorm(last)
        self.head = CausalConv3d(last, 2 * config.latent_channels, (3, 3, 3))
        self.posterior = nn.Conv3d(2 * config.latent_channels, 2 * config.latent_channels, 1)

    def forward(self, frames: Tensor, cache: FeatureCache | None = None) -> tuple[Tensor, FeatureCache]:
        """Latents of the next frames of a stream, and what to pass with those after them.

        Args:
            frames: [B, 3, T, H, W] with T = 1 + 4 n at a stream's beginning, 4 n later; H and W multiples of 16.

        Raises:
            ValueError: frames do not come in whole latents or cells.
        """
        num_frames, height, width = frames.shape[2:]
        if (num_frames - (cache is None)) % self.temporal_stride or num_frames == 0:
            lead = "1 + " if cache is None else ""
            raise ValueError(f"{num_frames} frames do not make whole latents: pass {lead}{self.temporal_stride} n")
        if height % self.spatial_stride_px or width % self.spatial_stride_px:
            raise ValueError(f"{width}x{height} is not a multiple of {self.spatial_stride_px} px: resize or crop it first")
        memory = _Recorder(cache)
        x = frames.to(self.latent_mean.dtype).unflatten(4, (-1, PATCH_PX)).unflatten(3, (-1, PATCH_PX))
        x = self.stem(x.permute(0, 1, 6, 4, 2, 3, 5).flatten(1, 3), memory)
        for stage in self.stages:
            x = stage(x, memory)
        x = self.middle(x, memory)
        x = self.norm.activated(x, self.head, memory) + _bias(self.head.conv).view(-1, 1, 1, 1)
        mean, _ = self.posterior(x).chunk(2, dim=1)
        latent_mean, inverse_std = self._statistics()
        return (mean - latent_mean) * inverse_std, memory.cache

    def encode(self, frames: Tensor) -> Tensor:
        """Latents of a whole clip of 1 + 4 n frames, or of one picture: the latent a stream can start from."""
        return self(frames)[0]


class WanDecoder(_Normalised):
    """Normalised latents -> pictures, causal over latents."""

    def __init__(self, config: WanVAEConfig) -> None:
        super().__init__(config.latent_channels)
        self.config = config
        low, *_, high = widths = tuple(reversed(config.decoder_widths))
        self.project = nn.Conv3d(config.latent_channels, config.latent_channels, 1)
        self.stem = CausalConv3d(config.latent_channels, low, (3, 3, 3))
        self.middle = Middle(low)
        steps = zip((low, *widths[:-1]), widths, (*reversed(config.halves_time), None), strict=True)
        self.stages = nn.ModuleList(
            DecoderStage(a, b, config.num_blocks + 1, grows=doubles is not None, doubles_time=bool(doubles))
            for a, b, doubles in steps
        )
        self.norm = ChannelNorm(high)
        self.head = CausalConv3d(high, RGB * PATCH_PX**2, (3, 3, 3))

    def forward(self, latents: Tensor, cache: FeatureCache | None = None) -> tuple[Tensor, FeatureCache]:
        """Pictures of the next latents of a stream, not clamped, and what to pass with the latents after them.

        A stream's first latent gives 1 picture, every other one 4. How many latents come at once changes nothing but speed and
        memory; at 512 x 992 pixels a layer's features pass 2^31 elements, which kernels count in, from 8 latents on.
        """
        memory = _Recorder(cache)
        return eager.frames_from_patches(self._patches(latents, memory)), memory.cache

    def _patches(self, latents: Tensor, memory: _Recorder) -> Tensor:
        """Pictures in patches, RGB x column x row as channels [B, 12, T, H / 2, W / 2]."""
        mean, inverse_std = self._statistics()
        x = self.stem(self.project(latents.to(mean.dtype) / inverse_std + mean), memory)
        x = self.middle(x, memory)
        for stage in self.stages:
            x = stage(x, memory)
        return self.norm.activated(x, self.head, memory) + _bias(self.head.conv).view(-1, 1, 1, 1)

    def planes(
        self,
        latents: Tensor,
        cache: FeatureCache,
        *,
        begins: bool,
        before: OnLayer | None = None,
        after: OnLayer | None = None,
    ) -> Tensor:
        """I420 planes of the next latents, see :func:`model.kernels.eager.i420_from_frames`; ``cache`` is overwritten in place.

        Args:
            begins: these are the first latents of a stream; what ``cache`` holds does not count.
            before, after: told of each causal layer, before its tensor in ``cache`` is read, and once it is overwritten.
        """
        x = self._patches(latents, _Recorder(None if begins else cache, cache, before, after))
        return kernels.on(x).i420_from_patches(x)

    def decode(self, latents: Tensor, cache: FeatureCache | None = None) -> tuple[Tensor, FeatureCache]:
        """The same, in float32 and clamped to [-1, 1]."""
        frames, cache = self(latents, cache)
        return frames.float().clamp(-1, 1), cache


def first_latent(encoder: WanEncoder, image: Tensor, height_px: int, width_px: int) -> Tensor:
    """The latent that a stream starts from which shall begin with an image.

    Args:
        image: uint8 [h, w, 3], RGB, of any size; it is resized and cut to the picture's.

    Returns:
        [1, C, 1, height_px / 16, width_px / 16], normalised.

    Raises:
        ValueError: not such an image, or the picture is no whole number of cells.
    """
    picture = cover(image.to(encoder.latent_mean.device), height_px, width_px)
    return encoder.encode(frames_from_rgb(picture[None, None]))


M = TypeVar("M", bound=nn.Module)


def channels_last(module: M) -> M:
    """Put the weights of 2-D and 3-D convolutions in channels-last layout, in place; activations follow them."""
    for parameter in module.parameters():
        if parameter.ndim in (4, 5):
            layout = torch.channels_last if parameter.ndim == 4 else torch.channels_last_3d
            # ``contiguous`` would leave a 1 x 1 kernel as it is, and its output with it.
            parameter.data = torch.empty_like(parameter.data, memory_format=layout).copy_(parameter.data)
    return module
