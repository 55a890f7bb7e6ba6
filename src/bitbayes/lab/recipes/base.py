"""Definition of a recipe: one experiment with its hyper-parameters and published results."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from bitbayes.lab.data import DataBundle
from bitbayes.lab.recipes.source import Source
from bitbayes.lab.train import COSINE_BY_STEPS, CROSS_ENTROPY, Loss, RuleSpec, Views
from bitbayes.rules.bayesbinn import ESS_SCALE

Load = Callable[[str | None, torch.device, int], DataBundle]
"""Function from a folder or hub id (or None), a device, and the seed of the split to the data."""


@dataclass(frozen=True)
class Published:
    """Published accuracies of one rule.

    Args:
        test: Test accuracy in percent at the best validation epoch, mean over runs.
        spread: Standard deviation over runs, as published; None for a single run.
        train: Training accuracy in percent.
        validation: Validation accuracy in percent.
    """

    test: float
    spread: float | None = None
    train: float | None = None
    validation: float | None = None

    def __str__(self) -> str:
        return f"{self.test:.2f}" if self.spread is None else f"{self.test:.2f} ± {self.spread:.2f}"


DEFAULT = RuleSpec(None, {"ess_scale": ESS_SCALE, "init_lambda": "auto"}, COSINE_BY_STEPS)
"""Settings of `BayesBiNN.recommended`. They work for classification; for regression, use the mean and not the mode.

The first |λ| depends on whether the network is a transformer. See docs/results/one-setting.md and docs/transformers.md.
"""

DEFAULTS: Mapping[str, RuleSpec] = {"bayesbinn:default": DEFAULT}
"""Rules that every recipe has in addition to its own."""

STARTING_RULES: Mapping[str, RuleSpec] = {
    "full-precision": RuleSpec(3e-3, schedule=COSINE_BY_STEPS),
    "ste": RuleSpec(1e-2, schedule=COSINE_BY_STEPS),
    "bop": RuleSpec(1e-3, {"threshold": 1e-8}, COSINE_BY_STEPS),
    "bop2": RuleSpec(1e-3, {"threshold": 1e-6, "sigma": 1e-2}, COSINE_BY_STEPS),
    "pmf": RuleSpec(1e-2, {"growth": 1.2, "interval_epochs": 1.0}, COSINE_BY_STEPS),
    "md": RuleSpec(1e-2, {"growth": 1.2, "interval_epochs": 1.0}, COSINE_BY_STEPS),
    "proxquant": RuleSpec(1e-2, {"rate": 1e-3, "harden_at": 0.8, "init": "weights"}, COSINE_BY_STEPS),
    "adaste": RuleSpec(1e-3, {"ess_scale": 1.0, "growth": 1.2, "interval_epochs": 1.0}, COSINE_BY_STEPS),
    "bayesbinn:straight-through": DEFAULT,
    "bayesbinn:released": RuleSpec(1e-3, {"ess_scale": 1.0, "tau": 1e-10}, COSINE_BY_STEPS),
    "vispa": RuleSpec(1.0, schedule=COSINE_BY_STEPS),
}
"""Settings of every rule for a network that nobody has searched on: those of the 8×8 digits, and BayesBiNN's default.

`bitbayes tune` finds better ones for a network and its data.
"""


def generated(load: Callable[..., DataBundle], why: str) -> Load:
    """Return `Recipe.load` for generated data; `why` starts the error message for `--data`."""

    def recipe_load(where: str | None, device: torch.device, seed: int) -> DataBundle:
        if where is not None:
            raise ValueError(f"{why}, so --data {where} has no effect; leave it out")
        return load(device=device)

    return recipe_load


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Experiment: data, network, loss, and the hyper-parameters of every rule.

    Rules are keyed by the text of their `RuleName`: "ste", estimators of BayesBiNN as "bayesbinn:released", and other
    variants of a rule as "vispa:rank1". `DEFAULTS` are added to them.

    Args:
        name: Name on the command line and in tables; empty for the name of the file that defines the recipe.
        title: Short description of data and network.
        source: Source of the settings and of the published results.
        network: Function that makes the network. It may take the data, a `DataBundle`, as its argument.
        load: Function that loads the data, given the value of `--data` or None, the device, and the seed of the split.
        epochs: Number of epochs of the published schedule.
        batch_size: Number of examples per step; 0 for all training examples.
        rules: Hyper-parameters by rule.
        common: Options of every binary rule, such as `scale` for a network without BatchNorm.
        loss: Training loss.
        estimator: Default estimator of BayesBiNN.
        published: Published results by rule.
        quick_epochs: Number of epochs of the quick budget; None if there is no quick budget.
        pretrain_epochs: Number of epochs for which a float network is trained first. Binary rules then begin with its
            weights, and "full-precision" trains for the epochs of both by default.
        quick: Hyper-parameters for the quick budget by rule. Rules that are missing use `rules`.
        all_binary: Whether biases are binary too.
        evaluate_every: Number of epochs between two evaluations.
        checkpoint_every: Number of epochs between two checkpoints.
        predict_samples: Number of posterior samples of the mean prediction.
        label_smoothing: Share of each training target that is uniform over the classes.
        views: Test-time augmentation; see `RunConfig`.
        seed: Default seed of a run.
        wide: Whether the network is so large that bfloat16 may be faster. Other networks default to float32.
        file: Program that defines the recipe; None for the recipes of this package.

    Example:
        >>> from bitbayes.lab.data import load_digits
        >>> def load(where, device, seed):
        ...     return load_digits(device=device, seed=seed)
        >>> def network(data):
        ...     return torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, data.classes))
        >>> recipe = Recipe(name="mine", load=load, network=network, epochs=10, batch_size=50)
        >>> recipe.builder(load_digits())()[2].out_features
        10
    """

    name: str = ""
    title: str = ""
    source: str = "own"
    network: Callable[..., nn.Module]
    load: Load
    epochs: int
    batch_size: int = 100
    rules: Mapping[str, RuleSpec] = field(default_factory=lambda: STARTING_RULES)
    common: Mapping[str, Any] = field(default_factory=dict)
    loss: Loss = CROSS_ENTROPY
    estimator: str = "straight-through"
    published: Mapping[str, Published] = field(default_factory=dict)
    quick_epochs: int | None = None
    pretrain_epochs: int = 0
    quick: Mapping[str, RuleSpec] = field(default_factory=dict)
    all_binary: bool = False
    evaluate_every: int = 1
    checkpoint_every: int = 1
    predict_samples: int = 10
    label_smoothing: float = 0.0
    views: Views = "one"
    seed: int = 0
    wide: bool = False
    file: Source | None = None

    @property
    def reads_data(self) -> bool:
        """Whether the network takes the data as its argument."""
        return any(
            parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
            for parameter in inspect.signature(self.network).parameters.values()
        )

    def builder(self, data: DataBundle | None) -> Callable[[], nn.Module]:
        """Return a function without arguments that makes the network for some data, or for none if it needs none."""
        return partial(self.network, data) if self.reads_data else self.network
