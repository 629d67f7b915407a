"""pocket's video VAE: L1 on luma, chroma and luma gradients, mouth, eyes, face and chroma counting several times as much.

The encoder learns first, on pieces of pictures, half of them around mouth or eyes, and is then frozen, so that the transformer
can start on its latents while the decoder goes on, with whole pictures, and with noise on its input as a transformer has it.
If the config says so, critics of pieces of pictures then learn beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model.data.clips import ClipSet
from model.training.config import VideoVAEStage
from model.training.discriminators import Critics, critic_loss, generator_losses
from model.training.optimizers import Learner
from model.training.pocket import Pocket
from model.training.randomness import generator, normals, pick, uniforms
from model.training.stage import Drawn, Loss
from model.training.stages.vae import CRITICS, VAE, VAETraining
from model.vae.causal import Memory
from model.vae.video import SPATIAL_STRIDE, TEMPORAL_STRIDE, VideoVAE, pack_i420

PIECE_CELLS = 8
"""Height and width of the pieces. The encoder looks two cells around; the decoder farther, so it ends on whole pictures."""
DIVERGENCE_WEIGHT = 3e-4
NUM_MEASURED = 24
"""Clips whose pictures are measured."""


class FrameBatches:
    """Runs of consecutive pictures with weights, of clips that lie on the device.

    Args:
        weights: how much more than the rest mouth, eyes and face count, the last on top of the others.
    """

    def __init__(self, clips: ClipSet, device: torch.device, max_clips: int, weights: tuple[float, float, float]) -> None:
        self.frames = torch.from_numpy(np.ascontiguousarray(clips.frames[:max_clips])).to(device)
        self.boxes = torch.from_numpy(clips.boxes[:max_clips].astype(np.int64)).to(device)
        self._weights = weights
        side = torch.tensor(self.frames.shape[2:], device=device)
        self.room = torch.stack((side[0] // 3, side[1] // 2)) - PIECE_CELLS * SPATIAL_STRIDE // 2

    def draw(self, clip: Tensor, chance: Tensor, num_frames: int) -> tuple[Tensor, Tensor, Tensor]:
        """Packed pictures [B, 6, T, h, w], weights [B, 1, T, h, w], and ones where mouth, eyes and face are [B, 3, T, h, w].

        Args:
            clip: int64 [B]; chance: uniform numbers [B], where in them.
        """
        device, clip = self.frames.device, clip.unsqueeze(1)
        first = pick(chance, (self.frames.shape[1] - num_frames) // TEMPORAL_STRIDE + 1).unsqueeze(1) * TEMPORAL_STRIDE
        index = first + torch.arange(num_frames, device=device)
        packed = pack_i420(self.frames[clip, index])
        boxes = self.boxes[clip, index] // 2  # [B, T, 2, 4] at half resolution
        rows = torch.arange(packed.shape[3], device=device).view(1, 1, 1, -1, 1)
        columns = torch.arange(packed.shape[4], device=device).view(1, 1, 1, 1, -1)
        left, top, right, bottom = (boxes[..., i, None, None] for i in range(4))
        inside = ((rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)).float()  # [B, T, 2, h, w]
        # The face: all between both, and a third more on every side, up to earrings.
        near, far = (f(x, 2, keepdim=True) for f, x in ((torch.amin, left), (torch.amax, right)))
        over, below = (f(x, 2, keepdim=True) for f, x in ((torch.amin, top), (torch.amax, bottom)))
        wide, high = (far - near) // 3, (below - over) // 3
        face = (columns >= near - wide) & (columns < far + wide) & (rows >= over - high) & (rows < below + high)
        of_mouth, of_eyes, of_face = self._weights
        weight = 1 + of_mouth * inside[:, :, 0] + of_eyes * inside[:, :, 1] + of_face * face[:, :, 0].float()
        return packed, weight.unsqueeze(1), torch.cat((inside, face.float()), dim=2).transpose(1, 2)

    def draw_pieces(self, clip: Tensor, chance: Tensor, num_frames: int) -> tuple[Tensor, Tensor, Tensor]:
        """Pieces of pictures, as :meth:`draw` but h = w = 8 ``PIECE_CELLS``; about a quarter hold the mouth, a quarter the eyes.

        Args:
            chance: uniform numbers [B, 6].
        """
        drawn = self.draw(clip, chance[:, 0], num_frames)
        corner = self.corners(drawn[2], chance)
        packed, weight, parts = (cut(x, corner) for x in drawn)
        return packed, weight, parts

    def corners(self, parts: Tensor, chance: Tensor) -> Tensor:
        """Where to cut pieces of pictures, see :meth:`draw_pieces`: row and column, int64 [B, 2]."""
        cell, size = SPATIAL_STRIDE // 2, PIECE_CELLS * SPATIAL_STRIDE // 2
        anywhere = (chance[:, 1:3] * (self.room // cell + 1)).long() * cell
        number = torch.arange(len(parts), device=parts.device)
        part = parts[number, (chance[:, 5] >= 0.25).long(), 0]
        middle = torch.stack([_middle(part.amax(2)), _middle(part.amax(1))], dim=1)
        jitter = (chance[:, 3:5] - 0.5) * size / 2
        around = ((middle + jitter - size / 2) / cell).round().long() * cell
        return torch.minimum(torch.where(chance[:, 5:6] < 0.5, around, anywhere).clamp(min=0), self.room)


def cut(x: Tensor, corner: Tensor) -> Tensor:
    """Pieces of [B, C, T, h, w], h = w = 8 ``PIECE_CELLS``, at a row and column each [B, 2]."""
    places = corner.unsqueeze(2) + torch.arange(PIECE_CELLS * SPATIAL_STRIDE // 2, device=corner.device)
    x = torch.take_along_dim(x.permute(0, 3, 4, 1, 2), places[:, 0, :, None, None, None], 1)
    return torch.take_along_dim(x, places[:, 1, None, :, None, None], 2).permute(0, 3, 4, 1, 2)


def _middle(mask: Tensor) -> Tensor:
    """The middle of the ones in each row of a mask [B, N]; 0 where there are none."""
    places = torch.arange(mask.shape[1], device=mask.device)
    return (mask * places).sum(-1) / mask.sum(-1).clamp(min=1)


class VideoVAETraining(VAETraining):
    """See the module's text. In a step the critics learn first.

    Args:
        decode: the VAE's, compiled perhaps.
        seed: the run's.
    """

    def __init__(
        self,
        config: VideoVAEStage,
        subject: Pocket,
        clips: ClipSet,
        vae: VideoVAE,
        critics: Critics,
        seed: int,
        device: torch.device,
        *,
        encoder_is_given: bool,
        decode: Callable[[Tensor, Memory], Tensor],
    ) -> None:
        super().__init__(config, vae, encoder_is_given=encoder_is_given)
        self._config, self._subject, self._seed, self._decode, self._device = config, subject, seed, decode, device
        self._critics = critics
        self.nets = {CRITICS: critics, VAE: vae}
        self.batches = FrameBatches(clips, device, config.max_clips, (config.mouth_weight, config.eye_weight, config.face_weight))
        self.num_samples = len(self.batches.frames)

    @property
    def _hears_critics(self) -> bool:
        return self.frozen and self._config.adversarial_weight > 0

    def learns(self, learner: str) -> bool:
        return self._hears_critics or learner == VAE

    def draw(self, learner: str, update: int, samples: Sequence[int], dice: Sequence[torch.Generator]) -> Drawn:
        """Pictures, or pieces of them while the encoder learns, and noise of their latents."""
        clip = torch.tensor(samples).to(self._device, non_blocking=True)
        chance, num_frames = uniforms(dice, 7), self._config.latents * TEMPORAL_STRIDE
        if self.frozen:
            packed, weight, parts = self.batches.draw(clip, chance[:, 0], num_frames)
        else:
            packed, weight, parts = self.batches.draw_pieces(clip, chance, num_frames)
        cells = (n * 2 // SPATIAL_STRIDE for n in packed.shape[3:])
        noise = normals(dice, len(self.vae.latent_mean), self._config.latents, *cells)
        of_chroma = self._config.chroma_weight * (1 + self._config.eye_chroma_weight * parts[:, 1:2])
        tensors = {"packed": packed, "weight": weight, "of_chroma": of_chroma, "noise": noise}
        tensors["size"] = self._config.latent_noise * chance[:, 6]
        if self._hears_critics:
            tensors["corner"] = self.batches.corners(parts, chance)
        return Drawn(tensors)

    def loss(self, learner: str, drawn: Drawn) -> Loss:
        packed, weight, config = drawn.tensors["packed"], drawn.tensors["weight"], self._config
        if learner == CRITICS:
            with torch.no_grad():
                fake, true = (self._pieces(x, drawn) for x in (self._decoded(drawn)[0], packed))
            with self._subject.computing():
                return Loss(critic_loss(self._critics(true), self._critics(fake)), {})
        predicted, divergence = self._decoded(drawn)
        motion_weight = config.motion_weight_after if self.frozen else config.motion_weight
        distance = reconstruction_loss(predicted, packed, weight, motion_weight, drawn.tensors["of_chroma"])
        total, figures = distance + DIVERGENCE_WEIGHT * divergence, {"distance": distance, "kl": divergence}
        if self._hears_critics:
            fake, true = (self._pieces(x, drawn) for x in (predicted, packed))
            with self._subject.computing():
                with torch.no_grad():
                    verdict = self._critics(true)
                adversarial, matching = generator_losses(verdict, self._critics.judge_still(fake))
            total = total + config.adversarial_weight * adversarial + config.features_weight * matching
            figures |= {"adversarial": adversarial, "matching": matching}
        return Loss(total, figures)

    def _pieces(self, packed: Tensor, drawn: Drawn) -> Tensor:
        """What critics see of packed pictures [B, 6, T, h, w]: pieces [B * T, 6, h', w']."""
        return cut(packed.float(), drawn.tensors["corner"]).transpose(1, 2).flatten(0, 1)

    def _decoded(self, drawn: Drawn) -> tuple[Tensor, Tensor]:
        """Pictures that went through latents [B, 6, T, h, w], and the divergence of those."""
        packed, noise, vae = drawn.tensors["packed"], drawn.tensors["noise"], self.vae
        with self._subject.computing():
            if self.frozen:
                with torch.no_grad():
                    latents = vae.encode(packed)
                latents = latents + drawn.tensors["size"].view(-1, 1, 1, 1, 1) * noise
                divergence = torch.zeros((), device=packed.device)
            else:
                mean, log_variance = vae.posterior(packed)
                divergence = 0.5 * (mean.float().square() + log_variance.float().exp() - 1 - log_variance.float()).mean()
                latents = vae.normalise(mean + (0.5 * log_variance).exp() * noise)
            return self._decode(latents, Memory()), divergence

    def measure_latents(self) -> tuple[Tensor, Tensor]:
        means = [self.vae.posterior(self._some(8, TEMPORAL_STRIDE, i)[0])[0].float() for i in range(32)]
        values = torch.cat(means).transpose(0, 1).flatten(1)
        return values.mean(1), values.std(1)

    def measure(self, learners: Mapping[str, Learner]) -> dict[str, float]:
        """Of the averaged weights."""
        if not self.frozen:
            return {}
        assert isinstance(self.vae, VideoVAE)
        num_frames = min(32, self.batches.frames.shape[1] // TEMPORAL_STRIDE * TEMPORAL_STRIDE)
        with learners[VAE].averaged(), torch.no_grad():
            packed, _, parts = self._some(NUM_MEASURED, num_frames, "pictures")
            return measure_pictures(self.vae, packed, parts)

    def _some(self, num: int, num_frames: int, *what: object) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures that are always the same."""
        chance = uniforms([generator(self._device, "measure", self._seed, *what)], 2 * num).view(2, num)
        return self.batches.draw(pick(chance[0], self.num_samples), chance[1], num_frames)


def reconstruction_loss(
    predicted: Tensor, target: Tensor, weight: Tensor, motion_weight: float, chroma_weight: Tensor | float = 1.0
) -> Tensor:
    """Weighted L1 of values and of luma differences between neighbours, and squared differences of what moves.

    What moves is little and quick. An absolute loss on it is smallest for no movement at all as long as the latents do not tell
    which way it goes, and so they never come to tell it; a squared one is not.
    """
    difference = predicted.float() - target
    error = difference.abs() * weight
    loss = (error[:, :4].sum() + (chroma_weight * error[:, 4:]).sum()) / error.numel()
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


def measure_pictures(vae: VideoVAE, packed: Tensor, parts: Tensor) -> dict[str, float]:
    """Of decoded luma: PSNR in dB, distance in the mouth of 255, what the mouth does between the pictures of a latent, and how
    sharp the face is (its mean absolute Laplacian); of chroma: distance around the eyes, of 255.

    What the mouth does is compared with the truth: its correlation, and its energy as a share of the true one. So is sharpness.

    Args:
        parts: ones where mouth, eyes and face are, as :meth:`FrameBatches.draw` has them.
    """
    decoded = vae.decode(vae.encode(packed), Memory())
    shown, true, mouth, eyes = decoded[:, :4], packed[:, :4], parts[:, :1] > 0, parts[:, 1:2]
    chroma = (decoded - packed)[:, 4:].abs() * eyes
    within = [x.unflatten(2, (-1, TEMPORAL_STRIDE)) for x in (true, shown, mouth.expand_as(true))]
    face = parts[:, 2].repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)[:, :, 1:-1, 1:-1]
    sharp, shown_sharp = ((_laplacian(x).abs() * face).sum() for x in (true, shown))
    moved, shown_moved = ((x - x.mean(3, keepdim=True)) * within[2] for x in within[:2])
    return {
        "luma PSNR dB": float(-10 * torch.log10(((shown - true).square() * (128 / 255) ** 2).mean())),
        "mouth L1": float(((shown - true).abs() * mouth).sum() / (mouth.sum() * 4).clamp(min=1) * 128),
        "eye chroma L1": float(chroma.sum() / (eyes.sum() * 2).clamp(min=1) * 128),
        "mouth motion correlation": float((moved * shown_moved).sum() / (moved.norm() * shown_moved.norm()).clamp(min=1e-9)),
        "mouth motion energy": float(shown_moved.square().sum() / moved.square().sum().clamp(min=1e-9)),
        "face sharpness": float(shown_sharp / sharp.clamp(min=1e-9)),
    }


def _laplacian(luma: Tensor) -> Tensor:
    """Of packed luma [B, 4, T, h, w], in whole pictures without their border [B, T, 2 h - 2, 2 w - 2]."""
    x = F.pixel_shuffle(luma.transpose(1, 2), 2).squeeze(2)
    around = x[..., :-2, 1:-1] + x[..., 2:, 1:-1] + x[..., 1:-1, :-2] + x[..., 1:-1, 2:]
    return 4 * x[..., 1:-1, 1:-1] - around
