"""The mode of a network and its BatchNorm statistics, which the callbacks of all trainers write."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bitbayes.batchnorm import refresh_batchnorm
from bitbayes.rules.joint import JointOptimizer
from bitbayes.rules.optimizer import BinaryOptimizer
from bitbayes.rules.shards import reshard

Switchable = BinaryOptimizer | JointOptimizer


def write_mode(model: nn.Module, optimizer: Switchable, batches: Iterable[Any] | None) -> None:
    """Write the mode into the parameters and re-estimate the BatchNorm statistics for it.

    The state of torch's random numbers on the CPU stays as it is, so that training goes on as without an evaluation
    even if `batches` are shuffled.

    Args:
        model: The network.
        optimizer: Its optimizer.
        batches: Batches of training inputs for `bitbayes.refresh_batchnorm`, on any device; None keeps the statistics.

    Example:
        >>> norm = torch.nn.BatchNorm1d(1)
        >>> model = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False), norm)
        >>> optimizer = bb.STE([model[0].weight], seed=0)
        >>> write_mode(model, optimizer, [torch.tensor([[1.0], [3.0]])])
        >>> optimizer.training, norm.running_mean.abs()
        (False, tensor([2.]))
    """
    optimizer.eval()
    reshard(model)
    if batches is not None:
        device = next(model.parameters()).device
        with torch.random.fork_rng(devices=[]):
            refresh_batchnorm(model, (_moved(batch, device) for batch in batches))


def _moved(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, Mapping):
        return {key: _moved(part, device) for key, part in batch.items()}
    if isinstance(batch, (tuple, list)):
        return tuple(_moved(part, device) for part in batch)
    return batch.to(device) if isinstance(batch, Tensor) else batch
