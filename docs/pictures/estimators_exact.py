"""Error at equal cost of every estimator on the small BatchNorm network, beside its bias."""

from matplotlib.figure import Figure
from parts.dots import results
from style import BLUE, GREEN, INK, LINE, MUTED, ORANGE, PURPLE, new_figure

_KINDS = {"straight-through": BLUE, "concrete": ORANGE, "released": ORANGE, "gradient": MUTED, "trapezoid": PURPLE}
_PROBLEMS = ("uncertain", "mixed", "nearly certain")


def draw() -> Figure:
    """Return three panels with the same rows; a bias that is not told from zero has no mark."""
    figure, axes = new_figure(1, 3, width=7.8, height=4.7)
    for axis, name in zip(axes[0], _PROBLEMS, strict=True):
        rows = results("estimators-exact")["problems"][f"BatchNorm 3-3-1, {name}"]
        for place, (estimator, one) in enumerate(rows.items()):
            shade = next((shade for kind, shade in _KINDS.items() if estimator.startswith(kind)), GREEN)
            axis.plot(one["error"], place, "o", color=shade, markersize=6)
            if one["bias"] > 2 * one["bias_noise"]:
                axis.plot(one["bias"], place, "D", markersize=5, markerfacecolor="none", markeredgecolor=INK)
        axis.set_yticks(range(len(rows)), list(rows) if name == _PROBLEMS[0] else [""] * len(rows), fontsize=8)
        axis.set(xscale="log", xlim=(0.1, 300), ylim=(len(rows) - 0.5, -0.5), title=name, xlabel="divided by ‖exact‖")
        axis.set_xticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
        axis.tick_params(axis="y", labelcolor=INK, length=0)
        axis.grid(color=LINE, linewidth=0.7)
        axis.set_axisbelow(True)
    axes[0, 2].plot([], [], "o", color=BLUE, markersize=6, label="error")
    hollow = {"markersize": 5, "markerfacecolor": "none", "markeredgecolor": INK}
    axes[0, 2].plot([], [], "D", **hollow, label="bias; no diamond: not told from zero")
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, labelcolor=MUTED)
    return figure
