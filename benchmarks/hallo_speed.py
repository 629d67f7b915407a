"""Where the published model's time goes on this GPU: eager kernels, fused ones, and graphs of them, side by side in one run.

    python -m benchmarks.hallo_speed --out speed.json
    python -m benchmarks.hallo_speed --out speed.json --only passes profile

No files are needed: weights of the published sizes are seeded random numbers, drawn where they are used, and so are text
embeddings. Times are milliseconds: median, smallest and largest of runs after a warm-up. A pass is one forward of the
transformer; its context is the video latents in view, the block's own included. Sections run one by one, and one that fails is
noted and passed by.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

from avatar_rtc import resources
from benchmarks import clip
from model import kernels
from model.config import DiTConfig, HalloLiveConfig, load_yaml
from model.dit.transformer import DualStreamTransformer, TextMemory
from model.graphs import CudaGraphCache
from model.hallo_live import HalloLive, Parts, serving
from model.kernels import eager
from model.rollout import Rollout, RolloutShape, audio_window, roll_out
from model.vae.audio_stream import AudioStreamDecoder, SoundStream
from model.vae.bigvgan import BigVGAN, antialias_filter
from model.vae.mmaudio import MMAudioVAE
from model.vae.picture_stream import PictureStream
from model.vae.wan import WanDecoder, channels_last, fold_upsampling

HALF = torch.bfloat16
M = TypeVar("M", bound=nn.Module)


def on_device(build: Callable[[], M], device: torch.device, dtype: torch.dtype, seed: int) -> M:
    """A module of seeded random weights whose activations stay finite, made in place."""
    with torch.device("meta"):
        module = build()
    module = module.to(dtype).to_empty(device=device).requires_grad_(False).eval()
    generator = torch.Generator(device).manual_seed(seed)
    tensors = [*module.named_parameters(), *module.named_buffers()]
    for name, x in tensors:
        if name.endswith("modulation"):
            x.normal_(0, 1 / math.sqrt(x.shape[-1]), generator=generator)
        elif name.endswith(("gain", "std", "frequency", "scale")) or (name.endswith("weight") and x.ndim == 1):
            x.normal_(1, 0.1, generator=generator)
        elif name.endswith("taps"):
            x.copy_(antialias_filter())
        elif x.ndim < 2 or name.endswith("mean"):
            x.normal_(0, 0.02, generator=generator)
        else:
            x.normal_(0, 1 / math.sqrt(math.prod(x.shape[1:])), generator=generator)
    return module


@contextmanager
def eager_kernels() -> Iterator[None]:
    chosen, kernels.on = kernels.on, lambda x: cast(kernels.Kernels, eager)
    try:
        yield
    finally:
        kernels.on = chosen


def distance(found: Tensor, exact: Tensor) -> float:
    return round(float((found.float() - exact.float()).norm() / exact.float().norm()), 6)


class Bench:
    """The sections, in the order in which they run. What one builds, later ones use."""

    SECTIONS = (
        "parity",
        "attention",
        "passes",
        "split",
        "profile",
        "checks",
        "roll",
        "decoder",
        "sound",
        "clip",
        "precision",
        "float8",
    )

    def __init__(self, config: HalloLiveConfig, devices: list[torch.device], repeats: int) -> None:
        self.config, self.devices, self.repeats = config, devices, repeats
        self.geometry = g = config.geometry.build()
        self.shape = RolloutShape(g.latent_height, g.latent_width, g.audio_latents_per_video_latent)
        self.block = g.block_video_latents
        self.device = devices[0]
        self.generator = torch.Generator(self.device).manual_seed(0)
        self.rows: Any = None
        """What the section in work has found so far."""
        self._dit: DualStreamTransformer | None = None
        self._rollout: Rollout | None = None

    def draw(self, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=self.generator, device=self.device)

    def half(self, *shape: int) -> Tensor:
        return self.draw(shape).to(HALF)

    def wait(self) -> None:
        for device in self.devices:
            torch.cuda.synchronize(device)

    def time(self, work: Callable[[], object], repeats: int | None = None) -> dict[str, float]:
        """Milliseconds by the host's clock between two waits for the devices; two runs go before."""
        taken = []
        for _ in range((repeats or self.repeats) + 2):
            self.wait()
            start_s = time.perf_counter()
            work()
            self.wait()
            taken.append(1000 * (time.perf_counter() - start_s))
        kept = taken[2:]
        return {"median": round(statistics.median(kept), 3), "min": round(min(kept), 3), "max": round(max(kept), 3)}

    def noise(self, num_video: int) -> tuple[Tensor, Tensor]:
        dit = self.config.dit
        video = self.draw((1, dit.video.latent_channels, num_video, self.shape.height, self.shape.width))
        return video, self.draw((1, num_video * self.shape.audio_per_video, dit.audio.latent_channels))

    def text(self, dit: DualStreamTransformer) -> TextMemory:
        dtype = dit.video_ends.head.weight.dtype
        return dit.read_text(self.draw((1, self.config.text.text_len, self.config.dit.text_dim)).to(dtype), (None, None), None)

    def dit(self) -> DualStreamTransformer:
        if self._dit is None:
            cells = self.config.geometry.patch_cells
            self._dit = on_device(lambda: DualStreamTransformer(self.config.dit, cells), self.device, HALF, 1)
        return self._dit

    def decoder(self, dtype: torch.dtype, *, fold: bool) -> WanDecoder:
        decoder = on_device(lambda: WanDecoder(self.config.video_vae), self.device, torch.float32, 2)
        if fold:
            fold_upsampling(decoder)
        return channels_last(decoder.to(dtype))

    # Sections

    def parity(self) -> Any:
        """Relative L2 from float32 of each fused kernel and its eager twin in bfloat16, at the sizes in use; and their times."""
        from model.kernels import fused

        tower, g = self.config.dit.video, self.geometry
        tokens, width, heads, ffn_dim = g.tokens_per_video_latent * self.block, tower.dim, tower.num_heads, tower.ffn_dim
        x, y, qkv = self.half(1, tokens, width), self.half(1, tokens, width), self.half(1, tokens, 3 * width)
        six = self.half(1, 1, 6, width).unsqueeze(3).unbind(2)
        weight, angles = self.half(width), self.draw((tokens, width // heads // 2)).repeat_interleave(2, dim=-1)
        table = angles.cos(), angles.sin()
        ffn = on_device(
            lambda: nn.Sequential(nn.Linear(width, ffn_dim), nn.GELU(approximate="tanh"), nn.Linear(ffn_dim, width)),
            self.device,
            HALF,
            3,
        )
        stem = on_device(lambda: nn.Conv1d(width, 8 * width // 3, 7, padding=3, bias=False), self.device, HALF, 4)
        stem.weight.data = stem.weight.data.transpose(1, 2).contiguous().transpose(1, 2)
        sound = self.half(1, 150, width)
        channels, more, most, *_ = self.config.video_vae.decoder_widths
        height, wide = g.height_px // 2, g.width_px // 2
        picture = self.half(1, channels, 4, height, wide).contiguous(memory_format=torch.channels_last_3d)
        window = torch.empty(1, channels, 6, height, wide, device=self.device, dtype=HALF, memory_format=torch.channels_last_3d)
        gain, patches = self.half(channels), self.half(1, 12, 4, height, wide).contiguous(memory_format=torch.channels_last_3d)
        phases = self.half(4, 4 * more, height // 2 + 1, wide // 2 + 1).contiguous(memory_format=torch.channels_last)
        source = self.half(1, most, 4, height // 2, wide // 2).contiguous(memory_format=torch.channels_last_3d)
        bias = self.half(more)

        def norm_silu(ops: ModuleType, cast_to: torch.dtype) -> Tensor:
            out = window[:, :, 2:] if cast_to == HALF else torch.empty_like(picture, dtype=cast_to)
            ops.norm_silu(picture.to(cast_to), gain.to(cast_to), gain.to(cast_to), out)
            return out

        def residual(ops: ModuleType, to: torch.dtype) -> Tensor:
            return ops.add_residual(picture.to(to).clone(memory_format=torch.preserve_format), gain.to(to), picture.to(to))

        cases: dict[str, Callable[[ModuleType, torch.dtype], Tensor]] = {
            "norm_modulate": lambda ops, to: ops.norm_modulate(x.to(to), six[0].to(to), six[1].to(to), 1e-6),
            "add_gated": lambda ops, to: ops.add_gated(x.to(to), y.to(to), six[2].to(to)),
            "heads, normed and rotated": lambda ops, to: ops.split_heads(
                qkv.to(to)[..., :width], heads, (weight.to(to), 1e-6), table
            ),
            "mlp": lambda ops, to: ops.mlp(x.to(to), ffn if to == HALF else _wide(ffn)),
            "conv1d": lambda ops, to: ops.conv1d(sound.to(to), stem if to == HALF else _wide(stem)),
            "norm_silu": norm_silu,
            "add_residual": residual,
            "grow": lambda ops, to: ops.interleave_phases(phases.to(to), bias.to(to), source.to(to), more, 1, 0),
            "i420_from_patches": lambda ops, to: ops.i420_from_patches(patches.to(to)),
        }
        rows: dict[str, Any] = {}
        self.rows = rows
        for name, case in cases.items():
            try:
                exact = case(eager, torch.float32)
                ours, theirs = case(fused, HALF).clone(), case(eager, HALF).clone()
                rows[name] = {
                    "fused_error": distance(ours, exact),
                    "eager_error": distance(theirs, exact),
                    "fused_ms": self.on_device_ms(partial(case, fused, HALF)),
                    "eager_ms": self.on_device_ms(partial(case, eager, HALF)),
                }
            except Exception:
                rows[name] = traceback.format_exc(limit=3)
            torch.cuda.empty_cache()
        return rows

    def attention(self) -> Any:
        """Milliseconds of each backend at the sizes in use, 24 heads of 128."""
        rows: list[dict[str, Any]] = []
        self.rows = rows
        for queries, keys in (
            *((2976, n) for n in (30, 150, 512, 2976, 5952, 8928, 11904, 14880)),
            *((n, n) for n in (30, 150)),
            *((150, n) for n in (512, 2976, 8928, 14880)),
        ):
            q, k, v = (self.half(1, n, 24, 128).transpose(1, 2) for n in (queries, keys, keys))
            row: dict[str, Any] = {"queries": queries, "keys": keys}
            backends = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION]
            for name, allowed in (("cudnn", backends[:1]), ("flash", backends[1:]), ("chosen by torch", backends)):
                try:
                    with sdpa_kernel(allowed):
                        row[name] = self.on_device_ms(partial(F.scaled_dot_product_attention, q, k, v))
                except RuntimeError as error:
                    row[name] = str(error).splitlines()[0]
            rows.append(row)
        return rows

    def on_device_ms(self, work: Callable[[], object], calls: int = 10) -> float:
        """Of one call among several in a row, by the device's clock."""
        for _ in range(3):
            work()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(calls):
            work()
        end.record()
        torch.cuda.synchronize(self.device)
        return float(round(begin.elapsed_time(end) / calls, 4))

    def decoder_section(self) -> Any:
        """Video decoder: milliseconds a latent, after the first."""
        rows: dict[str, Any] = {}
        self.rows = rows
        plain = self.decoder(HALF, fold=False)
        video = self.noise(13)[0]

        def one_by_one(decoder: WanDecoder) -> Callable[[], object]:
            _, cache = decoder(video[:, :, :1])
            return lambda: decoder.decode(video[:, :, 1:2], cache)

        with eager_kernels():
            rows["eager"] = self.time(one_by_one(plain), 5)
            frames = self.draw((1, 3, 4, self.geometry.height_px, self.geometry.width_px))
            rows["eager_i420_to_host"] = self.time(lambda: eager.i420_from_frames(frames).cpu(), 5)
        rows["fused"] = self.time(one_by_one(plain), 5)
        del plain
        folded = self.decoder(HALF, fold=True)
        rows["fused_folded"] = self.time(one_by_one(folded), 5)
        torch.cuda.empty_cache()
        for num in (1, 2, 3, 6):
            stream = PictureStream(folded, records=True)
            stream.decode(video[:, :, :1])
            taken = self.time(partial(stream.decode, video[:, :, 1 : 1 + num]), 5)
            rows[f"graphed_planes_{num}_a_call"] = {name: round(ms / num, 3) for name, ms in taken.items()}
            del stream
            torch.cuda.empty_cache()
        rows["peak_gb"] = round(torch.cuda.max_memory_allocated(self.device) / 1e9, 2)
        rows["kernels"] = self.kernel_table(one_by_one(folded))
        return rows

    def sound_decoder(self, device: torch.device) -> AudioStreamDecoder:
        vae = on_device(lambda: MMAudioVAE(self.config.audio_vae), device, HALF, 5)
        vocoder = on_device(lambda: BigVGAN(self.config.vocoder), device, HALF, 6)
        return AudioStreamDecoder(vae, vocoder, self.config.audio_stream)

    def sound(self) -> Any:
        """Audio decoder and vocoder: milliseconds a block, once the window is full."""
        decoder = self.sound_decoder(self.device)
        rows: dict[str, Any] = {}
        self.rows = rows
        latents = self.noise(self.block)[1].transpose(1, 2).to(HALF)
        for name, records in (("eager", False), ("graphed", True)):
            stream = SoundStream(decoder, records=records)
            for _ in range(7):
                stream.decode(latents)
            rows[name] = self.time(partial(stream.decode, latents))
            rows[f"{name}_kernels"] = self.kernel_table(partial(stream.decode, latents), 12)
        return rows

    def precision(self) -> Any:
        """Relative L2 from float32 of eager bfloat16 and of the fast path: four layers at full width, two blocks; pictures of two
        latents."""
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = False
        raw = self.config.dit.model_dump()
        config, cells = DiTConfig.model_validate({**raw, "num_layers": 4}), self.config.geometry.patch_cells
        half = on_device(lambda: DualStreamTransformer(config, cells), self.device, HALF, 1)
        full = on_device(lambda: DualStreamTransformer(config, cells), self.device, HALF, 1).float()
        embedded = self.half(1, self.config.text.text_len, config.text_dim)
        clip = self.noise(2 * self.block)

        def latents(dit: DualStreamTransformer, graphs: CudaGraphCache | None) -> list[tuple[Tensor, Tensor]]:
            text = dit.read_text(embedded.to(dit.video_ends.head.weight.dtype), (None, None), None)
            rollout = Rollout(dit, self.config.rollout, self.shape, text, graphs=graphs)
            generator = torch.Generator(self.device).manual_seed(7)
            blocks = roll_out(
                rollout, *clip, [self.block] * 2, lambda shape: torch.randn(shape, generator=generator, device=self.device)
            )
            return [(latents.video.clone(), latents.audio.clone()) for latents in blocks]

        exact = latents(full, None)
        with eager_kernels():
            before = latents(half, None)
        after = latents(half.prepare_for_inference(), CudaGraphCache())
        rows: dict[str, Any] = {}
        self.rows = rows
        for name, found in (("eager", before), ("fast", after)):
            rows[f"latents_{name}"] = [
                {"video": distance(v, exact_v), "audio": distance(a, exact_a)}
                for (v, a), (exact_v, exact_a) in zip(found, exact, strict=True)
            ]
        del before, after
        rounded = on_device(lambda: DualStreamTransformer(config, cells), self.device, HALF, 1).prepare_for_inference(float8=True)
        rows["latents_float8"] = [
            {"video": distance(v, exact_v), "audio": distance(a, exact_a)}
            for (v, a), (exact_v, exact_a) in zip(latents(rounded, CudaGraphCache()), exact, strict=True)
        ]
        del half, full, exact, rounded
        torch.cuda.empty_cache()
        video = self.draw((1, 48, 3, 16, 31))

        def pictures(decoder: WanDecoder) -> Tensor:
            first, cache = decoder(video[:, :, :1])
            return torch.cat((first, decoder(video[:, :, 1:], cache)[0]), dim=2)

        exact_frames = pictures(self.decoder(torch.float32, fold=False))
        with eager_kernels():
            rows["frames_eager"] = distance(pictures(self.decoder(HALF, fold=False)), exact_frames)
        rows["frames_fused"] = distance(pictures(self.decoder(HALF, fold=False)), exact_frames)
        rows["frames_fused_folded"] = distance(pictures(self.decoder(HALF, fold=True)), exact_frames)
        return rows

    def float8(self) -> Any:
        """Passes of rounded weights, which are not exact: see what ``precision`` says of them."""
        self._rollout = self._dit = None
        torch.cuda.empty_cache()
        rows: list[dict[str, Any]] = []
        self.rows = rows
        cells = self.config.geometry.patch_cells
        dit = on_device(lambda: DualStreamTransformer(self.config.dit, cells), self.device, HALF, 1).prepare_for_inference(
            float8=True
        )
        rollout = Rollout(dit, self.config.rollout, self.shape, self.text(dit), graphs=CudaGraphCache())
        rows += self._passes(rollout, "float8", self.repeats)
        rollout.begin(*self.noise(self.block))
        rows.append({"kernels": self.kernel_table(partial(rollout.denoise, self.draw), 20)})
        return rows

    def full_rollout(self, graphs: CudaGraphCache | None) -> Rollout:
        return Rollout(self.dit(), self.config.rollout, self.shape, self.text(self.dit()), graphs=graphs)

    def passes(self) -> Any:
        """Each context of a clip: one denoise pass and the clean one, three ways."""
        rows: list[dict[str, Any]] = []
        self.rows = rows
        rollout = self.full_rollout(None)
        with eager_kernels():
            rows += self._passes(rollout, "eager", 3)
        rows += self._passes(rollout, "fused", 3)
        self.dit().prepare_for_inference()
        rows += self._passes(rollout, "fused, joined", 3)
        del rollout
        torch.cuda.empty_cache()
        start_s = time.perf_counter()
        self._rollout = self.full_rollout(CudaGraphCache())
        rows += self._passes(self._rollout, "graphed", self.repeats)
        rows.append({"way": "graphed", "all_s": round(time.perf_counter() - start_s, 1)})
        rows.append({"peak_gb": round(torch.cuda.max_memory_allocated(self.device) / 1e9, 2)})
        return rows

    def _passes(self, rollout: Rollout, way: str, repeats: int) -> list[dict[str, Any]]:
        rollout.reset()
        rows: list[dict[str, Any]] = []
        for number in range(self.config.rollout.window_latents // self.block):
            video, audio = self.noise(self.block)
            window = audio_window(audio, 0, audio.shape[1], self.config.dit.future_audio_latents)

            def denoise(video: Tensor = video, window: Tensor = window) -> None:
                rollout.begin(video, window)
                rollout.denoise(self.draw)

            row: dict[str, Any] = {"way": way, "context_latents": (number + 1) * self.block}
            row["denoise_ms"] = self.time(denoise, repeats)
            rollout.begin(video, window)
            rollout.denoise(self.draw, leave=True)
            row["clean_ms"] = self.time(rollout.clean_pass, repeats)
            rollout.update_cache()
            rows.append(row)
            print(json.dumps(row), flush=True)
        return rows

    def split(self) -> Any:
        """Passes that the first and the last device share, against those of the first alone: milliseconds at each context, how
        far apart their velocities are, how long the host is at work for one. History comes from either in turns."""
        if len(self.devices) < 2:
            return "needs two devices"
        rows: list[dict[str, Any]] = []
        self.rows = rows
        second = self.dit().video_replica(self.devices[-1]).prepare_for_inference()
        dit = self.dit().prepare_for_inference()
        rollout = Rollout(dit, self.config.rollout, self.shape, self.text(dit), graphs=CudaGraphCache(), second=second)

        def zeros(shape: tuple[int, ...]) -> Tensor:
            return torch.zeros(shape, device=self.device)

        for number in range(self.config.rollout.window_latents // self.block):
            video, audio = self.noise(self.block)
            window = audio_window(audio, 0, audio.shape[1], self.config.dit.future_audio_latents)

            def denoise(split: bool, video: Tensor = video, window: Tensor = window) -> None:
                rollout.begin(video, window)
                rollout.denoise(self.draw, split=split)

            def flow(split: bool, video: Tensor = video, window: Tensor = window) -> tuple[Tensor, Tensor]:
                history = rollout.finished_audio
                whole = torch.cat((history, window.to(HALF)), dim=1)
                made = rollout.forward(video.to(HALF), whole, 1000.0, history.shape[1], split=split)
                return made.video.clone(), made.audio.clone()

            row: dict[str, Any] = {"context_latents": (number + 1) * self.block}
            start_s = time.perf_counter()
            denoise(True)
            self.wait()
            row["record_s"] = round(time.perf_counter() - start_s, 2)
            for name, split in (("solo", False), ("split", True)):
                row[f"{name}_ms"] = self.time(partial(denoise, split), max(10, self.repeats))
            self.wait()
            start_s = time.perf_counter()
            denoise(True)
            row["split_host_ms"] = round(1000 * (time.perf_counter() - start_s), 2)
            self.wait()
            solo, shared, again = flow(False), flow(True), flow(True)
            row["relative_l2"] = {name: distance(shared[i], solo[i]) for i, name in enumerate(("video", "audio"))}
            row["same_twice"] = all(torch.equal(x, y) for x, y in zip(shared, again, strict=True))
            rollout.begin(video, window)
            rollout.denoise(zeros, leave=True, split=True)
            rollout.update_cache(split=number % 2 == 1)
            rows.append(row)
            print(json.dumps(row), flush=True)
        rows.append({"peak_gb": [round(torch.cuda.max_memory_allocated(device) / 1e9, 2) for device in self.devices]})
        return rows

    def replayed(self) -> Rollout:
        """With a full window behind it."""
        if self._rollout is None:
            self.dit().prepare_for_inference()
            self._rollout = self.full_rollout(CudaGraphCache())
        rollout = self._rollout
        if not rollout.is_cache_current:
            rollout.update_cache()
        while rollout.num_latents + self.block <= self.config.rollout.window_latents:
            rollout.begin(*self.noise(self.block))
            rollout.denoise(self.draw, leave=True)
            rollout.update_cache()
        return rollout

    def kernel_table(self, work: Callable[[], object], rows: int = 20) -> list[dict[str, Any]]:
        """The kernels that take most of the device's time in one run of ``work``."""
        work()
        torch.cuda.synchronize(self.device)
        try:
            with profile(activities=[ProfilerActivity.CUDA]) as profiler:
                work()
                torch.cuda.synchronize(self.device)
        except (AssertionError, RuntimeError) as error:  # not every machine lets kernels be traced
            return [{"kernel": f"no trace: {error}"}]
        found = sorted(profiler.key_averages(), key=lambda event: -event.self_device_time_total)
        total = sum(event.self_device_time_total for event in found)
        table: list[dict[str, Any]] = [{"kernel": "all", "calls": sum(e.count for e in found), "ms": round(total / 1000, 3)}]
        for event in found[:rows]:
            table.append({"kernel": event.key[:110], "calls": event.count, "ms": round(event.self_device_time_total / 1000, 3)})
        return table

    def profile(self) -> Any:
        """Kernels of one pass over a full window, replayed."""
        rollout = self.replayed()
        rollout.begin(*self.noise(self.block))
        table = self.kernel_table(lambda: rollout.denoise(self.draw), 30)
        return table

    def checks(self) -> Any:
        """No wait in a block; a replay sees the cache as it is."""
        rollout = self.replayed()
        noise = self.noise(self.block)
        rollout.begin(*noise)
        torch.cuda.synchronize(self.device)
        torch.cuda.set_sync_debug_mode("error")
        try:
            while rollout.denoise(self.draw) is None:
                pass
            rollout.update_cache()
            rollout.begin(*noise)
        finally:
            torch.cuda.set_sync_debug_mode("default")

        def flow() -> Tensor:
            rollout.begin(*noise)
            block = rollout.denoise(self.draw, leave=True)
            assert block is not None
            rollout.rollback(block.video.shape[2])
            return block.video.clone()

        first, again = flow(), flow()
        cast(Any, rollout.context).buffers[-1][0].value[:, :, :100] += 1
        changed = flow()
        return {
            "waits_in_a_block": 0,
            "same_twice": torch.equal(first, again),
            "perturbed_cache_moves_latents_by": distance(changed, first),
        }

    def roll(self) -> Any:
        """What it costs that the oldest block leaves a full window."""
        rollout = self.replayed()

        def leave() -> None:
            rollout.context.drop(0, self.block)
            rollout.context.commit(self.block)

        rows: dict[str, Any] = {"fused": self.time(leave, 5)}
        with eager_kernels():
            rows["eager"] = self.time(leave, 3)
        return rows

    def clip(self) -> Any:
        """Noise to planes and samples in host memory: a clip of 30 latents, then on with a full window; text is read before."""
        rows: dict[str, Any] = {}
        self.rows = rows
        self._rollout = None
        torch.cuda.empty_cache()
        for devices in ([self.device], self.devices[:2]) if len(self.devices) > 1 else ([self.device],):
            last = devices[-1]
            first_device, self.device = self.device, last
            decoder, sound = self.decoder(torch.float32, fold=False), self.sound_decoder(last)
            self.device = first_device
            dit = self.dit().prepare_for_inference()
            text = self.text(dit)

            parts = Parts(self.config, dit, cast(Any, None), cast(Any, None), decoder, sound)
            start_s = time.perf_counter()
            model = serving(parts, HALF, print, warm=False)
            model.read = lambda prompt, text=text: text  # type: ignore[method-assign, misc]
            model.warm_up()
            row: dict[str, Any] = {"warm_up_s": round(time.perf_counter() - start_s, 1)}
            row |= self._clip(model, text)
            row["peak_gb"] = [round(torch.cuda.max_memory_allocated(d) / 1e9, 2) for d in devices]
            rows[f"{len(devices)} GPU"] = row
            print(json.dumps(row), flush=True)
            del model, parts, decoder, sound
            torch.cuda.empty_cache()
        return rows

    def _clip(self, model: HalloLive, text: TextMemory) -> dict[str, Any]:
        g, num_blocks, more = self.geometry, self.config.rollout.window_latents // self.block, 4
        found = []
        for blocks in [num_blocks] * 4 + [num_blocks + more] * 3:
            buffers = model.take_buffers()
            buffers.rollout.text = text
            decoders = buffers.decoders(model.parts, g)
            noise = self.noise(blocks * self.block)
            for device in self.devices:
                torch.cuda.synchronize(device)
            found.append(clip.run(buffers.rollout, decoders, noise, blocks, self.draw).figures)
            decoders.close()
            model.free_buffers(buffers)
        clips, longer = found[1:4], found[4:]
        clip_ms = statistics.median(one["clip_ms"] for one in clips)
        later_ms = (statistics.median(one["clip_ms"] for one in longer) - clip_ms) / more
        frames = num_blocks * g.block_frames - g.lead_in_frames
        return {
            "clip_frames": frames,
            "clip_s": [round(one["clip_ms"] / 1000, 3) for one in clips],
            "clip_fps": round(1000 * frames / clip_ms, 2),
            "first_pictures_ms": round(statistics.median(one["blocks"][0]["pictures_ms"][0] for one in clips), 1),
            "block_at_full_window_ms": round(later_ms, 1),
            "fps_at_full_window": round(1000 * g.block_frames / later_ms, 2),
            "blocks_of_the_last": clips[-1]["blocks"],
        }


def _wide(module: M) -> M:
    """A float32 copy."""
    return copy.deepcopy(module).float()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", type=Path, default=resources.network("hallo_live"), metavar="FILE", help="sizes")
    parser.add_argument("--devices", nargs="+", help="the transformer's, then the decoders'; all there are if not given")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--only", nargs="+", choices=Bench.SECTIONS, default=Bench.SECTIONS, metavar="SECTION")
    parser.add_argument("--limit-s", type=float, help="begin no section later than this")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="where to write the JSON object")
    options = parser.parse_args()
    names = options.devices or [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    devices = [torch.device(name) for name in names]
    torch.cuda.set_device(devices[0])
    torch.backends.cudnn.benchmark = True
    bench = Bench(load_yaml(options.network, HalloLiveConfig), devices, options.repeats)
    result: dict[str, Any] = {"gpu": torch.cuda.get_device_name(devices[0]), "num_gpus": len(devices), "torch": torch.__version__}
    begun_s = time.perf_counter()
    for name in options.only:
        start_s = time.perf_counter()
        if options.limit_s and start_s - begun_s > options.limit_s:
            result.setdefault("left_out", []).append(name)
            continue
        bench.rows = None
        try:
            with torch.inference_mode():
                result[name] = getattr(bench, "decoder_section" if name == "decoder" else name)()
        except Exception:  # the others are worth having
            result[name] = {"failed": traceback.format_exc(), "until_then": bench.rows}
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        result.setdefault("seconds", {})[name] = round(time.perf_counter() - start_s, 1)
        print(f"{name}: {json.dumps(result[name], indent=None)}", flush=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"seconds: {result['seconds']}, {time.perf_counter() - begun_s:.0f} in all", flush=True)


if __name__ == "__main__":
    main()
