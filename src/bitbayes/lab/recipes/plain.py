"""Small dense networks without BatchNorm, whose exact posterior `bitbayes.Gibbs` can sample. All weights are ±1."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from bitbayes.lab.data import DataBundle, TensorData, load_breast_cancer, load_digits
from bitbayes.lab.recipes.base import generated
from bitbayes.lab.recipes.bayesbinn import MOONS, SNELSON
from bitbayes.lab.train import BINARY, COSINE_BY_STEPS, CROSS_ENTROPY, RuleSpec
from bitbayes.nn import LogitScale, mlp, synthetic_mlp


def snelson_network() -> nn.Sequential:
    """Return the paper's network for Snelson's data with a fixed factor in place of the BatchNorm of its output.

    The factor is 1/√64, so that the sum of 64 units has the size of the standardised targets.
    """
    return synthetic_mlp(1, norm_output=False).append(LogitScale(1 / 8).requires_grad_(False))


SNELSON_PLAIN = dataclasses.replace(
    SNELSON,
    name="snelson-plain",
    title="Snelson's regression data, MLP 1-64-64-1 (tanh) without BatchNorm, binary biases",
    source="ours; published settings of the BayesBiNN paper, Table 3",
    network=snelson_network,
    epochs=2500,
    quick_epochs=2500,
    rules={
        **SNELSON.rules,
        # Each of these two is the best of five on validation points (`benchmarks/snelson.py --plain --steps 2500`).
        "ste": RuleSpec(1e-2),
        "bayesbinn:straight-through": RuleSpec(3e-4, {"ess_scale": 300.0, "momentum": 0.99}),
        # Not searched: VISPA's learning rate for two moons.
        "vispa": MOONS.rules["vispa"],
    },
)


def _all(load: Callable[..., DataBundle[TensorData]]) -> Callable[..., DataBundle[TensorData]]:
    """Return a function that loads data without a validation part, so that the last epoch counts, not the best."""

    def loaded(*, device: torch.device) -> DataBundle[TensorData]:
        return load(device=device).without_validation()

    return loaded


_DENSE = {"activation": "tanh", "bias": True, "norm": False, "logit_scale": False}
# The settings are not searched on these data.
_RULES = {
    "full-precision": RuleSpec(1e-2, schedule=COSINE_BY_STEPS),
    "vispa": MOONS.rules["vispa"],
    "ste": RuleSpec(1e-2, schedule=COSINE_BY_STEPS),
    "bayesbinn:straight-through": RuleSpec(1e-2, {"ess_scale": 10.0}, COSINE_BY_STEPS),
}

DIGITS_PLAIN = dataclasses.replace(
    MOONS,
    name="digits-plain",
    title="8x8 digits, MLP 64-32-10 (tanh) without BatchNorm, binary biases",
    source="ours; scans from scikit-learn",
    network=partial(mlp, 64, [32], 10, **_DENSE),
    load=generated(_all(load_digits), "the digits come with scikit-learn"),
    epochs=1000,
    quick_epochs=1000,
    loss=CROSS_ENTROPY,
    rules=_RULES,
)

BREAST_CANCER = dataclasses.replace(
    DIGITS_PLAIN,
    name="breast-cancer",
    title="breast cancer in Wisconsin (UCI), MLP 30-64-1 (tanh), binary biases",
    source="ours; table from scikit-learn",
    network=partial(mlp, 30, [64], 1, **_DENSE),
    load=generated(_all(load_breast_cancer), "the table comes with scikit-learn"),
    loss=BINARY,
)
