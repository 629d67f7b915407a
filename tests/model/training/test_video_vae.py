"""The video VAE's stage: what it draws and what it measures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model.data.clips import ClipSet
from model.training.stages.video_vae import PIECE_CELLS, FrameBatches, measure_pictures, reconstruction_loss
from model.vae.video import SPATIAL_STRIDE, VideoVAE, pack_i420
from tests.model.support import normal, tiny_model

HEIGHT, WIDTH, MOUTH_WEIGHT = 160, 192, 4.0


@pytest.fixture(scope="module")
def batches() -> FrameBatches:
    """Pictures in which every luma value tells its column; the mouth is at the lower right, the eyes are nowhere."""
    frames = np.zeros((2, 32, HEIGHT * 3 // 2, WIDTH), np.uint8)
    frames[:, :, :HEIGHT] = np.arange(WIDTH, dtype=np.uint8)
    boxes = np.zeros((2, 32, 2, 4), np.int16)
    boxes[:, :, 0] = (150, 120, 170, 140)
    clips = ClipSet(frames, np.zeros((2, 0)), boxes, np.zeros((2, 32)), np.zeros((2, 32, 0)), [])
    return FrameBatches(clips, torch.device("cpu"), 2, (MOUTH_WEIGHT, 2.0, 0.0))


def test_pieces_are_cut_at_cells_and_half_of_them_hold_the_mouth(batches: FrameBatches) -> None:
    chance = torch.rand(16, 6, generator=torch.Generator().manual_seed(0))
    chance[:, 5] = torch.arange(16) % 2  # every other one is to
    packed, weight, _ = batches.draw_pieces(torch.arange(16) % 2, chance, 8)
    size = PIECE_CELLS * SPATIAL_STRIDE // 2
    assert packed.shape == (16, 6, 8, size, size)
    assert weight.shape == (16, 1, 8, size, size)
    columns = (packed[:, 0, 0, 0] * 128 + 128).round()
    assert torch.equal(columns - columns[:, :1], torch.arange(0, 2 * size, 2).expand(16, -1).float())
    assert torch.equal(columns[:, 0] % SPATIAL_STRIDE, torch.zeros(16))
    assert (weight[::2].amax((1, 2, 3, 4)) > MOUTH_WEIGHT).all()


def test_movement_costs_more_the_more_it_counts() -> None:
    still, moving = torch.zeros(1, 6, 4, 4, 4), torch.zeros(1, 6, 4, 4, 4)
    moving[:, :, 2] = 0.5
    weight = torch.ones(1, 1, 4, 4, 4)
    without, with_motion = (float(reconstruction_loss(still, moving, weight, motion_weight)) for motion_weight in (0.0, 3.0))
    assert with_motion - without == pytest.approx(3.0 * 0.5**2 * 2 / 3)
    assert float(reconstruction_loss(moving, moving, weight, 3.0)) == 0


def test_the_measure_of_a_perfect_decoder_and_of_one_that_holds_still(batches: FrameBatches) -> None:
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 32, HEIGHT * 3 // 2, WIDTH), dtype=np.uint8))
    moving = FrameBatches.__new__(FrameBatches)
    moving.__dict__ |= batches.__dict__ | {"frames": frames}

    class Kept(VideoVAE):
        """Latents are the pictures themselves, or the mean of four."""

        still = False

        def encode(self, packed: torch.Tensor) -> torch.Tensor:
            if not self.still:
                return packed
            mean = packed.unflatten(2, (-1, 4)).mean(3, keepdim=True)
            return mean.expand(-1, -1, -1, 4, -1, -1).flatten(2, 3)

        def decode(self, latents: torch.Tensor, memory: object) -> torch.Tensor:
            return latents

    vae = Kept(tiny_model().video_vae)
    pictures = moving.draw(torch.tensor([0, 1]), torch.zeros(2), 32)
    perfect = measure_pictures(vae, pictures[0], pictures[2])
    assert perfect["mouth motion correlation"] == pytest.approx(1, abs=1e-3)
    assert perfect["mouth motion energy"] == pytest.approx(1, abs=1e-3)
    assert perfect["mouth L1"] == 0
    assert perfect["face sharpness"] == pytest.approx(1)
    vae.still = True
    still = measure_pictures(vae, pictures[0], pictures[2])
    assert still["mouth motion energy"] == pytest.approx(0, abs=1e-9)
    assert still["face sharpness"] == pytest.approx(0.5, abs=0.02), "the mean of four pictures of noise is half as rough"


def test_critics_see_the_same_place_of_both_pictures(batches: FrameBatches) -> None:
    chance = torch.rand(4, 6, generator=torch.Generator().manual_seed(1))
    packed, _, parts = batches.draw(torch.zeros(4, dtype=torch.long), chance[:, 0], 8)
    corner = batches.corners(parts, chance)
    pieces = batches.draw_pieces(torch.zeros(4, dtype=torch.long), chance, 8)
    size = PIECE_CELLS * SPATIAL_STRIDE // 2
    for i, (row, column) in enumerate(corner.tolist()):
        torch.testing.assert_close(pieces[0][i], packed[i, :, :, row : row + size, column : column + size], rtol=0, atol=0)


def test_the_encoder_enlarges_what_happens_between_pictures() -> None:
    vae = VideoVAE(tiny_model().video_vae)
    still = pack_i420(torch.full((1, 1, 96, 64), 100, dtype=torch.uint8)).expand(-1, -1, 4, -1, -1)
    seen = torch.einsum("bptyx,ot->bpoyx", still, vae.encoder.transform)
    torch.testing.assert_close(seen[:, :, 0], still[:, :, 0])
    assert seen[:, :, 1:].abs().max() < 1e-5
    pictures = normal(1, 6, 4, 8, 8)
    seen = torch.einsum("bptyx,ot->bpoyx", pictures, vae.encoder.transform)
    motion = (pictures - pictures.mean(2, keepdim=True)).square().sum() ** 0.5
    torch.testing.assert_close(seen[:, :, 1:].square().sum() ** 0.5, 8 * motion)


def test_chroma_may_count_more_around_the_eyes() -> None:
    """The same error costs more there, and luma's no more."""
    target = torch.zeros(1, 6, 4, 4, 4)
    more = torch.ones(1, 1, 4, 4, 4)
    more[..., :2, :] = 5.0
    for channel, place, share in ((5, 0, 5.0), (5, 3, 1.0), (0, 0, None)):
        wrong = target.clone()
        wrong[:, channel, :, place] = 0.5
        even, more_there = (float(reconstruction_loss(wrong, target, torch.ones_like(more), 0.0, x)) for x in (1.0, more))
        assert more_there == pytest.approx(even if share is None else share * even)
