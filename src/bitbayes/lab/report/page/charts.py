"""The charts of the page, with bokeh. Colours of text and lines are the page's: its script sets them, light or dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bitbayes.errors import require
from bitbayes.lab.report.folders import BINS
from bitbayes.lab.report.series import Curve, PublishedCurves, ReliabilityPoints, mean_curve

COLOURS = (
    "#d1622b", "#2a7fc1", "#2b9563", "#c0478f", "#8a63d2", "#a37a0c", "#17919f", "#d9484f", "#7c8492", "#6a931d",
)  # fmt: skip
"""Colours of groups. Each has a contrast of at least 3 to 1 with white and with the dark page."""
MARKERS = ("circle", "square", "triangle", "diamond", "inverted_triangle", "hex", "star")
"""Markers of groups, for readers who cannot tell the colours apart."""
GREY = "#7c8492"
"""Colour of published figures."""
_MARKS = 12  # a curve: enough to know it by
_STEPS = ("#fde725", "#b5de2b", "#6ece58", "#35b779", "#1f9e89", "#26828e", "#31688e", "#3e4989", "#482878")  # viridis
_COLUMNS = 60  # of a map of beliefs: more evaluations are thinned


def mark(group: int) -> tuple[str, str]:
    """Return colour and marker of a group; there are 70 pairs.

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
    published: PublishedCurves | None = None,
    of: str = "",
    points: int = 20_000,
) -> Any:
    """Return a chart of lines over epochs, or over tasks.

    Args:
        curves: One for each run.
        y: Name of the vertical axis.
        x: Name of the horizontal axis.
        log: Whether the vertical axis is logarithmic; points at zero are then left out.
        published: Published runs, drawn in grey.
        of: Prefix of the tags by which the page shows and hides groups.
        points: About how many points there may be in all; longer curves are thinned, none below 20.
    """
    figure = _figure(x, y, log=log)
    if published is not None:
        shown = published.until(max(curve.epochs[-1] for curve in curves))
        epochs = list(range(1, len(shown.mean) + 1))
        figure.varea(epochs, shown.low, shown.high, fill_color=GREY, fill_alpha=0.3)
        figure.line(epochs, shown.mean, color=GREY, line_width=2, line_dash="dashed")
    count = max(20, min(500, points // max(len(curves), 1)))
    seen = [visible for curve in curves if (visible := _visible(curve, log)).epochs]
    hovered = []
    for group in sorted({curve.group for curve in seen}):
        runs = [curve for curve in seen if curve.group == group]
        main = runs[0] if len(runs) == 1 else mean_curve(runs)
        kept = [run.thinned(count) for run in runs]
        lines = [*kept, main.thinned(count)] if len(runs) > 1 else kept
        widths = {"width": [1.0] * (len(lines) - 1) + [2.5], "alpha": [0.55] * (len(lines) - 1) + [1.0]}
        hovered.append(_lines(figure, lines, of, widths, line_width="width", line_alpha="alpha"))
        few = main.thinned(_MARKS)
        _marks(figure, small(few.epochs), small(few.values), group, of, size=7)
    return _explained(figure, hovered, _tips(x, y))


def _visible(curve: Curve, log: bool) -> Curve:
    """Without what a logarithmic axis cannot show."""
    return Curve.through(curve.run, curve.group, [point for point in curve.points if point[1] > 0 or not log])


def histogram_chart(weights: Sequence[tuple[str, int, list[float]]], of: str = "") -> Any:
    """Return a chart of the weights over P[w = +1]; `weights` has names, numbers of groups, and percent in each bin."""
    x, y = "P[weight = +1]", "share of weights, %"
    figure = _figure(x, y, log=True, x_range=(0, 1))
    stairs = [i / BINS for i in range(BINS + 1) for _ in (0, 1)][1:-1]
    curves = [
        Curve(name, group, stairs, [value or float("nan") for value in percent for _ in (0, 1)])
        for name, group, percent in weights
    ]
    groups = [[curve for curve in curves if curve.group == group] for group in sorted({c.group for c in curves})]
    hovered = [_lines(figure, mine, of, line_width=1.5, line_alpha=0.9) for mine in groups]
    return _explained(figure, hovered, _tips(x, y))


def bins_chart(found: Sequence[ReliabilityPoints], of: str = "") -> Any:
    """Return a reliability diagram."""
    figure = _figure("confidence", "accuracy", x_range=(0, 1.02), y_range=(0, 1.02))
    figure.line([0, 1], [0, 1], color=GREY, line_dash="dashed")
    hovered = []
    for bins in found:
        curve = Curve(f"{bins.run}, {bins.kind}", bins.group, bins.confidence, bins.accuracy)
        dash = "solid" if bins.kind == "mean" else "dotted"
        hovered.append(_lines(figure, [curve], of, line_width=1.5, line_dash=dash))
        _marks(figure, bins.confidence, bins.accuracy, bins.group, of, size=6)
    return _explained(figure, hovered, _tips("confidence", "accuracy"))


def _lines(
    figure: Any, curves: Sequence[Curve], of: str, columns: Mapping[str, Any] | None = None, **style: Any
) -> Any:
    """Draw curves of one group, which are shown and hidden together."""
    data = {"x": [small(curve.epochs) for curve in curves], "y": [small(curve.values) for curve in curves]}
    data |= {"run": [curve.run for curve in curves], **(columns or {})}
    source = require("bokeh.models", "report").ColumnDataSource(data)
    lines = figure.multi_line("x", "y", source=source, color=mark(curves[0].group)[0], **style)
    lines.tags = [f"{of}{curves[0].group}"]
    return lines


def _marks(figure: Any, x: Any, y: Any, group: int, of: str, size: int) -> None:
    colour, marker = mark(group)
    figure.scatter(x, y, color=colour, marker=marker, size=size).tags = [f"{of}{group}"]


def matrix_map(rows: Sequence[Sequence[float]]) -> Any:
    """Return a map of the accuracy on every task after every task, from the rows of the matrix."""
    models = require("bokeh.models", "report")
    names = [str(i + 1) for i in range(len(rows))]
    cells = [(str(i + 1), str(t + 1), value) for t, row in enumerate(rows) for i, value in enumerate(row)]
    lowest = min(value for *_, value in cells)
    mapper = models.LinearColorMapper(palette=_STEPS[::-1], low=lowest, high=max(100.0, lowest + 1.0))
    figure = _figure("accuracy on task", "after training on task", x_range=names, y_range=names[::-1])
    tasks, after, values = (list(column) for column in zip(*cells, strict=True))
    ink = ["#ffffff" if value < lowest + 0.5 * (mapper.high - lowest) else "#000000" for value in values]
    texts = [f"{value:.1f}" for value in values]
    columns = {"task": tasks, "after": after, "value": values, "text": texts, "ink": ink}
    source = models.ColumnDataSource(columns)
    boxes = figure.rect("task", "after", 1, 1, source=source, line_color=None)
    boxes.glyph.fill_color = {"field": "value", "transform": mapper}
    if len(rows) <= 12:
        options = {"text_align": "center", "text_baseline": "middle", "text_color": "ink", "text_font_size": "12px"}
        figure.text("task", "after", "text", source=source, **options)
    figure.grid.visible = False
    tips = [("accuracy on task", "@task"), ("after training on task", "@after"), ("accuracy, %", "@value{0.00}")]
    return _explained(figure, [boxes], tips, mapper)


def belief_map(beliefs: Sequence[tuple[float, list[float]]]) -> Any:
    """Return a map of the weights over P[w = +1] by epoch; parts without weights are not drawn."""
    models = require("bokeh.models", "report")
    last = len(beliefs) - 1
    count = min(_COLUMNS, last)
    shown = [beliefs[round(last * i / count)] for i in range(count + 1)]
    ends = [epoch for epoch, _ in shown]
    starts = [max(0.0, 2 * ends[0] - ends[1]), *ends[:-1]]
    cells = [
        (start, end, place / len(shares), (place + 1) / len(shares), share)
        for start, end, (_, shares) in zip(starts, ends, shown, strict=True)
        for place, share in enumerate(shares)
        if share > 0
    ]
    names = ("left", "right", "bottom", "top", "share")
    columns = {name: small(values) for name, values in zip(names, zip(*cells, strict=True), strict=True)}
    mapper = models.LogColorMapper(palette=require("bokeh.palettes", "report").viridis(64), low=0.1, high=100.0)
    figure = _figure("epoch", "P[weight = +1]", y_range=(0, 1))
    boxes = figure.quad("left", "right", "bottom", "top", source=models.ColumnDataSource(columns), line_color=None)
    boxes.glyph.fill_color = {"field": "share", "transform": mapper}
    figure.grid.visible = False
    bins = "@bottom{0.00} to @top{0.00}"
    tips = [("after epoch", "@right"), ("P[weight = +1]", bins), ("share of weights, %", "@share{0.000}")]
    return _explained(figure, [boxes], tips, mapper)


def _tips(x: str, y: str) -> list[tuple[str, str]]:
    return [("run", "@run"), (x, "$snap_x{0.[00]}"), (y, "$snap_y{0.[0000]}")]


def _explained(figure: Any, renderers: Sequence[Any], tips: list[tuple[str, str]], mapper: Any = None) -> Any:
    """Return the figure with the numbers under the pointer, and the scale of its colours if they stand for numbers."""
    models = require("bokeh.models", "report")
    if mapper is not None:
        figure.add_layout(models.ColorBar(color_mapper=mapper, width=8, background_fill_alpha=0), "right")
    figure.add_tools(models.HoverTool(renderers=list(renderers), tooltips=tips, visible=False))
    return figure


def small(values: Sequence[float]) -> Any:
    """Return numbers as float32, which take 5 characters each in the page, in place of 18."""
    return np.asarray(values, dtype=np.float32)


def _figure(x: str, y: str, *, log: bool = False, **ranges: Any) -> Any:
    """Return an empty chart with names of its axes; `ranges` are those of the axes, as bokeh takes them."""
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
    figure.axis.axis_label_text_font_style = "normal"
    figure.background_fill_color = figure.border_fill_color = None
    return figure


def embedded(figures: Mapping[str, Any]) -> tuple[str, dict[str, str], str]:
    """Return the script that makes all figures, the place of each by its name, and bokeh's own scripts, whole."""
    embed, resources = require("bokeh.embed", "report"), require("bokeh.resources", "report")
    document = require("bokeh.document", "report").Document()
    with document.models.freeze():  # counts all models once, not once for every figure
        for figure in figures.values():
            document.add_root(figure)
    script, places = embed.components(dict(figures), wrap_script=False)
    library = resources.Resources(mode="inline", components=["bokeh"]).js_raw
    return script, dict(places), "\n".join(library)
