"""Which model a config names, and how it is loaded. Torch comes in when a loader is called, not before."""

from __future__ import annotations

import functools
from pathlib import Path

from avatar_rtc import extras, resources
from avatar_rtc.config import EngineConfig
from avatar_rtc.engine.api import ModelLoader, OnProgress
from avatar_rtc.fake import FakeOptions, load_fake
from model.errors import ConfigError
from model.stream import Model

MAX_THREADS = 4
"""The matrices of pocket are small: beyond this, threads cost more than they give."""


def model_loader(engine: EngineConfig) -> ModelLoader:
    """What loads the model that a config names; it can be pickled."""
    if engine.model == "fake":
        return functools.partial(load_fake, FakeOptions(rtf=engine.fake_rtf))
    if engine.model == "hallo-live":
        published = engine.hallo_live
        assert published is not None
        network = published.network or resources.network("hallo_live")
        return functools.partial(_load_published, published.weights_dir, network, published.devices)
    return functools.partial(load_checkpoint, resources.checkpoint_dir(engine.model))


def load_checkpoint(checkpoint_dir: Path, on_progress: OnProgress) -> Model:
    """A network of pocket's kind, from anywhere."""
    from model import pocket

    return pocket.load(checkpoint_dir, min(resources.num_cores(), MAX_THREADS), on_progress)


def _load_published(weights_dir: Path, network: Path, devices: tuple[str, ...], on_progress: OnProgress) -> Model:
    from model import hallo_live

    try:
        return hallo_live.load(weights_dir, network, devices, on_progress)
    except ModuleNotFoundError as error:
        if (words := extras.remedy(error)) is None:
            raise
        raise ConfigError(words) from None
