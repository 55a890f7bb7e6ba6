"""Runs that differ in nothing but the seed belong together: one row of a table, one colour of a chart."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bitbayes.lab.recipes import RECIPES, Published
from bitbayes.lab.report.page.records import Run
from bitbayes.lab.train import RuleName, RunConfig, Schedule

__all__ = ["Curve", "Group", "curves", "flat", "grouped", "mean_curve"]

# What runs of one group may differ in: the seed, and what does not change what is learned (of the data, the place).
_FREE = ("seed", "out", "data", "device")


@dataclass(frozen=True)
class Group:
    """Runs of one recipe, rule and setting.

    Args:
        label: The rule; what is special about the settings, if another group has the same rule.
        runs: One a seed.
        published: The published figure of that rule, or None.
    """

    label: str
    runs: list[Run]
    published: Published | None = None

    def values(self, key: str) -> list[float]:
        """One number of the summaries of the finished runs.

        Args:
            key: Name in summary.json.

        Returns:
            Its values, where they exist.
        """
        found = [run.summary.get(key) for run in self.runs]
        return [value for value in found if isinstance(value, int | float)]


@dataclass(frozen=True)
class Curve:
    """One metric of one run over the epochs.

    Args:
        run: Name of the run.
        group: Number of its group.
        epochs: Of the points.
        values: At them.
    """

    run: str
    group: int
    epochs: list[float]
    values: list[float]

    def thinned(self, count: int) -> Curve:
        """At most about so many points, the first and the last among them.

        Args:
            count: At least 2.

        Returns:
            The curve, or one with evenly chosen points.

        Example:
            >>> curve = Curve("run", 0, [1.0, 2.0, 3.0, 4.0, 5.0], [5.0, 4.0, 3.0, 2.0, 1.0])
            >>> curve.thinned(3).values
            [5.0, 3.0, 1.0]
        """
        last = len(self.epochs) - 1
        if last < count:
            return self
        chosen = [round(last * i / (count - 1)) for i in range(count)]
        return dataclasses.replace(
            self, epochs=[self.epochs[i] for i in chosen], values=[self.values[i] for i in chosen]
        )


def grouped(runs: Sequence[Run]) -> dict[str, list[Group]]:
    """Groups by recipe, both in the order in which the runs came.

    Args:
        runs: Of any recipes.

    Returns:
        The groups of every recipe.
    """
    recipes: dict[str, list[tuple[dict[str, Any], list[Run]]]] = {}
    for run in runs:
        mine = {key: value for key, value in flat(run.config).items() if key not in _FREE}
        mine["data"] = run.environment.get("data")  # the fingerprint, not the place
        found = recipes.setdefault(str(run.config.recipe), [])
        same = next((others for settings, others in found if settings == mine), None)
        if same is None:
            found.append((mine, [run]))
        else:
            same.append(run)
    return {recipe: _labelled(recipe, [runs for _, runs in found]) for recipe, found in recipes.items()}


def curves(groups: Sequence[Group], key: str, scale: float = 1.0) -> list[Curve]:
    """One metric of all runs that have it.

    Args:
        groups: Of one recipe.
        key: Name in metrics.jsonl.
        scale: Factor of the values.

    Returns:
        One curve a run.
    """
    found = []
    for index, group in enumerate(groups):
        for run in group.runs:
            points = [(row["epoch"], scale * row[key]) for row in run.history if key in row]
            if points:
                epochs, values = zip(*points, strict=True)
                found.append(Curve(run.name, index, list(epochs), list(values)))
    return found


def mean_curve(runs: Sequence[Curve]) -> Curve:
    """The mean of several runs, at the epochs that all of them have.

    Args:
        runs: Of one group.

    Returns:
        The curve; of the first run if they share no epoch.

    Example:
        >>> mean_curve([Curve("a", 0, [1.0, 2.0], [4.0, 6.0]), Curve("b", 0, [1.0], [8.0])]).values
        [6.0]
    """
    tables = [dict(zip(run.epochs, run.values, strict=True)) for run in runs]
    shared = [epoch for epoch in runs[0].epochs if all(epoch in table for table in tables)]
    if not shared:
        return runs[0]
    values = [sum(table[epoch] for table in tables) / len(tables) for epoch in shared]
    return Curve(f"mean of {len(runs)}", runs[0].group, shared, values)


def flat(config: RunConfig) -> dict[str, Any]:
    """A record without nesting.

    Args:
        config: Of a run.

    Returns:
        Its entries; those of options and schedule are named options.NAME and schedule.NAME.
    """
    entries: dict[str, Any] = {}
    for key, value in config.flat().items():
        inner = dataclasses.asdict(value) if isinstance(value, Schedule) else value
        if isinstance(inner, Mapping):
            entries |= {f"{key}.{name}": each for name, each in inner.items()}
        else:
            entries[key] = value
    return entries


def _labelled(recipe: str, found: Sequence[list[Run]]) -> list[Group]:
    """Names each group by its rule, and by what tells it from other groups of that rule."""
    rules = [_rule(runs[0].config) for runs in found]
    groups = []
    for runs, rule in zip(found, rules, strict=True):
        same = [flat(others[0].config) for others, other in zip(found, rules, strict=True) if other == rule]
        mine = flat(runs[0].config)
        special = [
            f"{key.removeprefix('options.')} {value}"
            for key, value in mine.items()
            if key not in _FREE and value is not None and any(entries.get(key) != value for entries in same)
        ]
        label = f"{rule} ({', '.join(special)})" if special else rule
        published = RECIPES[recipe].published.get(rule) if recipe in RECIPES else None
        groups.append(Group(label, runs, published))
    return groups


def _rule(config: RunConfig) -> str:
    """As tables name it: with the estimator of BayesBiNN, or the variant whose options the recipe has."""
    if config.estimator:
        return str(config.rule_name)
    recipe = RECIPES.get(config.recipe)
    known = {**recipe.rules, **recipe.quick} if recipe else {}
    same = [
        key
        for key, spec in known.items()
        if RuleName.parse(key).rule == config.rule and spec.options == config.spec.options
    ]
    return str(config.rule) if not same or config.rule in same else same[0]
