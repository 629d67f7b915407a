"""Checks of the dual-stream transformer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from model.adapters import ovi
from model.config import DiTConfig, RolloutConfig, TowerConfig
from model.dit import masks
from model.dit.cache import VideoContext
from model.dit.masks import Staircase
from model.dit.transformer import DualStreamTransformer, Flow
from model.rollout import Draw, Latents, Rollout, RolloutShape, roll_out
from model.sampling import NoiseTable, add_noise, clean_from_velocity, euler_step, shift_levels, velocity_from_clean
from model.training.dmd import score_timesteps
from model.training.ode import clip_forward
from model.training.teacher import kept_states, teacher_table, whole_forward
from model.training.views import BlockSizes
from testkit.golden import Fixture


def tower(published: dict[str, Any]) -> TowerConfig:
    audio = published["model_type"] == "t2a"
    assert published["in_dim"] == published["out_dim"]
    assert published["qk_norm"]
    assert published["cross_attn_norm"]
    return TowerConfig(
        dim=published["dim"],
        ffn_dim=published["ffn_dim"],
        num_heads=published["num_heads"],
        latent_channels=published["in_dim"],
        stem="conv" if audio else "linear",
        time_scale=published.get("temporal_rope_scaling_factor", 1.0),
    )


def dit_config(video: dict[str, Any], audio: dict[str, Any], future_audio_latents: int = 0) -> DiTConfig:
    """From the published constructors' arguments."""
    for key in ("num_layers", "text_dim", "freq_dim", "eps"):
        assert video[key] == audio[key]
    return DiTConfig(
        video=tower(video),
        audio=tower(audio),
        num_layers=video["num_layers"],
        text_dim=video["text_dim"],
        freq_dim=video["freq_dim"],
        eps=video["eps"],
        future_audio_latents=future_audio_latents,
    )


def load(
    fixture: Fixture, config: DiTConfig, patch_cells: int, state_dict: dict[str, Tensor] | None = None
) -> DualStreamTransformer:
    tensors = fixture.state_dict() if state_dict is None else state_dict
    return ovi.build(config, patch_cells, tensors, fixture.path, expected="the fixture's model")


def channels_first(video_BFCHW: Tensor) -> Tensor:
    return video_BFCHW.transpose(1, 2)


def padded(length: int) -> int:
    """As the published training code pads for its masks."""
    return -(-length // 128) * 128


def check_masked(fixture: Fixture) -> None:
    """The training forward over a whole clip."""
    config, stored = fixture.meta["config"], fixture.tensors
    dit = load(
        fixture, dit_config(config["video"], config["audio"], config["future_audio_frames"]), config["video"]["patch_size"][1]
    )
    table = NoiseTable.shifted(config.get("timestep_shift", 5.0))
    block = BlockSizes(config["video_num_frame_per_block"], config["audio_num_frame_per_block"])
    text = dit.read_text(stored["in.prompt_embeds"], (None, None), None)
    video, audio = channels_first(stored["in.video"]), stored["in.audio"]
    times = stored["in.video_timestep"], stored["in.audio_timestep"]
    num_padded = padded(audio.shape[1])
    assert num_padded == config["padded_lengths"]["audio"]
    for prefix, padding in (("out", num_padded), ("alt_clipped", None)):
        if f"{prefix}.video_flow" not in stored:
            continue
        with torch.inference_mode():
            flow = clip_forward(dit, video, audio, *times, text, block, padded_audio=padding)
        fixture.close(channels_first(flow.video), f"{prefix}.video_flow")
        fixture.close(flow.audio, f"{prefix}.audio_flow")
        if f"{prefix}.video_x0" in stored:
            video_level, audio_level = (table.level(t) for t in times)
            clean = clean_from_velocity(video, flow.video, video_level[:, None, :, None, None])
            fixture.close(channels_first(clean), f"{prefix}.video_x0")
            fixture.close(clean_from_velocity(audio, flow.audio, audio_level[:, :, None]), f"{prefix}.audio_x0")
    check_masks(fixture, block, num_padded)


def check_masks(fixture: Fixture, block: BlockSizes, padded_audio: int) -> None:
    """Of the tokens in use; the rest is padding."""
    config = fixture.meta["config"]
    num_blocks, ahead = config["video_frames"] // block.video, config["future_audio_frames"]
    videos = (config["video_tokens"] // num_blocks,) * num_blocks
    audios = (block.audio,) * num_blocks
    for name, queries, keys, future in (
        ("video_self", videos, videos, 0),
        ("audio_self", audios, audios, 0),
        ("video_q_audio_kv", videos, audios, ahead),
        ("audio_q_video_kv", audios, videos, 0),
    ):
        padded_keys = padded_audio if keys is audios else padded(sum(videos))
        mask = Staircase.of_blocks(queries, keys, future, padded_keys).dense()
        stored = fixture.tensors[f"mask.{name}"][: sum(queries)]
        assert list(mask.shape) == fixture.meta["mask_rows_in_use"][name]
        assert torch.equal(stored[:, : mask.shape[1]], mask), f"{fixture.path.stem}: {name}"
        assert not stored[:, mask.shape[1] :].any(), f"{fixture.path.stem}: {name}"
        of_query, of_key = (torch.arange(num_blocks).repeat_interleave(torch.tensor(sizes)) for sizes in (queries, keys))
        if future:
            dense = masks.future_expanding(of_query, of_key, torch.arange(sum(keys)), keys[0], future)
        else:
            dense = masks.block_causal(of_query, of_key)
        assert torch.equal(stored[:, : sum(keys)], dense), f"{fixture.path.stem}: {name}"


@dataclass(frozen=True)
class Call:
    """One forward: what went in, and what came out."""

    video: Tensor
    audio: Tensor
    video_timesteps: Tensor
    audio_timesteps: Tensor
    flow: Flow


def open_rollout(fixture: Fixture, blocks: list[tuple[int, int]], prompts: Tensor) -> Rollout:
    """A stream as the fixture's config describes it; ``blocks`` are video and audio latents of each."""
    config = fixture.meta["config"]
    (ratio,) = {audio // video for video, audio in blocks}
    assert all(audio == ratio * video for video, audio in blocks)
    assert config["warp_denoising_step"]
    sizes = dit_config(config["video"], config["audio"], config["future_audio_frames"])
    dit = load(fixture, sizes, config["video"]["patch_size"][1])
    rollout = RolloutConfig(
        steps=tuple(config["denoising_step_list"]),
        shift=config["timestep_shift"],
        context_timestep=config["context_noise"],
        window_latents=sum(video for video, _ in blocks),
    )
    height, width = config["latent_hw"]
    shape = RolloutShape(height, width, ratio)
    return Rollout(dit, rollout, shape, dit.read_text(prompts, (None, None), None))


def scripted(draws: Iterator[Tensor]) -> Draw:
    def draw(shape: tuple[int, ...]) -> Tensor:
        noise = next(draws)
        assert noise.shape == shape
        return noise

    return draw


def check_pipeline(fixture: Fixture) -> None:
    """The whole block loop, from noise to latents."""
    config, stored = fixture.meta["config"], fixture.tensors
    block = config["video_num_frame_per_block"], config["audio_num_frame_per_block"]
    blocks = [block] * (config["num_output_frames"] // block[0])
    rollout = open_rollout(fixture, blocks, stored["in.prompt_embeds"])
    fixture.close(torch.tensor(rollout.timesteps), "denoising_timesteps")
    draws = iter([stored[f"draw{entry['draw']:03d}"] for entry in fixture.meta["draws"]])
    noises = channels_first(stored["in.video_noise"]), stored["in.audio_noise"]
    latents = list(roll_out(rollout, *noises, [video for video, _ in blocks], scripted(draws)))
    assert next(draws, None) is None
    check_latents(fixture, latents, "out")


def check_latents(fixture: Fixture, latents: list[Latents], prefix: str) -> None:
    fixture.close(channels_first(torch.cat([x.video for x in latents], dim=2)), f"{prefix}.video_latents")
    fixture.close(torch.cat([x.audio for x in latents], dim=1), f"{prefix}.audio_latents")


def check_streaming(fixture: Fixture) -> None:
    """Every forward of a stream, then what it leaves behind."""
    config, stored = fixture.meta["config"], fixture.tensors
    blocks = [tuple(sizes) for sizes in config["blocks_video_frames_audio_tokens"]]
    rollout = open_rollout(fixture, blocks, stored["prompt_embeds"])
    table = NoiseTable.shifted(config["timestep_shift"])
    fixture.close(torch.tensor(rollout.timesteps), "denoising_timesteps")
    fixture.close(table.level(torch.tensor(rollout.timesteps)), "denoising_sigmas")
    calls: list[Call] = []
    rollout.dit.register_forward_hook(lambda _, given, flow: calls.append(Call(given[0], given[1], given[2], given[3], flow)))
    draws = iter(
        stored[f"renoise.block{b}.step{step}.{stream}"]
        for b in range(len(blocks))
        for step in range(len(rollout.timesteps) - 1)
        for stream in ("video", "audio")
    )
    noises = channels_first(stored["video_noise"]), stored["audio_noise"]
    latents = list(roll_out(rollout, *noises, [video for video, _ in blocks], scripted(draws)))
    rollout.update_cache()
    assert next(draws, None) is None
    check_latents(fixture, latents, "final")
    assert len(calls) == len(fixture.meta["calls"])
    for number, (call, expected) in enumerate(zip(calls, fixture.meta["calls"], strict=True)):
        check_call(fixture, number, call, expected, table)
    check_caches(fixture, rollout, calls[-1].flow)


def check_call(fixture: Fixture, number: int, call: Call, expected: dict[str, Any], table: NoiseTable) -> None:
    name = f"call{number:02d}"
    assert call.video.shape[2] == expected["video_frames"]
    assert call.audio.shape[1] == expected["audio_tokens_in_call"]
    video_timesteps = call.video_timesteps.expand(-1, call.video.shape[2])
    fixture.close(channels_first(call.video), f"{name}.in.video")
    fixture.close(call.audio, f"{name}.in.audio")
    fixture.close(video_timesteps, f"{name}.in.video_timestep")
    fixture.close(call.audio_timesteps, f"{name}.in.audio_timestep")
    fixture.close(channels_first(call.flow.video), f"{name}.out.video_flow")
    fixture.close(call.flow.audio, f"{name}.out.audio_flow")
    video_levels, audio_levels = table.level(video_timesteps), table.level(call.audio_timesteps)
    video = clean_from_velocity(call.video, call.flow.video, video_levels[:, None, :, None, None])
    audio = clean_from_velocity(call.audio, call.flow.audio, audio_levels[:, :, None])
    fixture.close(channels_first(video), f"{name}.out.video_x0")
    fixture.close(audio, f"{name}.out.audio_x0")


def check_caches(fixture: Fixture, rollout: Rollout, last: Flow) -> None:
    """All that is stored: [B, tokens, heads, head_dim], where ours is [B, heads, tokens, head_dim]."""
    for key in fixture.tensors:
        match key.split("."):
            case ["cache", layer, name, which]:
                number = int(layer.removeprefix("layer"))
                if name.startswith("video"):
                    assert isinstance(rollout.context, VideoContext)
                    kept = rollout.context.buffers[number][("video_self", "video_cross").index(name)]
                else:
                    kept = getattr(last.memory[number], name)
            case ["textcache", layer, tower, which]:
                kept = getattr(rollout.text, tower)[int(layer.removeprefix("layer"))]
            case _:
                continue
        fixture.close(kept[("k", "v").index(which)].transpose(1, 2), key)


def check_bidirectional(fixture: Fixture) -> None:
    """The teacher. Samples of a batch have lengths of their own and are filled up with keys that nobody sees: each goes alone."""
    config, stored = fixture.meta["config"], fixture.tensors
    dit = load(fixture, dit_config(config["video"], config["audio"]), config["video"]["patch_size"][1])
    text_len = config["video"]["text_len"]
    for case in fixture.meta["cases"]:
        name = case["name"]
        for sample in range(len(case["frames"])):
            video, audio = (stored[f"{name}.in.{stream}{sample}"].unsqueeze(0) for stream in ("vid", "audio"))
            contexts = (stored[f"{name}.in.{stream}_context{sample}"] for stream in ("vid", "audio"))
            video_text, audio_text = (F.pad(x, (0, 0, 0, text_len - len(x))).unsqueeze(0) for x in contexts)
            timestep = stored[f"{name}.in.t"][sample]
            video_timesteps, audio_timesteps = timestep.expand(1, video.shape[2]).clone(), timestep.expand(1, audio.shape[1])
            if case.get("first_frame_is_clean"):
                video_timesteps[:, 0] = 0
            with torch.inference_mode():
                text = dit.read_text(video_text, (None, None), None, audio_text)
                flow = whole_forward(dit, video, audio, video_timesteps, audio_timesteps, text, case.get("slg_layer") or None)
            fixture.close(flow.video[0], f"{name}.out.vid_flow{sample}")
            fixture.close(flow.audio[0], f"{name}.out.audio_flow{sample}")


def check_scheduler(fixture: Fixture) -> None:
    config, stored = fixture.meta["config"], fixture.tensors
    num, shift = config["num_train_timesteps"], config["shift"]
    assert config["sigma_min"] == 0
    assert config["extra_one_step"]
    for key in stored:
        if key.startswith("shift") and key.endswith(".sigmas"):
            name = key.removesuffix(".sigmas")
            table = NoiseTable.shifted(float(name.removeprefix("shift")), num)
            fixture.close(table.levels, key)
            fixture.close(table.timesteps, f"{name}.timesteps")
            fixture.close(table.training_weights(), f"{name}.training_weight_table")
    table = NoiseTable.shifted(shift, num)
    warped = torch.tensor(table.warped(stored["warp.in"].tolist()))
    fixture.close(warped, "warp.out_timesteps")
    fixture.close(table.level(warped), "warp.out_sigmas_by_lookup")
    for key in stored:
        if match := re.fullmatch(r"(infer|default_sigma_min_)(\d+)\.sigmas", key):
            name, count = key.removesuffix(".sigmas"), int(match[2])
            few = NoiseTable.shifted(shift, count)
            if match[1] != "infer":  # the published constructor's own lowest level, which nothing uses
                few = NoiseTable(shift_levels(torch.linspace(1, 0.003 / 1.002, count), shift))
            fixture.close(few.levels, key)
            fixture.close(few.timesteps, f"{name}.timesteps")
    check_conversions(fixture, table)
    check_steps(fixture, table)
    check_trajectory_times(fixture, shift)
    fixture.close(1000 * shift_levels(stored["dmd_shift.in"] / 1000, shift), "dmd_shift.shifted")
    fixture.close(score_timesteps(stored["dmd_shift.in"], shift), "dmd_shift.clamped")


def check_conversions(fixture: Fixture, table: NoiseTable) -> None:
    stored = fixture.tensors
    levels = table.level(stored["t"])
    fixture.close(table.training_weights()[table.nearest(stored["t"])], "training_weight")
    for stream in ("video", "audio"):
        clean, noise, flow = (stored[f"{stream}.{name}"] for name in ("x0", "noise", "flow"))
        level = levels.view(-1, *[1] * (clean.ndim - 1))
        fixture.close(add_noise(clean, noise, level), f"{stream}.add_noise")
        fixture.close(clean_from_velocity(clean, flow, level), f"{stream}.flow_to_x0")
        fixture.close(velocity_from_clean(noise, clean, level), f"{stream}.x0_to_flow")
        fixture.close(noise - clean, f"{stream}.training_target")


def check_steps(fixture: Fixture, table: NoiseTable) -> None:
    stored = fixture.tensors
    place = table.nearest(stored["step.t"])
    shape = (-1, *[1] * (stored["step.sample"].ndim - 1))
    level, following = table.levels[place].view(shape), table.levels[place + 1].view(shape)
    sample, output = stored["step.sample"], stored["step.model_output"]
    fixture.close(euler_step(sample, output, level, following), "step.out")
    fixture.close(euler_step(sample, output, level, 0.0), "step.out_to_final")


def check_trajectory_times(fixture: Fixture, shift: float) -> None:
    stored = fixture.tensors
    for name in {key.split(".")[0] for key in stored if key.startswith("ode_euler")}:
        num_steps, states = len(stored[f"{name}.timesteps"]), stored[f"{name}.kept_indices"].tolist()
        table = teacher_table(num_steps, shift)
        fixture.close(table.timesteps, f"{name}.timesteps")
        fixture.close(torch.cat((table.levels, torch.zeros(1))), f"{name}.sigmas")
        assert kept_states(num_steps, len(states)) == states
