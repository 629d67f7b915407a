"""A clip of the published model, from its noise to pictures and sound in the host's memory: when what is done, and should be.

    python -m benchmarks.clip                          # what follows from stage times alone; no GPU

:func:`run` is used by the other benchmarks. :func:`predict` is a model of two queues: passes follow each other on the first
device; on the last, a block's sound, then its pictures. On one device what is decoded goes first and passes wait. A pass that
both share is on both queues: it waits for what the decoders have before them, and what they are given later waits for it.

Shared passes cost the decoders' device the time that they take, so there should be as many as leave it enough to decode. A
:class:`Plan` has them at the beginning, where there is nothing to decode, and goes on sharing while finished blocks wait; then
the decoders have their device for themselves, and neither device waits for the other. :func:`planned` finds how many by trying
all numbers on :func:`predict`, before the clip, with stage times measured before, and the likeliest are tried on the devices.
Plans that decide pass by pass when to share and when to hand over were searched too: the best of them was at most 3 ms ahead.

Predicted from stage times of two H200 (:class:`StageTimes`), for a clip of 117 frames, and measured in the same run:

    one device                               3588 ms    32.6 frames a second    first pictures after 289 ms    measured 33.2
    two: no pass shared                      2217 ms    52.8                    289 ms                         53.1
    and the first block's passes shared      2103 ms    55.6                    175 ms                         56.0
    and the last block decoded by both       1940 ms    60.3                    175 ms                         60.2
    and passes shared by plan, 6 and 1       1837 ms    63.7                    250 ms                         63.4
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.config import HalloLiveConfig, load_yaml
from model.decoding import Decoders, Piece, calls
from model.graphs import InFlight
from model.rollout import Draw, Latents, Rollout, audio_window
from testkit.published_files import write_config
from testkit.timed_devices import StageTimes


class Shape(NamedTuple):
    """Of a clip: blocks, latents of a block, denoise passes over each. A clean pass lies between two blocks."""

    num_blocks: int = 5
    block: int = 6
    num_denoise: int = 4

    @property
    def passes(self) -> list[tuple[int, bool]]:
        """In order: the block that a pass goes over, and whether the block is finished with it."""
        found: list[tuple[int, bool]] = []
        for number in range(self.num_blocks):
            found += [(number - 1, False)] if number else []
            found += [(number, denoised == self.num_denoise) for denoised in range(1, self.num_denoise + 1)]
        return found


CLIP = Shape()
NUM_TRIED = 5
"""Plans, the fastest of which is taken: both devices draw as much power as they may, so how fast they are depends on the plan."""


@dataclass(frozen=True)
class Plan:
    """How a clip is made.

    Attributes:
        first: so many passes from the beginning on are shared by both devices. Blocks that are finished meanwhile go to the
            decoders after the last of them.
        last: so many before the end are shared too. Both together are no more than there are.
        finishes: the last block's pictures are decoded by both devices, see :meth:`model.decoding.Decoders.finish`.
    """

    first: int = 0
    last: int = 0
    finishes: bool = False

    def shares(self, number: int, num_passes: int) -> bool:
        """Of a pass, counted from 0: whether both devices compute it."""
        return number < self.first or number >= num_passes - self.last

    def hands_over(self, number: int) -> bool:
        """And whether the decoders are given after it what is finished and they do not have."""
        return number >= self.first - 1


def predict(times: StageTimes, plan: Plan, num_devices: int = 2, shape: Shape = CLIP) -> dict[str, float]:
    """Milliseconds of a clip, until its first pictures, and until its last latents."""
    made = decoded = held = first = 0.0
    for i, (block, finishes) in enumerate(shape.passes):
        shared = plan.shares(i, len(shape.passes))
        if shared or num_devices == 1:  # what is decoded there goes first
            made = max(made, decoded)
        passes = times.split_passes if shared else times.passes
        made += passes[min(block, len(passes) - 1)]  # a window may be full before the clip ends
        if finishes:
            held += _decoding(times, plan, shape, block)
        if held and plan.hands_over(i):
            first = first or made + times.sound + times.first_latent
            decoded, held = max(made, decoded) + held, 0.0
    found = {"clip_ms": decoded, "first_pictures_ms": first, "latents_ms": made}
    return {name: round(value, 1) for name, value in found.items()}


def _decoding(times: StageTimes, plan: Plan, shape: Shape, number: int) -> float:
    """Of a block's sound and pictures, from the decoders' device having them to the host's memory."""
    if plan.finishes and number == shape.num_blocks - 1:
        return times.last_block
    begins = number == 0
    sizes = calls(shape.block, begins=begins)
    return times.sound + sum(times.pictures(size, begins=begins and i == 0) for i, size in enumerate(sizes))


def planned(times: StageTimes, plan: Plan, shape: Shape = CLIP) -> list[Plan]:
    """``plan`` with every number of shared passes, the one first by which :func:`predict` has a clip end first on two devices; of
    equals the one that shares fewer."""
    num = len(shape.passes)
    plans = [replace(plan, first=first, last=last) for first in range(num + 1) for last in range(num + 1 - first)]
    return sorted(plans, key=lambda plan: (predict(times, plan, shape=shape)["clip_ms"], plan.first + plan.last))


def ladder(times: StageTimes, shape: Shape = CLIP) -> dict[str, list[Plan]]:
    """To the fastest clip on two devices step by step, each with those before it; where there are several plans, the likeliest
    first, for whoever can try them."""
    first = Plan(first=shape.num_denoise)
    finishing = replace(first, finishes=True)
    return {
        "no pass shared": [Plan()],
        "first block's passes shared": [first],
        "last block decoded by both": [finishing],
        "passes shared by plan": planned(times, finishing, shape)[:NUM_TRIED],
    }


@dataclass(frozen=True)
class Made:
    """A clip: uint8 [T, H * 3 / 2, W], int16 [S].

    Attributes:
        figures: milliseconds from the start, of the clip and for each block: when its latents were finished on the device (on
            GPUs), its sound decoded, and its pictures, call by call.
    """

    frames: np.ndarray
    samples: np.ndarray
    figures: dict[str, Any]


def run(
    rollout: Rollout, decoders: Decoders, noise: tuple[Tensor, Tensor], num_blocks: int, draw: Draw, plan: Plan | None = None
) -> Made:
    """Make a clip. The devices have nothing else to do.

    Args:
        noise: video [1, C, F, h, w] and audio [1, L, C] of all blocks.
        plan: no pass is shared if None. What it says of a second device is passed over where there is none.
    """
    video, audio = noise
    shape, plan = Shape(num_blocks, video.shape[2] // num_blocks, len(rollout.timesteps)), plan or Plan()
    block, ratio, device = shape.block, rollout.shape.audio_per_video, video.device
    in_flight, on_gpu, passes = InFlight(device), device.type == "cuda", count()
    start_s = time.perf_counter()
    began, finished_at = _event(device), []
    done_s: dict[Piece, float] = {}
    held: list[Latents] = []
    pieces: list[tuple[Piece, list[Piece]]] = []

    def watch(piece: Piece) -> Piece:
        piece.add_done_callback(lambda piece: done_s.__setitem__(piece, time.perf_counter() - start_s))
        return piece

    def hand_over() -> None:
        for latents in held:
            if plan.finishes and len(pieces) == num_blocks - 1:
                sound, asked = decoders.finish(latents)
            else:
                sound, asked = decoders.submit(latents), decoders.ask()
            pieces.append((watch(sound), [watch(piece) for piece in asked]))
        held.clear()

    def work(one_pass: Callable[..., Latents | None]) -> Latents | None:
        number = next(passes)
        in_flight.wait()
        finished = one_pass(split=plan.shares(number, len(shape.passes)))
        in_flight.record()
        if finished is not None:
            finished_at.append(_event(device))
            held.append(finished)
        if plan.hands_over(number):
            hand_over()
        return finished

    for number in range(num_blocks):
        if not rollout.is_cache_current:
            work(rollout.update_cache)
        place = number * block
        window = audio_window(audio, place * ratio, block * ratio, rollout.dit.config.future_audio_latents)
        rollout.begin(video[:, :, place : place + block], window)
        while work(partial(rollout.denoise, draw)) is None:
            pass
    planes = [piece.result() for _, pictures in pieces for piece in pictures]
    waves = [sound.result() for sound, _ in pieces]
    clip_ms = 1000 * (time.perf_counter() - start_s)
    rows = [
        {
            "finished_ms": round(began.elapsed_time(at), 1) if on_gpu else None,
            "sound_ms": round(1000 * done_s[sound], 1),
            "pictures_ms": [round(1000 * done_s[piece], 1) for piece in pictures],
        }
        for at, (sound, pictures) in zip(finished_at, pieces, strict=True)
    ]
    return Made(np.concatenate(planes), np.concatenate(waves), {"clip_ms": clip_ms, "blocks": rows})


def _event(device: torch.device) -> Any:
    """Now, on the device's current stream; None where there is none."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event


def split_network(network: Path, *, splits: bool = True) -> Path:
    """A config like ``network`` by which two devices share passes, or do not, in a directory of its own."""
    config = load_yaml(network, HalloLiveConfig)
    rollout = config.rollout.model_copy(update={"split_passes": splits})
    path = Path(tempfile.mkdtemp()) / network.name
    write_config(path, config.model_copy(update={"rollout": rollout}))
    return path


def main() -> None:
    times = StageTimes()
    frames = 4 * 6 * len(times.passes) - 3
    rows = [("one device", Plan(), 1), *((name, plans[0], 2) for name, plans in ladder(times).items())]
    for name, plan, num_devices in rows:
        row: dict[str, Any] = {"way": name, "shared": [plan.first, plan.last], **predict(times, plan, num_devices)}
        print(json.dumps({**row, "fps": round(1000 * frames / row["clip_ms"], 1)}))


if __name__ == "__main__":
    main()
