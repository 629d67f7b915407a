"""The published audio side against its stored numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from model.config import MelConfig
from model.vae.bigvgan import antialias_filter
from model.vae.mmaudio import LogMel, slaney_filterbank
from testkit.golden import Fixture
from testkit.golden_audio import build_vae, build_vocoder, vae_tensors, vocoder_tensors


def check_mmaudio_vae(fixture: Fixture) -> None:
    stored, mel_config = fixture.tensors, mel_config_of(fixture.meta["config"]["mel"])
    vae = build_vae(fixture, vae_tensors(fixture))
    front_end = LogMel(mel_config)
    torch.testing.assert_close(slaney_filterbank(mel_config), stored["const.mel_basis"], atol=1e-8, rtol=1e-6)
    with torch.inference_mode():
        mel = front_end(stored["in.waveform"])
        mean, log_variance = vae.encode(mel)
        actual = {
            "out.mel": mel,
            "out.encode_mean": mean,
            "out.encode_logvar": log_variance,
            "out.decode_mel": vae.decode(stored["in.latent"]),
            "out.decode_mel_not_unnormalised": vae.decoder(stored["in.latent"]),
            "const.data_mean": vae.mel_mean[None],
            "const.data_std": vae.mel_std[None],
            "const.mel_basis": front_end.filters,
        }
    compare_all(fixture, actual)


def check_bigvgan(fixture: Fixture) -> None:
    stored, chain = fixture.tensors, fixture.meta.get("chain")
    old = vocoder_tensors(fixture)
    vocoder = build_vocoder(fixture, old)
    for name, tensor in build_vocoder(fixture, parametrised(old)).state_dict().items():
        assert torch.equal(tensor, vocoder.state_dict()[name]), name
    with torch.inference_mode():
        before_tanh = vocoder.before_tanh(stored["in.mel"])
        actual = {
            "out.before_tanh": before_tanh[:, None],
            "out.audio": vocoder(stored["in.mel"])[:, None],
            "const.filter": antialias_filter()[None, None],
        }
        if chain is not None:
            vae_fixture = fixture.sibling(chain["vae_fixture"])
            vae = build_vae(vae_fixture, vae_tensors(vae_fixture, fixture))
            latents = stored["chain.in.latent"]
            actual["chain.out.audio"] = vocoder(vae.decode(latents))[:, None]
            blocks = [vocoder(vae.decode(block)) for block in torch.split(latents, chain["block_tokens"], dim=2)]
            actual["chain.out.audio_blockwise"] = torch.cat(blocks, dim=1)[:, None]
    compare_all(fixture, actual)


def compare_all(fixture: Fixture, actual: Mapping[str, Tensor]) -> None:
    """Every stored tensor that is no input."""
    expected = {name for name in fixture.tensors if not name.startswith("in.") and ".in." not in name}
    assert actual.keys() == expected, f"stored but not checked, or the reverse: {sorted(actual.keys() ^ expected)}"
    for name in sorted(expected):
        fixture.close(actual[name], name)


def mel_config_of(mel: Mapping[str, Any]) -> MelConfig:
    assert mel["win_size"] == mel["n_fft"], "a window shorter than the transform is not published"
    assert mel["log"] == "log10"
    return MelConfig(
        sample_rate_hz=mel["sampling_rate"],
        fft_samples=mel["n_fft"],
        hop_samples=mel["hop_size"],
        num_mels=mel["num_mels"],
        min_hz=mel["fmin"],
        max_hz=mel["fmax"],
    )


def parametrised(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same in newer torch's spelling of weight norm."""
    names = {".weight_g": ".parametrizations.weight.original0", ".weight_v": ".parametrizations.weight.original1"}
    return {re.sub(r"\.weight_[gv]$", lambda end: names[end[0]], key): tensor for key, tensor in tensors.items()}
