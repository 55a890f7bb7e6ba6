"""What a recipe is: one published experiment, with its hyper-parameters and the figure to reach."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from bitbayes.lab.data import DataBundle
from bitbayes.lab.train import COSINE_BY_STEPS, Loss, Schedule

__all__ = ["DEFAULT", "DEFAULTS", "Published", "Recipe", "RuleSpec", "loading"]


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


@dataclass(frozen=True)
class RuleSpec:
    """The hyper-parameters of one rule in one recipe.

    Args:
        lr: Learning rate of the binary weights; None for the one of `RunConfig`, which the run's length decides.
        options: Keywords of the rule; `ess_scale`, `interval_epochs` and `harden_at` are resolved with the data.
        schedule: Of the learning rates.
        real_lr: Learning rate of the real parameters.
        real_optimizer: "adam" or "sgd".
        real_weight_decay: L2 penalty on the real parameters (on all for full precision).
        clip_gradient: Largest gradient norm.
        samples: Draws a step.
        dropout: Probability of every dropout layer; None for those of the network.

    Example:
        >>> RuleSpec(1e-2).with_options(clip=0.5).options
        {'clip': 0.5}
    """

    lr: float | None
    options: Mapping[str, Any] = field(default_factory=dict)
    schedule: Schedule = field(default_factory=Schedule)
    real_lr: float = 1e-3
    clip_gradient: float | None = None
    samples: int = 1
    real_optimizer: Literal["adam", "sgd"] = "adam"
    real_weight_decay: float = 0.0
    dropout: float | None = None

    def with_options(self, **changes: Any) -> RuleSpec:
        """A copy with other options of the rule.

        Args:
            **changes: Options by name.

        Returns:
            The copy.
        """
        return dataclasses.replace(self, options={**self.options, **changes})


DEFAULT = RuleSpec(None, {"ess_scale": 300.0, "init_lambda": 15.0}, COSINE_BY_STEPS)
"""Of BayesBiNN: one setting that works everywhere, see docs/results.md#one-setting-everywhere."""

DEFAULTS: Mapping[str, RuleSpec] = {"bayesbinn:default": DEFAULT}
"""What every recipe has beside its own rules."""


def loading(load: Callable[..., DataBundle], **fixed: Any) -> Callable[[str | None, torch.device, int], DataBundle]:
    """What `Recipe.load` is, from a loader of `bitbayes.lab.data` that knows the hub id of its data.

    Args:
        load: Called with (where,) if a folder or id was given, and with device and seed.
        **fixed: Further arguments of it.

    Returns:
        A function of (folder or hub id or None, device, seed of the split).
    """

    def recipe_load(where: str | None, device: torch.device, seed: int) -> DataBundle:
        place = () if where is None else (where,)
        return load(*place, device=device, seed=seed, **fixed)

    return recipe_load


@dataclass(frozen=True)
class Recipe:
    """One experiment: data, network, loss, and the hyper-parameters of every rule.

    Rules are keyed by name; the estimators of BayesBiNN by "bayesbinn:released" and so on, and other variants of a rule
    by "vispa:rank1" and so on. `DEFAULTS` come on top.

    Args:
        name: As on the command line.
        title: A few words.
        source: Where the settings and the published figures are from.
        network: Makes the network.
        load: (folder or hub id or None, device, seed of the split) to the data.
        loss: Kind of the loss.
        epochs: Length of the published schedule.
        batch_size: Examples a step; 0 for all.
        rules: Hyper-parameters by rule.
        estimator: Of BayesBiNN, unless another is asked for.
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
    load: Callable[[str | None, torch.device, int], DataBundle]
    loss: Loss
    epochs: int
    batch_size: int
    rules: Mapping[str, RuleSpec]
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
