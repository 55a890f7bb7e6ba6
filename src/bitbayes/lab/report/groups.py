"""Runs that differ in nothing but the seed belong together: one row of a table, one colour of a chart."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bitbayes.lab.recipes import DEFAULTS, RECIPES, Published
from bitbayes.lab.report.folders import RunRecord
from bitbayes.lab.train import RuleName, RunConfig, Schedule
from bitbayes.table import brief

# What runs of one group may differ in: the seed, and what does not change what is learned (of the data, the place; of
# the settings, their name).
_FREE = ("seed", "out", "data", "device", "variant", "recipe_file", "pretrained", "pretrained_sha256")


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
    """Return the groups of every recipe, both in the order in which the runs came; `copies` are left out."""
    again = {id(run) for run in copies(runs)}
    recipes: dict[str, list[tuple[dict[str, Any], list[RunRecord]]]] = {}
    for run in runs:
        if id(run) in again:
            continue
        mine = _settings(run)
        found = recipes.setdefault(str(run.config.recipe), [])
        same = next((others for settings, others in found if settings == mine), [])
        if not same:
            found.append((mine, same))
        same.append(run)
    return {recipe: _labelled(recipe, [runs for _, runs in found]) for recipe, found in recipes.items()}


def ensembles_of(groups: Sequence[Group], ensembles: Sequence[RunRecord]) -> list[Group]:
    """Return the ensembles whose members are in each group, under its label."""
    mine = ((group, [one for one in ensembles if _settings(one) == _settings(group.runs[0])]) for group in groups)
    return [Group(group.label, found) for group, found in mine if found]


def copies(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """Return the runs that equal an earlier one also in their seed, such as a copied folder: they are no further seeds.

    A run that has come further than the earlier one takes its place, and so does a finished one.
    """
    kept: dict[str, RunRecord] = {}
    left_out = []
    for run in runs:
        key = repr((run.config.recipe, run.config.seed, sorted(_settings(run).items(), key=str)))
        first = kept.setdefault(key, run)
        if first is not run:
            further = _progress(run) > _progress(first)
            kept[key] = run if further else first
            left_out.append(first if further else run)
    return left_out


def _progress(run: RunRecord) -> tuple[bool, int]:
    return run.state == "finished", len(run.history)


def _settings(run: RunRecord) -> dict[str, Any]:
    """Return what runs of one group have in common, with the fingerprint of the data in place of their folder."""
    mine = {key: value for key, value in flat(run.config).items() if key not in _FREE}
    return mine | {"data": run.environment.get("data")}


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


def rule_of(config: RunConfig) -> str:
    """Return the rule as its user named it, for tables, legends and the page.

    Records of earlier versions know no variant; they have the name of the settings that are theirs.
    """
    name = str(config.rule_name)
    if config.variant is not None:
        return name
    if config.estimator is not None:
        return next((key for key, spec in DEFAULTS.items() if spec == config.spec), name)
    recipe = RECIPES.get(config.recipe)
    known = {**recipe.rules, **recipe.quick} if recipe else {}
    named = [key for key in known if RuleName.parse(key).rule == config.rule]
    equal = [key for key in named if known[key] == config.spec]
    same = equal or [key for key in named if known[key].options == config.spec.options]
    return name if not same or name in same else same[0]


def _labelled(recipe: str, found: Sequence[list[RunRecord]]) -> list[Group]:
    """Name each group by its rule, and by what tells it from other groups of that rule."""
    rules = [rule_of(runs[0].config) for runs in found]
    settings = [flat(runs[0].config) | {"fingerprint of the data": runs[0].environment.get("data")} for runs in found]
    special = []
    for rule, mine in zip(rules, settings, strict=True):
        same = [entries for entries, other in zip(settings, rules, strict=True) if other == rule]
        telling = [
            key
            for key, value in mine.items()
            if key not in _FREE and value is not None and any(entries.get(key) != value for entries in same)
        ]
        special.append({key.removeprefix("options."): mine[key] for key in telling})
    labels: list[str] = []
    for digits in range(3, 18):  # as few as tell the groups apart
        texts = [", ".join(f"{key} {brief(value, digits)}" for key, value in one.items()) for one in special]
        labels = [f"{rule} ({text})" if text else rule for rule, text in zip(rules, texts, strict=True)]
        if len(set(labels)) == len(labels):
            break
    published = RECIPES[recipe].published if recipe in RECIPES else {}
    parts = zip(labels, found, map(published.get, rules), strict=True)
    return [Group(label, runs, figure) for label, runs, figure in parts]
