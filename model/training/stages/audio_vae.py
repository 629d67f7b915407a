"""pocket's audio VAE and vocoder.

First encoder, decoder and vocoder together, by spectral losses and the pitch of the true wave; once the encoder is frozen,
decoder and vocoder go on against critics, with noise on the latents as a transformer's output has it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.data.speech import Utterance
from model.training.config import AudioVAEStage
from model.training.discriminators import Critics, critic_loss, generator_losses
from model.training.pitch import track_pitch
from model.training.pocket import Pocket
from model.training.randomness import generator, normals, pick, uniforms
from model.training.stage import Drawn, Loss
from model.training.stages.vae import CRITICS, VAE, VAETraining
from model.vae.audio import AudioVAE, mel_filterbank
from model.vae.causal import Memory

PITCH_WEIGHT, VOICING_WEIGHT, DIVERGENCE_WEIGHT, ADVERSARIAL_WEIGHT = 2.0, 0.3, 1e-4, 0.5
_UNIT = 480
"""Samples whose place is drawn together."""


class WaveBatches:
    """All utterances end to end on the device, with some silence between, and crops of them."""

    def __init__(self, utterances: Sequence[Utterance], device: torch.device) -> None:
        rng = np.random.default_rng(0)
        pieces: list[np.ndarray] = []
        weights: list[np.ndarray] = []
        totals: dict[str, int] = {}
        for u in utterances:
            totals[u.voice] = totals.get(u.voice, 0) + len(u.samples)
        for u in utterances:
            silence = np.zeros(int(rng.integers(2400, 12000)), np.int16)
            pieces += [u.samples, silence]
            weights.append(np.full((len(u.samples) + len(silence)) // _UNIT, 1 / totals[u.voice]))
        self.samples = torch.from_numpy(np.concatenate(pieces)).to(device)
        chance = np.concatenate(weights)
        self.cumulative = torch.from_numpy(np.cumsum(chance) / chance.sum()).to(device)

    def draw(self, chance: Tensor, num_samples: int) -> Tensor:
        """float [B, S] in [-1, 1]; voices come up equally often, with a little change of level.

        Args:
            chance: uniform numbers [B, 3].
        """
        place = torch.searchsorted(self.cumulative, chance[:, 0].double().contiguous())
        start = (place * _UNIT + pick(chance[:, 1], _UNIT)).clamp(max=len(self.samples) - num_samples - 1)
        wave = self.samples[start.unsqueeze(1) + torch.arange(num_samples, device=start.device)].float() / 32768
        return wave * (0.8 + 0.3 * chance[:, 2:3])


class SpectralLoss(nn.Module):
    """Distances of log-mel and of log-magnitude spectra at several resolutions."""

    def __init__(self, sample_rate_hz: int) -> None:
        super().__init__()
        self.sizes = (256, 512, 1024, 2048)
        for n in self.sizes:
            self.register_buffer(f"window{n}", torch.hann_window(n), persistent=False)
            self.register_buffer(f"mel{n}", mel_filterbank(min(120, n // 8), n, sample_rate_hz), persistent=False)

    def forward(self, fake: Tensor, real: Tensor) -> Tensor:
        losses = []
        for n in self.sizes:
            window, mel = getattr(self, f"window{n}"), getattr(self, f"mel{n}")
            a, b = (
                torch.stft(x.float(), n, n // 4, window=window, return_complex=True).abs().clamp(min=1e-5) for x in (fake, real)
            )
            losses.append((torch.log((mel @ a).clamp(min=1e-4)) - torch.log((mel @ b).clamp(min=1e-4))).abs().mean())
            losses.append(0.25 * (torch.log(a.clamp(min=1e-3)) - torch.log(b.clamp(min=1e-3))).abs().mean())
            losses.append(0.25 * (a - b).norm() / b.norm().clamp(min=1e-3))
        return torch.stack(losses).sum() / len(self.sizes)


class AudioVAETraining(VAETraining):
    """See the module's text. In a step the critics learn first.

    Args:
        seed: the run's.
    """

    def __init__(
        self,
        config: AudioVAEStage,
        subject: Pocket,
        utterances: Sequence[Utterance],
        vae: AudioVAE,
        critics: Critics,
        seed: int,
        device: torch.device,
        *,
        encoder_is_given: bool,
    ) -> None:
        super().__init__(config, vae, encoder_is_given=encoder_is_given)
        self._config, self._subject, self._seed, self._device, self._critics = config, subject, seed, device, critics
        self.nets = {CRITICS: critics, VAE: vae}
        self.batches = WaveBatches(utterances, device)
        self.num_samples = len(utterances)
        self._spectral = SpectralLoss(subject.geometry.sample_rate_hz).to(device)
        audio = subject.model.audio_vae
        self._hop, self._fft, self._num_frames = audio.hop_samples, audio.fft_samples, 2 * config.latents

    def learns(self, learner: str) -> bool:
        return self.frozen or learner == VAE

    def draw(self, learner: str, update: int, samples: Sequence[int], dice: Sequence[torch.Generator]) -> Drawn:
        """Crops, which are drawn and not counted, so that voices come up equally often; their pitch, and noise."""
        hop, fft, num_frames = self._hop, self._fft, self._num_frames
        chance = uniforms(dice, 4)
        # The encoder looks fft - hop samples ahead: draw them too.
        wave = self.batches.draw(chance, num_frames * hop + fft)
        rate_hz = self._subject.geometry.sample_rate_hz
        pitch_hz, voiced = track_pitch(wave, hop, rate_hz, offset_samples=fft - hop // 2, num_frames=num_frames)
        return Drawn(
            {
                "wave": wave,
                "pitch_hz": pitch_hz,
                "voiced": voiced,
                "latent_noise": normals(dice, len(self.vae.latent_mean), self._config.latents),
                "size": self._config.latent_noise * chance[:, 3],
                "breath": normals(dice, num_frames, fft // 2 + 1, 2),
            }
        )

    def loss(self, learner: str, drawn: Drawn) -> Loss:
        if learner == CRITICS:
            with torch.no_grad():
                fake, true, _ = self._heard(drawn.tensors)
            with self._subject.computing():
                return Loss(critic_loss(self._critics(true), self._critics(fake)), {})
        fake, true, figures = self._heard(drawn.tensors)
        distance = self._spectral(fake, true)
        total = (
            distance + PITCH_WEIGHT * figures["pitch"] + VOICING_WEIGHT * figures["voicing"] + DIVERGENCE_WEIGHT * figures["kl"]
        )
        figures["spectral"] = distance
        if self.frozen:
            with self._subject.computing():
                with torch.no_grad():
                    verdict = self._critics(true)
                adversarial, matching = generator_losses(verdict, self._critics.judge_still(fake))
            total = total + ADVERSARIAL_WEIGHT * adversarial + matching
            figures |= {"adversarial": adversarial, "matching": matching}
        return Loss(total, figures)

    def _heard(self, data: dict[str, Tensor]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """What the VAE makes of crops, the crops, and how far pitch and voicing are off."""
        vae, config, wave = self.vae, self._config, data["wave"]
        assert isinstance(vae, AudioVAE)
        with self._subject.computing():
            if self.frozen:
                with torch.no_grad():
                    latents = vae.encode(wave)[:, :, : config.latents]
                latents = latents + data["size"].view(-1, 1, 1) * data["latent_noise"]
                divergence = torch.zeros((), device=wave.device)
                raw = latents * vae.latent_std[:, None] + vae.latent_mean[:, None]
            else:
                mean, log_variance = vae.posterior(wave)
                divergence = 0.5 * (mean.float().square() + log_variance.float().exp() - 1 - log_variance.float()).mean()
                mean, log_variance = (x[:, :, : config.latents] for x in (mean, log_variance))
                raw = mean + (0.5 * log_variance).exp() * data["latent_noise"]
            memory = Memory()
            features = vae.decoder(raw, memory)
        with torch.autocast(wave.device.type, enabled=False):
            output = vae.vocoder(features.float(), data["breath"], memory)
        skip = config.settle_latents * 2 * self._hop
        fake, true = output.wave[:, skip:], wave[:, skip : self._num_frames * self._hop]
        sounds = data["voiced"].float()
        pitch_error = ((output.log_pitch - torch.log(data["pitch_hz"].clamp(50, 600))).abs() * sounds).sum()
        voicing = F.binary_cross_entropy_with_logits(output.voiced, sounds)
        return fake, true, {"pitch": pitch_error / sounds.sum().clamp(min=1), "voicing": voicing, "kl": divergence}

    def measure_latents(self) -> tuple[Tensor, Tensor]:
        rate_hz = self._subject.geometry.sample_rate_hz
        means = []
        for i in range(16):
            chance = uniforms([generator(self._device, "measure", self._seed, i)], 96).view(32, 3)
            means.append(self.vae.posterior(self.batches.draw(chance, rate_hz))[0].float())
        values = torch.cat(means).transpose(0, 1).flatten(1)
        return values.mean(1), values.std(1)
