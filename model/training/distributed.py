"""A run's processes, as torchrun starts them, and how networks are spread over them (FSDP2). Nothing of it on one process.

Started by torchrun, on one machine or many, the processes find each other by its environment variables.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from model.dit.transformer import DualStreamTransformer
from model.errors import ConfigError
from model.training.config import PrecisionConfig

# Nothing that a network returns is changed in place.
warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")


def dtype_of(name: str) -> torch.dtype:
    """By its name in a config."""
    found = getattr(torch, name)
    assert isinstance(found, torch.dtype)
    return found


def local(x: Tensor) -> Tensor:
    """This process's part of a tensor; itself if it is not spread."""
    return x.to_local() if isinstance(x, DTensor) else x


def whole(x: Tensor) -> Tensor:
    """All of a tensor, gathered if it is spread: then every process has to ask."""
    return x.full_tensor() if isinstance(x, DTensor) else x


@dataclass(frozen=True)
class World:
    """The processes of a run, and which one this is.

    Attributes:
        mesh: over which networks are spread; None where there is one process that torchrun did not start.
    """

    rank: int
    size: int
    device: torch.device
    mesh: DeviceMesh | None = None

    @staticmethod
    def alone(device: torch.device | None = None) -> World:
        return World(0, 1, device or torch.device("cuda" if torch.cuda.is_available() else "cpu"))

    @staticmethod
    def join(sharding: str, environment: Mapping[str, str] = os.environ) -> World:
        """The world that torchrun describes, or a process alone.

        Args:
            sharding: ``full`` spreads networks over all processes, ``hybrid`` over those of a machine.

        Raises:
            ConfigError: there are more processes than GPUs.
        """
        if "RANK" not in environment or "WORLD_SIZE" not in environment:
            return World.alone()
        rank, size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        number, per_machine = int(environment.get("LOCAL_RANK", rank)), int(environment.get("LOCAL_WORLD_SIZE", size))
        kind = "cpu"
        if torch.cuda.is_available():
            if per_machine > torch.cuda.device_count():
                raise ConfigError(
                    f"{per_machine} processes on a machine with {torch.cuda.device_count()} GPUs: "
                    f"start torchrun with --nproc-per-node {torch.cuda.device_count()}"
                )
            torch.cuda.set_device(number)
            kind = "cuda"
        if not dist.is_initialized():
            dist.init_process_group("cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo")
        hybrid = sharding == "hybrid" and size > per_machine
        shape = (size // per_machine, per_machine) if hybrid else (size,)
        mesh = init_device_mesh(kind, shape, mesh_dim_names=("replicate", "shard") if hybrid else ("shard",))
        return World(rank, size, torch.device(kind, number) if kind == "cuda" else torch.device("cpu"), mesh)

    def leave(self) -> None:
        if self.mesh is not None and dist.is_initialized():
            dist.destroy_process_group()

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()

    def sum(self, values: Tensor) -> Tensor:
        """Over all processes."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def gather(self, values: Tensor) -> Tensor:
        """[N, ...] of each process -> [N * size, ...], in their order."""
        if self.size == 1:
            return values
        parts = [torch.empty_like(values) for _ in range(self.size)]
        dist.all_gather(parts, values.contiguous())
        return torch.cat(parts)


def spread(dit: DualStreamTransformer, precision: PrecisionConfig, world: World) -> DualStreamTransformer:
    """Put a network on the devices: what trains in the master type, the rest in that of products. Returns itself.

    Files are mapped, and a layer at a time is read, converted and cut, so that no process ever holds a whole network.

    Raises:
        ConfigError: one process without torchrun is to compute in another type than weights have.
    """
    master, compute = dtype_of(precision.master), dtype_of(precision.compute)
    trains = any(p.requires_grad for p in dit.parameters())
    if world.mesh is None:
        if trains and master != compute:
            raise ConfigError(
                f"weights in {precision.master} and products in {precision.compute} need torchrun, for one GPU too: "
                "torchrun --nproc-per-node 1 --no-python -- avatar-rtc train ...; or set precision.compute to precision.master"
            )
        _convert(dit, master, compute)
        return dit.to(world.device)
    policy = MixedPrecisionPolicy(compute, dtype_of(precision.reduce), cast_forward_inputs=False)
    for layer in dit.fusion_layers():
        _convert(layer, master, compute)
        fully_shard(layer, mesh=world.mesh, mp_policy=policy)
        register_fsdp_forward_method(layer, "read_text")
    _convert(dit, master, compute)
    fully_shard(dit, mesh=world.mesh, mp_policy=policy)
    register_fsdp_forward_method(dit, "read_text")
    dit.computes_in = compute
    return dit


def _convert(module: torch.nn.Module, master: torch.dtype, compute: torch.dtype) -> None:
    for parameter in module.parameters():
        if not isinstance(parameter, DTensor):
            parameter.data = parameter.data.to(master if parameter.requires_grad else compute)
