"""Signs as bits, and products of signs by xnor and popcount, with NumPy only.

A row of n signs takes ceil(n / 8) bytes. Bit i of the row is bit i % 8 of byte i // 8: 1 for +1 and 0 for −1. Unused
bits are 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_CHUNK = 1 << 20  # number of 64-bit words that are compared at a time
_COUNTS = np.array([bin(number).count("1") for number in range(1 << 16)], np.uint8)


def row_bytes(count: int) -> int:
    """Return the number of bytes of a row of `count` signs."""
    return (count + 7) // 8


def pack_signs(signs: Array) -> npt.NDArray[np.uint8]:
    """Pack signs (..., n) into bits (..., ceil(n / 8)); positive numbers become 1.

    Example:
        >>> pack_signs(np.array([1, -1, 1, 1, -1, -1, -1, -1, 1]))
        array([13,  1], dtype=uint8)
    """
    return np.packbits(signs > 0, axis=-1, bitorder="little")


def unpack_signs(bits: Array, count: int, dtype: npt.DTypeLike = np.float32) -> Array:
    """Unpack bits (..., ceil(count / 8)) into −1 and +1, shape (..., count).

    Example:
        >>> unpack_signs(np.array([13, 1], np.uint8), 9, np.int8)
        array([ 1, -1,  1,  1, -1, -1, -1, -1,  1], dtype=int8)
    """
    signs = np.unpackbits(bits, axis=-1, count=count, bitorder="little").astype(dtype)
    signs *= 2
    signs -= 1
    return signs


def sign_products(rows: Array, weights: Array) -> npt.NDArray[np.int64]:
    """Multiply every row by every row of weights with popcount.

    Zeros in a row, such as the padding of a convolution, are masked and contribute 0.

    Args:
        rows: Numbers −1, 0 and +1, shape (M, n).
        weights: Bits of the weights, shape (K, ceil(n / 8)).

    Returns:
        Exact sums of n products, shape (M, K).

    Example:
        >>> sign_products(np.array([[1.0, -1.0, 0.0]]), pack_signs(np.array([[1, -1, 1], [-1, -1, -1]])))
        array([[2, 0]])
    """
    signs, inside, bits = as_words(pack_signs(rows)), as_words(pack_signs(rows != 0)), as_words(weights)
    result = np.count_nonzero(rows, axis=-1)[:, None] * np.ones((1, len(bits)), np.int64)
    step = max(1, _CHUNK // max(1, bits.size))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        result[part] -= 2 * _popcount((signs[part, None] ^ bits) & inside[part, None])
    return result


def float_above(numbers: Array) -> npt.NDArray[np.float32]:
    """Return the smallest float32 at or above each number, so that comparisons with any float32 agree.

    Args:
        numbers: Integers, or float16 and float32, which stay unchanged.

    Example:
        >>> float_above(np.array([3, (1 << 24) + 1], np.int32)).tolist()
        [3.0, 16777218.0]
    """
    near = numbers.astype(np.float32)
    return np.where(near < numbers.astype(np.float64), np.nextafter(near, np.float32(np.inf)), near)


def crossing(scale: Array, shift: Array) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int8]]:
    """Return where x · scale + shift reaches zero, so that one comparison of x gives the sign of the exact sum.

    Args:
        scale: Finite numbers, shape (n,) or (1,).
        shift: Finite numbers, shape (n,) or (1,).

    Returns:
        Thresholds and directions −1 or +1: the sum is at least zero where x · direction ≥ threshold, for float32 x.

    Example:
        >>> crossing(np.array([2.0, -2.0]), np.array([1.0, 1.0]))
        (array([-0.5, -0.5], dtype=float32), array([ 1, -1], dtype=int8))
    """
    scale, shift = scale.astype(np.float64), shift.astype(np.float64)
    size, largest = np.abs(scale), np.finfo(np.float32).max
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        exact = np.where(size > 0, -shift / size, np.where(shift >= 0, -np.inf, np.inf))
        least = exact.clip(-largest, largest).astype(np.float32)  # or a neighbour; in float64 the sum's sign is exact
        below = np.nextafter(least, np.float32(-np.inf))
        least = np.where(below * size + shift >= 0, below, least)
        least = np.where(least * size + shift >= 0, least, np.nextafter(least, np.float32(np.inf)))
    return least.clip(-largest, largest), np.where(scale < 0, -1, 1).astype(np.int8)


def as_words(bits: Array) -> npt.NDArray[np.uint64]:
    """Return rows of bytes as rows of 64-bit words, padded with zeros."""
    if bits.shape[-1] % 8:
        whole = np.zeros((*bits.shape[:-1], -(-bits.shape[-1] // 8) * 8), np.uint8)  # faster than np.pad
        whole[..., : bits.shape[-1]] = bits
        bits = whole
    return np.ascontiguousarray(bits).view(np.uint64)


def _popcount(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Return the number of ones in each row of words."""
    if hasattr(np, "bitwise_count"):
        return np.bitwise_count(words).sum(-1, dtype=np.int64)
    return _COUNTS[words.view(np.uint16)].sum(-1, dtype=np.int64)  # NumPy 1 has no popcount
