"""Test accuracy on CIFAR-10 by the number of epochs; half of those of a binary network are float epochs."""

from matplotlib.figure import Figure
from parts.dots import colour, results
from style import LINE, MUTED, new_figure

_LABELS = {"full-precision": "float network", "ste": "STE", "bayesbinn:straight-through": "BayesBiNN"}


def draw() -> Figure:
    """Return one line for each rule, with a bar of the sample standard deviation where there are several seeds."""
    figure, ((axis,),) = new_figure(height=3.4, width=6.4)
    points = results("cifar10-speed-curve")["schedules"]
    lengths = sorted({row["epochs"] for row in points})
    for rule, label in _LABELS.items():
        rows = [row for row in points if row["rule"] == rule]
        epochs, tests = [row["epochs"] for row in rows], [row["test"] for row in rows]
        means, bars = [test["mean"] for test in tests], [test["std"] or 0.0 for test in tests]
        axis.errorbar(epochs, means, bars, color=colour(rule), marker="o", markersize=7, capsize=3, label=label)
    axis.set_xscale("log")
    axis.set_xticks(lengths, [str(length) for length in lengths])
    axis.minorticks_off()
    axis.grid(color=LINE, linewidth=0.7)
    axis.set(xlabel="epochs in all", ylabel="test accuracy, %")
    axis.legend(loc="lower right", labelcolor=MUTED)
    return figure
