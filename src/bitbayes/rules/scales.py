"""The scale s > 0 of a binary tensor, whose weights are then ±s.

Rules see unit weights: draws of ±1 and gradients with respect to them. Only this module handles s.

"channel" learns one s for each output, and "group:128" one for each 128 adjacent weights of a row, as the files of
language models have it. A row is all weights of one output. The tensor of a group's scales has shape (out, groups), or
(experts, out · groups) for stacked experts.

"normal" gives every weight a fixed s, the size of a standard normal number, and "weight" learns s from that start. A
weight then takes 32 bits, its sign included. This suits a first layer on few inputs. With signs alone, the units of
such a layer have few directions, and predictions far from the data are constant in sectors.
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
from bitbayes.rules.marks import stacked_inputs, transposed_groups
from bitbayes.rules.rule import Options

KINDS = ("one", "fan_in", "channel", "normal", "weight")
"""Kinds of scales."""

LEARNED = ("channel", "weight")
"""Kinds of scales that are learned."""

SMALLEST_GROUP, MOST_GROUPS = 32, 128
"""Size and number of groups in a row that a packed file keeps as bits. A group is a step of its own there."""

_SMALLEST = 1e-3  # a scale that is a random number is positive, and its reciprocal moderate


def fans(parameter: Tensor) -> tuple[int, int]:
    """Return fan-in and fan-out of a weight of shape (out, in, *kernel); a vector counts as one output.

    The fans of stacked experts, which `bitbayes.split_parameters` marks, are those of one expert. A weight of a layer
    of an unknown kind counts as one of a convolution. `begin` refuses scales that would depend on that, but the starts
    of rules do depend on it, also with scale="one".
    """
    if parameter.dim() < 2:
        return max(parameter.numel(), 1), 1
    if axis := stacked_inputs(parameter):
        return max(parameter.shape[axis], 1), max(parameter.shape[3 - axis], 1)
    kernel = math.prod(parameter.shape[2:])
    outputs, inputs = parameter.shape[:2]
    if groups := transposed_groups(parameter):
        inputs, outputs = outputs // groups, inputs
    return max(inputs * kernel, 1), max(outputs * kernel, 1)


def layers(parameter: Tensor) -> int:
    """Return the number of linear layers whose weights a tensor holds: the experts if they are stacked, and else 1."""
    return max(len(parameter), 1) if stacked_inputs(parameter) else 1


def group_size(kind: str) -> int | None:
    """Return the number of weights that share a scale of a kind "group:N", or None for another kind.

    Example:
        >>> group_size("group:128"), group_size("channel"), group_size("group:0")
        (128, None, None)
    """
    name, _, digits = kind.partition(":")
    size = int(digits) if name == "group" and digits.isascii() and digits.isdigit() and len(digits) < 10 else 0
    return size or None


def is_learned(kind: str) -> bool:
    """Return whether training changes the scales of a kind."""
    return kind in LEARNED or group_size(kind) is not None


def begin(parameter: Tensor, kind: str, noise: Noise, trained: Tensor | None = None) -> dict[str, Tensor]:
    """Return the initial state of a scale: nothing for "one", s if it is fixed, s and Adam's moments if it is learned.

    Args:
        parameter: Binary tensor.
        kind: One of `KINDS`, or "group:N".
        noise: Noise of as many numbers as there are weights, for "normal" and "weight".
        trained: Weights of the whole tensor, flat, whose mean sizes a learned scale begins with (Rastegari et al.,
            ECCV 2016, equation 6). None begins with 1/√fan_in.

    Raises:
        ValueError: If the tensor has no such scales.
    """
    if kind == "one":
        return {}
    if kind in ("normal", "weight"):
        sizes = noise.normal().abs().clamp(min=_SMALLEST).view(parameter.shape)
        return _learned(sizes) if kind in LEARNED else {"scale": sizes}
    if stacked_inputs(parameter) == 0:
        raise ValueError(
            f'scale="{kind}" needs to know which dimension of a weight is its inputs, but one of shape '
            f"{tuple(parameter.shape)} belongs to a layer of an unknown kind; put it into a parameter group of its own "
            'with scale="one", or, if its shape is (out, in, *kernel), call split_parameters without naming it in '
            "binary=[...], and add it to the binary parameters yourself"
        )
    first = 1 / math.sqrt(fans(parameter)[0])
    if kind == "fan_in":
        return {"scale": torch.tensor(first, dtype=torch.float32, device=parameter.device)}
    shape = _learned_shape(parameter, kind)
    scale = torch.full(shape, first, dtype=torch.float32, device=parameter.device)
    if trained is not None:
        sizes = trained.abs()
        count = parameter.numel() // scale.numel()
        # Weights that are all zero would have no scale, and no gradient. The bound is that of one expert.
        mean = sizes.view(layers(parameter), -1).mean(1).view([layers(parameter), 1, 1, 1, 1, 1][: scale.dim()])
        scale = torch.maximum(_summed(sizes, scale, parameter.shape) / count, _SMALLEST * mean)
    return _learned(scale)


def _learned(scale: Tensor) -> dict[str, Tensor]:
    return {"scale": scale, "scale_first": torch.zeros_like(scale), "scale_second": torch.zeros_like(scale)}


def _learned_shape(parameter: Tensor, kind: str) -> list[int]:
    stacked = stacked_inputs(parameter)
    # The axis of the output channels (of a group, where a transposed convolution has groups).
    axis = 1 if transposed_groups(parameter) else 0
    if axis and shards.is_sharded(parameter):
        raise ValueError(
            f'scale="{kind}" of a transposed convolution needs the rows of all processes, and fully_shard has shared '
            'them out; take scale="fan_in", or leave this layer out of fully_shard'
        )
    size = group_size(kind)
    own = (0, 3 - stacked) if stacked else (axis,)  # axes with scales of their own
    channels = [length if place in own else 1 for place, length in enumerate(parameter.shape)]
    if size is None:
        return channels
    if axis or stacked == 1:
        raise ValueError(
            f'scale="{kind}" needs the weights of an output to lie side by side, which those of a transposed '
            "convolution, of GPT-2's Conv1D and of experts of shape (experts, in, out) do not; take "
            'scale="channel" in a parameter group of its own'
        )
    each = parameter.numel() // max(len(parameter), 1)
    row = parameter.shape[2] if stacked else each
    if parameter.dim() < 2 or row % size:
        raise ValueError(
            f'scale="{kind}" needs a number of weights per output that is a multiple of {size}, but a tensor of shape '
            f'{tuple(parameter.shape)} has {row}; take a divisor of {row}, or scale="channel" in a parameter group of '
            "its own"
        )
    return channels if row == size else [len(parameter), each // size]


def sizes(parameter: Tensor) -> dict[str, float]:
    """Return what the start of a belief depends on: the fan-in, a bound of Glorot's, and the number of layers."""
    fan_in, fan_out = fans(parameter)  # only at the start, because copies of a tensor have no marks
    return {"bound": math.sqrt(1.5 / (fan_in + fan_out)), "fan_in": fan_in, "layers": layers(parameter)}


def value(state: dict[str, Any], shape: torch.Size) -> Tensor:
    """Return s, broadcastable to a tensor of this shape; 1 if there is no scale."""
    if "scale" not in state:
        return torch.ones(())
    scale: Tensor = state["scale"]
    if not _grouped(scale, shape):
        return scale
    return scale.repeat_interleave(shape.numel() // max(scale.numel(), 1), 1).view(shape)


def _grouped(scale: Tensor, shape: torch.Size) -> bool:
    """Return whether each scale covers a part of a row, and not the row or a weight."""
    return scale.dim() == 2 and len(scale) == shape[0] and scale.shape[1] > 1 and scale.shape != shape


def _summed(values: Tensor, scale: Tensor, shape: torch.Size) -> Tensor:
    """Return the sum of the values of all weights with the same scale."""
    if _grouped(scale, shape):
        return values.view(*scale.shape, shape.numel() // max(scale.numel(), 1)).sum(2)
    return values.view(shape).sum_to_size(scale.shape)


def bits(parameter: Tensor, state: dict[str, Any]) -> int:
    """Return the bits of a tensor in a packed file: its signs and its scales, unless a single scale is folded away.

    Weights of which each has a size of its own are stored as float32 numbers, whose first bit is the sign. So are
    groups of a convolution, and small or many groups of a linear layer. `bitbayes.pack` refuses stacked experts and
    recurrent layers; their weights count as those of linear layers do.
    """
    scale, weights = state.get("scale"), parameter.numel()
    if scale is None or not scale.dim():
        return weights
    own = scale.shape[1:] == parameter.shape[1:] and parameter[0].numel() > 1
    if _grouped(scale, parameter.shape):
        stacked = stacked_inputs(parameter)
        row = parameter.shape[stacked or 1]
        groups = scale.shape[1] // (parameter.shape[1] if stacked else 1)
        convolution = parameter.dim() > 2 and not stacked
        own = convolution or row // groups < SMALLEST_GROUP or groups > MOST_GROUPS
    return 32 * weights if own else weights + 32 * scale.numel()


@contextmanager
def unit(parameter: Tensor, state: dict[str, Any]) -> Iterator[Tensor]:
    """Yield the weights as a flat tensor of unit scale, and write them back times s."""
    data = parameter.detach()
    if "scale" not in state and data.is_contiguous():
        yield data.view(-1)
        return
    # Half precision holds s rounded. The weights of a hard draw are ±1 only if they are divided by that.
    rounded = value(state, data.shape).to(data.dtype)
    weights = (data / rounded.to(torch.promote_types(data.dtype, torch.float32))).reshape(-1)
    yield weights
    # Read s again, because it may have been learned meanwhile.
    data.copy_(weights.view(data.shape) * value(state, data.shape))


def unit_gradient(gradient: Tensor, state: dict[str, Any]) -> Tensor:
    """Return ∂loss/∂(unit weight) = s · ∂loss/∂weight, flat."""
    return (gradient * value(state, gradient.shape) if "scale" in state else gradient).reshape(-1)


def slope(parameter: Tensor, state: dict[str, Any], weights: Tensor, gradient: Tensor) -> Tensor | None:
    """Return ∂loss/∂log s = Σ (s·g)·w over the weights of each s, from flat unit weights; None if s is not learned."""
    if "scale_first" not in state:
        return None
    return _summed(gradient * weights, state["scale"], parameter.shape)


def schedule(group: dict[str, Any], step: int | Tensor) -> dict[str, Any]:
    """Return the coefficients of the Adam step at a step number; nothing for scales that are not learned."""
    return F.adam_options((0.9, 0.999), step) if is_learned(group["scale"]) else {}


def learn(
    state: dict[str, Any], slope: Tensor | None, lr: float, coefficients: dict[str, Any], accept: Tensor | None
) -> None:
    """Take one Adam step on log s of a learned scale, unless there is no slope or `accept` is False.

    Args:
        state: State of the tensor, which is changed.
        slope: Gradient with respect to log s, from `slope`.
        lr: Learning rate.
        coefficients: Coefficients of the step, from `schedule`.
        accept: 0-d bool on the device, or None to accept the step.
    """
    if slope is None:
        return
    moments, o = (state["scale_first"], state["scale_second"]), Options(**coefficients)
    first, second, direction = F.adam(*moments, slope, o)  # pyright: ignore[reportArgumentType]
    new = {"scale": state["scale"] * torch.exp(-lr * direction), "scale_first": first, "scale_second": second}
    for name, tensor in new.items():
        state[name].copy_(tensor if accept is None else torch.where(accept, tensor, state[name]))
