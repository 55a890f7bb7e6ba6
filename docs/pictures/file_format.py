"""The parts of a packed file, to scale, and the order of the bits in a row of signs."""

import tempfile
from pathlib import Path

import export
import numpy as np
import style
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

SIGNS = (1, -1, 1, 1, -1, -1, -1, -1, 1)


def draw() -> Figure:
    """Save a small network, and draw its file; below it, nine signs and their two bytes."""
    path = Path(tempfile.mkdtemp(), "net.safetensors")
    export.network().save(path)
    data = path.read_bytes()
    header = int.from_bytes(data[:8], "little")
    figure, ((top,), (below,)) = style.new_figure(2, 1, height=3.4)
    parts = (
        (0, 8 + header, f"JSON header: {header:,} bytes\nprogram, checksum, tensor names", style.ORANGE),
        (8 + header, len(data), f"tensors: {len(data) - 8 - header:,} bytes\nsigns, scales, thresholds", style.BLUE),
    )
    for start, end, text, colour in parts:
        top.add_patch(Rectangle((start, 0), end - start, 1, facecolor="none", edgecolor=colour, linewidth=1.5))
        top.text((start + end) / 2, 0.5, text, ha="center", va="center")
    top.add_patch(Rectangle((0, 0), 8, 1, facecolor=style.INK, edgecolor=style.INK))
    top.text(0, -0.35, "the first 8 bytes: length of the header", color=style.MUTED, va="center", fontsize=9)
    top.set(xlim=(-20, len(data) + 20), ylim=(1.1, -0.6))
    bits = [int(sign > 0) for sign in SIGNS]
    row = np.packbits(bits, bitorder="little")
    for place in range(8 * len(row)):
        used = place < len(SIGNS)
        colour = style.BLUE if used else style.LINE
        below.add_patch(Rectangle((place, 0), 0.9, 0.8, facecolor="none", edgecolor=colour, linewidth=1.5))
        below.text(place + 0.45, 0.4, str(row[place // 8] >> place % 8 & 1), ha="center", va="center")
        if used:
            below.text(place + 0.45, -0.4, f"{SIGNS[place]:+d}".replace("-", "−"), ha="center", va="center")
    for byte, value in enumerate(row):
        below.text(8 * byte + 3.95, 1.3, f"byte {byte} = {value}", ha="center", va="center", color=style.MUTED)
    below.text(-0.4, -0.4, "signs", ha="right", va="center")
    below.text(-0.4, 0.4, "bits", ha="right", va="center")
    below.set(xlim=(-1.8, 16.2), ylim=(1.7, -0.9))
    for axis in (top, below):
        axis.axis("off")
    return figure
