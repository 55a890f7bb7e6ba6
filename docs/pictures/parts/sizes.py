"""Bars of sizes, from top to bottom, each with its number."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import style
from matplotlib.figure import Figure

_ROW = 0.55  # inches


def size_bars(
    title: str, bars: Mapping[str, tuple[float, str]], unit: tuple[str, float], label: Callable[[float], str]
) -> Figure:
    """Return a figure with a bar for each name.

    Args:
        title: Title of the figure.
        bars: Bytes and colour by name.
        unit: Name of the unit of the axis, and its bytes.
        label: Text at the end of a bar, from its bytes.
    """
    name, size_of_unit = unit
    figure, ((axis,),) = style.new_figure(height=0.3 + _ROW * len(bars))
    for place, (size, colour) in enumerate(bars.values()):
        axis.barh(place, size / size_of_unit, color=colour, height=0.6)
        end = (size / size_of_unit, place)
        axis.annotate(label(size), end, (5, 0), textcoords="offset points", va="center")
    largest = max(size for size, _ in bars.values()) / size_of_unit
    axis.set(yticks=range(len(bars)), yticklabels=bars, xlim=(0, 1.15 * largest), ylim=(len(bars) - 0.4, -0.6))
    axis.set_xlabel(f"size, {name}")
    axis.tick_params(axis="y", length=0, labelcolor=style.INK)
    axis.set_title(title, loc="left")
    return figure
