"""Estimators of ∂E_q[loss]/∂μ for independent ±1 weights, each a few lines on a `Problem`.

The target of weight i is E[D_i], D_i = (loss(w_i = +1) − loss(w_i = −1)) / 2, the other weights drawn from q. An
estimator returns `count` independent estimates. `passes` is the cost of one: a forward pass is 1, a backward pass 2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor

from bitbayes import functional as F

_TINY = 1e-35
# Rows: draws. Columns: groups of weights, flipped where −1. Orthogonal, and so are products of two of the last three.
_QUARTET = torch.tensor([[1, 1, 1], [-1, 1, -1], [1, -1, -1], [-1, -1, 1]])


class Problem(Protocol):
    """A loss of ±1 weights, and a belief about them."""

    natural: Tensor  # λ, shape (n,)
    layers: Tensor  # which layer each weight is in, shape (n,)

    def value(self, weights: Tensor) -> Tensor:
        """Return losses (S,) at weights (S, n)."""
        ...

    def gradient(self, weights: Tensor) -> Tensor:
        """Return gradients (S, n) of the loss at weights (S, n)."""
        ...


@dataclass(frozen=True)
class Estimator:
    """A formula, what one estimate costs, and whether theory says that it has no bias for any loss."""

    name: str
    passes: int
    sample: Callable[[Problem, int, Generator], Tensor]
    unbiased: bool = False


def uniform(p: Problem, count: int, generator: Generator) -> Tensor:
    """Return uniform numbers (count, n), never 0."""
    size = (count, len(p.natural))
    return torch.rand(size, generator=generator, dtype=p.natural.dtype).clamp_(min=2.0**-24)


def hard(p: Problem, u: Tensor) -> Tensor:
    """w = +1 where u < σ(2λ)."""
    return F.sign(torch.sigmoid(2 * p.natural) - u)


def score(p: Problem, weights: Tensor) -> Tensor:
    """∂ log q(w) / ∂μ = (w − μ) / (1 − μ²) = w / (1 + w·μ)."""
    return (weights - torch.tanh(p.natural)) / F.sech2(p.natural).clamp(min=_TINY)


def straight_through(p: Problem, count: int, generator: Generator) -> Tensor:
    """g(w), w ~ q."""
    return p.gradient(hard(p, uniform(p, count, generator)))


def straight_through_mean(draws: int) -> Callable[[Problem, int, Generator], Tensor]:
    """Return the estimator that averages g over independent draws."""

    def sample(p: Problem, count: int, generator: Generator) -> Tensor:
        return straight_through(p, count * draws, generator).view(count, draws, -1).mean(1)

    return sample


def antithetic(p: Problem, count: int, generator: Generator) -> Tensor:
    """(g(w) + g(w̃)) / 2, w from u and w̃ from 1 − u: both ~ q, differing with probability 1 − |μ|."""
    u = uniform(p, count, generator)
    return (p.gradient(hard(p, u)) + p.gradient(hard(p, 1 - u))) / 2


def antithetic_one_layer(p: Problem, count: int, generator: Generator) -> Tensor:
    """Turn u in one layer, chosen at random, and draw the other layers anew."""
    u, other = uniform(p, count, generator), uniform(p, count, generator)
    chosen = torch.randint(int(p.layers.max()) + 1, (count, 1), generator=generator)
    partner = torch.where(p.layers == chosen, 1 - u, other)
    return (p.gradient(hard(p, u)) + p.gradient(hard(p, partner))) / 2


def antithetic_quartet(p: Problem, count: int, generator: Generator) -> Tensor:
    """Average g over four draws of one u, turned layer by layer in an orthogonal design."""
    u = uniform(p, count, generator)
    flips = _QUARTET.to(u.device)[:, p.layers % 3]
    return sum(p.gradient(hard(p, torch.where(flip > 0, u, 1 - u))) for flip in flips) / 4


def concrete(tau: float) -> Callable[[Problem, int, Generator], Tensor]:
    """g(w)·(1 − w²) / (τ·sech²λ), w = tanh((λ + δ)/τ) (BayesBiNN, eqs. 10-13)."""

    def sample(p: Problem, count: int, generator: Generator) -> Tensor:
        w = torch.tanh((p.natural + torch.logit(uniform(p, count, generator)) / 2) / tau)
        return p.gradient(w) * ((1 - w) * (1 + w) / (tau * F.sech2(p.natural).clamp(min=_TINY)))

    return sample


def released(p: Problem, count: int, generator: Generator) -> Tensor:
    """Scale g as the released code does at τ = 1e-10 and moderate λ: ε cancels τ, which leaves g(w) / (sech²λ + ε)."""
    return straight_through(p, count, generator) / (F.sech2(p.natural) + 1e-10)


def at_mode(p: Problem, count: int, generator: Generator) -> Tensor:
    """g(sign λ): what the released rule computes in practice, where |λ| is beyond float32's tanh."""
    return p.gradient(F.sign(p.natural)[None]).expand(count, -1)


def at_mean(p: Problem, count: int, generator: Generator) -> Tensor:
    """g(μ): the gradient at the real-valued mean network."""
    return p.gradient(torch.tanh(p.natural)[None]).expand(count, -1)


def reinmax(p: Problem, count: int, generator: Generator) -> Tensor:
    """g_i(w) / (1 + w_i·μ_i): its mean over w_i is the trapezoid (g_i(w_i = 1) + g_i(w_i = −1)) / 2 (ReinMax)."""
    w = hard(p, uniform(p, count, generator))
    return p.gradient(w) / (1 + w * torch.tanh(p.natural)).clamp(min=_TINY)


def leave_one_out(draws: int) -> Callable[[Problem, int, Generator], Tensor]:
    """REINFORCE, every draw's baseline the mean loss of the others."""

    def sample(p: Problem, count: int, generator: Generator) -> Tensor:
        w = hard(p, uniform(p, count * draws, generator))
        loss = p.value(w).view(count, draws, 1)
        excess = (loss - loss.mean(1, keepdim=True)) * (draws / (draws - 1))
        return (excess * score(p, w).view(count, draws, -1)).mean(1)

    return sample


def arm(p: Problem, count: int, generator: Generator) -> Tensor:
    """(loss(w) − loss(w̃))·(½ − u), times 2 / sech²λ to go from the logit 2λ to μ (Yin & Zhou 2019)."""
    u = uniform(p, count, generator)
    difference = p.value(hard(p, u)) - p.value(hard(p, 1 - u))
    return difference[:, None] * (0.5 - u) * 2 / F.sech2(p.natural).clamp(min=_TINY)


def disarm(p: Problem, count: int, generator: Generator) -> Tensor:
    """(loss(w) − loss(w̃))/2 · (w − w̃)/2 / P[w ≠ w̃], P = 1 − |μ| (Dong, Mnih & Tucker 2020; Yin et al. 2020)."""
    u = uniform(p, count, generator)
    w, other = hard(p, u), hard(p, 1 - u)
    differ = 2 * torch.sigmoid(-2 * p.natural.abs())
    return (p.value(w) - p.value(other))[:, None] / 4 * (w - other) / differ.clamp(min=_TINY)


def muprop(draws: int) -> Callable[[Problem, int, Generator], Tensor]:
    """g(μ) + REINFORCE on what a Taylor expansion about μ leaves of the loss (Gu et al. 2016)."""

    def sample(p: Problem, count: int, generator: Generator) -> Tensor:
        mean = torch.tanh(p.natural)
        slope, level = p.gradient(mean[None]), p.value(mean[None])
        w = hard(p, uniform(p, count * draws, generator))
        rest = p.value(w) - level - ((w - mean) * slope).sum(1)
        return slope + (rest[:, None] * score(p, w)).view(count, draws, -1).mean(1)

    return sample


def controlled(draws: int) -> Callable[[Problem, int, Generator], Tensor]:
    """Straight-through over the other draws as control variate of REINFORCE (after Titsias & Shi 2022).

    With ḡ, the mean gradient at the other draws, ḡ + (loss(w) − baseline − ḡ·(w − μ))·∂log q/∂μ has no bias, because ḡ
    does not depend on w. The baseline is the others' mean of loss(w_j) − ḡ·(w_j − μ).
    """

    def sample(p: Problem, count: int, generator: Generator) -> Tensor:
        w = hard(p, uniform(p, count * draws, generator))
        gradient, loss = p.gradient(w).view(count, draws, -1), p.value(w).view(count, draws)
        centred = w.view(count, draws, -1) - torch.tanh(p.natural)
        slope = (gradient.sum(1, keepdim=True) - gradient) / (draws - 1)
        explained = torch.einsum("csn,ctn->cst", slope, centred)  # of draw t, by the slope that leaves s out
        left = loss[:, None] - explained
        own = left.diagonal(dim1=1, dim2=2)
        excess = own - (left.sum(2) - own) / (draws - 1)
        return (slope + excess[..., None] * score(p, w).view(count, draws, -1)).mean(1)

    return sample


def flips(p: Problem, count: int, generator: Generator) -> Tensor:
    """Return D_i at a draw of the others, for every i: local expectation gradients (Titsias & Lázaro-Gredilla 2015)."""
    w = hard(p, uniform(p, count, generator))
    size = w.shape[1]
    turned = w[:, None] * (1 - 2 * torch.eye(size, dtype=w.dtype))
    difference = p.value(w)[:, None] - p.value(turned.view(-1, size)).view(count, size)
    return difference * w / 2


# A budget of 12 passes holds a whole number of each. `flips` takes n + 1, which is near it where n ≤ 12.
ESTIMATORS = [
    Estimator("straight-through", 3, straight_through),
    Estimator("straight-through, antithetic pair", 6, antithetic),
    Estimator("straight-through, one layer antithetic", 6, antithetic_one_layer),
    Estimator("straight-through, antithetic quartet", 12, antithetic_quartet),
    Estimator("concrete, τ = 1", 3, concrete(1.0)),
    Estimator("concrete, τ = 0.5", 3, concrete(0.5)),
    Estimator("concrete, τ = 0.1", 3, concrete(0.1)),
    Estimator("concrete, τ = 0.01", 3, concrete(0.01)),
    Estimator("released scale, moderate λ", 3, released),
    Estimator("gradient at the mode", 3, at_mode),
    Estimator("gradient at the mean", 3, at_mean),
    Estimator("trapezoid (ReinMax)", 3, reinmax),
    Estimator("REINFORCE, leave one out of 12", 12, leave_one_out(12), unbiased=True),
    Estimator("ARM", 2, arm, unbiased=True),
    Estimator("DisARM", 2, disarm, unbiased=True),
    Estimator("MuProp, 9 draws", 12, muprop(9), unbiased=True),
    Estimator("REINFORCE, straight-through controlled", 12, controlled(4), unbiased=True),
    Estimator("every weight flipped", 12, flips, unbiased=True),
]
BY_NAME = {estimator.name: estimator for estimator in ESTIMATORS}
