"""Figures, with matplotlib's file backend."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bitbayes.errors import require
from bitbayes.lab.studies.toys import MoonsStudy, SnelsonStudy, training_noise
from bitbayes.lab.train import EpochRow
from bitbayes.lab.train.measure import whole
from bitbayes.posterior import Posterior

__all__ = ["curves_figure", "histogram_figure", "moons_figure", "snelson_figure"]

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
    """A figure with panels in a row.

    Args:
        columns: Number of panels.
        width: Of a panel, in inches.
        height: In inches.

    Returns:
        The figure and its axes.
    """
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
    """Writes a PNG.

    Args:
        figure: The figure.
        path: Where to.

    Returns:
        The path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path


def moons_figure(study: MoonsStudy, path: str | Path, samples: int = 10) -> Path:
    """Predicted probability over the plane: STE, BayesBiNN's mode, BayesBiNN's mean.

    Args:
        study: The runs.
        path: Where to write the PNG.
        samples: Networks of the mean; 10 in the paper.

    Returns:
        The path.
    """
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
            axis.scatter(
                points[:, 0],
                points[:, 1],
                s=12,
                c=colour,
                edgecolors="white",
                linewidths=0.4,
                label=f"class {value}",
            )
        axis.set(title=title, xlabel="first input (standardised)", aspect="equal")
    axes[0].set_ylabel("second input (standardised)")
    axes[0].legend(loc="lower left", frameon=True, fontsize=8)
    bar = figure.colorbar(shown, ax=axes, shrink=0.85, ticks=[0, 0.25, 0.5, 0.75, 1])
    bar.set_label("probability of class 1")
    return save(figure, path)


def snelson_figure(study: SnelsonStudy, path: str | Path, samples: int = 100) -> Path:
    """STE's curve beside the mean and the bands of BayesBiNN, on the first split.

    Args:
        study: The runs.
        path: Where to write the PNG.
        samples: Networks of the mean.

    Returns:
        The path.
    """
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
    axes[0].plot(
        line,
        bayes.predict(grid).mean.reshape(-1).numpy(),
        c=_GREEN,
        lw=1,
        ls="--",
        label="BayesBiNN, mode",
    )
    axes[0].set_title("single networks")
    _points(axes[1], bayes, x, y)
    axes[1].plot(line, mean.numpy(), c=_BLUE, label=f"BayesBiNN, mean of {samples}")
    band = (std.square() + noise**2).sqrt()
    for count, alpha in ((1, 0.35), (2, 0.18)):
        low, high = (mean - count * band).numpy(), (mean + count * band).numpy()
        label = f"{count} std, with noise"
        axes[1].fill_between(line, low, high, color=_BLUE, alpha=alpha, lw=0, label=label)
    axes[1].set_title("posterior mean and bands")
    for axis in axes:
        low, high = float(y.min()), float(y.max())
        axis.set(xlabel="input (standardised)", ylim=(low - 1.2, high + 1.2))
        axis.legend(loc="lower left", fontsize=8, ncols=2)
    axes[0].set_ylabel("target (standardised)")
    source = bayes.experiment.data.source
    title = "Snelson's data"
    if source == "generated":
        title = "generated data with a gap, in place of Snelson's (no --data given)"
    figure.suptitle(title)
    return save(figure, path)


def _points(axis: Any, run: Any, x: Tensor, y: Tensor) -> None:
    axis.scatter(x.numpy(), y.numpy(), s=9, c=_GREY, label="training data", zorder=3)
    test = run.experiment.data.test
    if test is not None:
        held_x, held_y = whole(test)
        axis.scatter(
            held_x.numpy(),
            held_y.numpy(),
            s=12,
            facecolors="none",
            edgecolors=_GREY,
            linewidths=0.8,
            label="held out",
            zorder=3,
        )


def curves_figure(
    runs: Mapping[str, Sequence[EpochRow]],
    path: str | Path,
    *,
    published: str | Path | None = None,
    dataset: str = "mnist",
) -> Path:
    """Test and training accuracy by epoch, ours beside the published runs.

    Args:
        runs: Lines of metrics.jsonl by label.
        path: Where to write the PNG.
        published: JSON file {"curves": {dataset: [{"train": [...], "test": [...]}, ...]}}.
        dataset: Whose published curves.

    Returns:
        The path.

    Raises:
        ValueError: If the published file has no such curves.
    """
    if not any(row.test_accuracy is not None for rows in runs.values() for row in rows):
        raise ValueError(f"there is no test accuracy in {', '.join(runs)}: curves are of runs of classes")
    figure, axes = new_figure(2, 5.2, 3.9)
    for axis, name in zip(axes, ("test", "train"), strict=True):
        if published is not None:
            curves = published_curves(published, dataset)
            length = max(max((row.epoch for row in rows), default=1) for rows in runs.values())
            stop = min(len(curves[0][name]), max(length, 10))
            values = torch.tensor([curve[name][:stop] for curve in curves])
            epochs = list(range(1, stop + 1))
            low, high = values.min(0).values, values.max(0).values
            axis.fill_between(epochs, low.numpy(), high.numpy(), color=_GREY, alpha=0.25, lw=0)
            label = f"published, mean and range of {len(curves)}"
            axis.plot(epochs, values.mean(0).numpy(), c=_GREY, label=label)
        for label, rows in runs.items():
            points = [(row.epoch, row.test_accuracy if name == "test" else row.train_accuracy) for row in rows]
            points = [point for point in points if point[1] is not None]
            if points:
                axis.plot(*zip(*points, strict=True), lw=1.2, marker=".", ms=3, label=label)
        axis.set(xlabel="epoch", title=f"{name} accuracy")
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("percent")
    axes[0].legend(fontsize=8, loc="lower right")
    return save(figure, path)


def published_curves(path: str | Path, dataset: str) -> list[dict[str, list[float]]]:
    """Reads the published curves of one data set.

    Args:
        path: The JSON file.
        dataset: Its name.

    Returns:
        One record a run, with lists "train", "val" and "test".

    Raises:
        ValueError: If the file cannot be read, or has none of that name.
    """
    try:
        curves = json.loads(Path(path).read_text(encoding="utf-8"))["curves"]
        return curves[dataset]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} has no published curves of {dataset}: {error}") from error


def histogram_figure(posteriors: Mapping[str, Posterior], path: str | Path) -> Path:
    """How sure the posterior is of its weights: a histogram of P[w = +1].

    Args:
        posteriors: By label, one panel each.
        path: Where to write the PNG.

    Returns:
        The path.
    """
    figure, axes = new_figure(len(posteriors), 4.4, 3.6)
    for axis, (label, posterior) in zip(axes, posteriors.items(), strict=True):
        counts = torch.zeros(50)
        for probability in posterior.probabilities().values():
            counts += torch.histc(probability.float().cpu(), bins=50, min=0.0, max=1.0)
        share = 100 * counts / counts.sum()
        centres = (torch.arange(50) + 0.5) / 50
        axis.bar(centres.numpy(), share.numpy(), width=0.02, color=_BLUE)
        entropy = float(posterior.entropy())
        axis.set(
            title=f"{label}\nmean entropy {entropy:.2f} bits a weight",
            xlabel="P[weight = +1]",
            xlim=(0, 1),
        )
    axes[0].set_ylabel("percent of weights")
    return save(figure, path)
