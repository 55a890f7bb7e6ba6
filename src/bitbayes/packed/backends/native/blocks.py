"""What the products of compiled kernels share: the kernels, and weights in blocks of outputs."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from bitbayes.kernels import build

__all__ = ["address", "blocks", "done", "library", "padded", "scale_shift"]

Array = npt.NDArray[Any]

_BLOCK = 32  # outputs; BLOCK of the kernels
_LINE = 64  # bytes of a line of the cache
_NUMBER, _POINTER = ctypes.c_int64, ctypes.c_void_p
_ARGUMENTS = {
    "inference": {"bitbayes_signs": [_POINTER] * 3, "bitbayes_numbers": [_NUMBER] * 7 + [_POINTER] * 5},
    "real": {"bitbayes_real": [_NUMBER] * 4 + [_POINTER] * 5},
}


@functools.cache
def library(name: str) -> ctypes.CDLL:
    """The compiled kernels of a file, with the types of their arguments.

    Raises:
        RuntimeError: If they cannot be compiled here; says why.
    """
    loaded = build.library(name)
    if loaded is None:
        raise RuntimeError(
            f'the backend "native" has no kernels here ({build.status(name)}); take "torch" or "reference"'
        )
    for function, arguments in _ARGUMENTS[name].items():
        getattr(loaded, function).argtypes = arguments
    if name == "inference":
        loaded.bitbayes_path.restype = ctypes.c_char_p
    return loaded


def address(array: Any) -> int:
    """Where an array begins."""
    if array.size and array.flags.writeable:
        return ctypes.addressof(ctypes.c_char.from_buffer(array))  # three times as fast
    return array.__array_interface__["data"][0]


def blocks(rows: Array) -> Array:
    """Words (networks, outputs, K) as (networks, blocks, K, outputs of a block)."""
    networks, outputs, words = rows.shape
    whole = np.zeros((networks, -(-outputs // _BLOCK) * _BLOCK, words), rows.dtype)
    whole[:, :outputs] = rows
    whole = whole.reshape(networks, -1, _BLOCK, words).transpose(0, 1, 3, 2)
    room = np.empty(whole.nbytes + _LINE, np.uint8)  # a vector that crosses lines of the cache costs two reads
    begin = -address(room) % _LINE
    blocks = room[begin : begin + whole.nbytes].view(whole.dtype).reshape(whole.shape)
    blocks[...] = whole
    return blocks


def padded(rows: Array, dtype: npt.DTypeLike, fill: float = 0) -> Array:
    """Numbers (..., outputs), as many as the blocks have."""
    whole = np.full((*rows.shape[:-1], -(-rows.shape[-1] // _BLOCK) * _BLOCK), fill, dtype)
    whole[..., : rows.shape[-1]] = rows
    return whole


def scale_shift(networks: int, outputs: int, tensors: Mapping[str, Array]) -> list[Array]:
    """Scale and shift of all networks, (networks, outputs of the blocks)."""
    found = []
    for role, nothing in (("scale", 1.0), ("shift", 0.0)):
        tensor = tensors.get(role, np.full((1, 1), nothing))
        found.append(padded(np.broadcast_to(tensor, (networks, outputs)), np.float32))
    return found


def done(failed: int) -> None:
    """Looks at what a kernel returned."""
    if failed:
        raise MemoryError("the compiled kernel found no memory for its buffers")
