"""Where speech is: Silero's small network, whose package brings its weights, on OpenVINO, which the service has anyway."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

SAMPLE_RATE_HZ = 16_000
BLOCK_SAMPLES = 512
BLOCK_MS = BLOCK_SAMPLES * 1000 // SAMPLE_RATE_HZ
_CONTEXT_SAMPLES = 64
"""Of the block before, which the network sees again."""


class VoiceModel:
    """The network, shared by all who listen.

    Raises:
        ModuleNotFoundError: ``silero-vad`` is not installed.
    """

    def __init__(self) -> None:
        spec = importlib.util.find_spec("silero_vad")  # it is not imported: it would bring in PyTorch
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError("silero-vad is not installed", name="silero_vad")
        import openvino

        model = Path(spec.origin).parent / "data" / "silero_vad_openvino_16k.onnx"
        # A block takes a quarter of a millisecond: threads of its own would cost more.
        self._network: Any = openvino.Core().compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": 1})

    def listen(self) -> VoiceActivity:
        """For one microphone."""
        return VoiceActivity(self._network.create_infer_request())


class VoiceActivity:
    """How likely each block of one microphone is speech.

    Args:
        request: of the compiled network.
    """

    def __init__(self, request: Any) -> None:
        self._request = request
        self._context = np.zeros(_CONTEXT_SAMPLES, np.float32)
        self._state = np.zeros((2, 1, 128), np.float32)

    def probability(self, block: np.ndarray) -> float:
        """Of the next block, float32 [512] at 16 kHz."""
        if not block.any():
            self._context[:], self._state[:] = 0, 0  # a microphone that is switched off costs nothing
            return 0.0
        heard = np.concatenate([self._context, block])[None]
        result = self._request.infer({"input": heard, "state": self._state})
        self._context[:] = block[-_CONTEXT_SAMPLES:]
        self._state[:] = result["stateN"]
        return float(result["output"].item())
