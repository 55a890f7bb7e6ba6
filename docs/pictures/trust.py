"""Entropies on known and unknown digits, as the page about trust computes them: of the mode, and of the mean."""

import style
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from parts import guides


def draw() -> Figure:
    """Return two panels with two histograms each."""
    found = guides.names_after("trust", 1)
    seen = found["seen"]
    panels = (
        ("The mode is sure of many unknown digits", found["mode"]),
        ("The mean of 32 samples is sure of few of them", found["mean"]),
    )
    kinds = ((seen, style.BLUE, "digits 0 to 7, known"), (~seen, style.ORANGE, "digits 8 and 9, unknown"))
    figure, (row,) = style.new_figure(1, 2, width=7.6, height=2.8)
    for axes, (title, prediction) in zip(row, panels, strict=True):
        for which, colour, label in kinds:
            entropy = prediction.entropy[which].numpy()
            share = [1 / len(entropy)] * len(entropy)
            axes.hist(entropy, bins=21, range=(0, 2.1), weights=share, color=colour, alpha=0.6, label=label)
        axes.set(xlabel="entropy of the prediction, nats", ylim=(0, 1))
        axes.set_title(title, fontsize=9.5)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    row[0].set_ylabel("share of the digits")
    row[1].set_yticklabels([])
    row[1].legend()
    return figure
