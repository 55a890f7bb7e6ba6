"""The only loop over the networks that a posterior draws. `predict`, `pack` and the mean of a run consume it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bitbayes.batchnorm import Batches, Weights, refresh
from bitbayes.posterior import Posterior


def unwrapped(model: nn.Module, names: Collection[str] | None = None) -> nn.Module:
    """Return the network inside torch.compile or DistributedDataParallel.

    Args:
        model: Any module.
        names: Names of parameters. If given, unwrapping stops at the first module that has them all, and the model
            itself is returned if no module has.
    """
    inside: Any = model
    while names is None or not set(names) <= {name for name, _ in inside.named_parameters(remove_duplicate=False)}:
        if isinstance(inside, nn.parallel.DistributedDataParallel):
            inside = inside.module
        elif isinstance(getattr(inside, "_orig_mod", None), nn.Module):
            inside = inside._orig_mod
        else:
            return inside if names is None else model
    return inside


@torch.no_grad()
def drawn_networks(
    model: nn.Module, posterior: Posterior | None, samples: int, *, seed: int = 0, batches: Batches | None = None
) -> Iterator[Weights]:
    """Yield the weights of each network, by the names of the parameters that they replace.

    Draws reuse their memory, so weights are overwritten when the next network is asked for. Under autocast, weights
    that its type holds exactly are drawn in that type.

    Args:
        model: Network in eval mode. With `batches`, its BatchNorm statistics become those of each network in turn;
            `bitbayes.batchnorm.as_found` restores them.
        posterior: Posterior over the binary parameters. None yields one network, which replaces no weight.
        samples: Number of networks to draw.
        seed: Seed of the draws.
        batches: Training batches from which each network's BatchNorm statistics are estimated.

    Raises:
        ValueError: If the names or shapes of the posterior are not those of the model.
    """
    reusable = None if batches is None else list(batches)
    for weights in [{}] if posterior is None else _draws(model, posterior, samples, seed):
        if reusable is not None:
            refresh(model, reusable, weights)
        yield weights


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
    """Autocast's type if it holds the weights exactly, because autocast would round to it anyway."""
    device = parameter.device.type
    if parameter.dtype == torch.float32 and torch.is_autocast_enabled(device) and bool((scale == 1).all()):
        return torch.get_autocast_dtype(device)
    return parameter.dtype


def complete_states(model: nn.Module, networks: Iterable[Weights]) -> Iterator[Weights]:
    """Yield all parameters and buffers by name, of each network of `drawn_networks`."""
    named = dict(model.named_parameters(remove_duplicate=False))
    for weights in networks:
        # A tied weight has several names, but is drawn under one of them.
        drawn = {named[name]: weight.to(named[name]) for name, weight in weights.items()}
        parameters = {name: drawn.get(parameter, parameter) for name, parameter in named.items()}
        yield {**parameters, **dict(model.named_buffers(remove_duplicate=False))}


def network_outputs(model: nn.Module, weights: Weights, x: Tensor, chunk: int | None) -> Tensor:
    """Return the outputs of one network, shape (N, K), in float32 or float64.

    Args:
        model: Network in eval mode.
        weights: Parameters and buffers by name, in the place of the model's.
        x: Inputs, shape (N, ...).
        chunk: Number of inputs at a time; None for all at once.
    """
    pieces = [functional_call(model, weights, (piece,)) for piece in x.split(chunk or max(len(x), 1))]
    outputs = torch.cat(pieces)
    outputs = outputs if outputs.dtype == torch.float64 else outputs.float()
    return outputs[:, None] if outputs.dim() == 1 else outputs
