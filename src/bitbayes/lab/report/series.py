"""The numbers that charts draw, on a page and in a picture alike: curves, published ranges, points of reliability."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitbayes.lab.report.folders import RunRecord, is_number
from bitbayes.lab.report.groups import Group, rule_of
from bitbayes.lab.train import RunConfig, RunError
from bitbayes.lab.train.records import Spread

METRICS = {"accuracy": "accuracy, %", "bits": "bits per byte", "error": "squared error"}
"""Label of an axis by the metric of predictions, whose figure on test data is `test_METRIC`."""


@dataclass(frozen=True)
class Curve:
    """One quantity of one run by epoch, or by task.

    Args:
        run: Name of the run, or of what else the curve is of.
        group: Number of its group, which has a colour.
        epochs: Horizontal positions of the points.
        values: Vertical positions of the points.
    """

    run: str
    group: int
    epochs: list[float]
    values: list[float]

    @classmethod
    def through(cls, run: str, group: int, points: Sequence[tuple[float, float]]) -> Curve:
        """Return the curve through some points."""
        return cls(run, group, [epoch for epoch, _ in points], [value for _, value in points])

    @property
    def points(self) -> list[tuple[float, float]]:
        """The points, from left to right."""
        return list(zip(self.epochs, self.values, strict=True))

    def thinned(self, count: int) -> Curve:
        """Return about `count` points at most, evenly chosen, the first and the last among them.

        Example:
            >>> curve = Curve("run", 0, [1.0, 2.0, 3.0, 4.0, 5.0], [5.0, 4.0, 3.0, 2.0, 1.0])
            >>> curve.thinned(3).values
            [5.0, 3.0, 1.0]
        """
        last = len(self.epochs) - 1
        if last < count:
            return self
        return Curve.through(self.run, self.group, [self.points[round(last * i / (count - 1))] for i in range(count)])


def metric_curve(run: str, group: int, history: Sequence[Mapping[str, Any]], key: str, scale: float = 1.0) -> Curve:
    """Return one metric of a run, at the epochs that have it; `history` is the content of metrics.jsonl."""
    return Curve.through(run, group, [(row["epoch"], scale * row[key]) for row in history if row.get(key) is not None])


def group_curves(groups: Sequence[Group], key: str, scale: float = 1.0) -> list[Curve]:
    """Return one metric of all runs that have it."""
    found = (metric_curve(run.name, i, run.history, key, scale) for i, group in enumerate(groups) for run in group.runs)
    return [curve for curve in found if curve.epochs]


def mean_curve(runs: Sequence[Curve]) -> Curve:
    """Return the mean of several runs of a group, at the epochs that all have; the first run if they share no epoch.

    Example:
        >>> mean_curve([Curve("a", 0, [1.0, 2.0], [4.0, 6.0]), Curve("b", 0, [1.0], [8.0])]).values
        [6.0]
    """
    every = [dict(run.points) for run in runs]
    shared = [epoch for epoch in runs[0].epochs if all(epoch in values for values in every)]
    points = [(epoch, sum(values[epoch] for values in every) / len(every)) for epoch in shared]
    return Curve.through(f"mean of {len(runs)}", runs[0].group, points) if points else runs[0]


def metric_of(groups: Iterable[Group]) -> str:
    """Return the metric that finished runs have on test data; that of classes if no run is finished."""
    groups = list(groups)
    return next((metric for metric in METRICS if any(group.values(f"test_{metric}") for group in groups)), "accuracy")


def schedule_series(groups: Sequence[Group]) -> dict[str, list[tuple[int, Group]]]:
    """Return the groups that have a test figure at the end of their schedule, with its length, shortest first.

    Lengths are in epochs. There is one series for each rule, and for each length of the float network that its runs
    begin with. The epochs of that network count towards the length.

    Raises:
        RunError: If a run begins with the network of a run that cannot be read.
        ValueError: If no run is finished and has a test figure, or several settings have the same length.
    """
    found: dict[str, dict[int, Group]] = {}
    figure = f"test_{metric_of(groups)}"
    for group in groups:
        config = group.runs[0].config
        if not group.values(figure) or config.last_epoch < config.epochs:
            continue
        runs: dict[int, list[RunRecord]] = {}
        for run in group.runs:  # the float networks of a group may differ
            runs.setdefault(float_epochs(run.config), []).append(run)
        for before, same in runs.items():
            label = rule_of(config) + (f", after {before} float epochs" if before else "")
            lengths, length = found.setdefault(label, {}), before + config.epochs
            if length in lengths:
                raise ValueError(
                    f"{label} has several settings for {length} epochs; give runs that differ in nothing else"
                )
            lengths[length] = dataclasses.replace(group, runs=same)
    if not found:
        raise ValueError("schedules are compared by their figures on test data, and no run is finished and has one")
    return {label: sorted(lengths.items()) for label, lengths in found.items()}


def schedule_rows(series: Mapping[str, Sequence[tuple[int, Group]]]) -> list[dict[str, Any]]:
    """Return the points of `schedule_series` with their figures over seeds, as schedules.json has them.

    `epochs` is the length of the whole schedule, of which the first `float_epochs` are those of a float network.
    """
    metric = metric_of(group for points in series.values() for _, group in points)
    figures = {"train": "train", "validation": "val", "test": "test", "mean_test": "mean_test"}
    rows = []
    for length, group in itertools.chain.from_iterable(series.values()):
        config = group.runs[0].config
        values = {name: group.values(f"{data}_{metric}") for name, data in figures.items()}
        rows.append(
            {"rule": rule_of(config), "float_epochs": float_epochs(config), "epochs": length}
            | {name: vars(Spread.of(each)) for name, each in values.items() if each}
        )
    return rows


def float_epochs(config: RunConfig) -> int:
    """Return the number of epochs of the float network that a run begins with, 0 if there is none.

    Raises:
        RunError: If the run of that network cannot be read.
    """
    if config.pretrain_epochs or not config.pretrained:
        return config.pretrain_epochs
    try:
        return RunConfig.load(config.pretrained).epochs
    except ValueError as error:
        raise RunError(f"the length of the schedule is unknown: {error}") from error


def task_curves(rows: Sequence[Sequence[float]]) -> list[Curve]:
    """Return the accuracy on every task of a stream from where the task began, by epoch of all tasks or by task.

    Args:
        rows: Accuracies on the tasks so far, after every epoch or after every task.
    """
    return [
        Curve.through(f"task {i + 1}", i, [(float(at), row[i]) for at, row in enumerate(rows, 1) if len(row) > i])
        for i in range(max(map(len, rows), default=0))
    ]


@dataclass(frozen=True)
class PublishedCurves:
    """Lowest, mean and highest value of several published runs, by epoch from 1."""

    low: list[float]
    mean: list[float]
    high: list[float]
    runs: int

    def until(self, longest: float) -> PublishedCurves:
        """Return the part that is shown beside our curves: as long as the longest of them, or 10 epochs."""
        stop = max(int(longest), 10)
        return dataclasses.replace(self, low=self.low[:stop], mean=self.mean[:stop], high=self.high[:stop])


class NoCurvesError(ValueError):
    """A file has no published curves of a data set."""


def published_curves(path: str | Path, dataset: str) -> dict[str, PublishedCurves]:
    """Read the published curves of one data set.

    Args:
        path: JSON file {"curves": {dataset: [{"train": [...], "val": [...], "test": [...]}, ...]}}.
        dataset: Name of the data set.

    Returns:
        The ranges by column: "train", "val" and "test".

    Raises:
        NoCurvesError: If the file cannot be read, or has no curves of that name.
        ValueError: If they are no lists of numbers of one length.
    """
    try:
        runs = json.loads(Path(path).read_text(encoding="utf-8"))["curves"][dataset]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NoCurvesError(f"{path} has no published curves of {dataset}: {error}") from error
    columns = ("train", "val", "test")
    try:
        return {column: _range([run[column] for run in runs]) for column in columns if column in runs[0]}
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{path} has damaged curves of {dataset}: {error}") from error


def _range(runs: Sequence[Sequence[float]]) -> PublishedCurves:
    epochs = [[float(value) for value in values] for values in zip(*runs, strict=True)]
    means = [sum(values) / len(values) for values in epochs]
    return PublishedCurves([min(values) for values in epochs], means, [max(values) for values in epochs], len(runs))


@dataclass(frozen=True)
class ReliabilityPoints:
    """The points of a reliability diagram.

    Args:
        run: Name of the run.
        group: Number of its group.
        bins: "mass" (equally many examples each) or "width" (equal parts of [0, 1]).
        kind: "mode" or "mean".
        confidence: Mean probability of the predicted class, bin by bin.
        accuracy: Share that is right, bin by bin.
        share: Share of all examples, bin by bin.
    """

    run: str
    group: int
    bins: str
    kind: str
    confidence: list[float]
    accuracy: list[float]
    share: list[float]


def reliability_points(groups: Sequence[Group]) -> list[ReliabilityPoints]:
    """Return what evaluation.json has for every run, prediction and kind of bins; older evaluations have none."""
    found = []
    for index, group in enumerate(groups):
        for run in group.runs:
            for kind, bins in itertools.product(("mode", "mean"), ("width", "mass")):
                try:
                    points = run.evaluation["reliability"][kind][bins]
                    lists = [points[key] for key in ("confidence", "accuracy", "share")]
                except (KeyError, TypeError):
                    continue
                numbers = all(isinstance(one, list) and all(map(is_number, one)) for one in lists)
                if numbers and len({len(one) for one in lists}) == 1:
                    lists = [[float(value) for value in one] for one in lists]  # charts have no large integers
                    found.append(ReliabilityPoints(run.name, index, bins, kind, *lists))
    return found
