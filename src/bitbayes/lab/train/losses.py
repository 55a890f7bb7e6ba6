"""Training losses, with their criteria of correct predictions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Metric = Literal["accuracy", "error", "bits"]
OfBatch = Callable[[Tensor, Tensor], Tensor]  # function from outputs and targets to a scalar


@dataclass(frozen=True)
class Loss:
    """Training loss with its criterion of correct predictions.

    Args:
        name: Name in files and messages.
        mean: Function from outputs and targets to the mean loss of a batch, a scalar.
        hits: Function from outputs and targets to the number of correct predictions, a scalar on the device; None where
            predictions are neither correct nor wrong.
        text: Whether targets are the next bytes of a text. The mean loss, in nats per byte, is then reported in bits.

    Example:
        >>> logits, classes = torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1])
        >>> CROSS_ENTROPY.hit_count(logits, classes), SQUARED.classifies
        (tensor(1), False)
    """

    name: str
    mean: OfBatch
    hits: OfBatch | None = None
    text: bool = False

    @property
    def metric(self) -> Metric:
        """Figure that measures predictions: accuracy, squared error, or bits per byte of a text."""
        return "accuracy" if self.hits is not None else "bits" if self.text else "error"

    @property
    def classifies(self) -> bool:
        """Whether targets are classes, so that accuracy is defined."""
        return self.metric == "accuracy"

    def smoothed(self, output: Tensor, target: Tensor, smoothing: float) -> Tensor:
        """Return the mean loss with a share of each target moved to the uniform distribution over the classes.

        Args:
            output: Logits, shape (N, K).
            target: Classes, shape (N,).
            smoothing: Share, in [0, 1). At 0, the result is `mean`.

        Example:
            >>> logits, target = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
            >>> CROSS_ENTROPY.smoothed(logits, target, 0.2), F.cross_entropy(logits, target, label_smoothing=0.2)
            (tensor(0.3269), tensor(0.3269))
        """
        mean = self.mean(output, target)
        if not smoothing:
            return mean
        return (1 - smoothing) * mean - smoothing * output.log_softmax(-1).mean()

    def hit_count(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the number of correct predictions as a scalar on the device; zero if there is no such number."""
        return output.new_zeros(()) if self.hits is None else self.hits(output, target)


def within_pair(output: Tensor, target: Tensor) -> Tensor:
    """Mask logits (N, K) with -inf so that a class competes only with its neighbour: 0 with 1, 2 with 3, and so on."""
    pair = torch.arange(output.shape[1], device=output.device) // 2
    return output.masked_fill(pair != target.unsqueeze(1) // 2, -torch.inf)


def _outlier_exposure(output: Tensor, target: Tensor) -> Tensor:
    log_probs = output.log_softmax(1)
    known = log_probs.gather(1, target.clamp(min=0).unsqueeze(1)).squeeze(1)
    return -torch.where(target < 0, log_probs.mean(1), known).mean()


def _outlier_hits(output: Tensor, target: Tensor) -> Tensor:
    unsure = output.softmax(1).amax(1) < 0.5
    return torch.where(target < 0, unsure, output.argmax(1) == target).sum()


def _binary(output: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(output.reshape(-1), target.reshape(-1).to(output.dtype))


CROSS_ENTROPY = Loss("cross_entropy", F.cross_entropy, lambda output, target: (output.argmax(1) == target).sum())
"""Cross-entropy loss for classes."""
OUTLIER_EXPOSURE = Loss("outlier_exposure", _outlier_exposure, _outlier_hits)
"""Cross-entropy loss for classes and examples of no class (target −1), whose target distribution is uniform.

This is outlier exposure (Hendrycks et al., ICLR 2019). An example of no class counts as correct if no class has half of
the probability.
"""
PAIRED = Loss(
    "paired",
    lambda output, target: F.cross_entropy(within_pair(output, target), target),
    lambda output, target: (within_pair(output, target).argmax(1) == target).sum(),
)
"""Cross-entropy loss in which classes 0 and 1, 2 and 3, ... compete."""
BINARY = Loss("binary", _binary, lambda output, y: ((output.reshape(-1) > 0) == (y.reshape(-1) > 0.5)).sum())
"""Binary cross-entropy loss of a single logit for two classes."""
SQUARED = Loss("squared", lambda output, y: F.mse_loss(output.reshape(-1), y.reshape(-1).to(output.dtype)))
"""Squared error for regression."""
NEXT_BYTE = Loss("next_byte", lambda output, y: F.cross_entropy(output.flatten(0, -2), y.flatten()), text=True)
"""Cross-entropy loss of the next byte at every position: logits of shape (N, T, 256), and bytes of shape (N, T)."""
