"""The table of laws: every rule is a row, a new rule a new row. `test_laws.py` runs each row through each law."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bitbayes as bb

ESS = 100.0

Factory = Callable[..., bb.BinaryOptimizer]

RULES: dict[str, Factory] = {
    "bayesbinn-straight-through": lambda p, **k: bb.BayesBiNN(p, **{"lr": 0.1, "ess": ESS} | k),
    "bayesbinn-momentum": lambda p, **k: bb.BayesBiNN(p, **{"lr": 0.1, "ess": ESS, "momentum": 0.9} | k),
    "bayesbinn-concrete": lambda p, **k: bb.BayesBiNN(
        p, **{"lr": 0.1, "ess": ESS, "estimator": "concrete", "tau": 0.5, "init_lambda": 1.0} | k
    ),
    "bayesbinn-released": lambda p, **k: bb.BayesBiNN(
        p, **{"lr": 0.1, "ess": ESS, "estimator": "released", "tau": 1.0, "init_lambda": 1.0} | k
    ),
    "bayesbinn-point": lambda p, **k: bb.BayesBiNN(p, **{"lr": 0.1, "ess": ESS, "estimator": "released"} | k),
    "ste-adam": lambda p, **k: bb.STE(p, **{"lr": 0.05} | k),
    "ste-sgd": lambda p, **k: bb.STE(p, **{"lr": 0.05, "inner": "sgd", "window": 0.9, "weight_decay": 1e-3} | k),
    "ste-metaplastic": lambda p, **k: bb.STE(p, **{"lr": 0.05, "metaplasticity": 1.35, "clip": None} | k),
    "bop": lambda p, **k: bb.Bop(p, **{"lr": 0.2, "threshold": 1e-3} | k),
    "bop2ndorder": lambda p, **k: bb.Bop2ndOrder(p, **{"lr": 0.2, "threshold": 0.1, "unbiased": True} | k),
    "pmf": lambda p, **k: bb.PMF(p, **{"lr": 0.05, "growth": 1.5, "interval": 3} | k),
    "mirrordescent": lambda p, **k: bb.MirrorDescent(p, **{"lr": 0.05, "growth": 1.5, "interval": 3} | k),
    "proxquant": lambda p, **k: bb.ProxQuant(p, **{"lr": 0.05, "rate": 0.05, "harden_after": 12} | k),
    "adaste": lambda p, **k: bb.AdaSTE(
        p, **{"lr": 0.01, "ess": 3.0, "growth": 1.5, "interval": 3, "init_theta": 0.5} | k
    ),
    "vispa": lambda p, **k: bb.VISPA(p, **{"lr": 0.05, "rank": 3, "divisor": 4.0, "weight_decay": 1e-3} | k),
    "vispa-projected": lambda p, **k: bb.VISPA(
        p, **{"lr": 0.05, "rank": 2, "project": True, "shared": "network", "init_noise": 1.0} | k
    ),
}
HARD = {name for name in RULES if name.startswith(("ste", "bop", "vispa"))} | {
    "bayesbinn-straight-through",
    "bayesbinn-momentum",
}
STOCHASTIC = {name for name in RULES if name.startswith(("bayesbinn", "vispa")) and name != "bayesbinn-point"}

# Parts of a belief that the learning rate moves; others are averages.
MOVED = ("natural", "latent", "sign", "weights")

every_rule = pytest.mark.parametrize("rule", RULES)


def network(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """A small network without batch statistics."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).to(dtype)


def data(count: int = 16, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Inputs and targets."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 6, generator=generator).to(dtype)
    return x, torch.randint(4, (count,), generator=generator)


def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy."""
    return nn.functional.cross_entropy(model(x).float(), y)


def pair(rule: str, **options: Any) -> tuple[nn.Sequential, bb.BinaryOptimizer]:
    """A network and its optimizer."""
    model = network()
    return model, make(rule, model, **options)


def make(rule: str, model: nn.Module, **options: Any) -> bb.BinaryOptimizer:
    """The rule over the binary parameters of a model."""
    binary, _ = bb.split_parameters(model)
    return RULES[rule](binary, **{"seed": 3} | options)


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int, scheduler: Any = None) -> None:
    """Trains for some steps."""
    x, y = data()
    for _ in range(count):
        loss(model, x, y).backward()
        optimizer.step()
        optimizer.zero_grad()
        if scheduler is not None:
            scheduler.step()


def snapshot(model: nn.Module, optimizer: bb.BinaryOptimizer) -> dict[str, Tensor]:
    """Every tensor of the weights and of the beliefs, cloned."""
    found = {f"weight/{name}": p.detach().clone() for name, p in model.named_parameters()}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            for key, tensor in (value if isinstance(value, dict) else {name: value}).items():
                if isinstance(tensor, Tensor):
                    found[f"belief/{index}/{key}"] = tensor.clone()
                else:
                    found[f"belief/{index}/{key}"] = torch.tensor(tensor)
    return found


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether two snapshots agree bit for bit."""
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


def signs_only(tensor: Tensor) -> bool:
    """Whether a tensor holds −1 and +1 and nothing else."""
    return bool(((tensor == 1) | (tensor == -1)).all())
