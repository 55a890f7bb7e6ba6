"""Names of options, and the error for one that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TypeVar

__all__ = ["chosen"]

T = TypeVar("T")


def chosen(option: str, name: str, table: Mapping[str, T]) -> T:
    """Looks a name up.

    Args:
        option: The argument that has the name.
        name: What came.
        table: What there is.

    Returns:
        The entry of the table.

    Raises:
        ValueError: If there is none, with the nearest name.

    Example:
        >>> chosen("backward", "aprox", {"approx": 1, "clipped": 2})
        Traceback (most recent call last):
        ...
        ValueError: backward must be one of 'approx', 'clipped', got 'aprox'; the nearest is 'approx'
    """
    if name in table:
        return table[name]
    nearest = difflib.get_close_matches(str(name), table, n=1, cutoff=0.0)[0]
    known = ", ".join(map(repr, table))
    raise ValueError(f"{option} must be one of {known}, got {name!r}; the nearest is {nearest!r}")
