"""Which stream of noise serves what, in a training run: all of it is a function of the seed and counters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from bitbayes import functional as F
from bitbayes.noise import Noise, stream_key
from bitbayes.rules.counter import Step

_START, _DRAW, _SHARED = 0, 1, 3  # streams 2 and 4 are those of posterior samples


def start(group: Mapping[str, Any], parameter: Tensor, index: int, kind: str) -> Tensor:
    """Random values of typical size 1 that a belief begins with: "uniform" on (−1, 1), or "signs"."""
    values = Noise(stream_key(group["seed"], _START, index), parameter.numel(), parameter.device).uniform() * 2 - 1
    return F.sign(values) if kind == "signs" else values


def more(group: Mapping[str, Any], parameter: Tensor, index: int) -> Noise:
    """Further noise for a belief that begins with more than one value a weight."""
    return Noise(stream_key(group["seed"], _START, index, 1), parameter.numel(), parameter.device)


def draw(group: Mapping[str, Any], parameter: Tensor, index: int, step: Step, sample: int = 0) -> Noise:
    """The noise of the draw that follows a step; with the option `shared="network"` tensors have some in common."""
    key = stream_key(group["seed"], _DRAW, step, sample, index)
    place = [] if group.get("shared") == "network" else [index]
    shared = stream_key(group["seed"], _SHARED, step, sample, *place)
    return Noise(key, parameter.numel(), parameter.device, shared_key=shared)
