"""What a packed network weighs and what it computes, step by step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bitbayes.packed.format.ops import Value
from bitbayes.packed.format.program import Program
from bitbayes.table import Table


@dataclass(frozen=True)
class PackedRow:
    """One step of a packed network.

    Args:
        op: Name of the operation.
        layer: Where it comes from.
        output: Shape of its output, without the batch.
        weights: Entries of its weights, thresholds, scales and shifts, in all C networks together.
        bits: Bits that they need.
        bytes: Bytes that they take in the file; 0 if an earlier step has brought them.
        binary_ops: Operations of xnor and popcount for one input and one network: two for each product.
        real_ops: Operations of real numbers: two for each product, one where the weight is a sign.

    Example:
        >>> PackedRow("sign", "1", (4,), 0, 0, 0, 0, 4).real_ops
        4
    """

    op: str
    layer: str
    output: tuple[int, ...]
    weights: int
    bits: int
    bytes: int
    binary_ops: int
    real_ops: int


@dataclass(frozen=True)
class PackedSummary:
    """All steps of a packed network; printing it gives a table.

    Args:
        samples: Number of networks in the file, C.
        rows: One entry a step.

    Example:
        >>> PackedSummary(1, (PackedRow("sign", "1", (4,), 0, 0, 0, 0, 4),)).bytes
        0
    """

    samples: int
    rows: tuple[PackedRow, ...]

    @property
    def bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(row.bytes for row in self.rows)

    @property
    def binary_ops(self) -> int:
        """Operations of xnor and popcount, for one input and one network."""
        return sum(row.binary_ops for row in self.rows)

    @property
    def real_ops(self) -> int:
        """Operations of real numbers, for one input and one network."""
        return sum(row.real_ops for row in self.rows)

    def __str__(self) -> str:
        heads = ("step", "layer", "output", "weights", "bits", "bytes", "binary ops", "real ops")
        rows = []
        for row in self.rows:
            counts = (row.weights, row.bits, row.bytes, row.binary_ops, row.real_ops)
            rows.append((row.op, row.layer, "x".join(map(str, row.output)), *(f"{count:,}" for count in counts)))
        networks = "1 network" if self.samples == 1 else f"{self.samples} networks"
        each = "for one input" if self.samples == 1 else "for one input and network"
        total = f"{self.binary_ops:,} binary and {self.real_ops:,} real operations"
        caption = f"{networks}, {self.bytes:,} bytes of tensors; {each} {total}"
        return Table("", heads, rows, caption, align="lllrrrrr").text()


def summary_rows(program: Program, values: Sequence[Value], tensors: Mapping[str, Any]) -> tuple[PackedRow, ...]:
    """Return one row for each step of a sound program."""
    rows, seen = [], set[str]()
    for step, value in zip(program.steps, values[1:], strict=True):
        weights = bits = size = 0
        for name in step.tensors.values():
            tensor = tensors[name]
            if tensor.dtype == np.uint8:
                count = math.prod(tensor.shape[:-1]) * step.fan_in(values[step.sources[0]].shape)
                weights, bits = weights + count, bits + count
            else:
                weights, bits = weights + tensor.size, bits + 8 * tensor.nbytes
            size += 0 if name in seen else tensor.nbytes
            seen.add(name)
        rows.append(PackedRow(step.op, step.name, value.shape, weights, bits, size, value.binary, value.real))
    return tuple(rows)
