"""What is said of the machine that figures are measured on."""

from __future__ import annotations

import pytest

from avatar_rtc import processor
from benchmarks import machine

ZEN4 = {
    "model name": "AMD EPYC 9R14",
    "cpu family": "25",
    "model": "17",
    "flags": "fpu sse2 avx2 avx512f avx512dq avx512_vnni avx512_bf16",
}
GRAVITON = {"CPU implementer": "0x41", "Features": "fp asimd i8mm bf16"}


def test_processor_and_instruction_sets_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "_cpuinfo", lambda: ZEN4)
    assert processor.name() == "AMD EPYC 9R14 (family 25, model 17)"
    assert processor.instruction_sets() == ["AVX2", "AVX-512", "AVX512-VNNI", "AVX512-BF16"]
    monkeypatch.setattr(processor, "_cpuinfo", lambda: GRAVITON)
    assert processor.instruction_sets() == ["NEON", "I8MM", "BF16"]
    monkeypatch.setattr(processor, "_cpuinfo", dict)
    assert processor.name()
    assert processor.instruction_sets() == []


def test_headline_says_what_limits_the_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "_cpuinfo", lambda: ZEN4)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    described = machine.describe(1)
    line = machine.headline(described)
    assert "AVX512-BF16 (limited by ONEDNN_MAX_CPU_ISA=AVX2)" in line
    assert f"{described['float32_gflops']:.0f} GFLOP/s in float32 on 1 thread" in line
    assert described["float32_gflops"] > 0.1
