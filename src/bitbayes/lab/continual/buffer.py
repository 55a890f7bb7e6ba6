"""A few examples of a task, chosen at random or spread over its inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from bitbayes.lab.data import TensorData
from bitbayes.noise import stream_key

__all__ = ["bytes_of", "chosen", "joined", "k_center", "shuffled"]

_BUFFER_STREAM = 32


def bytes_of(parts: Iterable[TensorData]) -> int:
    """Bytes of some examples.

    Args:
        parts: The examples.

    Returns:
        Of inputs and targets together.
    """
    return sum(part.x.nbytes + part.y.nbytes for part in parts)


def chosen(data: TensorData, index: Tensor) -> TensorData:
    """Some examples.

    Args:
        data: All of them.
        index: Positions, on any device.

    Returns:
        A copy of those.
    """
    index = index.to(data.x.device)
    return dataclasses.replace(data, x=data.x[index], y=data.y[index])


def joined(parts: Sequence[TensorData]) -> TensorData:
    """All of several sets of examples.

    Args:
        parts: At least one.

    Returns:
        One set.
    """
    first, *others = parts
    for other in others:
        first = first.joined(other)
    return first


def shuffled(count: int, seed: int, *path: int) -> Tensor:
    """Positions in an order that seed and path decide.

    Args:
        count: Number of examples.
        seed: Of the run.
        path: Counters that name the choice.

    Returns:
        A permutation, shape (count,), on the CPU.
    """
    generator = torch.Generator().manual_seed(stream_key(seed, _BUFFER_STREAM, *path))
    return torch.randperm(count, generator=generator)


def k_center(data: TensorData, count: int, first: int) -> Tensor:
    """Greedy k-center (Gonzalez 1985): each next example is the one farthest from all that were chosen.

    Args:
        data: The examples; distances are Euclidean, between their inputs.
        count: How many to choose, at most as many as there are.
        first: Position of the first.

    Returns:
        Positions, shape (count,).

    Example:
        >>> data = TensorData(torch.tensor([[0.0], [1.0], [9.0], [5.0]]), torch.zeros(4))
        >>> k_center(data, 3, first=0)
        tensor([0, 2, 3])
    """
    flat = data.x.flatten(1).float()
    nearest = torch.full((len(flat),), float("inf"), device=flat.device)
    found = [first]
    for _ in range(count - 1):
        nearest = torch.minimum(nearest, (flat - flat[found[-1]]).square_().sum(1))
        nearest[found[-1]] = -1.0  # never again, even where inputs are equal
        found.append(int(nearest.argmax()))
    return torch.tensor(found)
