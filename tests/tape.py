"""What a CUDA graph does, on any device: it records the operations of a step and repeats them, with their numbers.

Tensors that were there before are shared with each replay; what Python computed meanwhile is not computed again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

_READS = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.equal.default,
}
_FROM_HOST = {torch.ops.aten.lift_fresh.default, torch.ops.aten.lift_fresh_copy.default}

_UNDECLARED = "running_mean", "running_var"  # BatchNorm writes to them, and its schema does not say so


def _written(function: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """The tensors that an operation changes in place."""
    given = dict(zip((argument.name for argument in function._schema.arguments), args, strict=False)) | kwargs
    changed = [
        given[argument.name]
        for argument in function._schema.arguments
        if argument.name in given
        and ((argument.alias_info is not None and argument.alias_info.is_write) or argument.name in _UNDECLARED)
    ]
    return [value for value in tree_flatten(changed)[0] if isinstance(value, Tensor)]


class Tape(TorchDispatchMode):
    """Records what runs inside `with`, and refuses what a captured graph cannot hold: host memory, and waiting."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Any, Any, Any, list[Any]]] = []
        self._before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs and records one operation."""
        assert function not in _READS, f"{function} waits for the device"
        assert function not in _FROM_HOST, f"{function} reads a tensor that Python made"
        kwargs = kwargs or {}
        for tensor in _written(function, args, kwargs):
            self._before.setdefault(id(tensor), (tensor.detach(), tensor.clone()))
        result = function(*args, **kwargs)
        self._calls.append((function, args, kwargs, tree_flatten(result)[0]))
        return result

    @torch.no_grad()
    def rewind(self) -> None:
        """Gives every tensor that was written to the value that it had before."""
        for tensor, value in reversed(self._before.values()):  # one may be a part of another
            tensor.copy_(value)
        self._before = {}

    @torch.no_grad()
    def replay(self) -> None:
        """Does the same again."""
        now: dict[int, Tensor] = {}

        def current(value: Any) -> Any:
            return now.get(id(value), value) if isinstance(value, Tensor) else value

        for function, args, kwargs, outputs in self._calls:
            results = tree_flatten(function(*tree_map(current, args), **tree_map(current, kwargs)))[0]
            given = {id(value) for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)}
            for old, new in zip(outputs, results, strict=True):
                if isinstance(old, Tensor) and id(old) not in given:  # in place: the tensor that it was
                    now[id(old)] = new


class TapeGraph:
    """`capture.Graph` by a tape."""

    def aside(self, action: Any) -> None:
        action()

    def record(self, action: Any) -> None:
        """A tape has to run what it records; afterwards everything is as it was, as with a graph."""
        noise = torch.get_rng_state()
        with Tape() as self.tape:
            action()
        self.tape.rewind()
        torch.set_rng_state(noise)

    def replay(self) -> None:
        self.tape.replay()
