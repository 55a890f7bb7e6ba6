"""Test accuracy of the released estimator on the published schedule, beside the mean of the paper's five runs."""

import statistics

from matplotlib.figure import Figure
from parts.dots import results
from style import BLUE, INK, LINE, MUTED, new_figure


def draw() -> Figure:
    """Return five thin curves, their mean, and the published means."""
    figure, axes = new_figure(height=2.9, width=6.0)
    axis, found = axes[0, 0], results("mnist-curve")
    epochs, curves = found["epochs"], list(found["seeds"].values())
    for curve in curves:
        axis.plot(epochs, curve, "o-", color=BLUE, alpha=0.3, markersize=4, linewidth=1, markeredgewidth=0)
    mean = [statistics.mean(values) for values in zip(*curves, strict=True)]
    axis.plot(epochs, mean, "o-", color=BLUE, markersize=7, label="mean of five seeds")
    axis.plot(epochs, found["published"], "D", color=INK, markersize=8, markerfacecolor="none", label="published mean")
    axis.grid(color=LINE, linewidth=0.7)
    axis.set(xlabel="epoch of 500", ylabel="test accuracy, %", xticks=epochs)
    axis.legend(loc="lower right", labelcolor=MUTED)
    return figure
