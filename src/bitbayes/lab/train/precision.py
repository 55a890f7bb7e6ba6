"""What a run computes in: float32, or bfloat16 with its binary weights in bfloat16 where that changes no number."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from bitbayes.lab.train.config import RunConfig
from bitbayes.lab.train.experiment import Experiment

__all__ = ["choose_precision", "held"]


def choose_precision(wanted: str, device: torch.device) -> str:
    """Picks bfloat16 only where it is measurably faster: without hardware for it, it is emulated.

    Args:
        wanted: "fp32", "bf16", or "auto" for a probe of a few milliseconds.
        device: Where the run computes.

    Returns:
        "fp32" or "bf16".

    Example:
        >>> choose_precision("fp32", torch.device("cpu"))
        'fp32'
    """
    if wanted != "auto":
        return wanted
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.ones(2048, 2048, device=device, dtype=dtype)
        b = torch.ones(2048, 100, device=device, dtype=dtype)
        best = float("inf")
        for _ in range(6):
            start = time.perf_counter()
            float((a @ b)[0, 0])  # waits for the device
            best = min(best, time.perf_counter() - start)
        seconds[dtype] = best
    return "bf16" if seconds[torch.float32] >= 1.3 * seconds[torch.bfloat16] else "fp32"


@contextmanager
def held(config: RunConfig, experiment: Experiment) -> Iterator[None]:
    """Holds the binary weights in bfloat16, where that saves time and changes no number.

    In a run in bfloat16, autocast rounds weights of float32 in every forward pass and widens their gradients in every
    backward pass. Where the draws are ±1, weights in bfloat16 are the same numbers, and so are their gradients: both
    conversions go, and what is read and written is half. Beliefs are float32 as ever. Afterwards the weights are
    float32 again.

    Args:
        config: The run, with the precision that was chosen.
        experiment: Its objects; what these weights have of gradients is cleared before and after.

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
    changed = config.accumulate > 1 or config.spec.clip_gradient is not None or experiment.hooks is not None
    if optimizer is None or config.precision != "bf16" or changed or experiment.ranks.count > 1:
        return []
    groups = [group for group in optimizer.param_groups if optimizer.hard(group) and group["scale"] == "one"]
    return [parameter for group in groups for parameter in group["params"] if parameter.dtype == torch.float32]


def _convert(weights: list[nn.Parameter], dtype: torch.dtype) -> None:
    for parameter in weights:
        parameter.grad = None
        parameter.data = parameter.data.to(dtype)
