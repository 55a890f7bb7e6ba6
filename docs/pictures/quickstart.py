"""Two moons as the quickstart learns them: the probability of a class by the mode, and by the mean of 16 samples."""

import style
import torch
from matplotlib.figure import Figure
from parts import guides

import bitbayes as bb

SIDE, REACH = 51, 2.2
LEVELS = (0.55, 0.65, 0.75, 0.85, 0.95)  # each level adds one layer of colour


def draw() -> Figure:
    """Return two panels with the same points."""
    found = guides.names_after("quickstart", 6)
    model, posterior, x, y = (found[name] for name in ("model", "posterior", "x", "y"))
    line = torch.linspace(-REACH, REACH, SIDE)
    plane = torch.cartesian_prod(line, line)
    predictions = {
        "The mode is certain in most of the plane": bb.predict(model, plane),
        "The mean of 16 samples is uncertain in more of it": bb.predict(
            model, plane, posterior, samples=16, batches=x.split(100)
        ),
    }
    figure, ((left, right),) = style.new_figure(1, 2, width=7.6, height=3.9)
    for axes, (title, prediction) in zip((left, right), predictions.items(), strict=True):
        for label, colour, marker in ((0, style.BLUE, "o"), (1, style.ORANGE, "^")):
            probability = prediction.probs[:, label].view(SIDE, SIDE).T.numpy()
            for level in LEVELS:
                axes.contourf(line, line, probability, levels=[level, 1.01], colors=[colour], alpha=0.13)
            shown = x[y == label][:100].T.numpy()
            axes.scatter(*shown, s=9, color=colour, marker=marker, linewidth=0)
        axes.contour(line, line, probability, levels=[0.5], colors=[style.INK], linewidths=0.8)
        axes.set_title(title, fontsize=9.5)
        axes.set(aspect="equal", xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    note = "stronger colour = more certain of this class; line = both classes equally likely"
    figure.supxlabel(note, fontsize=9, color=style.MUTED)
    return figure
