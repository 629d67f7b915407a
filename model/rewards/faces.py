"""S3FD (Zhang et al., arXiv 1708.05237), a detector of faces; and faces followed through a clip and cut out, as the published
lip-sync judge does it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDES, VARIANCES = (4, 8, 16, 32, 64, 128), (0.1, 0.2)
CHANNEL_MEANS = (123.0, 117.0, 104.0)
"""Of red, green and blue."""
MIN_SCORE, MAX_OVERLAP, NUM_CANDIDATES = 0.9, 0.3, 750
DETECTION_SCALE = 0.25

SAME_FACE_OVERLAP, MAX_MISSED, MIN_FRAMES, MIN_FACE_PX = 0.5, 25, 50, 100
SMOOTHING_FRAMES, MARGIN, GREY = 13, 0.4, 110


class ScaledNorm(nn.Module):
    """Channels to length 1 at every place, then a learned gain each."""

    def __init__(self, channels: int, gain: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), gain))

    def forward(self, x: Tensor) -> Tensor:
        return x / (x.square().sum(dim=1, keepdim=True).sqrt() + 1e-10) * self.weight.view(1, -1, 1, 1)


class FaceDetector(nn.Module):
    """Parameters have their published names."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for number, widths in enumerate(((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))):
            for width in widths:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2, 2, ceil_mode=number == 2))
        layers += [nn.Conv2d(512, 1024, 3, padding=6, dilation=6), nn.ReLU(), nn.Conv2d(1024, 1024, 1), nn.ReLU()]
        self.vgg = nn.ModuleList(layers)
        self.L2Norm3_3, self.L2Norm4_3, self.L2Norm5_3 = ScaledNorm(256, 10.0), ScaledNorm(512, 8.0), ScaledNorm(512, 5.0)
        self.extras = nn.ModuleList(
            [nn.Conv2d(1024, 256, 1), nn.Conv2d(256, 512, 3, 2, 1), nn.Conv2d(512, 128, 1), nn.Conv2d(128, 256, 3, 2, 1)]
        )
        widths = (256, 512, 512, 1024, 512, 256)
        self.loc = nn.ModuleList(nn.Conv2d(width, 4, 3, padding=1) for width in widths)
        self.conf = nn.ModuleList(nn.Conv2d(width, 2 if i else 4, 3, padding=1) for i, width in enumerate(widths))

    def features(self, x: Tensor) -> list[Tensor]:
        """At each of :data:`STRIDES`."""
        found = []
        norms = {15: self.L2Norm3_3, 22: self.L2Norm4_3, 29: self.L2Norm5_3}
        for number, layer in enumerate(self.vgg):
            x = layer(x)
            if number in norms:
                found.append(norms[number](x))
        found.append(x)
        for number, layer in enumerate(self.extras):
            x = F.relu(layer(x))
            if number % 2:
                found.append(x)
        return found

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes [N, 4] (left, top, right, bottom, in pixels) and scores [N] of one image [1, 3, H, W], RGB less its means."""
        boxes, scores = [], []
        for number, (x, stride) in enumerate(zip(self.features(image), STRIDES, strict=True)):
            offsets, classes = self.loc[number](x)[0], self.conf[number](x)[0]
            if number == 0:  # the smallest faces have three backgrounds, of which the likeliest counts
                classes = torch.stack((classes[:3].amax(dim=0), classes[3]))
            rows, columns = (torch.arange(n, device=x.device, dtype=x.dtype) for n in x.shape[2:])
            centre = torch.stack(torch.meshgrid(columns, rows, indexing="xy")).add(0.5).mul(stride)
            centre = centre + offsets[:2] * VARIANCES[0] * 4 * stride
            half = 4 * stride * torch.exp(offsets[2:] * VARIANCES[1]) / 2
            boxes.append(torch.cat((centre - half, centre + half)).flatten(1).T)
            scores.append(classes.softmax(dim=0)[1].flatten())
        return torch.cat(boxes), torch.cat(scores)


@dataclass(frozen=True)
class Box:
    """In pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """Of both areas together, the share that they have in common."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        if width <= 0 or height <= 0:
            return 0.0
        common = width * height
        return common / (self.area + other.area - common)

    @property
    def area(self) -> float:
        return (self.right - self.left) * (self.bottom - self.top)


@torch.no_grad()
def detect(detector: FaceDetector, frame: Tensor) -> list[Box]:
    """Faces in a frame, uint8 [H, W, 3], the surest first; none in one that is smaller than a face that counts."""
    if min(frame.shape[:2]) < MIN_FACE_PX:
        return []
    weight = next(detector.parameters())
    image = frame.to(weight.device, weight.dtype).permute(2, 0, 1).unsqueeze(0)
    image = F.interpolate(image, scale_factor=DETECTION_SCALE, mode="bilinear", align_corners=False)
    boxes, scores = detector(image - torch.tensor(CHANNEL_MEANS, device=image.device, dtype=image.dtype).view(1, 3, 1, 1))
    order = scores.argsort(descending=True)[:NUM_CANDIDATES]
    order = order[scores[order] > MIN_SCORE]
    kept: list[Box] = []
    for values in (boxes[order] / DETECTION_SCALE).tolist():
        box = Box(*values)
        if all(box.overlap(other) <= MAX_OVERLAP for other in kept):
            kept.append(box)
    return kept


@dataclass(frozen=True)
class Track:
    """One face through consecutive frames: ``boxes[i]`` is in frame ``first + i``."""

    first: int
    boxes: Sequence[Box]


def follow(faces: Sequence[Sequence[Box]]) -> list[Track]:
    """Faces of each frame joined to tracks; where a face was missed for a while, its boxes are interpolated."""
    left = [list(boxes) for boxes in faces]
    tracks: list[Track] = []
    while True:
        found: list[tuple[int, Box]] = []
        for number, boxes in enumerate(left):
            if found and number - found[-1][0] > MAX_MISSED:
                break
            box = next((box for box in boxes if not found or box.overlap(found[-1][1]) > SAME_FACE_OVERLAP), None)
            if box is not None:
                found.append((number, box))
                boxes.remove(box)
        if not found:
            return tracks
        if len(found) >= MIN_FRAMES:
            track = _filled(found)
            sizes = [(box.right - box.left, box.bottom - box.top) for box in track.boxes]
            if max(sum(side) / len(sizes) for side in zip(*sizes, strict=True)) > MIN_FACE_PX:
                tracks.append(track)


def _filled(found: Sequence[tuple[int, Box]]) -> Track:
    boxes = [found[0][1]]
    for (start, a), (stop, b) in pairwise(found):
        pairs = list(zip(vars(a).values(), vars(b).values(), strict=True))
        shares = [(n - start) / (stop - start) for n in range(start + 1, stop + 1)]
        boxes += [Box(*(x + share * (y - x) for x, y in pairs)) for share in shares]
    return Track(found[0][0], boxes)


def cut_out(frames: Tensor, track: Track, size_px: int) -> Tensor:
    """A track's faces, uint8 [T, 3, size, size] in BGR, of frames uint8 [T, H, W, 3]: smoothed, with a margin."""
    halves = _median([max(b.bottom - b.top, b.right - b.left) / 2 for b in track.boxes])
    columns = _median([(b.left + b.right) / 2 for b in track.boxes])
    rows = _median([(b.top + b.bottom) / 2 for b in track.boxes])
    faces = []
    for number, (half, column, row) in enumerate(zip(halves, columns, rows, strict=True)):
        pad = int(half * (1 + 2 * MARGIN))
        frame = F.pad(frames[track.first + number].permute(2, 0, 1).float(), (pad,) * 4, value=GREY)
        top, bottom = int(row + pad - half), int(row + pad + half * (1 + 2 * MARGIN))
        left, right = int(column + pad - half * (1 + MARGIN)), int(column + pad + half * (1 + MARGIN))
        face = frame[:, max(0, top) : bottom, max(0, left) : right].unsqueeze(0)
        face = F.interpolate(face, (size_px, size_px), mode="bilinear", align_corners=False)
        faces.append(face[0].flip(0).round().clamp(0, 255).to(torch.uint8))
    return torch.stack(faces)


def _median(values: Sequence[float]) -> list[float]:
    """Of each value and its neighbours; beyond the ends there are zeros, as in the published cut."""
    side = SMOOTHING_FRAMES // 2
    padded = F.pad(torch.tensor(values, dtype=torch.float64), (side, side))
    found: list[float] = padded.unfold(0, SMOOTHING_FRAMES, 1).median(dim=1).values.tolist()
    return found
