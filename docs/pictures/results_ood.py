"""How well predictive entropy tells Fashion-MNIST from MNIST, by the number of outlier images in training."""

import math

from matplotlib.figure import Figure
from parts.dots import Row, colour, dots, results
from style import new_figure

_NAMES = {
    ("full-precision", "network"): "full precision",
    ("full-precision:no-dropout", "network"): "full precision, no dropout",
    ("ste", "network"): "STE",
    ("ste:two-passes", "network"): "STE, two passes",
    ("bayesbinn:released", "network"): "BayesBiNN, released",
    ("bayesbinn:straight-through", "network"): "BayesBiNN, mode",
    ("bayesbinn:straight-through", "mean"): "BayesBiNN, mean of 32",
}
_FILES = {"trust": "no outliers", "trust-few": "540 outliers", "trust-outliers": "5,400 outliers"}
_TICKS = (0.85, 0.95, 0.99, 0.997)


def _place(auroc: float) -> float:
    """Return where an AUROC stands on the axis, which is logarithmic in its distance from 1."""
    return -math.log10(1 - auroc)


def draw() -> Figure:
    """Return three dot plots with the same rows and the same scale; rules that were not run have no dots."""
    figure, axes = new_figure(1, 3, width=7.6, height=2.8)
    for axis, (name, title) in zip(axes[0], _FILES.items(), strict=True):
        found = {(row["rule"], row["kind"]): row["figures"]["auroc_unlike"]["values"] for row in results(name)["rows"]}
        rows: list[Row] = [
            (label, colour(key[0]), [_place(value) for value in found.get(key, [])]) for key, label in _NAMES.items()
        ]
        dots(axis, rows, labels=name == "trust")
        axis.set_xticks([_place(tick) for tick in _TICKS], [str(tick) for tick in _TICKS])
        axis.set(title=title, xlabel="AUROC\n(log scale of 1 − AUROC)", xlim=(_place(0.79), _place(0.9978)))
    return figure
