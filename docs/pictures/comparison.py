"""What each library does: the table of `docs/comparison.md`, drawn as dots."""

from matplotlib.figure import Figure
from style import BLUE, INK, LINE, MUTED, ORANGE, PAPER, new_figure

WHAT = (
    "trains\n±1 weights",
    "other\nbit widths",
    "learns a\nposterior",
    "takes a trained\nnetwork as it is",
    "measures\ncalibration",
    "runs networks\nof 1 or 2 bits",
    "language\nmodels",
)
YES, PARTLY, NO = "yes", "partly", ""
LIBRARIES = {
    "bitbayes": (YES, NO, YES, NO, YES, YES, PARTLY),
    "larq": (YES, YES, NO, NO, NO, YES, NO),
    "Brevitas": (YES, YES, NO, YES, NO, NO, YES),
    "bitnet.cpp": (NO, YES, NO, NO, NO, YES, YES),
    "torchao": (NO, YES, NO, YES, NO, PARTLY, YES),
    "IVON": (NO, NO, YES, NO, NO, NO, NO),
    "torch-uncertainty": (NO, NO, YES, YES, YES, NO, NO),
    "laplace-torch": (NO, NO, YES, YES, NO, NO, PARTLY),
}


def draw() -> Figure:
    """Return the picture: a full dot where a library does it, a ring where it does a part of it."""
    figure, axes = new_figure(width=7.4, height=3.9)
    (((ax,),)) = axes
    for row, (name, does) in enumerate(LIBRARIES.items()):
        colour = ORANGE if name == "bitbayes" else BLUE
        ax.axhline(row, color=LINE, linewidth=0.8, zorder=1)
        for column, answer in enumerate(does):
            if answer == NO:
                ax.plot(column, row, "o", markersize=4, color=LINE, zorder=2)
            else:
                fill = colour if answer == YES else PAPER
                ax.plot(
                    column, row, "o", markersize=13, markeredgewidth=2, color=colour, markerfacecolor=fill, zorder=3
                )
    ax.set_xticks(range(len(WHAT)), WHAT, fontsize=8.5)
    ax.set_yticks(range(len(LIBRARIES)), LIBRARIES, fontsize=10)
    ax.get_yticklabels()[0].set(fontweight="bold", color=INK)
    ax.tick_params(length=0, labelcolor=INK)
    ax.xaxis.tick_top()
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)
    ax.set_xlim(-0.6, len(WHAT) - 0.4)
    ax.set_ylim(len(LIBRARIES) - 0.5, -0.6)
    ax.set_xlabel(
        "full dot: yes; ring: a part of it; small dot: its README and documentation do not say so", color=MUTED
    )
    ax.xaxis.set_label_position("bottom")
    return figure
