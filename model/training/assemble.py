"""From finished runs to a checkpoint: averaged weights, the captions' words, the config.

Matrices of transformer and text are stored in 8 bits, all other parameters in bfloat16.

    python -m model.training.assemble --transformer runs/pocket_base --video-vae runs/pocket_video_vae \\
        --audio-vae runs/pocket_audio_vae --durations runs/pocket_durations --checkpoint model/weights/pocket

Each part comes from a run, or from a checkpoint that is there: one that is only to have another voice, say. The encoders of the
VAEs, which only training needs, are written into a directory beside it. The result is loaded as the service would, and speaks,
which gives the ranges for 8 bits (:mod:`model.training.ranges`).
"""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from model.checkpoint import read_weights
from model.config import ModelConfig, load_yaml
from model.data.captions import vocabulary
from model.description import RANGES
from model.errors import CheckpointError
from model.training import ranges
from model.training.pocket import Speaker
from model.training.starts import STATISTICS, Kind, encoder_file, exported, make_vae, read_speaker, take_vae
from model.vae.audio import AudioVAE
from model.vae.video import VideoVAE
from model.weight_files import SCALE, fill, in_8_bits, read_tensors

IN_8_BITS = ("dit", "text")
"""Parts whose matrices are. The VAEs are small, and what they lose is seen and heard at once."""
AUDIO_TOWER = re.compile(r"dit\.(layers\.\d+\.audio|audio_ends)\.")


def write(path: Path, module: nn.Module) -> None:
    """Weights for use, buffers as they are; whole or not at all."""
    buffers = {name for name, _ in module.named_buffers()}
    tensors = {name: x.detach().contiguous() for name, x in module.state_dict().items()}
    if path.stem in IN_8_BITS:
        tensors = in_8_bits(tensors)
    kept = {name for name, x in tensors.items() if name in buffers or name.endswith(SCALE) or not x.is_floating_point()}
    tensors = {name: x if name in kept else x.to(torch.bfloat16) for name, x in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path.with_suffix(".part"))
    os.replace(path.with_suffix(".part"), path)


def assemble(
    config_file: Path,
    transformer: Path,
    video_vae: Path,
    audio_vae: Path,
    checkpoint: Path,
    *,
    audio_tower: Path | None = None,
    softer: tuple[Path, float] | None = None,
    durations: Path | None = None,
) -> str:
    """Write the checkpoint; what is to be said of it in a line.

    Args:
        audio_tower: whose it is, in place of the transformer's own: a stage may have helped one tower and harmed the other.
        softer: a video VAE with the same latents, and its share of the decoder's weights. Between a decoder that went on against
            critics and the one that it began with lies one as sharp as needed, with less of what critics make up.

    Raises:
        CheckpointError: a part is missing, or does not fit the config.
    """
    config = load_yaml(config_file, ModelConfig)
    speaker = Speaker(config)
    tensors, path = read_speaker(transformer)
    if audio_tower is not None:
        tensors |= {name: x for name, x in read_speaker(audio_tower)[0].items() if AUDIO_TOWER.match(name)}
    fill(speaker, tensors, path, dtype=torch.float32)
    if durations is not None:
        path = exported(durations, "predictor")
        fill(speaker.text.durations, read_tensors(path), path, dtype=torch.float32)
    parts: dict[str, nn.Module] = {"dit": speaker.dit, "text": speaker.text}
    vaes: list[tuple[Kind, Path]] = [("video", video_vae), ("audio", audio_vae)]
    encoders: dict[Kind, nn.Module] = {}
    for kind, place in vaes:
        vae = make_vae(config, kind)
        if not take_vae(vae, place, kind):
            raise CheckpointError(f"{place}: its {kind} decoder has other sizes than {config_file} asks for")
        if kind == "video" and softer is not None:
            _soften(vae, make_vae(config, kind), *softer)
        encoders[kind] = nn.ModuleDict({"encoder": vae.encoder})
        del vae.encoder
        parts[f"{kind}_vae"] = vae
    texts = {"words.txt": "\n".join(vocabulary()) + "\n", "config.yaml": config_file.read_text(encoding="utf-8")}
    # Everything is there: now the old one may go.
    for kind, encoder in encoders.items():
        write(encoder_file(checkpoint, kind), encoder)
    for name, module in parts.items():
        write(checkpoint / f"{name}.safetensors", module)
    for name, text in texts.items():
        (checkpoint / f"{name}.part").write_text(text, encoding="utf-8")
        os.replace(checkpoint / f"{name}.part", checkpoint / name)
    (checkpoint / RANGES).unlink(missing_ok=True)  # of other weights
    ranges.write(checkpoint)
    weights = read_weights(checkpoint)
    size = sum(f.stat().st_size for f in checkpoint.iterdir())
    return f"{weights.config.name}: {size:,} bytes, digest {weights.digest[:12]}"


def _soften(vae: VideoVAE | AudioVAE, other: VideoVAE | AudioVAE, place: Path, share: float) -> None:
    """Move a video VAE's weights towards another's.

    Raises:
        CheckpointError: the other has other latents, or another decoder.
    """
    if not take_vae(other, place, "video") or any(
        not torch.equal(x, other.state_dict()[name]) for name, x in vae.state_dict().items() if name in STATISTICS
    ):
        raise CheckpointError(f"{place}: its video VAE has other latents, or a decoder of other sizes")
    with torch.no_grad():
        for mine, theirs in zip(vae.parameters(), other.parameters(), strict=True):
            mine.lerp_(theirs, share)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/model/pocket.yaml"))
    for name, of in (("transformer", "base, stage 1 or 2"), ("video-vae", "the video VAE"), ("audio-vae", "the audio VAE")):
        parser.add_argument(f"--{name}", type=Path, required=True, metavar="DIR", help=f"a run of {of}, or a checkpoint")
    parser.add_argument(
        "--audio-tower", type=Path, metavar="DIR", help="a run or checkpoint whose audio tower it is (default: the transformer's)"
    )
    parser.add_argument(
        "--softer",
        nargs=2,
        metavar=("DIR", "SHARE"),
        help="a video VAE with the same latents, and its share of the decoder's weights",
    )
    parser.add_argument("--durations", type=Path, metavar="DIR", help="a run of the durations (default: the transformer's)")
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="DIR", help="to write; files in it are replaced")
    a = parser.parse_args()
    try:
        softer = None if a.softer is None else (Path(a.softer[0]), float(a.softer[1]))
    except ValueError:
        parser.error(f"--softer: {a.softer[1]!r} is no number: write a share such as 0.25")
    done = assemble(
        a.config,
        a.transformer,
        a.video_vae,
        a.audio_vae,
        a.checkpoint,
        audio_tower=a.audio_tower,
        softer=softer,
        durations=a.durations,
    )
    print(done)


if __name__ == "__main__":
    main()
