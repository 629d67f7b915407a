"""A clip of the published model, from its noise to pictures and sound in the host's memory: when what is done, and should be.

    python -m benchmarks.clip                          # what follows from stage times alone; no GPU

:func:`run` is used by the other benchmarks. :func:`predict` is a model of two queues: passes follow each other on the first
device; on the last, a block's sound, then its pictures, latent by latent. On one device what is decoded goes first and passes
wait. From stage times on an H100 (80 GB; ms: passes 66, 72, 80, 85 and 96 at 6 to 30 latents, text before, sound 15, first latent
20, others 57) it says: two devices 2.26 s a clip of 117 frames, 51.9 frames a second, first pictures after 299 ms; one device
3.65 s, 32.1, 299 ms. Measured before the host was kept from running ahead: 2.60 s, 45.0, 334 ms; 3.71 s, 31.6, 421 ms.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.config import HalloLiveConfig, load_yaml
from model.decoding import Decoders, Piece
from model.graphs import Ahead
from model.rollout import Draw, Rollout, audio_window
from tests.support.published_files import write_config


@dataclass(frozen=True)
class StageTimes:
    """Milliseconds: a pass of each block of a clip, the same if two devices share it, a block's sound, pictures of a stream's
    first latent and of another. That of shared passes is an estimate: half of what is not the audio tower, and 4 ms on top."""

    passes: tuple[float, ...] = (66, 72, 80, 85, 96)
    split_passes: tuple[float, ...] = (41, 45, 49, 53, 60)
    sound: float = 15
    first_latent: float = 20
    latent: float = 57


def split_network(network: Path) -> Path:
    """A config like ``network`` by which two devices share passes, in a directory of its own."""
    config = load_yaml(network, HalloLiveConfig)
    rollout = config.rollout.model_copy(update={"split_passes": True})
    path = Path(tempfile.mkdtemp()) / network.name
    write_config(path, config.model_copy(update={"rollout": rollout}))
    return path


def predict(times: StageTimes, num_devices: int, *, split: bool = False, block: int = 6, num_passes: int = 4) -> dict[str, float]:
    """Milliseconds of a clip, and until its first pictures; ``split``: two devices share the first block's passes."""
    made = decoded = first = 0.0
    for number, one_pass in enumerate(times.passes):
        if split and number == 0:
            one_pass = times.split_passes[0]
        made += num_passes * one_pass + (times.passes[number - 1] if number else 0)  # the clean pass over the block before
        pictures = [times.first_latent if number == 0 else times.latent] + [times.latent] * (block - 1)
        start = max(made, decoded)
        if number == 0:
            first = start + times.sound + pictures[0]
        decoded = start + times.sound + sum(pictures)
        if num_devices == 1:
            made = decoded
    return {"clip_ms": round(decoded), "first_pictures_ms": round(first)}


def run(rollout: Rollout, decoders: Decoders, noise: tuple[Tensor, Tensor], num_blocks: int, draw: Draw) -> dict[str, Any]:
    """Make a clip. The devices have nothing else to do. Passes are split while the decoders rest, where the rollout can.

    Returns:
        Milliseconds from the start, for each block: when its latents were finished on the device (on GPUs), its sound decoded,
        and its pictures, latent by latent; and how many pictures there are.
    """
    video, audio = noise
    block, ratio, device = video.shape[2] // num_blocks, rollout.shape.audio_per_video, video.device
    ahead, on_gpu = Ahead(device), device.type == "cuda"
    start_s = time.perf_counter()
    began, finished_at = _event(device), []
    done_s: dict[Piece, float] = {}

    def watch(piece: Piece) -> Piece:
        piece.add_done_callback(lambda piece: done_s.__setitem__(piece, time.perf_counter() - start_s))
        return piece

    pieces: list[tuple[Piece, list[Piece]]] = []
    for number in range(num_blocks):
        if not rollout.remembers:
            ahead.wait()
            rollout.remember(split=decoders.num_coming == 0)
            ahead.mark()
        place = number * block
        window = audio_window(audio, place * ratio, block * ratio, rollout.dit.config.future_audio_latents)
        rollout.begin(video[:, :, place : place + block], window)
        finished = None
        while finished is None:
            ahead.wait()
            finished = rollout.denoise(draw, split=decoders.num_coming == 0)
            ahead.mark()
        finished_at.append(_event(device))
        pieces.append((watch(decoders.submit(finished)), [watch(piece) for piece in decoders.ask()]))
    num_pictures = sum(len(piece.result()) for _, pictures in pieces for piece in pictures)
    for sound, _ in pieces:
        sound.result()
    total_ms = 1000 * (time.perf_counter() - start_s)
    rows = [
        {
            "finished_ms": round(began.elapsed_time(at), 1) if on_gpu else None,
            "sound_ms": round(1000 * done_s[sound], 1),
            "pictures_ms": [round(1000 * done_s[piece], 1) for piece in pictures],
        }
        for at, (sound, pictures) in zip(finished_at, pieces, strict=True)
    ]
    return {"clip_ms": total_ms, "num_pictures": num_pictures, "blocks": rows}


def _event(device: torch.device) -> Any:
    """Now, on the device's current stream; None where there is none."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event


def main() -> None:
    times = StageTimes()
    frames = 4 * 6 * len(times.passes) - 3
    for num_devices, split in ((1, False), (2, False), (2, True)):
        found = predict(times, num_devices, split=split)
        print(json.dumps({"devices": num_devices, "split": split, **found, "fps": round(1000 * frames / found["clip_ms"], 1)}))


if __name__ == "__main__":
    main()
