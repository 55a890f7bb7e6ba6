"""Layers of binary weights on signs for the compiled kernels, and signs as bits.

Arrays have the C networks in front: (S, N, ...), S = C, or 1 where all networks have the same values.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bitbayes.packed.backends.native import blocks as native_blocks
from bitbayes.packed.backends.native.blocks import address, blocks, done, padded, scale_shift

__all__ = ["SignProduct", "Signs", "pack_places", "unpack_places"]

Array = npt.NDArray[Any]

_NEVER = -1  # differences that no sum is below


@dataclass(frozen=True)
class Signs:
    """Signs as bits, with the channels last: (S, N, *places, words of 64 bits), bits left over 0.

    Args:
        words: The bits.
        channels: Number of channels.
    """

    words: npt.NDArray[np.uint64]
    channels: int

    @functools.cached_property
    def floats(self) -> npt.NDArray[np.float32]:
        """As −1 and +1, shape (S, N, channels, *places)."""
        return unpack_places(self.words, self.channels)


def pack_places(ones: Array) -> npt.NDArray[np.uint64]:
    """Booleans (..., channels) as words (..., ceil(channels / 64)).

    Example:
        >>> pack_places(np.array([[True, False, True]]))
        array([[5]], dtype=uint64)
    """
    bits = np.packbits(ones, axis=-1, bitorder="little")
    if bits.shape[-1] % 8:
        whole = np.zeros((*bits.shape[:-1], -(-bits.shape[-1] // 8) * 8), np.uint8)
        whole[..., : bits.shape[-1]] = bits
        bits = whole
    return np.ascontiguousarray(bits).view(np.uint64)


def unpack_places(words: npt.NDArray[np.uint64], channels: int) -> npt.NDArray[np.float32]:
    """Words (S, N, *places, W) as −1 and +1, shape (S, N, channels, *places).

    Example:
        >>> unpack_places(np.array([[[5]]], np.uint64), 3).tolist()
        [[[1.0, -1.0, 1.0]]]
    """
    ones = np.unpackbits(words.view(np.uint8), axis=-1, count=channels, bitorder="little").astype(np.float32)
    ones *= 2
    ones -= 1
    return np.moveaxis(ones, -1, 2)


class SignProduct:
    """A linear layer or convolution of binary weights on signs.

    Args:
        bits: Rows of weights as the file has them, (networks, outputs, bytes), networks C, or 1 for all.
        channels: Of an input.
        kernel: As many sizes as `sizes`.
        sizes: Of an input: (), (width,) or (height, width).
        geometry: `stride`, `padding`, `dilation`, as many as sizes.
        threshold: Integers (networks or 1, outputs): bits come out, 1 where the sum reaches it; None: sums.
        direction: ±1 (networks or 1, outputs): times the sum, before it is compared.
        affine: `scale` and `shift` of sums, (networks or 1, outputs or 1).
    """

    def __init__(
        self,
        bits: npt.NDArray[np.uint8],
        channels: int,
        kernel: Sequence[int] = (),
        sizes: Sequence[int] = (),
        geometry: Mapping[str, Sequence[int]] | None = None,
        *,
        threshold: Array | None = None,
        direction: Array | None = None,
        affine: Mapping[str, Array] | None = None,
    ) -> None:
        given = (threshold, direction, *(affine or {}).values())
        self._networks = max(len(bits), *(len(tensor) for tensor in given if tensor is not None), 1)
        self.outputs, self.bits, self._rank = bits.shape[1], threshold is not None, len(sizes)
        two = [1] * (2 - len(sizes))
        kernel, sizes = [*two, *kernel], [*two, *sizes]
        g = {"stride": [1] * len(sizes), "padding": [0] * len(sizes), "dilation": [1] * len(sizes)}
        g.update({key: [*g[key][: len(two)], *values] for key, values in (geometry or {}).items()})
        each = zip(sizes, kernel, *g.values(), strict=True)
        self.places = [(size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, s, p, d in each]
        self._classes, seen = _seen_taps(sizes, kernel, g, self.places)
        rows, tables = [], []
        for network in range(self._networks):  # one at a time: unpacked they take eight times the memory
            fan = math.prod(kernel) * channels
            ones = np.unpackbits(bits[network % len(bits)], axis=-1, count=fan, bitorder="little").astype(bool)
            if direction is not None:  # the other way round is the same with all weights negated
                ones ^= (direction[network % len(direction)] < 0)[:, None]
            ones = ones.reshape(self.outputs, channels, -1)
            rows.append(pack_places(ones.transpose(0, 2, 1)).reshape(self.outputs, -1))
            # A tap outside has bits 0, which count as −1: its products, minus its weights' sum, are taken back.
            taps = 2 * np.count_nonzero(ones, axis=1).astype(np.int64) - channels
            tables.append(fan + (1 - seen) @ taps.T)
        self._weights, whole = blocks(np.stack(rows)), np.stack(tables)  # (networks, classes, outputs)
        if threshold is None:
            self._table = padded(whole, np.int64)
        else:
            reached = (whole - threshold.astype(np.int64)[:, None]) // 2  # as many may differ
            self._table = padded(np.maximum(reached, _NEVER), np.int64, _NEVER)
        self._scale, self._shift = scale_shift(self._networks, self.outputs, affine or {})
        words = -(-channels // 64)
        self._shape = [*sizes, words, *self.places, *kernel, *(size for key in g for size in g[key])]
        self._shape += [self.outputs, self._weights.shape[1], self._table.shape[1], int(self.bits)]
        tensors = (self._weights, self._table, self._classes, self._scale, self._shift)
        self._constants = [address(tensor) for tensor in tensors]
        self._called: tuple[tuple[int, int, int], int, Array] | None = None  # the shape as it was last passed
        self._function = native_blocks.library("inference").bitbayes_signs

    def __call__(self, x: npt.NDArray[np.uint64], threads: int = 1) -> Array:
        """Sums (S, N, outputs, *places), or words of bits (S, N, *places, ceil(outputs / 64)).

        Args:
            x: Words of signs, (S, N, *sizes, W).
            threads: At most so many.
        """
        sources, inputs, rank = len(x), x.shape[1], self._rank
        every = max(sources, self._networks)
        if self._networks == 1:  # one network on more inputs
            sources, inputs = 1, sources * inputs
        places = self.places[2 - rank :]
        out = np.zeros((every, x.shape[1], *places, -(-self.outputs // 64)), np.uint64) if self.bits else None
        if out is None:
            out = np.empty((every, x.shape[1], *places, self.outputs), np.float32)
        key = (sources, inputs, threads)
        called = self._called
        if called is None or called[0] != key:
            first = (sources, self._networks // sources, inputs)
            numbers = np.array([*first, *self._shape, threads, *self._constants], np.int64)
            called = self._called = (key, address(numbers), numbers)
        x = np.ascontiguousarray(x)
        done(self._function(called[1], address(x), address(out)))
        return out if self.bits or not rank else np.moveaxis(out, -1, 2)


def _seen_taps(
    sizes: Sequence[int],
    kernel: Sequence[int],
    geometry: Mapping[str, Sequence[int]],
    places: Sequence[int],
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """For every place of an output its class, and for every class which taps lie inside the input."""
    inside = []
    for size, k, s, p, d, count in zip(sizes, kernel, *geometry.values(), places, strict=True):
        at = np.arange(count)[:, None] * s - p + np.arange(k) * d
        inside.append((at >= 0) & (at < size))
    taps = inside[0][:, None, :, None] & inside[1][None, :, None, :]
    rows = taps.reshape(math.prod(places), -1)
    seen, classes = np.unique(rows, axis=0, return_inverse=True)
    return np.ascontiguousarray(classes.reshape(-1).astype(np.int32)), seen.astype(np.int64)
