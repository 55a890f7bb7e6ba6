"""Ways to train a posterior on a small problem, and what all runs of a way predict together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from bitbayes.lab.choices import Overrides
from bitbayes.lab.recipes import make_config
from bitbayes.lab.studies.load import FinishedRun, joint
from bitbayes.lab.studies.several import member_configs
from bitbayes.lab.train import RuleName, RunConfig
from bitbayes.prediction import Prediction
from bitbayes.table import brief


@dataclass(frozen=True)
class Way:
    """A way to train: one run or, with members, independent runs that share the epochs of one.

    Args:
        rule: Name of the rule.
        settings: Settings that differ from those of the recipe.
        members: Number of independent runs.
    """

    rule: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    members: int = 1

    @property
    def slug(self) -> str:
        """Name in folders, which differs between ways that differ in any setting.

        Example:
            >>> Way("bayesbinn:default", {"lr": 0.01, "options": {"ess_scale": 10.0}}, members=4).slug
            'bayesbinn-default-lr0.01-10N-members4'
            >>> Way("ste", {"lr": 0.00123456781}).slug  # all digits, where fewer would be another number
            'ste-lr0.00123456781'
        """
        plain = {name: value for name, value in self.settings.items() if name != "options"}
        settings = plain | dict(self.settings.get("options", {})) | {"members": self.members}
        if self.members == 1:
            del settings["members"]
        words = (
            f"{_exact(value, f'{value:g}')}N" if name == "ess_scale" else f"{name}{_exact(value, brief(value))}"
            for name, value in settings.items()
        )
        return "-".join([RuleName.parse(self.rule).slug, *words])

    def configs(self, recipe: str, seed: int, out: str, **settings: Any) -> list[RunConfig]:
        """Return the configurations of the runs, whose folders are in `out`.

        Args:
            recipe: Name of the recipe.
            seed: Seed of the run, from which those of several members are hashed.
            out: Folder of all ways.
            **settings: Further settings; see `make_config`.

        Example:
            >>> runs = Way("ste", members=2).configs("moons", 3, "runs", epochs=300)
            >>> [(run.out, run.epochs) for run in runs]
            [('runs/ste-members2-seed3/member1', 150), ('runs/ste-members2-seed3/member2', 150)]
        """
        given = Overrides(seed=seed, out=f"{out}/{self.slug}-seed{seed}")
        if self.members == 1:
            return [make_config(recipe, self.rule, given, **settings, **self.settings)]
        return member_configs(recipe, self.rule, self.members, given, **settings, **self.settings)


def _exact(value: object, label: str) -> str:
    """Return a label if it is a number's value, and all digits of the number if the label is rounded."""
    return label if type(value) not in (int, float) or float(label) == value else repr(value)


def predictor(runs: Sequence[FinishedRun], samples: int) -> tuple[Callable[[Tensor], Prediction], int]:
    """Return a function from inputs to the predictions of all runs of a way, and the number of networks.

    Args:
        runs: The members, or the only run.
        samples: Number of posterior samples of all members together; without a posterior, each gives its mode.
    """
    each = samples // len(runs) if runs[0].posterior else 0
    return joint(runs, each), len(runs) * max(each, 1)


TEN = Way("bayesbinn:straight-through", {"lr": 1e-2, "options": {"ess_scale": 10.0}})
"""BayesBiNN with `ess` = 10·N."""

WAYS: Mapping[str, Way] = {
    "STE, Adam": Way("ste"),
    "BayesBiNN, published": Way("bayesbinn:released"),
    "BayesBiNN, recommended": Way("bayesbinn:default"),
    "BayesBiNN, ess = 10·N": TEN,
    "VISPA, K = 4": Way("vispa"),
}
"""Ways to train by title. The paper has settings for two moons and Snelson's data alone."""

MOONS_BEST = "BayesBiNN, ess = 10·N, 4 members"
"""Title of the way that is nearest to the exact posterior of two moons, by its divergence on the data."""

MOONS_WAYS: Mapping[str, Way] = WAYS | {MOONS_BEST: Way(TEN.rule, TEN.settings, members=4)}
"""Ways to train on two moons."""

SNELSON_WAYS: Mapping[str, Way] = {
    **{title: way for title, way in WAYS.items() if way is not TEN},  # of a loss in nats, which this is not
    "BayesBiNN, searched": Way("bayesbinn:straight-through"),
    "BayesBiNN, ess = 10⁴·N, 4 members": Way("bayesbinn:default", {"options": {"ess_scale": 1e4}}, members=4),
}
"""Ways to train on Snelson's data."""
