"""Axes of traced tensors, which a program may store split, joined, or in another order.

Torch has the channels of a sequence last, and programs have them on axis 1. Attention splits channels into heads, and
some of torch's layers put the batch second or join it with another axis. A `Traced` tensor remembers all this, so that
transposing, splitting and joining axes take no step. A step is added only where an operation needs another order.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch.fx import Node

from bitbayes.packed.convert.draft import Builder, Refusal

BATCH_SIZE = (1 << 61) - 1  # stands for the batch size; a prime, so that it divides no product of other sizes


class Atom:
    """Part of an axis that is never split: rows and columns of an axis of pixels, or heads of an axis of channels.

    Args:
        size: Number of entries, at least two. An axis of one entry has no atom.
    """

    def __init__(self, size: int) -> None:
        self.size = size


BATCH = Atom(BATCH_SIZE)
Axis = tuple[Atom, ...]  # the outermost atom first


def size_of(axis: Iterable[Atom]) -> int:
    """Return the number of entries of an axis."""
    return math.prod(atom.size for atom in axis)


def flat(axes: Iterable[Axis]) -> Axis:
    """Return the atoms of all axes in order."""
    return tuple(atom for axis in axes for atom in axis)


def axis_of(size: int) -> Axis:
    """Return a new axis."""
    return (Atom(size),) if size > 1 else ()


@dataclass(frozen=True)
class Traced:
    """Tensor of the traced network as a value of the program.

    Args:
        value: Number of the value.
        stored: Axes of the value; the first is the batch.
        axes: The same atoms as the axes of torch's tensor.
    """

    value: int
    stored: tuple[Axis, ...]
    axes: tuple[Axis, ...]

    @classmethod
    def plain(cls, value: int, sizes: Sequence[int]) -> Traced:
        """Return a tensor whose axes after the batch are those of the value."""
        axes = ((BATCH,), *map(axis_of, sizes))
        return cls(value, axes, axes)

    @property
    def sizes(self) -> list[int]:
        """Sizes of the axes of torch's tensor, with `BATCH_SIZE` for the batch."""
        return list(map(size_of, self.axes))

    def others(self, atoms: Axis) -> list[Axis]:
        """Return the axes of the value that are left without the batch and some atoms."""
        left = (tuple(atom for atom in axis if atom not in atoms) for axis in self.stored[1:])
        return list(filter(None, left))

    def of(self, value: int) -> Traced:
        """Return a tensor of the same axes with another value."""
        return replace(self, value=value)

    def substituted(self, old: Axis, new: Axis) -> Traced:
        """Return a tensor in which some consecutive atoms have become others."""

        def changed(axis: Axis) -> Axis:
            place = next((i for i in range(len(axis)) if old and axis[i : i + len(old)] == old), None)
            return axis if place is None else (*axis[:place], *new, *axis[place + len(old) :])

        return replace(self, stored=tuple(map(changed, self.stored)), axes=tuple(map(changed, self.axes)))


def stored_as(b: Builder, x: Traced, wanted: Sequence[Axis]) -> Traced:
    """Return a tensor whose value has the given axes, adding a reshape, a permutation, and a reshape where needed."""
    wanted = tuple(wanted)
    if wanted == x.stored:
        return x
    if wanted[0] != (BATCH,):
        raise Refusal("the batch must stay the first axis and must not be joined with another one")
    if len(wanted) == 1:
        raise Refusal("the batch must not be the only axis")
    value, axes = x.value, list(x.stored[1:])
    runs = _runs(axes, flat(wanted))
    before = sorted(runs, key=lambda run: flat(axes).index(run[0]))
    if before != runs:
        if before != axes:
            value = b.once("reshape", value, shape=list(map(size_of, before)))
        value, axes = b.once("permute", value, axes=[1 + before.index(run) for run in runs]), runs
    if axes != list(wanted[1:]):
        value = b.once("reshape", value, shape=list(map(size_of, wanted[1:])))
    return Traced(value, wanted, x.axes)


def _runs(stored: Sequence[Axis], order: Axis) -> list[Axis]:
    """Cut atoms in a wanted order, which begins with the batch, into the longest pieces of single stored axes."""
    after = {one: two for axis in stored for one, two in itertools.pairwise(axis)}
    runs = list[Axis]()
    for last, atom in itertools.pairwise(order):
        runs.append((*runs.pop(), atom) if after.get(last) is atom else (atom,))
    return runs


def channels_first(b: Builder, x: Traced, channels: Axis) -> Traced:
    """Return a tensor whose value has the given atoms as its axis 1, and all others as at most two axes after it."""
    if BATCH in channels:
        raise Refusal("it must not work along the batch")
    others = x.others(channels)
    others = others if len(others) <= 2 and all(axis in x.stored for axis in others) else [flat(others)]
    return stored_as(b, x, ((BATCH,), channels, *others))


def reshaped(b: Builder, x: Traced, sizes: Sequence[int]) -> Traced:
    """Return a tensor with axes of other sizes; `BATCH_SIZE` and its multiples stand for those with the batch."""
    if x.stored == x.axes and sizes[0] == BATCH_SIZE:
        value = b.add("reshape", [x.value], shape=list(sizes[1:]))
        return Traced.plain(value, sizes[1:])
    left, axes = list(flat(x.axes)), list[Axis]()
    for size in sizes:
        axis: Axis = ()
        while size_of(axis) < size:
            atom, missing = left.pop(0), size // size_of(axis)
            if missing % atom.size:  # the axis takes only the outer part of this atom
                if atom.size % missing:
                    return _reshaped_as_it_is(b, x, sizes)
                outer, inner = Atom(missing), Atom(atom.size // missing)
                x = x.substituted((atom,), (outer, inner))
                left.insert(0, inner)
                atom = outer
            axis = (*axis, atom)
        axes.append(axis)
    return replace(x, axes=tuple(axes))


def _reshaped_as_it_is(b: Builder, x: Traced, sizes: Sequence[int]) -> Traced:
    """Reshape a tensor whose old and new axes have no common parts, such as 4 times 6 entries and 3 times 8."""
    if sizes[0] != BATCH_SIZE:
        raise Refusal("the batch must stay the first axis and must not be joined with another one")
    return reshaped(b, stored_as(b, x, x.axes), sizes)


def narrowed(b: Builder, x: Traced, axis: int, begin: int, end: int) -> Traced:
    """Return the entries `begin` to `end` of an axis of torch's tensor."""
    atoms = x.axes[axis]
    if (begin, end) == (0, size_of(atoms)):
        return x
    if BATCH in atoms:
        raise Refusal("it must keep the whole batch")
    place = next((i for i, each in enumerate(x.stored) if each[: len(atoms)] == atoms), None)
    if place is None:  # it becomes the outermost part of an axis of its own
        x = stored_as(b, x, ((BATCH,), atoms, *x.others(atoms)))
        place = 1
    inner = size_of(x.stored[place][len(atoms) :])
    value = b.add("slice", [x.value], axis=place, begin=begin * inner, end=end * inner)
    return x.of(value).substituted(atoms, axis_of(end - begin))


def matched(b: Builder, x: Traced, other: Traced) -> tuple[Traced, Traced]:
    """Return two tensors of equal torch shapes with values of equal shapes and orders."""
    parts = [[[atom.size for atom in axis] for axis in each.axes] for each in (x, other)]
    if parts[0] == parts[1]:
        twin = dict(zip(flat(other.axes), flat(x.axes), strict=True))
        wanted = tuple(tuple(twin[atom] for atom in axis) for axis in other.stored)
        return stored_as(b, x, wanted), other
    return stored_as(b, x, x.axes), stored_as(b, other, other.axes)


def shape_of(node: Any) -> tuple[Any, ...]:
    """Return the shape without the batch."""
    return tuple(node.meta["val"].shape[1:])


def sizes_of(node: Node) -> list[int]:
    """Return the shape of a node's first tensor, with `BATCH_SIZE` for the batch and its multiples for joined axes."""
    made = node.meta["val"]
    made = made[0] if isinstance(made, tuple | list) else made
    return [with_batch(size) for size in getattr(made, "shape", ())]


def with_batch(size: Any) -> int:
    """Return a size as a number: that of the batch is `BATCH_SIZE`."""
    if isinstance(size, int):
        return size
    (symbol,) = size.node.expr.free_symbols
    return int(size.node.expr.subs({symbol: BATCH_SIZE}))


def traced(b: Builder, node: Any) -> Traced:
    """Return the tensor that an operation takes."""
    found = b.values.get(node) if isinstance(node, Node) else None
    if found is None:
        raise Refusal("its arguments must depend on the input")
    if not isinstance(found, Traced):
        raise Refusal(getattr(found, "alone", "the product of two activations has no packed form, except in attention"))
    return found


def as_torch(b: Builder, node: Any) -> int:
    """Return the number of a value with the axes of torch's tensor."""
    x = traced(b, node)
    return stored_as(b, x, x.axes).value
