"""Time for one input with 32 networks, over one pass of one network, as `docs/results/speed.json` holds it."""

import json

import speed
import style
from matplotlib.figure import Figure

COLOURS = (style.BLUE, style.GREEN)


def draw() -> Figure:
    """Draw an ensemble that computes in torch beside one that computes with bits, for every network."""
    table = json.loads(speed.KEPT.read_text(encoding="utf-8"))["tables"]["one input"]
    rows, columns = table["rows"], table["columns"]
    figure, ((axis,),) = style.new_figure(height=2.8)
    for index, colour in enumerate(COLOURS):
        for place, values in enumerate(rows.values()):
            value, at = values[index], place + 0.38 * index - 0.19
            axis.barh(at, value, 0.34, color=colour, label=columns[index] if place == 0 else None)
            text = f"{value}×" if isinstance(value, int) else f"{value:.2f}×"
            axis.annotate(text, (value, at), (3, 0), textcoords="offset points", va="center", fontsize=8)
    axis.set(yticks=range(len(rows)), yticklabels=list(rows), ylim=(len(rows) - 0.4, -0.6), xlim=(0, 36))
    axis.set_xlabel("time, × that of one forward pass of one float32 network")
    axis.tick_params(axis="y", length=0, labelcolor=style.INK)
    axis.set_title("One input, 32 networks, by sizes of the layers", loc="left")
    axis.legend(loc="upper right")
    return figure
