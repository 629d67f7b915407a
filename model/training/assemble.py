"""From a finished run to a checkpoint: averaged weights in bfloat16, the captions' words, the config.

The encoders of the VAEs, which only training needs, are written into a directory beside it.

    python -m model.training.assemble --run runs/pocket --checkpoint model/weights/pocket

The result is loaded once, as the service would.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

from safetensors.torch import load_file
from torch import nn

from model.checkpoint import read_weights
from model.config import ModelConfig, load_yaml
from model.data.captions import vocabulary
from model.dit.transformer import DualStreamTransformer
from model.text.encoder import TextEncoder
from model.training.loop import export
from model.vae.audio import AudioVAE
from model.vae.video import VideoVAE


def encoder_file(checkpoint: Path, name: str) -> Path:
    """Where the encoder of a checkpoint's "video" or "audio" VAE lies."""
    return checkpoint.with_name(f"{checkpoint.name}_encoders") / f"{name}.safetensors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/model/pocket.yaml"))
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True, help="directory to write; files in it are replaced")
    args = parser.parse_args()
    config = load_yaml(args.config, ModelConfig)
    audio_vae = AudioVAE(config.audio_vae, config.geometry.build().sample_rate_hz)
    modules = {
        "dit": DualStreamTransformer(config.dit, config.geometry.patch_cells),
        "text": TextEncoder(config.text),
        "video_vae": (video_vae := VideoVAE(config.video_vae)),
        "audio_vae": audio_vae,
    }
    for name, module in modules.items():
        module.load_state_dict(load_file(args.run / f"{name}.safetensors"))
    for name, vae in (("video", video_vae), ("audio", audio_vae)):
        export(encoder_file(args.checkpoint, name), nn.ModuleDict({"encoder": vae.encoder}))
        del vae.encoder
    for name, module in modules.items():
        export(args.checkpoint / f"{name}.safetensors", module)
    (args.checkpoint / "words.txt").write_text("\n".join(vocabulary()) + "\n", encoding="utf-8")
    shutil.copyfile(args.config, args.checkpoint / "config.tmp")
    os.replace(args.checkpoint / "config.tmp", args.checkpoint / "config.yaml")
    weights = read_weights(args.checkpoint)
    size = sum(f.stat().st_size for f in args.checkpoint.iterdir())
    print(f"{weights.config.name}: {size:,} bytes, digest {weights.digest[:12]}")


if __name__ == "__main__":
    main()
