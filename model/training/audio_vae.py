"""Stage 2: audio VAE and vocoder.

First encoder, decoder and vocoder together, by spectral losses and the pitch of the true wave; after ``--encoder-minutes`` the
encoder is frozen, and decoder and vocoder go on against critics, with noise on the latents as a transformer's output has it.
With ``--start`` the encoder is that checkpoint's and frozen from the first step, so that the latents stay what they are.
"""

from __future__ import annotations

import pickle
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.config import ModelConfig, load_yaml
from model.training.assemble import encoder_file
from model.training.discriminators import Critics, critic_loss, generator_losses
from model.training.loop import (
    Averaged,
    Graphed,
    Piece,
    adamw,
    arguments,
    default_device,
    export,
    freeze_encoder,
    save_state,
    set_learning_rate,
)
from model.training.pitch import track_pitch
from model.training.prepare import wait_for
from model.vae.audio import AudioVAE, mel_filterbank
from model.vae.causal import Memory
from model.weight_files import fill, read_tensors

LATENTS = 32
SETTLE_LATENTS = 5
"""Latents at the start of a crop whose sound is not judged: the decoder has not seen their past."""
LATENT_NOISE = 0.15


class WaveBatches:
    """All utterances end to end on the GPU, with some silence between, and random crops of them."""

    def __init__(self, path: Path, device: torch.device) -> None:
        utterances = pickle.loads(path.read_bytes())
        rng = np.random.default_rng(0)
        pieces: list[np.ndarray] = []
        weights: list[np.ndarray] = []
        totals: dict[str, int] = {}
        for u in utterances:
            totals[u.voice] = totals.get(u.voice, 0) + len(u.samples)
        for u in utterances:
            silence = np.zeros(int(rng.integers(2400, 12000)), np.int16)
            pieces += [u.samples, silence]
            weights.append(np.full((len(u.samples) + len(silence)) // 480, 1 / totals[u.voice]))
        self.samples = torch.from_numpy(np.concatenate(pieces)).to(device)
        chance = np.concatenate(weights)
        self.cumulative = torch.from_numpy(np.cumsum(chance) / chance.sum()).to(device)
        self.device = device

    def draw(self, batch: int, num_samples: int) -> Tensor:
        """float [B, S] in [-1, 1]; voices come up equally often, with a little change of level."""
        place = torch.searchsorted(self.cumulative, torch.rand(batch, device=self.device, dtype=torch.float64))
        limit = len(self.samples) - num_samples - 1
        start = (place * 480 + torch.randint(480, (batch,), device=self.device)).clamp(max=limit)
        wave = self.samples[start.unsqueeze(1) + torch.arange(num_samples, device=self.device)].float() / 32768
        return wave * torch.empty(batch, 1, device=self.device).uniform_(0.8, 1.1)


class SpectralLoss(torch.nn.Module):
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


@torch.no_grad()
def measure_latents(vae: AudioVAE, batches: WaveBatches) -> None:
    """Set the statistics that normalise latents."""
    values = torch.cat([vae.posterior(batches.draw(32, 24_000))[0].float() for _ in range(16)]).transpose(0, 1).flatten(1)
    vae.latent_mean.copy_(values.mean(1))
    vae.latent_std.copy_(values.std(1).clamp(min=1e-3))


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--encoder-minutes", type=float, default=1.7, help="train the encoder so long in all, then freeze it")
    args = parser.parse_args()
    device = default_device()
    torch.manual_seed(args.seed)
    config = load_yaml(args.config, ModelConfig)
    rate_hz, hop = config.geometry.sample_rate_hz, config.audio_vae.hop_samples
    fft = config.audio_vae.fft_samples
    state_path: Path = args.run / "audio_vae.pt"
    vae, critics = AudioVAE(config.audio_vae, rate_hz), Critics().to(device)
    encoder_done: Path = args.run / "audio_encoder.done"
    if args.start and not state_path.exists():
        start = args.start / "audio_vae.safetensors"
        fill(vae, read_tensors(start) | read_tensors(encoder_file(args.start, "audio")), start, dtype=torch.float32)
        export(args.run / "audio_vae.safetensors", vae, torch.float32)
        encoder_done.touch()
    vae.to(device)
    spectral = SpectralLoss(rate_hz).to(device)
    averaged = Averaged(vae)
    optimizer = adamw(list(vae.parameters()), (0.8, 0.99), 1e-3)
    critic_optimizer = adamw(list(critics.parameters()), (0.8, 0.99), 1e-3)
    piece = Piece(args.minutes, args.cooldown)
    encoder_s = 0.0
    if state_path.exists():
        state = torch.load(state_path, map_location=device, weights_only=True)
        for module, name in ((vae, "model"), (critics, "critics"), (averaged.module, "averaged")):
            module.load_state_dict(state[name])
        optimizer.load_state_dict(state["optimizer"])
        critic_optimizer.load_state_dict(state["critic_optimizer"])
        piece.step, encoder_s = state["step"], state["encoder_s"]
        torch.manual_seed(args.seed + piece.step)
    batches = WaveBatches(wait_for(args.data / "utterances.pkl"), device)
    frozen = encoder_done.exists()
    vae.encoder.requires_grad_(not frozen)
    if not args.no_compile:
        for part in (vae.decoder, vae.encoder):
            part.compile(dynamic=False)
    num_frames, skip = 2 * LATENTS, SETTLE_LATENTS * 2 * hop
    begun_s = time.monotonic()

    def step() -> dict[str, Tensor]:
        # The encoder looks fft - hop samples ahead: draw them too.
        real = batches.draw(args.batch, num_frames * hop + fft)
        with torch.no_grad():
            pitch_hz, voiced = track_pitch(real, hop, rate_hz, offset_samples=fft - hop // 2, num_frames=num_frames)
        with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
            if frozen:
                with torch.no_grad():
                    latents = vae.encode(real)[:, :, :LATENTS]
                    latents = latents + LATENT_NOISE * torch.rand(args.batch, 1, 1, device=device) * torch.randn_like(latents)
                divergence = torch.zeros((), device=device)
                raw = latents * vae.latent_std[:, None] + vae.latent_mean[:, None]
            else:
                mean, log_variance = vae.posterior(real)
                divergence = 0.5 * (mean.float().square() + log_variance.float().exp() - 1 - log_variance.float()).mean()
                raw = (mean + (0.5 * log_variance).exp() * torch.randn_like(mean))[:, :, :LATENTS]
            memory = Memory()
            features = vae.decoder(raw, memory)
        with torch.autocast(device.type, enabled=False):
            noise = torch.randn(args.batch, num_frames, fft // 2 + 1, 2, device=device)
            output = vae.vocoder(features.float(), noise, memory)
        fake, true = output.wave[:, skip:], real[:, skip : num_frames * hop]
        sounds = voiced.float()
        pitch_error = ((output.log_pitch - torch.log(pitch_hz.clamp(50, 600))).abs() * sounds).sum() / sounds.sum().clamp(min=1)
        voicing = torch.nn.functional.binary_cross_entropy_with_logits(output.voiced, sounds)
        distance = spectral(fake, true)
        loss = distance + 2 * pitch_error + 0.3 * voicing + 1e-4 * divergence
        shown = {"spectral": distance, "pitch": pitch_error, "voicing": voicing, "kl": divergence}
        if frozen:
            with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
                verdict = critics(true)
                judged = critic_loss(verdict, critics(fake.detach()))
            critic_optimizer.zero_grad(set_to_none=True)
            judged.backward()
            torch.nn.utils.clip_grad_norm_(critics.parameters(), 10.0)
            critic_optimizer.step()
            critics.requires_grad_(False)
            with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
                adversarial, matching = generator_losses(verdict, critics(fake))
            critics.requires_grad_(True)
            loss = loss + 0.5 * adversarial + matching
            shown |= {"critic": judged, "adversarial": adversarial, "matching": matching}
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 2.0)
        optimizer.step()
        return shown

    def save() -> None:
        export(args.run / "audio_vae.safetensors", averaged.module, torch.float32)
        save_state(
            state_path,
            model=vae.state_dict(),
            critics=critics.state_dict(),
            averaged=averaged.module.state_dict(),
            optimizer=optimizer.state_dict(),
            critic_optimizer=critic_optimizer.state_dict(),
            step=piece.step,
            encoder_s=encoder_s + time.monotonic() - begun_s,
        )

    def freeze_when_due() -> bool:
        nonlocal frozen
        if frozen or encoder_s + time.monotonic() - begun_s < args.encoder_minutes * 60:
            return False
        frozen = True
        weights = args.run / "audio_vae.safetensors"
        freeze_encoder(vae, averaged, lambda vae: measure_latents(vae, batches), weights, encoder_done, piece.step)
        return True

    freeze_when_due()
    graphed = Graphed(step, enabled=not args.no_graph)
    recent: list[Tensor] = []
    for _ in piece:
        set_learning_rate(optimizer, piece.learning_rate(5e-4 if frozen else 1e-3))
        set_learning_rate(critic_optimizer, piece.learning_rate(4e-4))
        shown = graphed()
        averaged.update(vae, piece.step)
        recent.append(shown["spectral"])
        if piece.step % 500 == 499:
            piece.report({k: float(v) for k, v in shown.items()} | {"mean": float(torch.stack(recent[-300:]).mean())})
        if freeze_when_due():
            graphed = Graphed(step, enabled=not args.no_graph)
        if piece.time_to_save():
            save()
    save()


if __name__ == "__main__":
    main()
