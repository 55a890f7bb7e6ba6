"""Blocks of Q1_0, the type of GGUF with one bit per weight.

A block holds 128 weights ±s of a row in 18 bytes: s as a little-endian float16, then 128 bits in the order of
`bitbayes.packed.format.bits`, where 1 stands for +s and 0 for −s.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bitbayes.packed.convert.draft import split_scale
from bitbayes.packed.format.bits import Array

BLOCK = 128  # weights
_LEAST, _MOST = float(np.finfo(np.float16).tiny), float(np.finfo(np.float16).max)


def q1_0(weight: Array) -> npt.NDArray[np.uint8]:
    """Return a binary weight as rows of Q1_0 blocks.

    Signs are exact. A scale is rounded to the nearest float16, which changes it by at most one part in 2048.

    Args:
        weight: Numbers ±s in float32, shape (outputs, inputs), where inputs is a multiple of 128. The scale s may
            differ from block to block.

    Returns:
        Bytes, shape (outputs, inputs / 128 · 18).

    Raises:
        ValueError: If a block has weights of different sizes, or a scale is no normal number of float16.

    Example:
        >>> q1_0(np.full((1, 128), -0.5, np.float32))
        array([[ 0, 56,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0]], dtype=uint8)
    """
    rows = weight.reshape(-1, BLOCK)
    bits, scale = split_scale(rows)
    if bits.dtype != np.uint8:
        raise ValueError(_not_binary(weight))
    if scale.min() < _LEAST or scale.max() > _MOST:
        worst = scale.min() if scale.min() < _LEAST else scale.max()
        raise ValueError(
            f"has the scale {worst:.6g}, but a scale of Q1_0 is a float16 from {_LEAST:.3g} to {_MOST:g}; move the "
            "scale into the norm or the layer before"
        )
    blocks = np.empty((len(rows), 2 + bits.shape[1]), np.uint8)
    blocks[:, :2] = scale.astype("<f2")[:, None].view(np.uint8)
    blocks[:, 2:] = bits
    return blocks.reshape(len(weight), -1)


def _not_binary(weight: Array) -> str:
    """Return the reason why a weight is not binary, with the first block that is not."""
    sizes = np.abs(weight).reshape(-1, BLOCK)
    index = int(((sizes != sizes[:, :1]).any(1) | (sizes[:, 0] == 0)).argmax())
    row, start = divmod(index * BLOCK, weight.shape[1])
    block = sizes[index]
    if block[0] == 0:
        found = f"weight {start} of row {row} is 0"
    else:
        place = int((block != block[0]).argmax())
        found = f"row {row} has ±{block[0]:.6g} up to weight {start + place - 1} and then ±{block[place]:.6g}"
    return (
        f"is not binary: {found}, but Q1_0 has one scale for each {BLOCK} weights of a row; Q8_0 and F16 take real "
        "weights"
    )
