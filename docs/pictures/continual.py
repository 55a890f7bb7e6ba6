"""Average accuracy on all permuted-MNIST tasks so far, with and without a prior, from docs/results."""

import json

import style
from matplotlib.figure import Figure
from parts import guides

# Label, rule, method, prior; colour, and place of the label.
CURVES = (
    ("BayesBiNN, prior", "bayesbinn", "none", True, style.BLUE, 95),
    ("full precision, EWC", "full-precision", "ewc", False, style.GREEN, 87),
    ("full precision", "full-precision", "none", False, style.MUTED, 43),
    ("STE", "ste", "none", False, style.ORANGE, 35.5),
    ("BayesBiNN, no prior", "bayesbinn", "none", False, style.PURPLE, 27),
)


def draw() -> Figure:
    """Return one panel; a line is the mean of the seeds, its band their range."""
    streams = json.loads((guides.DOCS / "results" / "permuted-mnist.json").read_text(encoding="utf-8"))["streams"]
    figure, ((axes,),) = style.new_figure(width=7.0, height=3.4)
    for label, rule, method, prior, colour, height in CURVES:
        wanted = dict(rule=rule, method=method, prior=prior)
        found = [s["average_accuracy"] for s in streams if wanted.items() <= s.items() and not s.get("options")]
        assert len(found) == 3, (label, len(found))
        columns = list(zip(*found, strict=True))
        tasks = range(1, len(columns) + 1)
        axes.fill_between(tasks, [min(c) for c in columns], [max(c) for c in columns], color=colour, alpha=0.2, lw=0)
        axes.plot(tasks, [sum(c) / len(c) for c in columns], "o-", color=colour, markersize=4)
        axes.annotate(label, (5.12, height), color=colour, va="center", annotation_clip=False)
    axes.set(xlabel="tasks learned, one after another", ylabel="average accuracy on these tasks, %", ylim=(0, 100))
    axes.set(title="With the prior, learning the fifth task does not erase the first four", xticks=range(1, 6))
    axes.set_xlim(0.9, 6.5)
    axes.grid(axis="y", linewidth=0.6)
    axes.spines[:].set_visible(False)
    return figure
