"""The lip-sync judge: what it hears, where it looks, and what it makes of both."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.errors import CheckpointError, ConfigError
from model.rewards.faces import Box, FaceDetector, Track, cut_out, detect, follow
from model.rewards.judge import Clip
from model.rewards.sync import FACES_FILE, SYNCNET_FILE, SyncJudge, load_sync_judge
from model.rewards.syncnet import SyncNet, cepstra, confidence


def test_cepstra_are_those_of_the_published_measurement() -> None:
    """Step 40 of this sound, as python_speech_features 0.6 has it."""
    n = torch.arange(16_000, dtype=torch.float64)
    sound = 0.3 * torch.sin(2 * torch.pi * 440 * n / 16_000) + 0.05 * torch.sin(n * n / 7000)
    sound += 0.1 * torch.sin(2 * torch.pi * 2500 * n / 16_000) * torch.sin(n / 3000)
    expected = [
        21.1806,
        -6.5086,
        1.1620,
        7.3304,
        -28.0136,
        -38.6324,
        -48.4396,
        37.7351,
        -51.4246,
        11.7057,
        61.6157,
        -24.1011,
        25.8441,
    ]
    found = cepstra(sound.float())
    assert found.shape == (13, 99)
    torch.testing.assert_close(found[:, 40], torch.tensor(expected), rtol=0, atol=1e-3)


class Listener(SyncNet):
    """Understands faces whose brightness is told by the loudness of the sound."""

    def of_faces(self, faces: Tensor) -> Tensor:
        return faces.mean(dim=(1, 3, 4))

    def of_sound(self, cepstra: Tensor) -> Tensor:
        loudness = (cepstra[:, 0, 0] / 2).exp().unflatten(1, (5, 4)).mean(dim=2)
        return loudness / 93  # of white noise, see below


@pytest.mark.parametrize("shift", [-4, 0, 7])
def test_the_shift_is_found_and_confidence_is_how_much_it_stands_out(shift: int) -> None:
    dice = torch.Generator().manual_seed(0)
    loudness = torch.rand(80, generator=dice)
    samples = loudness.repeat_interleave(640) * (torch.rand(80 * 640, generator=dice) - 0.5) * 0.1
    brightness = (loudness.roll(shift) * 200).to(torch.uint8)
    faces = brightness.view(-1, 1, 1, 1).expand(-1, 3, 8, 8)
    network = Listener()
    sure, found = confidence(network, faces, samples)
    assert found == shift
    unsure, _ = confidence(network, faces.flip(0), samples)
    assert sure > 2 * unsure > 0


def test_a_clip_that_is_too_short_has_no_confidence() -> None:
    assert confidence(Listener(), torch.zeros(5, 3, 8, 8, dtype=torch.uint8), torch.zeros(16_000)) == (0.0, 0)


def test_boxes_lie_where_the_detectors_cells_are() -> None:
    """Without weights boxes are the cells' own: four strides wide, about their middles."""
    detector = FaceDetector()
    for parameter in detector.parameters():
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        detector.get_parameter("conf.1.bias")[1] = 9.0  # every cell of stride 8 sees a face
        boxes, scores = detector(torch.zeros(1, 3, 64, 96))
    assert len(boxes) == 16 * 24 + 8 * 12 + 4 * 6 + 2 * 3 + 1 * 2 + 1
    assert boxes[0].tolist() == [-6, -6, 10, 10]
    assert boxes[16 * 24 + 1].tolist() == [-4, -12, 28, 20]  # to the right of the first of stride 8
    assert scores[16 * 24 : 16 * 24 + 96].tolist() == pytest.approx([1 / (1 + torch.tensor(-9.0).exp().item())] * 96)
    assert scores[0] == pytest.approx(0.5)


def test_of_faces_that_overlap_the_surest_stays() -> None:
    detector = FaceDetector()
    for parameter in detector.parameters():
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        detector.get_parameter("conf.4.bias")[1] = 9.0  # stride 64: cells of 256 pixels, in a picture of 128 x 192
    found = detect(detector, torch.zeros(512, 768, 3, dtype=torch.uint8))
    assert all(box.right - box.left == 1024 and box.left in (-384, -128, 128) for box in found)
    assert 0 < len(found) < 6
    assert all(a.overlap(b) <= 0.3 for a in found for b in found if a is not b)
    assert detect(detector, torch.zeros(90, 768, 3, dtype=torch.uint8)) == []


def box(left: float, top: float, size: float = 120) -> Box:
    return Box(left, top, left + size, top + size)


def test_faces_are_followed_over_gaps_and_short_ones_left_out() -> None:
    frames: list[list[Box]] = [[box(2 * i, 10), box(500, 50)] for i in range(70)]
    for i in range(20, 30):
        frames[i] = [box(500, 50)]
    for i in range(40, 70):
        frames[i] = frames[i][:1]
    (track,) = follow(frames)
    assert (track.first, len(track.boxes)) == (0, 70)
    assert [b.left for b in track.boxes] == pytest.approx([2 * i for i in range(70)])
    assert follow([[box(0, 0, 60)]] * 70) == []


def test_a_face_is_cut_out_with_its_margin() -> None:
    columns = torch.arange(400).clamp(max=255).to(torch.uint8)
    frames = torch.stack((columns.expand(300, 400), torch.zeros(300, 400).byte(), torch.full((300, 400), 9).byte()), dim=-1)
    track = Track(5, [Box(100, 100, 200, 200)] * 20)
    faces = cut_out(frames.expand(30, -1, -1, -1), track, 224)
    assert faces.shape == (20, 3, 224, 224)
    middle = faces[10]
    assert middle[0].unique().tolist() == [9]  # blue first
    assert middle[1].unique().tolist() == [0]
    # 50 x 1.4 to either side of column 150, made 224 wide.
    assert (int(middle[2, 100, 0]), int(middle[2, 100, 223])) == (80, 219)


def test_a_clip_without_a_face_is_worth_nothing_and_one_of_another_rate_is_refused() -> None:
    judge = SyncJudge(FaceDetector(), SyncNet())
    clip = Clip(torch.zeros(60, 64, 96, 3, dtype=torch.uint8), 25, torch.zeros(40_000), 16_000, "A room.")
    assert judge([clip, clip])["sync"].tolist() == [0, 0]
    with pytest.raises(ConfigError, match="wants 25 frames"):
        judge([Clip(clip.frames, 24, clip.samples, 16_000, "")])


def published_shapes() -> dict[str, tuple[int, ...]]:
    """Some of either file, as they are published."""
    return {
        "netcnnaud.4.weight": (192, 64, 3, 3),
        "netcnnaud.18.weight": (512, 256, 5, 4),
        "netfcaud.3.weight": (1024, 512),
        "netcnnlip.0.weight": (96, 3, 5, 7, 7),
        "netcnnlip.4.weight": (256, 96, 1, 5, 5),
        "netcnnlip.18.weight": (512, 256, 1, 6, 6),
        "netcnnlip.19.running_mean": (512,),
        "vgg.0.weight": (64, 3, 3, 3),
        "vgg.28.weight": (512, 512, 3, 3),
        "vgg.31.weight": (1024, 512, 3, 3),
        "L2Norm3_3.weight": (256,),
        "extras.3.weight": (256, 128, 3, 3),
        "loc.3.weight": (4, 1024, 3, 3),
        "conf.0.bias": (4,),
    }


def test_names_and_shapes_are_the_published_ones() -> None:
    found = {**SyncNet().state_dict(), **FaceDetector().state_dict()}
    assert {name: tuple(found[name].shape) for name in published_shapes()} == published_shapes()


def test_published_files_are_read_strictly(tmp_path: Path) -> None:
    """Old ones, whose batch norms count nothing."""
    network, detector = SyncNet(), FaceDetector()
    for path, module in ((tmp_path / SYNCNET_FILE, network), (tmp_path / FACES_FILE, detector)):
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {name: x for name, x in module.state_dict().items() if not name.endswith("num_batches_tracked")}
        torch.save(tensors, path, _use_new_zipfile_serialization=False)
    judge = load_sync_judge(tmp_path)
    read = {name: x for part in judge.module.children() for name, x in part.state_dict().items()}
    for name, x in {**network.state_dict(), **detector.state_dict()}.items():
        assert torch.equal(read[name], x), name
    tensors.pop("vgg.0.bias")
    torch.save(tensors, tmp_path / FACES_FILE)
    with pytest.raises(CheckpointError, match=r"sfd_face\.pth does not fit this model: 1 keys missing \(first: vgg\.0\.bias\)"):
        load_sync_judge(tmp_path)
    (tmp_path / SYNCNET_FILE).unlink()
    (tmp_path / FACES_FILE).write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match=r"sfd_face\.pth is damaged"):
        load_sync_judge(tmp_path)
    (tmp_path / FACES_FILE).unlink()
    with pytest.raises(CheckpointError, match="avatar-rtc download reward"):
        load_sync_judge(tmp_path)
