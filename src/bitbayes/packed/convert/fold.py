"""Shorten programs without changing their results: merge scales and shifts, and turn signs into thresholds.

All computations are per channel and in float64. Value 0 is the input, and draft i makes value i + 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from bitbayes.packed.convert.draft import Draft
from bitbayes.packed.format.bits import Array

Shapes = Sequence[tuple[int, ...]]


def shortened(drafts: Sequence[Draft], shapes: Shapes) -> list[Draft]:
    """Return fewer steps with the same result: bit for bit if sums are integers, up to rounding otherwise.

    The shapes are those of all values without the batch, starting with the input.

    Example:
        >>> two = [Draft("affine", (i,), "", tensors={"scale": np.full((1, 1), 2.0)}) for i in range(2)]
        >>> shortened(two, [(3,)] * 3)[0].tensors["scale"]
        array([[4.]])
    """
    drafts = list(drafts)
    for index in range(len(drafts)):
        users = Counter(source for draft in drafts for source in draft.sources)
        if drafts[index].op == "affine":
            _fold(drafts, index, users)
        elif drafts[index].op == "max_pool":
            _swap(drafts, index, users)
        elif drafts[index].op == "sign":
            _fuse(drafts, index, users, shapes)
            _skip(drafts, index)
    return _needed(drafts, shapes)


def _scale_shift(draft: Draft) -> tuple[Array, Array]:
    """Return scale and shift of an affine step."""
    return draft.tensors.get("scale", np.ones((1, 1))), draft.tensors.get("shift", np.zeros((1, 1)))


def _inner(drafts: list[Draft], index: int, users: Counter[int]) -> Draft | None:
    """Return the previous step, if no other step needs its value."""
    source = drafts[index].sources[0]
    return drafts[source - 1] if source > 0 and users[source] == 1 else None


def _fold(drafts: list[Draft], index: int, users: Counter[int]) -> None:
    """Merge an affine step with the affine step before it."""
    outer, inner = drafts[index], _inner(drafts, index, users)
    scale, shift = _scale_shift(outer)
    if inner is not None and inner.op == "affine":
        first, begin = _scale_shift(inner)
        outer = replace(outer, sources=inner.sources)
        scale, shift = scale * first, scale * begin + shift
    both = {"scale": (scale, 1), "shift": (shift, 0)}
    tensors = {role: tensor for role, (tensor, nothing) in both.items() if (tensor != nothing).any()}
    drafts[index] = replace(outer, tensors=tensors)


def _swap(drafts: list[Draft], index: int, users: Counter[int]) -> None:
    """Move a maximum before a non-negative scale, so that it is taken of integers if there are any."""
    pool, inner = drafts[index], _inner(drafts, index, users)
    if inner is not None and inner.op == "affine" and (_scale_shift(inner)[0] >= 0).all():
        place = pool.sources[0]
        drafts[place - 1] = replace(pool, sources=inner.sources)
        drafts[index] = replace(inner, sources=(place,))


def _fuse(drafts: list[Draft], index: int, users: Counter[int], shapes: Shapes) -> None:
    """Replace the sign of a monotone function of an integer by a comparison with an integer."""
    chain, before = list[Draft](), drafts[index].sources[0]
    while before and users[before] == 1 and drafts[before - 1].op in _RISING:
        chain.insert(0, drafts[before - 1])
        before = chain[0].sources[0]
    limit = _count_limit(drafts, before, shapes)
    if not chain or limit is None or any((d.tensors.get("slope", np.zeros(1)) < 0).any() for d in chain):
        return
    channels, networks = shapes[index + 1][0], max(len(t) for d in chain for t in [*d.tensors.values(), [0]])
    direction = np.ones((networks, channels))
    for draft in chain:
        if draft.op == "affine":
            direction = direction * np.where(_scale_shift(draft)[0] < 0, -1, 1)

    def above(counts: Array) -> Array:
        value = counts * direction
        for draft in chain:
            value = _RISING[draft.op](draft, value)
        return value >= 0

    # Find the smallest count whose sign is +1 by bisection: above(low) is false and above(high) is true, or both lie
    # past the ends, where above() is not evaluated.
    low, high = np.full(direction.shape, -limit - 1.0), np.full(direction.shape, limit + 1.0)
    while (high - low > 1).any():
        middle = np.floor((low + high) / 2)
        yes = above(middle)
        # If low and high are neighbours, the middle is low, which stays.
        open_ = high - low > 1
        high, low = np.where(open_ & yes, middle, high), np.where(open_ & ~yes, middle, low)
    tensors: dict[str, Array] = {"threshold": high.astype(np.int32)}
    if (direction < 0).any():
        tensors["direction"] = direction.astype(np.int8)
    drafts[index] = replace(drafts[index], op="threshold", sources=(before,), tensors=tensors)


def _skip(drafts: list[Draft], index: int) -> None:
    """Skip steps before a sign that do not change the sign."""
    while drafts[index].op == "sign" and (source := drafts[index].sources[0]):
        inner = drafts[source - 1]
        if inner.op == "prelu":
            kept = bool((inner.tensors["slope"] > 0).all())
        elif inner.op == "clamp":
            low, high = inner.settings["min"], inner.settings["max"]
            kept = (low is None or low < 0) and (high is None or high >= 0)
        else:
            kept = inner.op == "affine" and not inner.tensors
        if not kept:
            return
        drafts[index] = replace(drafts[index], sources=inner.sources)


_RISING: Mapping[str, Callable[[Draft, Array], Array]] = {
    "affine": lambda draft, x: _scale_shift(draft)[0] * x + _scale_shift(draft)[1],
    "prelu": lambda draft, x: np.where(x > 0, x, x * draft.tensors["slope"]),
    "clamp": lambda draft, x: np.clip(x, draft.settings["min"], draft.settings["max"]),
}


def _count_limit(drafts: list[Draft], value: int, shapes: Shapes) -> int | None:
    """Return the largest magnitude of a value, if it holds sums of products of signs or maxima of such sums."""
    while value and drafts[value - 1].op == "max_pool":
        value = drafts[value - 1].sources[0]
    draft = drafts[value - 1] if value else None
    if draft is None or draft.op not in ("linear", "conv") or draft.tensors["weight"].dtype != np.uint8:
        return None
    return draft.fan_in(shapes[draft.sources[0]]) if _signs(drafts, draft.sources[0]) else None


def _signs(drafts: list[Draft], value: int) -> bool:
    """Return whether a value holds only −1 and +1."""
    if value == 0:
        return False
    draft = drafts[value - 1]
    if draft.op in ("reshape", "permute", "slice", "concat", "max_pool") or (
        draft.op == "affine" and not draft.tensors
    ):
        return all(_signs(drafts, source) for source in draft.sources)
    return draft.op in ("sign", "threshold")


def _needed(drafts: list[Draft], shapes: Shapes) -> list[Draft]:
    """Drop identities and steps whose value is unused."""
    stands = {0: 0}  # replacements of values
    for index, draft in enumerate(drafts):
        nothing = draft.op == "affine" and not draft.tensors
        nothing |= draft.op == "reshape" and shapes[draft.sources[0]] == shapes[index + 1]
        stands[index + 1] = stands[draft.sources[0]] if nothing else index + 1
    alive, todo = set[int](), [stands[len(drafts)]]
    while todo:
        value = todo.pop()
        if value and value not in alive:
            alive.add(value)
            todo.extend(stands[source] for source in drafts[value - 1].sources)
    order = {value: place for place, value in enumerate(sorted(alive | {0}))}
    places = {value: order[standing] for value, standing in stands.items() if standing in order}
    kept = [drafts[value - 1] for value in sorted(alive)]
    return [replace(draft, sources=tuple(places[source] for source in draft.sources)) for draft in kept]
