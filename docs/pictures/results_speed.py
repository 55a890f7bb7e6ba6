"""Test accuracy after twenty epochs on CIFAR-10, beside the float networks that the binary ones begin with."""

from matplotlib.figure import Figure
from parts.dots import colour, dots, results
from style import new_figure


def draw() -> Figure:
    """Return a dot plot with a row for each rule, and one for the float networks of ten epochs."""
    found = results("cifar10-speed")
    rules = {row["rule"]: row for row in found["rows"]}
    bayes = rules["bayesbinn:straight-through"]
    rows = [
        ("float network, 10 epochs", colour("full-precision"), found["start"]["test"]["values"]),
        ("STE, 10 more epochs", colour("ste"), rules["ste"]["test"]["values"]),
        ("BayesBiNN, 10 more epochs", colour("bayesbinn"), bayes["test"]["values"]),
        ("BayesBiNN, mean of eight", colour("bayesbinn"), bayes["mean_test"]["values"]),
    ]
    figure, ((axis,),) = new_figure(height=2.2)
    dots(axis, rows)
    axis.set(xlabel="test accuracy, %")
    return figure
