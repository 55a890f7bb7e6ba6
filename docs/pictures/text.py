"""Parts of the decoder, from a byte to the logits of the next one: which weights are binary, and which are real."""

from __future__ import annotations

import itertools

import style
from parts.arrows import head

WIDTH, HEIGHT = 764, 190
_TOP, _TALL = 62, 66

# Boxes along the residual stream: left edge, width, colour, lines.
BOXES = (
    (16, 92, "orange", ("embedding", "256 bytes")),
    (152, 78, "orange", ("RMSNorm",)),
    (246, 118, "blue", ("attention", "q, k, v, o")),
    (400, 78, "orange", ("RMSNorm",)),
    (494, 118, "blue", ("SwiGLU", "gate, up, down")),
    (656, 92, "orange", ("RMSNorm", "head")),
)
# Ends of the block that is repeated, and of the two paths around its parts.
BLOCK, AROUND = (132, 636), ((142, 382), (390, 626))


def draw() -> str:
    """Return the SVG."""
    middle = _TOP + _TALL / 2
    parts = [
        style.opened(WIDTH, HEIGHT),
        head("muted"),
        f'<rect x="{BLOCK[0]}" y="18" width="{BLOCK[1] - BLOCK[0]}" height="{_TOP + _TALL - 2}" rx="8" fill="none"'
        ' stroke="var(--line)" stroke-dasharray="5 4"/>',
    ]
    for (left, wide, *_), (right, *_) in itertools.pairwise(BOXES):
        parts.append(_line(f"M{left + wide + 2} {middle}L{right - 3} {middle}"))
    parts += [_line(f"M{start} {middle}V40H{end}V{middle - 4}") for start, end in AROUND]
    for left, wide, colour, lines in BOXES:
        parts.append(
            f'<rect x="{left}" y="{_TOP}" width="{wide}" height="{_TALL}" rx="6" fill="var(--paper)"'
            f' stroke="var(--{colour})" stroke-width="1.8"/>'
        )
        first = middle + 4 - 9 * (len(lines) - 1)
        for row, line in enumerate(lines):
            parts.append(_text(left + wide / 2, first + 18 * row, line, colour if not row else "ink"))
    parts.append(_text(sum(BLOCK) / 2, 160, "four blocks, each added to what it reads", "muted"))
    parts += [_text(382, 182, "blue: one bit per weight and a scale per output · orange: real", "ink")]
    return "\n".join([*parts, "</svg>\n"])


def _line(path: str) -> str:
    return f'<path d="{path}" fill="none" stroke="var(--muted)" stroke-width="1.5" marker-end="url(#head)"/>'


def _text(x: float, y: float, text: str, colour: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" fill="var(--{colour})" text-anchor="middle">{text}</text>'
