"""Run a command as if the processor were a plain one, with AVX2 and no more. It computes at full speed, unlike an emulator.

    python -m testkit.plain make test
    python -m testkit.plain python -m benchmarks.rtf

Libraries ask the processor what it has; here those in Python programs are not told of AVX-512, AMX and AVX-VNNI, and
``/proc/cpuinfo`` does not list them. It needs Linux, an Intel processor (flag ``cpuid_fault``), a C compiler, and root or user
namespaces. Variables such as ``ONEDNN_MAX_CPU_ISA`` reach one library each, and make OpenVINO crash.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
SOURCE = Path(__file__).with_suffix(".c")
HIDDEN = ("avx512", "amx_", "avx_vnni", "gfni", "vaes", "vpclmulqdq")
"""What flags begin with that a plain processor does not have; ``plain.c`` hides the same."""


def missing() -> str | None:
    """What this machine lacks for that; None: nothing."""
    if not CPUINFO.exists() or " cpuid_fault " not in CPUINFO.read_text():
        return "a processor that can hide what it has (flag cpuid_fault in /proc/cpuinfo)"
    if shutil.which("cc") is None:
        return "a C compiler (cc)"
    if subprocess.run([*_namespace(), "true"], capture_output=True).returncode:
        return "root, or namespaces of users (unshare --mount --map-root-user)"
    return None


def _namespace() -> list[str]:
    return ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]


def plain_cpuinfo(text: str) -> str:
    """``/proc/cpuinfo`` of that processor. Its name says what is hidden, and so does every table of figures."""
    lines = []
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if key.strip() == "flags":
            value = " " + " ".join(flag for flag in value.split() if not flag.startswith(HIDDEN))
        elif key.strip() == "model name":
            value += " without AVX-512 and AMX"
        lines.append(key + colon + value)
    return "\n".join(lines) + "\n"


def run(command: list[str]) -> int:
    """Run a command on a plain processor. Returns its exit code.

    Raises:
        SystemExit: this machine cannot do that.
    """
    if (lacks := missing()) is not None:
        raise SystemExit(f"This needs {lacks}.")
    with tempfile.TemporaryDirectory() as folder:
        library, cpuinfo = Path(folder, "plain.so"), Path(folder, "cpuinfo")
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-Wl,-z,now", "-o", library, SOURCE, "-ldl"], check=True)
        cpuinfo.write_text(plain_cpuinfo(CPUINFO.read_text()))
        script = 'mount --bind "$0" /proc/cpuinfo && export LD_PRELOAD="$1" && shift && exec "$@"'
        return subprocess.run([*_namespace(), "sh", "-c", script, cpuinfo, library, *command]).returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", nargs=argparse.REMAINDER, help="with its arguments")
    options = parser.parse_args()
    if not options.command:
        parser.error("no command")
    sys.exit(run(options.command))


if __name__ == "__main__":
    main()
