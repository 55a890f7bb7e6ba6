"""VISPA against independent truth: the closed forms of its posterior, its projection, STE, the paper's algorithm."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import bitbayes as bb
import needs
from bitbayes.noise import Noise
from bitbayes.posterior import BernoulliPosterior, LowRankGaussianPosterior, load_posterior
from laws import data, loss, network, steps


def gaussian(count: int = 4, rank: int = 3, *, zero_mean: bool = False, seed: int = 0) -> LowRankGaussianPosterior:
    generator = torch.Generator().manual_seed(seed)
    center = torch.zeros(count) if zero_mean else torch.randn(count, generator=generator)
    return LowRankGaussianPosterior({"w": center}, {"w": torch.randn(rank, count, generator=generator)})


@pytest.mark.parametrize(("zero_mean", "pairs"), [(True, 50_000), (False, 20_000)])
def test_correlation_of_sampled_signs_is_the_closed_form(zero_mean: bool, pairs: int) -> None:
    q = gaussian(zero_mean=zero_mean)
    samples = q.sample(pairs)["w"].double()
    first, second = zip(*((i, j) for i in range(4) for j in range(i)), strict=True)
    found = torch.corrcoef(samples.T)[list(first), list(second)]
    expected = q.correlation(("w", list(first)), ("w", list(second)))
    assert (found - expected).abs().max() < 5 / pairs**0.5
    torch.testing.assert_close(samples.mean(0).float(), q.mean()["w"], atol=5 / pairs**0.5, rtol=0)
    if zero_mean:
        z = torch.nn.functional.normalize(q.factors["w"].double(), dim=0)
        rho = (z.T @ z)[list(first), list(second)]
        torch.testing.assert_close(expected, 2 / math.pi * torch.asin(rho), atol=1e-12, rtol=0)


def test_equal_weights_have_a_correlation_of_one_as_long_as_they_are_not_certain() -> None:
    for sure in (0.0, 3.0, 7.0, 8.0, 8.3, 20.0, 35.0):
        q = bb.LowRankGaussianPosterior({"w": torch.full((2,), sure)}, {"w": torch.ones(1, 2)})
        assert float(q.correlation(("w", [0]), ("w", [1]))) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("rho", [-0.999999, -0.7, 0.0, 0.3, 0.9, 0.99999])
def test_correlation_against_a_numerical_integral(rho: float) -> None:
    """E[sign·sign] by brute force over r ∈ R², in float64."""
    a, b = 0.4, -1.1
    z = torch.tensor([[1.0, rho], [0.0, math.sqrt(1 - rho * rho)]])
    q = LowRankGaussianPosterior({"w": torch.tensor([a, b])}, {"w": z})
    scipy = needs.EXPERIMENTS.module("scipy.stats")
    joint = scipy.multivariate_normal([0, 0], [[1, rho], [rho, 1]]).cdf([a, b])
    p, r = scipy.norm.cdf(a), scipy.norm.cdf(b)
    expected = 4 * (joint - p * r) / math.sqrt((1 - (2 * p - 1) ** 2) * (1 - (2 * r - 1) ** 2))
    assert float(q.correlation(("w", [0]), ("w", [1]))) == pytest.approx(expected, abs=3e-4)


def test_weights_of_different_tensors_are_correlated_only_if_the_network_shares_its_noise() -> None:
    center = {"a": torch.zeros(2), "b": torch.zeros(2)}
    factors = {"a": torch.ones(1, 2), "b": torch.ones(1, 2)}
    apart = LowRankGaussianPosterior(center, factors)
    together = LowRankGaussianPosterior(center, factors, shared="network")
    for q, expected in ((apart, 0.0), (together, 1.0)):
        assert float(q.correlation(("a", [0]), ("b", [1]))) == pytest.approx(expected)
        samples = q.sample(4000)
        agreement = (samples["a"][:, 0] * samples["b"][:, 0]).mean()
        assert float(agreement) == pytest.approx(expected, abs=0.08)


def test_a_certain_weight_has_no_entropy_and_no_correlation() -> None:
    q = LowRankGaussianPosterior({"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([[0.0, 1.0]])})
    assert float(q.entropy()) == 0.5
    assert float(q.correlation(("w", [0]), ("w", [1]))) == 0
    assert torch.equal(q.mode()["w"], torch.ones(2))
    assert torch.equal(q.sample(50)["w"][:, 0], torch.ones(50))


def test_marginals_have_the_same_means() -> None:
    q = gaussian()
    marginals = q.marginals()
    assert isinstance(marginals, BernoulliPosterior)
    expected = torch.erf(q.center["w"] / q.factors["w"].norm(dim=0) / math.sqrt(2))
    torch.testing.assert_close(marginals.mean()["w"], expected)
    layer = torch.nn.Linear(4, 1, bias=False)
    prior = LowRankGaussianPosterior({"w": torch.randn(1, 4)}, {"w": torch.randn(2, 1, 4)}).marginals()
    optimizer = bb.BayesBiNN([("w", layer.weight)], ess=10, prior=prior, seed=0)
    assert torch.equal(optimizer.state[layer.weight]["belief"]["prior"], prior.natural["w"].reshape(-1))


def test_save_and_load(tmp_path) -> None:
    q = LowRankGaussianPosterior(
        {"a": torch.randn(3, 2)}, {"a": torch.randn(2, 3, 2)}, {"a": torch.tensor(0.5)}, shared="network"
    )
    q.save(tmp_path / "q.safetensors")
    back = load_posterior(tmp_path / "q.safetensors")
    assert isinstance(back, LowRankGaussianPosterior) and back.shared == "network"
    assert torch.equal(back.sample(3)["a"], q.sample(3)["a"])
    assert "1 tensors, 6 weights" in repr(back)
    with pytest.raises(ValueError, match=r"its format is 'bitbayes.low-rank-gaussian.1', expected"):
        BernoulliPosterior.load(tmp_path / "q.safetensors")


@pytest.mark.parametrize(
    ("center", "factors", "options", "message"),
    [
        ({}, {}, {}, "at least one tensor"),
        ({"a": torch.zeros(2)}, {"b": torch.zeros(1, 2)}, {}, r"same names, got \['a'\] and \['b'\]"),
        ({"a": torch.zeros(2)}, {"a": torch.zeros(2)}, {}, r"expected \(K, \*\(2,\)\)"),
        ({"a": torch.tensor([math.nan])}, {"a": torch.zeros(1, 1)}, {}, "must be finite"),
        ({"a": torch.zeros(1)}, {"a": torch.zeros(1, 1)}, {"shared": "layer"}, '"tensor" or "network"'),
        (
            {"a": torch.zeros(1), "b": torch.zeros(1)},
            {"a": torch.zeros(1, 1), "b": torch.zeros(2, 1)},
            {"shared": "network"},
            "one rank for all",
        ),
    ],
)
def test_bad_posteriors_are_refused(center, factors, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        LowRankGaussianPosterior(center, factors, **options)


@pytest.mark.parametrize("shared", ["tensor", "network"])
def test_projected_steps_keep_the_second_moment(shared: str) -> None:
    model = network()
    binary, _ = bb.split_parameters(model)
    optimizer = bb.VISPA(binary, lr=0.5, rank=3, project=True, shared=shared, seed=0)
    for _ in range(5):
        steps(model, optimizer, 1)
        for _, parameter in binary:
            rows = optimizer.state[parameter]["belief"]["latent"].double()
            assert (rows.square().sum(0) - 1).abs().max() < 1e-6


def test_rank_zero_is_ste_with_sgd() -> None:
    results = []
    for make in (
        lambda p: bb.VISPA(p, lr=0.6, rank=0, weight_decay=5e-4, seed=5),  # starts twice as large
        lambda p: bb.STE(p, lr=0.3, inner="sgd", momentum=0.9, weight_decay=1e-3, clip=None, seed=5),
    ):
        model = network()
        optimizer = make(bb.split_parameters(model)[0])
        weights = []
        for _ in range(20):
            steps(model, optimizer, 1)
            weights.append(torch.cat([p.detach().reshape(-1).clone() for _, p in optimizer.named_binary()]))
        results.append(torch.stack(weights))
    assert torch.equal(*results)
    assert not torch.equal(results[0][0], results[0][-1])


def test_a_step_is_the_released_equations() -> None:
    """Transcribed: w = sign(M + Σ r_k Z_k) with r ~ N(0, 1/S); G for M, √S·r_k·G for Z_k; torch's own SGD."""
    model = network()
    binary, _ = bb.split_parameters(model)
    divisor, rank = 25.0, 3
    optimizer = bb.VISPA(binary, lr=0.2, rank=rank, divisor=divisor, weight_decay=1e-2, init_noise=0.5, seed=1)
    parts = [optimizer.state[p]["belief"]["latent"].clone() for _, p in binary]
    mine = [(torch.nn.Parameter(rows[0].clone()), torch.nn.Parameter(rows[1:].clone())) for rows in parts]
    sgd = torch.optim.SGD([t for pair in mine for t in pair], lr=0.2, momentum=0.9, weight_decay=1e-2)
    x, y = data()
    for _ in range(6):
        loss(model, x, y).backward()
        noises = optimizer._noises()
        for place, (m, z) in zip(optimizer._places(), mine, strict=True):
            parameter = place.parameter
            r = noises[parameter].shared_normal(rank) / divisor**0.5
            w = m.detach() + (r[:, None] * z.detach()).sum(0)
            assert torch.equal(torch.where(w >= 0, 1.0, -1.0), parameter.detach().reshape(-1))
            m.grad = parameter.grad.reshape(-1).clone()
            z.grad = divisor**0.5 * r[:, None] * m.grad
        optimizer.step()
        optimizer.zero_grad()
        sgd.step()
        for (_, parameter), (m, z) in zip(binary, mine, strict=True):
            rows = optimizer.state[parameter]["belief"]["latent"]
            torch.testing.assert_close(rows[0], m.detach(), atol=1e-6, rtol=1e-5)
            torch.testing.assert_close(rows[1:], z.detach(), atol=1e-6, rtol=1e-5)


def test_several_draws_average_their_outer_products() -> None:
    o = SimpleNamespace(divisor=4.0)
    belief = {"latent": torch.randn(3, 6)}
    gradient = torch.randn(6)
    for key in range(3):
        noise = Noise(key, 6, shared_key=key + 10)
        r = noise.shared_normal(2)
        expected = torch.stack([gradient, r[0] * gradient, r[1] * gradient])
        torch.testing.assert_close(bb.VISPA.estimate(belief, gradient, gradient, noise, o), expected)
    model = network()
    optimizer = bb.VISPA(bb.split_parameters(model)[0], lr=0.1, rank=2, samples=3, seed=0)
    x, y = data()
    before = [optimizer.state[p]["belief"]["latent"].clone() for _, p in optimizer.named_binary()]
    calls = []

    def closure() -> torch.Tensor:
        calls.append([p.detach().clone() for _, p in optimizer.named_binary()])
        optimizer.zero_grad()
        value = loss(model, x, y)
        value.backward()
        return value

    optimizer.step(closure)
    assert len(calls) == 3
    after = [optimizer.state[p]["belief"]["latent"] for _, p in optimizer.named_binary()]
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_noise_of_the_start() -> None:
    layer = torch.nn.Linear(200, 100, bias=False)
    for init_noise, divisor in ((0.5, 100.0), (3.0, 1.0)):
        optimizer = bb.VISPA([layer.weight], rank=4, init_noise=init_noise, divisor=divisor, seed=0)
        q = optimizer.posterior()
        noise = q.factors["0"].square().sum(0).mean().sqrt()
        spread = q.center["0"].square().mean().sqrt()
        assert float(noise / spread) == pytest.approx(init_noise, rel=0.02)
    released = bb.VISPA([layer.weight], rank=4, seed=0).posterior()
    assert float(released.center["0"].std()) == pytest.approx(math.sqrt(2 / (200 + 100)), rel=0.02)
    assert float(released.factors["0"].std()) * 10 == pytest.approx(math.sqrt(2 / (200 * 100 + 4 * 200)), rel=0.02)


def test_noise_of_the_start_over_its_center() -> None:
    """In the released code 1.8, 2.5 and 15.5 %: Xavier's fans of (out, in, k, k) and (K, out, in, k, k)."""
    for outputs, inputs, rank, expected in ((512, 512, 8, 0.018), (128, 128, 4, 0.025), (64, 3, 8, 0.155)):
        weight = torch.nn.Parameter(torch.ones(outputs, inputs, 3, 3))
        q = bb.VISPA([weight], rank=rank, seed=0).posterior()
        noise = q.factors["0"].square().sum(0).mean().sqrt()
        assert float(noise / q.center["0"].square().mean().sqrt()) == pytest.approx(expected, rel=0.06)


def test_beliefs_take_no_more_memory_than_they_must() -> None:
    layer = torch.nn.Linear(64, 64, bias=False)
    optimizer = bb.VISPA([layer.weight], rank=4, seed=0)
    kept = sum(t.numel() for t in optimizer.state[layer.weight]["belief"].values())
    assert kept == 2 * (4 + 1) * layer.weight.numel()


def test_normal_noise_is_normal() -> None:
    r = Noise(3, 1 << 18).normal().double()
    assert abs(float(r.mean())) < 5 / (1 << 18) ** 0.5 and float(r.var()) == pytest.approx(1, abs=0.015)
    assert float((r**4).mean()) == pytest.approx(3, abs=0.1)
    quantiles = np.quantile(r.numpy(), [0.025, 0.5, 0.975])
    assert np.allclose(quantiles, [-1.95996, 0, 1.95996], atol=0.02)
