"""Learning rules by name, and the settings of a rule."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from bitbayes import rules
from bitbayes.lab.train.schedule import Schedule
from bitbayes.rules import BinaryOptimizer
from bitbayes.rules.bayesbinn import recommended_lr

RULES: dict[str, type[BinaryOptimizer] | None] = {
    "full-precision": None,  # plain Adam under the same trainer
    "ste": rules.STE,
    "bop": rules.Bop,
    "bop2": rules.Bop2ndOrder,
    "pmf": rules.PMF,
    "md": rules.MirrorDescent,
    "proxquant": rules.ProxQuant,
    "adaste": rules.AdaSTE,
    "bayesbinn": rules.BayesBiNN,
    "vispa": rules.VISPA,
}
"""Learning rules by the names of the command line; None is plain Adam."""


@dataclass(frozen=True)
class RuleName:
    """A learning rule and its variant: an estimator of BayesBiNN, or other settings of the same rule.

    Example:
        >>> name = RuleName.parse("bayesbinn:default")
        >>> name.rule, name.variant, str(name), name.slug
        ('bayesbinn', 'default', 'bayesbinn:default', 'bayesbinn-default')
    """

    rule: str
    variant: str | None = None

    @classmethod
    def parse(cls, text: str) -> RuleName:
        """Read RULE or RULE:VARIANT."""
        rule, _, variant = text.partition(":")
        return cls(rule, variant or None)

    def __str__(self) -> str:
        return self.rule if self.variant is None else f"{self.rule}:{self.variant}"

    @property
    def slug(self) -> str:
        """The name as a part of file names."""
        return str(self).replace(":", "-")


@dataclass(frozen=True)
class RuleSpec:
    """The settings of a rule, and of the real parameters beside it.

    Args:
        lr: Learning rate of the binary weights (of all weights for full precision). None, for bayesbinn: that of
            `BayesBiNN.recommended`.
        options: Keywords of the rule beside the learning rate. `ess_scale`, `interval_epochs` and `harden_at` are
            relative to the data and the run, see `resolve`.
        schedule: How both learning rates change over the epochs.
        real_lr: Learning rate of the real parameters.
        clip_gradient: Largest norm of the gradient over all weights; None leaves the gradient alone.
        samples: Posterior samples per training step.
        real_optimizer: "adam", or "sgd" (momentum 0.9), of the real parameters, or of all for full precision.
        real_weight_decay: L2 penalty on the parameters of that optimizer.
        dropout: Probability of every dropout layer; None keeps those of the network.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> RuleSpec(1e-2, {"clip": 0.5}, Schedule("constant")).options
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

    def __post_init__(self) -> None:
        # As JSON will give them back, so that a record equals its own copy.
        object.__setattr__(self, "options", json.loads(json.dumps(self.options)))
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, got {self.samples}")
        if not (self.lr is None or self.lr > 0) or not self.real_lr > 0:
            raise ValueError(f"learning rates must be positive, got {self.lr} and {self.real_lr}")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        if self.real_optimizer not in ("adam", "sgd"):
            raise ValueError(f"real_optimizer must be adam or sgd, got {self.real_optimizer!r}")

    def resolve(self, examples: int, steps: int, epochs: int) -> RuleSpec:
        """Return the settings with absolute values in place of those that depend on the data and the run.

        Args:
            examples: Number of training examples; `ess` becomes `ess_scale` times this number.
            steps: Steps of an epoch; `interval` becomes `interval_epochs` times this number.
            epochs: Epochs of the schedule; `harden_after` becomes the fraction `harden_at` of all steps. If `lr` is
                None, it becomes that of `BayesBiNN.recommended` for all steps.

        Returns:
            Settings whose `options` are keywords of the rule, and whose `lr` is a number.

        Raises:
            ValueError: If a relative option is not a positive number.

        Example:
            >>> RuleSpec(None, {"ess_scale": 300.0}).resolve(1200, steps=24, epochs=60)
            RuleSpec(lr=0.004166666666666667, options={'ess': 360000.0}, ...)
        """
        options = dict(self.options)
        for name in ("ess_scale", "interval_epochs", "harden_at"):
            value = options.get(name, 1)
            if not isinstance(value, (int, float)) or not 0 < value < float("inf"):
                raise ValueError(f"{name} must be a positive number, got {value!r}")
        if "ess_scale" in options:
            options["ess"] = options.pop("ess_scale") * examples
        if "interval_epochs" in options:
            options["interval"] = max(1, round(options.pop("interval_epochs") * steps))
        if "harden_at" in options:
            options["harden_after"] = round(options.pop("harden_at") * steps * epochs)
        lr = recommended_lr(steps * epochs) if self.lr is None else self.lr
        return replace(self, lr=lr, options=options)
