"""What a process holds in memory, sampled while it works."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType

import torch

EVERY_S = 0.05
GB = 1e9


def host_gb() -> float:
    """Memory of this process's own, Linux: pages of mapped files, which belong to whoever wants them, do not count."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024 / GB
    raise OSError("/proc/self/status names no RssAnon: this needs Linux")


def device_gb() -> dict[str, float]:
    """Allocated now on each CUDA device that is in use."""
    return _on_devices(torch.cuda.memory_allocated)


def peak_device_gb() -> dict[str, float]:
    return _on_devices(torch.cuda.max_memory_allocated)


def _on_devices(measure: object) -> dict[str, float]:
    if not torch.cuda.is_available():
        return {}
    assert callable(measure)
    found = {f"cuda:{i}": round(measure(i) / GB, 2) for i in range(torch.cuda.device_count())}
    return {name: gb for name, gb in found.items() if gb}


class HostPeak:
    """The most that :func:`host_gb` was while the context was open, to ``EVERY_S``."""

    def __init__(self) -> None:
        self.gb = host_gb()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._over.wait(EVERY_S):
            self.gb = max(self.gb, host_gb())

    def __enter__(self) -> HostPeak:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        self.gb = max(self.gb, host_gb())
