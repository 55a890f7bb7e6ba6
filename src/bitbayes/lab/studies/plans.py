"""Plans of a study of members: the runs of one way to train, and the ways to predict with their networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from bitbayes.lab.choices import Way
from bitbayes.lab.studies import gaussian
from bitbayes.lab.studies.dropout import dropout_predictor
from bitbayes.lab.studies.load import FinishedRun
from bitbayes.lab.studies.several import diverged
from bitbayes.lab.studies.trust import network_bytes
from bitbayes.lab.train import RuleName, RunConfig
from bitbayes.lab.train.rules import check_options, relaxes
from bitbayes.prediction import Prediction

GAUSSIAN = (gaussian.SWAG, gaussian.IVON)
"""Rules whose posterior is a Gaussian over real weights; they have single runs alone."""


def has_way(rule: str, way: Way) -> bool:
    """Return whether a rule can be trained in a way."""
    if way == "single" or rule in GAUSSIAN:
        return way == "single"
    name = RuleName.parse(rule).rule
    return way == "members" or name == "full-precision" or relaxes(name)


@dataclass(frozen=True)
class Plan:
    """The runs of one way to train with one rule and one seed.

    Args:
        rule: Name of the rule.
        way: "single", "dropout" (a single run as well), "members" or "cycles".
        configs: Configurations of the runs: one, or one for each member.
        folder: Folder that the runs are loaded from.
        time: Time of a training step relative to that of the first rule of the study.
    """

    rule: str
    way: str
    configs: list[RunConfig]
    folder: Path
    time: float

    @property
    def epochs(self) -> int:
        """Number of training epochs in all, including those of float networks that the runs begin with."""
        return sum(config.epochs + config.pretrain_epochs for config in self.configs)

    @property
    def diverged(self) -> bool:
        """Whether a run has ended because its loss or gradient was not finite."""
        return any(map(diverged, self.configs))

    @property
    def refused(self) -> bool:
        """Whether the rule refuses the settings of a run, such as a learning rate that is too large for it."""
        try:
            for config in self.configs:
                check_options(config.rule, config.estimator, config.spec, {})
        except ValueError:
            return True
        return False

    @property
    def training_time(self) -> float:
        """Training time in epochs of the first rule; an epoch of a float network counts as one."""
        return sum(config.epochs * self.time + config.pretrain_epochs for config in self.configs)


@dataclass(frozen=True)
class Kind:
    """One way to predict with the members of a plan.

    Args:
        predictors: Function from a number of networks to one predictor for each member.
        bytes: Function from that number to the bytes of all members together.
        most: Number of networks of each member that the predictor can have; None for any number.
    """

    predictors: Callable[[int], list[Callable[[Tensor], Prediction]]]
    bytes: Callable[[int], int]
    most: int | None = None

    def count(self, wanted: int, limit: int | None) -> int:
        """Return the number of networks of each member that is wanted or, with a limit, that fits; 0 for none."""
        if self.most is not None:
            wanted = min(wanted, self.most)
        if limit is None:
            return wanted
        one, two = self.bytes(1), self.bytes(2)
        if one > limit:
            return 0
        if two == one:
            return wanted
        fits = 1 + (limit - one) // (two - one)
        return fits if fits > 1 else 0


def predictors(plan: Plan, runs: Sequence[FinishedRun]) -> dict[str, Kind]:
    """Return the ways to predict with the members of a plan by name: "dropout", or "mode" and, if it has one, "mean".

    Args:
        plan: The plan.
        runs: Its finished runs, as `load_members` returns them.
    """
    run, members = runs[0], len(runs)
    found = {"mode": Kind(lambda n: [each.predictor(0) for each in runs], lambda n: members * network_bytes(run, 1), 1)}
    if plan.rule in GAUSSIAN:
        posterior, size = gaussian.load_gaussian(run), run.experiment.bytes()[0]
        found["mode"] = Kind(lambda n: [gaussian.gaussian_predictor(run, posterior)], lambda n: size, 1)
        found["mean"] = Kind(
            lambda n: [gaussian.gaussian_predictor(run, posterior, n)], lambda n: posterior.vectors(n) * size
        )
    elif run.posterior is not None:
        found["mean"] = Kind(lambda n: [each.predictor(n) for each in runs], lambda n: members * network_bytes(run, n))
    elif plan.way == "dropout":
        return {"dropout": Kind(lambda n: [dropout_predictor(run, n)], lambda n: network_bytes(run, 1))}
    return found
