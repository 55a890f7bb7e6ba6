"""The derivations of docs/theory.md, by enumeration in float64: nothing here is drawn at random but the problem."""

from __future__ import annotations

import itertools

import pytest
import torch
from numpy.polynomial.hermite_e import hermegauss
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


# VISPA with Σ = σ²I: latent weights, the straight-through step and clipping. ------------------------------------------

BOX = torch.tensor([0.9, -0.4, 0.1, -0.95, 0.6, -0.2], dtype=torch.float64)  # means μ in [−1, 1]
SIGMA = 0.5


def multilinear(w: Tensor) -> Tensor:
    """A loss that is linear in each weight alone, of weights in the last dimension."""
    return 1.5 * w[..., 0] - w[..., 1] * w[..., 2] + 2 * w[..., 3] * w[..., 4] * w[..., 5] + w[..., 0] * w[..., 5]


def gradient(of, at: Tensor) -> Tensor:
    """The gradient of a scalar function."""
    at = at.clone().requires_grad_()
    return torch.autograd.grad(of(at).sum(), at)[0]


def test_gradient_of_a_gaussian_expectation_passes_inside() -> None:
    """∇_μ E[L(μ + σr)] = E[∇L(μ + σr)] for a smooth loss, both by quadrature over r."""
    nodes, weights = (torch.tensor(each) for each in hermegauss(40))
    pairs, mass = torch.cartesian_prod(nodes, nodes), torch.outer(weights, weights).flatten() / (2 * torch.pi)

    def smooth(w: Tensor) -> Tensor:
        return (w[..., 0] * w[..., 1]).tanh() + 0.3 * w[..., 0].square() - w[..., 1]

    left = gradient(lambda at: mass * smooth(at + SIGMA * pairs), BOX[:2])
    right = mass @ gradient(smooth, BOX[:2] + SIGMA * pairs)
    torch.testing.assert_close(left, right)


def test_rounding_takes_the_gradient_in_the_mean_of_the_sign() -> None:
    """E[∇L(sign w)] of a multilinear loss is the gradient of E[L(sign w)] in m = E[sign w] = erf(μ / (σ√2))."""

    def mean(at: Tensor) -> Tensor:
        return torch.erf(at / (SIGMA * 2**0.5))

    def expected(m: Tensor) -> Tensor:
        return ((1 + STATES * m) / 2).prod(-1) @ multilinear(STATES)

    rounded = ((1 + STATES * mean(BOX)) / 2).prod(-1) @ gradient(multilinear, STATES)
    torch.testing.assert_close(rounded, gradient(expected, mean(BOX)))
    exact = gradient(lambda at: expected(mean(at)), BOX)  # in μ
    slope = (2 / torch.pi) ** 0.5 / SIGMA * (-BOX.square() / (2 * SIGMA**2)).exp()  # dm/dμ, which is positive
    torch.testing.assert_close(exact, slope * rounded)
    assert not torch.allclose(exact, rounded)


def test_second_moments_of_one_leave_the_box_and_clipping_is_its_nearest_point() -> None:
    """μ² + σ² = 1 has a σ exactly for |μ| ≤ 1; v − clip(v) points away from every μ of the box."""
    wanted = torch.linspace(-2, 2, 401, dtype=torch.float64)
    assert torch.equal((1 - wanted.square()) >= 0, wanted == wanted.clamp(-1, 1))
    generator = torch.Generator().manual_seed(0)
    outside = 3 * torch.randn(COUNT, dtype=torch.float64, generator=generator)
    inside = 2 * torch.rand(5000, COUNT, dtype=torch.float64, generator=generator) - 1
    nearest = outside.clamp(-1, 1)
    assert ((inside - nearest) @ (outside - nearest) <= 1e-12).all()  # which characterises a projection
    assert ((inside - outside).norm(dim=1) >= (nearest - outside).norm()).all()


@pytest.mark.parametrize("sigma", [0.0, 1e-9])
def test_projected_steps_of_an_isotropic_gaussian_are_ste_with_clipping(sigma: float) -> None:
    """As σ falls to 0, μ ← clip(μ − α·∇L(sign(μ + σr))) is the latent weight of `STE` with SGD, step by step."""
    torch.manual_seed(3)
    slope, curve = torch.randn(COUNT), torch.randn(COUNT, COUNT)

    def value(w: Tensor) -> Tensor:
        return slope @ w + w @ curve @ w / 4

    runs = {}
    for clip in (1.0, None):
        parameter = torch.nn.Parameter(0.3 * torch.ones(COUNT))
        optimizer = bb.STE([parameter], lr=0.2, inner="sgd", momentum=0.0, clip=clip, init="weights", seed=0)
        (state,) = optimizer.state.values()
        mean, path = state["belief"]["latent"].clone(), []
        for _ in range(60):
            drawn = torch.where(mean + sigma * torch.randn(COUNT) >= 0, 1.0, -1.0)
            mean = (mean - 0.2 * gradient(value, drawn)).clamp(-1, 1)
            value(parameter).backward()
            optimizer.step()
            optimizer.zero_grad()
            path.append((state["belief"]["latent"] - mean).abs().max())
        runs[clip] = float(torch.stack(path).max())
        assert (mean.abs() == 1).any()
    assert runs[1.0] < 1e-5
    assert runs[None] > 0.5  # without clipping it is another rule


def test_a_clipped_mean_bounds_how_sure_a_sign_is() -> None:
    """P[sign w = +1] = Φ(μ/σ) ≤ Φ(1/σ) for μ in [−1, 1], and a mean at the border turns within 2/α|g| steps."""
    normal = torch.distributions.Normal(torch.tensor(0.0, dtype=torch.float64), 1.0)
    draws = torch.sign(1.0 + SIGMA * torch.randn(400_000, generator=torch.Generator().manual_seed(0)))
    assert float((draws > 0).double().mean()) == pytest.approx(float(normal.cdf(torch.tensor(1 / SIGMA))), abs=1e-3)
    assert (normal.cdf(BOX / SIGMA) <= normal.cdf(torch.tensor(1 / SIGMA))).all()
    parameter = torch.nn.Parameter(torch.ones(1))
    optimizer = bb.STE([parameter], lr=0.1, inner="sgd", momentum=0.0, clip=1.0, init="weights", seed=0)
    for direction, steps in ((-1.0, 50), (1.0, 12)):  # fifty steps away from zero, then 2 / (0.1 · 2) = 10 to turn
        for _ in range(steps):
            (2 * direction * parameter).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert float(parameter.detach()) == -1
