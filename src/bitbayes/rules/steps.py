"""Values that depend on the step number of each tensor: its noise and the options that change from step to step.

With `capturable`, step numbers are on the device, and so is all that is computed from them. To launch an operation for
one number takes about as long as to update a million weights, and a hash needs dozens of operations. Consecutive
tensors of a parameter group are therefore computed together.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bitbayes.noise import Noise, stream_key
from bitbayes.rules import scales, shards
from bitbayes.rules.places import Place
from bitbayes.rules.rule import Count, Values

# Noise streams. Streams 2 and 4 belong to posterior samples.
_START, _DRAW, _SHARED = 0, 1, 3
_OTHER = 0x5851F42D4C957F2D  # turns the key of a stream into that of another one


class StepValues(NamedTuple):
    """Values that the update of one tensor reads beside its gradient.

    Attributes:
        drawn: Noise of the current draw.
        next: Noise of the next draw.
        scheduled: Options of the rule that change from step to step.
        of_scale: Coefficients for a learned scale; see `scales.schedule`.
    """

    drawn: Noise
    next: Noise
    scheduled: Values
    of_scale: Values


def start_noise(place: Place, *part: int) -> Noise:
    """Return noise for the initial state of a tensor; other parts are independent."""
    key = stream_key(place.group["seed"], _START, place.number, *part)
    return Noise(key, place.parameter.numel(), place.parameter.device)


def step_values(
    places: Sequence[Place], steps: Sequence[Count], schedule: Callable[[Values, Count], Values]
) -> list[StepValues]:
    """Return the values that the next update of each tensor reads.

    Args:
        places: The tensors.
        steps: Number of steps of each tensor so far.
        schedule: Schedule of the rule; see `scheduled`.
    """
    drawn, following = draw_noises(places, steps, ahead=(0, 1))
    options, of_scale = (scheduled(places, steps, each, ahead=1) for each in (schedule, scales.schedule))
    return [StepValues(*each) for each in zip(drawn, following, options, of_scale, strict=True)]


def scheduled(
    places: Sequence[Place], steps: Sequence[Count], schedule: Callable[[Values, Count], Values], *, ahead: int = 0
) -> list[Values]:
    """Return the values of a schedule for each tensor, and the number of the step.

    Args:
        places: The tensors.
        steps: Step number of each tensor.
        schedule: Function from the options of a group and a step number, or a tensor of several, to values by name.
        ahead: Number of further steps for which the values are wanted.
    """
    if not _on_device(steps):
        pairs = ((place.group, step + ahead) for place, step in zip(places, steps, strict=True))
        return [schedule(group, step) | {"step": step} for group, step in pairs]
    found: list[Values] = []
    for members, now in _runs(places, steps):
        step = now + ahead if ahead else now
        rows: list[Values] = [{} for _ in members]
        for name, value in (schedule(members[0].group, step) | {"step": step.double()}).items():
            several = isinstance(value, Tensor) and value.shape == step.shape
            for row, own in zip(rows, value.unbind() if several else [value] * len(rows), strict=True):
                row[name] = own
        found += rows
    return found


def draw_noises(
    places: Sequence[Place], steps: Sequence[Count], sample: int = 0, *, ahead: Sequence[int] = (0,)
) -> list[list[Noise]]:
    """Return the noise of every tensor; with `shared="network"`, tensors have some noise in common.

    Args:
        places: The tensors.
        steps: Step number of each tensor.
        sample: Number of the draw within a step.
        ahead: Numbers of further steps after which the noise is wanted.

    Returns:
        A list for each entry of `ahead`, with one noise per tensor.
    """
    if not _on_device(steps):
        pairs = list(zip(places, steps, strict=True))
        return [[_made(p, *_keys(p.group, step + more, sample, p.number)) for p, step in pairs] for more in ahead]
    found: list[list[Noise]] = [[] for _ in ahead]
    for members, now in _runs(places, steps):
        first = members[0].number
        numbers = torch.arange(first, first + len(members), device=now.device)
        keys = _keys(members[0].group, torch.stack([now + more for more in ahead]), sample, numbers)
        for noises, own, shared in zip(found, *keys, strict=True):
            noises += map(_made, members, own, shared)
    return found


def _on_device(steps: Sequence[Count]) -> bool:
    return any(isinstance(step, Tensor) for step in steps)


def _runs(places: Sequence[Place], steps: Sequence[Any]) -> Iterator[tuple[Sequence[Place], Tensor]]:
    """Yield tensors of one group that have consecutive numbers, with their steps, which are on one device."""

    def kind(entry: tuple[int, tuple[Place, Any]]) -> tuple[object, ...]:
        index, (place, step) = entry
        return id(place.group), place.number - index, step.device

    for _, run in itertools.groupby(enumerate(zip(places, steps, strict=True)), kind):
        members, counts = zip(*(pair for _, pair in run), strict=True)
        yield members, torch.stack(counts)


def _keys(group: Mapping[str, Any], step: Any, sample: int, number: Any) -> tuple[Any, Any]:
    """Return the own and the shared key of one tensor, or of many."""
    own = stream_key(group["seed"], _DRAW, step, sample, number)
    if "shared" not in group:  # without a hash of its own, because few rules read the shared noise
        return own, own ^ _OTHER
    return own, stream_key(group["seed"], _SHARED, step, sample, *([] if group["shared"] == "network" else [number]))


def _made(place: Place, key: int | Tensor, shared_key: int | Tensor) -> Noise:
    span = shards.span(place.parameter)
    return Noise(key, span.stop - span.start, place.parameter.device, start=span.start, shared_key=shared_key)
