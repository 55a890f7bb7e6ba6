"""Parameters and buffers of the networks that a file is to hold, one network after the other."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from bitbayes.batchnorm import refresh_batchnorm
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
) -> Generator[dict[str, Tensor], None, None]:
    """Parameters and buffers by name, of what the network holds or of each network drawn.

    A state is good until the next is asked for. After the last one, or when the iterator is closed, the model is as
    before.

    Args:
        model: The network, in eval mode.
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
    changed = [named[name] for name in posterior.shapes] if posterior is not None else []
    changed += list(model.buffers()) if reusable is not None else []
    before = [(tensor, tensor.clone()) for tensor in changed]
    try:
        for index in range(1 if posterior is None else samples):
            if posterior is not None:
                for name, weights in posterior.sample_at(index, seed=seed).items():
                    named[name].copy_(weights)
            if reusable is not None:
                refresh_batchnorm(model, reusable)
            yield {**named, **dict(model.named_buffers(remove_duplicate=False))}
    finally:
        for tensor, value in before:
            tensor.copy_(value)
