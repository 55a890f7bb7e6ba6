"""Where the noise of one straight-through gradient on MNIST comes from, and what more draws change."""

from matplotlib.figure import Figure
from parts.pages import tables
from style import BLUE, GREEN, INK, LINE, MUTED, ORANGE, PURPLE, new_figure

_SHOWN = {
    "straight-through, 2 draws": ("2 draws", BLUE, "--"),
    "straight-through, 4 draws": ("4 draws", BLUE, "-"),
    "straight-through, antithetic pair": ("antithetic pair", GREEN, "-"),
    "local reparameterisation": ("local reparameterisation", PURPLE, "-"),
}


def draw() -> Figure:
    """Return two panels: shares of the variance, and SNR relative to one draw."""
    figure, axes = new_figure(1, 2, width=7.6, height=3.2)
    shares, ratios = tables("estimators/mnist.md")[:2]
    scales = [f"{row[0]}·N" for row in shares]
    whole = [sum(map(float, row[1:4])) for row in shares]  # 99 to 101, because the table is rounded
    bottom = [0.0] * len(shares)
    for column, (label, shade) in enumerate((("mini-batch", MUTED), ("draw", BLUE), ("both together", ORANGE)), 1):
        heights = [100 * float(row[column]) / total for row, total in zip(shares, whole, strict=True)]
        axes[0, 0].bar(scales, heights, 0.6, bottom=bottom, color=shade, label=label)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    axes[0, 0].set(
        title="One straight-through gradient", ylabel="share of its variance, %", xlabel="ess", ylim=(0, 135)
    )
    axes[0, 0].set_yticks(range(0, 101, 20))
    axes[0, 0].legend(loc="upper left", ncols=3, fontsize=8, labelcolor=MUTED, columnspacing=1)
    axis = axes[0, 1]
    for row in ratios:
        if row[0] in _SHOWN:
            label, shade, line = _SHOWN[row[0]]
            axis.plot(scales, [float(cell) for cell in row[1:5]], "o" + line, color=shade, label=label, markersize=5)
    axis.axhline(1, color=INK, linewidth=0.8)
    axis.grid(color=LINE, linewidth=0.7)
    axis.set(title="Signal-to-noise ratio", ylabel="relative to one draw", xlabel="ess")
    axis.legend(fontsize=8, labelcolor=MUTED)
    return figure
