"""How a sum of 64 products of signs becomes one xnor and one popcount."""

import numpy as np
import style
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

SIGNS = 64


def draw() -> Figure:
    """Draw the signs of inputs and weights as bits, where they agree, and the sum that follows."""
    x, w = np.random.default_rng(3).integers(0, 2, (2, SIGNS), dtype=np.uint8)
    same = 1 - (x ^ w)
    count = int(same.sum())
    total = int(((2.0 * x - 1) * (2.0 * w - 1)).sum())
    assert total == 2 * count - SIGNS
    figure, ((axis,),) = style.new_figure(height=2.8)
    for row, name, bits in ((0, "inputs", x), (1.45, "weights", w), (2.9, "xnor", same)):
        colour = style.ORANGE if name == "xnor" else style.BLUE
        for place, bit in enumerate(bits):
            face = colour if bit else "none"
            axis.add_patch(_cell(place, row, face, colour))
        word = sum(int(bit) << place for place, bit in enumerate(bits))
        axis.text(-1.5, row + 0.4, name, ha="right", va="center")
        axis.text(0, row + 1.08, f"one word of 64 bits: 0x{word:016x}", color=style.MUTED, va="center", fontsize=8)
    axis.text(0, 4.7, f"popcount = {count}", weight="bold", va="center")
    axis.text(22, 4.7, f"sum of 64 products = 2 · {count} − 64 = {total}", weight="bold", va="center")
    axis.set(xlim=(-11, SIGNS + 0.5), ylim=(5.0, -0.75))
    axis.text(
        0,
        -0.4,
        "A filled cell is +1, stored as bit 1. An empty cell is −1, stored as bit 0.",
        color=style.MUTED,
        va="center",
        fontsize=9,
    )
    axis.axis("off")
    return figure


def _cell(place: int, row: float, face: str, edge: str) -> Rectangle:
    return Rectangle((place + 0.08, row), 0.84, 0.8, facecolor=face, edgecolor=edge, linewidth=0.6)
