"""The published model on this machine: loading, ms a pass, a block and a stage, frames a second, time to the first chunk.

    python -m benchmarks.hallo_live --weights /dev/shm/hallo --random            # seeded random weights, written there if missing
    python -m benchmarks.hallo_live --weights weights --devices cuda:0 cuda:1

Weights of the right size and random numbers cost as much as trained ones; what they make is noise. Times are medians, with the
smallest and the largest, after a warm-up of every shape. A pass is one forward of the transformer; its context is the video
latents in view, the block's own included. The clip runs from noise to I420 pictures and samples in host memory, text encoded
before, decoding beside the transformer; its frames a second count everything, the first block included.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from avatar_rtc import resources
from model import hallo_live
from model.chunk import StreamSettings
from model.config import HalloLiveConfig, load_yaml
from model.hallo_live import DecodeThread, HalloLive
from model.rollout import Rollout, RolloutShape, audio_window, roll_out
from model.vae.pictures import i420_from_frames
from tests.support.published_files import write_published_files

PROMPT = (
    "Photographic close-up of a woman in a bright office. <S>Good morning.<E> <S>It is nice to meet you.<E> "
    "<AUDCAP>A clear female voice.<ENDAUDCAP>"
)
CLIP_BLOCKS = 5


def spread(seconds: list[float]) -> dict[str, float]:
    """Milliseconds."""
    return {name: round(1000 * f(seconds), 2) for name, f in (("median", statistics.median), ("min", min), ("max", max))}


class Bench:
    """Times parts of a loaded model."""

    def __init__(self, model: HalloLive, repeats: int) -> None:
        self.model, self.repeats = model, repeats
        parts, g = model.parts, model.geometry
        self.config = parts.config
        self.device = parts.dit.video_ends.head.weight.device
        self.decode_device = parts.video.latent_mean.device
        self.shape = RolloutShape(g.latent_height, g.latent_width, g.audio_latents_per_video_latent)
        self.generator = torch.Generator(self.device).manual_seed(0)

    def draw(self, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.randn(shape, generator=self.generator, device=self.device)

    def wait(self) -> None:
        for device in {self.device, self.decode_device}:
            if device.type == "cuda":
                torch.cuda.synchronize(device)

    def time(self, work: Callable[[], object]) -> list[float]:
        """Seconds of each run; two more go before."""
        taken = []
        for _ in range(self.repeats + 2):
            self.wait()
            start_s = time.perf_counter()
            work()
            self.wait()
            taken.append(time.perf_counter() - start_s)
        return taken[2:]

    def noise(self, num_video: int) -> tuple[torch.Tensor, torch.Tensor]:
        channels = self.config.dit.video.latent_channels, self.config.dit.audio.latent_channels
        video = self.draw((1, channels[0], num_video, self.shape.height, self.shape.width))
        return video, self.draw((1, num_video * self.shape.audio_per_video, channels[1]))

    def passes(self) -> list[dict[str, Any]]:
        """Of each block of a clip: one denoise pass, and the clean one."""
        block = self.config.geometry.block_video_latents
        seat = self.model.take_seat(self.model.read(PROMPT))
        rollout = seat.rollout
        rows = []
        for number in range(self.config.rollout.window_latents // block):
            video, audio = self.noise(block)
            ahead = self.config.dit.future_audio_latents
            audio = audio_window(audio, 0, audio.shape[1], ahead)

            def denoise(video: torch.Tensor = video, audio: torch.Tensor = audio) -> None:
                rollout.begin(video, audio)
                rollout.denoise(self.draw)

            denoise_s = self.time(denoise)
            rollout.begin(video, audio)
            while rollout.denoise(self.draw) is None:
                pass
            clean = rollout._clean
            assert clean is not None

            def remember(clean: tuple[torch.Tensor, torch.Tensor] = clean) -> None:
                rollout._pass(*clean, rollout.config.context_timestep, 0)

            clean_s = self.time(remember)
            rollout.remember()
            rows.append({"context_latents": (number + 1) * block, "denoise_ms": spread(denoise_s), "clean_ms": spread(clean_s)})
        self.model.free_seat(seat)
        return rows

    def rollout(self) -> Rollout:
        return Rollout(self.model.parts.dit, self.config.rollout, self.shape, self.model.read(PROMPT))

    def stages(self) -> dict[str, Any]:
        """Text, and what the decoders do: a video latent, a block's sound, pictures to the host."""
        parts, device = self.model.parts, self.decode_device
        block = self.config.geometry.block_video_latents
        video, audio = (x.to(device) for x in self.noise(2 * block))
        audio = audio.transpose(1, 2).to(next(parts.audio.vae.parameters()).dtype)
        _, cache = parts.video.decode(video[:, :, :1])
        frames, cache = parts.video.decode(video[:, :, 1:2], cache)
        half = audio.shape[2] // 2
        _, state = parts.audio.decode(audio[:, :, :half])
        return {
            "text_ms": spread(self.time(lambda: self.model.read(PROMPT))),
            "video_latent_ms": spread(self.time(lambda: parts.video.decode(video[:, :, 2:3], cache))),
            "audio_block_ms": spread(self.time(lambda: parts.audio.decode(audio[:, :, half:], state))),
            "i420_to_host_ms": spread(self.time(lambda: i420_from_frames(frames).cpu())),
        }

    def clip(self) -> dict[str, Any]:
        """Noise to pictures and samples of a whole clip."""
        g, block = self.model.geometry, self.config.geometry.block_video_latents
        totals: list[float] = []
        firsts: list[float] = []
        for _ in range(self.repeats + 1):
            seat = self.model.take_seat(self.model.read(PROMPT))
            rollout, decoder = seat.rollout, DecodeThread(self.model.parts, g, seat)
            noise = self.noise(CLIP_BLOCKS * block)
            self.wait()
            start_s = time.perf_counter()
            first: list[float] = []
            for latents in roll_out(rollout, *noise, [block] * CLIP_BLOCKS, self.draw):
                _, pictures_of_first, *_ = decoder.submit(latents)
                if not first:
                    # Waiting for them here would hold the transformer up.
                    def on_pictures(_: object, at: list[float] = first, since_s: float = start_s) -> None:
                        at.append(time.perf_counter() - since_s)

                    pictures_of_first.add_done_callback(on_pictures)
            pictures = 0
            while decoder.num_waiting:
                piece = decoder.take(wait=True)
                assert piece is not None
                pictures += len(piece[0])
            totals.append(time.perf_counter() - start_s)
            firsts.append(first[0])
            decoder.close()
            self.model.free_seat(seat)
        num_frames = pictures - g.lead_in_frames
        steady_s = statistics.median(totals[1:]) / CLIP_BLOCKS
        return {
            "frames": num_frames,
            "clip_ms": spread(totals[1:]),
            "clip_fps": round(num_frames / statistics.median(totals[1:]), 2),
            "rtf": round(steady_s / float(g.block_duration_s), 3),
            "first_pictures_ms": spread(firsts[1:]),
        }

    def first_chunk(self) -> dict[str, Any]:
        """A stream that is open and listens not yet: from its first prompt, text encoder included, to its first chunk."""

        def run() -> None:
            stream = self.model.open(StreamSettings("A woman in a bright office.", "a clear voice"))
            stream.push("a", "Good morning.")
            while stream.step() is None:
                pass
            stream.close()

        return {"first_chunk_with_text_ms": spread(self.time(run))}


def precision(weights: Path, network: Path, config: HalloLiveConfig, device: str) -> list[dict[str, float]]:
    """Relative L2 distance of bfloat16 from float32, block by block, of latents and of the pictures made of them."""
    kept: dict[torch.dtype, list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]] = {}
    for dtype in (torch.bfloat16, torch.float32):
        model = hallo_live.load(weights, network, (device,), lambda message: None, dtype=dtype)
        bench = Bench(model, 1)
        block, cache, rows = config.geometry.block_video_latents, None, []
        with torch.inference_mode():
            for latents in roll_out(bench.rollout(), *bench.noise(CLIP_BLOCKS * block), [block] * CLIP_BLOCKS, bench.draw):
                pieces = []
                for index in range(block):
                    frames, cache = model.parts.video.decode(latents.video[:, :, index : index + 1], cache)
                    pieces.append(frames.float().cpu())
                rows.append((latents.video.float().cpu(), latents.audio.float().cpu(), torch.cat(pieces, dim=2)))
        kept[dtype] = rows
        del model, bench, cache
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def distance(half: torch.Tensor, full: torch.Tensor) -> float:
        return round(float((half - full).norm() / full.norm()), 5)

    pairs = zip(kept[torch.bfloat16], kept[torch.float32], strict=True)
    names = ("video_latents", "audio_latents", "frames")
    return [{name: distance(a, b) for name, a, b in zip(names, half, full, strict=True)} for half, full in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, metavar="DIR", help="as 'avatar-rtc download inference' leaves it")
    parser.add_argument("--random", action="store_true", help="write seeded random weights there first, if there are none")
    parser.add_argument("--network", type=Path, default=resources.network("hallo_live"), metavar="FILE", help="sizes")
    parser.add_argument("--devices", nargs="+", default=["cuda:0"], help="the transformer's, then the decoders'")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--precision", action="store_true", help="only compare bfloat16 with float32; needs 80 GB more")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON object there too")
    options = parser.parse_args()
    config = load_yaml(options.network, HalloLiveConfig)
    result: dict[str, Any] = {"network": config.name, "devices": options.devices, "torch": torch.__version__}
    on_gpu = options.devices[0].startswith("cuda")
    if on_gpu:
        result["gpu"] = torch.cuda.get_device_name(options.devices[0])

    def note(name: str, value: Any) -> None:
        result[name] = value
        print(f"{name}: {json.dumps(value)}", flush=True)
        if options.out:
            options.out.write_text(json.dumps(result, indent=1) + "\n")

    if options.random and not (options.weights / hallo_live.VOCODER).exists():
        start_s = time.perf_counter()
        write_published_files(options.weights, config, device=torch.device(options.devices[0]))
        note("written_s", round(time.perf_counter() - start_s, 1))
    if options.precision:
        note("relative_l2_of_bf16", precision(options.weights, options.network, config, options.devices[0]))
        return
    start_s = time.perf_counter()
    model = hallo_live.load(options.weights, options.network, options.devices, lambda line: print(line, file=sys.stderr))
    note("load_s", round(time.perf_counter() - start_s, 1))
    note("peak_host_gb", round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2))
    bench = Bench(model, options.repeats)
    with torch.inference_mode():
        note("stages", bench.stages())
        note("passes", bench.passes())
        note("clip", bench.clip())
        note("first_chunk", bench.first_chunk())
    if on_gpu:
        memory = {name: round(torch.cuda.max_memory_allocated(name) / 1e9, 2) for name in options.devices}
        note("peak_device_gb", memory)


if __name__ == "__main__":
    main()
