"""Trains networks on two gloo processes that share their parameters out by `fully_shard`, or in one process."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

import bitbayes as bb
from laws import RULES

OPTIONS: dict[str, dict[str, Any]] = {rule: {} for rule in RULES} | {
    "bayesbinn-straight-through samples": {"samples": 3},
    "bayesbinn-straight-through fan_in": {"scale": "fan_in"},
    "bayesbinn-straight-through channel": {"scale": "channel", "scale_lr": 0.1},
    "bayesbinn-straight-through group": {"scale": "group:1", "scale_lr": 0.1},
    "ste-adam group": {"scale": "group:1", "scale_lr": 0.1},
    "bayesbinn-straight-through weights": {"init": "weights"},
    "bayesbinn-straight-through weights channel": {"init": "weights", "scale": "channel"},
    "bayesbinn-straight-through capturable": {"capturable": True},
    "vispa noise": {"init_noise": 1.0},
    "vispa-projected channel": {"scale": "channel", "samples": 2},
    "bayesbinn-straight-through compile": {"compile": True},
    "bayesbinn-momentum compile": {"compile": True},
    "ste-adam compile": {"compile": True},
    "vispa compile": {"compile": True},
}

Make = Callable[[nn.Module], Any]


def network() -> nn.Sequential:
    """Return a network of which the second process has two of five rows, whose noise begins within a word, or none."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1, bias=False), bb.nn.LogitScale(2.0))


def gathered(state: Any) -> Any:
    """Return whole tensors in the place of DTensors, as `get_optimizer_state_dict` would."""
    if isinstance(state, dict):
        return {key: gathered(value) for key, value in state.items()}
    return state.full_tensor().clone() if hasattr(state, "full_tensor") else state


def steps(model: nn.Module, optimizer: bb.BinaryOptimizer | bb.JointOptimizer, count: int) -> None:
    """Trains on the same data in every process, so that averaged gradients are those of one process bit for bit."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(8, 3, generator=generator)
    y = x.sum(1, keepdim=True)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        return loss

    for _ in range(count):
        optimizer.step(closure)


def whole(model: nn.Module) -> None:
    """Leave the parameters as they are."""


def trajectory(case: str, shard: Make = whole) -> dict[str, Any]:
    """Return what a rule's weights and beliefs are along the way, whole."""
    rule, options = case.partition(" ")[0], OPTIONS[case]
    model = network()
    shard(model)
    optimizer = RULES[rule](bb.split_parameters(model)[0], **{"seed": 3} | options)
    follower = bb.follow(model, optimizer)
    found: dict[str, Any] = {}

    def note(when: str) -> None:
        found[f"{when} weights"] = {name: gathered(p.detach()).clone() for name, p in optimizer.named_binary()}

    note("start")
    steps(model, optimizer, 3)
    note("trained")
    model.eval()
    note("mode")
    found["outputs"] = model(torch.ones(2, 3)).detach()
    found["named mode"] = {name: gathered(mode) for name, mode in optimizer.named_mode()}
    model.train()
    steps(model, optimizer, 1)
    note("trained on")
    if optimizer.has_posterior and rule != "bayesbinn-point":
        found["posterior"] = optimizer.posterior().natural
        found["scale"] = optimizer.posterior().scale
    if case == "bayesbinn-straight-through":
        bb.continual.advance_prior(optimizer)
    state = optimizer.state_dict()
    for entries, (_, parameter) in zip(state["state"].values(), optimizer.named_binary(), strict=True):
        full = gathered(entries)
        rows = {name: value.reshape(*value.shape[: value.dim() - 2], -1) for name, value in full["belief"].items()}
        found[f"state {len(found)}"] = full | {"belief": rows if hasattr(parameter, "full_tensor") else full["belief"]}
    follower.remove()
    twin = network()
    shard(twin)
    twin.load_state_dict(model.state_dict())
    other = RULES[rule](bb.split_parameters(twin)[0], **options)
    other.load_state_dict(state)
    steps(twin, other, 2)
    found["loaded"] = {name: gathered(p.detach()) for name, p in other.named_binary()}
    return found


def joint(shard: Make = whole) -> dict[str, Any]:
    """Return what a rule and AdamW as one optimizer make of a network, also from a state that is loaded."""

    def started(seed: int) -> tuple[nn.Module, bb.JointOptimizer]:
        model = network()
        shard(model)
        binary, real = bb.split_parameters(model)
        rule = bb.BayesBiNN(binary, lr=0.1, ess=100, samples=2, scale="channel", seed=seed)
        optimizer = bb.JointOptimizer(rule, torch.optim.AdamW([p for _, p in real], lr=0.05))
        bb.follow(model, optimizer)
        return model, optimizer

    model, optimizer = started(3)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    steps(model, optimizer, 3)
    schedule.step()
    twin, other = started(4)
    twin.load_state_dict(model.state_dict())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(twin, other, 2)
    found = {"state": gathered(copy.deepcopy(other.state_dict()["state"]))}
    for entries in found["state"].values():
        if "belief" in entries:  # of the parameter's shape where it is sharded
            entries["belief"] = {name: value.reshape(-1) for name, value in entries["belief"].items()}
    for name, switch in {"draw": twin.train, "mode": twin.eval}.items():
        switch()
        found[name] = {key: gathered(value).clone() for key, value in twin.state_dict().items()}
    return found


def refusals(shard: Make) -> dict[str, str]:
    """Return what processes say that cannot go on, or that have nothing to go on with."""
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Shard

    def said(act: Callable[[], Any]) -> str:
        try:
            act()
        except (ValueError, RuntimeError) as error:
            return f"{type(error).__name__}: {error}"
        return "nothing"

    model = network()
    shard(model)
    optimizer = bb.STE(bb.split_parameters(model)[0], seed=0)
    before = {name: gathered(p.detach()).clone() for name, p in optimizer.named_binary()}
    model(torch.ones(2, 3)).sum().backward()
    if dist.get_rank() == 1:
        rows: Any = model[0].weight.grad
        rows.to_local()[0, 0] = float("nan")  # in the rows of one process alone
    found = {"not finite": said(optimizer.step)}
    after = {name: gathered(p.detach()) for name, p in optimizer.named_binary()}
    alike = all(torch.equal(before[name], after[name]) for name in before)
    found["not finite, weights"] = "unchanged" if alike else "changed"
    posterior = bb.BernoulliPosterior({"0.weight": torch.zeros(5, 3)})
    found["predict"] = said(lambda: bb.predict(model, torch.ones(2, 3), posterior, samples=2))
    found["pack"] = said(lambda: bb.pack(model, torch.ones(2, 3)))
    columns = nn.Linear(4, 4, bias=False)
    fully_shard(columns, shard_placement_fn=lambda parameter: Shard(1))
    found["columns"] = said(lambda: bb.STE(bb.split_parameters(columns)[0], seed=0))
    transposed = nn.ConvTranspose1d(4, 4, 3)
    fully_shard(transposed)
    found["transposed"] = said(lambda: bb.STE(bb.split_parameters(transposed)[0], seed=0, scale="channel"))
    return found


def by_layers(model: nn.Module) -> None:
    """Shard layer by layer, as is usual."""
    from torch.distributed.fsdp import fully_shard

    for layer in model:  # type: ignore[attr-defined]
        if isinstance(layer, nn.Linear):
            fully_shard(layer)
    fully_shard(model)


def replicated(model: nn.Module) -> None:
    """Every process has whole parameters, as replicas of a mesh of two dimensions have."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    fully_shard(model, mesh=init_device_mesh("cpu", (2, 1), mesh_dim_names=("replicate", "shard")))


def moved(shard: Make) -> str:
    """Load a state that one process has saved, and go on beside it."""
    models = network(), network()
    shard(models[1])
    one, two = (bb.VISPA(bb.split_parameters(m)[0], lr=0.05, rank=3, scale="channel", seed=3) for m in models)
    steps(models[0], one, 2)
    two.load_state_dict(one.state_dict())
    for _ in range(2):
        for (_, parameter), (_, part) in zip(one.named_binary(), two.named_binary(), strict=True):
            if not torch.equal(parameter, gathered(part.detach())):
                return "another"
        steps(models[0], one, 1)
        steps(models[1], two, 1)
    return "the same"


def checkpoint(shard: Make, path: str) -> None:
    """Saves by `torch.distributed.checkpoint`, loads into other objects, and goes on."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint import state_dict as dcs

    pairs = []
    for seed in (3, 4):
        model = network()
        shard(model)
        pairs.append((model, bb.VISPA(bb.split_parameters(model)[0], lr=0.05, rank=3, scale="channel", seed=seed)))
    (model, optimizer), (twin, other) = pairs
    steps(model, optimizer, 2)
    dcp.save(dict(zip(("model", "optimizer"), dcs.get_state_dict(model, optimizer), strict=True)), checkpoint_id=path)
    state = dict(zip(("model", "optimizer"), dcs.get_state_dict(twin, other), strict=True))
    dcp.load(state, checkpoint_id=path)
    dcs.set_state_dict(twin, other, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    full = dcs.StateDictOptions(full_state_dict=True, cpu_offload=True)
    saved = dict(zip(("model", "optimizer"), dcs.get_state_dict(twin, other, options=full), strict=True))
    if dist.get_rank() == 0:
        torch.save(saved, f"{path}/whole.pt")
    steps(model, optimizer, 2)
    steps(twin, other, 2)
    for (name, parameter), (_, another) in zip(model.named_parameters(), twin.named_parameters(), strict=True):
        assert torch.equal(parameter.full_tensor(), another.full_tensor()), name


def work(rank: int, path: str) -> None:
    """One process; the first saves what it finds."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path}/rendezvous", rank=rank, world_size=2)
    from torch.distributed.fsdp import fully_shard

    found = {"cases": {case: trajectory(case, fully_shard) for case in OPTIONS}, "refusals": refusals(fully_shard)}
    layouts = {"by layers": by_layers, "replicated": replicated}
    found["layouts"] = {name: ("vispa noise", trajectory("vispa noise", shard)) for name, shard in layouts.items()}
    found["moved"] = moved(fully_shard)
    found["joint"] = joint(fully_shard)
    checkpoint(fully_shard, f"{path}/checkpoint")
    torch.save(found, Path(path) / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.spawn(work, (sys.argv[1],), nprocs=2)
