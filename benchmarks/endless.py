"""Ten minutes of one stream of the published model at reduced layers: memory, positions, seams.

    python -m benchmarks.endless --weights /dev/shm/reduced --devices cuda:0
    python -m benchmarks.endless --weights /tmp/tiny --network tiny.yaml --layers 2 --vae-share 1 --devices cpu --seconds 20

The transformer has its full width and window but only ``--layers`` layers; the audio decoder and the vocoder are whole. Widths
of the video VAE are divided by ``--vae-share``, because at full size it alone would take six minutes, and one layer of a text
encoder with a small vocabulary stands for UMT5-XXL. Weights are seeded random numbers, written to the directory as published
files if there are none, so what is heard and seen is noise: a seam shows where it differs from the noise around it.

Positions: the last place that any pass gave to a video latent and to an audio latent, against the window that was trained on.

Memory: the process's own and what is allocated on the devices, every half minute of the stream.

Seams: how much the picture changes from one latent to the next (mean absolute difference of luma, in 8-bit levels) and how
sharp the sound's sharpest corner is within 2 ms (second difference, in 16-bit steps), where blocks meet after the window has
moved, and for sound also where two windows of its decoder meet; each against the same elsewhere. A ratio of 1 is no seam at
all. ``worst`` is the largest value at a seam against the largest elsewhere.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from avatar_rtc import resources
from benchmarks.memory import device_gb, host_gb
from model import hallo_live
from model.chunk import StreamSettings
from model.config import HalloLiveConfig, load_yaml
from model.hallo_live import HalloLiveStream
from testkit.published_files import write_config, write_published_files

LINE = "This is one of many lines, and there will be more."
LINE_EVERY_S = 8.0
LOOK_EVERY_S = 30.0
REACH_S = 0.002
AWAY_S = 0.02
"""Elsewhere is at least so far from every seam."""
WEIGHTS = "weights"
NETWORK = "network.yaml"


def reduced(config: HalloLiveConfig, num_layers: int, vae_share: int) -> HalloLiveConfig:
    vae = config.video_vae
    widths = {name: tuple(width // vae_share for width in getattr(vae, name)) for name in ("encoder_widths", "decoder_widths")}
    return config.model_copy(
        update={
            "name": f"{config.name}, {num_layers} layers",
            "dit": config.dit.model_copy(update={"num_layers": num_layers}),
            "text": config.text.model_copy(update={"num_layers": 1, "vocab_size": 512}),
            "video_vae": vae.model_copy(update=widths),
        }
    )


class Positions:
    """The furthest places that passes of a stream reach."""

    def __init__(self, stream: HalloLiveStream) -> None:
        self.video = self.audio = 0
        rollout = stream.rollout
        run = rollout.forward

        def watch(video: torch.Tensor, audio: torch.Tensor, timestep: float, num_history: int, **more: Any) -> Any:
            self.video = max(self.video, rollout.num_latents + video.shape[2] - 1)
            self.audio = max(self.audio, audio.shape[1] - 1)
            return run(video, audio, timestep, num_history, **more)

        rollout.forward = watch  # type: ignore[method-assign]


def sharpest(samples: np.ndarray, places: np.ndarray, reach: int) -> np.ndarray:
    """The largest second difference within ``reach`` samples of each place, which is the first sample after a seam."""
    corners = np.abs(np.diff(samples.astype(np.float32), 2))  # corner i is that of samples i to i + 2
    inside = np.clip(places[:, None] - 1 + np.arange(-reach, reach), 0, len(corners) - 1)
    return corners[inside].max(axis=1)


def ratios(seams: np.ndarray, elsewhere: np.ndarray) -> dict[str, float]:
    """Of a measure at seams to the same elsewhere."""
    median, p99 = np.percentile(elsewhere, (50, 99))
    found = {"median": np.median(seams) / median, "p99": np.percentile(seams, 99) / p99, "worst": seams.max() / elsewhere.max()}
    return {"seams": len(seams), "elsewhere": round(float(median), 3), **{k: round(float(v), 3) for k, v in found.items()}}


def sound_seams(samples: np.ndarray, rate_hz: int, seams: np.ndarray, others: np.ndarray) -> dict[str, float]:
    """Sharpness at ``seams``, against random places that are away from these and from ``others``."""
    reach, away = int(REACH_S * rate_hz), int(AWAY_S * rate_hz)
    places = np.random.default_rng(0).integers(away, len(samples) - away, 20_000)
    all_seams = np.sort(np.concatenate([seams, others]))
    after = np.clip(np.searchsorted(all_seams, places), 1, len(all_seams) - 1)
    distance = np.minimum(np.abs(places - all_seams[after]), np.abs(places - all_seams[after - 1]))
    return ratios(sharpest(samples, seams, reach), sharpest(samples, places[distance > away], reach))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, metavar="DIR", help="reduced weights, written there if missing")
    parser.add_argument("--network", type=Path, default=resources.network("hallo_live"), metavar="FILE", help="sizes to reduce")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--vae-share", type=int, default=4, help="by this the widths of the video VAE are divided")
    parser.add_argument("--devices", nargs="+", default=["cuda:0"])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON object there too")
    options = parser.parse_args()
    config = reduced(load_yaml(options.network, HalloLiveConfig), options.layers, options.vae_share)
    network = options.weights / NETWORK
    if not network.exists():
        write_published_files(options.weights / WEIGHTS, config, device=torch.device(options.devices[0]))
        write_config(network, config)
    model = hallo_live.load(options.weights / WEIGHTS, network, options.devices, lambda message: None)
    info, block = model.info, config.geometry.block_video_latents
    stream = model.open(StreamSettings("A woman in a bright office.", "a clear voice", seed=1))
    positions = Positions(stream)
    num_chunks = round(options.seconds / info.chunk_duration_s)
    samples, changes = np.zeros(num_chunks * info.chunk_samples, np.int16), np.zeros(num_chunks, np.float32)
    memory: list[dict[str, Any]] = []
    last = np.zeros(0)
    began_s = time.perf_counter()
    for number in range(num_chunks):
        media_s = number * info.chunk_duration_s
        if media_s // LINE_EVERY_S != (media_s - info.chunk_duration_s) // LINE_EVERY_S:
            stream.push(f"line-{number}", LINE)
        if media_s // LOOK_EVERY_S != (media_s - info.chunk_duration_s) // LOOK_EVERY_S:
            memory.append({"media_s": round(media_s), "host_gb": round(host_gb(), 3), "device_gb": device_gb()})
            print(f"{media_s:.0f} s after {time.perf_counter() - began_s:.1f} s: {json.dumps(memory[-1])}", flush=True)
        while (chunk := stream.step()) is None:
            pass
        samples[number * info.chunk_samples : (number + 1) * info.chunk_samples] = chunk.samples
        luma = chunk.frames[:, : info.height_px].astype(np.int16)
        changes[number] = np.abs(luma[0] - last).mean() if number else 0
        last = luma[-1]
    took_s = time.perf_counter() - began_s
    memory.append({"media_s": round(options.seconds), "host_gb": round(host_gb(), 3), "device_gb": device_gb()})
    stream.close()

    chunks = np.arange(num_chunks)
    moved = chunks >= config.rollout.window_latents + block
    inside, meets = moved & (chunks % block != 0), moved & (chunks % block == 0)
    latent = config.geometry.audio_latent_samples
    block_samples = info.chunk_samples * info.chunks_per_block
    meets_samples = chunks[meets] * info.chunk_samples
    windows = np.arange(2 * block_samples, len(samples), block_samples) - config.audio_stream.hold_back_latents * latent
    ahead = config.dit.future_audio_latents
    result = {
        "network": config.name,
        "devices": options.devices,
        "stream_s": options.seconds,
        "took_s": round(took_s, 1),
        "largest_position": {"video": positions.video, "audio": positions.audio},
        "trained_positions": {
            "video": config.rollout.window_latents - 1,
            "audio": config.rollout.window_latents * (block_samples // block // latent) - 1 + ahead,
        },
        "host_growth_gb": round(memory[-1]["host_gb"] - memory[min(2, len(memory) - 1)]["host_gb"], 3),
        "luma_where_blocks_meet": ratios(changes[meets], changes[inside]),
        "sound_where_blocks_meet": sound_seams(samples, info.sample_rate_hz, meets_samples, windows),
        "sound_where_windows_meet": sound_seams(samples, info.sample_rate_hz, windows, meets_samples),
        "memory": memory,
    }
    for name, value in result.items():
        print(f"{name}: {json.dumps(value)}", flush=True)
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
