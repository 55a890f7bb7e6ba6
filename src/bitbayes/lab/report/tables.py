"""Tables on the terminal, with rich."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bitbayes.errors import require
from bitbayes.lab.recipes import DEFAULTS, Recipe

__all__ = ["evaluation_table", "recipes_table", "show", "spread", "summary_table", "tuned_table"]


def show(*parts: Any) -> None:
    """Prints tables or texts; wide enough for a table when stdout is a file.

    Args:
        *parts: What rich can print.
    """
    console = require("rich.console", "train").Console(file=sys.stdout, width=None if sys.stdout.isatty() else 180)
    for part in parts:
        console.print(part)


def new_table(title: str, *columns: str, caption: str | None = None) -> Any:
    """An empty table; all columns but the first are right-aligned.

    Args:
        title: Above it.
        *columns: Headings.
        caption: Below it.

    Returns:
        A rich table.
    """
    rich = require("rich.table", "train")
    table = rich.Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    return table


def number(value: Any, digits: int = 2, missing: str = "-") -> str:
    """A number for a table.

    Args:
        value: A number or None.
        digits: After the point.
        missing: For None.

    Returns:
        Its text.

    Example:
        >>> number(98.856), number(None), number(10014720, 0)
        ('98.86', '-', '10,014,720')
    """
    return missing if value is None else f"{value:,.{digits}f}"


def spread(values: Iterable[float | None], digits: int = 2) -> str:
    """Mean and sample standard deviation.

    Args:
        values: Of several runs.
        digits: After the point.

    Returns:
        A text.

    Example:
        >>> spread([98.0, 99.0])
        '98.50 ± 0.71'
    """
    mean, std = mean_std(values)
    if mean is None:
        return "-"
    return f"{mean:.{digits}f}" if std is None else f"{mean:.{digits}f} ± {std:.{digits}f}"


def mean_std(values: Iterable[float | None]) -> tuple[float | None, float | None]:
    """Mean and sample (n - 1) standard deviation of what is there.

    Args:
        values: Of several runs; None is left out.

    Returns:
        Both, or None where there are too few values.
    """
    known = [value for value in values if value is not None]
    if not known:
        return None, None
    mean = sum(known) / len(known)
    if len(known) < 2:
        return mean, None
    return mean, (sum((value - mean) ** 2 for value in known) / (len(known) - 1)) ** 0.5


def recipes_table(recipes: Iterable[Recipe]) -> Any:
    """Every experiment on a few lines.

    Args:
        recipes: The recipes.

    Returns:
        A rich table.
    """
    table = new_table("Experiments of bitbayes train", "recipe", "data and network", "epochs")
    table.add_column("rules", justify="left", ratio=1)
    table.add_column("published test accuracy", justify="left")
    table.columns[1].justify = "left"
    table.caption = f"Every recipe also has {', '.join(DEFAULTS)}, the setting that needs no search."
    for recipe in recipes:
        published = "\n".join(f"{rule} {figure}" for rule, figure in recipe.published.items())
        quick = "" if recipe.quick_epochs in (None, recipe.epochs) else f"\nquick {recipe.quick_epochs}"
        table.add_row(
            recipe.name,
            f"{recipe.title}\n({recipe.source})",
            f"{recipe.epochs}{quick}",
            ", ".join(recipe.rules),
            published or "-",
            end_section=True,
        )
    return table


def summary_table(summary: Mapping[str, Any], folder: Path) -> Any:
    """What a run has reached.

    Args:
        summary: Content of summary.json.
        folder: Of the run.

    Returns:
        A rich table.
    """
    estimator = f" ({summary['estimator']})" if summary.get("estimator") else ""
    title = f"{summary['recipe']}, {summary['rule']}{estimator}, seed {summary['seed']}"
    table = new_table(title, "", "mode", "one sample", "mean of samples", caption=f"files in {folder}")
    best = f"at epoch {summary['best_epoch']}"
    if summary.get("test_accuracy") is not None:
        drawn = (number(summary.get(f"{kind}_test_accuracy")) for kind in ("sample", "mean"))
        table.add_row(f"test accuracy {best}", number(summary["test_accuracy"]), *drawn)
    if summary.get("test_error") is not None:
        mean = number(summary.get("mean_test_error"), 4)
        table.add_row("test squared error", number(summary["test_error"], 4), "", mean)
    if summary.get("test_nll") is not None:
        mean = number(summary.get("mean_test_nll"), 4)
        table.add_row("test negative log-likelihood", number(summary["test_nll"], 4), "", mean)
    if summary["last_test_accuracy"] is not None:
        label = f"test accuracy at epoch {summary['epochs_done']}"
        table.add_row(label, number(summary["last_test_accuracy"]))
    if summary.get("val_accuracy") is not None:
        table.add_row(f"validation accuracy {best}", number(summary["val_accuracy"]))
    if summary.get("posterior_entropy_bits") is not None:
        table.add_row("entropy of a weight, bits", "", "", number(summary["posterior_entropy_bits"], 4))
    table.add_row("binary weights", number(summary["binary_weights"], 0))
    sizes = f"{summary['bytes_32_bit']:,} / {summary['bytes_1_bit']:,}"
    table.add_row("bytes at 32 / 1 bit a weight", sizes)
    table.add_row(f"seconds an epoch ({summary['precision']})", number(summary["seconds_per_epoch"]))
    return table


def evaluation_table(found: Mapping[str, Any]) -> Any:
    """Mode and mean of a run side by side.

    Args:
        found: Content of evaluation.json.

    Returns:
        A rich table.
    """
    title = f"{found['recipe']}, {found['rule']}: test data"
    names = [name for name in ("mode", "mean") if name in found]
    heads = {"mode": "mode", "mean": f"mean of {found.get('samples')}"}
    caption = f"entropy of a weight: {number(found.get('posterior_entropy_bits'), 4)} bits"
    table = new_table(title, "", *(heads[name] for name in names), caption=caption)
    for key in dict.fromkeys(key for name in names for key in found[name]):
        digits = 2 if key == "accuracy" else 4
        table.add_row(key, *(number(found[name].get(key), digits) for name in names))
    return table


def tuned_table(recipe: str, rows: Sequence[Mapping[str, Any]]) -> Any:
    """The trials of a search, best first.

    Args:
        recipe: Its name.
        rows: Content of tune.json.

    Returns:
        A rich table.
    """
    names = list(rows[0]["settings"])
    caption = "trial0 has the recipe's settings"
    table = new_table(f"{recipe}: {len(rows)} trials", "trial", *names, "validation, %", caption=caption)
    for row in rows:
        values = (f"{row['settings'][name]:.4g}" for name in names)
        table.add_row(row["folder"], *values, number(row["accuracy"], missing="failed"))
    return table
