"""Conversion of layers with weights: linear layers, which may have scales by group, and convolutions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.fx import Node

from bitbayes.packed.convert.axes import Traced, as_torch, axis_of, channels_first, shape_of, traced
from bitbayes.packed.convert.draft import Builder, Get, Refusal
from bitbayes.rules.scales import MOST_GROUPS, SMALLEST_GROUP


def per_axis(value: Any, rank: int, missing: Any = 1) -> list[int]:
    """Return a torch setting for every axis, given a number, a list of one number, or nothing."""
    given = [value] if isinstance(value, int) else list(value or [missing])
    given = [size for each in given for size in (each if isinstance(each, list) else [each])]
    return given * rank if len(given) == 1 else given


def _weighted(b: Builder, op: str, a: dict[str, Any], source: int, **settings: Any) -> int:
    """Add a step of weights, then its scale, then its bias."""
    if a["weight"] not in b.constants:
        raise Refusal("its weights depend on the input")
    return _biased(b, b.add("affine", [b.add(op, [source], {"weight": a["weight"]}, **settings)]), a["bias"])


def _biased(b: Builder, value: int, bias: Any) -> int:
    return value if bias is None else b.add("affine", [value], {"shift": lambda get: get(bias)})


def _in_groups(b: Builder, op: str, a: dict[str, Any], source: int, count: int, **settings: Any) -> int:
    """Add a step of weights and its scale for each group of inputs, then their sum and the bias."""
    weight = a["weight"]
    size, total = weight.meta["val"].shape[1] // count, None
    for begin in range(0, count * size, size):

        def part(get: Get, begin: int = begin) -> Any:
            return get(weight)[:, begin : begin + size]

        inputs = b.add("slice", [source], axis=1, begin=begin, end=begin + size)
        value = b.add("affine", [b.add(op, [inputs], {"weight": part}, **settings)])
        total = value if total is None else b.add("add", [total, value])
    assert total is not None
    return _biased(b, total, a["bias"])


def _groups(weight: npt.NDArray[np.float32]) -> int:
    """Return into how many groups of inputs a weight falls, in each of which every row is ±s; 1 if there are none.

    Example:
        >>> _groups(np.array([[1, -1, 2, 2], [3, 3, -1, 1]], np.float32).repeat(32, 1))
        2
    """
    sizes = np.abs(weight)
    starts = 1 + np.flatnonzero((sizes[:, 1:] != sizes[:, :-1]).any(0))
    size = math.gcd(weight.shape[1], *starts.tolist())
    groups = weight.shape[1] // size
    return groups if size >= SMALLEST_GROUP and groups <= MOST_GROUPS and (sizes > 0).all() else 1


def linear(b: Builder, node: Node, a: dict[str, Any]) -> Traced:
    """Add a layer of one place, or a convolution of kernel 1 over all tokens or pixels."""
    x = traced(b, a["input"])
    given = channels_first(b, x, x.axes[-1])
    places = len(given.stored) - 2
    ones: dict[str, Any] = {key: [1] * places for key in ("kernel", "stride", "dilation")}
    settings = {**ones, "padding": [0] * places, "groups": 1} if places else {}
    op = "conv" if places else "linear"
    groups = _groups(b.evaluate(a["weight"]).detach().cpu().float().numpy()) if a["weight"] in b.constants else 1
    if groups > 1:
        value = _in_groups(b, op, a, given.value, groups, **settings)
    else:
        value = _weighted(b, op, a, given.value, **settings)
    outputs = axis_of(a["weight"].meta["val"].shape[0])
    return Traced(value, (given.stored[0], outputs, *given.stored[2:]), (*x.axes[:-1], outputs))


def conv(b: Builder, node: Node, a: dict[str, Any]) -> int:
    """Add a convolution, with a step for padding that differs between the ends."""
    rank, source, padding = len(shape_of(node)) - 1, as_torch(b, a["input"]), a["padding"]
    kernel, dilation = list(a["weight"].meta["val"].shape[2:]), per_axis(a["dilation"], rank)
    if padding == "same":
        both = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        padding = [size // 2 for size in both]
        if any(size % 2 for size in both):  # torch puts the odd zero last
            before, after = [0, *padding], [0, *(size - size // 2 for size in both)]
            source, padding = b.add("pad", [source], before=before, after=after), 0
    padding = per_axis(0 if padding == "valid" else padding, rank)
    geometry = {"kernel": kernel, "stride": per_axis(a["stride"], rank), "padding": padding, "dilation": dilation}
    return _weighted(b, "conv", a, source, **geometry, groups=a["groups"])
