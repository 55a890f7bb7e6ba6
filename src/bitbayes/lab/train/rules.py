"""Learning rules by name, and the settings of a rule."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch

from bitbayes import rules
from bitbayes.errors import nearest
from bitbayes.lab.train.schedule import Schedule
from bitbayes.rules import BinaryOptimizer, scales
from bitbayes.rules.bayesbinn import recommended_lr
from bitbayes.rules.rule import Common, Rule

RULES: dict[str, type[BinaryOptimizer] | None] = {
    "full-precision": None,  # an optimizer of torch under the same trainer
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
"""Learning rules by their names on the command line; None stands for an optimizer of torch, by default Adam."""

RELATIVE = {"ess_scale": "ess", "interval_epochs": "interval", "harden_at": "harden_after"}
"""Options that are relative to the data and the run, with the options of the rule that they become."""

# Keywords of a rule that are settings of the run, or whose values cannot be given as text.
_OF_THE_RUN = {
    "lr": "--lr",
    "samples": "--samples",
    "seed": "--seed",
    "estimator": "--estimator",
    "capturable": "--capture",
}
_OBJECTS = {"prior"}


RealOptimizer = Literal["adam", "sgd", "nesterov"]


@dataclass(frozen=True)
class RuleName:
    """Name of a learning rule and its variant: an estimator of BayesBiNN, or other settings of the same rule.

    Example:
        >>> name = RuleName.parse("bayesbinn:default")
        >>> name.rule, name.variant, str(name), name.slug
        ('bayesbinn', 'default', 'bayesbinn:default', 'bayesbinn-default')
    """

    rule: str
    variant: str | None = None

    @classmethod
    def parse(cls, text: str) -> RuleName:
        """Parse RULE or RULE:VARIANT."""
        rule, _, variant = text.partition(":")
        return cls(rule, variant or None)

    def __str__(self) -> str:
        return self.rule if self.variant is None else f"{self.rule}:{self.variant}"

    @property
    def slug(self) -> str:
        """Name of the rule for use in file names."""
        return str(self).replace(":", "-")


@dataclass(frozen=True)
class RuleSpec:
    """Settings of a rule and of the real parameters.

    Args:
        lr: Learning rate of the binary weights, or of all weights for full precision. None, which only bayesbinn
            supports, is that of `BayesBiNN.recommended`.
        options: Keywords of the rule apart from the learning rate; see `option_names`. `ess_scale`, `interval_epochs`
            and `harden_at` are relative to the data and the run; see `resolve`.
        schedule: Schedule of both learning rates.
        real_lr: Learning rate of the real parameters.
        clip_gradient: Largest norm of the gradient over all weights; None does not clip.
        samples: Number of posterior samples per training step.
        real_optimizer: Optimizer of the real parameters, or of all parameters for full precision: "adam", "sgd" with
            momentum 0.9, or "nesterov", which is SGD with Nesterov momentum 0.85.
        real_weight_decay: L2 penalty on the parameters of that optimizer.
        dropout: Dropout probability of every dropout layer; None keeps those of the network.

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
    real_optimizer: RealOptimizer = "adam"
    real_weight_decay: float = 0.0
    dropout: float | None = None

    def __post_init__(self) -> None:
        # In the types that JSON returns, so that a record equals its own copy.
        object.__setattr__(self, "options", json.loads(json.dumps(self.options)))
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, got {self.samples}")
        if not all(lr is None or 0 < lr < math.inf for lr in (self.lr, self.real_lr)):
            raise ValueError(f"learning rates must be positive and finite, got {self.lr} and {self.real_lr}")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        if self.real_optimizer not in get_args(RealOptimizer):
            names = ", ".join(get_args(RealOptimizer))
            raise ValueError(f"real_optimizer must be one of {names}; got {self.real_optimizer!r}")

    def with_options(self, options: Mapping[str, Any]) -> RuleSpec:
        """Return the settings with some options changed.

        An option and its relative form, such as `ess` and `ess_scale`, replace each other.

        Raises:
            ValueError: If both forms are given.

        Example:
            >>> RuleSpec(1e-2, {"ess_scale": 1.0, "momentum": 0.9}).with_options({"ess": 500}).options
            {'momentum': 0.9, 'ess': 500}
        """
        kept = dict(self.options)
        for relative, absolute in RELATIVE.items():
            if relative in options and absolute in options:
                raise ValueError(f"{absolute} and {relative} set the same number; give one of them")
            if relative in options or absolute in options:
                kept = {name: value for name, value in kept.items() if name not in (relative, absolute)}
        return replace(self, options=kept | dict(options))

    def resolve(self, examples: int, steps: int, epochs: int) -> RuleSpec:
        """Return the settings with absolute values in place of those that depend on the data and the run.

        Args:
            examples: Number of training examples; `ess` becomes `ess_scale` times this number.
            steps: Number of steps per epoch; `interval` becomes `interval_epochs` times this number.
            epochs: Number of epochs of the schedule; `harden_after` becomes the fraction `harden_at` of all steps. If
                `lr` is None, it becomes that of `BayesBiNN.recommended` for all steps.

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


def relaxes(rule: str) -> bool:
    """Return whether the belief of a rule can be relaxed; see `BinaryOptimizer.relax`.

    Example:
        >>> relaxes("bayesbinn"), relaxes("bop")
        (True, False)
    """
    kind = RULES.get(rule)
    return kind is not None and kind.relaxed is not Rule.relaxed


def option_names(rule: str) -> list[str]:
    """Return the names of a rule's options that `--set` accepts, including relative ones.

    Example:
        >>> option_names("ste")
        ['inner', 'betas', 'momentum', 'weight_decay', 'clip', 'window', 'metaplasticity', 'scale', 'scale_lr', ...]
    """
    kind = RULES[rule]
    if kind is None:
        return []
    parameters = inspect.signature(kind.__init__).parameters.values()
    own = [parameter.name for parameter in parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
    own += [relative for relative, absolute in RELATIVE.items() if absolute in own]
    names = [*own, *(name for name in Common.__annotations__ if name not in own)]
    return [name for name in names if name not in _OF_THE_RUN.keys() | _OBJECTS]


def check_options(rule: str, estimator: str | None, spec: RuleSpec, chosen: Mapping[str, Any]) -> None:
    """Raise ValueError for options that the rule does not have, are out of range, or have no effect.

    Args:
        rule: Name of the rule.
        estimator: Gradient estimator of BayesBiNN; None for other rules.
        spec: All settings, including the chosen ones.
        chosen: Options that the user has set.

    Raises:
        ValueError: If an option is unknown, out of range, or has no effect.

    Example:
        >>> check_options("ste", None, RuleSpec(1e-2), {"momentum": 0.5})
        Traceback (most recent call last):
        ...
        ValueError: momentum has no effect: rule ste uses it only if inner is sgd; leave it out
    """
    known = option_names(rule)
    for name in chosen:
        if name in _OF_THE_RUN:
            raise ValueError(f"{name} is a setting of the run, not an option of the rule; use {_OF_THE_RUN[name]}")
        if not known:
            raise ValueError(f"rule {rule} has no options, got {name}")
        if name not in known:
            raise nearest(f"option of rule {rule}", name, known)
    try:
        group = _group(rule, estimator, spec)
    except TypeError as error:  # such as a text that the rule compares with a number
        given = ", ".join(f"{name}={value!r}" for name, value in chosen.items())
        raise ValueError(f"rule {rule} does not accept {given}: {error}") from error
    without = _without_effect(rule, group)
    for name in chosen:
        condition = without.get(RELATIVE.get(name, name))
        if condition is not None:
            raise ValueError(f"{name} has no effect: rule {rule} uses it only if {condition}; leave it out")


def _without_effect(rule: str, group: Mapping[str, Any]) -> dict[str, str]:
    kind = RULES[rule]
    unread = {} if kind is None else kind.unread(dict(group))
    scale = group.get("scale")
    learned = scale is None or scales.is_learned(scale)
    return unread | ({} if learned else {"scale_lr": f"scale is {', '.join(scales.LEARNED)} or group:N"})


def _group(rule: str, estimator: str | None, spec: RuleSpec) -> Mapping[str, Any]:
    """Return all options of a rule with their values, including defaults, as in an optimizer over one tensor."""
    kind = RULES[rule]
    if kind is None:
        return {}
    settings = spec.resolve(1000, steps=1000, epochs=1000)  # relative options only need to be in range
    own = {} if estimator is None else {"estimator": estimator}
    one = [torch.nn.Parameter(torch.ones(2, 2))]
    return kind(one, lr=settings.lr, **own, seed=0, **settings.options).param_groups[0]  # type: ignore[arg-type]


def kept_posterior(rule: str, estimator: str | None, spec: RuleSpec) -> str:
    """Return a sentence on the posterior that a run will keep, with advice if it keeps none.

    Example:
        >>> kept_posterior("bop", None, RuleSpec(1e-3))
        'Rule bop keeps one network and no posterior; for a posterior, use --rule bayesbinn:default.'
    """
    kind, advice = RULES[rule], "for a posterior, use --rule bayesbinn:default"
    if kind is None:
        return "The run trains real weights and keeps no posterior."
    if not kind.has_posterior:
        return f"Rule {rule} keeps one network and no posterior; {advice}."
    group = dict(_group(rule, estimator, spec))
    if kind.is_point(group):
        why = f"estimator {estimator} at tau {group['tau']:g}" if estimator else "rank 0"
        return f"The posterior of this run is a point: {why} leaves one network, so mean and mode agree; {advice}."
    if kind is rules.VISPA:
        return f"The run keeps a low-rank Gaussian posterior (rank {group['rank']}) over the binary weights."
    hardens = ", which hardens to a point as beta grows" if kind is rules.PMF else ""
    return f"The run keeps a Bernoulli posterior over the binary weights{hardens}."
