"""BatchNorm's running statistics, which fit the networks that they were gathered under and hardly any other."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["Batches", "as_found", "batch_buffers", "evaluating", "refresh", "refresh_batchnorm"]

Batches = Iterable[Any]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode; afterwards every module's mode is as before.

    Modules are set one by one, because `model.eval()` may switch an optimizer along (`bitbayes.follow`), and the
    parameters must stay what they are.

    Args:
        model: The network.

    Yields:
        Nothing.
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
    """Eval mode; afterwards every module's mode and every buffer are as before.

    Args:
        model: The network.

    Yields:
        Nothing.

    Example:
        >>> norm = torch.nn.BatchNorm1d(1)
        >>> with as_found(norm):
        ...     refresh_batchnorm(norm, [torch.tensor([[1.0], [3.0]])])
        >>> norm.running_mean, norm.training
        (tensor([0.]), True)
    """
    # By their places, because a forward pass may put another tensor there.
    buffers = [
        (module, name, buffer, None if buffer is None else buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
    ]
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
    """Re-estimates the running statistics of every BatchNorm for what the parameters hold now.

    Training gathers them under draws, which can be far from those of the mode. Here they are the plain average over
    the given batches, with dropout off. Modes and momenta are left as they were, and
    the statistics too if a batch fails.

    Args:
        model: The network.
        batches: Batches of training inputs: x, or tuples (x, ...). Best of some hundred examples each.

    Raises:
        ValueError: If there are BatchNorm layers and no batch.
        TypeError: If what comes are not batches of tensors.

    Example:
        >>> norm = torch.nn.BatchNorm1d(1)
        >>> refresh_batchnorm(norm, [torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0], [7.0]])])
        >>> norm.running_mean
        tensor([4.])
    """
    with evaluating(model):
        refresh(model, batches, {})


def refresh(model: nn.Module, batches: Batches, weights: dict[str, Tensor]) -> None:
    """`refresh_batchnorm` for other weights than the model's, which is in eval mode before and after.

    Args:
        model: The network.
        batches: Of training inputs.
        weights: By the names of the parameters that they replace.
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
        for batch in itertools.chain([first], stream):
            x = batch[0] if isinstance(batch, (tuple, list)) else batch
            if not isinstance(x, Tensor):
                raise TypeError(f"a batch must be inputs x, or a tuple (x, ...), got {type(x).__name__}")
            functional_call(model, weights, (x,))
    except BaseException:  # Ctrl-C too: half an average would be a silent wrong number
        for buffer, value in before:
            buffer.copy_(value)
        raise
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.training = False


def batch_buffers(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the statistics of all BatchNorm layers.

    Args:
        model: The network.

    Returns:
        Their buffers, by the names that they have in the network.
    """
    return {
        f"{name}.{key}" if name else key: buffer.clone()
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm)
        for key, buffer in module.named_buffers()
    }
