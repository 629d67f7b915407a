"""SyncNet (Chung and Zisserman, "Out of time", 2016): how well a mouth goes with a voice, as its published weights measure it.

One network sees five frames of a face, the other a fifth of a second of sound; both give 1024 numbers, which are near each other
where picture and sound belong together. Confidence is how much nearer they are at the best shift than at the usual one.

Facts of the published measurement: faces of 224 pixels as BGR from 0 to 255, 25 a second; 13 cepstral coefficients a hundredth of
a second, of 16-bit samples at 16 kHz; windows a frame apart, shifted by up to 15 frames either way.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SAMPLE_RATE_HZ, FPS = 16_000, 25
FACE_PX, WINDOW_FRAMES, WINDOW_STEPS, STEPS_PER_FRAME = 224, 5, 20, 4
MAX_SHIFT_FRAMES = 15
BATCH = 20

_NUM_FFT, _WINDOW_SAMPLES, _HOP_SAMPLES = 512, 400, 160
_NUM_FILTERS, _NUM_CEPSTRA, _LIFTER, _PRE_EMPHASIS = 26, 13, 22, 0.97


def _conv(kind: type[nn.Module], norm: type[nn.Module], channels: tuple[int, int], **shape: object) -> list[nn.Module]:
    return [kind(*channels, **shape), norm(channels[1]), nn.ReLU()]


def _embedding() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 1024))


class SyncNet(nn.Module):
    """Both networks. Parameters have their published names."""

    def __init__(self) -> None:
        super().__init__()

        def sound(channels: tuple[int, int], kernel: object = 3, padding: int = 1) -> list[nn.Module]:
            return _conv(nn.Conv2d, nn.BatchNorm2d, channels, kernel_size=kernel, padding=padding)

        def face(channels: tuple[int, int], kernel: tuple[int, int, int], stride: int = 1, padding: int = 1) -> list[nn.Module]:
            shape = {"stride": (1, stride, stride), "padding": (0, padding, padding)}
            return _conv(nn.Conv3d, nn.BatchNorm3d, channels, kernel_size=kernel, **shape)

        self.netcnnaud = nn.Sequential(
            *sound((1, 64)),
            nn.Identity(),
            *sound((64, 192)),
            nn.MaxPool2d(3, (1, 2)),
            *sound((192, 384)),
            *sound((384, 256)),
            *sound((256, 256)),
            nn.MaxPool2d(3, 2),
            *sound((256, 512), (5, 4), 0),
        )
        self.netfcaud, self.netfclip = _embedding(), _embedding()
        self.netcnnlip = nn.Sequential(
            *face((3, 96), (5, 7, 7), 2, 0),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *face((96, 256), (1, 5, 5), 2),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            *face((256, 256), (1, 3, 3)),
            *face((256, 256), (1, 3, 3)),
            *face((256, 256), (1, 3, 3)),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *face((256, 512), (1, 6, 6), padding=0),
        )

    def of_sound(self, cepstra: Tensor) -> Tensor:
        """[N, 1, 13, 20] -> [N, 1024]."""
        return self.netfcaud(self.netcnnaud(cepstra).flatten(1))

    def of_faces(self, faces: Tensor) -> Tensor:
        """[N, 3, 5, 224, 224] -> [N, 1024]."""
        return self.netfclip(self.netcnnlip(faces).flatten(1))


def filterbank() -> Tensor:
    """Triangles [26, 257], equally wide in mels (HTK) and with their corners at whole bins."""
    highest = 2595 * math.log10(1 + SAMPLE_RATE_HZ / 2 / 700)
    hertz = 700 * (10 ** (torch.linspace(0, highest, _NUM_FILTERS + 2, dtype=torch.float64) / 2595) - 1)
    corners = torch.floor((_NUM_FFT + 1) * hertz / SAMPLE_RATE_HZ)
    bins = torch.arange(_NUM_FFT // 2 + 1, dtype=torch.float64)
    low, middle, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    rising, falling = (bins - low) / (middle - low), (high - bins) / (high - middle)
    rising = torch.where((bins >= low) & (bins < middle), rising, 0.0)
    return rising + torch.where((bins >= middle) & (bins < high), falling, 0.0)


def cepstra(samples: Tensor) -> Tensor:
    """Mel-frequency cepstral coefficients [13, T] of [N] samples in [-1, 1], a hundred a second; the first is the energy."""
    wave = (samples.double() * 32768).round().clamp(-32768, 32767)
    wave = torch.cat((wave[:1], wave[1:] - _PRE_EMPHASIS * wave[:-1]))
    num = 1 + max(0, math.ceil((len(wave) - _WINDOW_SAMPLES) / _HOP_SAMPLES))
    wave = F.pad(wave, (0, max(0, (num - 1) * _HOP_SAMPLES + _WINDOW_SAMPLES - len(wave))))
    power = torch.fft.rfft(wave.unfold(0, _WINDOW_SAMPLES, _HOP_SAMPLES), _NUM_FFT).abs().square() / _NUM_FFT
    tiny = torch.finfo(torch.float64).eps
    bands = (power @ filterbank().T.to(power.device)).clamp_min(tiny).log()
    places = torch.arange(_NUM_FILTERS, dtype=torch.float64, device=power.device)
    orders = torch.arange(_NUM_CEPSTRA, dtype=torch.float64, device=power.device)
    cosines = torch.cos(math.pi * orders[:, None] * (2 * places + 1) / (2 * _NUM_FILTERS)) * math.sqrt(2 / _NUM_FILTERS)
    cosines[0] /= math.sqrt(2)
    found = bands @ cosines.T * (1 + _LIFTER / 2 * torch.sin(math.pi * orders / _LIFTER))
    found[:, 0] = power.sum(dim=1).clamp_min(tiny).log()
    return found.T.float()


@torch.no_grad()
def confidence(network: SyncNet, faces: Tensor, samples: Tensor) -> tuple[float, int]:
    """How well faces and sound belong together, and by how many frames the sound is early.

    Args:
        faces: uint8 [T, 3, 224, 224], BGR, 25 a second.
        samples: float32 [N] in [-1, 1] at 16 kHz, beginning with them.
    """
    device = next(network.parameters()).device
    sound = cepstra(samples.to(device))
    num = min(len(faces), len(samples) * FPS // SAMPLE_RATE_HZ) - WINDOW_FRAMES
    if num < 1:
        return 0.0, 0
    seen, heard = [], []
    for start in range(0, num, BATCH):
        numbers = range(start, min(start + BATCH, num))
        windows = torch.stack([faces[i : i + WINDOW_FRAMES].transpose(0, 1) for i in numbers])
        seen.append(network.of_faces(windows.to(device).float()))
        steps = [sound[:, i * STEPS_PER_FRAME : i * STEPS_PER_FRAME + WINDOW_STEPS] for i in numbers]
        heard.append(network.of_sound(torch.stack(steps).unsqueeze(1)))
    shifted = F.pad(torch.cat(heard), (0, 0, MAX_SHIFT_FRAMES, MAX_SHIFT_FRAMES)).unfold(0, 2 * MAX_SHIFT_FRAMES + 1, 1)
    distances = F.pairwise_distance(torch.cat(seen).unsqueeze(1), shifted.transpose(1, 2)).mean(dim=0)
    best = int(distances.argmin())
    return float(distances.median() - distances[best]), MAX_SHIFT_FRAMES - best
