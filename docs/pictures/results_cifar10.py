"""Test accuracy on CIFAR-10 with real and with binary activations, of single networks and of means of ten samples."""

from matplotlib.figure import Figure
from parts.dots import colour, dots, results
from style import new_figure

_NAMES = {
    "full-precision": "full precision",
    "ste": "STE, Adam",
    "bop": "Bop",
    "bayesbinn:straight-through": "BayesBiNN, mode",
    "vispa": "VISPA, mode",
}
_MEANS = {"bayesbinn:straight-through": "BayesBiNN, mean of ten", "vispa": "VISPA, mean of ten"}


def draw() -> Figure:
    """Return two dot plots side by side, with the same rows."""
    figure, axes = new_figure(1, 2, height=3.0)
    titles = {"cifar10-small": "W1A32: real activations", "cifar10-small-w1a1": "W1A1: binary activations"}
    for axis, (name, title) in zip(axes[0], titles.items(), strict=True):
        found = {row["rule"]: row for row in results(name)["rows"]}
        rows = [(label, colour(rule), found[rule]["test"]["values"]) for rule, label in _NAMES.items()]
        rows += [(label, colour(rule), found[rule]["mean_test"]["values"]) for rule, label in _MEANS.items()]
        dots(axis, rows, labels=name == "cifar10-small")
        axis.set(xlabel="test accuracy, %", title=title)
    return figure
