"""The bias of straight-through on MNIST: its gradient against the loss differences that it stands for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bitbayes.lab.data import TensorData

from . import formulas
from .practice import Minibatch, Network, minibatches


@dataclass(frozen=True)
class Linearity:
    """Distance of the gradient at a draw from the difference that it stands for, over the weights of one layer."""

    distance: float  # root mean square of g − D over that of D
    slope: float  # of D on g
    bias: float  # ‖E[g − D]‖ / ‖E[D]‖, the noise of both means taken out
    bias_noise: float  # what it would be by chance


def measure(
    network: Network, natural: Tensor, data: TensorData, weights: int, draws: int, seed: int
) -> list[Linearity]:
    """Compare straight-through's g with D = (loss(w_i = +1) − loss(w_i = −1)) / 2 at the same draws.

    D has the exact gradient as its mean, so g is as good as unbiased where the two agree draw by draw.
    """
    generator = torch.Generator().manual_seed(seed)
    starts = torch.tensor([0, *network.sizes[:-1]]).cumsum(0)
    places = [
        start + torch.randperm(size, generator=generator)[:weights]
        for start, size in zip(starts, network.sizes, strict=True)
    ]
    truth, through = [], []
    for x, y in minibatches(data, seed + 2, draws):
        p = Minibatch(network, natural, x, y)
        w = formulas.hard(p, formulas.uniform(p, 1, generator))[0]
        through.append(p.gradient(w[None])[0][torch.stack(places)])
        truth.append(torch.stack([_differences(network, w, x, y, some) for some in places]))
    exact, found = torch.stack(truth), torch.stack(through)
    return [_compare(found[:, layer], exact[:, layer]) for layer in range(len(network.sizes))]


def _compare(found: Tensor, exact: Tensor) -> Linearity:
    """Return the figures of g and D, both of shape (draws, weights)."""
    off = found - exact
    bias, chance = _square_of_mean(off)
    truth, _ = _square_of_mean(exact)
    truth = truth if truth > 0 else float("nan")  # the mean drowns in noise: there is nothing to compare the bias with
    return Linearity(
        float((off.square().sum() / exact.square().sum()).sqrt()),
        float((found * exact).sum() / found.square().sum()),
        (max(bias, 0.0) / truth) ** 0.5,
        (chance / truth) ** 0.5,
    )


def _square_of_mean(found: Tensor) -> tuple[float, float]:
    """‖E‖² from inner products of different draws, and its standard deviation if E were zero."""
    count = len(found)
    inner = found.double() @ found.double().T
    inner.fill_diagonal_(0)
    pairs = count * (count - 1)
    return float(inner.sum() / pairs), float((2 * inner.square().sum()).sqrt() / pairs)


def _differences(network: Network, w: Tensor, x: Tensor, y: Tensor, places: Tensor) -> Tensor:
    """Return D of some weights, in float64 because the two losses are nearly equal."""
    network.model.double()
    w, x = w.double(), x.double()
    try:
        with torch.no_grad():
            base = network.loss(w, x, y)
            turned = w.repeat(len(places), 1)
            turned[torch.arange(len(places)), places] *= -1
            losses = torch.stack([network.loss(one, x, y) for one in turned])
    finally:
        network.model.float()
    return ((base - losses) * w[places] / 2).float()
