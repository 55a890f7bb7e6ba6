"""Compares what a page or a notebook shows with what its code prints."""

from __future__ import annotations

import re

NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
SIZE = re.compile(r"(\d[\d,]*) (?:bytes|weights|parameters|binary layers)")
SPREAD = 0.2  # of figures between processors, which round sums differently: one weight that turns makes others turn


def agree(shown: str, printed: str) -> bool:
    """Whether two outputs have the same words and sizes, and all other numbers near each other."""
    words = [NUMBER.sub("#", text).split() for text in (shown, printed)]
    numbers = [[float(number.replace(",", "")) for number in NUMBER.findall(text)] for text in (shown, printed)]
    return (
        words[0] == words[1]
        and SIZE.findall(shown) == SIZE.findall(printed)
        and all(abs(a - b) <= SPREAD * max(abs(a), abs(b)) for a, b in zip(*numbers, strict=True))
    )
