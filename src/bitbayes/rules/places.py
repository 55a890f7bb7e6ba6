"""The binary tensors of an optimizer, their gradients, and copies of their states."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from bitbayes.rules import shards


class Place(NamedTuple):
    """One binary tensor of an optimizer.

    Attributes:
        number: Number of the tensor, on which its noise depends.
        name: Name of the parameter, or its number if it was given without a name.
        parameter: The parameter.
        group: Its parameter group.
    """

    number: int
    name: str
    parameter: Parameter
    group: dict[str, Any]

    @property
    def own(self) -> Tensor:
        """The values that this process holds: all of them, unless `fully_shard` has sharded the parameter."""
        return shards.local(self.parameter)


def places_of(groups: Iterable[dict[str, Any]]) -> Iterator[Place]:
    """Iterate over the tensors of all parameter groups; tensors without names are called "0", "1", ..."""
    members = [(group, at, member) for group in groups for at, member in enumerate(group["params"])]
    for index, (group, at, parameter) in enumerate(members):
        names: Sequence[str] | None = group.get("param_names")
        yield Place(index, names[at] if names else str(index), parameter, group)


def gradients_of(places: Iterable[Place]) -> list[tuple[int, int, Tensor | None]]:
    """Return the gradients and their versions to detect changes; keeping the tensors reserves their ids."""
    found = [place.parameter.grad for place in places]
    return [(id(gradient), 0 if gradient is None else gradient._version, gradient) for gradient in found]


def copied(state: Any, device: torch.device) -> Any:
    """Return a deep copy of one parameter's state on a device with unchanged dtypes."""
    if isinstance(state, Tensor):
        return state.detach().to(device, copy=True)
    return {key: copied(value, device) for key, value in state.items()} if isinstance(state, dict) else state
