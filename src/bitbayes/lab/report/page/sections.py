"""What the page shows, and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bitbayes.lab.recipes import RECIPES
from bitbayes.lab.report.figures import published_curves
from bitbayes.lab.report.page import charts, heat, tables
from bitbayes.lab.report.page.calibration import calibration_table, reliability_bins, trust_table
from bitbayes.lab.report.page.groups import Group, curves, grouped
from bitbayes.lab.report.page.parts import Chart, Section, Sign, Table
from bitbayes.lab.report.page.records import Folders, Run, Stream
from bitbayes.lab.report.page.streams import streams_section

__all__ = ["make_sections"]


# Metric, title, axis, factor, whether more is better, logarithmic axis, digits, sentence.
_METRICS = (
    ("test_accuracy", "Test accuracy", "percent", 1.0, True, False, 2, "Of the mode."),
    ("val_accuracy", "Validation accuracy", "percent", 1.0, True, False, 2, "Of the mode."),
    ("train_accuracy", "Training accuracy", "percent", 1.0, True, False, 2, "Of the draws that were trained on."),
    ("train_loss", "Training loss", "loss", 1.0, False, False, 4, "Mean over the epoch, of the draws."),
    ("test_nll", "Test negative log-likelihood", "nats", 1.0, False, False, 4, "Of the mode."),
    ("test_error", "Test squared error", "squared error", 1.0, False, False, 4, "Of the mode."),
    (
        "flips",
        "Flips",
        "percent of weights",
        100.0,
        False,
        True,
        3,
        "Weights of the mode whose sign differs from the evaluation before, on a logarithmic axis; zero is not drawn.",
    ),
    (
        "step_flips",
        "Flips in one step",
        "percent of weights",
        100.0,
        False,
        True,
        4,
        "Weights of the mode that the last step before the evaluation has turned; logarithmic axis, zero is not drawn.",
    ),
)
_BINS = {
    "mass": "Every point stands for as many examples as any other.",
    "width": "Equal parts of the axis; a point may stand for few examples, the numbers below say for how many.",
}
_FEW = 8  # runs that are listed at once
_MAPS = 6  # groups whose beliefs are shown over time
_POINTS = 200_000  # of all curves of the page together; each takes 11 bytes
_PUBLISHED = {"test_accuracy": "test", "val_accuracy": "val", "train_accuracy": "train"}


def make_sections(folders: Folders, published: str | Path | None = None) -> list[Section]:
    """The parts of the page.

    Args:
        folders: What was read.
        published: JSON file of published curves, see `bitbayes.lab.report.figures.published_curves`.

    Returns:
        The overview, a part for each recipe, a part for each recipe of streams, and the configuration.

    Raises:
        ValueError: If the file has no curves of any recipe here.
    """
    recipes = grouped(folders.runs)
    known = _published(published, list(recipes)) if published is not None and recipes else {}
    points = _POINTS // max(1, len(_METRICS) * len(recipes) + 2 * len(folders.streams))
    sections = []
    if folders.runs:
        sections.append(_overview(folders.runs))
    for index, (recipe, groups) in enumerate(recipes.items()):
        sections.append(_recipe(recipe, groups, known.get(recipe), f"r{index}-", points))
    streams: dict[str, list[Stream]] = {}
    for stream in folders.streams:
        streams.setdefault(str(stream.config.recipe), []).append(stream)
    for index, (recipe, found) in enumerate(streams.items()):
        sections.append(streams_section(recipe, found, f"s{index}-", points))
    if folders.trust:
        sections.append(Section("Trust", tables=[trust_table(trust) for trust in folders.trust]))
    folded = [
        tables.configuration_table(f"{recipe}: {group.label}", [run.config for run in group.runs])
        for recipe, groups in recipes.items()
        for group in groups
    ]
    folded += [tables.configuration_table(f"{s.name}: every task", [s.config]) for s in folders.streams]
    folded.append(tables.environment_table([*folders.runs, *folders.streams]))
    about = (
        "The record of every group of runs (config.json), and what they ran on (environment.json); entries that differ "
        "between runs are listed."
    )
    sections.append(Section("Configuration and environment", about, folded=folded))
    return sections


def _overview(runs: Sequence[Run]) -> Section:
    """A few runs, or those that are not finished; the many on demand."""
    if len(runs) <= _FEW:
        return Section("Runs", tables=[tables.runs_table("All runs", runs)])
    unfinished = [run for run in runs if run.state != "finished"]
    shown = [tables.runs_table("Not finished", unfinished)] if unfinished else []
    return Section("Runs", tables=shown, folded=[tables.runs_table(f"All {len(runs)} runs", runs)])


def _published(path: str | Path, recipes: Sequence[str]) -> dict[str, dict[str, charts.Published]]:
    """By recipe and column; a file that has none of the recipes is an error."""
    found: dict[str, dict[str, charts.Published]] = {}
    failure: ValueError | None = None
    for recipe in recipes:
        try:
            runs = published_curves(path, recipe)
        except ValueError as error:
            failure = error
            continue
        try:
            found[recipe] = {column: _range([run[column] for run in runs]) for column in ("train", "val", "test")}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} has damaged curves of {recipe}: {error}") from error
    if not found and failure is not None:
        raise failure
    return found


def _range(runs: Sequence[Sequence[float]]) -> charts.Published:
    epochs = [[float(value) for value in values] for values in zip(*runs, strict=True)]
    means = [sum(values) / len(values) for values in epochs]
    return charts.Published([min(values) for values in epochs], means, [max(values) for values in epochs], len(runs))


def _recipe(
    name: str, groups: Sequence[Group], published: dict[str, charts.Published] | None, of: str, points: int
) -> Section:
    labels = [group.label for group in groups]
    recipe = RECIPES.get(name)
    shown = []
    for key, title, y, scale, higher, log, digits, about in _METRICS:
        if not (found := curves(groups, key, scale)):
            continue
        theirs = (published or {}).get(_PUBLISHED.get(key, ""))
        if theirs is not None:
            about += f" Grey: {theirs.runs} published runs, their mean and range."
        figure = charts.curve_chart(found, y=y, log=log, published=theirs, of=of, points=points)
        shown.append(Chart(title, about, figure, tables.curve_table(title, found, labels, higher, digits)))
    shown += _beliefs(groups, of)
    legend = [
        Sign(f"{group.label} ({len(group.runs)})", f"{of}{index}", *charts.mark(index))
        for index, group in enumerate(groups)
    ]
    if published:
        legend.append(Sign("published", "", charts.GREY, ""))
    below = [tables.results_table(name, groups), calibration_table(groups), tables.speed_table(groups)]
    return Section(
        f"Recipe {name}",
        f"{recipe.title}. Thin lines are runs, a thick one with markers is their mean." if recipe else "",
        legend,
        shown,
        [table for table in below if table.rows],
    )


def _beliefs(groups: Sequence[Group], of: str) -> list[Chart]:
    """How sure the posteriors are, and whether rightly."""
    found = []
    weights = [(run.name, i, run.weights) for i, group in enumerate(groups) for run in group.runs if run.weights]
    if weights:
        about = (
            "How the posterior of the best epoch is spread over P[weight = +1]; logarithmic axis. "
            "A weight at 0 or 1 is decided, one at ½ is not."
        )
        figure = charts.histogram_chart(weights, of)
        table = tables.weights_table("Weight probabilities", [(name, percent) for name, _, percent in weights])
        found.append(Chart("Weight probabilities", about, figure, table))
    way = [next((run for run in group.runs if len(run.beliefs) > 1), None) for group in groups]
    for run in [run for run in way if run is not None][:_MAPS]:
        title = f"Weight probabilities over time: {run.name}"
        about = (
            "Percent of the weights by epoch (across) and P[weight = +1] (up); colours are logarithmic. Of the first "
            "run of each group."
        )
        few = [run.beliefs[i] for i in sorted({0, len(run.beliefs) // 4, len(run.beliefs) // 2, len(run.beliefs) - 1})]
        table = tables.weights_table(title, [(f"after epoch {epoch:g}", shares) for epoch, shares in few])
        found.append(Chart(title, about, heat.belief_map(run.beliefs), table))
    points = reliability_bins(groups)
    for name, sentence in _BINS.items():
        if bins := [one for one in points if one.bins == name]:
            title = f"Reliability, bins of equal {name}"
            rows = [
                [one.run, one.kind, *(f"{value:.3f}" for value in values)]
                for one in bins
                for values in zip(one.confidence, one.accuracy, one.share, strict=True)
            ]
            heads = ["run", "prediction", "confidence", "accuracy", "share of examples"]
            about = f"{sentence} On the diagonal, confidence is accuracy. Solid: mean of samples; dotted: mode."
            found.append(Chart(title, about, charts.bins_chart(bins, of), Table(title, heads, rows)))
    return found
