"""The look of every picture: one SVG with its own background, readable on light and on dark pages.

The SVG holds the colours of both schemes. A `prefers-color-scheme` rule inside the file picks one, so that the same
file works in the site, on GitHub and on PyPI.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

FOLDER = Path(__file__).resolve().parent.parent / "images"

# Matplotlib draws with the colours of the light scheme; `svg` replaces each one by its name.
LIGHT = {
    "paper": "#fdfdfc",
    "ink": "#1f2328",
    "muted": "#656d76",
    "line": "#d0d7df",
    "blue": "#20639b",
    "orange": "#d1622b",
    "green": "#2a7f62",
    "purple": "#7c5295",
}
DARK = {
    "paper": "#1b1e24",
    "ink": "#e6e8eb",
    "muted": "#9aa4af",
    "line": "#3a414a",
    "blue": "#6cb0ea",
    "orange": "#f0935f",
    "green": "#63c29f",
    "purple": "#c39bdc",
}
PAPER, INK, MUTED, LINE = (LIGHT[name] for name in ("paper", "ink", "muted", "line"))
BLUE, ORANGE, GREEN, PURPLE = (LIGHT[name] for name in ("blue", "orange", "green", "purple"))

# Options of a legend that stands among data: a frame tells its markers from theirs.
BOX: dict[str, Any] = {"frameon": True, "framealpha": 1, "facecolor": PAPER, "edgecolor": LINE}

_RC: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, selectable, searchable
    "svg.hashsalt": "bitbayes",  # the same picture gives the same file
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.facecolor": "none",
    "figure.facecolor": PAPER,
    "grid.color": LINE,
    "text.color": INK,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "legend.frameon": False,
}


def new_figure(rows: int = 1, columns: int = 1, width: float = 7.0, height: float = 3.2) -> tuple[Figure, Any]:
    """Return a figure, `width` by `height` inches, and the array of its axes, `rows` by `columns`."""
    mpl.rcParams.update(_RC)
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)  # type: ignore[union-attr]
    return figure, figure.subplots(rows, columns, squeeze=False)


def opened(width: int, height: int) -> str:
    """Return the beginning of an SVG that is drawn by hand: its size, its colours and its background."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
            ' font-family="system-ui, DejaVu Sans, sans-serif" font-size="12.5">',
            f"<style>{scheme()}</style>",
            f'<rect width="{width}" height="{height}" fill="var(--paper)"/>',
        ]
    )


def svg(figure: Figure) -> str:
    """Return the figure as an SVG whose colours follow the reader's scheme."""
    with mpl.rc_context(_RC):
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    for name, colour in LIGHT.items():
        text = text.replace(colour, f"var(--{name})")
    text = text.replace("'DejaVu Sans'", "system-ui, 'DejaVu Sans'")
    text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)
    return text.replace("<defs>", f"<style>{scheme()}</style>\n <defs>", 1)


def scheme() -> str:
    """Return the style sheet that gives the names of the colours their values."""
    light, dark = ("".join(f"--{name}:{colour};" for name, colour in table.items()) for table in (LIGHT, DARK))
    return f"svg{{{light}}}@media (prefers-color-scheme:dark){{svg{{{dark}}}}}"


def save(text: str, name: str) -> Path:
    """Write `docs/images/NAME.svg` and return its path."""
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{name}.svg"
    path.write_text(text, encoding="utf-8")
    return path
