"""A program in the making: steps whose tensors are float64 and have an axis for the C networks in front."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from bitbayes.kernels import build
from bitbayes.packed.format.bits import pack_signs, row_bytes
from bitbayes.packed.format.network import PackedNetwork
from bitbayes.packed.format.program import Program, Step

__all__ = ["Draft", "finished", "split_scale", "stacked"]

Array = npt.NDArray[Any]

_CACHED = 1 << 16  # numbers at a time, whose temporaries stay in a processor's cache
_MANY = 1 << 16  # weights that are worth the second that the first use of a kernel on a machine takes


@dataclass(frozen=True)
class Draft:
    """A step in the making.

    Args:
        op: As in `bitbayes.packed.format.program.Step`.
        sources: Likewise.
        name: Likewise.
        settings: Likewise.
        tensors: By role, (C or 1, ...): C if they differ between the networks. Bits are uint8, real weights float32.

    Example:
        >>> Draft("affine", (0,), "scale", tensors={"scale": np.ones((1, 3))}).tensors["scale"].shape
        (1, 3)
    """

    op: str
    sources: tuple[int, ...]
    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Array] = field(default_factory=dict)

    def moved(self, places: Mapping[int, int]) -> Draft:
        """The same step with other numbers for its values."""
        return replace(self, sources=tuple(places[source] for source in self.sources))


def split_scale(weight: Array) -> tuple[Array, Array]:
    """Bits and scale of a weight tensor that is ±s, with one s or one for each output.

    Args:
        weight: Shape (outputs, ...), float32.

    Returns:
        Bits, shape (outputs, bytes), and s, shape (1,) or (outputs,); the weight itself and 1 where it is not binary.

    Example:
        >>> split_scale(np.array([[0.5, -0.5], [0.5, 0.5]], np.float32))
        (array([[1],
               [3]], dtype=uint8), array([0.5]))
    """
    rows = np.ascontiguousarray(weight.reshape(len(weight), -1))
    scale = np.abs(rows[:, 0])
    bits = _signs_of(rows, scale)
    if bits is None:
        return weight.copy(), np.ones(1)
    one = scale[:1] if (scale == scale[0]).all() else scale
    return bits, one.astype(np.float64)


def _signs_of(rows: Array, scale: Array) -> npt.NDArray[np.uint8] | None:
    """Bits of rows that are ±their scale, or None if one is not."""
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
    """One tensor for C networks: (1, ...) where they are all alike.

    Args:
        parts: Of every network.

    Returns:
        Shape (1, ...) or (C, ...).

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
) -> PackedNetwork:
    """Numbers and names as the file has them.

    Args:
        drafts: The steps.
        shape: Of one input.
        samples: Number of networks, C.
        real: Type of what is real.
        about: Goes into the file.

    Returns:
        The network.

    Raises:
        PackedFileError: If a number is not finite.
    """
    names: dict[int, str] = {}
    tensors: dict[str, Array] = {}
    steps = []
    for index, draft in enumerate(drafts):
        roles = {}
        for role, tensor in draft.tensors.items():
            name = names.setdefault(id(tensor), f"{index}.{role}")  # a tied weight is stored once
            with np.errstate(over="ignore"):
                stored = tensor.astype(real) if tensor.dtype.kind == "f" else tensor
            tensors.setdefault(name, stored if samples > 1 and len(stored) > 1 else stored[0])
            roles[role] = name
        steps.append(Step(draft.op, draft.sources, draft.name, draft.settings, roles))
    return PackedNetwork(Program(shape, samples, tuple(steps), about or {}), tensors)
