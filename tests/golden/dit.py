"""Checks of the dual-stream transformer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from model.adapters import ovi
from model.config import DiTConfig, TowerConfig
from model.dit import masks
from model.dit.masks import Staircase
from model.dit.transformer import DualStreamTransformer
from model.sampling import NoiseTable, clean_from_velocity
from model.training.ode import BlockSizes, clip_forward
from tests.golden.fixture import Fixture


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
        blocks = [torch.arange(num_blocks).repeat_interleave(torch.tensor(sizes)) for sizes in (queries, keys)]
        if future:
            dense = masks.future_expanding(*blocks, torch.arange(sum(keys)), keys[0], future)
        else:
            dense = masks.block_causal(*blocks)
        assert torch.equal(stored[:, : sum(keys)], dense), f"{fixture.path.stem}: {name}"
