"""What a model is measured against: the face as it is drawn, with the voice of a teacher, of the same prompt; and the same once
through the VAEs of a checkpoint, which is the best that its transformer could do.

hibari, the teacher that installs by name, has one voice: it speaks whoever is seen.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from model.chunk import AVChunk
from model.config import ModelConfig, load_yaml
from model.data.captions import asked
from model.data.clips import FRAME_SAMPLES, i420_from_rgb, phoneme_events
from model.data.face import Look, Renderer
from model.data.motion import FPS, Event, animate
from model.data.speech import HIBARI_VOICE, SAMPLE_RATE_HZ, VOICES, HibariTeacher
from model.liveliness import SMILES
from model.text.g2p import pronounce
from model.text.planner import BETWEEN_SENTENCES_S
from model.text.prompt import Prompt
from model.training.starts import load_encoder
from model.vae.audio import AudioVAE
from model.vae.causal import Memory
from model.vae.video import VideoVAE, pack_i420

BLOCK_FRAMES = 8
LEAD_S, TAIL_S = 0.42, 0.4
"""Silence around what is said, as a film of a checkpoint has it."""
CHUNK_LATENTS = 4


def as_spoken(prompt: Prompt) -> Prompt:
    """What the drawn film of a prompt is to be judged by: its voice is the teacher's."""
    return replace(prompt, voice=VOICES[HIBARI_VOICE].descriptions[0])


class DrawnFilms:
    """Films of prompts as the renderer and the teacher make them."""

    def __init__(self) -> None:
        self._teacher = HibariTeacher()

    def film(self, prompt: Prompt, seed: int) -> AVChunk:
        """A whole film. What the prompt leaves open is drawn by ``seed``."""
        rng = np.random.default_rng(seed)
        look = _look(prompt, rng)
        events: list[Event] = []
        at_s, pieces = LEAD_S, [(0, np.zeros(0, np.int16))]
        for line in prompt.lines:
            for sentence in pronounce(line):
                utterance = self._teacher.speak(line, sentence.phonemes, seed=seed)
                events += phoneme_events(utterance, at_s)
                pieces.append((round(at_s * SAMPLE_RATE_HZ), utterance.samples))
                at_s += len(utterance.samples) / SAMPLE_RATE_HZ + BETWEEN_SENTENCES_S
        num_frames = -(-round((at_s + TAIL_S) * FPS) // BLOCK_FRAMES) * BLOCK_FRAMES
        samples = np.zeros(num_frames * FRAME_SAMPLES, np.int16)
        for start, spoken in pieces:
            samples[start : start + len(spoken)] = spoken
        motion, renderer = animate(events, num_frames / FPS, rng, smile=SMILES[look.mood]), Renderer(look)
        frames = np.stack([i420_from_rgb(renderer.frame(motion.pose(i))) for i in range(num_frames)])
        return AVChunk(0, frames, samples, FPS, SAMPLE_RATE_HZ, speaking=True)


def _look(prompt: Prompt, rng: np.random.Generator) -> Look:
    wanted: dict[str, Any] = dict(asked(prompt.scene or ""))
    presentation = wanted.get("presentation") or ("male" if "beard" in wanted else None)
    look = Look.sample(rng, presentation)
    return replace(look, **wanted | {"earrings": look.earrings or "earrings" in wanted})


class DecodedFilms:
    """Drawn films, encoded and decoded again by a checkpoint's VAEs.

    Raises:
        CheckpointError: the checkpoint, or its encoders beside it, are missing.
    """

    def __init__(self, checkpoint: Path) -> None:
        device, config = torch.device("cpu"), load_yaml(checkpoint / "config.yaml", ModelConfig)
        video, audio = (load_encoder(checkpoint, kind, config, device) for kind in ("video", "audio"))
        assert isinstance(video, VideoVAE)
        assert isinstance(audio, AudioVAE)
        self._video, self._audio, self._fft = video, audio, config.audio_vae.fft_samples

    @torch.no_grad()
    def film(self, drawn: AVChunk) -> AVChunk:
        memory, frames = Memory(), []
        for latents in self._video.encode(pack_i420(torch.from_numpy(drawn.frames).unsqueeze(0))).split(CHUNK_LATENTS, dim=2):
            frames.append(self._video.decode_i420(latents, memory)[0].numpy())
            memory = Memory(memory.present)
        wave = torch.from_numpy(drawn.samples).float().unsqueeze(0) / 32768
        latents = self._audio.encode(F.pad(wave, (0, self._fft)))
        num = -(-wave.shape[1] // (2 * self._audio.config.hop_samples))
        noise = torch.randn(1, 2 * num, self._fft // 2 + 1, 2, generator=torch.Generator().manual_seed(0))
        decoded = self._audio.decode(latents[:, :, :num], noise, Memory())[0, : wave.shape[1]]
        samples = (decoded.clamp(-1, 1) * 32767).round().short().numpy()
        return replace(drawn, frames=np.concatenate(frames), samples=samples)
