"""BatchNorm's running statistics, which fit the networks that they were estimated with and hardly any other."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

Batches = Iterable[Any]
Weights = dict[str, Tensor]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a network into eval mode for a while, and restore the mode of every module.

    Modules are set one by one, because `model.eval()` may switch an optimizer along (`bitbayes.follow`), and the
    parameters must stay what they are.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def as_found(model: nn.Module) -> Iterator[None]:
    """Put a network into eval mode for a while, and restore every module's mode and every buffer.

    Example:
        >>> norm = torch.nn.BatchNorm1d(1)
        >>> with as_found(norm):
        ...     refresh_batchnorm(norm, [torch.tensor([[1.0], [3.0]])])
        >>> norm.running_mean, norm.training
        (tensor([0.]), True)
    """
    # Buffers are found by their places, because a forward pass may put another tensor there.
    places = [(module, *place) for module in model.modules() for place in module._buffers.items()]
    buffers = [(*place, None if place[-1] is None else place[-1].clone()) for place in places]
    with evaluating(model):
        try:
            yield
        finally:
            for module, name, buffer, value in buffers:
                module._buffers[name] = buffer
                if buffer is not None and value is not None:
                    with torch.no_grad():
                        buffer.copy_(value)


@torch.no_grad()
def refresh_batchnorm(model: nn.Module, batches: Batches) -> None:
    """Estimate the running statistics of every BatchNorm layer anew, for the weights that the parameters hold.

    Training gathers the statistics under draws, whose activations can be far from those of the mode. This function
    replaces them by the plain average over the given batches, with dropout off. Modes and momenta stay as they are. If
    a batch fails, the old statistics stay too.

    Args:
        model: Network.
        batches: Batches of training inputs, x or tuples (x, ...), best with some hundred examples each.

    Raises:
        ValueError: If there are BatchNorm layers and no batch.
        TypeError: If a batch is neither a tensor nor a tuple that begins with one.

    Example:
        >>> norm = torch.nn.BatchNorm1d(1)
        >>> refresh_batchnorm(norm, [torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0], [7.0]])])
        >>> norm.running_mean
        tensor([4.])
    """
    with evaluating(model):
        refresh(model, batches, {})


def refresh(model: nn.Module, batches: Batches, weights: Weights | Iterator[Weights]) -> None:
    """`refresh_batchnorm` for other weights than the model's, which is in eval mode before and after.

    Args:
        model: Network.
        batches: Batches of training inputs.
        weights: Weights by the names of the parameters that they replace; or an iterator of weights, to take the next
            for each batch.
    """
    if isinstance(batches, Tensor):
        raise TypeError("batches must be an iterable of batches, got one tensor; for one batch pass [x]")
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not norms:
        return
    stream = iter(batches)
    try:
        first = next(stream)
    except StopIteration:
        raise ValueError("refresh_batchnorm needs at least one batch of training inputs, got none") from None
    momenta = [norm.momentum for norm in norms]
    before = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers(recurse=False)]
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.training = True
            norm.momentum = None  # torch's name for the plain average
        each = itertools.repeat(weights) if isinstance(weights, dict) else weights
        for batch, replaced in zip(itertools.chain([first], stream), each, strict=False):
            x = batch[0] if isinstance(batch, (tuple, list)) else batch
            if not isinstance(x, Tensor):
                raise TypeError(f"a batch must be inputs x, or a tuple (x, ...), got {type(x).__name__}")
            functional_call(model, replaced, (x,))
    except BaseException:  # Ctrl-C too: half an average would be a silent wrong number
        for buffer, value in before:
            buffer.copy_(value)
        raise
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.training = False


def batch_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of the buffers of all BatchNorm layers, by the names that they have in the network."""
    norms = [(name, module) for name, module in model.named_modules() if isinstance(module, _BatchNorm)]
    return {key: buffer.clone() for name, norm in norms for key, buffer in norm.named_buffers(name)}
