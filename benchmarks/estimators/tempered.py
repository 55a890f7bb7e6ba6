"""Short trainings of a tempered posterior, by `ess`, estimator, start and learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

import bitbayes as bb
from bitbayes import functional as F
from bitbayes.lab.data import DataBundle, TensorData

from . import formulas
from .formulas import BY_NAME, Estimator
from .practice import BATCH, LOCAL, SPLIT, Minibatch, Network, minibatches

ONE = BY_NAME["straight-through"]
FOUR = Estimator("straight-through, 4 draws", 12, formulas.straight_through_mean(4))
PAIR = BY_NAME["straight-through, antithetic pair"]
SCALES = (1.0, 10.0, 100.0, 1e3, 1e4)


@dataclass(frozen=True)
class Setting:
    """The setting of one training."""

    scale: float  # ess / N
    estimator: Estimator = ONE
    start: float = 1.0
    lr: float = 1e-2


@dataclass(frozen=True)
class Outcome:
    """The figures of one training: validation accuracies in percent, and the negative log-likelihood in nats."""

    mode: float
    mean: float
    nll: float
    bits: float
    held: float  # share of the first layer's λ that the data hold up: 1 where λ = −ess·(mean gradient)
    spent: float  # KL to the prior over ess·(loss at the prior − loss), the most that it is at the optimum


def settings() -> list[Setting]:
    """Return the settings that are run."""
    rates = [Setting(scale) for scale in SCALES]
    rates += [Setting(scale, lr=lr) for scale in (1.0, 1e3) for lr in (3e-3, 3e-2)]
    starts = [Setting(scale, start=start) for scale in (1.0, 1e3) for start in (0.1, 3.0)]
    arms = [Setting(scale, estimator) for estimator in (PAIR, FOUR) for scale in SCALES]
    return rates + starts + arms + [Setting(scale, estimator) for scale in SCALES[:2] for estimator in (SPLIT, LOCAL)]


def run(setting: Setting, data: DataBundle[TensorData], epochs: int, seed: int) -> Outcome:
    """Train with the library's rule, the estimator's gradient in μ, and a cosine over the whole training."""
    train = data.train
    network = Network(seed)
    ess = setting.scale * len(train)
    optimizer = bb.BayesBiNN(network.binary, lr=setting.lr, ess=ess, init_lambda=setting.start, seed=seed)
    real = torch.optim.Adam(network.real, lr=1e-2)
    steps = epochs * (len(train) // BATCH)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    before = _loss(network, torch.zeros_like(_natural(network, optimizer)), train, generator)
    for x, y in minibatches(train, seed, steps):
        problem = Minibatch(network, _natural(network, optimizer), x, y)
        estimate = setting.estimator.sample(problem, 1, generator)[0]
        for (_, parameter), gradient in zip(network.binary, network.named(estimate).values(), strict=True):
            parameter.grad = gradient
        for parameter, gradient in zip(network.real, problem.of_real, strict=True):
            parameter.grad = gradient / problem.calls
        optimizer.step()
        real.step()
        scheduler.step()
    natural = _natural(network, optimizer)
    after = _loss(network, natural, train, generator)
    held = _held(network, natural, train, ess, generator)
    bits = float(F.bernoulli_entropy(natural).mean())
    kl = (1 - bits) * len(natural) * math.log(2)
    mode, mean, nll = _evaluate(network, optimizer, data)
    return Outcome(mode, mean, nll, bits, held, kl / (ess * max(before - after, 1e-9)))


def _natural(network: Network, optimizer: bb.BayesBiNN) -> Tensor:
    return torch.cat([optimizer.state[parameter]["belief"]["natural"] for _, parameter in network.binary])


def _loss(network: Network, natural: Tensor, train: TensorData, generator: torch.Generator) -> float:
    """Mean loss of draws, each on a minibatch of its own."""
    losses = []
    for x, y in minibatches(train, 77, 20):
        problem = Minibatch(network, natural, x, y)
        losses.append(problem.value(formulas.hard(problem, formulas.uniform(problem, 1, generator))))
    return float(torch.cat(losses).mean())


def _held(network: Network, natural: Tensor, train: TensorData, ess: float, generator: torch.Generator) -> float:
    """Return the projection of −ess·ḡ, where λ rests without noise, on λ; linear in ḡ, so that its noise is small."""
    mean = torch.zeros_like(natural)
    for x, y in minibatches(train, 78, 60):
        mean += ONE.sample(Minibatch(network, natural, x, y), 1, generator)[0] / 60
    first, gradient = (part[network.layers == 0].double() for part in (natural, mean))
    return float(-ess * (first @ gradient) / (first @ first))


def _evaluate(network: Network, optimizer: bb.BayesBiNN, data: DataBundle[TensorData]) -> tuple[float, float, float]:
    """Return accuracies of the mode and the mean of 32, and the NLL of the mean, with refreshed BatchNorm."""
    held = data.validation
    assert held is not None
    some = torch.arange(min(len(held), 2000))
    x, y = held.inputs(some), held.y[some]
    inputs = [batch for batch, _ in minibatches(data.train, 79, 5)]
    posterior = optimizer.posterior()
    optimizer.eval()
    mode = bb.predict(network.model, x, batches=inputs)
    mean = bb.predict(network.model, x, posterior, 32, batches=inputs)
    nll = torch.nn.functional.nll_loss(mean.probs.clamp(min=1e-30).log(), y)
    right = [100 * float((found.probs.argmax(1) == y).float().mean()) for found in (mode, mean)]
    return right[0], right[1], float(nll)
