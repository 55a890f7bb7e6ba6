"""Sizes and operation counts of a packed network, step by step."""

from __future__ import annotations

from dataclasses import dataclass

from bitbayes.table import Table


@dataclass(frozen=True)
class PackedRow:
    """One step of a packed network.

    Args:
        op: Name of the operation.
        layer: Layer that the step comes from.
        output: Shape of its output, without the batch.
        weights: Number of weights, thresholds, scales and shifts in all C networks together.
        bits: Number of bits that the weights need.
        bytes: Number of bytes that the weights take in the file; 0 if they belong to an earlier step.
        binary_ops: Number of xnor and popcount operations for one input and one network, two per product.
        real_ops: Number of floating-point operations: two per product, or one if the weight is a sign.

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
    """Table of all steps of a packed network.

    Args:
        samples: Number of networks in the file, C.
        rows: One entry per step.

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
        """Number of xnor and popcount operations for one input and one network."""
        return sum(row.binary_ops for row in self.rows)

    @property
    def real_ops(self) -> int:
        """Number of floating-point operations for one input and one network."""
        return sum(row.real_ops for row in self.rows)

    def __str__(self) -> str:
        heads = ("step", "layer", "output", "weights", "bits", "bytes", "binary ops", "real ops")
        rows = []
        for row in self.rows:
            counts = (row.weights, row.bits, row.bytes, row.binary_ops, row.real_ops)
            rows.append((row.op, row.layer, "x".join(map(str, row.output)), *(f"{count:,}" for count in counts)))
        one = self.samples == 1
        networks, each = ("1 network", "") if one else (f"{self.samples} networks", " and network")
        total = f"{self.binary_ops:,} binary and {self.real_ops:,} real operations"
        caption = f"{networks}, {self.bytes:,} bytes of tensors; for one input{each}: {total}"
        return Table("", heads, rows, caption, align="lllrrrrr").text()
