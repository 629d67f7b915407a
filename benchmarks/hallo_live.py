"""The published model on this machine: loading, ms a pass, a block and a stage, frames a second, time to the first chunk.

    python -m benchmarks.hallo_live --weights /dev/shm/hallo --random            # seeded random weights, written there if missing
    python -m benchmarks.hallo_live --weights weights --devices cuda:0 --keep one.safetensors
    python -m benchmarks.hallo_live --weights weights --devices cuda:0 cuda:1 --compare one.safetensors
    python -m benchmarks.hallo_live --weights weights --devices cuda:0 cuda:1 --precision

Weights of the right size and random numbers cost as much as trained ones; what they make is noise. Times are medians, with the
smallest and the largest, after a warm-up of every shape. A pass is one forward of the transformer; its context is the video
latents in view, the block's own included. The clip runs from noise to I420 pictures and samples in host memory, text encoded
before, decoding beside the transformer; its frames a second count everything, the first block included. On two devices it is made
in several ways, each of which adds something to the one before; with ``--no-split`` in the first of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from avatar_rtc import resources
from benchmarks import clip
from benchmarks.clip import Plan
from benchmarks.memory import HostPeak, peak_device_gb
from benchmarks.mid_stream import Player, RealTime
from model import hallo_live
from model.adapters.hallo_live import load_generator
from model.adapters.umt5 import load_umt5
from model.adapters.wan import load_wan_decoder
from model.chunk import AVChunk, StreamSettings
from model.config import HalloLiveConfig, load_yaml
from model.decoding import AT_ONCE
from model.hallo_live import HalloLive
from model.rollout import Draw, Latents, Rollout, RolloutShape, audio_window, roll_out
from model.text.umt5 import TextEncoder, UMT5Tokenizer
from model.vae.pictures import i420_from_frames
from model.vae.wan import WanDecoder, channels_last
from testkit.published_files import write_published_files
from testkit.timed_devices import StageTimes

PROMPT = (
    "Photographic close-up of a woman in a bright office. <S>Good morning.<E> <S>It is nice to meet you.<E> "
    "<AUDCAP>A clear female voice.<ENDAUDCAP>"
)
CLIP_BLOCKS = 5
TRIES = 3
"""Clips by which one of several plans is chosen."""
LOW_WATER_S = 1.2
"""As ``configs/server/hallo_live_1gpu.yaml`` has it."""
PARTS = ("stages", "passes", "clip", "first_chunk", "stream", "sustained")


def draws(generator: torch.Generator, device: torch.device) -> Draw:
    return lambda shape: torch.randn(shape, generator=generator, device=device)


def clip_noise(config: HalloLiveConfig, shape: RolloutShape, num_video: int, draw: Draw) -> tuple[torch.Tensor, torch.Tensor]:
    """For so many video latents: [1, C, F, h, w] and [1, L, C]."""
    video = draw((1, config.dit.video.latent_channels, num_video, shape.height, shape.width))
    return video, draw((1, num_video * shape.audio_per_video, config.dit.audio.latent_channels))


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
        self.draw = draws(self.generator, self.device)
        self.num_prompts = 0

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
        return clip_noise(self.config, self.shape, num_video, self.draw)

    def passes(self) -> list[dict[str, Any]]:
        """Of each block of a clip: one denoise pass, shared by both devices too if they can, and the clean one."""
        block = self.config.geometry.block_video_latents
        buffers = self.model.take_buffers()
        buffers.rollout.text = self.model.read(PROMPT)
        rollout = buffers.rollout
        rows = []
        for number in range(self.config.rollout.window_latents // block):
            video, audio = self.noise(block)
            ahead = self.config.dit.future_audio_latents
            audio = audio_window(audio, 0, audio.shape[1], ahead)

            def denoise(split: bool, video: torch.Tensor = video, audio: torch.Tensor = audio) -> None:
                rollout.begin(video, audio)
                rollout.denoise(self.draw, split=split)

            row: dict[str, Any] = {"context_latents": (number + 1) * block}
            for name, split in (("denoise_ms", False), ("split_ms", True))[: 1 + rollout.can_split]:
                row[name] = spread(self.time(partial(denoise, split)))
            rollout.begin(video, audio)
            while rollout.denoise(self.draw) is None:
                pass
            rows.append({**row, "clean_ms": spread(self.time(rollout.clean_pass))})
            rollout.update_cache()
        self.model.free_buffers(buffers)
        return rows

    def stages(self) -> dict[str, Any]:
        """Text, and what the decoders do in a stream: a video latent and as many as go into a call, a last block's by both
        devices, a block's sound once the window is full, pictures to the host."""
        parts, device = self.model.parts, self.decode_device
        block = self.config.geometry.block_video_latents
        video, audio = (x.to(device) for x in self.noise(2 * block))
        audio = audio[:, : audio.shape[1] // 2].transpose(1, 2).to(next(parts.audio.vae.parameters()).dtype)
        frames, _ = parts.video.decode(video[:, :, :2])
        buffers = self.model.take_buffers()
        buffers.pictures.decode(video[:, :, :1])
        for _ in range(2 + self.config.audio_stream.left_latents // audio.shape[2]):
            buffers.sound.decode(audio)

        def first_latent() -> None:
            buffers.pictures.begin()
            buffers.pictures.decode(video[:, :, :1])

        row = {
            "text_ms": spread(self.time(lambda: self.model.read(self.new_prompt()))),
            "known_text_ms": spread(self.time(lambda: self.model.read(PROMPT))),
            "first_video_latent_ms": spread(self.time(first_latent)),
            "video_latent_ms": spread(self.time(lambda: buffers.pictures.decode(video[:, :, 2:3]))),
            "video_latents_ms": spread(self.time(lambda: buffers.pictures.decode(video[:, :, 2 : 2 + AT_ONCE]))),
            "audio_block_ms": spread(self.time(lambda: buffers.sound.decode(audio))),
            "i420_to_host_ms": spread(self.time(lambda: i420_from_frames(frames).cpu())),
        }
        if buffers.pictures.can_finish:
            row["block_ms"] = spread(self.time(partial(self.decode, buffers, finishes=False)))
            row["block_and_last_block_ms"] = spread(self.time(partial(self.decode, buffers, finishes=True)))
        self.model.free_buffers(buffers)
        return row

    def decode(self, buffers: hallo_live.StreamBuffers, *, finishes: bool) -> None:
        """A stream's first block; and a last one by both devices."""
        block = self.config.geometry.block_video_latents
        buffers.begin()
        decoders = buffers.decoders(self.model.parts, self.model.geometry)
        pieces = [decoders.submit(Latents(*self.noise(block))), *decoders.ask()]
        if finishes:
            sound, pictures = decoders.finish(Latents(*self.noise(block)))
            pieces += [sound, *pictures]
        for piece in pieces:
            piece.result()
        decoders.close()

    def new_prompt(self) -> str:
        """As long as the others, and never read before."""
        self.num_prompts += 1
        return f"{PROMPT} {self.num_prompts}"

    def clip(self) -> dict[str, Any]:
        """Noise to pictures and samples of a whole clip, see :mod:`benchmarks.clip`; on two devices that share passes also each
        step to the fastest, with what :func:`benchmarks.clip.predict` makes of stage times measured just before."""
        if self.model.parts.second is None or self.model.parts.second_video is None:
            return self._clips(clip.Plan(), self.repeats)[0]
        shape = clip.Shape(CLIP_BLOCKS, self.config.geometry.block_video_latents, len(self.config.rollout.steps))
        times = self.stage_times()
        result: dict[str, Any] = {"stage_ms": asdict(times)}
        plainly: Streamed | None = None
        for name, plans in clip.ladder(times, shape).items():
            tried = {} if len(plans) == 1 else {plan: self._clips(plan, TRIES)[0]["clip_ms"]["median"] for plan in plans}
            plan = min(tried, key=tried.__getitem__, default=plans[0])
            figures, made = self._clips(plan, self.repeats)
            plainly = plainly or made
            predicted = clip.predict(times, plan, shape=shape)
            row = {"plan": asdict(plan), "predicted": predicted, **figures, "against_the_first": made.compared(plainly)}
            if tried:
                row["tried_ms"] = [[plan.first, plan.last, clip_ms] for plan, clip_ms in tried.items()]
            result[name] = row
            print(f"clip, {name}: {json.dumps(row)}", flush=True)
        return result

    def stage_times(self) -> StageTimes:
        """As measured now: medians."""
        passes, stages = self.passes(), {name: one["median"] for name, one in self.stages().items()}
        return StageTimes(
            passes=tuple(row["denoise_ms"]["median"] for row in passes),
            split_passes=tuple(row["split_ms"]["median"] for row in passes),
            sound=stages["audio_block_ms"],
            first_latent=stages["first_video_latent_ms"],
            latent=stages["video_latent_ms"],
            latents=stages["video_latents_ms"],
            last_block=stages["block_and_last_block_ms"] - stages["block_ms"],
        )

    def _clips(self, plan: Plan, num_clips: int) -> tuple[dict[str, Any], Streamed]:
        """Medians of clips; and the one made to be warm, which is the same whatever the plan."""
        g, block = self.model.geometry, self.config.geometry.block_video_latents
        self.generator.manual_seed(0)
        found: list[dict[str, Any]] = []
        warm: Streamed | None = None
        for _ in range(num_clips + 1):
            buffers = self.model.take_buffers()
            buffers.rollout.text = self.model.read(PROMPT)
            decoders, noise = buffers.decoders(self.model.parts, g), self.noise(CLIP_BLOCKS * block)
            self.wait()
            made = clip.run(buffers.rollout, decoders, noise, CLIP_BLOCKS, self.draw, plan)
            decoders.close()
            self.wait()
            self.model.free_buffers(buffers)
            found.append(made.figures)
            warm = warm or Streamed(torch.from_numpy(made.frames), torch.from_numpy(made.samples))
        assert warm is not None
        seconds = [one["clip_ms"] / 1000 for one in found[1:]]
        num_frames = len(warm.frames) - g.lead_in_frames
        return {
            "frames": num_frames,
            "clip_ms": spread(seconds),
            "clip_fps": round(num_frames / statistics.median(seconds), 2),
            "rtf": round(statistics.median(seconds) / CLIP_BLOCKS / float(g.block_duration_s), 3),
            "first_pictures_ms": spread([one["blocks"][0]["pictures_ms"][0] / 1000 for one in found[1:]]),
            "blocks_of_the_last": found[-1]["blocks"],
        }, warm

    def first_chunk(self) -> dict[str, Any]:
        """From the first prompt of a stream to its first chunk, text encoder included; the prompt is a new one each time. The
        devices rest before, and what was begun for later chunks does not count."""

        def run(line: str) -> float:
            self.wait()
            start_s = time.perf_counter()
            stream = self.model.open(StreamSettings("A woman in a bright office.", "a clear voice"))
            stream.push("a", line)
            while stream.step() is None:
                pass
            taken_s = time.perf_counter() - start_s
            stream.close()
            return taken_s

        new = [run(f"Good morning, number {number}.") for number in range(self.repeats + 2)][2:]
        known = [run("Good morning.") for _ in range(self.repeats + 1)][1:]
        return {"first_chunk_with_text_ms": spread(new), "first_chunk_of_a_known_prompt_ms": spread(known)}


def precision(weights: Path, config: HalloLiveConfig, devices: Sequence[str], num_blocks: int) -> Iterator[dict[str, float]]:
    """Relative L2 distance of bfloat16 from float32, text encoder to pictures, block by block; the same noise for both.

    The networks come one after the other, so that float32 fits: the transformer and its memory take 71 GB at full size.
    """
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    first, last = torch.device(devices[0]), torch.device(devices[-1])
    dtypes = torch.bfloat16, torch.float32
    tokenizer = UMT5Tokenizer(weights / hallo_live.TOKENIZER, config.text)
    umt5 = load_umt5(weights / hallo_live.TEXT_ENCODER, config.text, device=last)
    texts = [TextEncoder(tokenizer, torch.nn.Module.to(umt5, dtype=dtype), config.text)([PROMPT]).to(first) for dtype in dtypes]
    del umt5
    _free(last)
    dit = load_generator(weights / hallo_live.GENERATOR, config.dit, config.geometry.patch_cells, device=first)
    g, block = config.geometry.build(), config.geometry.block_video_latents
    shape = RolloutShape(g.latent_height, g.latent_width, g.audio_latents_per_video_latent)
    settings = config.rollout.model_copy(update={"window_latents": min(config.rollout.window_latents, num_blocks * block)})
    made: list[list[Latents]] = []
    for dtype, text in zip(dtypes, texts, strict=True):
        dit.to(dtype)
        draw = draws(torch.Generator(first).manual_seed(0), first)
        rollout = Rollout(dit, settings, shape, dit.read_text(text, (None, None), None))
        noise = clip_noise(config, shape, num_blocks * block, draw)
        blocks = list(roll_out(rollout, *noise, [block] * num_blocks, draw))
        made.append([Latents(latents.video.float().cpu(), latents.audio.float().cpu()) for latents in blocks])
        del rollout, noise, blocks
        _free(first)
        print(f"{dtype}: latents are made", file=sys.stderr, flush=True)
    latents = [[distance(getattr(a, name), getattr(b, name)) for a, b in zip(*made, strict=True)] for name in ("video", "audio")]
    print(f"latents of video and audio, block by block: {latents}", file=sys.stderr, flush=True)
    del dit
    _free(first)
    decoders = [load_wan_decoder(weights / hallo_live.VIDEO_VAE, config.video_vae, device=last, dtype=dtype) for dtype in dtypes]
    if last.type == "cuda":
        channels_last(decoders[0])
    for one, other, half, full in zip(*made, *map(decoded, decoders, made), strict=True):
        yield {
            "video_latents": distance(one.video, other.video),
            "audio_latents": distance(one.audio, other.audio),
            "frames": distance(half, full),
        }


def distance(half: torch.Tensor, full: torch.Tensor) -> float:
    """Relative L2."""
    return round(float((half.float() - full.float()).norm() / full.float().norm()), 5)


def decoded(decoder: WanDecoder, blocks: Sequence[Latents]) -> Iterator[torch.Tensor]:
    """Pictures of each block, in the host's memory."""
    weight, cache = decoder.latent_mean, None
    for latents in blocks:
        pieces = []
        for latent in latents.video.to(weight.device, weight.dtype).split(1, dim=2):
            frames, cache = decoder.decode(latent, cache)
            pieces.append(frames.cpu())
        yield torch.cat(pieces, dim=2)


def _free(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()


@dataclass(frozen=True)
class Streamed:
    """The beginning of a stream: pictures uint8 [T, H * 3 / 2, W], samples int16 [S]."""

    frames: torch.Tensor
    samples: torch.Tensor

    def compared(self, other: Streamed) -> dict[str, float]:
        """In 8-bit levels, and relative L2 distances."""
        ours, theirs = self.frames.float(), other.frames.float()
        sound, reference = self.samples.float(), other.samples.float()
        apart = (ours - theirs).abs()
        return {
            "frames_max_levels": float(apart.max()),
            "frames_mean_levels": round(float(apart.mean()), 4),
            "frames_relative_l2": round(float((ours - theirs).norm() / theirs.norm()), 6),
            "samples_relative_l2": round(float((sound - reference).norm() / reference.norm().clamp(min=1)), 6),
        }


def streamed(model: HalloLive, num_chunks: int) -> tuple[dict[str, Any], Streamed]:
    """A stream from its first line on, as it is served: when chunks leave, and when blocks are finished on the device."""
    stream = model.open(StreamSettings("A woman in a bright office.", "a clear voice", seed=1))
    devices = model.parts.dit.video_ends.head.weight.device, model.parts.video.latent_mean.device
    device = devices[0]
    for one in devices:  # one may still be at work for the stream before
        if one.type == "cuda":
            torch.cuda.synchronize(one)
    submit, start_s, finished = stream.decoders.submit, time.perf_counter(), []

    def watch(latents: Latents) -> Any:
        event = torch.cuda.Event() if device.type == "cuda" else None
        if event is not None:
            event.record(torch.cuda.current_stream(device))
        finished.append(event)
        return submit(latents)

    stream.decoders.submit = watch  # type: ignore[method-assign]
    stream.push("a", "Good morning. It is nice to meet you.")
    left_ms: list[float] = []
    chunks: list[AVChunk] = []
    num_finished = 0
    while len(chunks) < num_chunks:
        chunk = stream.step()
        if chunk is None:
            continue
        if not chunks:
            num_finished = sum(event is None or event.query() for event in finished)
        left_ms.append(round(1000 * (time.perf_counter() - start_s), 1))
        chunks.append(chunk)
    stream.close()
    block = model.info.chunks_per_block
    rtf = (left_ms[-1] - left_ms[block - 1]) / 1000 / ((num_chunks - block) * model.info.chunk_duration_s)
    figures = {"blocks_finished_when_first_chunk_leaves": num_finished, "rtf": round(rtf, 3), "chunk_leaves_ms": left_ms}
    frames, samples = (torch.from_numpy(np.concatenate([getattr(c, name) for c in chunks])) for name in ("frames", "samples"))
    return figures, Streamed(frames, samples)


def sustained(model: HalloLive, seconds: float) -> dict[str, Any]:
    """A stream whose window is full: as fast as it goes, with how much somebody who watches from there on must have in hand never
    to wait. Then another from its beginning, as a call plays it, and how often that has to wait after its first chunk, before and
    after its window is full."""
    settings = StreamSettings("A woman in a bright office.", "a clear voice", seed=1)
    stream = model.open(settings)

    def leaves() -> float:
        while stream.step() is None:
            pass
        return time.perf_counter()

    for _ in range(model.warm_up_chunks):
        leaves()
    num_chunks, duration_s = round(seconds / model.info.chunk_duration_s), model.info.chunk_duration_s
    left_s = [leaves() for _ in range(num_chunks)]
    spare_s = [left_s[0] + number * duration_s - at_s for number, at_s in enumerate(left_s)]
    taken_s = left_s[-1] - left_s[0]
    stream.close()
    stream = model.open(settings)
    player = Player(stream, model.info, RealTime(), LOW_WATER_S)

    def play(num_chunks: int) -> None:
        for _ in range(num_chunks):
            while player.turn() is None:
                pass

    play(1)
    num_first = len(player.late_s)
    play(model.warm_up_chunks + num_chunks - 1)
    late_s = player.late_s[num_first:]
    stream.close()
    return {
        "seconds": round(num_chunks * duration_s, 2),
        "rtf": round(taken_s / ((num_chunks - 1) * duration_s), 3),
        "fps": round((num_chunks - 1) * duration_s * model.info.fps / taken_s, 2),
        "needed_in_hand_ms": round(1000 * max(0.0, -min(spare_s)), 1),
        "played": {"low_water_ms": round(1000 * LOW_WATER_S), "underruns": len(late_s), "held_ms": round(1000 * sum(late_s))},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, metavar="DIR", help="as 'avatar-rtc download inference' leaves it")
    parser.add_argument("--random", action="store_true", help="write seeded random weights there first, if there are none")
    parser.add_argument("--network", type=Path, default=resources.network("hallo_live"), metavar="FILE", help="sizes")
    parser.add_argument("--devices", nargs="+", default=["cuda:0"], help="the transformer's, then the decoders'")
    parser.add_argument("--split", action=argparse.BooleanOptionalAction, help="two devices share passes (if not said: yes)")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what is measured (default: all)")
    parser.add_argument("--seconds", type=float, default=60, help="of the sustained stream")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="keep what the stream shows and sounds")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="compare it with what another run kept")
    parser.add_argument("--precision", action="store_true", help="only compare bfloat16 with float32")
    parser.add_argument("--blocks", type=int, default=CLIP_BLOCKS, help="of --precision")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON object there too")
    options = parser.parse_args()
    if options.split is not None:
        options.network = clip.split_network(options.network, splits=options.split)
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
        with HostPeak() as host, torch.inference_mode():
            rows: list[dict[str, float]] = []
            for row in precision(options.weights, config, options.devices, options.blocks):
                rows.append(row)
                note("relative_l2_of_bf16", rows)
        note("peak_host_gb", round(host.gb, 2))
        note("peak_device_gb", peak_device_gb())
        return
    with HostPeak() as host:
        start_s = time.perf_counter()
        # A second video decoder takes memory that only the clip needs.
        finishes = len(options.devices) > 1 and options.split is not False and "clip" in options.parts
        report = partial(print, file=sys.stderr)
        model = hallo_live.load(options.weights, options.network, options.devices, report, finishes=finishes)
        note("load_s", round(time.perf_counter() - start_s, 1))
    note("peak_host_gb_while_loading", round(host.gb, 2))
    note("peak_device_gb_while_loading", peak_device_gb())
    bench = Bench(model, options.repeats)
    with HostPeak() as host:
        if "stream" in options.parts:
            num_chunks = CLIP_BLOCKS * bench.config.geometry.block_video_latents
            streamed(model, num_chunks)  # warm
            figures, heard = streamed(model, num_chunks)
            note("stream", figures)
            if options.compare:
                note(f"compared_with_{options.compare.stem}", heard.compared(Streamed(**load_file(options.compare))))
            if options.keep:
                save_file({"frames": heard.frames, "samples": heard.samples}, options.keep)
        if "sustained" in options.parts:
            note("sustained", sustained(model, options.seconds))
        with torch.inference_mode():
            for part in PARTS:
                if part in options.parts and part not in ("stream", "sustained"):
                    note(part, getattr(bench, part)())
    note("peak_host_gb", round(host.gb, 2))
    note("peak_device_gb", peak_device_gb())


if __name__ == "__main__":
    main()
