"""How far the probabilities of the pretrained networks can be trusted, from the evaluation.json of each."""

import json

import style
from matplotlib.figure import Figure

import bitbayes as bb

_COLOURS = (style.BLUE, style.ORANGE, style.GREEN, style.PURPLE)


def draw() -> Figure:
    """Draw reliability diagrams, and accuracy on the inputs that a network is most certain of."""
    figure, axes = style.new_figure(1, 2, width=7.6, height=3.5)
    left, right = axes[0]
    left.plot([0, 1], [0, 1], color=style.MUTED, linewidth=1, linestyle="--")
    left.text(0.6, 0.47, "calibrated", color=style.MUTED, fontsize=9, rotation=38)
    for place, name in enumerate(bb.zoo.names()):
        found = json.loads((bb.zoo.folder(name) / "evaluation.json").read_text(encoding="utf-8"))
        colour = _COLOURS[place % len(_COLOURS)]
        points = [p for p in zip(*found["reliability"].values(), strict=True) if p[2] * found["examples"] >= 10]
        left.plot([p[0] for p in points], [p[1] for p in points], "o-", color=colour, markersize=3, label=name)
        share, accuracy = found["by_coverage"].values()
        right.plot([100 * s for s in share], [100 * a for a in accuracy], color=colour)
    left.set(xlabel="confidence", ylabel="share of right answers", title="Reliability on test data")
    left.set(xlim=(0.2, 1.01), ylim=(0, 1.02))
    left.legend(loc="upper left", fontsize=9)
    right.set(xlabel="% of the inputs answered, most certain first", ylabel="% of the answers right")
    right.set(title="Accuracy when doubtful inputs are refused", xlim=(0, 100))
    for each in (left, right):
        each.grid(True, linewidth=0.5)
        each.set_axisbelow(True)
    return figure
