"""NLL and detection of Fashion-MNIST after equally long training: binary networks and the rivals of a float network."""

from matplotlib.figure import Figure
from parts.dots import Row, colour, dots, results
from style import MUTED, new_figure

_NAMES = {
    ("full-precision", "single", "mode"): "float, one network",
    ("full-precision", "single", "dropout"): "float, MC dropout",
    ("full-precision:no-dropout", "single", "mode"): "float without dropout",
    ("full-precision", "members", "mode"): "float, 4 runs",
    ("full-precision:no-dropout", "members", "mode"): "float without dropout, 4 runs",
    ("full-precision:swag", "single", "mean"): "SWAG",
    ("full-precision:ivon", "single", "mean"): "IVON",
    ("ste", "single", "mode"): "STE",
    ("ste", "members", "mode"): "STE, 4 runs",
    ("bayesbinn:straight-through", "single", "mean"): "BayesBiNN",
    ("bayesbinn:straight-through", "members", "mean"): "BayesBiNN, 4 runs",
    ("vispa", "single", "mean"): "VISPA",
    ("vispa", "members", "mean"): "VISPA, 4 runs",
}
_FIGURES = {"nll": "NLL, test images", "nll_shifted": "NLL, corrupted images", "auroc_unlike": "AUROC, Fashion-MNIST"}


def draw() -> Figure:
    """Return three dot plots with the same rows; the dotted line is the float network."""
    figure, axes = new_figure(1, 3, width=8.4, height=4.2)
    rows = {(row["rule"], row["way"], row["kind"]): row["figures"] for row in results("members")["time"]}
    for place, (axis, (name, title)) in enumerate(zip(axes[0], _FIGURES.items(), strict=True)):
        found: list[Row] = [(label, colour(key[0]), rows[key][name]["values"]) for key, label in _NAMES.items()]
        dots(axis, found, labels=not place)
        line = rows["full-precision", "single", "mode"][name]["mean"]
        axis.axvline(line, color=MUTED, linewidth=1, linestyle=":")
        above = axis.get_xaxis_transform()
        axis.text(line, 1, "float network", color=MUTED, fontsize=8, ha="center", va="bottom", transform=above)
        axis.set_title(title, pad=16)
    return figure
