"""Negative log-likelihood on MNIST: of one network, of the mean of 32 samples, and of an ensemble of three seeds."""

from matplotlib.figure import Figure
from parts.dots import Row, colour, dots, hollow, results
from style import BLUE, BOX, INK, MUTED, new_figure

_NAMES = {
    "full-precision": "full precision",
    "full-precision:no-dropout": "full precision, no dropout",
    "ste": "STE",
    "ste:two-passes": "STE, two passes",
    "bayesbinn:straight-through": "BayesBiNN",
    "vispa": "VISPA",
}


def draw() -> Figure:
    """Return one dot plot; a diamond is an ensemble, of which there is one."""
    figure, axes = new_figure(height=3.4)
    found = results("trust")["rows"]
    rows: list[Row] = []
    ensembles: list[float | None] = []
    for rule, label in _NAMES.items():
        by_kind = {row["kind"]: row["figures"]["nll"] for row in found if row["rule"] == rule}
        one = "mode" if "mean" in by_kind else "one network"
        rows.append((f"{label}, {one}", colour(rule), by_kind["network"]["values"]))
        ensembles.append(by_kind["ensemble"]["mean"])
        if "mean" in by_kind:
            rows.append((f"{label}, mean of 32", colour(rule), by_kind["mean"]["values"]))
            ensembles.append(None)
    axis = axes[0, 0]
    dots(axis, rows)
    hollow(axis, ensembles)
    axis.plot([], [], "o", color=BLUE, markersize=8, label="mean of three seeds")
    axis.plot([], [], "o", color=BLUE, markersize=4, alpha=0.45, markeredgewidth=0, label="one seed")
    axis.plot([], [], "D", markersize=6, markerfacecolor="none", markeredgecolor=INK, label="ensemble of three seeds")
    axis.set(xlabel="negative log-likelihood on test data, nats (smaller is better)")
    axis.legend(loc="center right", labelcolor=MUTED, fontsize=9, labelspacing=0.3, **BOX)
    return figure
