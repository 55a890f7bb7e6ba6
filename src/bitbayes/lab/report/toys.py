"""Tables of the small experiments: two moons, Snelson's data, and the digits of the demo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bitbayes.lab.report.tables import new_table, number, spread
from bitbayes.lab.studies.tables import TableRow

_RULES = {"bayesbinn": "BayesBiNN", "ste": "STE (Adam)", "full-precision": "full precision (Adam)"}


def moons_table(figures: dict[str, Any]) -> Any:
    """Return the table of two moons from the content of results.json."""
    table = new_table("Two moons, 1,000 fresh points", "", "STE", "mode", "mean")
    table.add_row(
        "accuracy",
        number(figures["ste_accuracy"], 3),
        number(figures["mode_accuracy"], 3),
        number(figures["mean_accuracy"], 3),
    )
    for place in ("on_data", "on_ring"):
        label = "entropy on the data" if place == "on_data" else "entropy on a ring of radius 4"
        table.add_row(label, "", "", number(figures[f"entropy_{place}"], 3))
    table.add_row("ratio of the entropies", "", "", number(figures["entropy_ratio"], 1))
    return table


def snelson_table(figures: dict[str, Any]) -> Any:
    """Return the table of Snelson's data from the content of results.json."""
    generated = figures["source"] == "generated"
    table = new_table(
        f"{'Generated data with a gap' if generated else 'Snelson data'}, squared error on held-out points",
        "split",
        "STE",
        "mode",
        "mean",
        "inside 2 std, %",
        caption=f"data: {figures['source']}",
    )
    rows = [(str(index), row) for index, row in enumerate(figures["splits"])]
    if len(rows) > 1:
        rows.append(("mean", figures["mean_of_splits"]))
    for label, row in rows:
        table.add_row(
            label,
            number(row["ste_error"], 4),
            number(row["mode_error"], 4),
            number(row["mean_error"], 4),
            number(row["inside_two_std"], 1),
        )
    return table


def digits_table(rows: Sequence[TableRow], examples: int) -> Any:
    """Return the table of the demo's rules on the digits, with so many training examples."""
    heads = ("test accuracy", "NLL", "mean of 10", "NLL of the mean", "32 bits", "1 bit")
    table = new_table(
        f"8x8 digits ({examples:,} scans to train on)",
        "rule",
        *heads,
        caption="percent at the best validation epoch, mean and standard deviation over seeds; sizes in bytes",
    )
    for row in rows:
        first = row.summaries[0]
        table.add_row(
            _RULES[row.rule],
            spread(row.values("test_accuracy")),
            spread(row.values("test_nll"), 3),
            spread(row.values("mean_test_accuracy")),
            spread(row.values("mean_test_nll"), 3),
            number(first["bytes_32_bit"], 0),
            "-" if row.rule == "full-precision" else number(first["bytes_1_bit"], 0),
        )
    return table
