"""A clip set as pocket's transformer learns from it, all on one device: text, movement and, where they are learned, latents."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import ModelConfig
from model.data.captions import asked, caption, vocabulary
from model.data.clips import ClipSet
from model.data.face import Look
from model.data.speech import VOICES
from model.errors import TrainingError
from model.geometry import Geometry
from model.liveliness import CONTROLS, per_latent
from model.text.phonemes import IDS, PAUSE_ID
from model.text.tokenizer import CaptionTokenizer
from model.text.track import PAUSE, with_pauses
from model.vae.audio import AudioVAE
from model.vae.video import VideoVAE, pack_i420

CAPTIONS_PER_CLIP = 12
MOUTH_CELLS, EYE_CELLS = 3.0, 4.0
"""Cells of a mouth count so much more than others, those of eyes so much."""


class ClipTexts:
    """What is said and seen in clips.

    Attributes:
        num_clips, num_blocks: of either.
        caption: int64 [K, CAPTIONS_PER_CLIP, W]; asked: bool [K, CAPTIONS_PER_CLIP, labels], what each says of the look.
        labels: int64 [K, labels], of the look.
        control: [K, F, control_channels].
    """

    def __init__(self, clips: ClipSet, config: ModelConfig, geometry: Geometry, device: torch.device) -> None:
        self.device, self.geometry = device, geometry
        self.num_clips, num_frames = clips.frames.shape[:2]
        self.num_blocks = num_frames // geometry.block_frames
        tokenizer = CaptionTokenizer(vocabulary(), config.text.max_words)
        if tokenizer.size > config.text.num_words:
            raise ValueError(f"the captions have {tokenizer.size} words, the config allows {config.text.num_words}")
        rng = np.random.default_rng(0)
        duration_s = num_frames / geometry.fps
        tracks = [with_pauses(clips.events(i), duration_s) for i in range(self.num_clips)]
        longest = max(len(t) for t in tracks)
        ids, start_s, length_s = (np.zeros((len(tracks), longest)) for _ in range(3))
        for i, track in enumerate(tracks):
            ids[i, : len(track)] = [PAUSE_ID if p == PAUSE else IDS[p] for p, _, _ in track]
            start_s[i, : len(track)] = [a for _, a, _ in track]
            length_s[i, : len(track)] = [b - a for _, a, b in track]
        mask = np.arange(longest) < np.asarray([len(t) for t in tracks])[:, None]
        captions, named, labels = [], [], []
        for i, clip in enumerate(clips.clips):
            look = clips.look(i)
            voices = VOICES[clip["voice"]].descriptions
            texts = [(caption(look, rng), str(rng.choice(voices))) for _ in range(CAPTIONS_PER_CLIP)]
            captions.append([tokenizer(*text) for text in texts])
            named.append([[name in says for name in Look.cardinalities()] for says in (asked(text) for text, _ in texts)])
            labels.append([look.labels()[name] for name in Look.cardinalities()])
        rate = geometry.sample_rate_hz / geometry.audio_latent_samples
        self._ids = torch.from_numpy(ids).long().to(device)
        self._durations_s = torch.from_numpy(length_s).float().to(device)
        self._times = torch.from_numpy((start_s + length_s / 2) * rate - 0.5).float().to(device)
        self._mask = torch.from_numpy(mask).to(device)
        self.caption = torch.from_numpy(np.asarray(captions)).to(device)
        self.asked = torch.tensor(named, device=device)
        self.labels = torch.tensor(labels, device=device)
        controlled = len(CONTROLS) if config.dit.control_channels else 0
        rows = [per_latent(clips.controls[i][:, :controlled], geometry.temporal_stride_frames) for i in range(self.num_clips)]
        self.control = torch.from_numpy(np.stack(rows)).to(device)

    def text(self, clip: Tensor, variant: Tensor) -> dict[str, Tensor]:
        """Phonemes of clips [B] on their time lines, and one of each clip's captions."""
        return {
            "ids": self._ids[clip],
            "durations_s": self._durations_s[clip],
            "times": self._times[clip],
            "text_mask": self._mask[clip],
            "caption": self.caption[clip, variant],
        }

    def stream(self, clip: Tensor, first: Tensor, num_blocks: int) -> dict[str, Tensor]:
        """Text and movement of streams that begin in the middle of clips: their block 0 is the clip's block ``first`` [B]."""
        text = self.text(clip, first % CAPTIONS_PER_CLIP)
        times = text["times"] - (first * self.geometry.block_audio_latents).unsqueeze(1)
        # A stream knows nothing of what was said before it began.
        mask = text["text_mask"] & (times >= -0.5)
        return {
            **text,
            "times": times,
            "text_mask": mask,
            "control": self.control[clip.unsqueeze(1), self.span(first, num_blocks)],
        }

    def span(self, first: Tensor, num_blocks: int) -> Tensor:
        """Video latents of blocks that begin with ``first`` [B]: int64 [B, N * F]."""
        per_block = self.geometry.block_video_latents
        return first.unsqueeze(1) * per_block + torch.arange(num_blocks * per_block, device=first.device)


class ClipLatents:
    """Clips as latents in bfloat16: video [K, F, C, h, w] and audio [K, L, C]; how much each cell counts [K, F, h, w]."""

    def __init__(
        self,
        clips: ClipSet,
        config: ModelConfig,
        geometry: Geometry,
        video_vae: VideoVAE,
        audio_vae: AudioVAE,
        device: torch.device,
    ) -> None:
        self._device, self._geometry = device, geometry
        num_latents = clips.frames.shape[1] // geometry.temporal_stride_frames
        num_audio = num_latents * geometry.audio_latents_per_video_latent
        video, audio, weight = [], [], []
        with torch.no_grad():
            for i in range(len(clips.frames)):
                frames = torch.from_numpy(clips.frames[i]).to(device).unsqueeze(0)
                video.append(video_vae.encode(pack_i420(frames))[0].transpose(0, 1).to(torch.bfloat16))
                wave = torch.from_numpy(clips.samples[i]).to(device).float().unsqueeze(0) / 32768
                latents = audio_vae.encode(F.pad(wave, (0, config.audio_vae.fft_samples)))[0, :, :num_audio]
                audio.append(latents.T.to(torch.bfloat16))
                weight.append(self._weights(clips.boxes[i], num_latents))
        self.video, self.audio, self.weight = (torch.stack(x) for x in (video, audio, weight))

    def _weights(self, boxes: np.ndarray, num_latents: int) -> Tensor:
        """[F, h, w]."""
        geometry, cell = self._geometry, self._geometry.spatial_stride_px
        b = torch.from_numpy(boxes.astype(np.int64)).to(self._device).view(num_latents, -1, 2, 4)
        low, high = b[..., :2].amin(1) // cell, b[..., 2:].amax(1) / cell  # [F, 2, 2] each
        rows = torch.arange(geometry.latent_height, device=self._device).view(1, 1, -1, 1)
        columns = torch.arange(geometry.latent_width, device=self._device).view(1, 1, 1, -1)
        inside = (columns >= low[..., 0, None, None]) & (columns < high[..., 0, None, None])
        inside = inside & (rows >= low[..., 1, None, None]) & (rows < high[..., 1, None, None])
        return (1 + MOUTH_CELLS * inside[:, 0].float() + EYE_CELLS * inside[:, 1].float()).to(torch.bfloat16)


def open_clips(directory: Path) -> ClipSet:
    """A clip set that is whole, waited for if it is still being drawn."""
    wait_for(directory / "done")
    return ClipSet.open(directory)


def wait_for(path: Path, *, timeout_s: float = 900) -> Path:
    """Block until another command, running beside this one, has written ``path``.

    Raises:
        TrainingError: it did not.
    """
    deadline_s = time.monotonic() + timeout_s
    if not path.exists():
        print(f"waiting up to {timeout_s / 60:.0f} minutes for {path}", file=sys.stderr, flush=True)
    while not path.exists():
        if time.monotonic() > deadline_s:
            raise TrainingError(f"{path} did not appear within {timeout_s:.0f} s: is what makes it running? See docs/training.md")
        time.sleep(0.5)
    return path
