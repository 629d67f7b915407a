"""What a record of a GPU's work does, on any device: operations once, with the addresses that they touch, then played again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WRITE_NOTHING = (torch.ops.aten.empty, torch.ops.aten.new_empty)


def _storages(tree: Any) -> set[int]:
    return {x.untyped_storage().data_ptr() for x in tree_leaves(tree) if isinstance(x, Tensor)}


class Tape(TorchDispatchMode):
    """Operations with the tensors that they read and wrote. Played again, each puts its result where the first one is.

    Raises:
        AssertionError: a number was read while it was recorded, which a GPU's record cannot hold.
    """

    def __init__(self) -> None:
        super().__init__()
        self._operations: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        assert func.overloadpacket is not torch.ops.aten._local_scalar_dense, "the host waits for the device"
        made = func(*args, **(kwargs or {}))
        # A view shows what was written elsewhere; operations that give one where they can may have copied instead.
        is_view = func.is_view and _storages(made) <= _storages((args, kwargs))
        if not is_view and func.overloadpacket not in WRITE_NOTHING:
            self._operations.append((func, args, kwargs or {}, made))
        return made

    def play(self) -> None:
        for func, args, kwargs, made in self._operations:
            again = func(*args, **kwargs)
            for new, old in zip(tree_leaves(again), tree_leaves(made), strict=True):
                if isinstance(old, Tensor) and new.untyped_storage().data_ptr() != old.untyped_storage().data_ptr():
                    old.copy_(new)
