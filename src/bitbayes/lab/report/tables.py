"""One builder for each subject that a table shows; the terminal, Markdown files and the page render what it returns."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bitbayes.lab.continual import AccuracyMatrix
from bitbayes.lab.recipes import DEFAULTS, Recipe
from bitbayes.lab.report.folders import RunRecord, StreamRecord
from bitbayes.lab.report.groups import Group, flat, rule_of
from bitbayes.lab.report.series import METRICS, Curve, metric_of
from bitbayes.lab.train import RunConfig, Summary
from bitbayes.table import Table, brief, number, spread

_TASKS = 10  # columns of a matrix on the terminal: longer streams show their first and their last tasks


# Recipes, one run, a search


def recipes_table(recipes: Iterable[Recipe]) -> Table:
    """Return every experiment on a few lines."""
    rows = []
    for recipe in recipes:
        quick = "" if recipe.quick_epochs in (None, recipe.epochs) else f"\nquick {recipe.quick_epochs}"
        about = [recipe.title, f"source: {recipe.source}", f"rules: {', '.join(recipe.rules)}"]
        if recipe.published:
            figures = ", ".join(f"{rule} {figure}" for rule, figure in recipe.published.items())
            about.append(f"published test accuracy, %: {figures}")
        rows.append([recipe.name, f"{recipe.epochs}{quick}", "\n".join(about)])
    caption = f"Every recipe also has {', '.join(DEFAULTS)}, whose settings need no search."
    return Table("Experiments of bitbayes train", ["recipe", "epochs", "about"], rows, caption, align="lrl")


def summary_table(summary: Summary, folder: Path) -> Table:
    """Return what a run has reached."""
    s, best = summary, f"at epoch {summary.best_epoch}"
    rows = []
    if s.test_accuracy is not None:
        accuracies = (s.test_accuracy, s.sample_test_accuracy, s.mean_test_accuracy)
        rows.append([f"test accuracy, % {best}", *map(number, accuracies)])
    if s.test_error is not None:
        rows.append(["test squared error", number(s.test_error, 4), "", number(s.mean_test_error, 4)])
    if s.test_bits is not None:
        texts = (s.test_bits, s.sample_test_bits, s.mean_test_bits)
        rows.append([f"test bits per byte {best}", *(number(value, 4) for value in texts)])
    if s.test_nll is not None:
        rows.append(["test negative log-likelihood, nats", number(s.test_nll, 4), "", number(s.mean_test_nll, 4)])
    if s.last_test_accuracy is not None and s.best_epoch != s.epochs_done:
        rows.append([f"test accuracy, % at epoch {s.epochs_done}", number(s.last_test_accuracy), "", ""])
    if s.val_accuracy is not None:
        rows.append([f"validation accuracy, % {best}", number(s.val_accuracy), "", ""])
    if s.val_bits is not None:
        rows.append([f"validation bits per byte {best}", number(s.val_bits, 4), "", ""])
    if s.posterior_entropy_bits is not None:
        rows.append(["per-weight entropy, bits", "", "", number(s.posterior_entropy_bits, 4)])
    rows += [
        ["binary weights", number(s.binary_weights, 0), "", ""],
        ["bytes at 32 bits per weight", number(s.bytes_32_bit, 0), "", ""],
        ["bytes at 1 bit per binary weight", number(s.bytes_1_bit, 0), "", ""],
        [f"seconds per epoch ({s.precision})", number(s.seconds_per_epoch), "", ""],
    ]
    estimator = f" ({s.estimator})" if s.estimator else ""
    title = f"{s.recipe}, {s.rule}{estimator}, seed {s.seed}{with_views(s.views)}"
    return Table(title, ["", "mode", "one sample", "mean of samples"], rows, f"files in {folder}")


def with_views(views: str | None) -> str:
    """Return a note on test-time augmentation for a title; empty if there is none."""
    return "" if views is None else f", views {views}"


def tuned_table(recipe: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the trials of a search, best first; `rows` is the content of tune.json."""
    names, metric = list(rows[0]["settings"]), "bits" if "bits" in rows[0] else "accuracy"
    digits, head = {"accuracy": (2, "validation accuracy, %"), "bits": (4, "validation bits per byte")}[metric]
    cells = []
    for row in rows:
        settings = (brief(row["settings"][name]) for name in names)
        cells.append([row["folder"], *settings, number(row[metric], digits, missing="failed")])
    heads, align = ["trial", *names, head], "l" + "r" * (len(names) + 1)
    return Table(
        f"{recipe}: {len(rows)} trials, best first", heads, cells, "trial0 uses the settings of the recipe.", align
    )


# Streams of tasks


def stream_title(summary: Mapping[str, Any]) -> str:
    """Return the stream, the rule, and what is done against forgetting."""
    kept = []
    if summary["prior"]:
        kept.append("prior" if summary["decay"] == 1 else f"prior of decay {brief(summary['decay'])}")
    if summary.get("method", "none") != "none":
        kept.append(summary["method"])
    what = f"with {' and '.join(kept)}" if kept else "without prior"
    return f"{summary['recipe']}, {summary['rule']}, {what}"


def stream_table(summary: Mapping[str, Any]) -> Table:
    """Return accuracy on every task after every task, of both ends of a long stream, from its summary.json."""
    matrix = AccuracyMatrix(summary["matrix"])
    caption = f"Backward transfer {number(matrix.backward_transfer)}, forgetting {number(matrix.forgetting)}"
    if matrix.first_and_last is not None:
        first, last = map(number, matrix.first_and_last)
        caption += f"; mean accuracy on the first five tasks {first}, on the last five {last}"
    count = len(matrix)
    shown = range(count) if count <= _TASKS else [*range(_TASKS // 2), *range(count - _TASKS // 2, count)]
    return _matrix_table(f"{stream_title(summary)}: accuracy in %", matrix, shown, "", caption)


def matrix_table(stream: StreamRecord) -> Table:
    """Return accuracy on every task after every task."""
    title = f"Accuracy in percent: {stream.name}"
    return _matrix_table(title, stream.matrix, range(len(stream.matrix)), "task ")


def _matrix_table(title: str, matrix: AccuracyMatrix, shown: Iterable[int], word: str, caption: str = "") -> Table:
    shown = list(shown)
    heads = ["after task", *(f"{word}{task + 1}" for task in shown), "mean"]
    rows = []
    for after in shown:
        row = matrix.rows[after]
        cells = (number(row[task], 1) if task <= after else "" for task in shown)
        rows.append([str(after + 1), *cells, number(matrix.average[after])])
    return Table(title, heads, rows, caption)


def streams_table(recipe: str, streams: Sequence[StreamRecord]) -> Table:
    """Return the settings, the state and the figures of several streams of a recipe."""
    heads = ["stream", "rule", "prior", "method", "state", "mean accuracy, %", "backward transfer", "forgetting"]
    rows = []
    for stream in streams:
        summary, matrix = stream.summary, stream.matrix
        decay = summary.get("decay")
        prior = "-" if not summary else "yes" if summary.get("prior") else "no"
        prior += f", decay {brief(decay)}" if prior == "yes" and decay != 1 else ""
        figures = (matrix.average[-1], matrix.backward_transfer, matrix.forgetting) if len(matrix) else (None,) * 3
        how = (rule_of(stream.config), prior, str(summary.get("method", "-")), stream.status)
        rows.append([stream.name, *how, *map(number, figures)])
    return Table(f"Streams of {recipe}", heads, rows).without_empty_columns()


# Runs on a page


def runs_table(title: str, runs: Sequence[RunRecord]) -> Table:
    """Return runs and how far they are."""
    heads = ["run", "recipe", "rule", "seed", "state", "latest test accuracy, %", "latest training loss"]
    rows = []
    for run in runs:
        how = (run.name, run.config.recipe, rule_of(run.config), str(run.config.seed), run.status)
        rows.append([*how, number(run.last("test_accuracy")), number(run.last("train_loss"), 4)])
    return Table(title, heads, rows).without_empty_columns()


def speed_table(groups: Sequence[Group]) -> Table:
    """Return seconds, memory and bytes."""
    heads = ["rule", "device", "precision", "seconds per epoch", "peak memory, MiB", "weights", "binary weights"]
    heads += ["bytes at 32 bits per weight", "bytes at 1 bit per binary weight", "compression"]
    rows = []
    for group in groups:
        lasted = [row["seconds"] for run in group.runs for row in run.history if "seconds" in row]
        per_epoch = group.values("seconds_per_epoch") or ([sum(lasted) / len(lasted)] if lasted else [])
        found = map(group.values, ("weights", "binary_weights", "bytes_32_bit", "bytes_1_bit"))
        weights, binary, full, packed = (statistics.mean(values) if values else None for values in found)
        where = [listed(getattr(run.config, name) for run in group.runs) for name in ("device", "precision")]
        seconds = spread(per_epoch, 2 if per_epoch and per_epoch[0] >= 0.1 else 4)
        memory = number(max(group.values("peak_memory_mib"), default=None), 0)
        sizes = (number(weights, 0), number(binary, 0), number(full, 0), number(packed, 0) if binary else "-")
        ratio = f"{full / packed:.1f}×" if full and packed and binary else "-"
        rows.append([group.label, *where, seconds, memory, *sizes, ratio])
    about = (
        "Seconds count training alone, without evaluation. Memory is the peak of the device on a GPU, and the peak of "
        "the process on a CPU. A full-precision network has no binary weights to pack."
    )
    return Table("Speed and size", heads, rows, about).without_empty_columns()


def schedules_table(recipe: str, series: Mapping[str, Sequence[tuple[int, Group]]]) -> Table:
    """Return the figures by the length of the schedule, from `bitbayes.lab.report.series.schedule_series`."""
    metric = metric_of(group for points in series.values() for _, group in points)
    keys, digits = (
        [f"{data}_{metric}" for data in ("train", "val", "test", "mean_test")],
        2 if metric == "accuracy" else 4,
    )
    rows = [
        [label, str(length), str(len(group.values(keys[2]))), *(spread(group.values(key), digits) for key in keys)]
        for label, points in series.items()
        for length, group in points
    ]
    heads = ["rule", "epochs", "seeds", "train", "validation", "test", "mean of samples"]
    about = "Epochs are those of the whole schedule, with the float network that a run begins with."
    title = f"{recipe}: {METRICS[metric]}, by the length of the schedule"
    return Table(title, heads, rows, about).without_empty_columns()


def curve_table(
    title: str, curves: Sequence[Curve], labels: Sequence[str], higher: bool, digits: int, x: str = "epoch"
) -> Table:
    """Return the values of a chart: first, best and last value of every curve.

    Args:
        title: Title of the chart.
        curves: Its curves.
        labels: Names of the groups.
        higher: Whether more is better.
        digits: Digits after the point.
        x: Unit of the horizontal axis.
    """
    choose = max if higher else min
    rows = []
    for curve in curves:
        at, best = choose(curve.points, key=lambda point: point[1])
        cells = (number(value, digits) for value in (curve.values[0], best, curve.values[-1]))
        rows.append([curve.run, labels[curve.group], *cells, f"{at:g}", f"{curve.epochs[-1]:g}"])
    best = "highest" if higher else "lowest"
    heads = ["run", "rule", "first", best, "last", f"{x} of the {best}", f"last {x}"]
    return Table(title, heads, rows)


def weights_table(title: str, weights: Iterable[tuple[str, list[float]]]) -> Table:
    """Return how many weights are decided, from percent in equal parts of P[w = +1] by name."""
    rows = []
    for name, percent in weights:
        edge = len(percent) // 10
        shares = sum(percent[:edge]), sum(percent[4 * edge : 6 * edge]), sum(percent[-edge:])
        rows.append([name, *map(number, shares)])
    return Table(
        title,
        ["posterior", "weights with P < 0.1, %", "weights with P from 0.4 to 0.6, %", "weights with P > 0.9, %"],
        rows,
    )


def configuration_table(title: str, configs: Sequence[RunConfig]) -> Table:
    """Return the settings of runs, a row for each."""
    entries = [flat(config) for config in configs]
    names = dict.fromkeys(name for one in entries for name in one)
    return Table(title, ["setting", "value"], [[name, listed(one.get(name) for one in entries)] for name in names])


def environment_table(runs: Sequence[RunRecord | StreamRecord]) -> Table:
    """Return versions: those that runs have written down, and those that made the page."""
    names = dict.fromkeys(name for run in runs for name in run.environment)
    rows = [[f"runs: {name}", listed(run.environment.get(name) for run in runs if run.environment)] for name in names]
    rows += [[f"page: {name}", _version(name)] for name in ("bitbayes", "torch", "bokeh")]
    rows.append(["page: Python", platform.python_version()])
    return Table("Environment", ["component", "value"], rows)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "-"


def listed(values: Iterable[Any]) -> str:
    """Return the different values in their order, the first few of many.

    Example:
        >>> listed([1, 2, 1])
        '1, 2'
    """
    texts = list(dict.fromkeys(map(str, values)))
    return ", ".join(texts[:6]) + (f", ... ({len(texts)} in all)" if len(texts) > 6 else "")
