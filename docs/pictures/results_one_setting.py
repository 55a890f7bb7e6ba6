"""How far the recommended setting of BayesBiNN is from STE, on every classification problem of its table."""

import statistics
from typing import Any

from matplotlib.figure import Figure
from parts.dots import Row, dots, results
from style import BLUE, INK, PURPLE, new_figure

_RECIPES = {
    "moons": "two moons",
    "digits": "8×8 digits",
    "mnist": "MNIST",
    "mnist-trust": "MNIST, logit scale",
    "cifar10-small": "CIFAR-10, narrow VGG",
    "cifar10": "CIFAR-10, VGG, 1 seed",
}


def _rows(recipe: str) -> dict[str, Any]:
    """Return what was measured on a recipe, by rule; STE's accuracy may stand in the file of another table."""
    found = {"mnist": results("mnist-quick"), "cifar10-small": results("cifar10-small")}.get(recipe, {"rows": []})
    if recipe == "mnist-trust":
        networks = [row for row in results("trust")["rows"] if row["kind"] == "network"]
        found = {"rows": [{"rule": row["rule"], "test": row["figures"]["accuracy"]} for row in networks]}
    return {row["rule"]: row for row in (*found["rows"], *results("default")["data"][recipe])}


def draw() -> Figure:
    """Return two dot plots of differences: of the mode, and of the mean of samples."""
    figure, axes = new_figure(1, 2, height=2.9)
    found = {recipe: _rows(recipe) for recipe in _RECIPES}
    panels = {"test": ("mode", PURPLE), "mean_test": ("mean of samples", BLUE)}
    for axis, (name, (title, shade)) in zip(axes[0], panels.items(), strict=True):
        rows: list[Row] = []
        for recipe, label in _RECIPES.items():
            base = statistics.mean(found[recipe]["ste"]["test"]["values"])
            one = found[recipe]["bayesbinn:default"][name]["values"]
            rows.append((label, shade, [value - base for value in one]))
        dots(axis, rows, labels=name == "test")
        axis.axvline(0, color=INK, linewidth=1)
        axis.set(title=title, xlabel="test accuracy minus STE's, points", xlim=(-2.4, 1.5))
    return figure
