"""Entropy on two moons, and bands on Snelson's data, beside those of the exact posterior."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from parts.dots import Row, dots, results
from style import BLUE, GREEN, INK, MUTED, ORANGE, PURPLE, new_figure

_LABELS = {
    "Gibbs": ("Gibbs,\na short run", GREEN),
    "STE, Adam": ("STE", ORANGE),
    "BayesBiNN, published": ("BayesBiNN,\npublished", PURPLE),
    "BayesBiNN, recommended": ("BayesBiNN,\nrecommended", BLUE),
    "BayesBiNN, ess = 10·N, 4 members": ("BayesBiNN,\n4 members", BLUE),
    "STE, chosen rate": ("STE", ORANGE),
    "BayesBiNN, chosen ess, 4 members": ("BayesBiNN,\n4 members", BLUE),
}


def draw() -> Figure:
    """Return three dot plots; a vertical line is the exact posterior."""
    figure, axes = new_figure(1, 3, width=7.8, height=3.2)
    found = {each["problem"]: each["rows"] for each in results("seeds")["truth"]}
    moons, snelson = _drawn(found["moons"]), _drawn(found["snelson"])
    for axis, place in zip(axes[0], ("data", "ring 4"), strict=False):
        rows = [(label, shade, row["regions"][place]["entropy"]["values"]) for label, (shade, row) in moons.items()]
        dots(axis, rows, labels=place == "data")
        _exact(axis, found["moons"][0]["regions"][place]["entropy"]["mean"])
        axis.set(title=f"Two moons: {'on the data' if place == 'data' else 'far away'}", xlabel="entropy, nats")
    widths = found["snelson"][0]["regions"]["data"]["width"]["values"]
    ratios: list[Row] = []
    for label in moons:  # the rows of all panels have the labels of the first one
        shade, row = snelson[label]
        pairs = zip(row["regions"]["data"]["width"]["values"], widths, strict=True)
        ratios.append((label, shade, [ours / exact for ours, exact in pairs]))
    dots(axes[0, 2], ratios, labels=False)
    _exact(axes[0, 2], 1)
    axes[0, 2].set(title="Snelson: on the data", xlabel="width of the 95% band,\nrelative to the exact one")
    return figure


def _drawn(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """Return the colour and the row of each way that is drawn, by its label."""
    named = (("Gibbs" if row["title"].startswith("Gibbs") else row["title"], row) for row in rows)
    return {_LABELS[title][0]: (_LABELS[title][1], row) for title, row in named if title in _LABELS}


def _exact(axis: Axes, value: float) -> None:
    axis.axvline(value, color=INK, linewidth=1)
    axis.text(value, axis.get_ylim()[0] - 0.06, " exact", color=MUTED, fontsize=8, va="bottom")
