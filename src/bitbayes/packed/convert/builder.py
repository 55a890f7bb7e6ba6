"""The list of steps that tracing fills."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.fx import Node

from bitbayes.packed.convert.draft import Draft

__all__ = ["Builder", "Constant", "Get", "Refusal", "Vector"]

Get = Callable[[Any], npt.NDArray[np.float64]]  # the value of a constant in one network
Vector = Callable[[Get], npt.NDArray[np.float64]]
Constant = Node | Vector  # a tensor of weights, or a vector to compute


class Refusal(Exception):
    """Why an operation cannot be packed."""


class Builder:
    """The steps so far, and what the nodes of the record are among them."""

    def __init__(self) -> None:
        self.drafts: list[Draft] = []
        self.constants_of: list[dict[str, Constant]] = []
        self.values: dict[Node, int] = {}
        self.constants: set[Node] = set()  # nodes that depend on no input
        self.input: Node | None = None

    def inputs(self, node: Node) -> None:
        """Notes the one input."""
        if self.input is not None:
            raise ValueError("the network must take one tensor")
        self.input, self.values[node] = node, 0

    def value(self, node: Any) -> int:
        """Number of a value that an operation takes."""
        if not isinstance(node, Node) or node not in self.values:
            raise Refusal("it must take values that depend on the input")
        return self.values[node]

    def constant(self, node: Any) -> bool:
        """Whether something is a number, or a node that depends on no input."""
        return isinstance(node, int | float) or node in self.constants

    def add(
        self,
        op: str,
        sources: Sequence[int],
        layer: str,
        constants: Mapping[str, Constant] | None = None,
        **settings: Any,
    ) -> int:
        """Appends a step, and returns the number of its value."""
        self.drafts.append(Draft(op, tuple(sources), layer, settings))
        self.constants_of.append(dict(constants or {}))
        return len(self.drafts)
