"""NLL and detection of Fashion-MNIST after equally long training: binary networks and the rivals of a float network."""

from matplotlib.figure import Figure
from parts.dots import Row, colour, dots, results
from style import MUTED, new_figure

_METHODS = {
    ("full-precision", "mode"): "float",
    ("full-precision", "dropout"): "float, MC dropout",
    ("full-precision:no-dropout", "mode"): "float without dropout",
    ("full-precision:swag", "mean"): "SWAG",
    ("full-precision:ivon", "mean"): "IVON",
    ("ste", "mode"): "STE",
    ("bayesbinn:straight-through", "mean"): "BayesBiNN",
    ("bayesbinn:default", "mean"): "BayesBiNN with dropout",
    ("vispa", "mean"): "VISPA",
}
_WAYS = {"single": "", "dropout": "", "members": ", 4 runs", "cycles": ", 4 cycles"}
_FIGURES = {"nll": "NLL, test images", "nll_shifted": "NLL, corrupted images", "auroc_unlike": "AUROC, Fashion-MNIST"}


def draw() -> Figure:
    """Return three dot plots with the same rows; the dotted line is the float network."""
    figure, axes = new_figure(1, 3, width=8.4, height=5.8)
    rows = {(row["rule"], row["way"], row["kind"]): row["figures"] for row in results("members")["time"]}
    shown = {
        label + suffix: (rule, way, kind)
        for (rule, kind), label in _METHODS.items()
        for way, suffix in _WAYS.items()
        if (rule, way, kind) in rows
    }
    for place, (axis, (name, title)) in enumerate(zip(axes[0], _FIGURES.items(), strict=True)):
        found: list[Row] = [(label, colour(key[0]), rows[key][name]["values"]) for label, key in shown.items()]
        dots(axis, found, labels=not place)
        line = rows["full-precision", "single", "mode"][name]["mean"]
        axis.axvline(line, color=MUTED, linewidth=1, linestyle=":")
        above = axis.get_xaxis_transform()
        axis.text(line, 1, "float network", color=MUTED, fontsize=8, ha="center", va="bottom", transform=above)
        axis.set_title(title, pad=16)
    return figure
