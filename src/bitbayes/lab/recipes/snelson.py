"""Regression on Snelson's data, the second synthetic experiment of the BayesBiNN paper (Figure 2; Table 3)."""

from __future__ import annotations

import torch

from bitbayes import nn
from bitbayes.lab.data import DataBundle, load_snelson
from bitbayes.lab.recipes.base import Recipe, RuleSpec
from bitbayes.lab.train import SQUARED, Schedule

__all__ = ["SNELSON"]

_DOWN = Schedule("exponential", factor=0.1)  # 1e-4 to 1e-5 over the run

RULES = {
    "full-precision": RuleSpec(1e-2, schedule=_DOWN),
    "ste": RuleSpec(1e-1, schedule=Schedule("constant")),
    # The published settings. Its code adds 1e-10 to both parts of the scale, which at |λ| = 10 makes it 1.
    "bayesbinn:released": RuleSpec(1e-4, {"ess_scale": 1.0, "tau": 1.0, "momentum": 0.99, "init_lambda": 10.0}, _DOWN),
    "bayesbinn:concrete": RuleSpec(1e-4, {"ess_scale": 1.0, "tau": 1.0, "momentum": 0.99, "init_lambda": 1.0}, _DOWN),
    # Ours: found by a search over ess, lr and momentum, see docs/log.md.
    "bayesbinn:straight-through": RuleSpec(3e-4, {"ess_scale": 300.0, "momentum": 0.99}, _DOWN),
}


def _network() -> torch.nn.Module:
    return nn.synthetic_mlp(1, norm_output=True)


def _load(where: str | None, device: torch.device, seed: int) -> DataBundle:
    return load_snelson(where, device=device, split=seed)


SNELSON = Recipe(
    name="snelson",
    title="Snelson's regression data, MLP 1-64-64-1 (tanh), binary biases",
    source="Meng, Bachmann & Khan, ICML 2020, Table 3 and Figure 2",
    network=_network,
    load=_load,
    loss=SQUARED,
    epochs=5000,
    quick_epochs=5000,
    batch_size=0,
    rules=RULES,
    estimator="straight-through",
    all_binary=True,
    evaluate_every=50,
    checkpoint_every=500,
)
