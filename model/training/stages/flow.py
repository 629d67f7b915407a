"""pocket's transformer and text side, jointly on video and audio latents, by flow matching: the causal base, and its teacher.

Durations are learned along with the rest, from few sentences seen often; a stage of its own learns them properly. The network
learns what it is served: many noise levels lie near those of its passes, history is slightly noisy, and captions are left out now
and then.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from model.text.encoder import DURATION_UNIT_S
from model.training.clips import CAPTIONS_PER_CLIP, ClipLatents
from model.training.config import FlowStage
from model.training.looks import look_losses
from model.training.objective import Sequence as LatentSequence
from model.training.objective import sequence_forward
from model.training.pocket import Pocket, Speaker, without_caption
from model.training.randomness import normals, pick, uniforms
from model.training.stage import Drawn, Loss, Stage
from model.training.views import latent_indices

FROM_START = 0.25
"""Share of sequences that go on right after a clip's first block."""
_PER_BLOCK = 6
"""Uniform numbers that a block's noise level takes."""


class FlowMatching(Stage):
    """See the module's text.

    Args:
        latents: of the subject's clips.
        speaker: where it will learn; with its labels.
    """

    def __init__(self, config: FlowStage, subject: Pocket, latents: ClipLatents, speaker: Speaker) -> None:
        self._config, self._subject, self._latents, self._speaker = config, subject, latents, speaker
        self.nets = {"student": speaker}
        self.num_samples = subject.texts.num_clips

    def draw(self, learner: str, update: int, samples: Sequence[int], dice: Sequence[torch.Generator]) -> Drawn:
        """A sequence of each clip, its noise and how much of it.

        Causal: the clip's first block, then consecutive ones, a quarter of the time right from the start. Otherwise a stream that
        begins anywhere in the clip.
        """
        subject, texts, latents, config = self._subject, self._subject.texts, self._latents, self._config
        num, device = subject.num_blocks, dice[0].device
        clip, chance = torch.tensor(samples).to(device, non_blocking=True), uniforms(dice, 5 + _PER_BLOCK * num)
        variant = pick(chance[:, 2], CAPTIONS_PER_CLIP)
        if config.causal:
            start = 1 + pick(chance[:, 0], texts.num_blocks - num + 1)
            start = torch.where(chance[:, 1] < FROM_START, torch.ones_like(start), start).unsqueeze(1)
            blocks = torch.cat((torch.zeros_like(start), start + torch.arange(num - 1, device=device)), dim=1)
            video_index = latent_indices(blocks, subject.block.video)
            audio_index = latent_indices(blocks, subject.block.audio)
            given = texts.text(clip, variant)
            given["control"] = texts.control[clip.unsqueeze(1), video_index]
        else:
            first = pick(chance[:, 0], texts.num_blocks - num + 1)
            blocks = torch.arange(num, device=device).expand(len(clip), -1)
            video_index = latent_indices(first.unsqueeze(1) + blocks, subject.block.video)
            audio_index = latent_indices(first.unsqueeze(1) + blocks, subject.block.audio)
            given = texts.stream(clip, first, num)
            given["caption"] = texts.caption[clip, variant]
        named = chance[:, 3:4] >= config.caption_dropout
        given["caption"] = torch.where(named, given["caption"], without_caption(given["caption"]))
        normal = normals(dice, num)
        chances = chance[:, 5:].unflatten(1, (num, _PER_BLOCK))
        if config.causal:
            level = noise_levels(chances, normal, subject.model.sampling.timesteps, config)
        else:
            one = noise_levels(chances[:, -1:], normal[:, -1:], subject.model.sampling.timesteps, config)
            level = one.expand(-1, num)
        row = clip.unsqueeze(1)
        video_shape, audio_shape = subject.clip
        return Drawn(
            {
                **given,
                "named": named[:, 0],
                "blocks": blocks,
                "video": latents.video[row, video_index].transpose(1, 2).float(),
                "weight": latents.weight[row, video_index].float(),
                "audio": latents.audio[row, audio_index].float(),
                "video_noise": normals(dice, *video_shape),
                "audio_noise": normals(dice, *audio_shape),
                "level": level,
                "dirt": config.history_noise * chance[:, 4],
                "labels": texts.labels[clip],
                "asked": texts.asked[clip, variant],
            }
        )

    def loss(self, learner: str, drawn: Drawn) -> Loss:
        config, parts = self._config, self.parts(drawn.tensors)
        weights = {
            "video": config.weights.video,
            "audio": config.weights.audio,
            "duration": config.duration_weight,
            "labels": config.label_weight,
            "reader": float(config.look_weight > 0),
            "look": config.look_weight,
        }
        return Loss(torch.stack([weights[name] * value for name, value in parts.items()]).sum(), parts)

    def parts(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        """Flow-matching losses of both streams, those of durations and labels, and of what is read off the first block."""
        with self._subject.computing():
            return self._parts(data)

    def _parts(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        subject, speaker, level = self._subject, self._speaker, data["level"]
        per_video, per_audio = subject.block.video, subject.block.audio
        video_level = level.repeat_interleave(per_video, dim=1).view(len(level), 1, -1, 1, 1)
        audio_level = level.repeat_interleave(per_audio, dim=1).unsqueeze(-1)
        # History is seen slightly noisy, because at serving time it is the network's own.
        dirty_video = torch.where(video_level > 0, video_level, data["dirt"].view(-1, 1, 1, 1, 1))
        dirty_audio = torch.where(audio_level > 0, audio_level, data["dirt"].view(-1, 1, 1))
        noisy = LatentSequence(
            data["video"] * (1 - dirty_video) + data["video_noise"] * dirty_video,
            data["audio"] * (1 - dirty_audio) + data["audio_noise"] * dirty_audio,
            data["control"],
            data["blocks"],
        )
        text = speaker.read(data)
        times = (1000 * level.repeat_interleave(n, dim=1) for n in (per_video, per_audio))
        causal = self._config.causal
        flow = sequence_forward(speaker.dit, subject.model, subject.geometry, noisy, text, *times, causal=causal)
        video_weight = data["weight"].unsqueeze(1) * (video_level > 0)
        audio_weight = (audio_level > 0).float()
        video_error = (flow.video.float() - (data["video_noise"] - data["video"])).square() * video_weight
        audio_error = (flow.audio.float() - (data["audio_noise"] - data["audio"])).square() * audio_weight
        summary = text.tokens[:, : subject.model.text.num_scene_tokens]
        context = speaker.text.phonemes.context(data["ids"], data["text_mask"])
        predicted = speaker.text.durations(context, summary.detach())
        spoken = data["text_mask"] & (data["ids"] != 0)
        duration_error = F.smooth_l1_loss(
            predicted.float(), torch.log1p(data["durations_s"] / DURATION_UNIT_S), reduction="none", beta=0.2
        )
        pooled, named = summary.mean(1), data["named"]
        label_error = torch.stack(
            [
                F.cross_entropy(head(pooled).float(), data["labels"][:, i], reduction="none")
                for i, head in enumerate(speaker.labels.values())
            ]
        )
        first = slice(0, per_video)
        clean = (noisy.video - video_level * flow.video)[:, :, first]
        judged = data["asked"] & named.unsqueeze(1) & (level[:, :1] > 0)
        reader_error, look_error = look_losses(
            speaker.reader, data["video"][:, :, first], data["video_noise"][:, :, first], clean, data["labels"], judged
        )
        return {
            "video": video_error.sum() / (video_weight.sum() * flow.video.shape[1]),
            "audio": audio_error.sum() / (audio_weight.sum() * flow.audio.shape[2]),
            "duration": (duration_error * spoken).sum() / spoken.sum().clamp(min=1),
            "labels": (label_error * named).sum() / (named.sum() * len(label_error)).clamp(min=1),
            "reader": reader_error,
            "look": look_error,
        }


def noise_levels(chance: Tensor, normal: Tensor, served: Sequence[float], config: FlowStage) -> Tensor:
    """[B, N] in [0, 1]: 0 for clean history, many of the others near one of the levels that passes are ``served`` at, the rest
    logit-normal, a tenth of them uniform.

    At least the last block is learned, and now and then the first one, which decides who is seen.

    Args:
        chance: uniform numbers [B, N, 6]; normal: [B, N].
    """
    tenth, anywhere, which, near_by, is_served, is_clean = chance.unbind(-1)
    level = torch.sigmoid(0.4 + 1.1 * normal)
    level = torch.where(tenth < 0.1, anywhere, level)
    near = torch.zeros_like(level)
    for i, one in enumerate(served):
        near = torch.where(pick(which, len(served)) == i, one, near)
    level = torch.where(is_served < config.served_share, near * (0.7 + 0.6 * near_by), level).clamp(0.01, 1)
    clean = is_clean < config.clean_share
    clean[:, 0] = is_clean[:, 0] < config.first_clean_share
    clean[:, -1] = False
    return torch.where(clean, torch.zeros_like(level), level)
