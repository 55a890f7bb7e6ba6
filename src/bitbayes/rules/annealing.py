"""Geometric annealing in steps, shared by the rules that harden soft weights."""

from __future__ import annotations

from typing import overload

import torch
from torch import Tensor


@overload
def annealed(first: float, growth: float, interval: int, step: int, highest: float) -> float: ...
@overload
def annealed(first: float, growth: float, interval: int, step: int | Tensor, highest: float) -> float | Tensor: ...
def annealed(first: float, growth: float, interval: int, step: int | Tensor, highest: float) -> float | Tensor:
    """First · growth^⌊step / interval⌋, at most `highest`.

    Args:
        first: Value at step 0.
        growth: Factor, at least 1.
        interval: Steps between two factors.
        step: Steps so far; below 0 is 0. A 0-d tensor is not read.
        highest: Upper bound.

    Returns:
        The annealed value.

    Example:
        >>> annealed(1.0, 2.0, 10, 25, 100.0)
        4.0
    """
    if isinstance(step, Tensor):
        stairs = torch.floor(step.clamp(min=0).double() / interval)  # in double precision, as Python's
        return (first * growth**stairs).clamp(max=highest)
    try:
        return min(first * growth ** (max(step, 0) // interval), highest)
    except OverflowError:
        return highest
