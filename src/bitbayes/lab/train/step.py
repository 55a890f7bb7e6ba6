"""One training step: the gradient, the beliefs, the real parameters."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from bitbayes.lab.train.config import RunConfig
from bitbayes.lab.train.experiment import Experiment
from bitbayes.lab.train.measure import autocast
from bitbayes.rules.refusals import NotFiniteError

__all__ = ["training_step"]


def training_step(
    config: RunConfig, experiment: Experiment, x: Tensor, y: Tensor, share: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Takes a gradient at the current draw (or at several), and updates everything that learns.

    Args:
        config: The run.
        experiment: Its objects.
        x: Inputs of the batch.
        y: Targets of the batch.
        share: Examples of this rank over the mean of all ranks: averaged gradients are those of the whole batch.

    Returns:
        Mean loss over the draws (times `share`), and the number of right predictions at the last; both on the device.

    Raises:
        NotFiniteError: If the loss or a gradient is not finite (on a GPU the caller looks at the losses instead).
    """
    optimizer, real = experiment.optimizer, experiment.real_optimizer
    right = torch.zeros((), device=x.device)

    sums = _Sums(real) if real is not None and optimizer is not None and config.spec.samples > 1 else None

    def closure() -> Tensor:
        nonlocal right
        for part in (optimizer, real):
            if part is not None:
                part.zero_grad()
        loss, right = _passes(config, experiment, x, y, share)
        if experiment.hooks is not None:
            experiment.hooks.before_update()
        if config.spec.clip_gradient is not None:
            torch.nn.utils.clip_grad_norm_(experiment.model.parameters(), config.spec.clip_gradient)
        if sums is not None:
            sums.add(1 / config.spec.samples)
        return loss

    loss = closure() if optimizer is None else optimizer.step(closure)
    assert loss is not None  # there is a closure
    if real is not None:
        if sums is not None:
            sums.put()
        real.step()
    if experiment.hooks is not None:
        experiment.hooks.after_update()
    return loss, right


def _passes(config: RunConfig, experiment: Experiment, x: Tensor, y: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Adds the gradients of a batch, part after part; returns its loss and the number of right predictions."""
    count = min(config.accumulate, max(len(x) // 2, 1))  # BatchNorm needs two examples
    losses, hits = [], []
    for index, (inputs, targets) in enumerate(zip(x.tensor_split(count), y.tensor_split(count), strict=True), start=1):
        with nullcontext() if index == count else experiment.ranks.alone(experiment.parallel):
            with autocast(x.device, config.precision):
                output = experiment.parallel(inputs)
            loss = share * (len(inputs) / len(x)) * experiment.loss.mean(output.float(), targets)
            if x.device.type == "cpu" and not config.capture and not loss.isfinite():
                raise NotFiniteError("the loss is not finite")
            loss.backward()
        losses.append(loss.detach())
        hits.append(experiment.loss.hit_count(output.detach(), targets))
    return torch.stack(losses).sum(), torch.stack(hits).sum()


class _Sums:
    """Gradients of the real parameters over several draws, each of which is clipped on its own."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self._sums: dict[Tensor, Tensor] = {}

    def add(self, share: float) -> None:
        """Adds the gradients at hand, times a share."""
        for parameter in self._parameters:
            if parameter.grad is not None:
                before = self._sums.get(parameter)
                mine = parameter.grad * share
                self._sums[parameter] = mine if before is None else before.add_(mine)

    def put(self) -> None:
        """Leaves the sums where the optimizer looks for gradients."""
        for parameter, total in self._sums.items():
            parameter.grad = total
