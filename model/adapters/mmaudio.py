"""The published audio files, ``v1-16.pth`` and ``best_netG.pt``: their names and their ways to store a weight end here.

Both are non-commercial (CC-BY-NC 4.0). What their authors normalise in every forward or after loading is folded into plain
weights here, once, in float32.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from model.config import BigVGANConfig, MMAudioVAEConfig
from model.errors import CheckpointError
from model.vae.bigvgan import BigVGAN, antialias_filter
from model.vae.mmaudio import MMAudioVAE
from model.weight_files import fill, read_tensors

Shapes = dict[str, tuple[int, ...]]

VAE_FILE = "MMAudio's 16 kHz audio VAE (v1-16.pth)"
VOCODER_FILE = "MMAudio's 16 kHz BigVGAN vocoder (best_netG.pt)"

_VAE_NAMES = (
    (r"^encoder\.levels\.", "encoder.down."),
    (r"^decoder\.levels\.", "decoder.up."),
    (r"\.blocks\.", ".block."),
    (r"^(encoder.*)\.resample\.", r"\1.downsample."),
    (r"^(decoder.*)\.resample\.", r"\1.upsample."),
    (r"\.middle\.before\.", ".mid.block_1."),
    (r"\.middle\.attention\.", ".mid.attn_1."),
    (r"\.middle\.after\.", ".mid.block_2."),
    (r"\.proj\.", ".proj_out."),
    (r"\.shortcut\.", ".nin_shortcut."),
    (r"^mel_", "data_"),
)
"""From our names to the published ones."""


def load_mmaudio_vae(
    path: Path, config: MMAudioVAEConfig, *, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> MMAudioVAE:
    """Build the audio VAE from ``v1-16.pth``.

    Args:
        device: where it shall compute; the CPU if None.
        dtype: what it shall compute in; float32 if None.

    Raises:
        CheckpointError: the file is missing, damaged, or holds something else.
    """
    with torch.device("meta"):
        vae = MMAudioVAE(config)
    found: Mapping[str, Tensor] = read_tensors(path)
    wanted = mmaudio_vae_shapes(config)
    _expect(found, wanted, path, VAE_FILE)
    tensors = {name: _vae_tensor(name, found) for name in vae.state_dict()}
    fill(vae, tensors, path, dtype=dtype)
    vae.requires_grad_(False)
    return vae if device is None else vae.to(device)


def mmaudio_vae_shapes(config: MMAudioVAEConfig) -> Shapes:
    """Every published name and shape of a VAE of this config."""
    with torch.device("meta"):
        ours = MMAudioVAE(config).state_dict()
    shapes = {_published_vae(name): tuple(tensor.shape) for name, tensor in ours.items()}
    statistics: Shapes = {name: (1, config.num_mels, 1) for name in ("data_mean", "data_std")}
    return shapes | statistics | {f"{half}.learnable_gain": () for half in ("encoder", "decoder")}


def load_bigvgan(
    path: Path, config: BigVGANConfig, *, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> BigVGAN:
    """Build the vocoder from ``best_netG.pt``, in either of torch's two spellings of weight norm.

    Args and Raises: as :func:`load_mmaudio_vae`.
    """
    with torch.device("meta"):
        vocoder = BigVGAN(config)
    outer = read_tensors(path)
    found = outer.get("generator")
    if not isinstance(found, dict):
        raise CheckpointError(
            f"{path} is not {VOCODER_FILE}, which was expected here: it has no entry 'generator' "
            f"(its first is {next(iter(outer), 'none')})"
        )
    spelled = {_spelled(name): tensor for name, tensor in found.items()}
    if len(spelled) != len(found):
        raise CheckpointError(f"{path} holds a weight in both spellings of weight norm: fetch {VOCODER_FILE} again")
    _expect(spelled, bigvgan_shapes(config), path, VOCODER_FILE)
    taps = _taps(spelled, path)
    tensors = {name: taps if name == "taps" else _vocoder_tensor(name, spelled, config) for name in vocoder.state_dict()}
    fill(vocoder, tensors, path, dtype=dtype)
    vocoder.requires_grad_(False)
    return vocoder if device is None else vocoder.to(device)


def bigvgan_shapes(config: BigVGANConfig) -> Shapes:
    """Every published name and shape of a vocoder of this config, weights as ``weight_g`` and ``weight_v``."""
    with torch.device("meta"):
        ours = BigVGAN(config).state_dict()
    shapes: Shapes = {}
    for name, tensor in ours.items():
        published = _published_vocoder(name, config)
        if name.endswith(".weight"):
            shapes[f"{published}_g"] = (tensor.shape[0], 1, 1)
            shapes[f"{published}_v"] = tuple(tensor.shape)
        elif name.endswith(".frequency"):
            shapes[published] = (tensor.shape[0],)
            activation = published.removesuffix(".act.alpha")
            shapes[f"{activation}.upsample.filter"] = shapes[f"{activation}.downsample.lowpass.filter"] = (1, 1, 12)
        elif name != "taps":
            shapes[published] = (tensor.shape[0],)
    return shapes


def _expect(found: Mapping[str, Tensor], wanted: Shapes, path: Path, what: str) -> None:
    """Fail unless ``found`` has exactly the names and shapes wanted, in the published spelling."""
    missing, unexpected = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if missing or unexpected:
        raise CheckpointError(
            f"{path} is not {what}, which was expected here: "
            f"{len(missing)} of {len(wanted)} keys missing (first: {missing[0] if missing else 'none'}), "
            f"{len(unexpected)} unexpected (first: {unexpected[0] if unexpected else 'none'})"
        )
    for name, shape in wanted.items():
        tensor = found[name]
        if not isinstance(tensor, Tensor) or tuple(tensor.shape) != shape:
            held = f"shape {list(tensor.shape)}" if isinstance(tensor, Tensor) else f"a {type(tensor).__name__}"
            raise CheckpointError(f"{path}: {name} has {held}, {what} has {list(shape)} there: does the config fit it?")


def _published_vae(name: str) -> str:
    for pattern, replacement in _VAE_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _vae_tensor(name: str, found: Mapping[str, Tensor]) -> Tensor:
    published = _published_vae(name)
    tensor = found[published].float()
    if published.startswith("data_"):
        return tensor[0]
    fan_in = tensor[0].numel()
    norms = tensor.flatten(1).norm(dim=1)[:, None, None]
    tensor = tensor / (1e-4 + norms / fan_in**0.5) / fan_in**0.5
    if name.endswith(".qkv.weight"):  # published with the three interleaved
        return tensor.unflatten(0, (-1, 3)).transpose(0, 1).flatten(0, 1).contiguous()
    if name.endswith(".conv_out.weight"):
        return tensor * (1 + found[f"{name.partition('.')[0]}.learnable_gain"].float())
    return tensor


def _spelled(name: str) -> str:
    """Newer torch's names of weight norm in its older ones."""
    name = re.sub(r"\.parametrizations\.weight\.original0$", ".weight_g", name)
    return re.sub(r"\.parametrizations\.weight\.original1$", ".weight_v", name)


def _published_vocoder(name: str, config: BigVGANConfig) -> str:
    """The published name of a parameter; of a snake's ``scale`` it is the ``beta``, of its ``frequency`` the ``alpha``."""
    name = re.sub(r"^stem\.", "conv_pre.", name)
    name = re.sub(r"^head\.", "conv_post.", name)
    name = re.sub(r"^last_snake\.", "activation_post.act.", name)
    name = re.sub(r"^stages\.(\d+)\.up\.", r"ups.\1.0.", name)
    block = re.match(r"stages\.(\d+)\.blocks\.(\d+)\.(.*)", name)
    if block is not None:
        name = f"resblocks.{int(block[1]) * len(config.res_kernels) + int(block[2])}.{block[3]}"
    name = name.replace(".dilated.", ".convs1.").replace(".plain.", ".convs2.")
    name = re.sub(r"\.snakes\.(\d+)\.", r".activations.\1.act.", name)
    return name.replace(".act.frequency", ".act.alpha").replace(".act.scale", ".act.beta")


def _vocoder_tensor(name: str, found: Mapping[str, Tensor], config: BigVGANConfig) -> Tensor:
    published = _published_vocoder(name, config)
    if name.endswith(".weight"):
        gain, direction = found[f"{published}_g"].float(), found[f"{published}_v"].float()
        return gain * direction / direction.flatten(1).norm(dim=1)[:, None, None]
    tensor = found[published].float()
    if name.endswith(".frequency"):
        return tensor.exp()[:, None]
    if name.endswith(".scale"):
        return (tensor.exp() + 1e-9).reciprocal()[:, None]
    return tensor


def _taps(found: Mapping[str, Tensor], path: Path) -> Tensor:
    """The one filter that the file repeats for every activation.

    Raises:
        CheckpointError: they differ, or are no filter of that kind.
    """
    filters = {name: tensor for name, tensor in found.items() if name.endswith(".filter")}
    first = next(iter(filters.values()))
    for name, tensor in filters.items():
        if not torch.equal(tensor, first) or not torch.allclose(tensor.flatten().float(), antialias_filter(), atol=1e-4):
            raise CheckpointError(f"{path}: {name} is not the anti-aliasing filter of {VOCODER_FILE}")
    return first.flatten().float()
