"""Bias and spread of every estimator against the exact gradient, on networks small enough to enumerate."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .formulas import ESTIMATORS, Estimator

BUDGET = 12  # passes, to compare at equal cost


@dataclass(frozen=True)
class Small:
    """A loss over at most 12 weights, and a belief."""

    name: str
    loss: Callable[[Tensor], Tensor]
    natural: Tensor
    layers: Tensor

    def value(self, weights: Tensor) -> Tensor:
        """Return losses (S,)."""
        return self.loss(weights)

    def gradient(self, weights: Tensor) -> Tensor:
        """Return gradients (S, n)."""
        with torch.enable_grad():
            weights = weights.detach().requires_grad_()
            return torch.autograd.grad(self.loss(weights).sum(), weights)[0]

    def exact(self) -> Tensor:
        """Return ∂E_q[loss]/∂μ: the probability of every state written in μ, differentiated."""
        states = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=len(self.natural))), dtype=torch.float64)
        mean = torch.tanh(self.natural).requires_grad_()
        expected = (((1 + states * mean) / 2).prod(-1) * self.loss(states)).sum()
        return torch.autograd.grad(expected, mean)[0]


def _layers(*sizes: int) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))


def _multilinear() -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """Return a loss of thirty terms of first to third order in ten weights, each weight at most once per term."""
    generator = torch.Generator().manual_seed(1)
    every = [torch.tensor(t) for order in (1, 2, 3) for t in itertools.combinations(range(10), order)]
    terms = [every[i] for i in [*range(10), *(10 + torch.randperm(len(every) - 10, generator=generator)[:20]).tolist()]]
    factors = torch.randn(len(terms), generator=generator, dtype=torch.float64) / 10
    return lambda w: sum(f * w[..., t].prod(-1) for f, t in zip(factors, terms, strict=True)), _layers(5, 5)


def _data(inputs: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(16, inputs, generator=generator, dtype=torch.float64)
    return x, (x[:, 0] - 0.5 * x[:, 1] + 0.3 > 0).double()


def _cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    return torch.nn.functional.softplus((1 - 2 * y) * logits).mean(-1)


def _tanh() -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """2-3-1, tanh, logistic loss."""
    x, y = _data(2)

    def loss(w: Tensor) -> Tensor:
        hidden = torch.tanh(torch.einsum("bi,sji->sbj", x, w[:, :6].view(-1, 3, 2)))
        return _cross_entropy(torch.einsum("sbj,sj->sb", hidden, w[:, 6:]), y)

    return loss, _layers(6, 3)


def _normed() -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """3-3-1, BatchNorm and ReLU, a normed output, logistic loss: the MNIST network in small."""
    x, y = _data(3)

    def norm(h: Tensor) -> Tensor:
        h = h - h.mean(1, keepdim=True)
        return h / (h.square().mean(1, keepdim=True) + 1e-4).sqrt()

    def loss(w: Tensor) -> Tensor:
        hidden = torch.relu(norm(torch.einsum("bi,sji->sbj", x, w[:, :9].view(-1, 3, 3))))
        return _cross_entropy(3 * norm(torch.einsum("sbj,sj->sb", hidden, w[:, 9:])), y)

    return loss, _layers(9, 3)


NETWORKS = {"multilinear": _multilinear, "tanh 2-3-1": _tanh, "BatchNorm 3-3-1": _normed}
BELIEFS: dict[str, Callable[[int], Tensor]] = {
    "uncertain": lambda n: torch.full((n,), 0.1, dtype=torch.float64),
    "mixed": lambda n: torch.linspace(0, 2, n, dtype=torch.float64),
    "nearly certain": lambda n: torch.full((n,), 3.0, dtype=torch.float64),
}


def problems() -> list[tuple[str, str, Small]]:
    """(network, belief, problem); the signs of λ are arbitrary but fixed."""
    found = []
    for network, build in NETWORKS.items():
        loss, layers = build()
        signs = torch.where(torch.arange(len(layers)) * 7 % 5 % 2 == 0, 1.0, -1.0)
        for belief, size in BELIEFS.items():
            found.append((network, belief, Small(network, loss, size(len(layers)) * signs, layers)))
    return found


@dataclass(frozen=True)
class Quality:
    """The quality of one estimator on one problem; sizes are relative to the exact gradient's norm."""

    bias: float
    bias_noise: float  # what the norm of the bias would be by chance
    spread: float  # root of the summed variances of one estimate
    error: float  # root mean square error of the mean of as many estimates as the budget holds
    cosine: float  # mean cosine of such a mean with the truth


def measure(problem: Small, estimator: Estimator, passes: int, seed: int = 0) -> Quality:
    """Return the quality from as many estimates as `passes` pay for."""
    repeats = BUDGET // estimator.passes
    exact = problem.exact()
    generator = torch.Generator().manual_seed(seed)
    found = estimator.sample(problem, passes // BUDGET * repeats, generator)
    variance = found.var(0).sum()
    bias = found.mean(0) - exact
    together = found.view(-1, repeats, found.shape[1]).mean(1)
    cosine = torch.nn.functional.cosine_similarity(together, exact[None]).mean()
    size = exact.norm()
    return Quality(
        float(bias.norm() / size),
        float((variance / len(found)).sqrt() / size),
        float(variance.sqrt() / size),
        float((together - exact).square().sum(1).mean().sqrt() / size),
        float(cosine),
    )


def study(problem: Small, passes: int, seed: int) -> dict[str, Quality]:
    """Return the quality of every estimator."""
    return {estimator.name: measure(problem, estimator, passes, seed) for estimator in ESTIMATORS}
