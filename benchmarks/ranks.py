"""Measure what a data-parallel step costs against the number of processes, as ratios within one run.

    python benchmarks/ranks.py [--ranks 2 4] [--batch 100] [--width 2048] [--threads 1] [--repeats 15]

Every process (gloo, on this machine) trains the MNIST MLP on a batch of its own with BayesBiNN.
DistributedDataParallel averages the gradients; all processes make the same update and draw the same weights. Nothing
but gradients is sent. The columns are:

- "step": time of a whole step over that of one process. With a core for each process it would be 1, but for averaging.
- "averaging": share of the step that is saved when gradients are not exchanged.
- "update": share of the update with the next draw.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import step
import torch
import torch.distributed.nn.functional  # before there is a group: its import keeps what threads a group has
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

import bitbayes as bb


def run(rank: int, ranks: int, folder: str, o: argparse.Namespace) -> None:
    """One process; the first leaves median seconds of a step, of one without averaging, and of the update."""
    torch.set_num_threads(o.threads)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=ranks)
    torch.manual_seed(0)
    model = bb.nn.mlp(784, [o.width] * 3, 10)
    optimizer = step.RULES["BayesBiNN straight-through"](bb.split_parameters(model)[0], compile=True, seed=0)
    parallel = DistributedDataParallel(model)
    x, y = torch.randn(o.batch, 784), torch.randint(10, (o.batch,))

    def passes(network: DistributedDataParallel, averaged: bool) -> None:
        network.zero_grad()
        with nullcontext() if averaged else network.no_sync():
            torch.nn.functional.cross_entropy(network(x), y).backward()

    times: list[list[float]] = []
    for _ in range(3 + o.repeats):
        distributed.barrier()
        alone = step.seconds(partial(passes, parallel, averaged=False))
        distributed.barrier()
        together = step.seconds(partial(passes, parallel, averaged=True))
        update = step.seconds(optimizer.step)
        times.append([together + update, alone + update, update])
    if rank == 0:
        medians = [statistics.median(column) for column in zip(*times[3:], strict=True)]
        Path(folder, "times").write_text(" ".join(map(str, medians)))
    del parallel  # before the group that it has threads of
    distributed.destroy_process_group()


def measure(ranks: int, o: argparse.Namespace) -> tuple[float, float, float]:
    """The three times of so many processes."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(run, (ranks, folder, o), nprocs=ranks)
        whole, alone, update = map(float, Path(folder, "times").read_text().split())
    return whole, alone, update


def main(arguments: list[str] | None = None) -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[2], help="numbers of processes to compare with one")
    parser.add_argument("--batch", type=int, default=100, help="inputs per batch of each process")
    parser.add_argument("--width", type=int, default=2048, help="units of each hidden layer")
    parser.add_argument("--threads", type=int, default=1, help="threads of each process")
    parser.add_argument("--repeats", type=int, default=15, help="timed repetitions")
    o = parser.parse_args(arguments)
    print(f"torch {torch.__version__}, {os.cpu_count()} processors, {o.threads} threads and batch {o.batch} a process")
    print(f"{'processes':>9}{'step':>8}{'averaging':>12}{'update':>9}{'examples a second, over one':>30}")
    found = {ranks: measure(ranks, o) for ranks in (1, *o.ranks)}
    for ranks, (whole, alone, update) in found.items():
        longer = whole / found[1][0]
        print(f"{ranks:>9}{longer:8.2f}{max(0.0, 1 - alone / whole):12.0%}{update / whole:9.0%}{ranks / longer:30.2f}")


if __name__ == "__main__":
    main()
