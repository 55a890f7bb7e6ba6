"""Accuracy of a small binary transformer by setting, as `docs/results/transformer.json` holds it."""

from matplotlib.figure import Figure
from parts.dots import dots, results
from style import BLUE, INK, MUTED, ORANGE, new_figure

_COLOURS = {"none": INK, "random": MUTED, "STE": ORANGE, "BayesBiNN": BLUE}


def draw() -> Figure:
    """Draw a dot for every network, and a row for every setting."""
    figure, ((axis,),) = new_figure(height=3.0)
    rows = []
    for label, row in results("transformer")["transformers"].items():
        colour = next(colour for start, colour in _COLOURS.items() if label.startswith(start))
        name = label.replace("none:", "float network:").replace("first |λ|", "initial |λ|")
        rows.append((name, colour, row["accuracy"]))
    dots(axis, rows)
    axis.set(xlabel="test accuracy, % (chance is 12.5)", xlim=(0, 103))
    return figure
