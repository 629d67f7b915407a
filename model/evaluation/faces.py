"""A reader of drawn faces: says of a picture who is seen and what the face does. It has learned from the renderer alone.

The model that is judged has no part in it: no weight, no latent and no picture that the model made. Its weights lie beside it;
they were made in some minutes on a CPU by

    python -m model.evaluation.faces --looks 3000

which needs the extra ``[train]`` and also prints how often it is right on looks that it has not seen.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from model.evaluation.film import Array
from model.weight_files import fill, read_tensors

WEIGHTS = Path(__file__).parent / "data" / "faces.safetensors"
SIDE_PX = 256
"""Of pictures; others are scaled to it."""
SMALL_PX = 96
EYES = (slice(80, 152), slice(56, 200))
"""Rows and columns that hold both eyes, wherever the head is."""
POSES = {
    **{"yaw": 0.15, "pitch": 0.06, "roll": 0.05, "shift_x": 2.6, "shift_y": 1.5, "blink": 0.5, "gaze_x": 0.25, "gaze_y": 0.15},
    **{"brow": 0.3, "smile": 0.3, "opening": 0.3},
}
"""What a face does, with about a standard deviation of each; see :class:`model.data.face.Pose`."""
BATCH = 64


@dataclass(frozen=True)
class Reading:
    """Of the pictures of a film.

    Attributes:
        looks: by attribute of :class:`model.data.face.Look`, log probabilities [T, classes].
        poses: by name of :data:`POSES`, [T] each.
    """

    looks: dict[str, Array]
    poses: dict[str, Array]


class FaceReader(nn.Module):
    """Two small towers, of the whole picture and of the eyes at full size.

    Args:
        attributes: classes of each attribute that is read.
    """

    def __init__(self, attributes: dict[str, int], hidden: int = 128) -> None:
        super().__init__()
        self._attributes = attributes
        self.whole = _tower((24, 48, 80, 96), 24)  # 96 px to 6 by 6
        self.eyes = _tower((24, 48, 64, 64), 24)  # 72 by 144 px to 5 by 9
        self.hidden = nn.Linear(24 * (6 * 6 + 5 * 9), hidden)
        self.heads = nn.Linear(hidden, sum(attributes.values()) + len(POSES))

    def forward(self, small: Tensor, eyes: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Log odds of each attribute [B, classes] and poses [B, P], of pictures in [-1, 1], [B, 3, h, w] each."""
        x = torch.cat((self.whole(small).flatten(1), self.eyes(eyes).flatten(1)), dim=1)
        *looks, poses = self.heads(F.relu(self.hidden(x))).split((*self._attributes.values(), len(POSES)), dim=1)
        return dict(zip(self._attributes, looks, strict=True)), poses * poses.new_tensor(list(POSES.values()))

    @torch.no_grad()
    def read(self, pictures: Array) -> Reading:
        """Of uint8 pictures [T, H, W, 3]."""
        looks: dict[str, list[Tensor]] = {name: [] for name in self._attributes}
        poses: list[Tensor] = []
        for start in range(0, len(pictures), BATCH):
            found, pose = self(*views(torch.from_numpy(pictures[start : start + BATCH])))
            poses.append(pose)
            for name, odds in found.items():
                looks[name].append(odds.log_softmax(dim=1))
        columns = torch.cat(poses).T.numpy()
        return Reading({name: torch.cat(odds).numpy() for name, odds in looks.items()}, dict(zip(POSES, columns, strict=True)))


def _tower(widths: tuple[int, ...], out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 3
    for width in widths:
        layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.Conv2d(channels, out, 1))


def views(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """What the towers see of uint8 pictures [B, H, W, 3]: [B, 3, h, w] in [-1, 1] each."""
    x = pictures.permute(0, 3, 1, 2).float() / 127.5 - 1
    if x.shape[2:] != (SIDE_PX, SIDE_PX):
        x = F.interpolate(x, (SIDE_PX, SIDE_PX), mode="bilinear", antialias=True, align_corners=False)
    small = F.interpolate(x, (SMALL_PX, SMALL_PX), mode="bilinear", antialias=True, align_corners=False)
    return small, x[:, :, EYES[0], EYES[1]]


def load_reader() -> FaceReader:
    """
    Raises:
        CheckpointError: its file is missing or damaged.
    """
    tensors = read_tensors(WEIGHTS)
    attributes = {name.removeprefix("classes."): int(x) for name, x in tensors.items() if name.startswith("classes.")}
    reader = FaceReader(dict(sorted(attributes.items())))
    own = {name: x for name, x in tensors.items() if not name.startswith("classes.")}
    counted = {name: x for name, x in reader.state_dict().items() if name.endswith("num_batches_tracked")}
    fill(reader, own | counted, WEIGHTS, dtype=torch.float32)
    return reader.eval().requires_grad_(False)


# How it learns


def _draw(seed: int, num_pictures: int) -> Iterator[tuple[Array, dict[str, int], list[float]]]:
    """Pictures of one random look in speech and silence, with labels and poses; one in four with a lid that is not open."""
    from model.data.clips import i420_from_rgb, rgb_from_i420
    from model.data.face import POSE_FIELDS, Look, Renderer
    from model.data.motion import animate
    from model.liveliness import SMILES

    rng = np.random.default_rng(seed)
    look = Look.sample(rng)
    at_s, events = 0.6, []
    while at_s < 5.0:
        length_s = float(rng.uniform(0.05, 0.16))
        events.append((str(rng.choice(list("ɑæɛiouʌəpbmfvtdszʃkɹwlnˈ.?"))), at_s, at_s + length_s))
        at_s += length_s + (float(rng.uniform(0.3, 1.0)) if rng.random() < 0.08 else 0.0)
    motion = animate(events, 7.0, rng, smile=SMILES[look.mood])
    renderer = Renderer(look, SIDE_PX)
    blinks = np.flatnonzero(motion.poses[:, POSE_FIELDS.index("blink_left")] > 0.1)
    for i in range(num_pictures):
        frame = int(rng.choice(blinks) if i % 4 == 0 and len(blinks) else rng.integers(len(motion.poses)))
        pose = motion.pose(frame)
        picture = rgb_from_i420(i420_from_rgb(renderer.frame(pose)))
        values = {**pose._asdict(), "blink": pose.blink_left, "opening": float(motion.opening[frame])}
        values["brow"] = (pose.brow_left + pose.brow_right) / 2
        yield _worn(picture, rng), look.labels(), [float(values[name]) for name in POSES]


def _worn(picture: Array, rng: np.random.Generator) -> Array:
    """As a decoder or a codec may leave it: softer, with noise, a little brighter or another colour."""
    x = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1).unsqueeze(0).float()
    sigma = float(rng.uniform(0.0, 1.4))
    if sigma > 0.3:
        taps = torch.exp(-torch.arange(-3.0, 4.0).square() / (2 * sigma**2))
        taps = (taps / taps.sum()).expand(3, 1, -1)
        x = F.pad(x, (3, 3, 3, 3), mode="replicate")
        x = F.conv2d(F.conv2d(x, taps.unsqueeze(2), groups=3), taps.unsqueeze(3), groups=3)
    gain = torch.from_numpy(rng.uniform(0.94, 1.06) * rng.uniform(0.98, 1.02, 3)).float().view(1, 3, 1, 1)
    noise = torch.from_numpy(rng.standard_normal(x.shape).astype(np.float32)) * float(rng.uniform(0, 4))
    worn = x * gain + noise + float(rng.uniform(-6, 6))
    return np.asarray(worn.round().clamp(0, 255).to(torch.uint8)[0].permute(1, 2, 0).numpy())


@dataclass(frozen=True)
class _Examples:
    small: Tensor
    eyes: Tensor
    labels: Tensor
    poses: Tensor


def _examples(seeds: range, num_pictures: int, attributes: list[str]) -> _Examples:
    """Inputs in bytes, labels [N, attributes], poses [N, P]."""
    from tqdm import tqdm

    small, eyes, labels, poses = [], [], [], []
    for seed in tqdm(seeds, "drawing", unit="look", disable=not sys.stderr.isatty()):
        for picture, found, pose in _draw(seed, num_pictures):
            seen = [((x[0] + 1) * 127.5).round().to(torch.uint8) for x in views(torch.from_numpy(picture).unsqueeze(0))]
            small.append(seen[0])
            eyes.append(seen[1])
            labels.append([found[name] for name in attributes])
            poses.append(pose)
    return _Examples(torch.stack(small), torch.stack(eyes), torch.tensor(labels), torch.tensor(poses))


def learn(num_looks: int, num_pictures: int, epochs: int, seed: int = 0) -> tuple[FaceReader, dict[str, float]]:
    """A reader, and how it does on looks that it has not seen: shares of right attributes, correlations of poses."""
    from model.data.face import Look

    torch.manual_seed(seed)
    attributes = dict(sorted(Look.cardinalities().items()))
    names = list(attributes)
    num_unseen = max(1, num_looks // 20)
    unseen = _examples(range(num_unseen), num_pictures, names)
    data = _examples(range(num_unseen, num_looks), num_pictures, names)
    reader, scales = FaceReader(attributes), torch.tensor(list(POSES.values()))
    optimizer = torch.optim.AdamW(reader.parameters(), 2e-3, weight_decay=0.02)
    steps = max(1, len(data.small) // BATCH) * epochs
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)

    def seen(x: Tensor) -> Tensor:
        return x.float() / 127.5 - 1

    order = torch.empty(0, dtype=torch.long)
    for step in range(steps):
        if len(order) < BATCH:
            order = torch.randperm(len(data.small))
        batch, order = order[:BATCH], order[BATCH:]
        looks, poses = reader(seen(data.small[batch]), seen(data.eyes[batch]))
        loss = ((poses - data.poses[batch]) / scales).square().mean()
        for i, odds in enumerate(looks.values()):
            loss = loss + 0.3 * F.cross_entropy(odds, data.labels[batch, i])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step} of {steps}: {float(loss.detach()):.3f}", file=sys.stderr, flush=True)
    reader.eval()
    with torch.no_grad():
        pieces = [reader(seen(a), seen(b)) for a, b in zip(unseen.small.split(BATCH), unseen.eyes.split(BATCH), strict=True)]
    figures: dict[str, float] = {}
    for i, name in enumerate(names):
        right = torch.cat([looks[name].argmax(1) for looks, _ in pieces]) == unseen.labels[:, i]
        figures[name] = round(float(right.float().mean()), 4)
    poses = torch.cat([x for _, x in pieces])
    for i, name in enumerate(POSES):
        figures[f"{name} (correlation)"] = round(float(torch.corrcoef(torch.stack((poses[:, i], unseen.poses[:, i])))[0, 1]), 4)
    return reader, figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--looks", type=int, default=3000, help="that are drawn, of which a twentieth tests (default: 3000)")
    parser.add_argument("--pictures", type=int, default=4, help="of each (default: 4)")
    parser.add_argument("--epochs", type=int, default=12)
    options = parser.parse_args()
    reader, figures = learn(options.looks, options.pictures, options.epochs)
    tensors = {name: x.to(torch.bfloat16).contiguous() for name, x in reader.state_dict().items() if x.is_floating_point()}
    tensors |= {f"classes.{name}": torch.tensor(num) for name, num in reader._attributes.items()}
    WEIGHTS.parent.mkdir(exist_ok=True)
    save_file(tensors, WEIGHTS)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
