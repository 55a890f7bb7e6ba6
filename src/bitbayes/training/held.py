"""Binary weights in bfloat16 while a run goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from bitbayes.training.config import RunConfig
from bitbayes.training.experiment import Experiment

__all__ = ["held"]


@contextmanager
def held(config: RunConfig, experiment: Experiment) -> Iterator[None]:
    """Holds the binary weights in bfloat16, where that saves time and changes no number.

    In a run in bfloat16, autocast rounds weights of float32 in every forward pass and widens their gradients in every
    backward pass. Where the draws are ±1, weights in bfloat16 are the same numbers, and so are their gradients: both
    conversions go, and what is read and written is half. Beliefs are float32 as ever. Afterwards the weights are
    float32 again.

    Args:
        config: The run, with the precision that was chosen.
        experiment: Its objects; its parameters have no gradients before and after.

    Yields:
        Nothing.
    """
    weights = _exact(config, experiment)
    _convert(weights, torch.bfloat16)
    try:
        yield
    finally:
        _convert(weights, torch.float32)


def _exact(config: RunConfig, experiment: Experiment) -> list[nn.Parameter]:
    """The weights that bfloat16 holds exactly; none where something is added to their gradients, or divides them."""
    optimizer = experiment.optimizer
    changed = config.accumulate > 1 or config.clip_gradient is not None or experiment.hooks is not None
    if optimizer is None or config.precision != "bf16" or changed or experiment.ranks.count > 1:
        return []
    groups = [group for group in optimizer.param_groups if optimizer.hard(group) and group["scale"] == "one"]
    return [parameter for group in groups for parameter in group["params"] if parameter.dtype == torch.float32]


def _convert(weights: list[nn.Parameter], dtype: torch.dtype) -> None:
    for parameter in weights:
        parameter.grad = None
        parameter.data = parameter.data.to(dtype)
