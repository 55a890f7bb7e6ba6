"""The charts of the page, with bokeh. Colours of text and lines are the page's: its script sets them, light or dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bitbayes.errors import require
from bitbayes.lab.report.page.calibration import Bins
from bitbayes.lab.report.page.files import BINS
from bitbayes.lab.report.page.groups import Curve, mean_curve

__all__ = [
    "COLOURS",
    "GREY",
    "MARKERS",
    "Published",
    "base_figure",
    "bins_chart",
    "curve_chart",
    "embedded",
    "histogram_chart",
    "mark",
    "small",
]

COLOURS = (
    "#d1622b", "#2a7fc1", "#2b9563", "#c0478f", "#8a63d2", "#a37a0c", "#17919f", "#d9484f", "#7c8492", "#6a931d",
)  # fmt: skip
"""Of groups: each stands out from white and from the dark page by 3 to 1 or more, so a chart need not change them."""
MARKERS = ("circle", "square", "triangle", "diamond", "inverted_triangle", "hex", "star")
"""Of groups, for eyes that do not tell the colours apart."""
GREY = "#7c8492"
"""Of published figures."""
_MARKS = 12  # a curve: enough to know it by


@dataclass(frozen=True)
class Published:
    """Published runs.

    Args:
        low: Of all runs, by epoch from 1.
        mean: The same.
        high: The same.
        runs: How many they are.
    """

    low: list[float]
    mean: list[float]
    high: list[float]
    runs: int


def mark(group: int) -> tuple[str, str]:
    """Colour and marker of a group.

    Args:
        group: Its number; there are 70 pairs.

    Returns:
        Both.

    Example:
        >>> mark(1)
        ('#2a7fc1', 'square')
    """
    return COLOURS[group % len(COLOURS)], MARKERS[group % len(MARKERS)]


def curve_chart(
    curves: Sequence[Curve],
    *,
    y: str,
    x: str = "epoch",
    log: bool = False,
    published: Published | None = None,
    of: str = "",
    points: int = 20_000,
) -> Any:
    """Lines over epochs.

    Args:
        curves: One a run.
        y: Name of the vertical axis.
        x: Name of the horizontal axis.
        log: Whether the vertical axis is logarithmic; points at zero are then left out.
        published: Drawn in grey, as long as the curves or 10 epochs.
        of: Prefix of the tags by which the page shows and hides groups.
        points: About how many there may be in all; longer curves are thinned, none below 20.

    Returns:
        A bokeh figure.
    """
    models = require("bokeh.models", "report")
    figure = base_figure(x=x, y=y, log=log)
    if published is not None:
        longest = max(int(curve.epochs[-1]) for curve in curves)
        stop = min(len(published.mean), max(longest, 10))
        epochs = list(range(1, stop + 1))
        figure.varea(epochs, published.low[:stop], published.high[:stop], fill_color=GREY, fill_alpha=0.3)
        figure.line(epochs, published.mean[:stop], color=GREY, line_width=2, line_dash="dashed")
    count = max(20, min(500, points // max(len(curves), 1)))
    hovered = []
    for group in sorted({curve.group for curve in curves}):
        runs = [visible for curve in curves if curve.group == group and (visible := _visible(curve, log)) is not None]
        if not runs:
            continue
        colour, marker = mark(group)
        main = runs[0] if len(runs) == 1 else mean_curve(runs)
        kept = [run.thinned(count) for run in runs]
        lines = [*kept, main.thinned(count)] if len(runs) > 1 else kept
        columns: dict[str, Any] = {"x": [small(line.epochs) for line in lines]}
        columns["y"] = [small(line.values) for line in lines]
        columns["run"] = [line.run for line in lines]
        columns["width"] = [1.0] * (len(lines) - 1) + [2.5]
        columns["alpha"] = [0.55] * (len(lines) - 1) + [1.0]
        style = {"color": colour, "line_width": "width", "line_alpha": "alpha"}
        line = figure.multi_line("x", "y", source=models.ColumnDataSource(columns), **style)
        few = main.thinned(_MARKS)
        marks = figure.scatter(small(few.epochs), small(few.values), color=colour, marker=marker, size=7)
        line.tags = marks.tags = [f"{of}{group}"]
        hovered.append(line)
    return _hover(figure, hovered, x, y)


def _visible(curve: Curve, log: bool) -> Curve | None:
    """Without what a logarithmic axis cannot show."""
    points = [(at, value) for at, value in zip(curve.epochs, curve.values, strict=True) if value > 0 or not log]
    if not points:
        return None
    epochs, values = zip(*points, strict=True)
    return Curve(curve.run, curve.group, list(epochs), list(values))


def histogram_chart(weights: Sequence[tuple[str, int, list[float]]], of: str = "") -> Any:
    """Percent of the weights over P[w = +1].

    Args:
        weights: Name, number of the group, and percent in each bin.
        of: Prefix of the tags.

    Returns:
        A bokeh figure.
    """
    edges = [i / BINS for i in range(BINS + 1)]
    y = "percent of weights"
    figure = base_figure(x="P[weight = +1]", y=y, log=True, x_range=(0, 1))
    models = require("bokeh.models", "report")
    stairs = [edge for edge in edges for _ in (0, 1)][1:-1]
    hovered = []
    for chosen in sorted({group for _, group, _ in weights}):
        mine = [(name, percent) for name, group, percent in weights if group == chosen]
        columns: dict[str, Any] = {"x": [small(stairs)] * len(mine), "run": [name for name, _ in mine]}
        columns["y"] = [small([value or float("nan") for value in percent for _ in (0, 1)]) for _, percent in mine]
        colour, _ = mark(chosen)
        style = {"color": colour, "line_width": 1.5, "line_alpha": 0.9}
        line = figure.multi_line("x", "y", source=models.ColumnDataSource(columns), **style)
        line.tags = [f"{of}{chosen}"]
        hovered.append(line)
    return _hover(figure, hovered, "P[weight = +1]", y)


def bins_chart(found: Sequence[Bins], of: str = "") -> Any:
    """A reliability diagram.

    Args:
        found: Its points.
        of: Prefix of the tags.

    Returns:
        A bokeh figure.
    """
    figure = base_figure(x="confidence", y="accuracy", log=False, x_range=(0, 1.02), y_range=(0, 1.02))
    figure.line([0, 1], [0, 1], color=GREY, line_dash="dashed")
    models = require("bokeh.models", "report")
    hovered = []
    for bins in found:
        colour, marker = mark(bins.group)
        columns = {"x": [small(bins.confidence)], "y": [small(bins.accuracy)], "run": [f"{bins.run}, {bins.kind}"]}
        style = {"color": colour, "line_width": 1.5, "line_dash": "solid" if bins.kind == "mean" else "dotted"}
        line = figure.multi_line("x", "y", source=models.ColumnDataSource(columns), **style)
        marks = figure.scatter(bins.confidence, bins.accuracy, color=colour, marker=marker, size=6)
        line.tags = marks.tags = [f"{of}{bins.group}"]
        hovered.append(line)
    return _hover(figure, hovered, "confidence", "accuracy")


def small(values: Sequence[float]) -> Any:
    """Numbers that take 5 characters each in the page, in place of 18.

    Args:
        values: Any.

    Returns:
        The same in float32.
    """
    return np.asarray(values, dtype=np.float32)


def base_figure(*, x: str, y: str, log: bool, **ranges: Any) -> Any:
    """An empty chart.

    Args:
        x: Name of the horizontal axis.
        y: Name of the vertical axis.
        log: Whether the vertical axis is logarithmic.
        **ranges: Of the axes, as bokeh takes them.

    Returns:
        A bokeh figure.
    """
    plotting, models = require("bokeh.plotting", "report"), require("bokeh.models", "report")
    figure = plotting.figure(
        height=300,
        sizing_mode="stretch_width",
        tools="pan,box_zoom,wheel_zoom,reset,save",
        active_drag=None,  # a finger on a chart scrolls the page until a tool is chosen
        active_scroll=None,
        x_axis_label=x,
        y_axis_label=y,
        y_axis_type="log" if log else "auto",
        **ranges,
    )
    figure.toolbar.logo = None
    figure.toolbar.autohide = False
    if "x_range" not in ranges:
        figure.xaxis.ticker.min_interval = 1  # epochs and tasks are whole
    for name in ("x_range", "y_range"):
        if isinstance(getattr(figure, name), models.DataRange1d):
            getattr(figure, name).only_visible = True
    figure.background_fill_color = figure.border_fill_color = None
    return figure


def _hover(figure: Any, renderers: Sequence[Any], x: str, y: str) -> Any:
    models = require("bokeh.models", "report")
    tips = [("", "@run"), (x, "$snap_x{0.[00]}"), (y, "$snap_y{0.[0000]}")]
    figure.add_tools(models.HoverTool(renderers=list(renderers), tooltips=tips, visible=False))
    return figure


def embedded(figures: Mapping[str, Any]) -> tuple[str, dict[str, str], str]:
    """What a page needs to show figures.

    Args:
        figures: By name.

    Returns:
        The script that makes them, the place of each, and bokeh's own scripts, whole.
    """
    embed, resources = require("bokeh.embed", "report"), require("bokeh.resources", "report")
    document = require("bokeh.document", "report").Document()
    with document.models.freeze():  # counts all models once, not once for every figure
        for figure in figures.values():
            document.add_root(figure)
    script, places = embed.components(dict(figures), wrap_script=False)
    library = resources.Resources(mode="inline", components=["bokeh"]).js_raw
    return script, dict(places), "\n".join(library)
