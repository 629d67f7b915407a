"""From rollouts to what their losses are multiplied by: decoded, judged, compared with those of all processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from model.adapters.mmaudio import load_bigvgan, load_mmaudio_vae
from model.adapters.wan import load_wan_decoder
from model.data.clips import rgb_from_i420
from model.geometry import Geometry
from model.hallo_live import AUDIO_VAE, VIDEO_VAE, VOCODER
from model.rewards.aesthetics import load_aesthetics_judge
from model.rewards.alignment import load_alignment_judge
from model.rewards.judge import Clip, Judge, lent
from model.rewards.sync import load_sync_judge
from model.rollout import Latents
from model.training.config import RewardsConfig
from model.training.distributed import World
from model.training.hallo_live import HalloLive
from model.training.pocket import Pocket
from model.training.rewards import AUDIO_AESTHETICS, LIP_SYNC, VIDEO_ALIGNMENT, Rewards, loss_scales
from model.vae.audio import AudioVAE
from model.vae.bigvgan import BigVGAN
from model.vae.causal import Memory
from model.vae.mmaudio import MMAudioVAE
from model.vae.video import VideoVAE
from model.vae.wan import FeatureCache, WanDecoder

LOADERS: Mapping[str, Callable[[Path], Judge]] = {
    LIP_SYNC: load_sync_judge,
    AUDIO_AESTHETICS: load_aesthetics_judge,
    VIDEO_ALIGNMENT: load_alignment_judge,
}
"""By kind of reward, from a directory of weights."""


class ClipDecoders(nn.Module):
    """The published decoders of both streams."""

    def __init__(self, video: WanDecoder, audio: MMAudioVAE, vocoder: BigVGAN, geometry: Geometry) -> None:
        super().__init__()
        self.video, self.audio, self.vocoder, self._geometry = video, audio, vocoder, geometry

    def forward(self, latents: Latents, prompts: Sequence[str]) -> list[Clip]:
        """Whole clips, video latent by latent: so it needs least memory."""
        weight = self.vocoder.taps
        pictures: list[Tensor] = []
        cache: FeatureCache | None = None
        for latent in latents.video.split(1, dim=2):
            frames, cache = self.video.decode(latent, cache)
            pictures.append(((frames + 1) * 127.5).round().to(torch.uint8).cpu())
        samples = self.vocoder(self.audio.decode(latents.audio.transpose(1, 2).to(weight.dtype))).cpu()
        frames = torch.cat(pictures, dim=2).permute(0, 2, 3, 4, 1)
        g = self._geometry
        return [Clip(f, g.fps, s, g.sample_rate_hz, p) for f, s, p in zip(frames, samples, prompts, strict=True)]


def load_decoders(subject: HalloLive) -> ClipDecoders:
    """On the CPU, in the files' own types."""
    model, weights = subject.model, subject.weights
    decoders = ClipDecoders(
        load_wan_decoder(weights / VIDEO_VAE, model.video_vae),
        load_mmaudio_vae(weights / AUDIO_VAE, model.audio_vae),
        load_bigvgan(weights / VOCODER, model.vocoder),
        subject.geometry,
    )
    decoders.requires_grad_(False).eval()
    return decoders


class PocketDecoders(nn.Module):
    """pocket's decoders of both streams, whole clips at once."""

    def __init__(self, video: VideoVAE, audio: AudioVAE, geometry: Geometry) -> None:
        super().__init__()
        self.video, self.audio, self._geometry = video, audio, geometry

    def forward(self, latents: Latents, prompts: Sequence[str]) -> list[Clip]:
        pictures = self.video.decode_i420(latents.video.float(), Memory()).cpu().numpy()
        num, config = latents.audio.shape[1], self.audio.config
        # The unvoiced part of the voice, the same for all, so that rewards do not differ by it.
        dice = torch.Generator().manual_seed(0)
        noise = torch.randn(1, 2 * num, config.fft_samples // 2 + 1, 2, generator=dice).to(latents.audio.device)
        noise = noise.expand(len(latents.audio), -1, -1, -1)
        samples = self.audio.decode(latents.audio.float().transpose(1, 2), noise, Memory()).clamp(-1, 1).cpu()
        g = self._geometry
        frames = torch.from_numpy(rgb_from_i420(pictures))
        return [Clip(f, g.fps, s, g.sample_rate_hz, p) for f, s, p in zip(frames, samples, prompts, strict=True)]


def load_pocket_decoders(subject: Pocket) -> PocketDecoders:
    """Of the VAEs that made the latents.

    Raises:
        ConfigError: the config does not name them; CheckpointError: one has no decoder of this size.
    """
    video, audio = subject.vae("video"), subject.vae("audio")
    assert isinstance(video, VideoVAE)
    assert isinstance(audio, AudioVAE)
    return PocketDecoders(video, audio, subject.geometry)


class Rewarding:
    """Judges the rollouts of a step.

    Args:
        judges: by kind of reward.
    """

    def __init__(
        self, config: RewardsConfig, decoders: ClipDecoders | PocketDecoders, judges: Mapping[str, Judge], world: World
    ) -> None:
        self._config, self._decoders, self._judges, self._world = config, decoders, judges, world

    @staticmethod
    def load(config: RewardsConfig, subject: HalloLive | Pocket, world: World) -> Rewarding:
        """
        Raises:
            ConfigError: a judge's package is missing; CheckpointError: a file is missing or damaged.
        """
        decoders = load_pocket_decoders(subject) if isinstance(subject, Pocket) else load_decoders(subject)
        weights = config.weights or (subject.weights if isinstance(subject, HalloLive) else None)
        assert weights is not None, "a config of pocket has to name it"
        judges: dict[str, Judge] = {kind: LOADERS[kind](weights) for kind in config.kinds}
        return Rewarding(config, decoders, judges, world)

    @torch.no_grad()
    def scales(self, latents: Latents, prompts: Sequence[str]) -> tuple[tuple[Tensor, Tensor], dict[str, Tensor]]:
        """float64 [B] of video and audio, and the mean of each reward, for the log."""
        device, offload = self._world.device, self._config.offload
        with lent(self._decoders, device, offload=offload):
            clips = self._decoders(Latents(latents.video.detach(), latents.audio.detach()), prompts)
        found: dict[str, Tensor] = {}
        for judge in self._judges.values():
            with lent(judge.module, device, offload=offload):
                found |= {name: x.to(device, torch.float64) for name, x in judge(clips).items()}
        num, none = len(clips), torch.zeros(len(clips), dtype=torch.float64, device=device)
        names = ("text_alignment", "visual_quality", "motion_quality", "aesthetics", "sync")
        everyones = Rewards(*(self._world.gather(found.get(name, none)) for name in names))
        video, audio = loss_scales(everyones, self._config.beta, self._config.kinds)
        mine = slice(self._world.rank * num, (self._world.rank + 1) * num)
        return (video[mine], audio[mine]), {name: x.mean() for name, x in found.items()}
