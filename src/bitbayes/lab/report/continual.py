"""What a stream of tasks has left: the matrix, accuracy on the way (BayesBiNN, Figure 5), the weights (Figure 4)."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bitbayes.errors import require
from bitbayes.lab.report.figures import histogram_figure, new_figure, save
from bitbayes.lab.report.tables import new_table, number
from bitbayes.posterior import load_posterior

__all__ = ["curves_figure", "matrix_figure", "matrix_table", "stream_figures", "weights_figure"]

_PANELS = 5  # of the histogram: as many as stay readable in a row
_COLUMNS = 10  # of the table: longer streams show their first and their last tasks


def matrix_table(summary: Mapping[str, Any]) -> Any:
    """Accuracy on every task after every task.

    Args:
        summary: Content of summary.json of a stream.

    Returns:
        A rich table.
    """
    rows, average = summary["matrix"], summary["average_accuracy"]
    title = f"{_title(summary)}: accuracy in %"
    transfer = f"backward transfer {number(summary['backward_transfer'])}"
    caption = f"{transfer}, forgetting {number(summary['forgetting'])}"
    if summary.get("first_five") is not None:
        caption += f", first five tasks {number(summary['first_five'])}, last five {number(summary['last_five'])}"
    shown = range(len(rows)) if len(rows) <= _COLUMNS else [*range(_COLUMNS // 2), *range(-_COLUMNS // 2, 0)]
    names = [str(index % len(rows) + 1) for index in shown]
    table = new_table(title, "after task", *names, "mean", caption=caption)
    for index in shown:
        row = [*(number(value, 1) for value in rows[index]), *[""] * (len(rows) - len(rows[index]))]
        table.add_row(str(index % len(rows) + 1), *(row[at] for at in shown), number(average[index]))
    return table


def matrix_figure(summary: Mapping[str, Any], path: str | Path) -> Path:
    """Accuracy on every task after every task, and its mean over the tasks so far.

    Args:
        summary: Content of summary.json of a stream.
        path: Where to write the PNG.

    Returns:
        The path.
    """
    rows = summary["matrix"]
    figure, axes = new_figure(1, 5.6, 3.9)
    axis = axes[0]
    last, colours = len(rows) - 1, require("matplotlib", "train").colormaps["viridis"]
    for task in range(len(rows)):
        values = [row[task] for row in rows[task:]]
        style: dict[str, Any] = {"marker": "o", "ms": 4, "lw": 1.2, "label": f"task {task + 1}"}
        if last >= _COLUMNS:  # early tasks dark, late ones bright
            style = {"lw": 0.8, "c": colours(task / last), "label": f"task {task + 1}" if task in (0, last) else None}
        axis.plot(range(task + 1, len(rows) + 1), values, **style)
    axis.plot(range(1, len(rows) + 1), summary["average_accuracy"], c="black", lw=2, label="mean")
    axis.set(
        xlabel="tasks trained on",
        ylabel="test accuracy, percent",
        title=_title(summary),
    )
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8)
    return save(figure, path)


def curves_figure(folder: str | Path, path: str | Path) -> Path:
    """Accuracy on every task after every epoch, from where the task began.

    Args:
        folder: Of a stream, with curves.jsonl and summary.json.
        path: Where to write the PNG.

    Returns:
        The path.

    Raises:
        ValueError: If the stream has no curves.
    """
    lines = _curves(folder)
    if not lines:
        raise ValueError(f"{folder} has no curves; run the stream with --curve-examples above 0")
    figure, axes = new_figure(1, 7.2, 3.9)
    axis = axes[0]
    tasks = lines[-1]["task"]
    for task in range(1, tasks + 1):
        points = [(at, line["accuracies"][task - 1]) for at, line in enumerate(lines, 1) if line["task"] >= task]
        axis.plot(*zip(*points, strict=True), lw=1.2, marker=".", ms=3, label=f"task {task}")
    for at, (line, following) in enumerate(itertools.pairwise(lines), 1):
        if line["task"] != following["task"]:
            axis.axvline(at + 0.5, c="0.7", lw=0.8, ls=":")
    axis.set(
        xlabel="epochs of all tasks",
        ylabel="test accuracy, percent",
        title=_title(json.loads(Path(folder, "summary.json").read_text(encoding="utf-8"))),
    )
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(alpha=0.25)
    if tasks <= 10:
        axis.legend(fontsize=8, loc="lower left")
    return save(figure, path)


def weights_figure(folder: str | Path, path: str | Path) -> Path:
    """Histograms of P[weight = +1] after every task, or after a few spread over a long stream.

    Args:
        folder: Of a stream of a rule with a posterior.
        path: Where to write the PNG.

    Returns:
        The path.

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
    """Draws what the files of a stream allow: accuracy.png, curves.png, weights.png.

    Args:
        folder: Of a stream.

    Returns:
        The pictures, in the same folder.
    """
    folder = Path(folder)
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    pictures = [matrix_figure(summary, folder / "accuracy.png")]
    if _curves(folder):
        pictures.append(curves_figure(folder, folder / "curves.png"))
    if _posteriors(folder):
        pictures.append(weights_figure(folder, folder / "weights.png"))
    return pictures


def _title(summary: Mapping[str, Any]) -> str:
    """The stream, the rule, and what is done against forgetting."""
    kept = []
    if summary["prior"]:
        kept.append("prior" if summary["decay"] == 1 else f"prior of decay {summary['decay']:g}")
    if summary.get("method", "none") != "none":
        kept.append(summary["method"])
    what = f"with {' and '.join(kept)}" if kept else "without prior"
    return f"{summary['recipe']}, {summary['rule']}, {what}"


def _curves(folder: str | Path) -> list[dict[str, Any]]:
    path = Path(folder, "curves.jsonl")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def _posteriors(folder: str | Path) -> list[Path]:
    """Of the tasks in their order."""
    files: list[Path] = []
    while (path := Path(folder, f"task{len(files) + 1}", "posterior.safetensors")).is_file():
        files.append(path)
    return files
