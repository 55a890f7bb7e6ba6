"""The variance of a gradient on MNIST, split by what it comes from.

In a two-way design every mini-batch meets every draw of the weights. The variance is split into what changes with the
mini-batch, what changes with the draw, and what changes only with both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call

import bitbayes as bb
from bitbayes.lab.data import TensorData, batches

from . import formulas
from .formulas import BY_NAME, Estimator

BATCH = 100


class Network:
    """784-256-256-10 with BatchNorm; binary weights as one flat vector."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = bb.nn.mlp(784, [256, 256], 10)
        self.binary, real = bb.split_parameters(self.model)
        self.real = [parameter for _, parameter in real]
        sizes = torch.tensor([parameter.numel() for _, parameter in self.binary])
        self.layers = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
        self.sizes = sizes.tolist()

    def named(self, flat: Tensor) -> dict[str, Tensor]:
        """Return the pieces of a flat vector by parameter name."""
        pieces = flat.split(self.sizes)
        return {name: piece.view(p.shape) for (name, p), piece in zip(self.binary, pieces, strict=True)}

    def loss(self, weights: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Return the mean cross-entropy of one network."""
        return nn.functional.cross_entropy(functional_call(self.model, self.named(weights), (x,)), y)

    def local_loss(self, mean: Tensor, x: Tensor, y: Tensor, generator: Generator, spread: bool) -> Tensor:
        """Give every example Gaussian pre-activations with the mean and the variance that q gives them.

        With `spread` the gradient goes through both, else through the mean alone, as straight-through's does.
        """
        h, means = x, iter(self.named(mean).values())
        for module in self.model.children():
            if isinstance(module, nn.Linear):
                mu = next(means)
                centre = nn.functional.linear(h, mu)
                variance = nn.functional.linear(h * h, 1 - mu * mu)
                deviation = (variance if spread else variance.detach()).clamp(min=1e-12).sqrt()
                h = centre + deviation * torch.randn(centre.shape, generator=generator)
            else:
                h = module(h)
        return nn.functional.cross_entropy(h, y)


@dataclass
class Minibatch:
    """The loss on one minibatch, as a `formulas.Problem`; collects the gradients of the real parameters."""

    network: Network
    natural: Tensor
    x: Tensor
    y: Tensor

    def __post_init__(self) -> None:
        self.layers = self.network.layers
        self.of_real = [torch.zeros_like(p) for p in self.network.real]
        self.calls = 0

    def value(self, weights: Tensor) -> Tensor:
        """Return losses (S,)."""
        with torch.no_grad():
            return torch.stack([self.network.loss(w, self.x, self.y) for w in weights])

    def gradient(self, weights: Tensor) -> Tensor:
        """Return gradients (S, n)."""
        return torch.stack([self._gradient(lambda leaf: self.network.loss(leaf, self.x, self.y), w) for w in weights])

    def local(self, generator: Generator, spread: bool) -> Tensor:
        """Return the gradient (n,) in μ under local reparameterisation."""
        mean = torch.tanh(self.natural)
        return self._gradient(lambda leaf: self.network.local_loss(leaf, self.x, self.y, generator, spread), mean)

    def split(self, parts: int) -> list[Minibatch]:
        """Return the mini-batch in equal parts."""
        pieces = zip(self.x.chunk(parts), self.y.chunk(parts), strict=True)
        return [Minibatch(self.network, self.natural, x, y) for x, y in pieces]

    def _gradient(self, loss: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
        leaf = at.detach().clone().requires_grad_()
        found, *real = torch.autograd.grad(loss(leaf), [leaf, *self.network.real])
        for total, one in zip(self.of_real, real, strict=True):
            total += one
        self.calls += 1
        return found


def local(spread: bool) -> Callable[[Any, int, Generator], Tensor]:
    """Estimate by local reparameterisation (Kingma et al. 2015; for binary weights Shayer et al. 2018)."""
    return lambda p, count, generator: torch.stack([p.local(generator, spread) for _ in range(count)])


def split(parts: int) -> Callable[[Any, int, Generator], Tensor]:
    """Estimate straight-through with a draw for every part of the mini-batch, at no more work than one draw."""

    def sample(p: Minibatch, count: int, generator: Generator) -> Tensor:
        found = []
        for _ in range(count):
            pieces = p.split(parts)
            found.append(torch.stack([formulas.straight_through(q, 1, generator)[0] for q in pieces]).mean(0))
            for q in pieces:
                p.calls += q.calls
                p.of_real = [total + one for total, one in zip(p.of_real, q.of_real, strict=True)]
        return torch.stack(found)

    return sample


# Two matrix products a layer instead of one.
LOCAL = Estimator("local reparameterisation", 6, local(True))
LOCAL_MEAN = Estimator("local reparameterisation, mean path", 6, local(False))
SPLIT = Estimator("straight-through, batch in 4 parts", 3, split(4))
COMPARED = [
    BY_NAME["straight-through"],
    Estimator("straight-through, 2 draws", 6, formulas.straight_through_mean(2)),
    BY_NAME["straight-through, antithetic pair"],
    Estimator("straight-through, 4 draws", 12, formulas.straight_through_mean(4)),
    BY_NAME["straight-through, antithetic quartet"],
    SPLIT,
    LOCAL,
    LOCAL_MEAN,
    BY_NAME["trapezoid (ReinMax)"],
    BY_NAME["concrete, τ = 1"],
    BY_NAME["concrete, τ = 0.1"],
    BY_NAME["gradient at the mean"],
    BY_NAME["gradient at the mode"],
    BY_NAME["DisARM"],
    Estimator("REINFORCE, leave one out of 4", 4, formulas.leave_one_out(4)),
    Estimator("REINFORCE, straight-through controlled", 6, formulas.controlled(2)),
]


def belief(data: TensorData, seed: int, steps: int, ess_scale: float, lr: float) -> tuple[Network, Tensor]:
    """Return a network and λ part way through training with the library's own rule."""
    network = Network(seed)
    optimizer = bb.BayesBiNN(network.binary, lr=lr, ess=ess_scale * len(data), seed=seed)
    real = torch.optim.Adam(network.real, lr=1e-2)
    for x, y in minibatches(data, seed, steps):
        loss = nn.functional.cross_entropy(network.model(x), y)
        optimizer.zero_grad()
        real.zero_grad()
        loss.backward()
        optimizer.step()
        real.step()
    posterior = optimizer.posterior()
    return network, torch.cat([posterior.natural[name].flatten() for name, _ in network.binary])


def minibatches(data: TensorData, seed: int, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield as many full mini-batches as asked for, epoch after epoch."""
    left, epoch = steps, 0
    while left:
        for x, y in batches(data, BATCH, seed=seed, epoch=epoch, shuffle=True):
            if len(x) == BATCH and left:
                left -= 1
                yield x, y
        epoch += 1


@dataclass(frozen=True)
class Parts:
    """Squared norm of the mean gradient, and the summed variances around it."""

    signal: float
    minibatch: float
    draw: float
    both: float

    @property
    def noise(self) -> float:
        """Return the trace of the covariance of one estimate."""
        return self.minibatch + self.draw + self.both

    @property
    def snr(self) -> float:
        """‖mean‖² over the trace of the covariance of one estimate."""
        return self.signal / max(self.noise, 1e-30)


def components(inner: Tensor) -> Parts:
    """Return unbiased variance components from inner products.

    Args:
        inner: ⟨g(batch b, draw k), g(batch c, draw l)⟩, shape (B, K, B, K).
    """
    batch, draw = _same(inner)
    signal = inner[~batch & ~draw].mean()
    by_batch = inner[batch & ~draw].mean() - signal
    by_draw = inner[~batch & draw].mean() - signal
    both = inner[batch & draw].mean() - signal - by_batch - by_draw
    return Parts(*(float(value) for value in (signal, by_batch, by_draw, both)))


def _same(inner: Tensor) -> tuple[Tensor, Tensor]:
    """Return where the two mini-batches are the same, and where the two draws are."""
    batch = torch.eye(inner.shape[0], dtype=torch.bool)[:, None, :, None]
    draw = torch.eye(inner.shape[1], dtype=torch.bool)[None, :, None, :]
    return batch.expand_as(inner), draw.expand_as(inner)


@dataclass(frozen=True)
class Row:
    """The figures of one estimator."""

    layers: list[Parts]
    whole: Parts
    agreement: float  # cosine of its mean with that of straight-through, without the noise of the means


def variances(network: Network, natural: Tensor, data: TensorData, count: int, draws: int, seed: int) -> dict[str, Row]:
    """Run the two-way design, `count` mini-batches times `draws` draws, for every estimator."""
    some = [Minibatch(network, natural, x, y) for x, y in minibatches(data, seed + 1, count)]
    rows: dict[str, Row] = {}
    reference = torch.empty(0)
    for estimator in COMPARED:
        found = torch.stack([torch.stack([_one(estimator, p, seed, k) for k in range(draws)]) for p in some])
        reference = found if not rows else reference
        masks = [network.layers == layer for layer in range(len(network.sizes))]
        inner = [_inner(found[..., mask], found[..., mask]) for mask in masks]
        whole, crossed = components(sum(inner[1:], inner[0])), components(_inner(found, reference)).signal
        base = next(iter(rows.values())).whole.signal if rows else whole.signal
        agreement = crossed / (whole.signal * base) ** 0.5 if whole.signal > 0 else float("nan")
        rows[estimator.name] = Row([components(one) for one in inner], whole, agreement)
    return rows


def _one(estimator: Estimator, p: Minibatch, seed: int, draw: int) -> Tensor:
    return estimator.sample(p, 1, torch.Generator().manual_seed(1000 * seed + draw))[0]


def _inner(first: Tensor, second: Tensor) -> Tensor:
    """⟨first(b, k), second(c, l)⟩, (B, K, B, K)."""
    return (first.flatten(0, 1) @ second.flatten(0, 1).T).double().view(*first.shape[:2], *second.shape[:2])
