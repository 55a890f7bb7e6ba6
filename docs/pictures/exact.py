"""Entropy at growing distance from the two moons: exact posteriors, and BayesBiNN's, with and without random sizes."""

from matplotlib.figure import Figure
from parts.dots import results
from style import BLUE, LINE, MUTED, PURPLE, new_figure

_METHODS = {"exact posterior": ("exact posterior", PURPLE), "BayesBiNN, recommended": ("BayesBiNN", BLUE)}
_PROBLEMS = {"moons": "Weights ±1", "moons-sizes": "Random sizes in the first layer"}


def draw() -> Figure:
    """Return two panels with a line for each method, and a thin line for each seed."""
    figure, axes = new_figure(1, 2, width=7.8, height=2.9)
    found = {each["problem"]: each["rows"] for each in results("truth-ten")["truth"]}
    for axis, (problem, title) in zip(axes[0], _PROBLEMS.items(), strict=True):
        for row in found[problem]:
            if row["title"] not in _METHODS:
                continue
            label, shade = _METHODS[row["title"]]
            rings = {name: region["entropy"] for name, region in row["regions"].items() if name != "data"}
            radii = [float(name.removeprefix("ring ")) for name in rings]
            for seed in zip(*(ring["values"] for ring in rings.values()), strict=True):
                axis.plot(radii, seed, color=shade, linewidth=0.7, alpha=0.4)
            axis.plot(radii, [ring["mean"] for ring in rings.values()], "o-", color=shade, label=label, markersize=5)
        axis.grid(color=LINE, linewidth=0.7)
        axis.set(title=title, xlabel="distance from the centre", ylim=(0, 0.45))
    axes[0, 0].set_ylabel("entropy, nats")
    axes[0, 0].legend(fontsize=9, labelcolor=MUTED, loc="upper right")
    return figure
