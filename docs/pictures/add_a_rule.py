"""The functions of a rule, and where they act in one training step."""

import style
from parts.arrows import head

WIDTH, HEIGHT = 760, 320


def box(x: int, y: int, width: int, height: int, colour: str, title: str, *lines: str) -> str:
    """Return a box with a title and smaller lines in its middle."""
    middle, top = x + width // 2, y + (height - 18 * len(lines)) // 2 + 5
    rows = "".join(
        f'<text x="{middle}" y="{top + 19 + 17 * row}" class="small">{line}</text>' for row, line in enumerate(lines)
    )
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" fill="none" stroke="var(--{colour})" '
        f'stroke-width="2"/><text x="{middle}" y="{top}" class="title">{title}</text>{rows}'
    )


def arrow(path: str) -> str:
    """Return a line that ends in a tip."""
    return f'<path d="{path}" fill="none" stroke="var(--ink)" stroke-width="1.6" marker-end="url(#head)"/>'


def code(x: int, y: int, text: str, anchor: str = "middle") -> str:
    """Return the name of a function that a rule defines."""
    return f'<text x="{x}" y="{y}" class="code" text-anchor="{anchor}">{text}</text>'


def note(x: int, y: int, text: str, anchor: str = "middle") -> str:
    """Return a small remark."""
    return f'<text x="{x}" y="{y}" class="small" style="text-anchor:{anchor}">{text}</text>'


def draw() -> str:
    """Return the text of the SVG."""
    parts = (
        box(150, 44, 180, 160, "blue", "belief", "real numbers", "for each weight,", "in the optimizer"),
        box(540, 44, 190, 60, "orange", "weights", "−1 or +1, in the network"),
        box(540, 144, 190, 60, "green", "gradient", "at these weights"),
        arrow("M 26 124 H 142"),
        code(82, 112, "begin"),
        note(82, 144, "once"),
        arrow("M 338 74 H 532"),
        code(435, 62, "draw"),
        note(435, 94, "every step"),
        arrow("M 635 110 V 136"),
        note(625, 129, "your own loop: loss.backward()", "end"),
        arrow("M 532 174 H 338"),
        code(435, 162, "estimate, update"),
        note(435, 194, "every step"),
        arrow("M 190 210 V 262"),
        code(180, 240, "mode", "end"),
        note(184, 282, "weights to deploy,"),
        note(184, 299, "after eval()"),
        arrow("M 290 210 V 262"),
        code(300, 240, "natural", "start"),
        note(310, 282, "posterior,"),
        note(310, 299, "if the rule has one"),
        code(540, 282, "blue", "start"),
        note(582, 282, "what a rule defines", "start"),
    )
    sheet = (
        f"{style.scheme()}text{{font-family:system-ui,'DejaVu Sans',sans-serif;fill:var(--ink)}}"
        ".title{font-size:16px;font-weight:600;text-anchor:middle}"
        ".small{font-size:12.5px;fill:var(--muted);text-anchor:middle}"
        ".code{font:600 14px ui-monospace,'DejaVu Sans Mono',monospace;fill:var(--blue)}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">'
        f'<style>{sheet}</style>{head("ink")}<rect width="100%" height="100%" fill="var(--paper)"/>'
        f"{''.join(parts)}</svg>\n"
    )
