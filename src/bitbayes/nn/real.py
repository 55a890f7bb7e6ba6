"""Layers that keep real weights, as first and last layers of binary networks often do."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

__all__ = ["keep_real"]

M = TypeVar("M", bound=nn.Module)


def keep_real(module: M) -> M:
    """Marks a module so that `bitbayes.split_parameters` leaves all its parameters real, whatever layers it holds.

    The mark is an attribute of the module, `stays_real`, so copies and pickles have it too. It changes no computation.

    Args:
        module: A layer, or a whole part of a network.

    Returns:
        The same module, so that the choice stands where the layer is made.

    Example:
        >>> model = torch.nn.Sequential(keep_real(torch.nn.Linear(4, 3)), torch.nn.Linear(3, 2, bias=False))
        >>> binary, real = bb.split_parameters(model)
        >>> [name for name, _ in binary], [name for name, _ in real]
        (['1.weight'], ['0.weight', '0.bias'])
    """
    module.__dict__["stays_real"] = True
    return module
