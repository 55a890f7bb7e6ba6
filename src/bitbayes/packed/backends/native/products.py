"""Products of compiled kernels: signs with signs, numbers with signs, numbers with numbers.

Arrays have the C networks in front: (S, N, ...), S = C, or 1 where all networks have the same values. Weights are kept
in blocks of outputs, as the kernels read them.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bitbayes.kernels import build
from bitbayes.packed.format.bits import Array, as_words, unpack_signs
from bitbayes.packed.format.sliding import Sliding

_BLOCK = 32  # outputs; BLOCK of the kernels
_LINE = 64  # bytes of a line of the cache
_NEVER = -1  # differences that no sum is below
_NUMBER, _POINTER = ctypes.c_int64, ctypes.c_void_p
_ARGUMENTS = {
    "inference": {"bitbayes_signs": [_POINTER] * 3, "bitbayes_numbers": [_NUMBER] * 7 + [_POINTER] * 5},
    "real": {"bitbayes_real": [_NUMBER] * 4 + [_POINTER] * 5},
}


@functools.cache
def library(name: str) -> ctypes.CDLL:
    """Return the compiled kernels of a file, with the types of their arguments.

    Raises:
        RuntimeError: If they cannot be compiled here; says why.
    """
    loaded = build.library(name)
    if loaded is None:
        why = build.status(name)
        raise RuntimeError(f'the backend "native" has no kernels here ({why}); take "torch" or "reference"')
    for function, arguments in _ARGUMENTS[name].items():
        getattr(loaded, function).argtypes = arguments
    if name == "inference":
        loaded.bitbayes_path.restype = ctypes.c_char_p
    return loaded


def _address(array: Any) -> int:
    """Return where an array begins."""
    if array.size and array.flags.writeable:
        return ctypes.addressof(ctypes.c_char.from_buffer(array))  # three times as fast
    return array.__array_interface__["data"][0]


def _blocks(rows: Array) -> Array:
    """Return words (networks, outputs, K) as (networks, blocks, K, outputs of a block)."""
    networks, outputs, words = rows.shape
    shape = (networks, -(-outputs // _BLOCK), words, _BLOCK)
    room = np.zeros(math.prod(shape) * rows.itemsize + _LINE, np.uint8)  # a vector across two lines costs two reads
    begin = -_address(room) % _LINE
    blocks = room[begin : begin + len(room) - _LINE].view(rows.dtype).reshape(shape)
    for block in range(shape[1]):
        part = rows[:, block * _BLOCK : (block + 1) * _BLOCK]
        blocks[:, block, :, : part.shape[1]] = part.swapaxes(1, 2)
    return blocks


def wasteful(channels: int, taps: int, outputs: int, *, signs: bool) -> bool:
    """Return whether blocks would take much more memory than the weights as float32.

    Blocks have a multiple of 32 outputs, and those of signs a multiple of 64 channels.
    """
    words = 2 * -(-channels // 64) if signs else channels
    whole = words * taps * -(-outputs // _BLOCK) * _BLOCK
    return whole > 2 * channels * taps * outputs and whole > 1 << 18


def _padded(rows: Array, dtype: npt.DTypeLike, fill: float = 0) -> Array:
    """Return numbers (..., outputs), as many as the blocks have."""
    more = [(0, 0)] * (rows.ndim - 1) + [(0, -rows.shape[-1] % _BLOCK)]
    return np.pad(rows.astype(dtype, "C"), more, constant_values=fill)


class _Product:
    """What all products have: how many networks differ in some tensor, and scale and shift of all their outputs."""

    def __init__(self, weight: Array, tensors: Mapping[str, Array]) -> None:
        self.networks, self.outputs = max(len(tensor) for tensor in (weight, *tensors.values())), weight.shape[1]
        given = [tensors.get(role, np.full((1, 1), nothing)) for role, nothing in (("scale", 1.0), ("shift", 0.0))]
        shape = (self.networks, self.outputs)
        self._scale, self._shift = (_padded(np.broadcast_to(tensor, shape), np.float32) for tensor in given)


def _done(failed: int) -> None:
    """Check what a kernel returned."""
    if failed:
        raise MemoryError("the compiled kernel found no memory for its buffers")


@dataclass(frozen=True)
class Signs:
    """Signs as bits, with the channels last: (S, N, *places, words of 64 bits), bits left over 0.

    Example:
        >>> Signs(np.array([[[5]]], np.uint64), 3).floats.tolist()
        [[[1.0, -1.0, 1.0]]]
    """

    words: npt.NDArray[np.uint64]
    channels: int

    @functools.cached_property
    def floats(self) -> npt.NDArray[np.float32]:
        """The same as −1 and +1, shape (S, N, channels, *places)."""
        return np.moveaxis(unpack_signs(self.words.view(np.uint8), self.channels), -1, 2)


def pack_places(ones: Array) -> npt.NDArray[np.uint64]:
    """Pack booleans (..., channels) into words (..., ceil(channels / 64)).

    Example:
        >>> pack_places(np.array([[True, False, True]]))
        array([[5]], dtype=uint64)
    """
    return as_words(np.packbits(ones, axis=-1, bitorder="little"))


class SignProduct(_Product):
    """A linear layer or convolution of binary weights on signs.

    Args:
        bits: Rows of weights as the file has them, (networks, outputs, bytes), networks C, or 1 for all.
        channels: Channels of an input.
        sizes: Sizes of an input: (), (width,) or (height, width).
        sliding: How the layer's windows slide over `sizes`; None for one that sees everything.
        tensors: `scale` and `shift` of sums, (networks or 1, outputs or 1). Or `threshold`, integers (networks or 1,
            outputs): bits come out, 1 where the sum reaches it; `direction`, ±1, is a factor of the sum before that.
    """

    def __init__(
        self,
        bits: npt.NDArray[np.uint8],
        channels: int,
        sizes: Sequence[int] = (),
        sliding: Sliding | None = None,
        tensors: Mapping[str, Array] = {},
    ) -> None:
        super().__init__(bits, tensors)
        threshold, direction = tensors.get("threshold"), tensors.get("direction")
        self.bits, self._rank = threshold is not None, len(sizes)
        sliding = (Sliding.covering(sizes) if sliding is None else sliding).in_two_axes()
        sizes = [*[1] * (2 - len(sizes)), *sizes]
        self.places = sliding.places(sizes)
        seen = _Seen.of(sliding, sizes)
        self._classes = seen.classes
        rows, tables = [], []
        for network in range(self.networks):  # one at a time: unpacked they take eight times the memory
            fan = math.prod(sliding.kernel) * channels
            ones = np.unpackbits(bits[network % len(bits)], axis=-1, count=fan, bitorder="little").astype(bool)
            if direction is not None:  # the other way round is the same with all weights negated
                ones ^= (direction[network % len(direction)] < 0)[:, None]
            ones = ones.reshape(self.outputs, channels, -1)
            rows.append(pack_places(ones.transpose(0, 2, 1)).reshape(self.outputs, -1))
            # A tap outside has bits 0, which count as −1: its products, minus its weights' sum, are taken back.
            tables.append(fan + seen.outside(ones, sliding.kernel))
        self._weights, whole = _blocks(np.stack(rows)), np.stack(tables)  # (networks, classes, outputs)
        if threshold is None:
            self._table = _padded(whole, np.int64)
        else:
            reached = (whole - threshold.astype(np.int64)[:, None]) // 2  # as many may differ
            self._table = _padded(np.maximum(reached, _NEVER), np.int64, _NEVER)
        self._shape = [*sizes, -(-channels // 64), *self.places, *sliding.kernel]
        self._shape += [*sliding.stride, *sliding.padding, *sliding.dilation]
        self._shape += [self.outputs, self._weights.shape[1], self._table.shape[1], int(self.bits)]
        constants = (self._weights, self._table, self._classes, self._scale, self._shift)
        self._constants = [_address(tensor) for tensor in constants]
        self._called: tuple[tuple[int, int, int], int, Array] | None = None  # the shape as it was last passed
        self._function = library("inference").bitbayes_signs

    def __call__(self, x: npt.NDArray[np.uint64], threads: int = 1) -> Array:
        """Return sums (S, N, outputs, *places), or words of bits (S, N, *places, ceil(outputs / 64)).

        Args:
            x: Words of signs, (S, N, *sizes, W).
            threads: Largest number of threads.
        """
        sources, inputs, rank, threads = len(x), x.shape[1], self._rank, build.threads(threads)
        every = max(sources, self.networks)
        if self.networks == 1:  # one network on more inputs
            sources, inputs = 1, sources * inputs
        bits = (np.zeros, -(-self.outputs // 64), np.uint64)  # the kernel sets those that are 1
        make, words, kind = bits if self.bits else (np.empty, self.outputs, np.float32)
        out = make((every, x.shape[1], *self.places[2 - rank :], words), kind)
        key, called = (sources, inputs, threads), self._called
        if called is None or called[0] != key:
            first = (sources, self.networks // sources, inputs)
            numbers = np.array([*first, *self._shape, threads, *self._constants], np.int64)
            called = self._called = (key, _address(numbers), numbers)
        x = np.ascontiguousarray(x)
        _done(self._function(called[1], _address(x), _address(out)))
        return out if self.bits or not rank else np.moveaxis(out, -1, 2)


class _Seen(NamedTuple):
    """Which taps lie inside the input, at all places of an output: places that see the same taps are of one class.

    Inside are the taps of a rectangle, so there are classes of rows and of columns, and a class for each pair of them.

    Attributes:
        classes: The class of every place.
        rows: First tap inside and the one after the last, for every class of rows.
        columns: The same for every class of columns.
    """

    classes: npt.NDArray[np.int32]
    rows: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]

    @classmethod
    def of(cls, sliding: Sliding, sizes: Sequence[int]) -> _Seen:
        """Find the classes of the places of an output."""
        found = [np.unique(ends, axis=0, return_inverse=True) for ends in sliding.seen(sizes)]
        (rows, of_row), (columns, of_column) = ((each, inverse.reshape(-1)) for each, inverse in found)
        classes = of_row[:, None] * len(columns) + of_column
        return cls(np.ascontiguousarray(classes.reshape(-1), np.int32), rows, columns)

    def outside(self, ones: npt.NDArray[np.bool_], kernel: tuple[int, ...]) -> npt.NDArray[np.int64]:
        """Return the sums of the weights outside, (classes, outputs), of signs (outputs, channels, taps)."""
        (outputs, channels, _), (height, width) = ones.shape, kernel
        if np.array_equal(self.rows, [[0, height]]) and np.array_equal(self.columns, [[0, width]]):
            return np.zeros((1, outputs), np.int64)
        taps = (2 * ones.sum(1, dtype=np.int32) - channels).reshape(outputs, height, width)
        table = np.zeros((height + 1, width + 1, outputs), np.int32)  # sums of all taps above and to the left
        np.cumsum(np.cumsum(taps.transpose(1, 2, 0), axis=0, dtype=np.int32), axis=1, out=table[1:, 1:])
        (top, bottom), (left, right) = self.rows.T[..., None], self.columns.T
        inside = table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left]
        return (table[-1, -1] - inside).reshape(-1, outputs).astype(np.int64)


class NumberProduct(_Product):
    """A linear layer of binary weights on float32 numbers; sums are in float32.

    A sum of K products is within K 2^-24 of the exact one, relative to the sum of the inputs' magnitudes.

    Args:
        bits: Rows of weights as the file has them, (networks, outputs, bytes), networks C, or 1 for all.
        inputs: Inputs of the layer, K.
        affine: `scale` and `shift` of sums, (networks or 1, outputs or 1).
    """

    def __init__(self, bits: npt.NDArray[np.uint8], inputs: int, affine: Mapping[str, Array] = {}) -> None:
        super().__init__(bits, affine)
        self.inputs, self._bits = inputs, bits
        rows = np.zeros((self.networks, self.outputs, 4 * -(-inputs // 32)), np.uint8)
        rows[..., : bits.shape[-1]] = bits
        self._weights = _blocks(rows.view(np.uint32))

    def __call__(self, x: npt.NDArray[np.float32], threads: int = 1) -> npt.NDArray[np.float32]:
        """Return sums (S, N, outputs) of inputs (S, N, K)."""
        sources, rows = x.shape[:2]
        every, words = max(sources, self.networks), -(-self.inputs // 32)
        out = np.empty((every, rows, self.outputs), np.float32)
        if self.networks == 1:
            sources, rows = 1, sources * rows
        whole = x
        if self.inputs % 32:
            whole = np.zeros((*x.shape[:2], 32 * words), np.float32)
            whole[..., : self.inputs] = x
        whole = np.ascontiguousarray(whole, np.float32)
        numbers = (sources, self.networks // sources, rows, words, self.outputs, self._weights.shape[1])
        function = library("inference").bitbayes_numbers
        tensors = (whole, self._weights, self._scale, self._shift, out)
        _done(function(*numbers, build.threads(threads), *map(_address, tensors)))
        if not math.isfinite(out.sum()):
            self._take_back(x, out)
        return out

    def _take_back(self, x: npt.NDArray[np.float32], out: npt.NDArray[np.float32]) -> None:
        """Compute what is not finite again in float64: a part of a sum may overflow where the whole does not."""
        with np.errstate(over="ignore", invalid="ignore"):
            for network, result in enumerate(out):
                places = np.nonzero(~np.isfinite(result).all(1))[0]
                if not len(places):
                    continue
                weight = unpack_signs(self._bits[network % len(self._bits)], self.inputs, np.float64)
                sums = (x[network % len(x), places].astype(np.float64) @ weight.T).astype(np.float32)
                scale, shift = (each[network % len(each), : self.outputs] for each in (self._scale, self._shift))
                result[places] = (sums.astype(np.float64) * scale + shift).astype(np.float32)


class RealProduct(_Product):
    """A convolution of real weights on float32 numbers, whose sums are rounded as `kernels/real.c` says.

    Args:
        weight: (networks, outputs, channels, *kernel), networks C, or 1 for all.
        affine: `scale` and `shift` of sums, (networks or 1, outputs or 1).
    """

    def __init__(self, weight: npt.NDArray[np.float32], affine: Mapping[str, Array] = {}) -> None:
        super().__init__(weight, affine)
        rows = np.moveaxis(weight, 2, -1).reshape(len(weight), self.outputs, -1)
        self._weights, self.inputs = _blocks(rows), rows.shape[-1]

    def __call__(self, x: npt.NDArray[np.float32], threads: int = 1) -> npt.NDArray[np.float32]:
        """Return sums (S, N, outputs) of what is seen, (S, N, K), channels last: K = (*kernel, channels)."""
        x = np.ascontiguousarray(x, np.float32)
        out = np.empty((max(len(x), self.networks), x.shape[1], self.outputs), np.float32)
        function = library("real").bitbayes_real
        for network, result in enumerate(out):
            tensors = (x, self._weights, self._scale, self._shift)
            mine = (_address(tensor[network % len(tensor)]) for tensor in tensors)
            function(x.shape[1], self.inputs, self.outputs, build.threads(threads), *mine, _address(result))
        return out
