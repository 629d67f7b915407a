"""The network's parts as functions of tensors, which a runtime runs by their names.

This is the whole of pocket's network, and there is no other: PyTorch runs it as it is, on GPUs and as the oracle, and graphs for
CPUs are converted from it (:mod:`model.conversion`). Shapes never change, but for the phonemes of a line.

What a part remembers from call to call are its last outputs, in the order of its last inputs.
"""

from __future__ import annotations

from itertools import islice

import torch
from torch import Tensor, nn

from model.checkpoint import Weights
from model.dit.attention import KeyValue
from model.dit.block import LayerMemory, StreamView
from model.dit.rope import RotaryTable
from model.dit.transformer import Modulation, TextMemory
from model.vae.causal import Memory


class Caption(nn.Module):
    """Caption words [1, W] -> summary [1, Q, D]."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.text = weights.text

    def forward(self, words: Tensor) -> tuple[Tensor]:
        return (self.text.caption(words),)


class Durations(nn.Module):
    """Phonemes [1, S], of any number, and a summary -> seconds [1, S]."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.text = weights.text

    def forward(self, ids: Tensor, summary: Tensor) -> tuple[Tensor]:
        return (self.text.predict_durations_s(ids, torch.ones_like(ids, dtype=torch.bool), summary),)


class Text(nn.Module):
    """Phonemes [1, S] with durations, a summary, cosines and sines for either tower -> keys and values of all layers: the video
    tower's, then the audio tower's."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.text, self.dit = weights.text, weights.dit

    def forward(self, ids: Tensor, durations_s: Tensor, summary: Tensor, *tables: Tensor) -> tuple[Tensor, ...]:
        phonemes = self.text.phonemes(ids, durations_s, torch.ones_like(ids, dtype=torch.bool))
        pair = RotaryTable(*tables[:2]), RotaryTable(*tables[2:])
        return tuple(self.dit.read_text(torch.cat((summary, phonemes), dim=1), pair, None).tensors())


class Modulate(nn.Module):
    """A timestep [1] on the 0..1000 scale -> rows of all layers' modulation [1, 1, R, D] of either tower, and the timestep if a
    pass needs it."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.dit = weights.dit

    def forward(self, timestep: Tensor) -> tuple[Tensor, ...]:
        timesteps = timestep[:, None]  # one for the whole block
        rows = self.dit.modulation(timesteps, timesteps).rows()
        return (*rows, timesteps * 1.0) if self.dit.config.output == "clean" else rows


class Pass(nn.Module):
    """One pass of the transformer over one block: the two velocities, then what the layers remember of the block.

    Inputs in order: video [1, C, F, h, w]; audio [1, L, C]; what :class:`Modulate` gave; movement [1, F, control_channels], for
    networks that are told of it; cosines and sines of video tokens, of video tokens for text, of audio tokens; what may be seen,
    to be added to scores: text [1, 1, 1, S], and the masks of :class:`model.dit.history.History`; the outputs of :class:`Text`;
    the history's arrays.
    """

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.dit = weights.dit

    def forward(self, video: Tensor, audio: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        config, inputs = self.dit.config, iter(rest)

        def take(count: int) -> list[Tensor]:
            return list(islice(inputs, count))

        rows = take(2)
        timestep = take(1)[0] if config.output == "clean" else rows[0]  # else nobody asks for it
        modulation = Modulation.of_rows(rows[0], rows[1], (timestep, timestep))
        control = take(1)[0] if config.control_channels else None
        video_table, video_text_table, audio_table = (RotaryTable(*take(2)) for _ in range(3))
        text_mask, video_self, audio_self, video_cross, audio_cross = take(5)
        text = TextMemory.of(take(4 * config.num_layers))
        past = [[KeyValue(*take(2)) for _ in range(4)] for _ in range(config.num_layers)]
        flow = self.dit.flow(
            video,
            audio,
            modulation,
            StreamView(video_table, video_text_table, video_self, text_mask, audio_cross),
            StreamView(audio_table, audio_table, audio_self, text_mask, video_cross),
            text,
            [LayerMemory(*layer) for layer in past],
            control=control,
        )
        return flow.video, flow.audio, *(t for layer in flow.memory for kv in layer for t in kv)


class DecodeVideo(nn.Module):
    """Latents [1, C, F, h, w] and the decoder's memory -> stacked I420 planes, uint8 [1, T, H * 3 / 2, W], and the new memory."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.vae = weights.video_vae

    def forward(self, latents: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        memory = Memory(past)
        return self.vae.decode_i420(latents, memory), *memory.present


class DecodeAudio(nn.Module):
    """Latents [1, L, C], noise and the decoder's memory -> samples, 16 bits of an int32 [1, S], and the new memory."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.vae = weights.audio_vae

    def forward(self, latents: Tensor, noise: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        memory = Memory(past)
        wave = self.vae.decode(latents.transpose(1, 2), noise, memory)
        return (wave.clamp(-1, 1) * 32767).to(torch.int32), *memory.present


PARTS: dict[str, type[nn.Module]] = {
    "caption": Caption,
    "durations": Durations,
    "text": Text,
    "modulate": Modulate,
    "pass": Pass,
    "decode_video": DecodeVideo,
    "decode_audio": DecodeAudio,
}


def example_inputs(weights: Weights) -> dict[str, tuple[Tensor, ...]]:
    """Inputs of every part as a stream gives them in its second block; zeros, where nothing else is asked for."""
    config, geometry = weights.config, weights.geometry
    dit, num_phonemes = config.dit, config.text.max_phonemes
    num_text = config.text.num_scene_tokens + num_phonemes
    words, ids = torch.ones(1, config.text.max_words, dtype=torch.long), torch.ones(1, num_phonemes, dtype=torch.long)
    summary = torch.zeros(1, config.text.num_scene_tokens, config.text.dim)
    num_latents, grid = geometry.block_video_latents, (geometry.grid_height, geometry.grid_width)
    video = torch.zeros(1, dit.video.latent_channels, num_latents, geometry.latent_height, geometry.latent_width)
    audio = torch.zeros(1, geometry.block_audio_latents, dit.audio.latent_channels)
    tables = (
        *weights.dit.video_tables(torch.zeros(1, num_latents), *grid),
        weights.dit.audio_tables(torch.zeros(1, geometry.block_audio_latents))[0],
    )
    times = torch.zeros(1, num_text)
    text_inputs = (ids, torch.ones(1, num_phonemes), summary, *_flat(weights.dit.text_tables(times, times.bool())))
    shape = weights.history_shape
    masks = [torch.zeros(1, 1, 1, sink + (shape.num_blocks + 1) * tokens) for _, _, tokens, sink in shape.kinds]
    noise = torch.zeros(1, *weights.noise_shape)
    with torch.inference_mode():
        text, modulation = Text(weights)(*text_inputs), Modulate(weights)(torch.zeros(1))
        control = [torch.zeros(1, num_latents, dit.control_channels)] if dit.control_channels else []
        past = [torch.zeros(shape) for shape in shape.shapes]
        return {
            "caption": (words,),
            "durations": (ids[:, :20], summary),
            "text": text_inputs,
            "modulate": (torch.zeros(1),),
            "pass": (video, audio, *modulation, *control, *_flat(tables), torch.zeros(1, 1, 1, num_text), *masks, *text, *past),
            "decode_video": (video, *_first_memory(DecodeVideo(weights), video)),
            "decode_audio": (audio, noise, *_first_memory(DecodeAudio(weights), audio, noise)),
        }


def _flat(tables: tuple[RotaryTable | None, ...]) -> tuple[Tensor, ...]:
    return tuple(t for table in tables if table is not None for t in (table.cos, table.sin))


def _first_memory(part: nn.Module, *inputs: Tensor) -> list[Tensor]:
    """The memory of a stream that has not begun: zeros of the shapes that ``part`` leaves behind."""
    return [torch.zeros_like(m) for m in part(*inputs)[1:]]
