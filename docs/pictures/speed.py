"""Time of a training step over that of the float32 network with fused Adam, as `docs/results/speed.json` holds it."""

import json
from pathlib import Path

import style
from matplotlib.figure import Figure

KEPT = Path(__file__).resolve().parent.parent / "results" / "speed.json"


def draw() -> Figure:
    """Draw the whole steps in float32 and bfloat16, and the updates in float32, of all rules that have both."""
    tables = {name: table["rows"] for name, table in json.loads(KEPT.read_text(encoding="utf-8"))["tables"].items()}
    rules = [rule for rule in tables["float32"] if rule in tables["bfloat16"]]
    figure, ((left, right),) = style.new_figure(1, 2, width=8.0, height=3.4)
    back = {"facecolor": style.PAPER, "edgecolor": "none", "pad": 0.6}  # the dashed line stays behind the text
    for axis, column, title in ((left, 1, "Whole training step"), (right, 0, "Update of the optimizer alone")):
        for shift, name, colour in ((-0.19, "float32", style.BLUE), (0.19, "bfloat16", style.ORANGE)):
            for place, rule in enumerate(rules):
                ends = tables[name][rule][column]
                low, high = ends if isinstance(ends, list) else (ends, ends)
                axis.barh(place + shift, high, 0.34, color=colour, label=name if place == 0 else None)
                text = f"{high:.2f}×" if low == high else f"{low:.2f}× to {high:.2f}×"
                at = (high, place + shift)
                axis.annotate(text, at, (3, 0), textcoords="offset points", va="center", fontsize=8, bbox=back)
        axis.axvline(1, color=style.MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
        axis.set_title(title, loc="left", pad=16)
        above = axis.get_xaxis_transform()
        axis.text(1, 1.01, "= Adam", color=style.MUTED, fontsize=8, ha="center", va="bottom", transform=above)
        axis.set(ylim=(len(rules) - 0.4, -0.6), xlabel="time, × that of fused Adam in float32")
        axis.tick_params(axis="y", length=0, labelcolor=style.INK)
    left.set(yticks=range(len(rules)), yticklabels=rules, xlim=(0, 1.75))
    right.set(yticks=[], xlim=(0, 8.2))
    right.legend(loc="center right")
    return figure
