"""One layer of the page "Binarise your network": its real weights, the optimizer's beliefs, and the binary weights."""

import style
from matplotlib.figure import Figure
from parts import guides

NAME = "4.weight"


def draw() -> Figure:
    """Return three histograms of the same weights."""
    before = guides.names_after("binarise", 1)["network"]().get_parameter(NAME)
    found = guides.names_after("binarise", 2)
    optimizer, model = found["optimizer"], found["model"].eval()
    belief = optimizer.posterior().probabilities()[NAME]
    after = model.get_parameter(NAME)
    panels = (
        ("1. The layer as you wrote it", "weight", before, (-0.1, 0.1), style.MUTED),
        ("2. What the optimizer learns", "probability of +1, per weight", belief, (0, 1), style.BLUE),
        ("3. The layer after eval()", "weight", after, (-1.5, 1.5), style.ORANGE),
    )
    figure, (row,) = style.new_figure(1, 3, width=7.6, height=2.5)
    for axes, (title, label, values, ends, colour) in zip(row, panels, strict=True):
        axes.hist(values.detach().flatten().numpy(), bins=30, range=ends, color=colour)
        axes.set(title=title, xlabel=label, yticks=[])
        axes.spines["left"].set_visible(False)
    row[0].set_ylabel(f"number of the {belief.numel():,} weights", fontsize=9)
    row[0].set_xticks([-0.1, 0, 0.1])
    row[1].set_xticks([0, 0.5, 1])
    row[2].set_xticks([-1, 0, 1], ["−1", "0", "+1"])
    return figure
