"""Support for parameters that `torch.distributed.fsdp.fully_shard` shards across processes.

Each process holds some rows (dimension 0) of a sharded parameter, which form one span of the flat tensor. The process
keeps the belief of this span and draws with the noise of its positions in the whole tensor. All weights together
therefore equal those that a single process would draw.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

State = dict[str, Any]


def is_sharded(tensor: object) -> TypeGuard[DTensor]:
    """Return whether a tensor is a DTensor, without loading the module of DTensors."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def check(name: str, parameter: Tensor) -> None:
    """Raise ValueError for a parameter that is not sharded by rows."""
    if not is_sharded(parameter):
        return
    from torch.distributed.tensor import Shard

    split = [placement for placement in parameter.placements if not placement.is_replicate()]
    if len(split) > 1 or any(type(placement) is not Shard or placement.dim != 0 for placement in split):
        raise ValueError(
            f"binary parameter {name!r} is a DTensor with placements {parameter.placements}; expected one Shard(0) "
            "besides replicas; call torch.distributed.fsdp.fully_shard without shard_placement_fn"
        )


def span(parameter: Tensor) -> slice:
    """Return the positions of this process's values in the whole flat tensor."""
    rows, width = _rows(parameter), parameter.numel() // max(len(parameter), 1) if parameter.dim() else 1
    return slice(rows.start * width, rows.stop * width)


def _rows(parameter: Tensor) -> slice:
    count = len(parameter) if parameter.dim() else 1
    axis = _axis(parameter)
    if axis is None:
        return slice(0, count)
    assert is_sharded(parameter)
    each = -(-count // parameter.device_mesh.size(axis))  # as in torch.chunk, the last processes may have no rows
    start = min(parameter.device_mesh.get_local_rank(axis) * each, count)
    return slice(start, min(start + each, count))


def _axis(parameter: Tensor) -> int | None:
    """Return the dimension of the mesh over which the rows are sharded."""
    if not is_sharded(parameter):
        return None
    return next((axis for axis, place in enumerate(parameter.placements) if not place.is_replicate()), None)


def local(tensor: Tensor) -> Tensor:
    """Return this process's rows, which share memory with the parameter."""
    return (tensor.to_local() if is_sharded(tensor) else tensor).detach()


def local_gradient(parameter: Tensor) -> Tensor:
    """Return this process's rows of the gradient."""
    gradient = parameter.grad
    assert gradient is not None
    if is_sharded(gradient) and is_sharded(parameter) and gradient.placements != parameter.placements:
        gradient = gradient.redistribute(placements=parameter.placements)
    return local(gradient)


def like(parameter: Tensor, values: Tensor) -> Tensor:
    """Return flat values of this process, or rows of them, as DTensors of the parameter's shape and sharding."""
    lead = values.shape[:-1]
    return _sharded(parameter, values.view((*lead, *local(parameter).shape)), (*lead, *parameter.shape), len(lead))


def whole(parameter: Tensor, values: Tensor) -> Tensor:
    """Return `like` with the rows of all processes, which must call this function together."""
    found = like(parameter, values)
    return found.full_tensor() if is_sharded(found) else found


def whole_scale(parameter: Tensor, scale: Tensor) -> Tensor:
    """Return a scale with the rows of all processes, which must call this function together."""
    found = _sharded_scale(parameter, scale)
    return found.full_tensor() if is_sharded(found) else found


def _sharded_scale(parameter: Tensor, scale: Tensor) -> Tensor:
    return _sharded(parameter, scale, (len(parameter), *scale.shape[1:]), 0) if scale.dim() else scale


def _sharded(parameter: Tensor, values: Tensor, shape: tuple[int, ...], dim: int) -> Tensor:
    if not is_sharded(parameter):
        return values
    from torch.distributed.tensor import DTensor, Shard

    placements = [place if place.is_replicate() else Shard(dim) for place in parameter.placements]
    stride = torch.empty(shape, device="meta").stride()
    mesh, whole_shape = parameter.device_mesh, torch.Size(shape)
    return DTensor.from_local(values, mesh, placements, run_check=False, shape=whole_shape, stride=stride)


def spread(state: State, parameter: Tensor) -> State:
    """Return the state of a parameter for `torch.distributed.checkpoint`, with DTensors of the parameter's shape."""
    if not is_sharded(parameter):
        return state
    scale = {name: _sharded_scale(parameter, value) for name, value in state.items() if name.startswith("scale")}
    return state | scale | {"belief": {name: like(parameter, value) for name, value in state["belief"].items()}}


def own(state: State, parameter: Tensor, mine: State | None = None) -> State:
    """Return this process's part of the state of a whole parameter.

    Args:
        state: State of the whole parameter, from a single process or from `spread`.
        parameter: The parameter.
        mine: Current state of this process, whose beliefs tell the number of rows; None if the beliefs are flat.
    """
    beliefs = {}
    for name, value in state["belief"].items():
        flat = value.full_tensor() if is_sharded(value) else value
        lead = 0 if mine is None or name not in mine["belief"] else mine["belief"][name].dim() - 1
        if flat.shape[lead:] == parameter.shape:
            flat = flat.reshape(*flat.shape[:lead], parameter.numel())
        fits = is_sharded(parameter) and flat.shape[-1:] == (parameter.numel(),)
        beliefs[name] = flat[..., span(parameter)].clone() if fits else flat
    found = state | {"belief": beliefs}
    for name, value in state.items():
        if name.startswith("scale") and value.dim():
            full = value.full_tensor() if is_sharded(value) else value
            found[name] = full[_rows(parameter)].clone() if is_sharded(parameter) else full
    return found


def agreement(parameters: Sequence[Tensor]) -> Callable[[Tensor], Tensor] | None:
    """Return a function that combines flags of all processes; None if each process holds whole parameters.

    A combined flag, one per parameter, is true only if it is true in every process. So either all processes accept a
    step or none does.
    """
    sharded = [place for place, parameter in enumerate(parameters) if _axis(parameter) is not None]
    if not sharded:
        return None

    def agreed(flags: Tensor) -> Tensor:
        found = flags.to(torch.int32)
        groups: dict[Any, list[int]] = {}
        for place in sharded:
            parameter, axis = parameters[place], _axis(parameters[place])
            assert is_sharded(parameter)
            groups.setdefault(parameter.device_mesh.get_group(axis), []).append(place)
        for group, places in groups.items():
            part = found[places]
            torch.distributed.all_reduce(part, torch.distributed.ReduceOp.MIN, group=group)
            found[places] = part
        return found.bool()

    return agreed


def sharded_modules(model: nn.Module) -> Iterator[Any]:
    """Iterate over the parts of a network to which `fully_shard` has been applied."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return (module for module in model.modules() if fsdp is not None and isinstance(module, fsdp.FSDPModule))


def reshard(model: nn.Module) -> None:
    """Drop unsharded parameters that a forward pass left behind, because the optimizer has written new values since."""
    for module in sharded_modules(model):
        module.reshard()


def shared_seed() -> int:
    """Return torch's initial seed; in a distributed job that of rank 0, so that all ranks draw the same weights."""
    seed = torch.tensor(torch.initial_seed() & ((1 << 63) - 1))
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        on_gpu = torch.distributed.get_backend() == "nccl"
        seed = seed.cuda() if on_gpu else seed
        torch.distributed.broadcast(seed, 0)
    return int(seed)
