"""Dot plots of the result files: one row for each rule, a small dot for each seed, a large one for their mean."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from style import BLUE, GREEN, INK, LINE, MUTED, ORANGE, PURPLE

_RESULTS = Path(__file__).resolve().parents[2] / "results"
_COLOURS = {"full-precision": MUTED, "ste": ORANGE, "bayesbinn": BLUE, "vispa": PURPLE}

Row = tuple[str, str, Sequence[float]]
"""Label, colour, and the value of every seed."""


def results(name: str) -> Any:
    """Return the content of docs/results/NAME.json."""
    return json.loads((_RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def colour(rule: str) -> str:
    """Return the colour that a rule has in all pictures; its estimator or variant does not change it."""
    return _COLOURS.get(rule.partition(":")[0], GREEN)


def dots(axis: Axes, rows: Sequence[Row], labels: bool = True) -> None:
    """Draw the rows from top to bottom; a row without values stays empty."""
    for place, (_, shade, values) in enumerate(rows):
        if values:
            axis.plot([min(values), max(values)], [place, place], color=shade, linewidth=1.5, alpha=0.45)
            axis.plot(values, [place] * len(values), "o", color=shade, markersize=4, alpha=0.45, markeredgewidth=0)
            axis.plot(statistics.mean(values), place, "o", color=shade, markersize=8)
    axis.set_yticks(range(len(rows)), [label for label, *_ in rows] if labels else [""] * len(rows))
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.tick_params(axis="y", labelcolor=INK, length=0)
    axis.grid(axis="x", color=LINE, linewidth=0.7)
    axis.set_axisbelow(True)


def hollow(axis: Axes, values: Sequence[float | None], shade: str = INK) -> None:
    """Draw a hollow diamond in each row that has a value, such as a published figure."""
    for place, value in enumerate(values):
        if value is not None:
            axis.plot(value, place, "D", markersize=6, markerfacecolor="none", markeredgecolor=shade)
