"""The tables of a page, for pictures of numbers that stand there alone."""

from __future__ import annotations

from pathlib import Path

_DOCS = Path(__file__).resolve().parents[2]


def tables(page: str) -> list[list[list[str]]]:
    """Return the tables of docs/PAGE as rows of cells, without their headings."""
    found: list[list[list[str]]] = [[]]
    for line in (_DOCS / page).read_text(encoding="utf-8").splitlines():
        if line.startswith("|"):
            found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        elif found[-1]:
            found.append([])
    return [rows[2:] for rows in found if rows]
