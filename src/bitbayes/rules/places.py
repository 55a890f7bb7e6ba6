"""The binary tensors of an optimizer, their gradients, and copies of their states."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
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


class EarlierGradients:
    """The gradients that `step(closure)` finds, with which the closure begins at every draw.

    A closure may clear them, as torch's own optimizers ask, or add to them, as trainers do for the last of several
    micro-batches. It finds them again at every draw, so the gradients of one draw never count for another one. This
    takes a copy of the gradients that are there, and no memory if there are none, as after `zero_grad()`.

    Args:
        parameters: Parameters whose gradients the closure computes.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> earlier = EarlierGradients([weight])
        >>> (3 * weight).sum().backward()
        >>> earlier.put_back()
        >>> (4 * weight).sum().backward()
        >>> weight.grad
        tensor([4., 4.])
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self._all = list(parameters)
        given = [(parameter, parameter.grad) for parameter in self._all]
        # Keeping the gradients themselves reserves their ids, by which they are recognised.
        self._given = {p: (grad, grad._version, grad.detach().clone()) for p, grad in given if grad is not None}
        self._kept: dict[Tensor, bool] = {}  # whether the first gradient of the closure found the earlier one

    def unchanged(self) -> bool:
        """Return whether all gradients are as they were found, so that the closure has computed none."""
        return all(self._is_as_given(p) if p in self._given else p.grad is None for p in self._all)

    @torch.no_grad()
    def put_back(self) -> None:
        """Give every parameter the gradient that was found, unless the closure has replaced it."""
        for parameter in self._all:
            if parameter not in self._given or parameter.grad is not self._given[parameter][0]:
                parameter.grad = None
                continue
            given, _, copy = self._given[parameter]
            given.copy_(copy)  # in place, because a captured graph or a bucket reads this memory

    @contextmanager
    def watched(self, parameters: Iterable[Tensor]) -> Iterator[None]:
        """Watch whether a closure that is called in this context adds to the earlier gradients of some parameters."""

        def arrives(parameter: Tensor, _: Tensor) -> None:
            self._kept.setdefault(parameter, self._is_as_given(parameter))

        watched = [p for p in parameters if p in self._given and p.requires_grad]
        handles = [p.register_hook(functools.partial(arrives, p)) for p in watched]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def added_to(self, parameter: Tensor) -> bool:
        """Return whether the closure added to an earlier gradient that is not zero; True if it cannot be told."""
        given, _, copy = self._given.get(parameter, (None, 0, None))
        if given is None or copy is None or parameter.grad is not given:
            return False
        # Gradients of sharded parameters, and those that a closure writes itself, arrive unseen.
        kept = self._kept.get(parameter, True)
        if shards.is_sharded(parameter):
            return kept  # all processes have to agree, and each has other values
        return kept and bool(copy.any()) and bool(given.any())

    def _is_as_given(self, parameter: Tensor) -> bool:
        given, version, _ = self._given[parameter]
        return parameter.grad is given and given._version == version


def copied(state: Any, device: torch.device) -> Any:
    """Return a deep copy of one parameter's state on a device with unchanged dtypes."""
    if isinstance(state, Tensor):
        return state.detach().to(device, copy=True)
    return {key: copied(value, device) for key, value in state.items()} if isinstance(state, dict) else state
