"""Trains transformers on two gloo processes that share their parameters out by `fully_shard`, beside one process."""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from sharded_worker import Make, gathered, whole
from test_transformers import MAKE, joint, train


def trained(kind: str, rule: str, shard: Make = whole) -> list[dict[str, Tensor]]:
    """Return the network after three steps, with a draw and with the mode."""
    torch.manual_seed(0)
    model: nn.Module = MAKE[kind]().train()
    shard(model)
    optimizer = joint(rule, model, kind)
    train(model, optimizer, kind, 3)
    found = []
    for switch in (optimizer.train, optimizer.eval):
        switch()
        found.append({name: gathered(value).clone() for name, value in model.state_dict().items()})
    return found


def work(rank: int, path: str) -> None:
    """One process, which fails if it finds a difference."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path}/rendezvous", rank=rank, world_size=2)
    from torch.distributed.fsdp import fully_shard

    for kind in MAKE:
        for rule in ("bayesbinn-straight-through", "ste-adam", "vispa"):
            for one, two in zip(trained(kind, rule), trained(kind, rule, fully_shard), strict=True):
                assert one.keys() == two.keys()
                wrong = [name for name, value in one.items() if not torch.equal(value, two[name])]
                assert not wrong, (kind, rule, wrong)
    print("the same", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.spawn(work, (sys.argv[1],), nprocs=2)
