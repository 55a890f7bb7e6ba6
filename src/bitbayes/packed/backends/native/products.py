"""Products by compiled kernels: signs by signs, numbers by signs, numbers by numbers.

Arrays have a leading axis of networks: (S, N, ...) with S = C, or S = 1 if all networks have the same values. Weights
are stored in blocks of outputs, as the kernels read them.
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

_BLOCK = 32  # outputs per block; BLOCK in the kernels
_LINE = 64  # bytes of a cache line
_NEVER = -1  # below every sum
_NUMBER, _POINTER = ctypes.c_int64, ctypes.c_void_p
_ARGUMENTS = {
    "inference": {"bitbayes_signs": [_POINTER] * 3, "bitbayes_numbers": [_NUMBER] * 7 + [_POINTER] * 5},
    "real": {"bitbayes_real": [_NUMBER] * 4 + [_POINTER] * 5},
}


@functools.cache
def library(name: str) -> ctypes.CDLL:
    """Return the compiled kernels of a file, with the types of their arguments.

    Raises:
        RuntimeError: If the kernels are not available. The message says why.
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
    """Return the address of an array."""
    if array.size and array.flags.writeable:
        return ctypes.addressof(ctypes.c_char.from_buffer(array))  # 3× as fast
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


def wasteful(channels: int, taps: int, outputs: int, *, signs: bool, classes: int = 0) -> bool:
    """Return whether blocks and the table of `SignProduct` would take much more memory than the weights as float32.

    Blocks have a multiple of 32 outputs, and those of signs a multiple of 64 channels. The table has a row of 64-bit
    numbers for every class of places.
    """
    words = 2 * -(-channels // 64) if signs else channels
    whole = (words * taps + 2 * classes) * -(-outputs // _BLOCK) * _BLOCK
    return whole > 2 * channels * taps * outputs and whole > 1 << 18


def _padded(rows: Array, dtype: npt.DTypeLike, fill: float = 0) -> Array:
    """Return numbers (..., outputs), padded to full blocks."""
    more = [(0, 0)] * (rows.ndim - 1) + [(0, -rows.shape[-1] % _BLOCK)]
    return np.pad(rows.astype(dtype, "C"), more, constant_values=fill)


class _Product:
    """Base of all products: the number of networks that differ in some tensor, and scale and shift of all outputs."""

    def __init__(self, weight: Array, tensors: Mapping[str, Array]) -> None:
        self.networks, self.outputs = max(len(tensor) for tensor in (weight, *tensors.values())), weight.shape[1]
        given = [tensors.get(role, np.full((1, 1), nothing)) for role, nothing in (("scale", 1.0), ("shift", 0.0))]
        shape = (self.networks, self.outputs)
        self._scale, self._shift = (_padded(np.broadcast_to(tensor, shape), np.float32) for tensor in given)


def _done(failed: int) -> None:
    """Check the return value of a kernel."""
    if failed:
        raise MemoryError("the compiled kernel could not allocate its buffers; use a smaller batch")


@dataclass(frozen=True)
class Signs:
    """Signs as bits with channels last: (S, N, *places, words of 64 bits), with unused bits of 0.

    Example:
        >>> Signs(np.array([[[5]]], np.uint64), 3).floats.tolist()
        [[[1.0, -1.0, 1.0]]]
    """

    words: npt.NDArray[np.uint64]
    channels: int

    @functools.cached_property
    def floats(self) -> npt.NDArray[np.float32]:
        """The signs as −1 and +1, shape (S, N, channels, *places)."""
        return np.moveaxis(unpack_signs(self.words.view(np.uint8), self.channels), -1, 2)


def pack_places(ones: Array) -> npt.NDArray[np.uint64]:
    """Pack booleans (..., channels) into words (..., ceil(channels / 64)).

    Example:
        >>> pack_places(np.array([[True, False, True]]))
        array([[5]], dtype=uint64)
    """
    return as_words(np.packbits(ones, axis=-1, bitorder="little"))


class SignProduct(_Product):
    """Linear layer or convolution with binary weights on signs.

    Args:
        bits: Rows of weights as in the file, (networks, outputs, bytes), with C networks or 1 for all.
        channels: Number of channels of an input.
        sizes: Sizes of an input: (), (width,) or (height, width).
        sliding: Sliding windows over `sizes`; None for one window that sees the whole input.
        tensors: `scale` and `shift` of sums, (networks or 1, outputs or 1); or integers `threshold` (networks or 1,
            outputs). With `threshold`, the outputs are bits: 1 if the sum times `direction`, which is ±1, reaches the
            threshold.
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
        for network in range(self.networks):  # one network at a time, because unpacked bits take 8× the memory
            fan = math.prod(sliding.kernel) * channels
            ones = np.unpackbits(bits[network % len(bits)], axis=-1, count=fan, bitorder="little").astype(bool)
            if direction is not None:  # the opposite direction is the same with all weights negated
                ones ^= (direction[network % len(direction)] < 0)[:, None]
            ones = ones.reshape(self.outputs, channels, -1)
            rows.append(pack_places(ones.transpose(0, 2, 1)).reshape(self.outputs, -1))
            # A tap outside the input has bits 0, which count as −1. Its products, minus the sum of its weights, are
            # subtracted again.
            tables.append(fan + seen.outside(ones, sliding.kernel))
        self._weights, whole = _blocks(np.stack(rows)), np.stack(tables)  # (networks, classes, outputs)
        if threshold is None:
            self._table = _padded(whole, np.int64)
        else:
            reached = (whole - threshold.astype(np.int64)[:, None]) // 2  # number of networks that may differ
            self._table = _padded(np.maximum(reached, _NEVER), np.int64, _NEVER)
        self._shape = [*sizes, -(-channels // 64), *self.places, *sliding.kernel]
        self._shape += [*sliding.stride, *sliding.padding, *sliding.dilation]
        self._shape += [self.outputs, self._weights.shape[1], self._table.shape[1], int(self.bits)]
        constants = (self._weights, self._table, self._classes, self._scale, self._shift)
        self._constants = [_address(tensor) for tensor in constants]
        self._called: tuple[tuple[int, int, int], int, Array] | None = None  # the shape of the last call
        self._function = library("inference").bitbayes_signs

    def __call__(self, x: npt.NDArray[np.uint64], threads: int = 1) -> Array:
        """Return sums (S, N, outputs, *places), or words of bits (S, N, *places, ceil(outputs / 64)).

        Args:
            x: Words of signs, (S, N, *sizes, W).
            threads: Largest number of threads.
        """
        sources, inputs, rank, threads = len(x), x.shape[1], self._rank, build.threads(threads)
        every = max(sources, self.networks)
        if self.networks == 1:  # treated as one network on more inputs
            sources, inputs = 1, sources * inputs
        bits = (np.zeros, -(-self.outputs // 64), np.uint64)  # the kernel only sets bits that are 1
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
    """Classes of output places; places of one class see the same taps inside the input.

    The taps inside the input form a rectangle, so there is a class for each pair of a row class and a column class.

    Attributes:
        classes: Class of every place.
        rows: For every row class, the first tap inside and the one after the last.
        columns: The same for every column class.
    """

    classes: npt.NDArray[np.int32]
    rows: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]

    @classmethod
    def of(cls, sliding: Sliding, sizes: Sequence[int]) -> _Seen:
        """Return the classes of the places of an output."""
        found = [np.unique(ends, axis=0, return_inverse=True) for ends in sliding.seen(sizes)]
        (rows, of_row), (columns, of_column) = ((each, inverse.reshape(-1)) for each, inverse in found)
        classes = of_row[:, None] * len(columns) + of_column
        return cls(np.ascontiguousarray(classes.reshape(-1), np.int32), rows, columns)

    def outside(self, ones: npt.NDArray[np.bool_], kernel: tuple[int, ...]) -> npt.NDArray[np.int64]:
        """Return sums of the weights outside the input, (classes, outputs), from signs (outputs, channels, taps)."""
        (outputs, channels, _), (height, width) = ones.shape, kernel
        if np.array_equal(self.rows, [[0, height]]) and np.array_equal(self.columns, [[0, width]]):
            return np.zeros((1, outputs), np.int64)
        taps = (2 * ones.sum(1, dtype=np.int32) - channels).reshape(outputs, height, width)
        table = np.zeros((height + 1, width + 1, outputs), np.int32)  # sums of all taps above and to the left
        np.cumsum(np.cumsum(taps.transpose(1, 2, 0), axis=0, dtype=np.int32), axis=1, out=table[1:, 1:])
        (top, bottom), (left, right) = self.rows.T[..., None], self.columns.T
        inside = table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left]
        return (table[-1, -1] - inside).reshape(-1, outputs).astype(np.int64)


def classes_of(sliding: Sliding, sizes: Sequence[int]) -> int:
    """Return the number of classes of places that a `SignProduct` distinguishes, over `sizes` of one or two axes."""
    seen = _Seen.of(sliding.in_two_axes(), [*[1] * (2 - len(sizes)), *sizes])
    return len(seen.rows) * len(seen.columns)


class NumberProduct(_Product):
    """Linear layer with binary weights on float32 numbers; sums are in float32.

    A sum of K products is within K 2^-24 of the exact sum, relative to the sum of the inputs' magnitudes.

    Args:
        bits: Rows of weights as in the file, (networks, outputs, bytes), with C networks or 1 for all.
        inputs: Number K of inputs of the layer.
        affine: `scale` and `shift` of sums, (networks or 1, outputs or 1).
    """

    def __init__(self, bits: npt.NDArray[np.uint8], inputs: int, affine: Mapping[str, Array] = {}) -> None:
        super().__init__(bits, affine)
        self.inputs, self._bits = inputs, bits
        rows = np.zeros((self.networks, self.outputs, 4 * -(-inputs // 32)), np.uint8)
        rows[..., : bits.shape[-1]] = bits
        self.weights = _blocks(rows.view(np.uint32))  # (networks, blocks, words, outputs of a block)

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
        numbers = (sources, self.networks // sources, rows, words, self.outputs, self.weights.shape[1])
        function = library("inference").bitbayes_numbers
        tensors = (whole, self.weights, self._scale, self._shift, out)
        _done(function(*numbers, build.threads(threads), *map(_address, tensors)))
        if not math.isfinite(out.sum()):
            self._take_back(x, out)
        return out

    def _take_back(self, x: npt.NDArray[np.float32], out: npt.NDArray[np.float32]) -> None:
        """Recompute sums that are not finite in float64, because a partial sum may overflow when the whole does not."""
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
    """Convolution with real weights on float32 numbers; `kernels/real.c` describes how sums are rounded.

    Args:
        weight: Weights of shape (networks, outputs, channels, *kernel), with C networks or 1 for all.
        affine: `scale` and `shift` of sums, (networks or 1, outputs or 1).
    """

    def __init__(self, weight: npt.NDArray[np.float32], affine: Mapping[str, Array] = {}) -> None:
        super().__init__(weight, affine)
        rows = np.moveaxis(weight, 2, -1).reshape(len(weight), self.outputs, -1)
        self._weights, self.inputs = _blocks(rows), rows.shape[-1]

    def __call__(self, x: npt.NDArray[np.float32], threads: int = 1) -> npt.NDArray[np.float32]:
        """Return sums (S, N, outputs) of windows (S, N, K) with channels last: K = (*kernel, channels)."""
        x = np.ascontiguousarray(x, np.float32)
        out = np.empty((max(len(x), self.networks), x.shape[1], self.outputs), np.float32)
        function = library("real").bitbayes_real
        for network, result in enumerate(out):
            tensors = (x, self._weights, self._scale, self._shift)
            mine = (_address(tensor[network % len(tensor)]) for tensor in tensors)
            function(x.shape[1], self.inputs, self.outputs, build.threads(threads), *mine, _address(result))
        return out
