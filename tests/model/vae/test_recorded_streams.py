"""Decoders of streams that record their calls give what those do that run them anew, stream after stream."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.config import AudioStreamConfig, WanVAEConfig
from model.vae import audio_stream, picture_stream
from model.vae.audio_stream import AudioStreamDecoder, SoundStream
from model.vae.picture_stream import PictureStream
from model.vae.pictures import i420_from_frames
from model.vae.wan import WanDecoder, channels_last, fold_upsampling
from tests.model.audio import tiny_audio
from tests.model.support import normal, randomise
from tests.support.traced_graphs import TracedGraphs


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (picture_stream, audio_stream):
        monkeypatch.setattr(module, "CudaGraphCache", TracedGraphs)


def build(widths: tuple[int, ...]) -> WanDecoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = WanVAEConfig(
            latent_channels=4, encoder_widths=widths, decoder_widths=widths, num_blocks=1, halves_time=(False, True, True)
        )
        decoder = WanDecoder(config)
    randomise(decoder)
    return decoder.requires_grad_(False).eval()


def planes(stream: PictureStream, latents: Tensor, sizes: list[int]) -> Tensor:
    stream.begin()
    return torch.cat([stream.decode(part).clone() for part in latents.split(sizes, dim=2)], dim=1)


@pytest.mark.parametrize("folded", [True, False])
@torch.inference_mode()
def test_pictures(recording: None, folded: bool) -> None:
    decoder = build((4, 8, 16, 16))
    latents = normal(1, 4, 6, 4, 3), normal(1, 4, 6, 4, 3, seed=1)
    expected = [i420_from_frames(decoder.decode(x)[0]) for x in latents]
    if folded:
        fold_upsampling(decoder)
    stream, plain = PictureStream(decoder, records=True), PictureStream(decoder, records=False)
    for x, wanted in zip(latents, expected, strict=True):
        found = planes(stream, x, [1, 2, 2, 1])
        assert found.shape == wanted.shape
        assert (found.int() - wanted.int()).abs().max() <= 1
        assert torch.equal(planes(plain, x, [1, 2, 2, 1]), found)


@torch.inference_mode()
def test_two_streams_of_pictures_in_turns(recording: None) -> None:
    decoder, latents = build((4, 4, 8, 8)), [normal(1, 4, 4, 4, 3, seed=i) for i in (0, 1)]
    streams = [PictureStream(decoder, records=True) for _ in latents]
    found: list[list[Tensor]] = [[], []]
    for i in range(4):
        for stream, x, pieces in zip(streams, latents, found, strict=True):
            pieces.append(stream.decode(x[:, :, i : i + 1]).clone())
    for x, pieces in zip(latents, found, strict=True):
        assert torch.equal(torch.cat(pieces, dim=1), planes(PictureStream(decoder, records=False), x, [1] * 4))


@pytest.mark.parametrize("decoded", [0, 1, 3])
@torch.inference_mode()
def test_two_devices_finish_a_stream_as_one_does(decoded: int) -> None:
    """From its first latent on, which is shorter, or later; and the next stream begins anew."""
    decoder, second = build((4, 8, 16, 16)), build((4, 8, 16, 16))
    stream, plain = PictureStream(decoder, records=False, second=second), PictureStream(decoder, records=False)
    for seed in (0, 1):
        x = normal(1, 4, decoded + 6, 4, 3, seed=seed)
        wanted = planes(plain, x, [1] * decoded + [3, 3])
        stream.begin()
        before = [stream.decode(latent) for latent in x[:, :, :decoded].split(1, dim=2)] if decoded else []
        first, rest = stream.finish(x[:, :, decoded : decoded + 3], x[:, :, decoded + 3 :])
        assert torch.equal(torch.cat((*before, first, rest), dim=1), wanted)


@torch.inference_mode()
def test_a_finished_stream_does_not_go_on() -> None:
    decoder, x = build((4, 4, 8, 8)), normal(1, 4, 2, 4, 3)
    stream = PictureStream(decoder, records=False, second=decoder)
    stream.finish(x[:, :, :1], x[:, :, 1:])
    with pytest.raises(RuntimeError, match="finished"):
        stream.decode(x[:, :, :1])
    stream.begin()
    assert torch.equal(stream.decode(x), planes(PictureStream(decoder, records=False), x, [2]))


@torch.inference_mode()
def test_sound(recording: None, tmp_path: Path) -> None:
    decoder = AudioStreamDecoder(*tiny_audio(tmp_path), AudioStreamConfig(left_latents=6, hold_back_latents=4))
    stream, plain = SoundStream(decoder, records=True), SoundStream(decoder, records=False)
    for seed in (0, 1):
        stream.begin()
        plain.begin()
        for part in normal(1, decoder.vae.config.latent_channels, 24, seed=seed).split(6, dim=2):
            torch.testing.assert_close(stream.decode(part), plain.decode(part))


@pytest.mark.gpu
@torch.inference_mode()
def test_pictures_on_a_gpu_are_near_float32() -> None:
    exact = build((32, 32, 64, 64))
    half = build((32, 32, 64, 64)).to("cuda")
    fold_upsampling(half)
    half = channels_last(half.to(torch.bfloat16))
    latents = normal(1, 4, 6, 4, 6)
    wanted = i420_from_frames(exact.decode(latents)[0]).float()
    stream, plain = PictureStream(half, records=True), PictureStream(half, records=False)
    for _ in range(2):
        found = planes(stream, latents.cuda(), [1, 2, 3])
        assert (found.cpu().float() - wanted).abs().mean() < 2
        assert torch.equal(planes(plain, latents.cuda(), [1, 2, 3]), found)


@pytest.mark.gpu
@pytest.mark.parametrize("decoded", [0, 1, 3])
@torch.inference_mode()
def test_two_gpus_finish_a_stream_as_one_does(decoded: int) -> None:
    """Both decoders on one GPU where there is no second. Large enough that the devices are behind the host."""
    devices = torch.device("cuda", torch.cuda.device_count() - 1), torch.device("cuda", 0)
    half = build((64, 64, 128, 128)).to(devices[0])
    fold_upsampling(half)
    half = channels_last(half.to(torch.bfloat16))
    stream = PictureStream(half, records=True, priority=-1, second=copy.deepcopy(half).to(devices[1]))
    plain = PictureStream(half, records=False)
    ours = [torch.cuda.Stream(device) for device in devices]
    for seed in range(6):
        x = normal(1, 4, decoded + 6, 24, 32, seed=seed).to(devices[0])
        with torch.cuda.device(devices[0]):
            wanted = planes(plain, x, [1] * decoded + [3, 3])
        rest = x[:, :, decoded + 3 :].to(devices[1])
        for device in devices:
            torch.cuda.synchronize(device)
        with torch.cuda.stream(ours[1]), torch.cuda.stream(ours[0]):
            stream.begin()
            before = [stream.decode(latent).clone() for latent in x[:, :, :decoded].split(1, dim=2)] if decoded else []
            parts = stream.finish(x[:, :, decoded : decoded + 3], rest)
            found = torch.cat([part.cpu() for part in (*before, *parts)], dim=1)
        apart = (found.int() - wanted.cpu().int()).abs()
        # A library may choose another way to sum on the other device; a layer's memory that came late would show everywhere.
        assert apart.max() <= 2
        assert apart.float().mean() < 0.02
