"""The nodes of a QONNX model for one binary layer with a binary activation."""

from __future__ import annotations

import style
from parts.arrows import head

WIDTH, HEIGHT = 764, 150
# Left edge, top, width, colour and lines of each box.
BOXES = (
    (16, 92, 96, "muted", ("input", "signs")),
    (16, 16, 96, "muted", ("weights", "−1 and +1")),
    (148, 16, 128, "blue", ("BipolarQuant", "one bit")),
    (312, 92, 96, "muted", ("MatMul", "integers")),
    (444, 92, 128, "orange", ("Sub", "threshold")),
    (608, 92, 140, "blue", ("BipolarQuant", "one bit")),
)
ARROWS = ("M114 38H145", "M114 114H309", "M278 38H360V89", "M410 114H441", "M574 114H605")


def draw() -> str:
    """Return the SVG."""
    parts = [style.opened(WIDTH, HEIGHT), head("muted")]
    parts += [
        f'<path d="{path}" fill="none" stroke="var(--muted)" stroke-width="1.5" marker-end="url(#head)"/>'
        for path in ARROWS
    ]
    for left, top, wide, colour, lines in BOXES:
        parts.append(
            f'<rect x="{left}" y="{top}" width="{wide}" height="44" rx="6" fill="var(--paper)"'
            f' stroke="var(--{colour})" stroke-width="1.8"/>'
        )
        for row, line in enumerate(lines):
            shade = "ink" if row else colour
            place = f'x="{left + wide / 2:g}" y="{top + 19 + 17 * row}"'
            parts.append(f'<text {place} fill="var(--{shade})" text-anchor="middle">{line}</text>')
    return "\n".join([*parts, "</svg>\n"])
