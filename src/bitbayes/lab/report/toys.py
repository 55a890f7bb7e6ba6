"""Tables of the small experiments: two moons, Snelson's data, and the digits of the demo."""

from __future__ import annotations

from collections.abc import Sequence

from bitbayes.lab.report.results import measured
from bitbayes.lab.studies.tables import TableRow
from bitbayes.lab.studies.toys import MoonsFigures, SnelsonFigures
from bitbayes.table import Table, number

_RULES = {"bayesbinn": "BayesBiNN", "ste": "STE (Adam)", "full-precision": "full precision (Adam)"}


def moons_table(figures: MoonsFigures) -> Table:
    """Return what was measured on two moons."""
    accuracies = (figures.ste_accuracy, figures.mode_accuracy, figures.mean_accuracy)
    rows = [
        ["accuracy", *(number(accuracy, 3) for accuracy in accuracies)],
        ["entropy on the data", "", "", number(figures.entropy_on_data, 3)],
        ["entropy on a ring of radius 4", "", "", number(figures.entropy_on_ring, 3)],
        ["ratio of the entropies", "", "", number(figures.entropy_ratio, 1)],
    ]
    return Table("Two moons, 1,000 fresh points", ["", "STE", "mode", "mean"], rows)


def snelson_table(figures: SnelsonFigures) -> Table:
    """Return what was measured on Snelson's data."""
    splits = [(str(index), split) for index, split in enumerate(figures.splits)]
    splits += [("mean", figures.mean_of_splits)] if len(splits) > 1 else []
    rows = []
    for label, split in splits:
        errors = (split.ste_error, split.mode_error, split.mean_error)
        rows.append([label, *(number(error, 4) for error in errors), number(split.inside_two_std, 1)])
    data = "Generated data with a gap" if figures.source == "generated" else "Snelson data"
    heads = ["split", "STE", "mode", "mean", "inside 2 std, %"]
    return Table(f"{data}, squared error on held-out points", heads, rows, f"data: {figures.source}")


def digits_table(rows: Sequence[TableRow], examples: int) -> Table:
    """Return what the demo has reached on the 8x8 digits, with so many training examples."""
    cells = []
    for row in rows:
        first = row.summaries[0]
        packed = number(first.bytes_1_bit, 0) if first.binary_weights else "-"
        figures = measured(row, "test", "NLL", "mean of samples", "NLL of the mean")
        cells.append([_RULES[row.rule], *figures, number(first.bytes_32_bit, 0), packed])
    heads = ["rule", "test accuracy", "NLL", "mean of 10", "NLL of the mean", "32 bits", "1 bit"]
    caption = "percent at the best validation epoch, mean and standard deviation over seeds; sizes in bytes"
    return Table(f"8x8 digits ({examples:,} scans to train on)", heads, cells, caption)
