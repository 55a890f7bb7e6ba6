"""The 8×8 digits that come with scikit-learn: a real data set with no download, for `make demo` and for tests."""

from __future__ import annotations

import torch

from bitbayes import nn
from bitbayes.lab.data import DataBundle, load_digits
from bitbayes.lab.recipes.base import Recipe, RuleSpec
from bitbayes.lab.train import CROSS_ENTROPY

__all__ = ["DIGITS"]

RULES = {
    "full-precision": RuleSpec(3e-3),
    "ste": RuleSpec(1e-2),
    "bop": RuleSpec(1e-3, {"threshold": 1e-8}),
    "bop2": RuleSpec(1e-3, {"threshold": 1e-6, "sigma": 1e-2}),
    "pmf": RuleSpec(1e-2, {"growth": 1.2, "interval_epochs": 1.0}),
    "md": RuleSpec(1e-2, {"growth": 1.2, "interval_epochs": 1.0}),
    "proxquant": RuleSpec(1e-2, {"rate": 1e-3, "harden_at": 0.8, "init": "weights"}),
    "adaste": RuleSpec(1e-3, {"ess_scale": 1.0, "growth": 1.2, "interval_epochs": 1.0}),
    "bayesbinn:released": RuleSpec(1e-3, {"ess_scale": 1.0, "tau": 1e-10}),
    "bayesbinn:concrete": RuleSpec(1e-3, {"ess_scale": 1.0, "tau": 1.0}),
    "bayesbinn:straight-through": RuleSpec(3e-3, {"ess_scale": 100.0}),
    "vispa": RuleSpec(1.0),
}


def _network() -> torch.nn.Module:
    return nn.mlp(64, [128, 128], 10, dropout=0.2)


def _load(where: str | None, device: torch.device, seed: int) -> DataBundle:
    if where is not None:
        raise ValueError(f"the digits come with scikit-learn; --data {where} is not used, leave it out")
    return load_digits(device=device)


DIGITS = Recipe(
    name="digits",
    title="8x8 digits, MLP 64-128-128-10",
    source="ours; scans from scikit-learn",
    network=_network,
    load=_load,
    loss=CROSS_ENTROPY,
    epochs=60,
    quick_epochs=60,
    batch_size=50,
    rules=RULES,
    seed=0,
)
