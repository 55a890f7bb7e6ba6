"""Runs that differ in nothing but the seed belong together: one row of a table, one colour of a chart."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bitbayes.lab.recipes import RECIPES, Published
from bitbayes.lab.report.folders import RunRecord
from bitbayes.lab.train import RuleName, RunConfig, Schedule

# What runs of one group may differ in: the seed, and what does not change what is learned (of the data, the place).
_FREE = ("seed", "out", "data", "device")


@dataclass(frozen=True)
class Group:
    """Runs of one recipe, rule and setting.

    Args:
        label: The rule; what is special about the settings, if another group has the same rule.
        runs: One run for each seed.
        published: The published figure of the rule, or None.
    """

    label: str
    runs: list[RunRecord]
    published: Published | None = None

    def values(self, key: str) -> list[float]:
        """Return one number of the summaries of the finished runs, where it exists."""
        return [run.summary[key] for run in self.runs if isinstance(run.summary.get(key), int | float)]


def grouped(runs: Sequence[RunRecord]) -> dict[str, list[Group]]:
    """Return the groups of every recipe, both in the order in which the runs came."""
    recipes: dict[str, list[tuple[dict[str, Any], list[RunRecord]]]] = {}
    for run in runs:
        mine = {key: value for key, value in flat(run.config).items() if key not in _FREE}
        mine["data"] = run.environment.get("data")  # the fingerprint, not the place
        found = recipes.setdefault(str(run.config.recipe), [])
        same = next((others for settings, others in found if settings == mine), [])
        if not same:
            found.append((mine, same))
        same.append(run)
    return {recipe: _labelled(recipe, [runs for _, runs in found]) for recipe, found in recipes.items()}


def flat(config: RunConfig) -> dict[str, Any]:
    """Return the entries of a record without nesting: an option of the rule is named options.NAME."""
    entries: dict[str, Any] = {}
    for key, value in config.flat().items():
        inner = dataclasses.asdict(value) if isinstance(value, Schedule) else value
        if isinstance(inner, Mapping):
            entries |= {f"{key}.{name}": each for name, each in inner.items()}
        else:
            entries[key] = value
    return entries


def _labelled(recipe: str, found: Sequence[list[RunRecord]]) -> list[Group]:
    """Name each group by its rule, and by what tells it from other groups of that rule."""
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
    """As tables name it: with the estimator, or the variant whose options the recipe has."""
    if config.estimator:
        return str(config.rule_name)
    recipe = RECIPES.get(config.recipe)
    known = {**recipe.rules, **recipe.quick} if recipe else {}
    named = [key for key in known if RuleName.parse(key).rule == config.rule]
    same = [key for key in named if known[key].options == config.spec.options]
    return str(config.rule) if not same or config.rule in same else same[0]
