"""The published audio files: folded as their authors' code computes them, and refused where they are others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from model.adapters.mmaudio import bigvgan_shapes, load_bigvgan, load_mmaudio_vae, mmaudio_vae_shapes
from model.config import BigVGANConfig, MMAudioVAEConfig
from model.errors import CheckpointError
from model.vae.bigvgan import antialias_filter
from tests.model.audio import VAE, VOCODER, random_tensors, write_vae, write_vocoder

Edit = Callable[[dict[str, Tensor]], object]


@pytest.fixture
def vae_path(tmp_path: Path) -> Path:
    return write_vae(tmp_path / "v1-16.pth")


@pytest.fixture
def vocoder_path(tmp_path: Path) -> Path:
    return write_vocoder(tmp_path / "best_netG.pt")


def newer(name: str) -> str:
    name = name.replace(".weight_g", ".parametrizations.weight.original0")
    return name.replace(".weight_v", ".parametrizations.weight.original1")


def test_the_defaults_ask_for_the_published_files() -> None:
    vae, vocoder = mmaudio_vae_shapes(MMAudioVAEConfig()), bigvgan_shapes(BigVGANConfig())
    assert (len(vae), sum(torch.Size(shape).numel() for shape in vae.values())) == (57, 171_657_378)
    assert (len(vocoder), sum(torch.Size(shape).numel() for shape in vocoder.values())) == (784, 112_233_866)
    assert vae["decoder.up.1.upsample.conv.weight"] == (768, 768, 3)
    assert vae["encoder.down.2.block.0.nin_shortcut.weight"] == (1536, 768, 1)
    assert vocoder["ups.0.0.weight_v"] == (1536, 768, 8)
    assert vocoder["resblocks.17.activations.5.act.beta"] == (24,)


def test_filters_of_the_vae_are_brought_to_unit_magnitude(vae_path: Path) -> None:
    vae, stored = load_mmaudio_vae(vae_path, VAE), random_tensors(mmaudio_vae_shapes(VAE))
    raw = stored["decoder.up.1.block.0.conv2.weight"]
    fan_in = raw[0].numel()
    rms = raw.square().mean((1, 2), keepdim=True).sqrt()
    conv2 = vae.decoder.get_submodule("levels.1.blocks.0.conv2")
    torch.testing.assert_close(conv2.weight, raw / (1e-4 + rms) / fan_in**0.5)
    out = stored["encoder.conv_out.weight"]
    gain = 1 + stored["encoder.learnable_gain"]
    folded = out * gain / (1e-4 + out.square().mean((1, 2), keepdim=True).sqrt()) / out[0].numel() ** 0.5
    torch.testing.assert_close(vae.encoder.conv_out.weight, folded)


def test_queries_keys_and_values_are_taken_apart(vae_path: Path) -> None:
    vae, stored = load_mmaudio_vae(vae_path, VAE), random_tensors(mmaudio_vae_shapes(VAE))
    ours, raw = vae.decoder.middle.attention.qkv.weight, stored["decoder.mid.attn_1.qkv.weight"]
    channels = raw.shape[1]
    for part in range(3):  # in the file, channel c of part p is row 3 c + p
        mine, theirs = ours[part * channels :][:channels, :, 0], raw[part::3, :, 0]
        torch.testing.assert_close(mine / mine.norm(dim=1, keepdim=True), theirs / theirs.norm(dim=1, keepdim=True))


def test_both_spellings_of_weight_norm_are_what_torch_makes_of_them(vocoder_path: Path, tmp_path: Path) -> None:
    vocoder, stored = load_bigvgan(vocoder_path, VOCODER), random_tensors(bigvgan_shapes(VOCODER), 1)
    for published, ours, module in (
        ("ups.1.0", vocoder.get_submodule("stages.1.up"), nn.ConvTranspose1d(8, 4, 4)),
        ("resblocks.2.convs1.0", vocoder.get_submodule("stages.1.blocks.0.dilated.0"), nn.Conv1d(4, 4, 3)),
    ):
        normed = weight_norm(module)
        normed.load_state_dict(
            {
                "bias": stored[f"{published}.bias"],
                "parametrizations.weight.original0": stored[f"{published}.weight_g"],
                "parametrizations.weight.original1": stored[f"{published}.weight_v"],
            }
        )
        torch.testing.assert_close(ours.weight, normed.weight.detach())
        torch.testing.assert_close(ours.bias, stored[f"{published}.bias"], atol=0, rtol=0)
    other = load_bigvgan(write_vocoder(tmp_path / "new.pt", {newer(name): t for name, t in stored.items()}), VOCODER)
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, vocoder.state_dict()[name]), name


def test_snakes_are_folded(vocoder_path: Path) -> None:
    vocoder, stored = load_bigvgan(vocoder_path, VOCODER), random_tensors(bigvgan_shapes(VOCODER), 1)
    snake = vocoder.get_submodule("stages.1.blocks.1.snakes.1")
    torch.testing.assert_close(snake.get_parameter("frequency")[:, 0], stored["resblocks.3.activations.1.act.alpha"].exp())
    torch.testing.assert_close(
        snake.get_parameter("scale")[:, 0], 1 / (stored["resblocks.3.activations.1.act.beta"].exp() + 1e-9)
    )
    torch.testing.assert_close(vocoder.last_snake.frequency[:, 0], stored["activation_post.act.alpha"].exp())


def test_weights_come_in_the_type_asked_for_and_ask_for_no_gradient(vae_path: Path, vocoder_path: Path) -> None:
    for module in (
        load_mmaudio_vae(vae_path, VAE, dtype=torch.bfloat16),
        load_bigvgan(vocoder_path, VOCODER, dtype=torch.bfloat16, device=torch.device("cpu")),
    ):
        assert {tensor.dtype for tensor in module.state_dict().values()} == {torch.bfloat16}
        assert not any(parameter.requires_grad for parameter in module.parameters())


def clear_but_conv(tensors: dict[str, Tensor]) -> None:
    tensors.clear()
    tensors["conv1.weight"] = torch.zeros(1)


VAE_FAULTS: dict[str, tuple[Edit, str]] = {
    "missing": (
        lambda t: t.pop("encoder.mid.attn_1.qkv.weight"),
        r"v1-16\.pth is not MMAudio's 16 kHz audio VAE .* 1 of 37 keys missing \(first: encoder\.mid\.attn_1\.qkv\.weight\), 0",
    ),
    "more": (lambda t: t.update({"z.weight": torch.zeros(1)}), r"0 of 37 keys missing .* 1 unexpected \(first: z\.weight\)"),
    "shape": (
        lambda t: t.update({"decoder.conv_in.weight": torch.zeros(16, 5, 3)}),
        r"decoder\.conv_in\.weight has shape \[16, 5, 3\], .* has \[16, 4, 3\] there",
    ),
    "not a tensor": (lambda t: t.update({"data_mean": "loud"}), r"data_mean has a str"),  # type: ignore[dict-item]
    "unrelated": (
        clear_but_conv,
        r"37 of 37 keys missing \(first: data_mean\)",
    ),
}


@pytest.mark.parametrize("fault", VAE_FAULTS)
def test_a_file_that_is_no_such_vae_is_refused(tmp_path: Path, fault: str) -> None:
    edit, message = VAE_FAULTS[fault]
    tensors = random_tensors(mmaudio_vae_shapes(VAE))
    edit(tensors)
    with pytest.raises(CheckpointError, match=message):
        load_mmaudio_vae(write_vae(tmp_path / "v1-16.pth", tensors), VAE)


VOCODER_FAULTS: dict[str, tuple[Edit, str]] = {
    "missing": (
        lambda t: t.pop("conv_post.weight_g"),
        r"best_netG\.pt is not MMAudio's 16 kHz BigVGAN .* keys missing \(first: conv_post\.weight_g\), 0 unexpected",
    ),
    "more": (lambda t: t.update({"ups.9.0.bias": torch.zeros(1)}), r"1 unexpected \(first: ups\.9\.0\.bias\)"),
    "both spellings": (
        lambda t: t.update({"conv_pre.parametrizations.weight.original0": t["conv_pre.weight_g"]}),
        "a weight in both spellings",
    ),
    "shape": (lambda t: t.update({"conv_pre.bias": torch.zeros(3)}), r"conv_pre\.bias has shape \[3\], .* has \[16\] there"),
    "another filter": (
        lambda t: t.update({"activation_post.upsample.filter": antialias_filter().view(1, 1, -1).roll(1)}),
        r"activation_post\.upsample\.filter is not the anti-aliasing filter",
    ),
}


@pytest.mark.parametrize("fault", VOCODER_FAULTS)
def test_a_file_that_is_no_such_vocoder_is_refused(tmp_path: Path, fault: str) -> None:
    edit, message = VOCODER_FAULTS[fault]
    tensors = random_tensors(bigvgan_shapes(VOCODER), 1)
    edit(tensors)
    with pytest.raises(CheckpointError, match=message):
        load_bigvgan(write_vocoder(tmp_path / "best_netG.pt", tensors), VOCODER)


def test_files_swapped_absent_or_cut_short_are_named(vae_path: Path, vocoder_path: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"v1-16\.pth is not .*BigVGAN.* no entry 'generator' \(its first is data_mean\)"):
        load_bigvgan(vae_path, VOCODER)
    with pytest.raises(CheckpointError, match=r"best_netG\.pt is not .*audio VAE.* 1 unexpected \(first: generator\)"):
        load_mmaudio_vae(vocoder_path, VAE)
    with pytest.raises(CheckpointError, match=r"nowhere\.pth is missing"):
        load_mmaudio_vae(tmp_path / "nowhere.pth", VAE)
    for path, load in ((vae_path, lambda p: load_mmaudio_vae(p, VAE)), (vocoder_path, lambda p: load_bigvgan(p, VOCODER))):
        path.write_bytes(path.read_bytes()[:-5000])
        with pytest.raises(CheckpointError, match=rf"{path.name} is damaged"):
            load(path)
