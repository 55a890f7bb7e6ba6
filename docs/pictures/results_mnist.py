"""Test accuracy of every rule on MNIST: three seeds, their mean, and the figure of the BayesBiNN paper."""

from matplotlib.figure import Figure
from parts.dots import colour, dots, hollow, results
from style import BLUE, BOX, INK, MUTED, new_figure

_NAMES = {
    "full-precision": "full precision",
    "ste": "STE, Adam",
    "bop": "Bop",
    "bop2": "second-order Bop",
    "pmf": "PMF",
    "md": "mirror descent",
    "proxquant": "ProxQuant",
    "adaste": "AdaSTE",
    "bayesbinn:released": "BayesBiNN, released",
    "bayesbinn:straight-through": "BayesBiNN, tuned",
    "vispa": "VISPA, K = 4",
}


def draw() -> Figure:
    """Return one dot plot, with the most accurate rule at the top."""
    found = sorted(results("mnist-quick")["rows"], key=lambda row: -row["test"]["mean"])
    figure, axes = new_figure(height=3.9)
    axis = axes[0, 0]
    dots(axis, [(_NAMES[row["rule"]], colour(row["rule"]), row["test"]["values"]) for row in found])
    hollow(axis, [row["published"] and row["published"]["test"] for row in found])
    axis.set(xlabel="test accuracy, %", title="MNIST, ten epochs")
    axis.plot([], [], "o", color=BLUE, markersize=8, label="mean of three seeds")
    axis.plot([], [], "o", color=BLUE, markersize=4, alpha=0.45, markeredgewidth=0, label="one seed")
    axis.plot([], [], "D", markersize=6, markerfacecolor="none", markeredgecolor=INK, label="published, 500 epochs")
    axis.legend(loc="lower right", labelcolor=MUTED, fontsize=9, labelspacing=0.3, **BOX)
    return figure
