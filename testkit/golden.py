"""A golden fixture: weights from a recipe, stored inputs and outputs, a tolerance."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor


@dataclass(frozen=True)
class Fixture:
    """One pair of files.

    Attributes:
        meta: the JSON file.
        tensors: the stored inputs and expected outputs by name.
    """

    path: Path
    meta: dict[str, Any]
    tensors: dict[str, Tensor]

    @staticmethod
    def read(path: Path) -> Fixture:
        """Of the JSON file's path; the tensors lie beside it."""
        return Fixture(path, json.loads(path.read_text(encoding="utf-8")), load_file(path.with_suffix(".safetensors")))

    def sibling(self, name: str) -> Fixture:
        """The fixture of the same directory that calls itself ``name``, whatever its file is called."""
        for path in pairs_in(self.path.parent):
            if json.loads(path.read_text(encoding="utf-8"))["fixture"] == name:
                return Fixture.read(path)
        raise AssertionError(f"{self.path.stem} goes with fixture {name!r}, which is not in {self.path.parent}")

    def state_dict(self, shapes: Mapping[str, Any] | None = None, prefix: str | None = None) -> dict[str, Tensor]:
        """The recipe's tensors under the published names.

        Args:
            shapes: of these keys; all of the fixture's if None.
            prefix: put in front of a key when its numbers are drawn; the fixture's if None.
        """
        recipe_path = self.path.parent / "weights.py"
        assert recipe_path.is_file(), f"{recipe_path} is missing: it makes the fixtures' weights"
        spec = importlib.util.spec_from_file_location("golden_weights", recipe_path)
        assert spec is not None
        assert spec.loader is not None
        recipe = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(recipe)
        weights = self.meta["weights"]
        made = recipe.make_state_dict(
            weights["state_dict"] if shapes is None else shapes,
            weights["salt"],
            weights["hash_prefix"] if prefix is None else prefix,
        )
        return {key: torch.from_numpy(value) for key, value in made.items()}

    def close(self, actual: Tensor, expected: str, *, name: str | None = None) -> None:
        """Fail unless ``actual`` is the stored tensor ``expected`` within the fixture's tolerance.

        Args:
            name: for messages, where the stored tensor is only a part of what was computed.
        """
        tolerance = {key: value for key, value in self.meta["tolerance_fp32"].items() if not isinstance(value, dict)}
        for part, special in self.meta["tolerance_fp32"].items():
            if isinstance(special, dict) and part in expected:
                tolerance |= special
        torch.testing.assert_close(
            actual.detach().float(),
            self.tensors[expected].float(),
            **tolerance,
            msg=lambda text: f"{self.path.stem}: {name or expected}: {text}",
        )


def pairs_in(directory: Path) -> list[Path]:
    """The JSON files of all pairs."""
    return sorted(p for p in directory.glob("*.json") if p.with_suffix(".safetensors").exists())


Check = Callable[[Fixture], None]
