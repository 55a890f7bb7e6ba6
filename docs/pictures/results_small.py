"""Entropy on two moons beside that of the exact posterior, and squared errors on the splits of Snelson's data."""

from matplotlib.figure import Figure
from parts.dots import Row, dots, results
from style import BLUE, INK, MUTED, ORANGE, PURPLE, new_figure

from bitbayes.lab.studies.toys import EXACT_MOONS

_RULES = {
    "ste": ("STE", ORANGE),
    "bayesbinn:released": ("BayesBiNN,\npublished", PURPLE),
    "bayesbinn:default": ("BayesBiNN,\none setting", BLUE),
}


def draw() -> Figure:
    """Return three dot plots; a vertical line is the exact posterior."""
    figure, axes = new_figure(1, 3, width=7.8, height=2.7)
    runs = results("moons")["runs"]
    for axis, name in zip(axes[0], ("entropy_on_data", "entropy_on_ring"), strict=False):
        rows: list[Row] = [
            (label, shade, [run[name] for run in runs if run["rule"] == rule])
            for rule, (label, shade) in _RULES.items()
        ]
        dots(axis, rows, labels=name == "entropy_on_data")
        exact = getattr(EXACT_MOONS, name)
        axis.axvline(exact, color=INK, linewidth=1)
        axis.text(exact, 2.42, " exact", color=MUTED, fontsize=8, va="bottom")
        where = "on the data" if name == "entropy_on_data" else "far away"
        axis.set(title=f"Two moons: {where}", xlabel="entropy, nats", xlim=(-0.02, 0.36))
    splits = results("snelson")["splits"]
    errors = (("ste_error", "STE", ORANGE), ("mode_error", "mode", PURPLE), ("mean_error", "mean of 100", BLUE))
    dots(axes[0, 2], [(label, shade, [split[name] for split in splits]) for name, label, shade in errors])
    axes[0, 2].set(title="Snelson: five splits", xlabel="squared error", xlim=(0, 1.45))
    return figure
