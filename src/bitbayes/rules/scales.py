"""The scale s > 0 of a binary tensor, whose weights are then ±s.

Rules see unit weights: draws of ±1 and gradients with respect to them. Only this module handles s.

"normal" gives every weight a fixed s, the size of a standard normal number, which costs 32 bits. It suits a first layer
on few inputs. With signs alone, the units of such a layer have few directions, and predictions far from the data are
constant in sectors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from bitbayes import functional as F
from bitbayes.noise import Noise
from bitbayes.rules import shards
from bitbayes.rules.marks import transposed_groups
from bitbayes.rules.rule import Options

_SMALLEST = 1e-3  # a scale that is a random number is positive, and its reciprocal moderate


def fans(parameter: Tensor) -> tuple[int, int]:
    """Return fan-in and fan-out of a weight of shape (out, in, *kernel); a vector counts as one output."""
    if parameter.dim() < 2:
        return max(parameter.numel(), 1), 1
    kernel = math.prod(parameter.shape[2:])
    outputs, inputs = parameter.shape[:2]
    if groups := transposed_groups(parameter):
        inputs, outputs = outputs // groups, inputs
    return max(inputs * kernel, 1), max(outputs * kernel, 1)


def begin(parameter: Tensor, kind: str, noise: Noise) -> dict[str, Tensor]:
    """Return the initial state of a scale: nothing for "one", s if it is fixed, s and Adam's moments for "channel".

    Args:
        parameter: Binary tensor.
        kind: "one", "fan_in", "normal" or "channel".
        noise: Noise of as many numbers as there are weights, for "normal".
    """
    if kind == "one":
        return {}
    if kind == "normal":
        return {"scale": noise.normal().abs().clamp(min=_SMALLEST).view(parameter.shape)}
    first = 1 / math.sqrt(fans(parameter)[0])
    if kind == "fan_in":
        return {"scale": torch.tensor(first, device=parameter.device)}
    # The axis of the output channels (of a group, where a transposed convolution has groups).
    outputs = 1 if transposed_groups(parameter) else 0
    if outputs and shards.is_sharded(parameter):
        raise ValueError(
            'scale="channel" of a transposed convolution needs the rows of all processes, and fully_shard has shared '
            'them out; take scale="fan_in", or leave this layer out of fully_shard'
        )
    shape = [size if axis == outputs else 1 for axis, size in enumerate(parameter.shape)]
    scale = torch.full(shape, first, device=parameter.device)
    return {"scale": scale, "scale_first": torch.zeros_like(scale), "scale_second": torch.zeros_like(scale)}


def value(state: dict[str, Any]) -> Tensor:
    """Return s, broadcastable to the tensor; 1 if there is no scale."""
    return state["scale"] if "scale" in state else torch.ones(())


@contextmanager
def unit(parameter: Tensor, state: dict[str, Any]) -> Iterator[Tensor]:
    """Yield the weights as a flat tensor of unit scale, and write them back times s."""
    data = parameter.detach()
    if "scale" not in state and data.is_contiguous():
        yield data.view(-1)
        return
    weights = (data / value(state)).reshape(-1)
    yield weights
    # Read s again, because it may have been learned meanwhile.
    data.copy_(weights.view(data.shape) * value(state))


def unit_gradient(gradient: Tensor, state: dict[str, Any]) -> Tensor:
    """Return ∂loss/∂(unit weight) = s · ∂loss/∂weight, flat."""
    return (gradient * state["scale"] if "scale" in state else gradient).reshape(-1)


def slope(parameter: Tensor, state: dict[str, Any], weights: Tensor, gradient: Tensor) -> Tensor | None:
    """Return ∂loss/∂log s = Σ (s·g)·w over each channel, from flat unit weights; None if s is not learned."""
    if "scale_first" not in state:
        return None
    return (gradient * weights).view(parameter.shape).sum_to_size(state["scale"].shape)


def learn(state: dict[str, Any], slope: Tensor | None, lr: float, accept: Tensor | None) -> None:
    """Take one Adam step on log s of a "channel" scale, unless there is no slope or `accept` is False."""
    if slope is None:
        return
    moments = state["scale_first"], state["scale_second"]
    o: Any = Options(**F.adam_options((0.9, 0.999), state["step"] + 1))
    first, second, direction = F.adam(*moments, slope, o)
    new = {"scale": state["scale"] * torch.exp(-lr * direction), "scale_first": first, "scale_second": second}
    for name, tensor in new.items():
        state[name].copy_(tensor if accept is None else torch.where(accept, tensor, state[name]))
