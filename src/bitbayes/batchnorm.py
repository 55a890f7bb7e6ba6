"""Re-estimation of BatchNorm's running statistics, which suit only the weights they were estimated with."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import TensorDataset

Batches = Iterable[Any]
Weights = dict[str, Tensor]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a network into eval mode temporarily and restore the mode of every module.

    Modules are switched one by one, because `model.eval()` may also switch an optimizer (`bitbayes.follow`), and the
    parameters must not change.
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
    """Put a network into eval mode temporarily and restore every module's mode and every buffer.

    Example:
        >>> norm = torch.nn.BatchNorm1d(1)
        >>> with as_found(norm):
        ...     refresh_batchnorm(norm, [torch.tensor([[1.0], [3.0]])])
        >>> norm.running_mean, norm.training
        (tensor([0.]), True)
    """
    # Buffers are found by module and name, because a forward pass may replace the tensor.
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
    """Re-estimate the running statistics of every BatchNorm layer for the weights that the parameters hold.

    During training, BatchNorm averages statistics over posterior samples, whose activations can differ strongly from
    those of the mode. This function replaces them by the plain average over the given batches, with dropout off. The
    training mode and momentum of every layer stay unchanged. If a batch raises an error, the old statistics are
    restored.

    Args:
        model: Network.
        batches: Batches of training inputs: tensors x, tuples (x, ...), or mappings of keyword arguments. Batches of a
            few hundred examples work best.

    Raises:
        ValueError: If there are BatchNorm layers but no batches, or a batch has one example where BatchNorm needs two.
        TypeError: If a batch is neither a tensor, nor a tuple that begins with a tensor, nor a mapping.

    Example:
        >>> norm = torch.nn.BatchNorm1d(1)
        >>> refresh_batchnorm(norm, [torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0], [7.0]])])
        >>> norm.running_mean
        tensor([4.])
    """
    with evaluating(model):
        refresh(model, batches, {})


def check_batches(batches: Batches) -> None:
    """Raise TypeError for a tensor or a data set, which is an iterable of examples."""
    if isinstance(batches, Tensor):
        raise TypeError("batches must be an iterable of batches, got one tensor; to pass a single batch, use [x]")
    if isinstance(batches, TensorDataset):
        raise TypeError("batches must be an iterable of batches, got a TensorDataset; use a DataLoader of it")


def refresh(model: nn.Module, batches: Batches, weights: Weights | Iterator[Weights]) -> None:
    """Re-estimate BatchNorm statistics for weights other than the model's own; the model stays in eval mode.

    Args:
        model: Network.
        batches: Batches of training inputs.
        weights: Weights by the names of the parameters that they replace, or an iterator that yields such weights for
            each batch.
    """
    check_batches(batches)
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
            norm.momentum = None  # makes torch compute the plain average
        each = itertools.repeat(weights) if isinstance(weights, dict) else weights
        for batch, replaced in zip(itertools.chain([first], stream), each, strict=False):
            if isinstance(batch, Mapping):
                arguments, named = (), dict(batch)
            else:
                x, named = batch[0] if isinstance(batch, (tuple, list)) else batch, {}
                if not isinstance(x, Tensor):
                    raise TypeError(f"a batch must be inputs x, (x, ...) or keyword arguments, got {type(x).__name__}")
                arguments = (x,)
            with _several_examples():
                functional_call(model, replaced, arguments, named)
    except BaseException:  # also on Ctrl-C: half an average would be silently wrong
        for buffer, value in before:
            buffer.copy_(value)
        raise
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.training = False


@contextmanager
def _several_examples() -> Iterator[None]:
    """Replace BatchNorm's error about a single example by one that says what to do."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        advice = "leave that batch out, or choose another batch size"
        raise ValueError(f"BatchNorm needs at least two examples in a batch, got one; {advice}") from error


def batch_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of the buffers of all BatchNorm layers by their names in the network."""
    norms = [(name, module) for name, module in model.named_modules() if isinstance(module, _BatchNorm)]
    return {key: buffer.clone() for name, norm in norms for key, buffer in norm.named_buffers(name)}
