"""The derivations of docs/theory.md, by enumeration in float64: nothing here is drawn at random but the problem."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

import bitbayes as bb

COUNT = 6
STATES = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=COUNT)), dtype=torch.float64)


@pytest.fixture
def natural() -> Tensor:
    return torch.linspace(-1.2, 0.9, COUNT, dtype=torch.float64)


@pytest.fixture
def losses() -> Tensor:
    """Of every network: any numbers, so that nothing depends on a special loss."""
    return torch.randn(len(STATES), dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def probabilities(natural: Tensor) -> Tensor:
    """Of every network."""
    return torch.sigmoid(2 * natural * STATES).prod(-1)


def mean_gradient(of, natural: Tensor) -> Tensor:
    """∂/∂μ, with λ = artanh μ put into what is differentiated."""
    mean = natural.tanh().requires_grad_()
    return torch.autograd.grad(of(mean.atanh()), mean)[0]


def test_gradient_in_the_mean_is_half_a_difference(natural: Tensor, losses: Tensor) -> None:
    gradient = mean_gradient(lambda at: (probabilities(at) * losses).sum(), natural)
    q = probabilities(natural)
    for i in range(COUNT):
        order = STATES[:, i].argsort(stable=True)  # the others run through the same states in both halves
        low, high = order.chunk(2)
        differences = (losses[high] - losses[low]) / 2
        assert float(gradient[i]) == pytest.approx(float(((q[high] + q[low]) * differences).sum()))


def test_natural_gradient_is_the_gradient_in_the_mean(natural: Tensor, losses: Tensor) -> None:
    """Fisher's matrix is taken by its definition, E[∂log q ∂log qᵀ]."""
    scores = torch.autograd.functional.jacobian(lambda at: probabilities(at).log(), natural)
    fisher = torch.einsum("s,si,sj->ij", probabilities(natural), scores, scores)
    at = natural.clone().requires_grad_()
    (ordinary,) = torch.autograd.grad((probabilities(at) * losses).sum(), at)
    found = torch.linalg.solve(fisher, ordinary)
    torch.testing.assert_close(found, mean_gradient(lambda at: (probabilities(at) * losses).sum(), natural))


def test_gradient_of_the_kl_is_a_difference(natural: Tensor) -> None:
    prior = natural.flip(0) / 2

    def divergence(at: Tensor) -> Tensor:
        q = probabilities(at)
        return (q * (q / probabilities(prior)).log()).sum()

    torch.testing.assert_close(mean_gradient(divergence, natural), natural - prior)


def test_belief_settles_where_it_is_the_evidence(natural: Tensor) -> None:
    """A linear loss, whose gradient is the same at every draw."""
    slope = natural.float()
    prior = torch.linspace(0.5, -0.5, COUNT)
    parameter = torch.nn.Parameter(torch.zeros(COUNT))
    start = bb.BernoulliPosterior({"0": prior})
    optimizer = bb.BayesBiNN([parameter], lr=0.2, ess=3.0, momentum=0.0, prior=start, seed=0)
    for _ in range(100):
        (slope * parameter).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    (settled,) = optimizer.posterior().natural.values()
    torch.testing.assert_close(settled - prior, -3.0 * slope, rtol=1e-4, atol=1e-5)


def test_no_distribution_is_better_than_the_best_network(losses: Tensor) -> None:
    """And distributions of independent weights come as near to it as one likes: nothing is lost by the relaxation."""
    best = int(losses.argmin())
    gap = [float((probabilities(scale * STATES[best]) * losses).sum() - losses[best]) for scale in (0.5, 2.0, 8.0)]
    assert gap[0] > gap[1] > gap[2] > 0
    assert gap[2] < 1e-5
