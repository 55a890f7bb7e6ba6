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
        one = self.samples == 1
        networks, each = ("1 network", "") if one else (f"{self.samples} networks", " and network")
        total = f"{self.binary_ops:,} binary and {self.real_ops:,} real operations"
        caption = f"{networks}, {self.bytes:,} bytes of tensors; for one input{each} {total}"
        return Table("", heads, rows, caption, align="lllrrrrr").text()
