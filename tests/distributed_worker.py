"""Trains one row of the law table on several gloo ranks; rank 0 saves the snapshot."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # before the group: what DDP imports keeps the group's threads else, see joined
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

import bitbayes as bb
from laws import data, loss, network


def work(rank: int, rule: str, path: str, ranks: int) -> None:
    """One rank: seeds differ on purpose, as rank 0's must win."""
    from laws import RULES, snapshot

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path}/rendezvous", rank=rank, world_size=ranks)
    model = network()
    torch.manual_seed(3 + rank)
    binary, _ = bb.split_parameters(model)
    optimizer = RULES[rule](binary)
    parallel = DistributedDataParallel(model)
    x, y = (part.chunk(ranks)[rank] for part in data())
    for _ in range(5):
        loss(parallel, x, y).backward()
        optimizer.step()
        optimizer.zero_grad()
    if rank == 0:
        torch.save(snapshot(model, optimizer), Path(path) / "result.pt")
    del parallel  # as the last holder of the group it would wait for the group's threads, and they for the interpreter
    dist.destroy_process_group()


if __name__ == "__main__":
    rule, path, ranks = sys.argv[1], sys.argv[2], int(sys.argv[3])
    mp.spawn(work, (rule, path, ranks), nprocs=ranks)
