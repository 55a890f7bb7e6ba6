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
    """The gradients that `step(closure)` finds, from which the closure starts at every draw.

    A closure may clear these gradients, as torch's own optimizers ask, or add to them, as trainers do for the last of
    several micro-batches. The gradients that the closure computes at one draw are taken back before the next one. This
    takes a copy of the gradients that are there, and no memory if there are none, as after `zero_grad()`.

    Args:
        parameters: Parameters whose gradients the closure computes.
        capturable: Whether the step may be part of a CUDA graph, so that no values can be read. Earlier gradients that
            are zero then count as any others in `added_to`.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> (3 * weight).sum().backward()
        >>> earlier = EarlierGradients([weight])
        >>> for factor in (4.0, 5.0):
        ...     earlier.put_back()
        ...     (factor * weight).sum().backward()
        >>> weight.grad
        tensor([8., 8.])
    """

    def __init__(self, parameters: Iterable[Tensor], *, capturable: bool = False) -> None:
        self._all = list(parameters)
        # Keeping the gradients themselves reserves their ids, by which they are recognised.
        self._given = {parameter: parameter.grad for parameter in self._all if parameter.grad is not None}
        self._copies = {parameter: given.detach().clone() for parameter, given in self._given.items()}
        self._versions = {parameter: given._version for parameter, given in self._given.items()}
        self._kept: dict[Tensor, bool] = {}  # whether the first gradient of this draw found the earlier one
        self._capturable = capturable

    def unchanged(self) -> bool:
        """Return whether all gradients are as they were found, so that the closure has computed none."""
        return all(self._is_as_given(p) if p in self._given else p.grad is None for p in self._all)

    @torch.no_grad()
    def put_back(self) -> None:
        """Give every parameter the gradient that was found, whatever the closure has done with it."""
        self._kept.clear()
        for parameter in self._all:
            given = self._given.get(parameter)
            # A captured graph or a bucket writes into a gradient without changing its version. A gradient that was
            # replaced is written only if necessary, because a captured graph would repeat this after it is freed.
            if given is not None and (parameter.grad is given or given._version != self._versions[parameter]):
                given.copy_(self._copies[parameter])  # in place, because a captured graph or a bucket reads this memory
                self._versions[parameter] = given._version
            parameter.grad = given

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
        """Return whether the closure added to an earlier gradient that is not zero; True if it cannot be told.

        It cannot be told for a gradient that the closure itself assigns to `.grad` without `backward`.
        """
        given, kept = self._given.get(parameter), self._kept.get(parameter)
        if given is None or parameter.grad is None:
            return False
        if shards.is_sharded(parameter):
            # No values, because all processes have to agree. No hook sees a gradient that fully_shard adds in place.
            return parameter.grad is given if kept is None else kept
        if kept is False or not self._is_nonzero[parameter]:
            return False
        if kept is None and parameter.grad is given and not self._is_as_given(parameter) and not self._capturable:
            return bool(given.any())  # no gradient has arrived, but the closure has cleared or changed the earlier one
        return True

    @functools.cached_property
    def _is_nonzero(self) -> dict[Tensor, bool]:
        """Whether each earlier gradient has other values than zeros, from one read of the device."""
        copies = {p: copy for p, copy in self._copies.items() if not shards.is_sharded(p)}
        if self._capturable or not copies:
            return dict.fromkeys(copies, True)
        found = [copy.any() for copy in copies.values()]
        together = torch.stack([each.to(found[0].device) for each in found])
        return dict(zip(copies, together.tolist(), strict=True))

    def _is_as_given(self, parameter: Tensor) -> bool:
        given = self._given[parameter]
        return parameter.grad is given and given._version == self._versions[parameter]


def copied(state: Any, device: torch.device) -> Any:
    """Return a deep copy of one parameter's state on a device with unchanged dtypes."""
    if isinstance(state, Tensor):
        return state.detach().to(device, copy=True)
    return {key: copied(value, device) for key, value in state.items()} if isinstance(state, dict) else state
