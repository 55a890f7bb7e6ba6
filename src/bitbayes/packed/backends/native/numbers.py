"""Layers on float32 numbers for the compiled kernels: of binary weights, and convolutions of real ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from bitbayes.packed.backends.native import blocks as native_blocks
from bitbayes.packed.backends.native.blocks import address, blocks, done, scale_shift

__all__ = ["NumberProduct", "RealProduct"]

Array = npt.NDArray[Any]


class NumberProduct:
    """A linear layer of binary weights on float32 numbers; sums are in float32.

    A sum of K products is within K 2^-24 of the exact one, relative to the sum of the inputs' magnitudes.

    Args:
        bits: Rows of weights as the file has them, (networks, outputs, bytes), networks C, or 1 for all.
        inputs: K.
        affine: `scale` and `shift` of sums, (networks or 1, outputs or 1).
    """

    def __init__(self, bits: npt.NDArray[np.uint8], inputs: int, affine: Mapping[str, Array] | None = None) -> None:
        networks = max(len(bits), *(len(tensor) for tensor in (affine or {}).values()), 1)
        self._networks, self.outputs, self.inputs = networks, bits.shape[1], inputs
        rows = np.zeros((networks, self.outputs, 4 * -(-inputs // 32)), np.uint8)
        rows[..., : bits.shape[-1]] = bits
        self._weights = blocks(rows.view(np.uint32))
        self._scale, self._shift = scale_shift(networks, self.outputs, affine or {})

    def __call__(self, x: npt.NDArray[np.float32], threads: int = 1) -> npt.NDArray[np.float32]:
        """Sums (S, N, outputs) of inputs (S, N, K)."""
        sources, rows = x.shape[:2]
        every, words = max(sources, self._networks), -(-self.inputs // 32)
        out = np.empty((every, rows, self.outputs), np.float32)
        if self._networks == 1:
            sources, rows = 1, sources * rows
        whole = x
        if self.inputs % 32:
            whole = np.zeros((*x.shape[:2], 32 * words), np.float32)
            whole[..., : self.inputs] = x
        whole = np.ascontiguousarray(whole, np.float32)
        numbers = (sources, self._networks // sources, rows, words, self.outputs, self._weights.shape[1], threads)
        function = native_blocks.library("inference").bitbayes_numbers
        done(function(*numbers, *map(address, (whole, self._weights, self._scale, self._shift, out))))
        return out


class RealProduct:
    """A convolution of real weights on float32 numbers, whose sums are rounded as `kernels/real.c` says.

    Args:
        weight: (networks, outputs, channels, *kernel), networks C, or 1 for all.
        affine: `scale` and `shift` of sums, (networks or 1, outputs or 1).
    """

    def __init__(self, weight: npt.NDArray[np.float32], affine: Mapping[str, Array] | None = None) -> None:
        self._networks = max(len(weight), *(len(tensor) for tensor in (affine or {}).values()), 1)
        self.outputs = weight.shape[1]
        rows = np.moveaxis(weight, 2, -1).reshape(len(weight), self.outputs, -1)
        self._weights, self.inputs = blocks(rows), rows.shape[-1]
        self._scale, self._shift = scale_shift(self._networks, self.outputs, affine or {})

    def __call__(self, x: npt.NDArray[np.float32], threads: int = 1) -> npt.NDArray[np.float32]:
        """Sums (S, N, outputs) of what is seen, (S, N, K), channels last: K = (*kernel, channels)."""
        x = np.ascontiguousarray(x, np.float32)
        out = np.empty((max(len(x), self._networks), x.shape[1], self.outputs), np.float32)
        function = native_blocks.library("real").bitbayes_real
        for network, result in enumerate(out):
            tensors = (x, self._weights, self._scale, self._shift)
            mine = (address(tensor[network % len(tensor)]) for tensor in tensors)
            function(x.shape[1], self.inputs, self.outputs, threads, *mine, address(result))
        return out
