"""The estimators of docs/estimators.md: which have no bias, what they share with the library, and how noise splits."""

import importlib
from types import SimpleNamespace

import pytest
import torch

import bitbayes as bb

formulas, truth, practice, linearity = (
    importlib.import_module(f"benchmarks.estimators.{name}") for name in ("formulas", "truth", "practice", "linearity")
)
UNBIASED = [estimator for estimator in formulas.ESTIMATORS if estimator.unbiased]
FIRST_ORDER = [
    "straight-through",
    "straight-through, antithetic pair",
    "straight-through, one layer antithetic",
    "straight-through, antithetic quartet",
]


def problem(network: str, belief: str = "mixed"):
    return next(p for name, certainty, p in truth.problems() if (name, certainty) == (network, belief))


def z_scores(estimator, p, passes: int = 60_000) -> torch.Tensor:
    """Distance of the mean from the exact gradient, in standard errors of every coordinate."""
    found = estimator.sample(p, passes // estimator.passes, torch.Generator().manual_seed(3))
    error = found.std(0) / len(found) ** 0.5
    return (found.mean(0) - p.exact()).abs() / (error + 1e-12)


@pytest.mark.parametrize("estimator", UNBIASED, ids=lambda e: e.name)
@pytest.mark.parametrize("network", ["tanh 2-3-1", "BatchNorm 3-3-1"])
def test_unbiased_for_networks_that_are_not_multilinear(estimator, network: str) -> None:
    assert z_scores(estimator, problem(network)).max() < 4.5


@pytest.mark.parametrize("name", [*FIRST_ORDER, "concrete, τ = 1", "released scale, moderate λ", "trapezoid (ReinMax)"])
def test_biased_estimators_fail_the_same_test(name: str) -> None:
    assert z_scores(formulas.BY_NAME[name], problem("tanh 2-3-1")).max() > 8


@pytest.mark.parametrize("name", [*FIRST_ORDER, "trapezoid (ReinMax)"])
def test_hard_draws_are_unbiased_for_a_multilinear_loss(name: str) -> None:
    assert z_scores(formulas.BY_NAME[name], problem("multilinear")).max() < 4.5


def test_the_mean_gives_the_exact_gradient_of_a_multilinear_loss() -> None:
    p = problem("multilinear")
    found = formulas.at_mean(p, 1, torch.Generator())[0]
    torch.testing.assert_close(found, p.exact(), rtol=1e-12, atol=1e-12)


def test_trapezoid_removes_the_bias_of_a_quadratic_loss() -> None:
    factors = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    natural = torch.linspace(-1, 1.5, 6, dtype=torch.float64)
    p = truth.Small("quadratic", lambda w: (w @ factors.T).square().sum(1), natural, torch.zeros(6, dtype=torch.long))
    assert z_scores(formulas.BY_NAME["trapezoid (ReinMax)"], p).max() < 4.5
    through = formulas.straight_through(p, 200_000, torch.Generator().manual_seed(0)).mean(0)
    curvature = 2 * factors.square().sum(0)  # straight-through adds μ times the second derivative
    torch.testing.assert_close(through - p.exact(), curvature * natural.tanh(), atol=0.1, rtol=0)


@pytest.mark.parametrize(
    ("name", "estimator", "tau"),
    [
        ("straight-through", "straight-through", 1.0),
        ("concrete, τ = 0.5", "concrete", 0.5),
        ("concrete, τ = 0.1", "concrete", 0.1),
        ("released scale, moderate λ", "released", 1e-10),
    ],
)
def test_formulas_are_those_of_the_library(name: str, estimator: str, tau: float) -> None:
    p = SimpleNamespace(natural=torch.linspace(-2, 2, 9, dtype=torch.float64), gradient=torch.cos)
    found = formulas.BY_NAME[name].sample(p, 5, torch.Generator().manual_seed(1))
    u = formulas.uniform(p, 5, torch.Generator().manual_seed(1))
    # Both put +1 where λ + δ > 0; u < σ(2λ) is that of δ = −logit(u)/2, the relaxed draws use +logit(u)/2.
    w = torch.tanh((p.natural + torch.logit(u) / 2) / tau) if estimator == "concrete" else formulas.hard(p, u)
    o = SimpleNamespace(estimator=estimator, ess=1.0, tau=tau)
    belief = {"natural": p.natural.expand(5, -1)}
    torch.testing.assert_close(found, bb.BayesBiNN.estimate(belief, torch.cos(w), w, None, o), rtol=1e-9, atol=1e-12)


def test_an_antithetic_pair_has_the_right_marginals_and_differs_as_often_as_it_can() -> None:
    p = problem("tanh 2-3-1")
    u = formulas.uniform(p, 100_000, torch.Generator().manual_seed(0))
    w, other = formulas.hard(p, u), formulas.hard(p, 1 - u)
    mean = torch.tanh(p.natural)
    for one in (w, other):
        torch.testing.assert_close(one.mean(0), mean, atol=0.015, rtol=0)
    torch.testing.assert_close((w != other).double().mean(0), 1 - mean.abs(), atol=0.008, rtol=0)


def test_components_of_the_variance_are_found() -> None:
    generator = torch.Generator().manual_seed(0)
    count, draws, size = 6, 5, 20_000

    def noise(scale: float, *shape: int) -> torch.Tensor:
        return scale * torch.randn(*shape, size, generator=generator)

    found = noise(1, 1, 1) + noise(2, count, 1) + noise(1.5, 1, draws) + noise(3, count, draws)
    parts = practice.components(practice._inner(found, found))
    got = torch.tensor([parts.signal, parts.minibatch, parts.draw, parts.both]) / size
    torch.testing.assert_close(got, torch.tensor([1.0, 4.0, 2.25, 9.0]), rtol=0.1, atol=0)


@pytest.fixture(scope="module")
def minibatch():
    network = practice.Network(0)
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 784, generator=generator), torch.randint(10, (40,), generator=generator)
    natural = torch.randn(len(network.layers), generator=generator)
    return practice.Minibatch(network, natural, x, y)


def test_local_reparameterisation_of_a_certain_belief_is_the_gradient_at_the_mode(minibatch) -> None:
    sure = practice.Minibatch(minibatch.network, 30 * minibatch.natural.sign(), minibatch.x, minibatch.y)
    mode = formulas.at_mode(sure, 1, torch.Generator())[0]
    found = practice.local(False)(sure, 1, torch.Generator().manual_seed(0))[0]
    torch.testing.assert_close(found, mode, rtol=1e-3, atol=1e-4)


def test_a_split_batch_draws_for_every_part(minibatch) -> None:
    halves = practice.split(2)(minibatch, 1, torch.Generator().manual_seed(5))[0]
    generator = torch.Generator().manual_seed(5)
    parts = [formulas.straight_through(q, 1, generator)[0] for q in minibatch.split(2)]
    assert not torch.equal(*parts)
    torch.testing.assert_close(halves, sum(parts) / 2)


def test_differences_are_those_of_the_losses(minibatch) -> None:
    """Of three weights, by autograd of the loss along the line between w_i = −1 and w_i = +1, integrated."""
    network, places = minibatch.network, torch.tensor([5, 200_800, 267_000])
    w = formulas.hard(minibatch, formulas.uniform(minibatch, 1, torch.Generator().manual_seed(0)))[0]
    found = linearity._differences(network, w, minibatch.x, minibatch.y, places)
    line = torch.linspace(-1, 1, 41)
    for place, difference in zip(places, found, strict=True):
        along = w.repeat(len(line), 1)
        along[:, place] = line
        slopes = minibatch.gradient(along)[:, place]
        torch.testing.assert_close(torch.trapezoid(slopes, line) / 2, difference, rtol=0.05, atol=2e-5)


def test_the_bias_over_draws_is_found_and_so_is_its_absence() -> None:
    generator = torch.Generator().manual_seed(0)
    exact = 1 + 3 * torch.randn(40, 50, generator=generator)
    rest = 0.3 * torch.randn(40, 50, generator=generator)
    found, none = linearity._compare(exact + rest + 0.5, exact), linearity._compare(exact + rest, exact)
    assert found.bias == pytest.approx(0.5, rel=0.25)
    assert none.bias < 2 * none.bias_noise < 0.4
