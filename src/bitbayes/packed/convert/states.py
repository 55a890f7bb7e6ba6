"""Parameters and buffers of the networks that a file is to hold, one network after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from bitbayes.batchnorm import refresh
from bitbayes.posterior import Posterior

__all__ = ["inside", "states"]


def inside(model: nn.Module) -> nn.Module:
    """The network inside torch.compile or DistributedDataParallel, which torch.export and a posterior know.

    Args:
        model: Any module.

    Returns:
        The module that they wrap.
    """
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


@torch.no_grad()
def states(
    model: nn.Module, posterior: Posterior | None, samples: int, seed: int, batches: Iterable[Any] | None
) -> Iterator[dict[str, Tensor]]:
    """Parameters and buffers by name, of what the network holds or of each network drawn.

    A state is good until the next is asked for.

    Args:
        model: The network, in eval mode; its BatchNorm statistics become those of the last network (see `as_found`).
        posterior: Over its binary parameters; None for what they hold.
        samples: Number of networks to draw.
        seed: Seed of the draws.
        batches: Training batches for BatchNorm's statistics; None for the model's.

    Yields:
        The state of one network.

    Raises:
        ValueError: If the posterior's names or shapes are not the model's.
    """
    named = dict(model.named_parameters(remove_duplicate=False))
    if posterior is not None:
        posterior.check_like({name: p.shape for name, p in named.items() if name in posterior.shapes}, "the model")
    reusable = None if batches is None else list(batches)
    weights: dict[str, Tensor] | None = None
    for index in range(1 if posterior is None else samples):
        weights = {} if posterior is None else posterior.sample_at(index, seed=seed, out=weights)
        drawn = {name: tensor.to(named[name]) for name, tensor in weights.items()}
        if reusable is not None:
            refresh(model, reusable, drawn)
        instead = {named[name]: tensor for name, tensor in drawn.items()}  # a tied weight has several names
        held = {name: instead.get(parameter, parameter) for name, parameter in named.items()}
        yield {**held, **dict(model.named_buffers(remove_duplicate=False))}
