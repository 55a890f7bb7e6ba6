"""Data-parallel runs: the ranks that torchrun starts, and their communication.

Every rank holds the whole network and the same beliefs. It processes its share of each batch, and
DistributedDataParallel averages the gradients. Draws are a function of the seed, so all ranks draw the same weights
without communication.
"""

from __future__ import annotations

import gc
import importlib
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Ranks:
    """Rank of this process in its job; a single process is rank 0 of 1.

    Args:
        rank: Number of this process.
        count: Number of processes.

    Example:
        >>> Ranks.here()
        Ranks(rank=0, count=1)
        >>> Ranks.here().total(torch.tensor(3.0))
        tensor(3.)
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def here(cls) -> Ranks:
        """Return the ranks of the process group, if there is one."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    @property
    def first(self) -> bool:
        """Whether this rank writes files and prints."""
        return self.rank == 0

    def total(self, value: Tensor) -> Tensor:
        """Return the sum of tensors over all ranks; `value` itself for a single process."""
        if self.count > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def agreed(self, value: str) -> str:
        """Return the value of rank 0, for decisions that must be the same on all ranks."""
        if self.count == 1:
            return value
        held = [value]
        dist.broadcast_object_list(held, 0)
        return held[0]

    def compare(self, settings: Mapping[str, Any]) -> None:
        """Check that settings are equal on all ranks; every rank must call this method with the same names.

        Raises:
            ValueError: On every rank, if any rank has another value than rank 0.
        """
        if self.count == 1:
            return
        every: list[Any] = [None] * self.count
        dist.all_gather_object(every, dict(settings))
        for rank, theirs in enumerate(every):
            for name, value in every[0].items():
                if theirs[name] != value:
                    advice = "give all processes the same command"
                    raise ValueError(f"process {rank} has {name} {theirs[name]}, but process 0 has {value}; {advice}")

    def wrapped(self, model: nn.Module) -> nn.Module:
        """Return a DistributedDataParallel around a network; the network itself for a single process."""
        return DistributedDataParallel(model) if self.count > 1 else model

    @staticmethod
    def alone(model: nn.Module) -> AbstractContextManager[None]:
        """Accumulate gradients of this rank without averaging; the next backward pass outside averages the sums."""
        return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


@contextmanager
def joined(device: str) -> Iterator[str]:
    """Join the process group that torchrun describes in the environment; do nothing in a process on its own.

    Args:
        device: "cpu" (gloo) or "cuda" (nccl, one GPU per process).

    Yields:
        The device of this rank.

    Example:
        >>> with joined("cpu") as device:
        ...     print(device)
        cpu
    """
    if not under_torchrun() or dist.is_initialized():
        yield device
        return
    if device.startswith("cuda"):
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    backend = "nccl" if device.startswith("cuda") else "gloo"
    # Functions there use the group at the time of their import as a default, and DistributedDataParallel imports them.
    # If they were imported later, they would keep the group's threads until the interpreter ends, which may then abort.
    importlib.import_module("torch.distributed.nn.functional")
    store, rank, count = next(iter(rendezvous("env://")))
    if os.environ.get("GROUP_WORLD_SIZE", "1") == "1":
        # torchrun keeps one store for all attempts: without a prefix, a restarted rank may read the address of a dead
        # one. Agents of several nodes count restarts separately, so torchrun must make a new store there (see the page
        # on many machines).
        store = dist.PrefixStore(f"attempt{_attempt()}", store)  # pyright: ignore[reportPrivateImportUsage]
    dist.init_process_group(backend, store=store, rank=rank, world_size=count)
    try:
        yield device
        dist.barrier()  # rank 0 may still be writing the summary
    finally:
        gc.collect()  # objects in cycles that still refer to the group
        dist.destroy_process_group()


def under_torchrun() -> bool:
    """Return whether this process is one of several ranks that torchrun has started."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def restarted() -> bool:
    """Return whether torchrun has restarted this process (`--max-restarts`), so that the run continues."""
    return _attempt() > 0


def _attempt() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
