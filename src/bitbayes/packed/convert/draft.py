"""Drafts of programs: steps whose tensors are float64 and have a leading axis of C networks.

Tracing fills a `Builder` with steps; their constants become tensors when all networks are known.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.fx import Node

from bitbayes.kernels import build
from bitbayes.packed.format.bits import Array, pack_signs, row_bytes
from bitbayes.packed.format.inputs import Inputs
from bitbayes.packed.format.network import PackedNetwork
from bitbayes.packed.format.program import Program, Step

Get = Callable[[Any], npt.NDArray[np.float64]]  # the value of a constant in one network
Vector = Callable[[Get], npt.NDArray[np.float64]]
Constant = Node | Vector  # a tensor of weights, or a vector to compute

_CACHED = 1 << 16  # numbers at a time, so that temporaries stay in a processor's cache
_MANY = 1 << 16  # least weights for which a kernel pays, whose first use on a machine takes a second


@dataclass(frozen=True)
class Draft(Step):
    """Draft of a step, which holds tensors rather than their names.

    The tensors have shape (C or 1, ...); bits are uint8 and real weights float32. During tracing, a `Constant` stands
    for each tensor.

    Example:
        >>> Draft("affine", (0,), "scale", tensors={"scale": np.ones((1, 3))}).tensors["scale"].shape
        (1, 3)
    """

    tensors: Mapping[str, Any] = field(default_factory=dict)


class Refusal(Exception):
    """Reason why an operation cannot be packed."""


class Builder:
    """Builder of a program: the steps so far, and the values of the traced nodes.

    Args:
        evaluate: Function that returns the tensor of a constant node in the traced network.
    """

    def __init__(self, evaluate: Callable[[Node], Any]) -> None:
        self.evaluate = evaluate
        self.layer = ""  # name of the layer from which the next steps come
        self.drafts: list[Draft] = []
        self.values: dict[Node, Any] = {}  # what `axes.Traced` describes; several for a node that makes several tensors
        self.constants: set[Node] = set()  # nodes that depend on no input
        self.sizes: set[Node] = set()  # nodes that hold the batch size, or a multiple of it
        self.shown: dict[Node, Any] = {}  # masks of padding as numbers, for the inputs of `masks`
        self._made: dict[tuple[str, int, str], int] = {}

    def constant(self, node: Any) -> bool:
        """Return whether an argument is a number or a node that does not depend on the input."""
        return isinstance(node, int | float) or node in self.constants

    def add(self, op: str, sources: Sequence[int], constants: Mapping[str, Constant] = {}, **settings: Any) -> int:
        """Append a step, and return the number of its value."""
        self.drafts.append(Draft(op, tuple(sources), self.layer, settings, constants))
        return len(self.drafts)

    def once(self, op: str, source: int, **settings: Any) -> int:
        """Return the number of a value that a step without tensors makes, once for all that take it."""
        key = (op, source, str(settings))
        if key not in self._made:
            self._made[key] = self.add(op, [source], **settings)
        return self._made[key]


def split_scale(weight: Array) -> tuple[Array, Array]:
    """Split a float32 weight (outputs, ...) that is ±s into bits (outputs, bytes) and s, shape (1,) or (outputs,).

    A weight that is not binary is returned unchanged, with a scale of 1.

    Example:
        >>> split_scale(np.array([[0.5, -0.5], [0.5, 0.5]], np.float32))
        (array([[1],
               [3]], dtype=uint8), array([0.5]))
    """
    rows = np.ascontiguousarray(weight.reshape(len(weight), -1))
    scale = np.abs(rows[:, 0])
    if (bits := _signs_of(rows, scale)) is None:
        return weight.copy(), np.ones(1)
    return bits, (scale[:1] if (scale == scale[0]).all() else scale).astype(np.float64)


def _signs_of(rows: Array, scale: Array) -> npt.NDArray[np.uint8] | None:
    """Return the bits of rows whose entries are ±scale, or None if a row is not binary."""
    library = build.library("signs") if rows.size >= _MANY and sys.byteorder == "little" else None
    if library is None:
        few = max(1, _CACHED // rows.shape[1])
        parts = ((rows[start : start + few], scale[start : start + few]) for start in range(0, len(rows), few))
        if not (scale > 0).all() or not all((np.abs(part) == size[:, None]).all() for part, size in parts):
            return None
        return pack_signs(rows)
    bits = np.empty((len(rows), row_bytes(rows.shape[1])), np.uint8)
    numbers, tensors = map(ctypes.c_int64, rows.shape), (rows, scale, bits)
    binary = library.bitbayes_signs_of(*numbers, *(ctypes.c_void_p(tensor.ctypes.data) for tensor in tensors))
    return bits if binary else None


def stacked(parts: Sequence[Array]) -> Array:
    """Join the tensors of C networks into one of shape (C, ...), or (1, ...) if all are equal.

    Example:
        >>> stacked([np.ones(3), np.ones(3)]).shape
        (1, 3)
    """
    if all(part is parts[0] or np.array_equal(part, parts[0]) for part in parts):
        return parts[0][None]
    return np.stack([np.broadcast_to(part, np.broadcast_shapes(*(p.shape for p in parts))) for part in parts])


def finished(
    drafts: Sequence[Draft],
    shape: tuple[int, ...],
    samples: int,
    real: npt.DTypeLike = np.float32,
    about: Mapping[str, str] | None = None,
    inputs: Inputs | None = None,
) -> PackedNetwork:
    """Return the packed network of C = `samples` networks; `real` is the type of real-valued tensors.

    Raises:
        PackedFileError: If a number is not finite.
    """
    names, tensors, steps = dict[int, str](), dict[str, Array](), list[Step]()
    for index, draft in enumerate(drafts):
        roles = {}
        for role, tensor in draft.tensors.items():
            name = names.setdefault(id(tensor), f"{index}.{role}")  # a tied weight is stored once
            with np.errstate(over="ignore"):
                stored = tensor.astype(real) if tensor.dtype.kind == "f" else tensor
            tensors.setdefault(name, stored if samples > 1 and len(stored) > 1 else stored[0])
            roles[role] = name
        steps.append(Step(draft.op, draft.sources, draft.name, draft.settings, roles))
    return PackedNetwork(Program(shape, samples, tuple(steps), about or {}, inputs), tensors)
