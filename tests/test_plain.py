"""A plain processor where there is a better one."""

from __future__ import annotations

import subprocess
import sys

import pytest

from testkit import plain

# What numpy has asked the processor itself, and what the system says of it.
ASK = """
import numpy
from avatar_rtc import processor
found = numpy._core._multiarray_umath.__cpu_features__
print([name for name in ("AVX2", "AVX512F", "AVX512_SPR") if found[name]], processor.instruction_sets())
"""


def test_programs_are_not_told_what_a_plain_processor_lacks() -> None:
    if (lacks := plain.missing()) is not None:
        pytest.skip(f"needs {lacks}")
    command = [sys.executable, "-m", "testkit.plain", sys.executable, "-c", ASK]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "['AVX2'] ['AVX2']\n"


def test_its_name_says_what_is_hidden() -> None:
    shown = plain.plain_cpuinfo("model name\t: Some CPU\nflags\t\t: fma avx2 avx512f avx_vnni amx_bf16 rdpid\n")
    assert shown == "model name\t: Some CPU without AVX-512 and AMX\nflags\t\t: fma avx2 rdpid\n"


def test_a_command_keeps_its_exit_code() -> None:
    if (lacks := plain.missing()) is not None:
        pytest.skip(f"needs {lacks}")
    assert plain.run(["sh", "-c", "exit 3"]) == 3
