"""Accuracy and likelihood of what a network's parameters hold, and of the mean prediction."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bitbayes.batchnorm import as_found, refresh_batchnorm
from bitbayes.lab.data import TensorData, batches
from bitbayes.lab.train.distributed import Ranks
from bitbayes.lab.train.experiment import Experiment
from bitbayes.lab.train.losses import Loss
from bitbayes.posterior import Posterior

__all__ = [
    "Measured",
    "autocast",
    "flipped",
    "histogram",
    "measure",
    "mode_signs",
    "mode_weights",
    "refresh_inputs",
    "refresh_with",
    "whole",
]

_REFRESH_SIZE = 500
_TEST_SIZE = 1000


@dataclass(frozen=True)
class Measured:
    """One pass over some data.

    Args:
        loss: Mean loss: the negative log-likelihood for classes, the squared error for regression.
        accuracy: Percent; None for regression.
    """

    loss: float
    accuracy: float | None


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """The context of a forward pass.

    Args:
        device: Where it runs.
        precision: "fp32" or "bf16".

    Returns:
        A context manager.
    """
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


@torch.no_grad()
def measure(model: nn.Module, data: TensorData, loss: Loss, precision: str = "fp32") -> Measured:
    """Evaluates what the parameters hold now, with BatchNorm and dropout in eval mode.

    Args:
        model: The network; its mode is restored.
        data: The examples.
        loss: Kind of the loss.
        precision: "fp32" or "bf16".

    Returns:
        Mean loss and accuracy.
    """
    ranks = Ranks.here()
    pieces = torch.arange(len(data)).split(_TEST_SIZE)
    was_training = model.training
    model.eval()
    found = torch.zeros(3, dtype=torch.float64)  # loss, hits, examples
    try:
        for x, y in data.batches(pieces[ranks.rank :: ranks.count]):
            with autocast(x.device, precision):
                output = model(x)
            output = output.float()
            right = loss.hit_count(output, y)
            parts = loss.mean(output, y) * len(x), right, torch.full_like(right, len(x))
            found = found.to(x.device) + torch.stack([part.double() for part in parts])
    finally:
        model.train(was_training)
    total, hits, count = ranks.total(found).tolist()
    return Measured(total / count, 100 * hits / count if loss.classifies else None)


def whole(data: TensorData) -> tuple[Tensor, Tensor]:
    """All inputs and targets of a data set at once, ready for a network.

    Args:
        data: The examples.

    Returns:
        Inputs and targets.
    """
    pairs = list(batches(data, _TEST_SIZE))
    return torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])


def refresh_inputs(experiment: Experiment, count: int) -> Iterator[Tensor]:
    """Inputs of the first batches of a fixed shuffle of the training data.

    Args:
        experiment: Whose training data.
        count: Number of batches of 500.

    Yields:
        Inputs; a last batch that is not full only if it is the only one.
    """
    data = experiment.data.train
    whole = max(1, len(data) // _REFRESH_SIZE)
    stream = batches(data, _REFRESH_SIZE, seed=0, epoch=0, shuffle=True)
    for x, _ in itertools.islice(stream, min(count, whole)):
        yield x


def refresh_with(model: nn.Module, inputs: Iterator[Tensor], precision: str, device: torch.device) -> None:
    """`refresh_batchnorm` in the precision of the run.

    Args:
        model: The network.
        inputs: Batches of inputs.
        precision: "fp32" or "bf16".
        device: Where it runs.
    """
    with autocast(device, precision):
        refresh_batchnorm(model, inputs)


@contextlib.contextmanager
def mode_weights(experiment: Experiment, count: int, precision: str) -> Iterator[nn.Module]:
    """The mode with its own BatchNorm statistics, for a while; training goes on as if nothing had happened.

    Args:
        experiment: The network and its rule.
        count: Training batches for the statistics.
        precision: "fp32" or "bf16".

    Yields:
        The model in eval mode.
    """
    model, optimizer = experiment.model, experiment.optimizer
    with as_found(model):
        if optimizer is not None:
            optimizer.eval()
        try:
            refresh_with(model, refresh_inputs(experiment, count), precision, experiment.device)
            yield model
        finally:
            if optimizer is not None:
                optimizer.train()


def mode_signs(experiment: Experiment) -> list[Tensor]:
    """Signs of the mode; the parameters hold draws before and after.

    Args:
        experiment: The network and its rule.

    Returns:
        One boolean tensor for every binary tensor; none for full precision.
    """
    optimizer = experiment.optimizer
    if optimizer is None:
        return []
    optimizer.eval()
    signs = [parameter.detach() > 0 for _, parameter in optimizer.named_binary()]
    optimizer.train()
    return signs


def flipped(before: list[Tensor], after: list[Tensor]) -> float | None:
    """Share of the binary weights whose sign differs.

    Args:
        before: Of `mode_signs`.
        after: The same, later.

    Returns:
        Between 0 and 1; None without binary weights.

    Example:
        >>> flipped([torch.tensor([True, False])], [torch.tensor([True, True])])
        0.5
    """
    count = sum(signs.numel() for signs in after)
    changed = sum(int((a != b).sum()) for a, b in zip(after, before, strict=True))
    return changed / count if count else None


def histogram(posterior: Posterior, bins: int) -> list[float]:
    """How the weights are spread over their probabilities.

    Args:
        posterior: Of any rule.
        bins: Equal parts of [0, 1].

    Returns:
        Percent of the weights in each part of P[w = +1].

    Example:
        >>> histogram(bb.BernoulliPosterior({"w": torch.tensor([-9.0, 0.0, 0.0, 9.0])}), 4)
        [25.0, 0.0, 50.0, 25.0]
    """
    counts = torch.zeros(bins, dtype=torch.float64)
    for probability in posterior.probabilities().values():
        counts += torch.histc(probability.float(), bins=bins, min=0.0, max=1.0).cpu().double()
    return (100 * counts / counts.sum()).tolist()
