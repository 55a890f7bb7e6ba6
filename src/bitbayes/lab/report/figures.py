"""Figures in files, with matplotlib."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bitbayes.calibration import reliability
from bitbayes.errors import require
from bitbayes.lab.continual import AccuracyMatrix
from bitbayes.lab.report.folders import BINS, CurveLine, curve_lines
from bitbayes.lab.report.series import matrix_curves, metric_curve, published_curves, task_curves
from bitbayes.lab.report.tables import stream_title
from bitbayes.lab.studies.toys import MoonsStudy, SnelsonStudy, training_noise
from bitbayes.lab.studies.trust import TrustStudy
from bitbayes.lab.train import EpochRow
from bitbayes.lab.train.measure import histogram, whole
from bitbayes.posterior import Posterior, load_posterior

_PANELS = 5  # of histograms: as many as stay readable in a row
_TASKS = 10  # that a legend names
_TELLING = 30  # examples of a bin whose accuracy says something
_BLUE, _ORANGE, _GREEN, _GREY = "#20639b", "#d1622b", "#2a7f62", "#555555"
_STYLE = {
    "figure.dpi": 150,
    "savefig.dpi": 150,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def new_figure(columns: int = 1, width: float = 5.0, height: float = 4.0) -> tuple[Any, list[Any]]:
    """Return a figure of panels in a row, `width` by `height` inches each, and its axes."""
    matplotlib = require("matplotlib", "train")
    backend = require("matplotlib.backends.backend_agg", "train")
    with matplotlib.rc_context(_STYLE):
        figure = require("matplotlib.figure", "train").Figure(
            figsize=(width * columns, height), dpi=150, layout="constrained"
        )
        backend.FigureCanvasAgg(figure)  # no window, no global state
        axes = figure.subplots(1, columns, squeeze=False)[0]
    return figure, list(axes)


def save(figure: Any, path: str | Path) -> Path:
    """Write a PNG and return its path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path


def moons_figure(study: MoonsStudy, path: str | Path, samples: int = 10) -> Path:
    """Draw the predicted probability over the plane: STE, BayesBiNN's mode, and its mean of some samples."""
    steps, reach = 150, 3.2
    line = torch.linspace(-reach, reach, steps)
    plane = torch.cartesian_prod(line, line)
    panels = [
        ("STE (Adam)", study.ste.predict(plane)),
        ("BayesBiNN, mode", study.bayes.predict(plane)),
        (f"BayesBiNN, mean of {samples} samples", study.bayes.predict(plane, samples)),
    ]
    x, y = whole(study.bayes.experiment.data.train)
    y = y.reshape(-1)
    figure, axes = new_figure(3, 4.2, 4.0)
    shown = None
    for axis, (title, prediction) in zip(axes, panels, strict=True):
        probs = prediction.probs.reshape(steps, steps).T.numpy()
        grid = line.numpy()
        shown = axis.contourf(grid, grid, probs, levels=torch.linspace(0, 1, 21).tolist(), cmap="RdBu_r", alpha=0.85)
        axis.contour(grid, grid, probs, levels=[0.5], colors="black", linewidths=1)
        for value, colour in ((0, _BLUE), (1, _ORANGE)):
            points = x[y == value]
            ring: dict[str, Any] = {"edgecolors": "white", "linewidths": 0.4}
            axis.scatter(points[:, 0], points[:, 1], s=12, c=colour, label=f"class {value}", **ring)
        axis.set(title=title, xlabel="first input (standardised)", aspect="equal")
    axes[0].set_ylabel("second input (standardised)")
    axes[0].legend(loc="lower left", frameon=True, fontsize=8)
    bar = figure.colorbar(shown, ax=axes, shrink=0.85, ticks=[0, 0.25, 0.5, 0.75, 1])
    bar.set_label("probability of class 1")
    return save(figure, path)


def snelson_figure(study: SnelsonStudy, path: str | Path, samples: int = 100) -> Path:
    """Draw STE's curve beside the mean and the bands of BayesBiNN, on the first split."""
    ste, bayes = study.ste[0], study.bayes[0]
    x, y = whole(bayes.experiment.data.train)
    margin = 0.25 * float(x.max() - x.min())
    grid = torch.linspace(float(x.min()) - margin, float(x.max()) + margin, 400)[:, None]
    prediction = bayes.predict(grid, samples)
    mean, std = prediction.mean.reshape(-1), prediction.std.reshape(-1)
    noise = training_noise(bayes)
    figure, axes = new_figure(2, 5.4, 4.0)
    line = grid.reshape(-1).numpy()
    _points(axes[0], bayes, x, y)
    axes[0].plot(line, ste.predict(grid).mean.reshape(-1).numpy(), c=_ORANGE, label="STE (Adam)")
    mode = bayes.predict(grid).mean.reshape(-1).numpy()
    axes[0].plot(line, mode, c=_GREEN, lw=1, ls="--", label="BayesBiNN, mode")
    axes[0].set_title("single networks")
    _points(axes[1], bayes, x, y)
    axes[1].plot(line, mean.numpy(), c=_BLUE, label=f"BayesBiNN, mean of {samples}")
    band = (std.square() + noise**2).sqrt()
    for count, alpha in ((1, 0.35), (2, 0.18)):
        low, high = (mean - count * band).numpy(), (mean + count * band).numpy()
        axes[1].fill_between(line, low, high, color=_BLUE, alpha=alpha, lw=0, label=f"{count} std, with noise")
    axes[1].set_title("posterior mean and bands")
    for axis in axes:
        low, high = float(y.min()), float(y.max())
        axis.set(xlabel="input (standardised)", ylim=(low - 1.2, high + 1.2))
        axis.legend(loc="lower left", fontsize=8, ncols=2)
    axes[0].set_ylabel("target (standardised)")
    generated = bayes.experiment.data.source == "generated"
    figure.suptitle(
        "generated data with a gap, in place of Snelson's (no --data given)" if generated else "Snelson's data"
    )
    return save(figure, path)


def _points(axis: Any, run: Any, x: Tensor, y: Tensor) -> None:
    axis.scatter(x.numpy(), y.numpy(), s=9, c=_GREY, label="training data", zorder=3)
    test = run.experiment.data.test
    if test is not None:
        held_x, held_y = whole(test)
        ring: dict[str, Any] = {"facecolors": "none", "edgecolors": _GREY, "linewidths": 0.8}
        axis.scatter(held_x.numpy(), held_y.numpy(), s=12, label="held out", zorder=3, **ring)


def curves_figure(
    runs: Mapping[str, Sequence[EpochRow]],
    path: str | Path,
    *,
    published: str | Path | None = None,
    dataset: str = "mnist",
) -> Path:
    """Draw test and training accuracy by epoch, ours beside published runs.

    Args:
        runs: Histories of runs by label.
        path: Where to write the PNG.
        published: File of published curves, see `bitbayes.lab.report.series.published_curves`.
        dataset: Data set of the published curves.

    Raises:
        ValueError: If no run has a test accuracy, or the published file has no such curves.
    """
    if not any(row.test_accuracy is not None for rows in runs.values() for row in rows):
        raise ValueError(f"there is no test accuracy in {', '.join(runs)}: curves are of runs of classes")
    theirs = published_curves(published, dataset) if published is not None else {}
    longest = max(max((row.epoch for row in rows), default=1) for rows in runs.values())
    figure, axes = new_figure(2, 5.2, 3.9)
    for axis, name in zip(axes, ("test", "train"), strict=True):
        if name in theirs:
            shown = theirs[name].until(longest)
            epochs = range(1, len(shown.mean) + 1)
            axis.fill_between(epochs, shown.low, shown.high, color=_GREY, alpha=0.25, lw=0)
            axis.plot(epochs, shown.mean, c=_GREY, label=f"published, mean and range of {shown.runs}")
        for index, (label, rows) in enumerate(runs.items()):
            curve = metric_curve(label, index, [row.to_dict() for row in rows], f"{name}_accuracy")
            if curve.epochs:
                axis.plot(curve.epochs, curve.values, lw=1.2, marker=".", ms=3, label=label)
        axis.set(xlabel="epoch", title=f"{name} accuracy")
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("percent")
    axes[0].legend(fontsize=8, loc="lower right")
    return save(figure, path)


def histogram_figure(posteriors: Mapping[str, Posterior], path: str | Path) -> Path:
    """Draw how sure each posterior is of its weights: a histogram of P[w = +1], one panel for each label."""
    figure, axes = new_figure(len(posteriors), 4.4, 3.6)
    for axis, (label, posterior) in zip(axes, posteriors.items(), strict=True):
        centres = [(index + 0.5) / BINS for index in range(BINS)]
        axis.bar(centres, histogram(posterior, BINS), width=1 / BINS, color=_BLUE)
        title = f"{label}\nmean entropy {float(posterior.entropy()):.2f} bits a weight"
        axis.set(title=title, xlabel="P[weight = +1]", xlim=(0, 1))
    axes[0].set_ylabel("percent of weights")
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
        points = reliability(predictions.test.probs, y)
        told = (points.share * len(y)).round() >= _TELLING
        left.plot(points.confidence[told].cpu(), points.accuracy[told].cpu(), marker="o", markersize=3, label=name)
    title = f"Reliability, bins of {_TELLING} examples or more"
    left.set(title=title, xlabel="confidence", ylabel="accuracy", xlim=(0.3, 1.005), ylim=(0.3, 1.005))
    left.legend(fontsize=8)
    name, predictions = max(study.examples.items(), key=lambda item: item[0].endswith("mean"))
    shown = {"test data": predictions.test, "other data": predictions.unlike}
    for label, prediction in shown.items():
        if prediction is not None:
            right.hist(prediction.entropy.cpu().numpy(), bins=60, range=(0, 2.4), alpha=0.6, density=True, label=label)
    right.set(title=f"{name}: predictive entropy", xlabel="nats", ylabel="density", yscale="log")
    right.legend(fontsize=8)
    return save(figure, path)


def matrix_figure(summary: Mapping[str, Any], path: str | Path) -> Path:
    """Draw accuracy on every task after every task, and its mean; `summary` is the summary.json of a stream."""
    matrix = AccuracyMatrix(summary["matrix"])
    figure, (axis,) = new_figure(1, 5.6, 3.9)
    last, colours = len(matrix) - 1, require("matplotlib", "train").colormaps["viridis"]
    for curve in matrix_curves(matrix.rows):
        style: dict[str, Any] = {"marker": "o", "ms": 4, "lw": 1.2, "label": curve.run}
        if last >= _TASKS:  # early tasks dark, late ones bright
            style = {"lw": 0.8, "c": colours(curve.group / last)}
            style |= {"label": curve.run} if curve.group in (0, last) else {}
        axis.plot(curve.epochs, curve.values, **style)
    axis.plot(range(1, len(matrix) + 1), matrix.average, c="black", lw=2, label="mean")
    axis.legend(fontsize=8)
    return _of_stream(figure, axis, "tasks trained on", summary, path)


def task_curves_figure(folder: str | Path, path: str | Path) -> Path:
    """Draw accuracy on every task after every epoch, from where the task began (BayesBiNN, Figure 5).

    Raises:
        ValueError: If the folder of the stream has no curves.
    """
    lines = _curve_lines(folder)
    if not lines:
        raise ValueError(f"{folder} has no curves; run the stream with --curve-examples above 0")
    figure, (axis,) = new_figure(1, 7.2, 3.9)
    curves = task_curves(lines)
    for curve in curves:
        axis.plot(curve.epochs, curve.values, lw=1.2, marker=".", ms=3, label=curve.run)
    for curve in curves[1:]:  # where a task begins
        axis.axvline(curve.epochs[0] - 0.5, c="0.7", lw=0.8, ls=":")
    if len(curves) <= _TASKS:
        axis.legend(fontsize=8, loc="lower left")
    summary = json.loads(Path(folder, "summary.json").read_text(encoding="utf-8"))
    return _of_stream(figure, axis, "epochs of all tasks", summary, path)


def _of_stream(figure: Any, axis: Any, x: str, summary: Mapping[str, Any], path: str | Path) -> Path:
    axis.set(xlabel=x, ylabel="test accuracy, percent", title=stream_title(summary))
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
    if _curve_lines(folder):
        pictures.append(task_curves_figure(folder, folder / "curves.png"))
    if _posteriors(folder):
        pictures.append(weights_figure(folder, folder / "weights.png"))
    return pictures


def _curve_lines(folder: str | Path) -> list[CurveLine]:
    path = Path(folder, "curves.jsonl")
    return curve_lines(list(map(json.loads, path.read_text(encoding="utf-8").splitlines()))) if path.is_file() else []


def _posteriors(folder: str | Path) -> list[Path]:
    """Of the tasks in their order."""
    files: list[Path] = []
    while (path := Path(folder, f"task{len(files) + 1}", "posterior.safetensors")).is_file():
        files.append(path)
    return files
