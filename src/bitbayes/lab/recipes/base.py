"""The class of a recipe: one published experiment, with its hyper-parameters and the figures to reach."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from bitbayes.lab.data import DataBundle
from bitbayes.lab.train import COSINE_BY_STEPS, CROSS_ENTROPY, Loss, RuleSpec
from bitbayes.rules.bayesbinn import ESS_SCALE, INIT_LAMBDA

Load = Callable[[str | None, torch.device, int], DataBundle]
"""From a folder or hub id or None, the device, and the seed of the split to the data."""


@dataclass(frozen=True)
class Published:
    """A published figure.

    Args:
        test: Test accuracy in percent at the best validation epoch, mean over runs.
        spread: Standard deviation over runs, as published; None for a single run.
        train: Training accuracy.
        validation: Validation accuracy.
    """

    test: float
    spread: float | None = None
    train: float | None = None
    validation: float | None = None

    def __str__(self) -> str:
        return f"{self.test:.2f}" if self.spread is None else f"{self.test:.2f} ± {self.spread:.2f}"


DEFAULT = RuleSpec(None, {"ess_scale": ESS_SCALE, "init_lambda": INIT_LAMBDA}, COSINE_BY_STEPS)
"""The setting of `BayesBiNN.recommended`. It works on classification; for a regression use its mean and not its mode.

See docs/results/one-setting.md.
"""

DEFAULTS: Mapping[str, RuleSpec] = {"bayesbinn:default": DEFAULT}
"""Rules that every recipe has beside its own."""


def generated(load: Callable[..., DataBundle], why: str) -> Load:
    """Return `Recipe.load` for data that are not read from a place; `why` begins the error for `--data`."""

    def recipe_load(where: str | None, device: torch.device, seed: int) -> DataBundle:
        if where is not None:
            raise ValueError(f"{why}; --data {where} is not used, leave it out")
        return load(device=device)

    return recipe_load


@dataclass(frozen=True)
class Recipe:
    """One experiment: data, network, loss, and the hyper-parameters of every rule.

    Rules are keyed by the text of their `RuleName`: "ste", the estimators of BayesBiNN as "bayesbinn:released", other
    variants of a rule as "vispa:rank1". `DEFAULTS` come on top.

    Args:
        name: Name on the command line.
        title: A few words.
        source: Where the settings and the published figures are from.
        network: Makes the network.
        load: Loads the data.
        epochs: Length of the published schedule.
        batch_size: Examples per step; 0 for all.
        rules: Hyper-parameters by rule.
        loss: Training loss.
        estimator: Estimator of BayesBiNN, unless another is asked for.
        published: Published figures by rule.
        quick_epochs: Length of the quick budget; None if there is none.
        quick: Hyper-parameters for the quick budget, by rule; rules that are missing use `rules`.
        all_binary: Biases are binary too.
        evaluate_every: Epochs between two evaluations.
        checkpoint_every: Epochs between two checkpoints.
        predict_samples: Networks of the mean prediction.
        seed: Seed of a run unless another is asked for.
        wide: Large enough that bfloat16 may be faster; others compute in float32 unless told otherwise.
    """

    name: str
    title: str
    source: str
    network: Callable[[], nn.Module]
    load: Load
    epochs: int
    batch_size: int
    rules: Mapping[str, RuleSpec]
    loss: Loss = CROSS_ENTROPY
    estimator: str = "straight-through"
    published: Mapping[str, Published] = field(default_factory=dict)
    quick_epochs: int | None = None
    quick: Mapping[str, RuleSpec] = field(default_factory=dict)
    all_binary: bool = False
    evaluate_every: int = 1
    checkpoint_every: int = 1
    predict_samples: int = 10
    seed: int = 0
    wide: bool = False
