"""What a student of another size than its teacher begins with: MOVA's audio tower, as its file ``audio_dit`` has it, and of the
teacher whatever has the size that is wanted. Names and rule are those of the published trainer at 1.3 B.

This is the only loader that is not strict, and so it says what it found.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from model.adapters import ovi
from model.adapters.hallo_live import bare_names
from model.dit.transformer import DualStreamTransformer
from model.errors import CheckpointError
from model.weight_files import read_tensors


def ovi_name(name: str) -> str:
    """Ovi's name of a tensor of MOVA's audio tower."""
    if name.endswith(".modulation") and name != "head.modulation":
        name += ".modulation"
    return f"audio_model.{name}"


@torch.no_grad()
def begin_with(dit: DualStreamTransformer, teacher: Path, audio_tower: Path) -> str:
    """Overwrite in ``dit`` what the two files have of its names and shapes, the second one's last.

    Returns:
        A line that says how much that was.

    Raises:
        CheckpointError: a file is missing or damaged, or has nothing.
    """
    ours = ovi.to_published(dict(dit.named_parameters()), dit.patch_cells)
    mova = {ovi_name(name): x for name, x in read_tensors(audio_tower).items()}
    counts = []
    for path, found in ((teacher, bare_names(read_tensors(teacher), teacher)), (audio_tower, mova)):
        fitting = _fitting(ours, found)
        if not fitting:
            raise CheckpointError(f"{path} has nothing that fits the student in name and shape: is it the right file?")
        for name, x in fitting.items():
            ours[name].copy_(x)
        counts.append(f"{len(fitting)} of {len(found)} tensors of {path.name} in {path.parent.name}")
    return f"the student begins with {' and '.join(counts)}; the rest of its {len(ours)} is random"


def _fitting(ours: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: x for name, x in found.items() if name in ours and x.shape == ours[name].shape}
