"""The sections of the page, in the order in which it shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bitbayes.lab.recipes import RECIPES
from bitbayes.lab.report import results, series, tables, trust
from bitbayes.lab.report.folders import Folders, RunRecord, StreamRecord
from bitbayes.lab.report.groups import Group, ensembles_of, grouped
from bitbayes.lab.report.page import charts
from bitbayes.lab.report.series import Curve, NoCurvesError, PublishedCurves
from bitbayes.table import Table


@dataclass(frozen=True)
class Chart:
    """A chart, as a figure of bokeh with a title above and a sentence below, and the same in numbers."""

    title: str
    about: str
    figure: Any
    table: Table


@dataclass(frozen=True)
class Sign:
    """One entry of a legend.

    Args:
        label: Name of the group in the legend.
        tag: Tag of the lines that the entry shows and hides; empty for lines that stay.
        colour: Colour of the lines.
        marker: Marker of their points; empty for a dashed line without.
    """

    label: str
    tag: str
    colour: str
    marker: str


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Args:
        title: Its heading.
        about: A sentence or two.
        legend: The legend of all its charts.
        charts: Charts, side by side where there is room.
        tables: Tables below the charts.
        folded: Tables that open on demand, by their title.
    """

    title: str
    about: str = ""
    legend: list[Sign] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    folded: list[Table] = field(default_factory=list)


@dataclass(frozen=True)
class _Metric:
    """A metric that has a chart.

    An accuracy names its column of published curves; more is better. A `share` is shown in percent, on a logarithmic
    axis.
    """

    key: str
    title: str
    y: str
    about: str
    digits: int = 4
    published: str = ""
    share: bool = False


_METRICS = (
    _Metric(
        *("test_accuracy", "Test accuracy", "accuracy, %"),
        *("The chart shows the accuracy of the mode on the test data.", 2, "test"),
    ),
    _Metric(
        *("val_accuracy", "Validation accuracy", "accuracy, %"),
        *("The chart shows the accuracy of the mode on the validation data.", 2, "val"),
    ),
    _Metric(
        *("train_accuracy", "Training accuracy", "accuracy, %"),
        *("The chart shows the mean over the epoch, measured on the weights that each step trained.", 2, "train"),
    ),
    _Metric(
        *("train_loss", "Training loss", "loss"),
        "The chart shows the mean over the epoch, measured on the weights that each step trained.",
    ),
    _Metric(
        *("test_nll", "Test negative log-likelihood", "NLL, nats"),
        "The chart shows the mean negative log-likelihood of the mode on the test data.",
    ),
    _Metric(
        *("test_error", "Test squared error", "squared error"),
        "The chart shows the mean squared error of the mode on the test data.",
    ),
    _Metric(
        *("val_bits", "Validation bits per byte", "bits per byte"),
        "The chart shows the mean negative log-likelihood of the mode on the validation data, in bits per byte.",
    ),
    _Metric(
        *("test_bits", "Test bits per byte", "bits per byte"),
        "The chart shows the mean negative log-likelihood of the mode on the test data, in bits per byte.",
    ),
    _Metric(
        *("flips", "Sign flips between evaluations", "share of weights, %"),
        "The chart shows how many weights of the mode have another sign than at the previous evaluation. The axis is "
        "logarithmic, so a share of zero is not drawn.",
        digits=3,
        share=True,
    ),
    _Metric(
        *("step_flips", "Sign flip rate of one step", "share of weights, %"),
        "The chart shows how many weights of the mode changed sign in the last step before the evaluation. The axis is "
        "logarithmic, so a share of zero is not drawn.",
        share=True,
    ),
)
_BINS = {
    "mass": "Every point stands for the same number of examples.",
    "width": "All bins have the same width, so a point may stand for few examples; the table gives the share of each.",
}
_DIAGONAL = (
    "On the diagonal, confidence equals accuracy. Solid lines are the mean of posterior samples, dotted lines the mode."
)
_LINES = "Thin lines are single runs. A thick line with markers is the mean of the runs that differ only in their seed."
_FEW = 8  # runs that are listed at once
_MAPS = 6  # groups whose beliefs are shown over time
_POINTS = 200_000  # of all curves of the page together; each takes 11 bytes


def make_sections(folders: Folders, published: str | Path | None = None) -> list[Section]:
    """Return the results, the overview, a part for each recipe or stream with its charts, and the configuration.

    Args:
        folders: Records of the folders.
        published: JSON file of published curves, see `bitbayes.lab.report.series.published_curves`.

    Raises:
        ValueError: If the file has no curves of any recipe here.
    """
    recipes = grouped(folders.runs)
    known = _published(published, list(recipes)) if published is not None and recipes else {}
    points = _POINTS // max(1, len(_METRICS) * len(recipes) + 2 * len(folders.streams))
    streams: dict[str, list[StreamRecord]] = {}
    for stream in folders.streams:
        streams.setdefault(str(stream.config.recipe), []).append(stream)
    sections = [found for found in (_results(recipes, streams, folders),) if found.tables]
    sections += [_overview(folders.runs)] if folders.runs else []
    for index, (recipe, groups) in enumerate(recipes.items()):
        ensembles = ensembles_of(groups, folders.ensembles)
        sections.append(_recipe(recipe, groups, ensembles, known.get(recipe, {}), f"r{index}-", points))
    for index, (recipe, found) in enumerate(streams.items()):
        sections.append(_streams(recipe, found, f"s{index}-", points))
    folded = [
        tables.configuration_table(f"{recipe}: {group.label}", [run.config for run in group.runs])
        for recipe, groups in recipes.items()
        for group in groups
    ]
    folded += [tables.configuration_table(f"{s.name}: every task", [s.config]) for s in folders.streams]
    folded.append(tables.environment_table([*folders.runs, *folders.streams]))
    about = (
        "Each table lists the settings of one group of runs (config.json). The last table lists the software and "
        "hardware that the runs used (environment.json). Where runs differ, all values are listed."
    )
    sections.append(Section("Configuration and environment", about, folded=folded))
    return sections


def _published(path: str | Path, recipes: Sequence[str]) -> dict[str, dict[str, PublishedCurves]]:
    """By recipe and column; a file that has none of the recipes is an error."""
    found: dict[str, dict[str, PublishedCurves]] = {}
    for recipe in recipes:
        try:
            found[recipe] = series.published_curves(path, recipe)
        except NoCurvesError:
            if recipe == recipes[-1] and not found:
                raise
    return found


def _results(
    recipes: Mapping[str, Sequence[Group]], streams: Mapping[str, Sequence[StreamRecord]], folders: Folders
) -> Section:
    """What everything has reached, above all charts: on a phone, those of one recipe are many screens high."""
    shown = [results.group_results_table(recipe, groups) for recipe, groups in recipes.items()]
    shown += [tables.streams_table(recipe, found) for recipe, found in streams.items()]
    shown += [trust.all_trust_table(found.name, found.rows) for found in folders.trust]
    return Section("Results", tables=[table for table in shown if table.rows])


def _overview(runs: Sequence[RunRecord]) -> Section:
    """A few runs, or those that are not finished; the many on demand."""
    if len(runs) <= _FEW:
        return Section("Runs", tables=[tables.runs_table("All runs", runs)])
    unfinished = [run for run in runs if run.state != "finished"]
    shown = [tables.runs_table("Unfinished runs", unfinished)] if unfinished else []
    return Section("Runs", tables=shown, folded=[tables.runs_table(f"All {len(runs)} runs", runs)])


def _recipe(
    name: str,
    groups: Sequence[Group],
    ensembles: Sequence[Group],
    published: dict[str, PublishedCurves],
    of: str,
    points: int,
) -> Section:
    labels = [group.label for group in groups]
    recipe = RECIPES.get(name)
    shown = []
    for metric in _METRICS:
        found = series.group_curves(groups, metric.key, 100.0 if metric.share else 1.0)
        if not found or (metric.share and not any(any(curve.values) for curve in found)):
            continue  # a logarithmic axis shows no zeros
        theirs, about = published.get(metric.published), metric.about
        if theirs is not None:
            about += f" The grey line and band are the mean and range of {theirs.runs} published runs."
        figure = charts.curve_chart(found, y=metric.y, log=metric.share, published=theirs, of=of, points=points)
        table = tables.curve_table(metric.title, found, labels, bool(metric.published), metric.digits)
        shown.append(Chart(metric.title, about, figure, table))
    legend = [
        Sign(f"{group.label} ({_counted(group.runs)})", f"{of}{index}", *charts.mark(index))
        for index, group in enumerate(groups)
    ]
    if published:
        legend.append(Sign("published", "", charts.GREY, ""))
    evaluated = [*groups, *ensembles]
    below = (trust.calibration_table(evaluated), trust.unlike_table(evaluated), tables.speed_table(groups))
    return Section(
        f"Recipe {name}",
        f"{recipe.title}. {_LINES}" if recipe else _LINES,
        legend,
        [*shown, *_beliefs(groups, of), *_reliability(groups, of)],
        [table for table in below if table.rows],
    )


def _counted(runs: Sequence[RunRecord]) -> str:
    return f"{len(runs)} run{'' if len(runs) == 1 else 's'}"


def _beliefs(groups: Sequence[Group], of: str) -> list[Chart]:
    """Return charts of how sure the posteriors are."""
    found = []
    weights = [(run.name, i, run.weights) for i, group in enumerate(groups) for run in group.runs if run.weights]
    if weights:
        about = (
            "The chart shows how the weights are distributed over P[weight = +1] in the posterior of the best epoch. "
            "The axis is logarithmic. The sign of a weight is certain at 0 and 1, and undecided at ½."
        )
        found.append(_weights("Weight probabilities", about, weights, of))
    way = [next((run for run in group.runs if len(run.beliefs) > 1), None) for group in groups]
    for run in [run for run in way if run is not None][:_MAPS]:
        title = f"Weight probabilities by epoch: {run.name}"
        about = (
            "Colours show the share of the weights at each epoch and each P[weight = +1], in percent and on a "
            "logarithmic scale. Only the first run of each group has this chart."
        )
        few = [run.beliefs[i] for i in sorted({0, len(run.beliefs) // 4, len(run.beliefs) // 2, len(run.beliefs) - 1})]
        table = tables.weights_table(title, [(f"after epoch {epoch:g}", shares) for epoch, shares in few])
        found.append(Chart(title, about, charts.belief_map(run.beliefs), table))
    return found


def _weights(title: str, about: str, weights: Sequence[tuple[str, int, list[float]]], of: str = "") -> Chart:
    table = tables.weights_table(title, [(name, percent) for name, _, percent in weights])
    return Chart(title, about, charts.histogram_chart(weights, of), table)


def _reliability(groups: Sequence[Group], of: str) -> list[Chart]:
    """Return charts of how far the probabilities can be trusted."""
    points, found = series.reliability_points(groups), []
    for name, sentence in _BINS.items():
        if bins := [one for one in points if one.bins == name]:
            title = f"Reliability diagram, bins of equal {name}"
            about = f"{sentence} {_DIAGONAL}"
            found.append(Chart(title, about, charts.bins_chart(bins, of), trust.reliability_table(title, bins)))
    return found


def _streams(recipe: str, streams: Sequence[StreamRecord], of: str, points: int) -> Section:
    """The streams of one recipe, finished or not."""
    shown: list[Chart] = []
    means = [
        Curve.through(stream.name, index, [(float(i), mean) for i, mean in enumerate(stream.matrix.average, 1)])
        for index, stream in enumerate(streams)
        if len(stream.matrix)
    ]
    if means:
        title = "Mean accuracy over the tasks so far"
        figure = charts.curve_chart(means, x="tasks learned", y="accuracy, %", of=of, points=points)
        table = tables.curve_table(title, means, [stream.name for stream in streams], True, 2, x="task")
        about = "Each line is one stream. It shows the mean test accuracy over all tasks learned so far."
        shown.append(Chart(title, about, figure, table))
    for stream in streams:
        shown += _stream(stream, points)
    legend = [Sign(stream.name, f"{of}{index}", *charts.mark(index)) for index, stream in enumerate(streams)]
    about = (
        "A stream is a sequence of tasks that one network learns. The charts show how much of the earlier tasks it "
        "still knows after each later task."
    )
    return Section(f"Streams of {recipe}", about, legend, shown)


def _stream(stream: StreamRecord, points: int) -> list[Chart]:
    """The charts of one stream; their lines are tasks."""
    found = []
    if len(stream.matrix):
        about = (
            "Each cell shows the accuracy, in percent, on the task of its column after training on the task of its row."
        )
        figure = charts.matrix_map(stream.matrix.rows)
        found.append(Chart(f"Accuracy matrix: {stream.name}", about, figure, tables.matrix_table(stream)))
    if stream.curves:
        title = f"Accuracy during training: {stream.name}"
        curves = series.task_curves(stream.curves)
        figure = charts.curve_chart(curves, x="epoch, counted over all tasks", y="accuracy, %", points=points)
        table = tables.curve_table(title, curves, [curve.run for curve in curves], True, 2)
        about = "Each line is the test accuracy on one task. It begins where training on the task began."
        found.append(Chart(title, about, figure, table))
    if stream.weights:
        about = (
            "Each line shows the distribution of the weights over P[weight = +1] after one task, on a logarithmic axis."
        )
        weights = [(f"after task {i + 1}", i, percent) for i, percent in enumerate(stream.weights)]
        found.append(_weights(f"Weight probabilities: {stream.name}", about, weights))
    return found
