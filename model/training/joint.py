"""Stage 3: the transformer and its text side, jointly on video and audio latents, by flow matching under block-causal masks.

Durations are learned along with the rest, from few sentences seen often; stage 4 (model.training.durations) learns them properly.

Resumes by the same command. All clips are turned into latents first, which takes seconds; then nothing but the GPU is used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from model.config import ModelConfig, load_yaml
from model.data.captions import caption, vocabulary
from model.data.clips import ClipSet
from model.data.face import Look
from model.data.speech import VOICES
from model.dit.transformer import DualStreamTransformer
from model.geometry import Geometry
from model.liveliness import CONTROLS, per_latent
from model.text.encoder import DURATION_UNIT_S, TextEncoder
from model.text.phonemes import IDS, PAUSE_ID
from model.text.tokenizer import SEPARATOR, CaptionTokenizer
from model.text.track import PAUSE, with_pauses
from model.training.loop import Averaged, Graphed, Piece, adamw, arguments, default_device, export, save_state, set_learning_rate
from model.training.objective import Sequence as LatentSequence
from model.training.objective import TextBatch, masked_forward
from model.training.prepare import wait_for
from model.vae.audio import AudioVAE
from model.vae.video import VideoVAE, pack_i420
from model.weight_files import fill, read_tensors

CAPTIONS_PER_CLIP = 12
SEQUENCE_BLOCKS = 12
CLEAN_SHARE = 0.4
SERVED_SHARE = 0.5
CAPTION_DROPOUT = 0.08
HISTORY_NOISE = 0.06


class Speaker(nn.Module):
    """Everything that this stage learns; ``labels`` reads a look off its caption, a helping task that is thrown away."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dit = DualStreamTransformer(config.dit, config.geometry.patch_cells)
        self.text = TextEncoder(config.text)
        self.labels = nn.ModuleDict({name: nn.Linear(config.text.dim, count) for name, count in Look.cardinalities().items()})


class LatentClips:
    """All clips as latents, text and weights on one device."""

    def __init__(self, directory: Path, config: ModelConfig, geometry: Geometry, run: Path, device: torch.device) -> None:
        clips = ClipSet.open(directory)
        video_vae, audio_vae = VideoVAE(config.video_vae), AudioVAE(config.audio_vae, geometry.sample_rate_hz)
        for vae, name in ((video_vae, "video"), (audio_vae, "audio")):
            wait_for(run / f"{name}_encoder.done")
            vae.load_state_dict(load_file(run / f"{name}_vae.safetensors"))
            vae.to(device).eval()
        self.device, self.geometry = device, geometry
        self.num_blocks = clips.frames.shape[1] // geometry.block_frames
        num_latents = clips.frames.shape[1] // geometry.temporal_stride_frames
        video, audio, weight, control = [], [], [], []
        controlled = config.dit.control_channels > 0
        lookahead = config.audio_vae.fft_samples
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            for i in range(len(clips.frames)):
                frames = torch.from_numpy(clips.frames[i]).to(device).unsqueeze(0)
                video.append(video_vae.encode(pack_i420(frames))[0].transpose(0, 1).to(torch.bfloat16))  # [F, C, h, w]
                wave = torch.from_numpy(clips.samples[i]).to(device).float().unsqueeze(0) / 32768
                latents = audio_vae.encode(F.pad(wave, (0, lookahead)))[
                    0, :, : num_latents * geometry.audio_latents_per_video_latent
                ]
                audio.append(latents.T.to(torch.bfloat16))
                weight.append(self._weights(clips.boxes[i], num_latents))
                rows = per_latent(clips.controls[i][:, : len(CONTROLS) * controlled], geometry.temporal_stride_frames)
                control.append(torch.from_numpy(rows).to(device))
        self.video, self.audio, self.weight, self.control = (torch.stack(x) for x in (video, audio, weight, control))
        self._texts(clips, config)

    def _weights(self, boxes: np.ndarray, num_latents: int) -> Tensor:
        """[F, h, w]: cells of the mouth count 4 times, of the eyes twice."""
        cell = self.geometry.spatial_stride_px
        b = torch.from_numpy(boxes.astype(np.int64)).to(self.device).view(num_latents, -1, 2, 4)
        low, high = b[..., :2].amin(1) // cell, b[..., 2:].amax(1) / cell  # [F, 2, 2] each
        rows = torch.arange(self.geometry.latent_height, device=self.device).view(1, 1, -1, 1)
        columns = torch.arange(self.geometry.latent_width, device=self.device).view(1, 1, 1, -1)
        inside = (columns >= low[..., 0, None, None]) & (columns < high[..., 0, None, None])
        inside = inside & (rows >= low[..., 1, None, None]) & (rows < high[..., 1, None, None])
        return (1 + 3 * inside[:, 0].float() + inside[:, 1].float()).to(torch.bfloat16)

    def _texts(self, clips: ClipSet, config: ModelConfig) -> None:
        """Phoneme tracks, captions and labels as tensors."""
        tokenizer = CaptionTokenizer(vocabulary(), config.text.max_words)
        if tokenizer.size > config.text.num_words:
            raise ValueError(f"the captions have {tokenizer.size} words, the config allows {config.text.num_words}")
        rng = np.random.default_rng(0)
        duration_s = clips.frames.shape[1] / self.geometry.fps
        tracks = [with_pauses(clips.events(i), duration_s) for i in range(len(clips.clips))]
        longest = max(len(t) for t in tracks)
        ids, start_s, length_s = (np.zeros((len(tracks), longest)) for _ in range(3))
        for i, track in enumerate(tracks):
            ids[i, : len(track)] = [PAUSE_ID if p == PAUSE else IDS[p] for p, _, _ in track]
            start_s[i, : len(track)] = [a for _, a, _ in track]
            length_s[i, : len(track)] = [b - a for _, a, b in track]
        mask = np.arange(longest) < np.asarray([len(t) for t in tracks])[:, None]
        captions, labels = [], []
        for i, clip in enumerate(clips.clips):
            look = clips.look(i)
            voices = VOICES[clip["voice"]].descriptions
            captions.append([tokenizer(caption(look, rng), str(rng.choice(voices))) for _ in range(CAPTIONS_PER_CLIP)])
            labels.append([look.labels()[name] for name in Look.cardinalities()])
        rate = self.geometry.sample_rate_hz / self.geometry.audio_latent_samples
        self.ids = torch.from_numpy(ids).long().to(self.device)
        self.durations_s = torch.from_numpy(length_s).float().to(self.device)
        self.times = torch.from_numpy((start_s + length_s / 2) * rate - 0.5).float().to(self.device)
        self.text_mask = torch.from_numpy(mask).to(self.device)
        self.captions = torch.from_numpy(np.asarray(captions)).to(self.device)
        self.labels = torch.tensor(labels, device=self.device)

    def draw(self, batch: int) -> dict[str, Tensor]:
        """A batch of sequences: the clip's first block, then consecutive ones, a quarter of the time right from the start."""
        device, per_video, per_audio = self.device, self.geometry.block_video_latents, self.geometry.block_audio_latents
        clip = torch.randint(len(self.video), (batch,), device=device)
        first = torch.randint(1, self.num_blocks - SEQUENCE_BLOCKS + 2, (batch, 1), device=device)
        first = torch.where(torch.rand(batch, 1, device=device) < 0.25, torch.ones_like(first), first)
        blocks = torch.cat((torch.zeros_like(first), first + torch.arange(SEQUENCE_BLOCKS - 1, device=device)), dim=1)
        video_index = (blocks.unsqueeze(-1) * per_video + torch.arange(per_video, device=device)).flatten(1)
        audio_index = (blocks.unsqueeze(-1) * per_audio + torch.arange(per_audio, device=device)).flatten(1)
        row = clip.unsqueeze(1)
        return {
            "blocks": blocks,
            "video": self.video[row, video_index].transpose(1, 2).float(),
            "weight": self.weight[row, video_index].float(),
            "audio": self.audio[row, audio_index].float(),
            "control": self.control[row, video_index],
            "ids": self.ids[clip],
            "durations_s": self.durations_s[clip],
            "times": self.times[clip],
            "text_mask": self.text_mask[clip],
            "caption": self.captions[clip, torch.randint(self.captions.shape[1], (batch,), device=device)],
            "labels": self.labels[clip],
        }


def noise_levels(batch: int, num_blocks: int, served: Sequence[float], device: torch.device) -> Tensor:
    """[B, N] in [0, 1]: 0 for clean history, half of the others near one of the levels that passes are ``served`` at, the rest
    logit-normal, a tenth of them uniform.

    At least the last block is learned, and half of the time the first one, which decides who is seen.
    """
    level = torch.sigmoid(0.4 + 1.1 * torch.randn(batch, num_blocks, device=device))
    level = torch.where(torch.rand_like(level) < 0.1, torch.rand_like(level), level)
    which, near = torch.randint(len(served), level.shape, device=device), torch.zeros_like(level)
    for i, one in enumerate(served):  # a graph that is being recorded takes no list from the host
        near = torch.where(which == i, one, near)
    near = near * (0.7 + 0.6 * torch.rand_like(level))
    level = torch.where(torch.rand_like(level) < SERVED_SHARE, near, level).clamp(0.01, 1)
    clean = torch.rand_like(level) < CLEAN_SHARE
    clean[:, 0] = torch.rand(batch, device=device) < 0.5
    clean[:, -1] = False
    return torch.where(clean, torch.zeros_like(level), level)


def losses(speaker: Speaker, config: ModelConfig, geometry: Geometry, data: dict[str, Tensor]) -> dict[str, Tensor]:
    """Flow-matching losses of both streams, and those of durations and labels."""
    batch, device = len(data["blocks"]), data["blocks"].device
    level = noise_levels(batch, data["blocks"].shape[1], config.sampling.timesteps, device)
    per_video, per_audio = geometry.block_video_latents, geometry.block_audio_latents
    video_level = level.repeat_interleave(per_video, dim=1).view(batch, 1, -1, 1, 1)
    audio_level = level.repeat_interleave(per_audio, dim=1).unsqueeze(-1)
    video_noise, audio_noise = torch.randn_like(data["video"]), torch.randn_like(data["audio"])
    # History is seen slightly noisy, because at serving time it is the network's own.
    dirt = HISTORY_NOISE * torch.rand(batch, 1, device=device)
    dirty_video = torch.where(video_level > 0, video_level, dirt.view(-1, 1, 1, 1, 1))
    dirty_audio = torch.where(audio_level > 0, audio_level, dirt.unsqueeze(-1))
    noisy = LatentSequence(
        data["video"] * (1 - dirty_video) + video_noise * dirty_video,
        data["audio"] * (1 - dirty_audio) + audio_noise * dirty_audio,
        data["control"],
        data["blocks"],
    )
    # Now and then without a caption, so that a caption's pull can be told from everything else's (classifier-free guidance).
    nobody = torch.zeros_like(data["caption"])
    nobody[:, 0] = SEPARATOR
    named = torch.rand(batch, 1, device=device) >= CAPTION_DROPOUT
    summary = speaker.text.caption(torch.where(named, data["caption"], nobody))
    context = speaker.text.phonemes.context(data["ids"], data["text_mask"])
    phonemes = speaker.text.phonemes(data["ids"], data["durations_s"], data["text_mask"])
    num_summary = summary.shape[1]
    none = data["times"].new_zeros(batch, num_summary)
    text = TextBatch(
        torch.cat((summary, phonemes), dim=1),
        torch.cat((none, data["times"]), dim=1),
        torch.cat((none.bool(), torch.ones_like(data["text_mask"])), dim=1),
        torch.cat((~none.bool(), data["text_mask"]), dim=1),
    )
    flow = masked_forward(speaker.dit, config, geometry, noisy, text, level * 1000)
    video_weight = data["weight"].unsqueeze(1) * (video_level > 0)
    audio_weight = (audio_level > 0).float()
    video_error = (flow.video.float() - (video_noise - data["video"])).square() * video_weight
    audio_error = (flow.audio.float() - (audio_noise - data["audio"])).square() * audio_weight
    predicted = speaker.text.durations(context, summary.detach())
    spoken = data["text_mask"] & (data["ids"] != 0)
    duration_error = F.smooth_l1_loss(
        predicted.float(), torch.log1p(data["durations_s"] / DURATION_UNIT_S), reduction="none", beta=0.2
    )
    pooled = summary.mean(1)
    label_error = torch.stack(
        [
            F.cross_entropy(head(pooled).float(), data["labels"][:, i], reduction="none")
            for i, head in enumerate(speaker.labels.values())
        ]
    )
    return {
        "video": video_error.sum() / (video_weight.sum() * flow.video.shape[1]),
        "audio": audio_error.sum() / (audio_weight.sum() * flow.audio.shape[2]),
        "duration": (duration_error * spoken).sum() / spoken.sum(),
        "labels": (label_error * named[:, 0]).sum() / (named.sum() * len(label_error)),
    }


WEIGHTS = {"video": 1.0, "audio": 1.0, "duration": 0.5, "labels": 0.05}


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    args = parser.parse_args()
    device = default_device()
    torch.manual_seed(args.seed)
    config = load_yaml(args.config, ModelConfig)
    geometry = config.geometry.build()
    state_path: Path = args.run / "joint.pt"
    speaker = Speaker(config)
    if args.start and not state_path.exists():
        for name, module in (("dit", speaker.dit), ("text", speaker.text)):
            file = wait_for(args.start / f"{name}.safetensors")
            fill(module, read_tensors(file), file, dtype=torch.float32)
    speaker.to(device)
    averaged = Averaged(speaker, 0.9995)
    decayed = [p for p in speaker.parameters() if p.ndim > 1]
    others = [p for p in speaker.parameters() if p.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    optimizer = adamw(groups, (0.9, 0.98), 0.02)
    piece = Piece(args.minutes, args.cooldown, warmup_steps=400)
    if state_path.exists():
        state = torch.load(state_path, map_location=device, weights_only=True)
        speaker.load_state_dict(state["model"])
        averaged.module.load_state_dict(state["averaged"])
        optimizer.load_state_dict(state["optimizer"])
        piece.step = state["step"]
        torch.manual_seed(args.seed + piece.step)  # a later piece sees other clips and noise than the one before
    wait_for(args.data / "clips" / "done")
    clips = LatentClips(args.data / "clips", config, geometry, args.run, device)
    print(f"{len(clips.video)} clips as latents, video std {float(clips.video[:64].float().std()):.3f}", flush=True)
    if not args.no_compile:
        for layer in speaker.dit.layers:
            layer.compile(dynamic=False)

    def step() -> dict[str, Tensor]:
        with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
            parts = losses(speaker, config, geometry, clips.draw(args.batch))
        optimizer.zero_grad(set_to_none=True)
        torch.stack([WEIGHTS[name] * value for name, value in parts.items()]).sum().backward()
        torch.nn.utils.clip_grad_norm_(speaker.parameters(), 1.0)
        optimizer.step()
        return parts

    def save() -> None:
        save_state(
            state_path,
            model=speaker.state_dict(),
            averaged=averaged.module.state_dict(),
            optimizer=optimizer.state_dict(),
            step=piece.step,
        )
        export(args.run / "dit.safetensors", averaged.module.dit)
        export(args.run / "text.safetensors", averaged.module.text)

    graphed = Graphed(step, enabled=not args.no_graph)
    recent: dict[str, list[Tensor]] = {name: [] for name in WEIGHTS}
    for number in piece:
        set_learning_rate(optimizer, piece.learning_rate(args.learning_rate))
        parts = graphed()
        averaged.update(speaker, number)
        for name, value in parts.items():
            recent[name].append(value)
        if number % 500 == 499 or number == piece.first_step + 20:
            shown = {name: float(torch.stack(values[-300:]).mean()) for name, values in recent.items()}
            piece.report(shown)
            if not math.isfinite(shown["video"] + shown["audio"]):
                raise FloatingPointError(f"the loss is no longer a number at step {number}: lower --learning-rate and resume")
        if piece.time_to_save():
            save()
    save()


if __name__ == "__main__":
    main()
