"""What depends on the step of each tensor: its noise, and the options that change from step to step.

With `capturable`, step numbers are on the device, and so is all that is computed from them. A number takes as long to
compute there as a million weights, and a hash is dozens of numbers. The tensors of a parameter group are therefore
computed together.
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


class Begun(NamedTuple):
    """What the update of one tensor reads beside its gradient.

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


# Noise streams. Streams 2 and 4 belong to posterior samples.
_START, _DRAW, _SHARED = 0, 1, 3


def start(place: Place, *part: int) -> Noise:
    """Return noise for the initial state of a tensor; other parts are independent."""
    key = stream_key(place.group["seed"], _START, place.number, *part)
    return Noise(key, place.parameter.numel(), place.parameter.device)


def begin(
    places: Sequence[Place], states: Sequence[dict[str, Any]], schedule: Callable[[Values, Count], Values]
) -> list[Begun]:
    """Begin the next step of some tensors, which adds one to the step numbers in their states.

    Args:
        places: The tensors.
        states: State of each tensor.
        schedule: Schedule of the rule; see `scheduled`.
    """
    drawn, following = noises(places, [state["step"] for state in states], ahead=(0, 1))
    there = [state["step"] for state in states if isinstance(state["step"], Tensor)]
    if there:
        # In place, because a captured graph reads this memory.
        torch._foreach_add_(there, 1)  # pyright: ignore[reportPrivateImportUsage]
    for state in states:
        if not isinstance(state["step"], Tensor):
            state["step"] += 1
    numbers = [state["step"] for state in states]
    options, of_scale = (scheduled(places, numbers, each) for each in (schedule, scales.schedule))
    return [Begun(*each) for each in zip(drawn, following, options, of_scale, strict=True)]


def scheduled(
    places: Sequence[Place], steps: Sequence[Count], schedule: Callable[[Values, Count], Values]
) -> list[Values]:
    """Return the values of a schedule for each tensor, and the number of the step.

    Args:
        places: The tensors.
        steps: Step number of each tensor.
        schedule: Function from the options of a group and a step number, or a tensor of several, to values by name.
    """
    found: list[Values] = []
    for members, counts in _runs(places, steps):
        group = members[0].group
        if isinstance(counts[0], Tensor):
            rows: list[Values] = [{} for _ in members]
            step = torch.stack([*counts])
            for name, value in (schedule(group, step) | {"step": step.double()}).items():
                each = value.unbind() if isinstance(value, Tensor) and value.dim() else itertools.repeat(value)
                for row, own in zip(rows, each, strict=False):
                    row[name] = own
            found += rows
        else:
            found += [schedule(group, step) | {"step": step} for step in counts]
    return found


def noises(
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
    found: list[list[Noise]] = [[] for _ in ahead]
    for members, counts in _runs(places, steps):
        keys = _keys(members, counts, sample, ahead)
        for noise in found:
            noise += [_noise(place, *next(keys)) for place in members]
    return found


def _runs(places: Sequence[Place], steps: Sequence[Count]) -> Iterator[tuple[Sequence[Place], Sequence[Any]]]:
    """Yield tensors of one group that have consecutive numbers and whose step numbers are in one place."""

    def kind(entry: tuple[int, tuple[Place, Count]]) -> tuple[object, ...]:
        index, (place, step) = entry
        return id(place.group), place.number - index, step.device if isinstance(step, Tensor) else None

    for _, run in itertools.groupby(enumerate(zip(places, steps, strict=True)), kind):
        members, counts = zip(*(pair for _, pair in run), strict=True)
        yield members, counts


def _keys(
    places: Sequence[Place], steps: Sequence[Any], sample: int, ahead: Sequence[int]
) -> Iterator[tuple[int | Tensor, int | Tensor]]:
    """Yield the own and the shared key of each tensor of a group, once for each entry of `ahead`."""
    group, first = places[0].group, places[0].number
    if not isinstance(steps[0], Tensor):
        for more, (place, step) in itertools.product(ahead, zip(places, steps, strict=True)):
            yield _hashed(group, step + more, sample, place.number)
        return
    now = torch.stack([*steps])
    numbers = torch.arange(first, first + len(places), device=now.device)
    own, shared = _hashed(group, torch.stack([now + more for more in ahead]), sample, numbers)
    both = shared.flatten() if isinstance(shared, Tensor) else itertools.repeat(shared)
    yield from zip(own.flatten(), both, strict=False)


def _hashed(group: Mapping[str, Any], step: Any, sample: int, number: Any) -> tuple[Any, Any]:
    """Return the own and the shared key of one tensor, or of many."""
    own = stream_key(group["seed"], _DRAW, step, sample, number)
    if "shared" not in group:  # nothing reads the shared noise
        return own, 0
    return own, stream_key(group["seed"], _SHARED, step, sample, *([] if group["shared"] == "network" else [number]))


def _noise(place: Place, key: int | Tensor, shared_key: int | Tensor) -> Noise:
    span = shards.span(place.parameter)
    return Noise(key, span.stop - span.start, place.parameter.device, start=span.start, shared_key=shared_key)
