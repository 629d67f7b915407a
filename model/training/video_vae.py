"""Stage 1: the video VAE. L1 on luma, chroma and luma gradients, the mouth and the eyes counting several times as much.

The encoder trains for ``--encoder-minutes``, on pieces of pictures, half of them around the mouth, and is then frozen, so that
the transformer can start on its latents while the decoder goes on, with whole pictures, and with noise on its input as a
transformer's output has it. With ``--start`` the encoder is that checkpoint's and frozen from the first step, so that the latents
stay what they are and only a decoder is made for them.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.config import ModelConfig, load_yaml
from model.data.clips import ClipSet
from model.training.assemble import encoder_file
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
from model.training.prepare import wait_for
from model.vae.causal import Memory
from model.vae.video import SPATIAL_STRIDE, TEMPORAL_STRIDE, VideoVAE, pack_i420
from model.weight_files import fill, read_tensors

LATENTS = 3
LATENT_NOISE = 0.08
PIECE_CELLS = 8
"""Height and width of the pieces. The encoder looks two cells around; the decoder farther, so it ends on whole pictures."""
MOTION_WEIGHT, MOTION_WEIGHT_AFTER = 30.0, 10.0
"""While the encoder learns, and afterwards: by then the latents tell what moves, and sharpness counts for more."""
MOUTH_WEIGHT, EYE_WEIGHT = 4.0, 2.0


class FrameBatches:
    """Random runs of consecutive pictures with weights, copied to the GPU once."""

    def __init__(self, clips: ClipSet, device: torch.device, max_clips: int, start: int = 0) -> None:
        chosen = slice(start, min(start + max_clips, len(clips.frames)))
        self.frames = torch.from_numpy(np.ascontiguousarray(clips.frames[chosen])).to(device)
        self.boxes = torch.from_numpy(clips.boxes[chosen].astype(np.int64)).to(device)
        self.device = device
        side = torch.tensor(self.frames.shape[2:], device=device)
        self.room = torch.stack((side[0] // 3, side[1] // 2)) - PIECE_CELLS * SPATIAL_STRIDE // 2

    def draw(self, batch: int, num_frames: int) -> tuple[Tensor, Tensor]:
        """Packed pictures [B, 6, T, h, w] and weights [B, 1, T, h, w]."""
        clip = torch.randint(len(self.frames), (batch, 1), device=self.device)
        first = torch.randint(self.frames.shape[1] // 4 - num_frames // 4 + 1, (batch, 1), device=self.device) * 4
        index = first + torch.arange(num_frames, device=self.device)
        packed = pack_i420(self.frames[clip, index])
        boxes = self.boxes[clip, index] // 2  # [B, T, 2, 4] at half resolution
        rows = torch.arange(packed.shape[3], device=self.device).view(1, 1, 1, -1, 1)
        columns = torch.arange(packed.shape[4], device=self.device).view(1, 1, 1, 1, -1)
        left, top, right, bottom = (boxes[..., i, None, None] for i in range(4))
        inside = ((rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)).float()  # [B, T, 2, h, w]
        weight = 1 + MOUTH_WEIGHT * inside[:, :, 0] + EYE_WEIGHT * inside[:, :, 1]
        return packed, weight.unsqueeze(1)

    def draw_pieces(self, batch: int, num_frames: int) -> tuple[Tensor, Tensor]:
        """Pieces of pictures with weights, as :meth:`draw` but h = w = 8 ``PIECE_CELLS``; every other one holds the mouth."""
        packed, weight = self.draw(batch, num_frames)
        cell, size = SPATIAL_STRIDE // 2, PIECE_CELLS * SPATIAL_STRIDE // 2
        anywhere = (torch.rand(batch, 2, device=self.device) * (self.room // cell + 1)).long() * cell
        mouth = (weight[:, 0, 0] > MOUTH_WEIGHT).float()
        middle = torch.stack([_middle(mouth.amax(2)), _middle(mouth.amax(1))], dim=1)
        jitter = (torch.rand(batch, 2, device=self.device) - 0.5) * size / 2
        around = ((middle + jitter - size / 2) / cell).round().long() * cell
        every_other = torch.arange(batch, device=self.device).unsqueeze(1) % 2 == 0
        corner = torch.minimum(torch.where(every_other, around, anywhere).clamp(min=0), self.room)
        rows, columns = (corner[:, i : i + 1] + torch.arange(size, device=self.device) for i in range(2))
        index = torch.arange(batch, device=self.device)[:, None, None], rows[:, :, None], columns[:, None, :]
        cut = [x.permute(0, 3, 4, 1, 2)[index].permute(0, 3, 4, 1, 2) for x in (packed, weight)]
        return cut[0], cut[1]


def _middle(mask: Tensor) -> Tensor:
    """The middle of the ones in each row of a mask [B, N]; 0 where there are none."""
    places = torch.arange(mask.shape[1], device=mask.device)
    return (mask * places).sum(-1) / mask.sum(-1).clamp(min=1)


def reconstruction_loss(predicted: Tensor, target: Tensor, weight: Tensor, motion_weight: float) -> Tensor:
    """Weighted L1 of values and of luma differences between neighbours, and squared differences of what moves.

    What moves is little and quick. An absolute loss on it is smallest for no movement at all as long as the latents do not tell
    which way it goes, and so they never come to tell it; a squared one is not.
    """
    difference = predicted.float() - target
    loss = (difference.abs() * weight).mean()
    luma = difference[:, :4]
    for dim in (3, 4):
        loss = loss + 0.5 * (torch.diff(luma, dim=dim).abs() * weight.narrow(dim, 1, weight.shape[dim] - 1)).mean()
    within = (
        (luma[:, 0] - luma[:, 1]).abs()
        + (luma[:, 0] - luma[:, 2]).abs()
        + (luma[:, 3] - luma[:, 1]).abs()
        + (luma[:, 3] - luma[:, 2]).abs()
    )
    motion = torch.diff(difference, dim=2).square() * weight[:, :, 1:]
    return loss + 0.12 * (within * weight[:, 0]).mean() + motion_weight * motion.mean()


@torch.no_grad()
def measure_latents(vae: VideoVAE, batches: FrameBatches) -> None:
    """Set the statistics that normalise latents."""
    means = [vae.posterior(batches.draw(8, 4)[0])[0].float() for _ in range(32)]
    values = torch.cat(means).transpose(0, 1).flatten(1)
    vae.latent_mean.copy_(values.mean(1))
    vae.latent_std.copy_(values.std(1).clamp(min=1e-3))


@torch.no_grad()
def measure_pictures(vae: VideoVAE, batches: FrameBatches) -> dict[str, float]:
    """Of decoded luma: PSNR in dB, distance in the mouth of 255, and what the mouth does between the pictures of a latent.

    The last is compared with the truth: its correlation, and its energy as a share of the true one.
    """
    packed, weight = batches.draw(24, 32)
    shown = vae.decode(vae.encode(packed), Memory())[:, :4]
    true, mouth = packed[:, :4], weight > MOUTH_WEIGHT
    within = [x.unflatten(2, (-1, TEMPORAL_STRIDE)) for x in (true, shown, mouth.expand_as(true))]
    moved, shown_moved = ((x - x.mean(3, keepdim=True)) * within[2] for x in within[:2])
    return {
        "luma_psnr_db": float(-10 * torch.log10(((shown - true).square() * (128 / 255) ** 2).mean())),
        "mouth_l1": float(((shown - true).abs() * mouth).sum() / (mouth.sum() * 4) * 128),
        "mouth_motion_correlation": float((moved * shown_moved).sum() / (moved.norm() * shown_moved.norm()).clamp(min=1e-9)),
        "mouth_motion_energy": float(shown_moved.square().sum() / moved.square().sum()),
    }


def take_encoder(vae: VideoVAE, checkpoint: Path) -> None:
    """Another checkpoint's encoder, and its statistics of latents; the decoder may have other sizes and stays as it is.

    Raises:
        model.errors.CheckpointError: a file is missing, or the encoder does not fit the config.
    """
    path = encoder_file(checkpoint, "video")
    statistics = {name: x for name, x in read_tensors(checkpoint / "video_vae.safetensors").items() if name.startswith("latent_")}
    decoder = {f"decoder.{name}": x for name, x in vae.decoder.state_dict().items()}
    fill(vae, read_tensors(path) | statistics | decoder, path, dtype=torch.float32)


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--encoder-minutes", type=float, default=2.5, help="train the encoder so long in all, then freeze it")
    parser.add_argument("--clips", default="first", help="clip set in the data directory")
    parser.add_argument("--max-clips", type=int, default=800)
    args = parser.parse_args()
    device = default_device()
    torch.manual_seed(args.seed)
    config = load_yaml(args.config, ModelConfig)
    state_path: Path = args.run / "video_vae.pt"
    vae = VideoVAE(config.video_vae)
    if args.start and not state_path.exists():
        take_encoder(vae, args.start)
        export(args.run / "video_vae.safetensors", vae, torch.float32)
        (args.run / "video_encoder.done").touch()
    vae.to(device)
    averaged = Averaged(vae)
    optimizer = adamw(list(vae.parameters()), (0.9, 0.99), 1e-4)
    piece = Piece(args.minutes, args.cooldown)
    encoder_s = 0.0
    if state_path.exists():
        state = torch.load(state_path, map_location=device, weights_only=True)
        vae.load_state_dict(state["model"])
        averaged.module.load_state_dict(state["averaged"])
        optimizer.load_state_dict(state["optimizer"])
        piece.step, encoder_s = state["step"], state["encoder_s"]
        torch.manual_seed(args.seed + piece.step)
    wait_for(args.data / args.clips / "done")
    batches = FrameBatches(ClipSet.open(args.data / args.clips), device, args.max_clips)
    decode = vae.decode if args.no_compile else torch.compile(vae.decode, dynamic=False)
    frozen = (args.run / "video_encoder.done").exists()
    vae.encoder.requires_grad_(not frozen)
    begun_s = time.monotonic()

    def step() -> dict[str, Tensor]:
        draw = batches.draw if frozen else batches.draw_pieces
        packed, weight = draw(args.batch, TEMPORAL_STRIDE * LATENTS)
        with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
            if frozen:
                with torch.no_grad():
                    latents = vae.encode(packed)
                latents = latents + LATENT_NOISE * torch.rand(args.batch, 1, 1, 1, 1, device=device) * torch.randn_like(latents)
                divergence = torch.zeros((), device=device)
                predicted = decode(latents, Memory())
            else:
                mean, log_variance = vae.posterior(packed)
                divergence = 0.5 * (mean.float().square() + log_variance.float().exp() - 1 - log_variance.float()).mean()
                predicted = decode(mean + (0.5 * log_variance).exp() * torch.randn_like(mean), Memory())
        loss = reconstruction_loss(predicted, packed, weight, MOTION_WEIGHT_AFTER if frozen else MOTION_WEIGHT)
        optimizer.zero_grad(set_to_none=True)
        (loss + 3e-4 * divergence).backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        return {"loss": loss, "kl": divergence}

    def save() -> None:
        export(args.run / "video_vae.safetensors", averaged.module, torch.float32)
        save_state(
            state_path,
            model=vae.state_dict(),
            averaged=averaged.module.state_dict(),
            optimizer=optimizer.state_dict(),
            step=piece.step,
            encoder_s=encoder_s + time.monotonic() - begun_s,
        )

    def freeze_when_due() -> bool:
        nonlocal frozen
        if frozen or encoder_s + time.monotonic() - begun_s < args.encoder_minutes * 60:
            return False
        frozen = True
        weights = args.run / "video_vae.safetensors"
        freeze_encoder(
            vae, averaged, lambda vae: measure_latents(vae, batches), weights, args.run / "video_encoder.done", piece.step
        )
        return True

    freeze_when_due()
    graphed = Graphed(step, enabled=not args.no_graph)
    losses: list[Tensor] = []
    for _ in piece:
        set_learning_rate(optimizer, piece.learning_rate(1e-3 if frozen else 2e-3))
        parts = graphed()
        averaged.update(vae, piece.step)
        losses.append(parts["loss"])
        if piece.step % 500 == 499:
            piece.report({"loss": float(torch.stack(losses[-200:]).mean()), "kl": float(parts["kl"])})
        if freeze_when_due():
            graphed = Graphed(step, enabled=not args.no_graph)
        if piece.time_to_save():
            save()
    save()
    print("  ".join(f"{name} {value:.3f}" for name, value in measure_pictures(averaged.module, batches).items()), flush=True)


if __name__ == "__main__":
    main()
