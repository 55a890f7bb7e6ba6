"""Time to predict with 32 networks, over 32 passes of one network, as `docs/results/speed.json` holds it."""

import json

import speed
import style
from matplotlib.figure import Figure

SHOWN = {"bb.predict": style.BLUE, "in bfloat16": style.ORANGE, "packed once": style.GREEN}


def draw() -> Figure:
    """Draw `bb.predict` in float32 and bfloat16 beside the packed file, for every network and count of inputs."""
    table = json.loads(speed.KEPT.read_text(encoding="utf-8"))["tables"]["prediction"]
    rows = table["rows"]
    figure, ((axis,),) = style.new_figure(height=3.6)
    back = {"facecolor": style.PAPER, "edgecolor": "none", "pad": 0.6}  # the dashed line stays behind the text
    for shift, (column, colour) in zip((-0.27, 0, 0.27), SHOWN.items(), strict=True):
        for place, values in enumerate(rows.values()):
            value = values[table["columns"].index(column)]
            axis.barh(place + shift, value, 0.25, color=colour, label=column if place == 0 else None)
            text = f"{value}×" if isinstance(value, int) else f"{value:.2f}×"
            at = (value, place + shift)
            axis.annotate(text, at, (3, 0), textcoords="offset points", va="center", fontsize=8, bbox=back)
    axis.axvline(1, color=style.MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
    above = axis.get_xaxis_transform()
    axis.text(1, 1.01, "= 32 passes", color=style.MUTED, fontsize=8, ha="center", va="bottom", transform=above)
    names = [name.replace(" | ", ", ") + (" input" if name.endswith(" 1") else " inputs") for name in rows]
    axis.set(yticks=range(len(rows)), yticklabels=names, ylim=(len(rows) - 0.4, -0.6), xlim=(0, 13.5))
    axis.set_xlabel("time, × that of 32 forward passes of one float32 network")
    axis.tick_params(axis="y", length=0, labelcolor=style.INK)
    axis.set_title("Predicting with 32 networks, by hidden layers and inputs", loc="left", pad=16)
    axis.legend(loc="lower right")
    return figure
