"""The tables of the page, as texts."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from bitbayes.lab.recipes import RECIPES
from bitbayes.lab.report.page.groups import Curve, Group, flat
from bitbayes.lab.report.page.parts import Table
from bitbayes.lab.report.page.records import Run, Stream
from bitbayes.lab.report.tables import mean_std, number, spread
from bitbayes.lab.train import RunConfig

__all__ = [
    "configuration_table",
    "curve_table",
    "environment_table",
    "listed",
    "results_table",
    "runs_table",
    "speed_table",
    "weights_table",
]


_CHOSEN = {"validation": "validation", "test": "test (VISPA's paper)"}
_KEYS = {"test": "test_accuracy", "validation": "val_accuracy", "train": "train_accuracy"}


def runs_table(title: str, runs: Sequence[Run]) -> Table:
    """Runs and how far they are.

    Args:
        title: Above it.
        runs: Any of them.

    Returns:
        The table.
    """
    heads = ["run", "recipe", "rule", "seed", "state", "newest test accuracy, %", "newest training loss"]
    rows = []
    for run in runs:
        rule = f"{run.config.rule}:{run.config.estimator}" if run.config.estimator else str(run.config.rule)
        newest = number(run.last("test_accuracy")), number(run.last("train_loss"), 4)
        rows.append([run.name, str(run.config.recipe), rule, str(run.config.seed), run.status, *newest])
    return Table.of(title, heads, rows)


def results_table(recipe: str, groups: Sequence[Group]) -> Table:
    """Ours beside published.

    Args:
        recipe: Name of the recipe.
        groups: Its runs.

    Returns:
        The table; runs that are not finished are left out.
    """
    heads = ["rule", "test", "published", "runs", "epochs", "best epoch by"]
    for column in ("validation", "train"):
        heads += [column, f"published {column}"]
    heads += ["one sample", "mean of samples", "NLL", "NLL of the mean", "error", "error of the mean", "bits a weight"]
    rows = []
    for group in groups:
        config, published = group.runs[0].config, group.published
        finished = sum(run.state == "finished" for run in group.runs)
        if not finished:
            continue
        epochs = str(config.epochs) if config.last_epoch == config.epochs else f"{config.last_epoch} of {config.epochs}"
        row = [group.label, spread(group.values(_KEYS["test"])), "-" if published is None else str(published)]
        row += [str(finished), epochs, _CHOSEN[config.protocol]]
        for column in ("validation", "train"):
            row += [spread(group.values(_KEYS[column])), number(getattr(published, column, None))]
        row += [spread(group.values(f"{kind}_test_accuracy")) for kind in ("sample", "mean")]
        row += [spread(group.values(f"{kind}test_{what}"), 3) for what in ("nll", "error") for kind in ("", "mean_")]
        rows.append([*row, spread(group.values("posterior_entropy_bits"), 3)])
    about = (
        "Ours: mean ± sample standard deviation over runs, accuracies in percent, of the mode at the best epoch; the "
        "column says which data chose that epoch. Runs that are not finished are left out."
    )
    known = RECIPES.get(recipe)
    title = "Results"
    if known is not None and any(group.published for group in groups):
        title = "Ours beside published"
        about += f" Published: {known.source}, {known.epochs} epochs, mean ± std as printed."
    return Table.of(title, heads, rows, about)


def speed_table(groups: Sequence[Group]) -> Table:
    """Seconds, memory and bytes.

    Args:
        groups: Runs of one recipe.

    Returns:
        The table.
    """
    heads = ["rule", "device", "precision", "seconds an epoch", "peak memory, MiB", "weights", "binary weights"]
    heads += ["bytes at 32 bits", "bytes at 1 bit", "ratio"]
    rows = []
    for group in groups:
        seconds = [row["seconds"] for run in group.runs for row in run.history if "seconds" in row]
        full, packed = (mean_std(group.values(key))[0] for key in ("bytes_32_bit", "bytes_1_bit"))
        binary = mean_std(group.values("binary_weights"))[0]
        ratio = f"{full / packed:.1f}" if full and packed and binary else "-"
        per_epoch = group.values("seconds_per_epoch") or ([sum(seconds) / len(seconds)] if seconds else [])
        rows.append(
            [
                group.label,
                listed(run.config.device for run in group.runs),
                listed(run.config.precision for run in group.runs),
                spread(per_epoch, 2 if per_epoch and per_epoch[0] >= 0.1 else 4),
                number(max(group.values("peak_memory_mib"), default=None), 0),
                number(mean_std(group.values("weights"))[0], 0),
                number(binary, 0),
                number(full, 0),
                number(packed, 0) if binary else "-",
                ratio,
            ]
        )
    about = (
        "Seconds are of training alone, without evaluation; memory is the peak of the device on a GPU, else of the "
        "process. A real network has no bits to pack."
    )
    return Table.of("Speed and size", heads, rows, about)


def curve_table(title: str, found: Sequence[Curve], labels: Sequence[str], higher: bool, digits: int) -> Table:
    """A chart in numbers.

    Args:
        title: Of the chart.
        found: Its curves.
        labels: Of the groups.
        higher: Whether more is better.
        digits: After the point.

    Returns:
        First, best and last value of every curve.
    """
    choose = max if higher else min
    rows = []
    for curve in found:
        best = choose(range(len(curve.values)), key=curve.values.__getitem__)
        cells = (number(curve.values[i], digits) for i in (0, best, -1))
        rows.append([curve.run, labels[curve.group], *cells, f"{curve.epochs[best]:g}", f"{curve.epochs[-1]:g}"])
    heads = ["run", "rule", "first", "highest" if higher else "lowest", "last", "at epoch", "epochs so far"]
    return Table(title, heads, rows)


def weights_table(title: str, weights: Sequence[tuple[str, list[float]]]) -> Table:
    """How many weights are decided.

    Args:
        title: Above it.
        weights: Name, and percent in equal bins of P[w = +1].

    Returns:
        The table.
    """
    rows = []
    for name, percent in weights:
        edge = len(percent) // 10
        low, high, middle = sum(percent[:edge]), sum(percent[-edge:]), sum(percent[4 * edge : 6 * edge])
        rows.append([name, *(number(value) for value in (low, middle, high))])
    return Table(title, ["posterior", "P below 0.1, %", "P from 0.4 to 0.6, %", "P above 0.9, %"], rows)


def configuration_table(title: str, configs: Sequence[RunConfig]) -> Table:
    """Records of runs, one line an entry.

    Args:
        title: Above it.
        configs: The records.

    Returns:
        The table.
    """
    entries = [flat(config) for config in configs]
    names = dict.fromkeys(name for one in entries for name in one)
    return Table(title, ["setting", "value"], [[name, listed(one.get(name) for one in entries)] for name in names])


def environment_table(runs: Sequence[Run | Stream]) -> Table:
    """Versions: those that runs have written down, and those that made the page.

    Args:
        runs: All runs, and all streams.

    Returns:
        The table.
    """
    names = dict.fromkeys(name for run in runs for name in run.environment)
    rows = [[f"runs: {name}", listed(run.environment.get(name) for run in runs if run.environment)] for name in names]
    rows += [[f"page: {name}", _version(name)] for name in ("bitbayes", "torch", "bokeh")]
    rows.append(["page: Python", platform.python_version()])
    return Table("Environment", ["what", "version"], rows)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "-"


def listed(values: Iterable[Any]) -> str:
    """Different values in their order, the first few of many.

    Args:
        values: Of several runs.

    Returns:
        A text.

    Example:
        >>> listed([1, 2, 1])
        '1, 2'
    """
    texts = list(dict.fromkeys(str(value) for value in values))
    return ", ".join(texts[:6]) + (f", ... ({len(texts)} in all)" if len(texts) > 6 else "")
