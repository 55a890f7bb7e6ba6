"""Tables of results, for the terminal and as markdown files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bitbayes.lab.recipes import Recipe
from bitbayes.lab.report.tables import new_table, number, spread
from bitbayes.lab.studies.tables import TABLES, TableRow
from bitbayes.lab.train import RunFolder

__all__ = ["markdown", "results_table", "seeds_table", "write_results"]


def _rows(columns: Sequence[str], recipe: Recipe, rows: Sequence[TableRow]) -> tuple[list[str], list[list[str]]]:
    if not recipe.loss.classifies:
        return _error_rows(rows)
    keys = {"train": "train_accuracy", "validation": "val_accuracy", "test": "test_accuracy"}
    heads = ["rule"]
    for column in columns:
        heads += [column, "published"] if recipe.published else [column]
    heads += ["one sample", "mean of samples", "bits a weight", "NLL", "s/epoch"]
    lines = []
    for row in rows:
        published = recipe.published.get(row.rule)
        line = [row.rule]
        for column in columns:
            line.append(spread(row.values(keys[column])))
            if recipe.published:
                both = column == "test" and published is not None
                line.append(str(published) if both else number(getattr(published, column, None)))
        line.append(spread(row.values("sample_test_accuracy")))
        line.append(spread(row.values("mean_test_accuracy")))
        line.append(spread(row.values("posterior_entropy_bits"), 3))
        line.append(spread(row.values("test_nll"), 3))
        line.append(spread(row.values("seconds_per_epoch"), 1))
        lines.append(line)
    return heads, lines


def _error_rows(rows: Sequence[TableRow]) -> tuple[list[str], list[list[str]]]:
    keys = {"test_error": 4, "mean_test_error": 4, "posterior_entropy_bits": 3}
    heads = ["rule", "squared error", "mean of samples", "bits a weight"]
    return heads, [[row.rule, *(spread(row.values(key), digits) for key, digits in keys.items())] for row in rows]


def _caption(recipe: Recipe, rows: Sequence[TableRow]) -> str:
    summary = rows[0].summaries[0]
    runs = len(rows[0].summaries)
    best = {
        "validation": "the best validation epoch",
        "test": "the best test epoch of the mean of samples (VISPA's paper), trained on all of the training data",
    }
    protocol = summary.protocol
    # Data without a validation part are trained on to the end.
    when = "the last epoch" if protocol == "validation" and summary.val_accuracy is None else best[protocol]
    ours = f"Ours: {runs} runs of {summary.epochs} epochs, mean and sample standard deviation, mode at {when}."
    return f"{ours} Published: {recipe.source}, {recipe.epochs} epochs." if recipe.published else ours


def results_table(name: str, recipe: Recipe, rows: Sequence[TableRow]) -> Any:
    """The table for the terminal.

    Args:
        name: Of the table.
        recipe: Its recipe.
        rows: One a rule.

    Returns:
        A rich table.
    """
    return _table(f"{name}: test data of {recipe.title}", TABLES[name].columns, recipe, rows)


def seeds_table(recipe: Recipe, row: TableRow) -> Any:
    """One rule over several seeds, for the terminal.

    Args:
        recipe: What was trained.
        row: The runs.

    Returns:
        A rich table.
    """
    return _table(recipe.title, ("train", "validation", "test"), recipe, [row])


def _table(title: str, columns: Sequence[str], recipe: Recipe, rows: Sequence[TableRow]) -> Any:
    heads, lines = _rows(columns, recipe, rows)
    table = new_table(title, *heads, caption=_caption(recipe, rows))
    for line in lines:
        table.add_row(*line)
    return table


def markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A markdown table.

    Args:
        heads: Headings.
        lines: Cells.

    Returns:
        Its text.

    Example:
        >>> print(markdown(["rule", "test"], [["ste", "98.4"]]))
        | rule | test |
        | --- | ---: |
        | ste | 98.4 |
    """
    marks = ["---"] + ["---:"] * (len(heads) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [heads, marks, *lines])


def write_results(name: str, recipe: Recipe, rows: Sequence[TableRow], folder: Path) -> tuple[Path, Path]:
    """Writes NAME.json and NAME.md, and results.json with the same figures.

    Args:
        name: Of the table.
        recipe: Its recipe.
        rows: One a rule.
        folder: Where to.

    Returns:
        The paths of results.json and of the markdown file.
    """
    heads, lines = _rows(TABLES[name].columns, recipe, rows)
    text = f"# {name}: {recipe.title}\n\n{markdown(heads, lines)}\n\n{_caption(recipe, rows)}\n"
    files = RunFolder(folder)
    figures = [row.figures() for row in rows]
    for entry in figures:
        published = recipe.published.get(entry["rule"])
        entry["published"] = None if published is None else vars(published)
    files.write_json("results.json", {"table": name, "recipe": recipe.name, "rows": figures})
    files.write_text(f"{name}.md", text)
    return folder / "results.json", folder / f"{name}.md"
