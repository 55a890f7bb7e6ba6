"""What short trainings with one straight-through draw reach, by `ess`."""

from matplotlib.figure import Figure
from parts.pages import tables
from style import BLUE, LINE, MUTED, ORANGE, PURPLE, new_figure


def draw() -> Figure:
    """Return three panels: accuracy, per-weight entropy and KL budget, λ held."""
    figure, axes = new_figure(1, 3, width=7.8, height=2.7)
    (rows,) = tables("estimators/tempered.md")
    rows = [row for row in rows if row[1:5] == ["straight-through", "3", "1", "0.01"]]
    scales = [f"{float(row[0]):g}·N".replace("10000", "10⁴").replace("1000", "10³") for row in rows]
    panels = (
        ("Validation accuracy, %", ((5, BLUE, "mode"), (6, PURPLE, "mean of 32"))),
        ("Entropy per weight, bits", ((8, BLUE, ""),)),
        ("Share of a whole", ((9, ORANGE, "λ held by the data"), (10, BLUE, "KL spent of its budget"))),
    )
    for axis, (title, columns) in zip(axes[0], panels, strict=True):
        for column, shade, label in columns:
            axis.plot(scales, [float(row[column]) for row in rows], "o-", color=shade, label=label, markersize=5)
        if columns[0][2]:
            axis.legend(fontsize=8, labelcolor=MUTED)
        axis.grid(color=LINE, linewidth=0.7)
        axis.set(title=title, xlabel="ess")
    axes[0, 1].set_ylim(0, 1)
    return figure
