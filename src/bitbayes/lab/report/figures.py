"""Figures in files, with matplotlib."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bitbayes.calibration import reliability
from bitbayes.errors import require
from bitbayes.lab.continual import AccuracyMatrix
from bitbayes.lab.report.folders import BINS, curve_rows
from bitbayes.lab.report.groups import Group
from bitbayes.lab.report.series import METRICS, metric_curve, metric_of, published_curves, task_curves
from bitbayes.lab.report.tables import stream_title
from bitbayes.lab.studies.load import FinishedRun
from bitbayes.lab.studies.toys import MoonsStudy, SnelsonStudy, training_noise
from bitbayes.lab.studies.trust import TrustStudy
from bitbayes.lab.studies.truth import TruthFigures
from bitbayes.lab.studies.ways import predictor
from bitbayes.lab.train import EpochRow
from bitbayes.lab.train.measure import histogram, whole
from bitbayes.lab.train.records import Spread
from bitbayes.posterior import Posterior, load_posterior

_PANELS = 5  # of histograms: as many as stay readable in a row
_TASKS = 10  # that a legend names
_TELLING = 30  # examples of a bin whose accuracy says something
_BLUE, _ORANGE, _GREEN, _GREY = "#20639b", "#d1622b", "#2a7f62", "#555555"
_STYLE = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def new_figure(columns: int = 1, width: float = 5.0, height: float = 4.0, *, rows: int = 1) -> tuple[Any, list[Any]]:
    """Return a figure of panels, `width` by `height` inches each, and its axes: one list, or a list for each row."""
    with require("matplotlib", "train").rc_context(_STYLE):
        kind = require("matplotlib.figure", "train").Figure  # no window, no global state
        figure = kind(figsize=(width * columns, height * rows), dpi=150, layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
    return figure, list(axes[0] if rows == 1 else axes)


def save(figure: Any, path: str | Path) -> Path:
    """Write a PNG and return its path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path


def _legend_below(figure: Any, axis: Any, columns: int) -> None:
    """Draw the legend of a panel below all panels, so that it covers no line."""
    labels = axis.get_legend_handles_labels()
    figure.legend(*labels, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)


def moons_figure(study: MoonsStudy, path: str | Path) -> Path:
    """Draw predicted probability and entropy over the plane: the first run of every rule, and the exact posterior."""
    steps, reach = 120, 5.0
    line = torch.linspace(-reach, reach, steps)
    plane, grid = torch.cartesian_prod(line, line), line.numpy()
    x, y = whole(next(iter(study.runs.values()))[0][0].experiment.data.train)
    rows = {row.title: row for row in reversed(study.figures.runs)}  # of the first seed
    shown = {}
    for title, (runs, *_) in study.runs.items():
        predict, networks = predictor(runs, rows[title].networks)
        shown[_moons_title(title, runs[0], networks)] = predict(plane)
    for title, exact in study.exact.items():
        shown[f"{title}\ntemperature 1\nmean of {len(exact.chains.posterior)} networks"] = exact.predict(plane)
    figure, axes = new_figure(len(shown), 3.4, 3.8, rows=2)
    bars = []
    for column, (title, prediction) in enumerate(shown.items()):
        probs, doubt = (each.reshape(steps, steps).T.numpy() for each in (prediction.probs, prediction.entropy))
        above, below = axes[0][column], axes[1][column]
        levels = torch.linspace(0, 1, 21).tolist()
        bars = [
            above.contourf(grid, grid, probs, levels=levels, cmap="RdBu_r", alpha=0.85),
            below.contourf(grid, grid, doubt, levels=[level * math.log(2) for level in levels], cmap="viridis"),
        ]
        above.contour(grid, grid, probs, levels=[0.5], colors="black", linewidths=1)
        for axis in (above, below):
            for value, colour in ((0, _BLUE), (1, _ORANGE)):
                points = x[y.reshape(-1) == value]
                edge: dict[str, Any] = {"edgecolors": "white", "linewidths": 0.4}
                axis.scatter(points[:, 0], points[:, 1], s=8, c=colour, label=f"class {value}", **edge)
            axis.set(aspect="equal", xlim=(-reach, reach), ylim=(-reach, reach))
        above.set_title(title)
        below.set_xlabel("first input (standardised)")
    scales = {"probability of class 1": [0, 0.25, 0.5, 0.75, 1], "entropy, nats": [0, 0.2, 0.4, 0.6]}
    for panels, bar, (label, ticks) in zip(axes, bars, scales.items(), strict=True):
        panels[0].set_ylabel("second input (standardised)")
        figure.colorbar(bar, ax=panels, shrink=0.85, ticks=ticks).set_label(label)
    axes[0][0].legend(loc="lower left", frameon=True, fontsize=8)
    first = study.figures.runs[0]
    note = f"Seed {first.seed}."
    if study.exact:
        note += " Random sizes: the first layer's weights have fixed random sizes, and only their signs are learned."
    figure.supxlabel(note, fontsize=10)
    return save(figure, path)


def _moons_title(title: str, run: FinishedRun, networks: int) -> str:
    options, setting = run.config.spec.options, []
    if run.config.estimator in ("concrete", "released"):
        setting.append(f"τ = {options['tau']:g}")
    if "ess_scale" in options and "ess" not in title:
        setting.append("ess = N" if options["ess_scale"] == 1 else f"ess = {options['ess_scale']:g}·N")
    count = "one network" if networks == 1 else f"mean of {networks} networks"
    return "\n".join(filter(None, (title, ", ".join(setting), count)))


def snelson_figure(study: SnelsonStudy, path: str | Path, samples: int = 100) -> Path:
    """Draw STE's curve beside the mean and the bands of BayesBiNN, on the first split."""
    ste, bayes = study.ste[0], study.bayes[0]
    x, y = whole(bayes.experiment.data.train)
    margin = 0.25 * float(x.max() - x.min())
    grid = torch.linspace(float(x.min()) - margin, float(x.max()) + margin, 400)[:, None]
    prediction = bayes.predict(grid, samples)
    mean, std = prediction.mean.reshape(-1), prediction.std.reshape(-1)
    figure, axes = new_figure(2, 5.4, 4.0)
    line = grid.reshape(-1).numpy()
    for axis in axes:
        axis.scatter(x.numpy(), y.numpy(), s=9, c=_GREY, label="training data", zorder=3)
        if bayes.experiment.data.test is not None:
            held_x, held_y = whole(bayes.experiment.data.test)
            ring: dict[str, Any] = {"facecolors": "none", "edgecolors": _GREY, "linewidths": 0.8}
            axis.scatter(held_x.numpy(), held_y.numpy(), s=12, label="held out", zorder=3, **ring)
    single, mode = (run.predict(grid).mean.reshape(-1).numpy() for run in (ste, bayes))
    axes[0].plot(line, single, c=_ORANGE, label="STE (Adam)")
    axes[0].plot(line, mode, c=_GREEN, lw=1, ls="--", label="BayesBiNN, mode")
    axes[0].set_title("Single networks")
    axes[1].plot(line, mean.numpy(), c=_BLUE, label=f"BayesBiNN, mean of {samples}")
    band = (std.square() + training_noise(bayes) ** 2).sqrt()
    for count, alpha in ((1, 0.35), (2, 0.18)):
        low, high = (mean - count * band).numpy(), (mean + count * band).numpy()
        axes[1].fill_between(line, low, high, color=_BLUE, alpha=alpha, lw=0, label=f"±{count} std, noise included")
    axes[1].set_title("Posterior mean and predictive bands")
    for axis in axes:
        low, high = float(y.min()), float(y.max())
        axis.set(xlabel="input (standardised)", ylim=(low - 1.2, high + 1.2))
        axis.legend(loc="lower left", fontsize=8, ncols=2)
    axes[0].set_ylabel("target (standardised)")
    generated = "Generated data with a gap (Snelson's data need --data)"
    figure.suptitle(generated if bayes.experiment.data.source == "generated" else "Snelson's data")
    return save(figure, path)


def bands_figure(figures: TruthFigures, path: str | Path) -> Path:
    """Draw mean and 95% band of each posterior over those of the exact one, for inputs of one number, at seed 0."""
    axis, (exact, *others) = figures.axis, figures.rows
    if axis is None or exact.curve is None:
        raise ValueError(f"{figures.problem} has no bands to draw; give the figures of a regression")
    shown = [row for row in others if not row.title.startswith("half")]
    columns = 2 if len(shown) == 4 else min(3, len(shown))
    figure, _ = new_figure(columns, 4.2, 3.4, rows=-(-len(shown) // columns))
    panels, targets = figure.axes, [y for _, y in axis.train]
    for panel, row in itertools.zip_longest(panels, shown):
        if row is None:
            panel.axis("off")
            continue
        assert row.curve is not None
        panel.fill_between(axis.x, row.curve.low, row.curve.high, color=_BLUE, alpha=0.3, lw=0, label="95% band")
        panel.plot(axis.x, row.curve.mean, c=_BLUE, lw=1.8, label="mean")
        for end, label in ((exact.curve.low, "exact: 95% band"), (exact.curve.high, None)):
            panel.plot(axis.x, end, c=_ORANGE, lw=1.2, ls="--", label=label)
        panel.plot(axis.x, exact.curve.mean, c=_ORANGE, lw=1.2, label="exact: mean")
        panel.scatter(*zip(*axis.train, strict=True), s=10, c=_GREY, lw=0, label="training data", zorder=3)
        ring: dict[str, Any] = {"facecolors": "none", "edgecolors": _GREY, "linewidths": 0.8}
        panel.scatter(*zip(*axis.test, strict=True), s=12, label="held out", zorder=3, **ring)
        count = "one network" if row.networks == 1 else f"mean of {row.networks} networks"
        panel.set(xlim=(axis.x[0], axis.x[-1]), ylim=(min(targets) - 1.2, max(targets) + 1.2))
        panel.set_title(f"{row.title}\n{count}", fontsize=10)
    for panel in panels[: len(shown)][-columns:]:  # the last one of each column
        panel.set_xlabel("input (standardised)")
    for panel in panels[::columns]:
        panel.set_ylabel("target (standardised)")
    _legend_below(figure, panels[0], 3 * (columns - 1) or 2)
    return save(figure, path)


def curves_figure(
    runs: Mapping[str, Sequence[EpochRow]],
    path: str | Path,
    *,
    published: str | Path | None = None,
    dataset: str = "mnist",
) -> Path:
    """Draw test and training accuracy by epoch, ours beside published runs; of other runs test and validation figures.

    Args:
        runs: Histories of runs by label. The epochs of a run count those of the float network that it begins with.
        path: Where to write the PNG.
        published: File of published curves, see `bitbayes.lab.report.series.published_curves`.
        dataset: Data set of the published curves.

    Raises:
        ValueError: If no run has a figure on test data, runs have figures of several kinds, or the published file has
            no such curves, which are accuracies.
    """
    rows = [row for history in runs.values() for row in history]
    metrics = [metric for metric in METRICS if any(_has(row, f"test_{metric}") for row in rows)]
    if len(metrics) != 1:
        what = " and ".join(METRICS[metric] for metric in metrics) or "none"
        raise ValueError(f"curves need runs with one kind of figure on test data, got {what} in {', '.join(runs)}")
    (metric,) = metrics
    if published is not None and metric != "accuracy":
        raise ValueError(f"published curves are accuracies, but the runs have {METRICS[metric]}; leave them out")
    theirs = published_curves(published, dataset) if published is not None else {}
    longest = max(row.epoch for row in rows)
    names = {"test": "Test data", "train": "Training data"}
    if metric != "accuracy":  # measured on training data only at the weights that each step drew
        names = {"test": "Test data", "val": "Validation data"}
    names = {name: title for name, title in names.items() if any(_has(row, f"{name}_{metric}") for row in rows)}
    figure, axes = new_figure(len(names), 5.2, 3.9)
    begins = any(history[0].epoch > 1 for history in runs.values() if history)
    along = "epoch, those of a float network at the start included" if begins else "epoch"
    for axis, name in zip(axes, names, strict=True):
        if name in theirs:
            shown = theirs[name].until(longest)
            epochs = range(1, len(shown.mean) + 1)
            axis.fill_between(epochs, shown.low, shown.high, color=_GREY, alpha=0.25, lw=0)
            axis.plot(epochs, shown.mean, c=_GREY, label=f"published, mean and range of {shown.runs}")
        for index, (label, rows) in enumerate(runs.items()):
            curve = metric_curve(label, index, [row.to_dict() for row in rows], f"{name}_{metric}")
            if curve.epochs:
                axis.plot(curve.epochs, curve.values, lw=1.2, marker=".", ms=3, label=label)
        axis.set(xlabel=along, title=names[name])
        axis.grid(alpha=0.25)
    axes[0].set_ylabel(METRICS[metric])
    _legend_below(figure, axes[0], len(names))
    return save(figure, path)


def _has(row: EpochRow, name: str) -> bool:
    return getattr(row, name) is not None


def schedules_figure(series: Mapping[str, Sequence[tuple[int, Group]]], path: str | Path) -> Path:
    """Draw the figures on test data by the length of the schedule, with the sample standard deviation over seeds.

    Args:
        series: Points of each line by its label, see `bitbayes.lab.report.series.schedule_series`.
        path: Where to write the PNG.
    """
    figure, (axis,) = new_figure(1, 6.4, 4.2)
    metric = metric_of(group for points in series.values() for _, group in points)
    for (label, points), marker in zip(series.items(), itertools.cycle("osD^vP")):
        spreads = [Spread.of(group.values(f"test_{metric}")) for _, group in points]
        means, bars = [spread.mean for spread in spreads], [spread.std or 0.0 for spread in spreads]
        axis.errorbar(
            [length for length, _ in points], means, bars, marker=marker, ms=5, lw=1.4, capsize=3, label=label
        )
    lengths = sorted({length for points in series.values() for length, _ in points})
    axis.set_xscale("log")
    axis.set_xticks(lengths, [str(length) for length in lengths])
    axis.minorticks_off()
    axis.set(xlabel="epochs of the whole schedule, those of a float network at its start included")
    axis.set_ylabel(f"test data: {METRICS[metric]}")
    axis.grid(alpha=0.25)
    _legend_below(figure, axis, 2)
    return save(figure, path)


def histogram_figure(posteriors: Mapping[str, Posterior], path: str | Path) -> Path:
    """Draw how sure each posterior is of its weights: a histogram of P[w = +1], one panel for each label."""
    figure, axes = new_figure(len(posteriors), 4.4, 3.6)
    for axis, (label, posterior) in zip(axes, posteriors.items(), strict=True):
        centres = [(index + 0.5) / BINS for index in range(BINS)]
        axis.bar(centres, histogram(posterior, BINS), width=1 / BINS, color=_BLUE)
        title = f"{label}\nper-weight entropy {float(posterior.entropy()):.2f} bits"
        axis.set(title=title, xlabel="P[weight = +1]", xlim=(0, 1))
    axes[0].set_ylabel("share of weights, %")
    return save(figure, path)


def trust_figure(study: TrustStudy, path: str | Path) -> Path:
    """Draw the reliability of every way to predict, and the entropy on both kinds of data, at the first seed."""
    _, y = study.inputs.test
    figure, (left, right) = new_figure(2)
    left.plot([0, 1], [0, 1], color="#999999", linewidth=1)
    for name, predictions in study.examples.items():
        if name.endswith("ensemble"):
            continue
        # Bins of equal width: nearly all examples are sure, and bins of equal mass would tell of no others.
        points = reliability(predictions.test.class_probs, y)
        told = (points.share * len(y)).round() >= _TELLING
        left.plot(points.confidence[told].cpu(), points.accuracy[told].cpu(), marker="o", markersize=3, label=name)
    title = f"Reliability, bins with at least {_TELLING} examples"
    left.set(title=title, xlabel="confidence", ylabel="accuracy", xlim=(0.3, 1.005), ylim=(0.3, 1.005))
    left.legend(fontsize=8)
    name, predictions = max(study.examples.items(), key=lambda item: item[0].endswith("mean"))
    shown = {"test data": predictions.test, "out-of-distribution data": predictions.unlike}
    for label, prediction in shown.items():
        if prediction is not None:
            right.hist(prediction.entropy.cpu().numpy(), bins=60, range=(0, 2.4), alpha=0.6, density=True, label=label)
    right.set(title=f"{name}: predictive entropy", xlabel="entropy, nats", ylabel="density", yscale="log")
    right.legend(fontsize=8)
    return save(figure, path)


def matrix_figure(summary: Mapping[str, Any], path: str | Path) -> Path:
    """Draw accuracy on every task after every task, and its mean; `summary` is the summary.json of a stream."""
    matrix = AccuracyMatrix(summary["matrix"])
    figure, (axis,) = new_figure(1, 5.6, 3.9)
    last, colours = len(matrix) - 1, require("matplotlib", "train").colormaps["viridis"]
    for curve in task_curves(matrix.rows):
        style: dict[str, Any] = {"marker": "o", "ms": 4, "lw": 1.2, "label": curve.run}
        if last >= _TASKS:  # early tasks dark, late ones bright
            style = {"lw": 0.8, "c": colours(curve.group / last)}
            style |= {"label": curve.run} if curve.group in (0, last) else {}
        axis.plot(curve.epochs, curve.values, **style)
    axis.plot(range(1, len(matrix) + 1), matrix.average, c="black", lw=2, label="mean")
    axis.legend(fontsize=8)
    return _of_stream(figure, axis, "tasks learned", summary, path)


def task_curves_figure(folder: str | Path, path: str | Path) -> Path:
    """Draw accuracy on every task after every epoch, from where the task began (BayesBiNN, Figure 5).

    Raises:
        ValueError: If the folder of the stream has no curves.
    """
    rows = _curve_rows(folder)
    if not rows:
        raise ValueError(f"{folder} has no curves; run the stream with --curve-examples above 0")
    figure, (axis,) = new_figure(1, 7.2, 3.9)
    curves = task_curves(rows)
    for curve in curves:
        axis.plot(curve.epochs, curve.values, lw=1.2, marker=".", ms=3, label=curve.run)
    for curve in curves[1:]:  # where a task begins
        axis.axvline(curve.epochs[0] - 0.5, c="0.7", lw=0.8, ls=":")
    if len(curves) <= _TASKS:
        axis.legend(fontsize=8, loc="lower left")
    summary = json.loads(Path(folder, "summary.json").read_text(encoding="utf-8"))
    return _of_stream(figure, axis, "epoch, counted over all tasks", summary, path)


def _of_stream(figure: Any, axis: Any, x: str, summary: Mapping[str, Any], path: str | Path) -> Path:
    axis.set(xlabel=x, ylabel="test accuracy, %", title=stream_title(summary))
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(alpha=0.25)
    return save(figure, path)


def weights_figure(folder: str | Path, path: str | Path) -> Path:
    """Draw histograms of P[weight = +1] after every task, or after a few of a long stream (BayesBiNN, Figure 4).

    Raises:
        ValueError: If the stream has no posteriors.
    """
    files = _posteriors(folder)
    if not files:
        raise ValueError(f"{folder} has no posteriors; bayesbinn and vispa leave them")
    last = len(files) - 1
    chosen = sorted({round(last * i / (_PANELS - 1)) for i in range(_PANELS)}) if last >= _PANELS else range(last + 1)
    return histogram_figure({f"after task {at + 1}": load_posterior(files[at]) for at in chosen}, path)


def stream_figures(folder: str | Path) -> list[Path]:
    """Draw what the files of a stream allow, into its folder: accuracy.png, curves.png, weights.png."""
    folder = Path(folder)
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    pictures = [matrix_figure(summary, folder / "accuracy.png")]
    if _curve_rows(folder):
        pictures.append(task_curves_figure(folder, folder / "curves.png"))
    if _posteriors(folder):
        pictures.append(weights_figure(folder, folder / "weights.png"))
    return pictures


def _curve_rows(folder: str | Path) -> list[list[float]]:
    path = Path(folder, "curves.jsonl")
    return curve_rows(list(map(json.loads, path.read_text(encoding="utf-8").splitlines()))) if path.is_file() else []


def _posteriors(folder: str | Path) -> list[Path]:
    """Return the files of the posteriors after each task, in the order of the tasks."""
    paths = (Path(folder, f"task{task}", "posterior.safetensors") for task in itertools.count(1))
    return list(itertools.takewhile(Path.is_file, paths))
