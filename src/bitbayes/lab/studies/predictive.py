"""Predictive distributions over classes, or over a real target, and how far one is from the exact one.

Agreement and total variation are those of Izmailov et al. (ICML 2021). A real target is divided into bins, so that its
distribution is compared like one over classes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

_TOGETHER = 100  # networks whose probabilities are added at once
_REACH = 10.0  # of the bins, in standardised targets

BIN = 0.04
"""Width of the bins of a real target, which is small beside its noise."""

BINS = BIN * torch.arange(-round(_REACH / BIN), round(_REACH / BIN) + 1, dtype=torch.float64)
"""Centres of the bins of a real target, in standardised units."""

LEVEL = 0.95
"""Probability of the bands of a real target."""


def log_probabilities(outputs: Tensor, noise: float | None = None) -> Tensor:
    """Return log-probabilities of classes or bins, float64, shape (N, K), of the mean over networks.

    Means of logarithms near 0 and 1 are not rounded, so that a KL divergence from a sure network is finite.

    Args:
        outputs: Logits, shape (C, N, K). With K = 1, the only output is the logit of class 1. With `noise`, each output
            (K = 1) is the mean of a normal distribution of the target.
        noise: Standard deviation of a real target; None for classes.

    Example:
        >>> log_probabilities(torch.tensor([[[0.0]], [[90.0]]])).exp()
        tensor([[0.2500, 0.7500]], dtype=torch.float64)
        >>> logs = log_probabilities(torch.tensor([[[1.0]], [[-1.0]]]), noise=0.5)
        >>> round(float((logs.exp() * BINS.square()).sum()), 4)  # 1² + 0.5²
        1.25
    """
    total: Tensor | None = None
    for part in outputs.split(_TOGETHER):
        added = _of_networks(part.double(), noise).logsumexp(0)
        total = added if total is None else torch.logaddexp(total, added)
    assert total is not None
    return total - math.log(len(outputs))


def _of_networks(z: Tensor, noise: float | None) -> Tensor:
    if noise is not None:
        return ((BINS - z) / noise).square() / -2 + math.log(BIN / (noise * math.sqrt(2 * math.pi)))
    return F.logsigmoid(torch.cat([-z, z], -1)) if z.shape[-1] == 1 else z.log_softmax(-1)


def classes_of(y: Tensor, *, real: bool) -> Tensor:
    """Return the class of every target, shape (N,), which is the nearest bin for a real target.

    Example:
        >>> BINS[classes_of(torch.tensor([0.43, -99.0]), real=True)]
        tensor([  0.4400, -10.0000], dtype=torch.float64)
    """
    y = y.reshape(-1)
    return ((y + _REACH) / BIN).round().clamp(0, len(BINS) - 1).long() if real else y.long()


def band(logs: Tensor, level: float = LEVEL) -> tuple[Tensor, Tensor]:
    """Return both ends of the central interval of a real target that has a probability, shape (N,) each.

    Args:
        logs: Log-probabilities of bins, shape (N, bins).
        level: Probability of the interval.

    Example:
        >>> low, high = band(log_probabilities(torch.zeros(1, 1, 1), noise=0.5))
        >>> round(float(low), 2), round(float(high), 2)  # ±1.96 standard deviations
        (-0.98, 0.98)
    """
    probability = logs.exp()
    total = probability.cumsum(-1)
    ends = []
    for share in ((1 - level) / 2, (1 + level) / 2):
        place = (total < share).sum(-1, keepdim=True).clamp(max=len(BINS) - 1)
        beyond = (total.gather(-1, place) - share) / probability.gather(-1, place)
        ends.append((BINS[place] + BIN / 2 - BIN * beyond).squeeze(-1))
    return ends[0], ends[1]


def compared(ours: Tensor, exact: Tensor, *, real: bool = False) -> dict[str, float]:
    """Return how far a predictive distribution is from the exact one; see `bitbayes.lab.studies.truth.Region`.

    Args:
        ours: Log-probabilities, shape (N, classes).
        exact: Log-probabilities of the exact posterior, shape (N, classes).
        real: Whether the classes are bins of a real target.

    Example:
        >>> half, sure = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.1, 0.9]]).log()
        >>> {name: round(value, 3) for name, value in compared(half, sure).items()}
        {'entropy': 0.693, 'total_variation': 0.4, 'kl': 0.368, 'agreement': 0.0}
    """
    p, q = ours.exp(), exact.exp()
    found = {
        "entropy": float(-(p * ours).sum(-1).mean()) + (math.log(BIN) if real else 0.0),
        "total_variation": float((p - q).abs().sum(-1).mean() / 2),
        "kl": float((q * (exact - ours)).sum(-1).mean()),
    }
    if not real:
        return found | {"agreement": float((ours.argmax(-1) == exact.argmax(-1)).double().mean())}
    low, high = band(ours)
    overlap = torch.minimum(high[:, None], BINS + BIN / 2) - torch.maximum(low[:, None], BINS - BIN / 2)
    held = (q * (overlap / BIN).clamp(0, 1)).sum(-1)
    return found | {"width": float((high - low).mean()), "coverage": 100 * float(held.mean())}


def figures_of(logs: Tensor, y: Tensor, *, real: bool) -> dict[str, float]:
    """Return accuracy and NLL on test points or, for a real target, squared error, NLL, and the share within the band.

    Args:
        logs: Log-probabilities, shape (N, classes).
        y: Targets, shape (N,) or (N, 1).
        real: Whether the classes are bins of a real target.

    Example:
        >>> figures = figures_of(log_probabilities(torch.zeros(1, 2, 1), 0.5), torch.tensor([0.0, 3.0]), real=True)
        >>> {name: round(value, 3) for name, value in figures.items()}
        {'nll': 9.226, 'error': 4.5, 'inside': 50.0}
    """
    classes = classes_of(y, real=real)
    nll = float(F.nll_loss(logs, classes))
    if not real:
        return {"nll": nll, "accuracy": float((logs.argmax(-1) == classes).double().mean())}
    y, (low, high) = y.reshape(-1), band(logs)
    error = float(((logs.exp() * BINS).sum(-1) - y).square().mean())
    inside = 100 * float(((low <= y) & (y <= high)).double().mean())
    return {"nll": nll + math.log(BIN), "error": error, "inside": inside}
