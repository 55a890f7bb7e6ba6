"""The networks that a posterior draws, and their outputs: `predict`, `Ensemble`, `pack` and evaluations share both."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import operator
import warnings
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from bitbayes.batchnorm import Batches, Weights, batch_buffers, check_batches, refresh
from bitbayes.posterior import Posterior
from bitbayes.rules.shards import sharded_modules

Output = str | int | Callable[[Any], Tensor]
"""How to find the logits among a network's outputs: a name, a tuple index, or a function."""

# Small networks (weights times inputs) are computed in groups of this size, because a pass of a single one is mostly
# dispatch. Larger networks are faster one by one; see benchmarks/predict.py. So are those with larger inputs (numbers
# at a time): a convolution has few weights and large outputs, which a group would hold 32 times.
_TOGETHER, _SMALL, _FEW = 32, 10_000_000, 200_000

_OF_TORCH = frozenset(vars(nn.Module()))  # attributes that every module has, which no forward pass sets


def check_tensor(what: str, x: object) -> None:
    """Raise TypeError for inputs that are no tensor, such as the dictionary that a tokeniser makes."""
    if not isinstance(x, Tensor):
        raise TypeError(
            f"{what} must be one tensor of shape (N, ...), got {type(x).__name__}; convert arrays by "
            "torch.as_tensor, and wrap a model of several inputs in a module that makes the others from one, such as a "
            "mask from token ids (docs/packing-transformers.md)"
        )


def check_sampling(posterior: object, samples: object) -> None:
    """Raise TypeError for what is no posterior, such as an optimizer, or for samples that are no whole number."""
    if not isinstance(posterior, Posterior):
        found = type(posterior).__name__
        raise TypeError(f"posterior must be a Posterior, such as optimizer.posterior(), got {found}")
    if not hasattr(samples, "__index__"):
        raise TypeError(f"samples must be a whole number, got {type(samples).__name__} {samples!r:.60}")


def unwrapped(model: nn.Module, names: Collection[str] | None = None) -> nn.Module:
    """Return the network inside torch.compile, DataParallel or DistributedDataParallel.

    Args:
        model: Any module.
        names: Names of parameters. If given, unwrapping stops at the first module that has all of them. If no module
            has all of them, the model itself is returned.

    Raises:
        ValueError: If `fully_shard` has been applied to the network.
    """
    if next(sharded_modules(model), None) is not None:
        raise ValueError(
            "fully_shard has sharded the parameters, but sampling and packing need whole ones; load "
            "get_model_state_dict(model, options=StateDictOptions(full_state_dict=True)) of "
            "torch.distributed.checkpoint.state_dict into an unsharded network"
        )
    inside: Any = model
    while names is None or not set(names) <= {name for name, _ in inside.named_parameters(remove_duplicate=False)}:
        if isinstance(inside, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inside = inside.module
        elif isinstance(getattr(inside, "_orig_mod", None), nn.Module):
            inside = inside._orig_mod
        else:
            return inside if names is None else model
    return inside


@torch.no_grad()
def drawn_networks(
    model: nn.Module, posterior: Posterior | None, samples: int, *, seed: int = 0, batches: Batches | None = None
) -> Generator[Weights, None, None]:
    """Yield the weights of each network, and its BatchNorm statistics if there are batches, by the names they replace.

    Samples share memory: the weights are overwritten when the next network is requested. Under autocast, weights are
    drawn in autocast's type if that type represents them exactly.

    Args:
        model: Network in eval mode. With `batches`, its own statistics are those of each network in turn;
            `bitbayes.batchnorm.as_found` restores them.
        posterior: Posterior over the binary parameters. None yields one network with the model's own weights.
        samples: Number of networks to draw.
        seed: Seed of the samples.
        batches: Training batches from which each network's BatchNorm statistics are estimated.

    Raises:
        ValueError: If names or shapes of the posterior differ from those of the model.
    """
    if batches is not None:
        check_batches(batches)
    reusable = None if batches is None else list(batches)
    for weights in [{}] if posterior is None else _draws(model, posterior, samples, seed):
        if reusable is not None:
            refresh(model, reusable, weights)
        yield weights if reusable is None else weights | batch_buffers(model)


def _draws(model: nn.Module, posterior: Posterior, samples: int, seed: int) -> Iterator[Weights]:
    named = {name: p for name, p in model.named_parameters(remove_duplicate=False) if name in posterior.shapes}
    posterior.check_like({name: parameter.shape for name, parameter in named.items()}, "the model")
    dtypes = {name: _dtype(parameter, posterior.scale[name]) for name, parameter in named.items()}
    # The kernels write float32 and bfloat16; other types are converted.
    drawn = {name: dtype if dtype == torch.bfloat16 else torch.float32 for name, dtype in dtypes.items()}
    scales = posterior.scale
    room: Weights = {n: scales[n].new_empty(shape, dtype=drawn[n]) for n, shape in posterior.shapes.items()}
    for index in range(samples):
        room = posterior.sample_at(index, seed=seed, out=room)
        yield {name: weight.to(named[name].device, dtypes[name]) for name, weight in room.items()}


def _dtype(parameter: Tensor, scale: Tensor) -> torch.dtype:
    """Return autocast's type if it represents the weights exactly, because autocast would round to it anyway."""
    device = parameter.device.type
    if parameter.dtype == torch.float32 and torch.is_autocast_enabled(device) and bool((scale == 1).all()):
        return torch.get_autocast_dtype(device)
    return parameter.dtype


def complete_states(model: nn.Module, networks: Iterable[Weights]) -> Iterator[Weights]:
    """Yield all parameters and buffers of each network of `drawn_networks` by name."""
    named = dict(model.named_parameters(remove_duplicate=False))
    buffers = dict(model.named_buffers(remove_duplicate=False))
    for weights in networks:
        # A tied weight, or a BatchNorm that is used twice, has several names, but weights has one of them.
        drawn = {named[name]: weight.to(named[name]) for name, weight in weights.items() if name in named}
        estimated = {buffers[name]: buffer for name, buffer in weights.items() if name in buffers}
        parameters = {name: drawn.get(parameter, parameter) for name, parameter in named.items()}
        yield parameters | {name: estimated.get(buffer, buffer) for name, buffer in buffers.items()}


def group_size(posterior: Posterior, x: Tensor, chunk: int | None) -> int:
    """Return how many networks to compute in one batched pass.

    It is 1 for large networks and many inputs, and under autocast, whose mixed types vmap's BatchNorm refuses.
    """
    weights = sum(map(torch.Size.numel, posterior.shapes.values()))
    at_once = min(chunk or len(x), len(x))
    small = weights * at_once <= _SMALL and at_once * x[:1].numel() <= _FEW
    return _TOGETHER if small and not torch.is_autocast_enabled(x.device.type) else 1


def stacks(networks: Iterator[Weights], count: int, size: int) -> Iterator[tuple[int, Weights]]:
    """Yield networks in groups, as the number of networks and their tensors with a leading axis of networks.

    Args:
        networks: Weights by name, as `drawn_networks` yields them.
        count: Number of networks.
        size: Number of networks in a group. The last group may be smaller. A group of one is not copied.
    """
    for done in range(0, count, size):
        now = min(size, count - done)
        if now == 1:
            yield 1, {name: weight[None] for name, weight in next(networks).items()}
            continue
        group: Weights = {}
        for place, weights in enumerate(itertools.islice(networks, now)):
            for name, weight in weights.items():
                if name not in group:
                    group[name] = weight.new_empty((now, *weight.shape))
                group[name][place] = weight
        yield now, group


def outputs_of(
    model: nn.Module,
    groups: Iterable[tuple[int, Weights]],
    x: Tensor,
    chunk: int | None,
    output: Output | None = None,
) -> Tensor:
    """Return the outputs of groups of networks from `stacks`, shape (C, N, ..., K).

    The networks of a group are computed in one batched pass, if the model allows it. The other arguments are those of
    `network_outputs`.
    """
    found: list[Tensor] = []
    for count, group in groups:
        found += _group_outputs(model, count, group, lambda weights: network_outputs(model, weights, x, chunk, output))
    return torch.stack(found)


def _group_outputs(model: nn.Module, count: int, group: Weights, outputs: Callable[[Weights], Tensor]) -> list[Tensor]:
    modules = list(model.modules())
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in modules)
    if count > 1 and not hooked:  # hooks are called for every network
        kept = _Attributes(modules)
        # Recurrent layers, branches on values and much else cannot be batched, with errors of no fixed type. One by
        # one the network computes as it was written, so that errors of its own are raised as they are.
        with contextlib.suppress(Exception), warnings.catch_warnings():
            # torch warns of operations that it runs one by one after all. Warnings of the network itself are raised
            # below.
            warnings.simplefilter("error", UserWarning)
            found = list(vmap(outputs)(group))
            if not kept.changed():
                return found
        kept.put_back()  # a network that stores features or counts its calls stored those of no single network
    return [outputs({name: tensor[place] for name, tensor in group.items()}) for place in range(count)]


class _Attributes:
    """Attributes of modules that are not torch's own, with the elements of those that are lists and dictionaries."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._found = [(module, _own(module)) for module in modules]
        values = [value for _, own in self._found for value in own.values()]
        self._lists = [(value, list(value)) for value in values if isinstance(value, list)]
        self._tables = [(value, dict(value)) for value in values if isinstance(value, dict)]

    def changed(self) -> bool:
        """Return whether a network has set an attribute, or an element of a list or a dictionary."""
        lists = any(len(now) != len(old) or any(map(operator.is_not, now, old)) for now, old in self._lists)
        tables = ((_own(module), own) for module, own in self._found)
        return lists or any(not _same(now, old) for now, old in (*self._tables, *tables))

    def put_back(self) -> None:
        """Set the attributes and elements as they were."""
        for module, own in self._found:
            for name in _own(module).keys() - own.keys():
                del vars(module)[name]
            vars(module).update(own)
        for now, elements in self._lists:
            now[:] = elements
        for now, old in self._tables:
            now.clear()
            now.update(old)


def _own(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if name not in _OF_TORCH}


def _same(now: dict[Any, Any], before: dict[Any, Any]) -> bool:
    return now.keys() == before.keys() and all(now[name] is value for name, value in before.items())


def network_outputs(
    model: nn.Module, weights: Weights, x: Tensor, chunk: int | None, output: Output | None = None
) -> Tensor:
    """Return the logits of one network, shape (N, ..., K), in float32 or float64.

    Args:
        model: Network in eval mode.
        weights: Parameters and buffers by name that replace the model's own.
        x: Inputs, shape (N, ...).
        chunk: Number of inputs at a time; None for all at once.
        output: How to find the logits; see `logits_of`.

    Raises:
        ValueError: If the logits are not found, if the numbers of inputs and outputs of a chunk differ, or if `x` is a
            single input without the dimension of the batch.
    """
    inputs = x.split(chunk or max(len(x), 1))
    pieces = [logits_of(functional_call(model, weights, (piece,)), output) for piece in inputs]
    for given, found in zip(inputs, pieces, strict=True):
        if len(inputs) > 1 and len(given) != len(found):
            raise ValueError(
                f"{len(given)} inputs of a chunk have {len(found)} outputs, so dimension 0 of x is not the batch, or "
                "the network mixes examples; leave out chunk"
            )
    outputs = torch.cat(pieces)
    if x.dim() == 1 and len(outputs) != len(x):
        raise ValueError(
            f"x of shape ({len(x)},) has outputs of shape {tuple(outputs.shape)}, so x is one input and not a batch; "
            "give x[None]"
        )
    outputs = outputs if outputs.dtype == torch.float64 else outputs.float()
    return outputs[:, None] if outputs.dim() == 1 else outputs


def logits_of(outputs: Any, output: Output | None = None) -> Tensor:
    """Return the logits among the outputs of a network.

    Args:
        outputs: Return value of the network: a tensor, a dictionary, a dataclass, or a tuple.
        output: Key, attribute or tuple index of the logits, or a function of the outputs. None uses a tensor itself,
            and otherwise the entry or attribute "logits".

    Raises:
        ValueError: If there is no such entry, or the entry is not a tensor with at least one value per input.

    Example:
        >>> logits_of({"loss": None, "logits": torch.ones(2, 3)}).shape
        torch.Size([2, 3])
        >>> logits_of((torch.ones(2, 3), torch.zeros(2)), output=0).shape
        torch.Size([2, 3])
    """
    if callable(output):
        found, what = output(outputs), "what output() returned"
    elif output is None and isinstance(outputs, Tensor):
        found, what = outputs, "the output"
    else:
        name = "logits" if output is None else output
        known = _entries(outputs)
        if name not in known:
            expected = "a tensor or an entry called 'logits'" if output is None else f"an entry {name!r}"
            names = f" with the entries {', '.join(map(repr, known))}" if known else ""
            raise ValueError(
                f"the network returned a {type(outputs).__name__}{names}, expected {expected}; pass output=, the name, "
                "the index of the logits, or a function that returns them"
            )
        found, what = known[name], f"the output {name!r}"
    if not isinstance(found, Tensor) or found.dim() == 0:
        kind = "a tensor without dimensions" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise ValueError(f"{what} is {kind}, expected a tensor of logits, shape (N, K)")
    return found


def _entries(outputs: Any) -> dict[str | int, Any]:
    """Return the entries of the outputs by key, attribute and index."""
    if isinstance(outputs, Mapping):
        return dict(outputs)
    if dataclasses.is_dataclass(outputs):
        return {field.name: getattr(outputs, field.name) for field in dataclasses.fields(outputs)}
    if isinstance(outputs, (tuple, list)):
        named = {name: getattr(outputs, name) for name in getattr(outputs, "_fields", ())}
        return named | dict(enumerate(outputs))
    return {"logits": outputs.logits} if hasattr(outputs, "logits") else {}
