"""What a stream of tasks has left: the matrix as a table and as a figure (BayesBiNN, Figure 5)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bitbayes.report.figures import new_figure, save
from bitbayes.report.tables import new_table, number

__all__ = ["matrix_figure", "matrix_table"]


def matrix_table(summary: Mapping[str, Any]) -> Any:
    """Accuracy on every task after every task.

    Args:
        summary: Content of summary.json of a stream.

    Returns:
        A rich table.
    """
    rows, average = summary["matrix"], summary["average_accuracy"]
    title = f"{summary['recipe']}, {summary['rule']}, {'with' if summary['prior'] else 'without'} prior: accuracy in %"
    transfer = f"backward transfer {number(summary['backward_transfer'])}"
    caption = f"{transfer}, forgetting {number(summary['forgetting'])}"
    names = [str(index + 1) for index in range(len(rows))]
    table = new_table(title, "after task", *names, "mean", caption=caption)
    for name, row, mean in zip(names, rows, average, strict=True):
        table.add_row(name, *(number(value, 1) for value in row), *[""] * (len(rows) - len(row)), number(mean))
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
    for task in range(len(rows)):
        values = [row[task] for row in rows[task:]]
        axis.plot(range(task + 1, len(rows) + 1), values, marker="o", ms=4, lw=1.2, label=f"task {task + 1}")
    axis.plot(range(1, len(rows) + 1), summary["average_accuracy"], c="black", lw=2, label="mean")
    prior = f"prior, decay {summary['decay']:g}" if summary["prior"] else "no prior"
    axis.set(
        xlabel="tasks trained on",
        ylabel="test accuracy, percent",
        title=f"{summary['recipe']}, {summary['rule']}, {prior}",
        xticks=range(1, len(rows) + 1) if len(rows) <= 20 else None,
    )
    axis.grid(alpha=0.25)
    if len(rows) <= 10:
        axis.legend(fontsize=8)
    return save(figure, path)
