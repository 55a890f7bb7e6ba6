"""Precision of a run: float32, or bfloat16 with binary weights in bfloat16 if that changes no number."""

from __future__ import annotations

import timeit
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

from bitbayes.lab.train.config import RunConfig
from bitbayes.lab.train.experiment import Experiment


def choose_precision(wanted: str, device: torch.device) -> str:
    """Return "fp32" or "bf16"; "auto" selects bfloat16 only if a probe of a few milliseconds finds it faster.

    Without hardware support, bfloat16 is emulated.

    Example:
        >>> choose_precision("fp32", torch.device("cpu"))
        'fp32'
    """
    if wanted != "auto":
        return wanted

    def seconds(dtype: torch.dtype) -> float:
        a = torch.ones(2048, 2048, device=device, dtype=dtype)
        b = torch.ones(2048, 100, device=device, dtype=dtype)
        return min(timeit.repeat(lambda: float((a @ b)[0, 0]), number=1, repeat=6))  # float() waits for the device

    return "bf16" if seconds(torch.float32) >= 1.3 * seconds(torch.bfloat16) else "fp32"


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Return the context of a forward pass in "fp32" or "bf16"."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()


@contextmanager
def bfloat16_weights(config: RunConfig, experiment: Experiment) -> Iterator[None]:
    """Keep the binary weights in bfloat16, if that saves time and changes no number.

    In a bfloat16 run, autocast rounds float32 weights in every forward pass and widens their gradients in every
    backward pass. If draws are ±1, weights in bfloat16 are the same numbers, and so are their gradients. Both
    conversions are then unnecessary, and half as much memory is read and written. Beliefs stay float32. Afterwards, the
    weights are float32 again. Gradients of these weights are cleared before and after.
    """
    weights = _exact(config, experiment)
    _convert(weights, torch.bfloat16)
    try:
        yield
    finally:
        _convert(weights, torch.float32)


def _exact(config: RunConfig, experiment: Experiment) -> list[nn.Parameter]:
    """Return the weights that bfloat16 represents exactly; none if their gradients are accumulated or divided."""
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
