"""Charts whose colours are numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bitbayes.errors import require
from bitbayes.lab.report.page.charts import base_figure, small
from bitbayes.lab.report.page.records import Stream

__all__ = ["belief_map", "heat_map"]

_STEPS = ("#fde725", "#b5de2b", "#6ece58", "#35b779", "#1f9e89", "#26828e", "#31688e", "#3e4989", "#482878")  # viridis
_COLUMNS = 60  # of a map of beliefs: more evaluations are thinned


def heat_map(stream: Stream) -> Any:
    """Accuracy on every task after every task.

    Args:
        stream: With at least one task.

    Returns:
        A bokeh figure.
    """
    models = require("bokeh.models", "report")
    rows = stream.matrix.rows
    names = [str(i + 1) for i in range(len(rows))]
    cells = [(str(i + 1), str(t + 1), value) for t, row in enumerate(rows) for i, value in enumerate(row)]
    lowest = min(value for *_, value in cells)
    palette = _STEPS[::-1]
    mapper = models.LinearColorMapper(palette=palette, low=lowest, high=max(100.0, lowest + 1.0))
    figure = base_figure(x="task", y="after task", log=False, x_range=names, y_range=names[::-1])
    tasks, after, values = (list(column) for column in zip(*cells, strict=True))
    dark = (value < lowest + 0.5 * (mapper.high - lowest) for value in values)
    columns = {"task": tasks, "after": after, "value": values, "text": [f"{value:.1f}" for value in values]}
    columns["ink"] = ["#ffffff" if one else "#000000" for one in dark]
    source = models.ColumnDataSource(columns)
    boxes = figure.rect("task", "after", 1, 1, source=source, line_color=None)
    boxes.glyph.fill_color = {"field": "value", "transform": mapper}
    if len(rows) <= 12:
        options = {"text_align": "center", "text_baseline": "middle", "text_color": "ink", "text_font_size": "12px"}
        figure.text("task", "after", "text", source=source, **options)
    figure.grid.visible = False
    tips = [("task", "@task"), ("after task", "@after"), ("accuracy, %", "@value{0.00}")]
    return _explained(figure, boxes, mapper, tips)


def belief_map(beliefs: Sequence[tuple[float, list[float]]]) -> Any:
    """How the weights are spread over P[w = +1], epoch by epoch.

    Args:
        beliefs: Epoch, and percent of the weights in equal parts of [0, 1], at two epochs or more.

    Returns:
        A bokeh figure; parts without weights are not drawn.
    """
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
    palette = require("bokeh.palettes", "report").viridis(64)
    mapper = models.LogColorMapper(palette=palette, low=0.1, high=100.0)
    figure = base_figure(x="epoch", y="P[weight = +1]", log=False, y_range=(0, 1))
    boxes = figure.quad("left", "right", "bottom", "top", source=models.ColumnDataSource(columns), line_color=None)
    boxes.glyph.fill_color = {"field": "share", "transform": mapper}
    figure.grid.visible = False
    tips = [("after epoch", "@right"), ("P[weight = +1]", "@bottom{0.00} to @top{0.00}"), ("percent", "@share{0.000}")]
    return _explained(figure, boxes, mapper, tips)


def _explained(figure: Any, boxes: Any, mapper: Any, tips: list[tuple[str, str]]) -> Any:
    """With the scale of the colours, and the number under the pointer."""
    models = require("bokeh.models", "report")
    figure.add_layout(models.ColorBar(color_mapper=mapper, width=8, background_fill_alpha=0), "right")
    figure.add_tools(models.HoverTool(renderers=[boxes], tooltips=tips, visible=False))
    return figure
