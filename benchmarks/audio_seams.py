"""What a stream of the published audio decoder loses against decoding the whole clip, at its seams and elsewhere.

python -m benchmarks.audio_seams --size small --golden DIR

The published weights are not needed: weights are random, from the recipe of the golden fixtures in DIR, and latents are normal
noise. The figures show what the architecture does to a stream, not how the published voice sounds.

Two references. "whole" is the clip decoded at once, as published: there the attention sees the whole clip, which no stream can,
so part of the error is everywhere and has nothing to do with seams. "same view" is the clip decoded at once with the attention
seeing what it sees in the stream: what is left is due to seams alone. Figures are dB under the clip's level; "seam" is the worst
seam's error within 32 ms to either side, "else" the mean of all other places, "step" the largest jump of the error from one
sample to the next at a seam, against the clip's own mean step.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from model.config import AudioStreamConfig
from model.vae.audio_stream import AudioStreamDecoder
from testkit import GOLDEN
from testkit.golden import Fixture
from testkit.golden_audio import build_vae, build_vocoder, vae_tensors, vocoder_tensors

SWEEP = ((120, 0), (120, 5), (120, 10), (120, 15), (120, 20), (60, 10), (30, 10))
"""Left context and hold-back, in latents."""


class PublishedView(AudioStreamDecoder):
    """For comparison: attention over whatever the window holds."""

    def visible(self, num_latents: int, device: torch.device) -> Tensor:
        return torch.ones(num_latents, num_latents, dtype=torch.bool, device=device)


@dataclass(frozen=True)
class Error:
    """In dB; see the module's text."""

    seam_db: float
    else_db: float
    step_db: float


def compare(wave: Tensor, reference: Tensor, seams: list[int], reach: int) -> Error:
    """Waves [1, S]; seams are the first samples after each; an error within ``reach`` samples of one is its own."""
    error = (wave - reference)[0].double()
    level, step = (float(values.double().square().mean()) for values in (reference, reference.diff()))
    near = torch.zeros(len(error), dtype=torch.bool)
    worst = 0.0
    for seam in seams:
        around = slice(max(0, seam - reach), seam + reach)
        near[around] = True
        worst = max(worst, float(error[around].square().mean()))
    jump = max(float((error[seam] - error[seam - 1]).square()) for seam in seams)
    return Error(decibel(worst, level), decibel(float(error[~near].square().mean()), level), decibel(jump, step))


def decibel(power: float, reference: float) -> float:
    return 10 * math.log10(max(power, 1e-30) / reference)


def stream(decoder: AudioStreamDecoder, latents: Tensor, chunk: int) -> tuple[Tensor, float]:
    """The clip in chunks, and the seconds that a chunk took on average."""
    state, waves, begin_s = None, [], time.perf_counter()
    chunks = torch.split(latents, chunk, dim=2)
    for part in chunks:
        wave, state = decoder.decode(part, state)
        waves.append(wave)
    assert state is not None
    waves.append(decoder.flush(state))
    return torch.cat(waves, dim=1), (time.perf_counter() - begin_s) / len(chunks)


@torch.inference_mode()
def measure(golden: Path, size: str, num_latents: int, chunk: int) -> None:
    vae_fixture = Fixture.read(golden / f"mmaudio_vae16k_{size}.json")
    vocoder_fixture = Fixture.read(golden / f"bigvgan16k_{size}.json")
    vae = build_vae(vae_fixture, vae_tensors(vae_fixture))
    vocoder = build_vocoder(vocoder_fixture, vocoder_tensors(vocoder_fixture))
    channels = vae.config.latent_channels
    latents = torch.randn(1, channels, num_latents, generator=torch.Generator().manual_seed(0))
    whole = vocoder(vae.decode(latents))
    print(f"{size} model, RANDOM weights; {num_latents} latents of noise, {chunk} a chunk")
    print("                            |     whole, dB     |        same view, dB      |")
    print("left  hold back  attention  |  seam       else  |  seam       else     step |  ms a chunk, this CPU")
    rows = [(left, hold_back, AudioStreamDecoder) for left, hold_back in SWEEP]
    rows.append((*SWEEP[2], PublishedView))
    for left, hold_back, kind in rows:
        decoder = kind(vae, vocoder, AudioStreamConfig(left_latents=left, hold_back_latents=hold_back))
        wave, chunk_s = stream(decoder, latents, chunk)
        assert wave.shape == whole.shape
        size_samples = decoder.samples_per_latent
        ends = range(chunk, num_latents + 1, chunk)
        seams = [(end - hold_back) * size_samples for end in ends if hold_back < end < num_latents + hold_back]
        same = vocoder(vae.decode(latents, decoder.visible(num_latents, latents.device)))
        to_whole, to_same = (compare(wave, reference, seams, size_samples) for reference in (whole, same))
        view = "as published" if kind is PublishedView else "same neighbours"
        print(
            f"{left:4d}  {hold_back:2d} {1000 * hold_back * size_samples // 16_000:3d} ms  {view:15s}"
            f"  {to_whole.seam_db:5.1f}  {to_whole.else_db:9.1f}   {to_same.seam_db:6.1f}  {to_same.else_db:8.1f}"
            f"  {to_same.step_db:7.1f}   {1000 * chunk_s:9.0f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--golden", type=Path, default=GOLDEN, help="golden fixtures with their recipe")
    parser.add_argument("--size", choices=("small", "full"), default="small", help="full is the published size")
    parser.add_argument("--latents", type=int, default=120, help="of the clip")
    parser.add_argument("--chunk", type=int, default=30, help="latents that arrive together")
    options = parser.parse_args()
    measure(options.golden, options.size, options.latents, options.chunk)


if __name__ == "__main__":
    main()
