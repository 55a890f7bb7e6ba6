"""What a network is trained on, and which of its predictions are right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["LOSSES", "Loss", "hit_count", "within_pair"]

Loss = Literal["cross_entropy", "outlier_exposure", "paired", "binary", "squared"]
"""What a network is trained on: classes; classes and examples of none (target −1); classes of which 0 and 1, 2 and 3,
... compete; one logit; or regression."""


def within_pair(output: Tensor, target: Tensor) -> Tensor:
    """Logits in which a target competes with its neighbour alone: 0 with 1, 2 with 3, ...

    Args:
        output: Logits, shape (N, K).
        target: Classes, shape (N,).

    Returns:
        The logits, -inf for the classes of other pairs.
    """
    pair = torch.arange(output.shape[1], device=output.device) // 2
    return output.masked_fill(pair != target.unsqueeze(1) // 2, -torch.inf)


def _paired(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(within_pair(output, target), target)


def _outlier_exposure(output: Tensor, target: Tensor) -> Tensor:
    """Where there is no class, all of them are equally right (Hendrycks et al., ICLR 2019)."""
    log_probs = output.log_softmax(1)
    known = log_probs.gather(1, target.clamp(min=0).unsqueeze(1)).squeeze(1)
    return -torch.where(target < 0, log_probs.mean(1), known).mean()


def _binary(output: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(output.reshape(-1), target.reshape(-1).to(output.dtype))


def _squared(output: Tensor, target: Tensor) -> Tensor:
    return F.mse_loss(output.reshape(-1), target.reshape(-1).to(output.dtype))


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": F.cross_entropy,
    "outlier_exposure": _outlier_exposure,
    "paired": _paired,
    "binary": _binary,
    "squared": _squared,
}
"""The mean loss of a batch by its name: (output, target) to a scalar."""


def hit_count(output: Tensor, target: Tensor, loss: Loss) -> Tensor:
    """How many predictions are right, as a tensor on the device.

    Args:
        output: Logits, shape (N, K), or (N,) or (N, 1) for one logit.
        target: Classes, shape (N,).
        loss: Kind of the loss. Of "outlier_exposure", an example of no class is right where no class has half of the
            probability.

    Returns:
        A scalar; zero for regression.
    """
    if loss == "cross_entropy":
        return (output.argmax(1) == target).sum()
    if loss == "outlier_exposure":
        unsure = output.softmax(1).amax(1) < 0.5
        return torch.where(target < 0, unsure, output.argmax(1) == target).sum()
    if loss == "paired":
        return (within_pair(output, target).argmax(1) == target).sum()
    if loss == "binary":
        return ((output.reshape(-1) > 0) == (target.reshape(-1) > 0.5)).sum()
    return output.new_zeros(())
