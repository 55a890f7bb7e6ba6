"""Entropy on two moons, and bands on Snelson's data, beside those of the exact posterior."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from parts.dots import Row, dots, results
from style import BLUE, GREEN, INK, MUTED, ORANGE, PURPLE, new_figure

_FILES = ("truth-problems", "seeds")  # Snelson's data, and two moons
_LABELS = {
    "Gibbs, 8 chains of 400 sweeps": ("Gibbs,\na short run", GREEN),
    "STE, Adam": ("STE", ORANGE),
    "BayesBiNN, published": ("BayesBiNN,\npublished", PURPLE),
    "BayesBiNN, recommended": ("BayesBiNN,\none setting", BLUE),
    "BayesBiNN, ess = 10·N, 4 members": ("BayesBiNN,\n4 members", BLUE),
    "BayesBiNN, ess = 10⁴·N, 4 members": ("BayesBiNN,\n4 members", BLUE),
}


def draw() -> Figure:
    """Return three dot plots; a vertical line is the exact posterior."""
    figure, axes = new_figure(1, 3, width=7.8, height=3.2)
    found = {each["problem"]: each["rows"] for name in _FILES for each in results(name)["truth"]}
    moons, (exact, *snelson) = found["moons"], found["snelson"]
    for axis, place in zip(axes[0], ("data", "ring 4"), strict=False):
        rows = [
            (*_LABELS[row["title"]], row["regions"][place]["entropy"]["values"])
            for row in moons
            if row["title"] in _LABELS
        ]
        dots(axis, rows, labels=place == "data")
        _exact(axis, moons[0]["regions"][place]["entropy"]["mean"])
        axis.set(title=f"Two moons: {'on the data' if place == 'data' else 'far away'}", xlabel="entropy, nats")
    widths = exact["regions"]["data"]["width"]["values"]
    ratios: list[Row] = []
    for row in snelson:
        if row["title"] in _LABELS or row["title"].startswith("Gibbs"):
            values = row["regions"]["data"]["width"]["values"]
            label = _LABELS.get(row["title"], _LABELS["Gibbs, 8 chains of 400 sweeps"])
            ratios.append((*label, [ours / theirs for ours, theirs in zip(values, widths, strict=True)]))
    dots(axes[0, 2], ratios, labels=False)
    _exact(axes[0, 2], 1)
    axes[0, 2].set(title="Snelson: on the data", xlabel="width of the 95% band,\nrelative to the exact one")
    return figure


def _exact(axis: Axes, value: float) -> None:
    axis.axvline(value, color=INK, linewidth=1)
    axis.text(value, axis.get_ylim()[0] - 0.06, " exact", color=MUTED, fontsize=8, va="bottom")
