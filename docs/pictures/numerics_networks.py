"""How confident a network can be whose logits have mean 0 and variance 1 over the data, with and without a scale."""

import numpy as np
from matplotlib.figure import Figure
from style import BLUE, GREEN, INK, LINE, MUTED, PURPLE, new_figure


def draw() -> Figure:
    """Return one panel: the largest probability of the right class, for balanced and perfectly separated classes."""
    figure, axes = new_figure(width=6.0, height=2.8)
    axis = axes[0, 0]
    classes = np.arange(2, 101)
    right, others = np.sqrt(classes - 1.0), -1 / np.sqrt(classes - 1.0)
    for scale, shade, label in ((1, BLUE, "no scale"), (2, PURPLE, "logit scale 2"), (4, GREEN, "logit scale 4")):
        margin = scale * (right - others)
        axis.plot(classes, 1 / (1 + (classes - 1) * np.exp(-margin)), color=shade, label=label)
    axis.plot(10, 1 / (1 + 9 * np.exp(-10 / 3)), "o", color=BLUE)
    line = {"arrowstyle": "-", "color": INK}
    axis.annotate("ten classes: 0.757", (10, 0.757), (22, 0.68), color=MUTED, arrowprops=line)
    axis.grid(color=LINE, linewidth=0.7)
    axis.set(xlabel="classes", ylabel="largest probability", ylim=(0.6, 1.02))
    axis.legend(loc="center right", labelcolor=MUTED)
    return figure
