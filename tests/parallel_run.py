"""One rank of a data-parallel run on a network without batch statistics; torchrun starts it in the tests."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from bitbayes.lab.data import DataBundle, TensorData
from bitbayes.lab.train import CROSS_ENTROPY, RunConfig, SilentProgress, build_experiment, train
from bitbayes.lab.train.distributed import joined


def bundle() -> DataBundle:
    """Blobs of three classes; shares of a batch of 31 are unequal, and the last batch is a short one."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(300) % 3
    x = torch.randn(300, 8, generator=generator) + 1.5 * torch.eye(3, 8)[y]
    parts = [TensorData(x[a:b], y[a:b]) for a, b in ((0, 200), (200, 250), (250, 300))]
    return DataBundle("blobs", *parts, 3, "generated")


def run(out: str, rule: str, accumulate: int = 1, epochs: int = 3) -> dict:
    """Trains; all numbers are a function of the arguments."""
    config = RunConfig(recipe="blobs", rule=rule, out=out, lr=0.05, epochs=epochs, batch_size=31, seed=1,
                       accumulate=accumulate, precision="fp32", options={"ess": 200.0} if rule == "bayesbinn" else {},
                       estimator="straight-through" if rule == "bayesbinn" else None)  # fmt: skip

    def network() -> nn.Module:
        return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))

    experiment = build_experiment(config, network, bundle(), CROSS_ENTROPY)
    averaged: list[int] = []
    if isinstance(experiment.parallel, DistributedDataParallel):
        experiment.parallel.register_comm_hook(
            dist.group.WORLD, lambda group, bucket: averaged.append(bucket.index()) or allreduce_hook(group, bucket)
        )
    result = train(config, experiment, progress=SilentProgress())
    assert len(averaged) in (0, 7 * epochs)  # once a batch, in however many parts it is taken
    assert bool(result.summary) == experiment.ranks.first
    return result.summary


def threads() -> set[str]:
    """Names of this process's threads; nothing where there is no /proc."""
    return {(entry / "comm").read_text().strip() for entry in Path("/proc/self/task").glob("*")}


if __name__ == "__main__":
    torch.set_num_threads(1)
    with joined("cpu"):
        run(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    # A thread of the group that outlives it now and then aborts the interpreter at its end.
    assert not any("gloo" in name for name in threads()), threads()
