"""Geometric annealing in steps, shared by the rules that harden soft weights."""

from __future__ import annotations


def annealed(first: float, growth: float, interval: int, step: int, highest: float) -> float:
    """First · growth^⌊step / interval⌋, at most `highest`.

    Args:
        first: Value at step 0.
        growth: Factor, at least 1.
        interval: Steps between two factors.
        step: Steps so far.
        highest: Upper bound.

    Returns:
        The annealed value.

    Example:
        >>> annealed(1.0, 2.0, 10, 25, 100.0)
        4.0
    """
    try:
        return min(first * growth ** (step // interval), highest)
    except OverflowError:
        return highest
