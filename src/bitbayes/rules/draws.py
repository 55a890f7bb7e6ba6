"""Several draws a step: the closure at each of them, and the mean of what they say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bitbayes.rules import engine, scales

if TYPE_CHECKING:
    from bitbayes.rules.optimizer import BinaryOptimizer


@dataclass
class Mean:
    """What the draws say of one tensor.

    Args:
        estimate: Mean of the rule's estimates.
        slope: Mean gradient of the logarithm of its scale; None if none is learned.
    """

    estimate: Tensor
    slope: Tensor | None


@dataclass
class Means:
    """What the draws say of all tensors.

    Args:
        of: By tensor; those without a gradient are left out.
        accept: 0-d bool on the device, whether all gradients were finite; None: yes.
    """

    of: dict[Tensor, Mean]
    accept: Tensor | None = None


def over(optimizer: BinaryOptimizer, closure: Callable[[], Tensor]) -> tuple[Tensor, Means | None]:
    """Calls the closure at each draw of a step.

    Args:
        optimizer: Whose draws; it holds the first one, and the last one afterwards. Nothing of it is learned here.
        closure: See `BinaryOptimizer.step`.

    Returns:
        The mean loss, and the mean over the draws; None if there is only one.

    Raises:
        RuntimeError: If a gradient is not finite. The weights are then those of before the call.
    """
    samples = optimizer.param_groups[0]["samples"]
    losses = [_loss(closure)]
    if samples == 1:
        return losses[0], None
    means = Means({})
    try:
        for sample in range(samples):
            if sample > 0:
                with torch.no_grad():
                    optimizer._show_all(sample)
                losses.append(_loss(closure))
            _add(optimizer, means, sample, samples)
    except BaseException:
        with torch.no_grad():
            optimizer._show_all()
        raise
    return torch.stack([loss.detach() for loss in losses]).mean(), means


def _loss(closure: Callable[[], Tensor]) -> Tensor:
    with torch.enable_grad():
        loss = closure()
    if not isinstance(loss, Tensor):
        raise TypeError(f"the closure must return the loss as a tensor, got {type(loss).__name__}; see step()")
    return loss


@torch.no_grad()
def _add(optimizer: BinaryOptimizer, means: Means, sample: int, samples: int) -> None:
    accept = optimizer._accept()
    means.accept = accept if means.accept is None or accept is None else means.accept & accept
    for index, (group, _, parameter) in enumerate(optimizer._places()):
        if parameter.grad is None:
            continue
        belief, state = optimizer._belief(parameter), optimizer.state[parameter]
        o = optimizer._options(group, state["step"] + 1, parameter)
        noise = optimizer._noise(group, parameter, index, sample)
        mean = means.of.get(parameter)
        with scales.unit(parameter, state) as weights:
            gradient = scales.unit_gradient(parameter.grad, state)
            slope = scales.slope(parameter, state, weights, gradient)
            how = samples, None if mean is None else mean.estimate
            estimate = engine.accumulate(type(optimizer), belief, gradient, weights, o, noise, *how)
        if slope is not None:
            slope = slope / samples if mean is None or mean.slope is None else mean.slope + slope / samples
        means.of[parameter] = Mean(estimate, slope)
