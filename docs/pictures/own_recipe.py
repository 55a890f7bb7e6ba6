"""From a recipe file and data to a packed network: the files, and the commands between them."""

from __future__ import annotations

import style
from parts.arrows import head

WIDTH, HEIGHT = 764, 234

_RUN = ("best weights and posterior", "metrics of every epoch", "copy of my_recipe.py")
_PACKED = ("one bit per binary weight", "size, colours, class names", "for run, bench, export")

# Boxes: left edge, top edge, width, height, colour, title, lines.
BOXES = (
    (16, 20, 176, 88, "blue", "my_recipe.py", ("load: your data", "network: plain torch.nn", "recipe = Recipe(...)")),
    (16, 126, 176, 88, "blue", "your data", ("FOLDER/CLASS/*.png", "hub:OWNER/NAME", "arrays, tables")),
    (282, 72, 190, 90, "orange", "runs/NAME", _RUN),
    (562, 20, 186, 88, "green", "net.safetensors", _PACKED),
    (562, 126, 186, 88, "purple", "numbers", ("accuracy, likelihood", "calibration, entropy", "report.html")),
)
# Arrows: from, to, label and where it stands.
ARROWS = (
    ((192, 64), (282, 102), "", (0, 0)),
    ((192, 170), (282, 128), "", (0, 0)),
    ((472, 102), (562, 64), "pack", (508, 66)),
    ((472, 128), (562, 170), "evaluate", (500, 184)),
)


def draw() -> str:
    """Return the SVG."""
    parts = [
        style.opened(WIDTH, HEIGHT),
        head("muted"),
    ]
    for (x0, y0), (x1, y1), label, (x, y) in ARROWS:
        parts.append(
            f'<path d="M{x0 + 4} {y0}L{x1 - 4} {y1}" stroke="var(--muted)" stroke-width="1.5" marker-end="url(#head)"/>'
        )
        if label:
            parts.append(_text(x, y, label, "ink", "middle", mono=True))
    parts.append(_text(237, 120, "train", "ink", "middle", mono=True))
    for x, y, width, height, colour, title, lines in BOXES:
        parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" fill="none" stroke="var(--{colour})"'
            ' stroke-width="1.8"/>'
        )
        parts.append(_text(x + 12, y + 21, title, colour, bold=True))
        parts += [_text(x + 12, y + 40 + 18 * row, line, "ink") for row, line in enumerate(lines)]
    return "\n".join([*parts, "</svg>\n"])


def _text(
    x: float, y: float, text: str, colour: str, anchor: str = "start", *, bold: bool = False, mono: bool = False
) -> str:
    more = ' font-weight="600"' if bold else ""
    more += ' font-family="ui-monospace, DejaVu Sans Mono, monospace"' if mono else ""
    return f'<text x="{x}" y="{y}" fill="var(--{colour})" text-anchor="{anchor}"{more}>{text}</text>'
