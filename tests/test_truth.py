"""Rules and posteriors against independent truth: enumeration in float64, other formulations, torch itself."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

import bitbayes as bb
from bitbayes import functional as F
from bitbayes.lab.studies.ways import Way
from bitbayes.noise import Noise, stream_key
from laws import data, loss, network

WEIGHTS = 12


def states(count: int) -> Tensor:
    """All 2^count networks, (2^count, count)."""
    return torch.tensor(list(itertools.product([-1.0, 1.0], repeat=count)), dtype=torch.float64)


def multilinear(seed: int = 0):
    """A loss with terms up to third order, each weight at most once a term."""
    generator = torch.Generator().manual_seed(seed)
    terms = [t for order in (1, 2, 3) for t in itertools.combinations(range(WEIGHTS), order)]
    chosen = [terms[i] for i in torch.randperm(len(terms), generator=generator)[:60]]
    factors = torch.randn(60, generator=generator, dtype=torch.float64)

    def value(w: Tensor) -> Tensor:
        return sum(f * w[..., list(t)].prod(-1) for f, t in zip(factors, chosen, strict=True))

    return value


def exact_gradient(value, natural: Tensor) -> Tensor:
    """∂E_q[loss]/∂μ by enumeration: q in terms of μ, differentiated by autograd."""
    mean = natural.tanh().requires_grad_()
    w = states(WEIGHTS)
    probability = ((1 + w * mean) / 2).prod(-1)
    (gradient,) = torch.autograd.grad((probability * value(w)).sum(), mean)
    return gradient


def estimate_mean(estimator: str, natural: Tensor, value, draws: int, tau: float) -> tuple[Tensor, Tensor]:
    """Mean of the estimator over draws, and its standard error, from the rule's own functions."""
    o = SimpleNamespace(estimator=estimator, ess=7.0, tau=tau, unit=1.0)
    belief = {"natural": natural.repeat(draws)}
    noise = Noise(stream_key(11, draws), draws * WEIGHTS)
    w = bb.BayesBiNN.draw(belief, noise, o).double().view(draws, WEIGHTS).requires_grad_()
    (gradient,) = torch.autograd.grad(value(w).sum(), w)
    samples = bb.BayesBiNN.estimate(belief, gradient.reshape(-1), w.detach().reshape(-1), noise, o)
    samples = samples.view(draws, WEIGHTS)
    samples = samples / o.ess  # the gradient of the mean loss
    return samples.mean(0), samples.std(0) / draws**0.5


NATURAL = torch.linspace(-1.5, 1.2, WEIGHTS, dtype=torch.float64)


def test_straight_through_is_unbiased_for_a_multilinear_loss() -> None:
    value = multilinear()
    mean, error = estimate_mean("straight-through", NATURAL, value, 200_000, 1.0)
    assert ((mean - exact_gradient(value, NATURAL)).abs() < 5 * error + 1e-9).all()
    assert error.max() < 0.02  # so that the line above can fail


@pytest.mark.parametrize("estimator", ["concrete", "released"])
def test_relaxed_estimators_lose_their_bias_as_tau_falls(estimator: str) -> None:
    value = multilinear()
    exact = exact_gradient(value, NATURAL)
    warm, _ = estimate_mean(estimator, NATURAL, value, 200_000, 1.0)
    cold, error = estimate_mean(estimator, NATURAL, value, 400_000, 0.03)
    assert ((cold - exact).abs() < 5 * error + 0.05).all()
    assert error.max() < 0.2
    assert (warm - exact).norm() > 3 * (cold - exact).norm()


def test_concrete_draws_have_the_right_sign_probability() -> None:
    natural = NATURAL.float().repeat(100_000)
    o = SimpleNamespace(estimator="concrete", tau=1e-3)
    w = bb.BayesBiNN.draw({"natural": natural}, Noise(5, natural.numel()), o)
    frequency = (w > 0).double().view(-1, WEIGHTS).mean(0)
    torch.testing.assert_close(frequency, torch.sigmoid(2 * NATURAL), atol=0.008, rtol=0)


def test_entropy_kl_and_log_prob_against_enumeration() -> None:
    natural, prior = NATURAL[:10], torch.linspace(1, -2, 10, dtype=torch.float64)
    w = states(10)
    q = torch.sigmoid(2 * natural * w).prod(-1)
    p = torch.sigmoid(2 * prior * w).prod(-1)
    posterior, other = (bb.BernoulliPosterior({"a": t[:4], "b": t[4:].view(2, 3)}) for t in (natural, prior))
    torch.testing.assert_close(posterior.kl(other).item(), (q * (q / p).log()).sum().item(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(posterior.kl().item(), (q * (q * 2**10).log()).sum().item(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(posterior.entropy().item() * 10, -(q * q.log2()).sum().item(), rtol=1e-6, atol=1e-6)
    log_prob = posterior.log_prob({"a": w[:, :4], "b": w[:, 4:].reshape(-1, 2, 3)})
    torch.testing.assert_close(log_prob.double(), q.log(), rtol=1e-5, atol=1e-5)
    mean = posterior.mean()
    torch.testing.assert_close(torch.cat([m.flatten() for m in mean.values()]).double(), (q[:, None] * w).sum(0))


def test_entropy_and_kl_do_not_cancel_for_certain_weights() -> None:
    natural = torch.tensor([9.0, 15.0, 30.0], dtype=torch.float64)
    p = 1 / (1 + torch.exp(2 * natural))  # the unlikely side, exact in float64
    exact = -(p * p.log() + (1 - p) * torch.log1p(-p)) / math.log(2)
    torch.testing.assert_close(F.bernoulli_entropy(natural.float()).double(), exact, rtol=1e-5, atol=0)
    assert (1 - torch.tanh(natural.float()) ** 2)[1] == 0  # why sech² is not computed that way
    torch.testing.assert_close(F.sech2(natural.float()).double(), 1 / torch.cosh(natural) ** 2, rtol=1e-5, atol=0)


def released_step(
    lam: Tensor, m: Tensor, u: Tensor, grad, step: int, *, lr, n, tau, beta, prior
) -> tuple[Tensor, Tensor]:
    """The released optimizer's equations, line by line (methods: one sample, current μ)."""
    mu = torch.tanh(lam)
    rho = 0.5 * torch.log(u / (1 - u)) + lam
    w = torch.tanh(rho / tau)
    scale = (1 - w * w + 1e-10) / tau / (1 - mu**2 + 1e-10)
    total = n * scale * grad(w)
    m = beta * m + (1 - beta) * (total + (lam - prior))
    return lam - lr * m / (1 - beta**step), m


@pytest.mark.parametrize(("tau", "beta"), [(1.0, 0.0), (0.1, 0.9), (1e-2, 0.99)])
def test_released_against_its_equations(tau: float, beta: float) -> None:
    torch.manual_seed(0)
    p = torch.nn.Parameter(torch.zeros(40))
    prior = bb.BernoulliPosterior({"0": torch.randn(40)})
    options = {"lr": 0.01, "ess": 30.0, "estimator": "released", "tau": tau, "momentum": beta, "init_lambda": 0.5}
    optimizer = bb.BayesBiNN([p], **options, prior=prior, seed=8)
    lam = optimizer.state[p]["belief"]["natural"].clone()
    m = torch.zeros(40)
    target = torch.randn(40)

    def grad(w: Tensor) -> Tensor:
        return (w - target) / 40

    for step in range(1, 60):
        u = Noise(stream_key(8, 1, step - 1, 0, 0), 40).uniform()
        lam, m = released_step(lam, m, u, grad, step, lr=0.01, n=30.0, tau=tau, beta=beta, prior=prior.natural["0"])
        p.grad = grad(p.detach())
        optimizer.step()
        torch.testing.assert_close(optimizer.state[p]["belief"]["natural"], lam, rtol=2e-3, atol=2e-4)


def test_released_at_tiny_tau_is_its_closed_form() -> None:
    """From ±10 in float32 the equations give scale 1/τ; λ in units of N/τ must follow them."""
    torch.manual_seed(0)
    p = torch.nn.Parameter(torch.zeros(200))
    optimizer = bb.BayesBiNN([p], lr=0.01, ess=54_000.0, estimator="released", seed=8)
    lam = optimizer.state[p]["belief"]["natural"] * (54_000.0 / 1e-10)
    assert torch.allclose(lam.abs(), torch.tensor(10.0))
    m = torch.zeros(200)
    target = torch.randn(200)

    def grad(w: Tensor) -> Tensor:
        return (w - target) / 200

    for step in range(1, 40):
        u = Noise(99 + step, 200).uniform()
        lam, m = released_step(lam, m, u, grad, step, lr=0.01, n=54_000.0, tau=1e-10, beta=0.0, prior=0.0)
        p.grad = grad(p.detach())
        optimizer.step()
        mine = optimizer.state[p]["belief"]["natural"] * (54_000.0 / 1e-10)
        torch.testing.assert_close(mine, lam, rtol=1e-4, atol=1e6)  # steps are near 1e12
        assert torch.equal(F.sign(mine), F.sign(lam))
    assert lam.abs().median() > 1e7


def _signs(optimizer: bb.BinaryOptimizer) -> Tensor:
    return torch.cat([F.sign(p.detach()).flatten() for _, p in optimizer.named_binary()])


def _binary(model: torch.nn.Module) -> list[Tensor]:
    return [p for n, p in model.named_parameters() if n.endswith("weight")]


def _together(first: bb.BinaryOptimizer, second: bb.BinaryOptimizer, models, count: int) -> None:
    x, y = data()
    for _ in range(count):
        for model, optimizer in zip(models, (first, second), strict=True):
            loss(model, x, y).backward()
            optimizer.step()
            optimizer.zero_grad()
        assert torch.equal(_signs(first), _signs(second))


def test_released_at_tiny_tau_has_the_signs_of_bop_at_threshold_zero() -> None:
    models = network(), network()
    first = bb.BayesBiNN(_binary(models[0]), lr=0.05, ess=100.0, estimator="released", seed=3)
    second = bb.Bop(_binary(models[1]), lr=0.05, threshold=0.0, seed=3)
    assert torch.equal(_signs(first), _signs(second))
    _together(first, second, models, 40)


def test_released_at_tau_to_zero_is_ste_with_decay() -> None:
    """The released constant is the whole scale, so the step is STE with SGD and weight decay, in other units of λ."""
    models = network(), network()
    first = bb.BayesBiNN(_binary(models[0]), lr=0.05, ess=100.0, estimator="released", tau=1e-8, seed=3)
    second = bb.STE(
        _binary(models[1]), lr=0.05, inner="sgd", momentum=0.0, weight_decay=1.0, clip=None, seed=5, init="weights"
    )
    for mine, theirs in zip(first.state.values(), second.state.values(), strict=True):
        theirs["belief"]["latent"] = mine["belief"]["natural"].clone()
    second.eval().train()
    before = _signs(first)
    _together(first, second, models, 40)
    assert (_signs(first) != before).float().mean() > 0.2  # so that equal signs say something


def test_concrete_at_tau_to_zero_learns_nothing() -> None:
    """The printed scale (1 − w²) / (τ sech² λ) is almost surely zero, where the released code learns from equal starts.

    Its expectation tends to one as τ → 0: it comes from draws with |λ + δ| of the size of τ, which nobody sees.
    """
    models, changed, x_y = (network(), network()), [], data()
    for model, estimator in zip(models, ("concrete", "released"), strict=True):
        o = {"lr": 1e-3, "ess": 100.0, "tau": 1e-6, "init_lambda": 10.0, "seed": 3}
        optimizer = bb.BayesBiNN(_binary(model), estimator=estimator, **o)
        before = torch.cat([mode.flatten() for _, mode in optimizer.named_mode()])
        for _ in range(200):
            loss(model, *x_y).backward()
            optimizer.step()
            optimizer.zero_grad()
        after = torch.cat([mode.flatten() for _, mode in optimizer.named_mode()])
        changed.append(float((before != after).float().mean()))
    assert changed[0] == 0
    assert changed[1] > 0.2


def concrete_scale(natural: float, tau: float) -> tuple[float, float]:
    """Return the mean of the scale over draws, and the probability of one that is not zero, by quadrature."""
    start = torch.tensor(natural, dtype=torch.float64)
    at = torch.linspace(-1, 1, 400_001, dtype=torch.float64) * 20 * min(1.0, 20 * tau)  # of λ + δ
    density = 0.5 / (at - start).cosh().square()  # of ½·logit of a uniform number, moved by λ
    scale = (1 - (at / tau).tanh().square()) / (tau * F.sech2(start))
    return float(torch.trapezoid(scale * density, at)), float(torch.trapezoid((scale > 1e-6) * density, at))


def test_the_mean_of_the_concrete_scale_tends_to_one_and_is_rarely_seen_at_a_small_tau() -> None:
    for natural in (0.0, 0.7, 3.0):
        for tau in (1e-2, 1e-4):
            mean, seen = concrete_scale(natural, tau)
            assert mean == pytest.approx(1, rel=2e-2 if tau > 1e-3 else 1e-3)
            assert seen < 30 * tau


@pytest.mark.parametrize(("natural", "tau", "mean"), [(0, 1, 2 / 3), (0, 0.1, 0.992), (5, 1, 8.0), (10, 1, 18.0)])
def test_the_mean_of_the_concrete_scale_is_far_from_one_at_the_published_tau(natural, tau, mean) -> None:
    """At τ = 1 and λ = 0, it is the integral of sech⁴ / 2, which is 2/3."""
    assert concrete_scale(natural, tau)[0] == pytest.approx(mean, rel=2e-3)


@pytest.mark.parametrize("inner", ["adam", "sgd"])
def test_ste_against_torchs_optimizers(inner: str) -> None:
    torch.manual_seed(0)
    model, x, y = network(), *data()
    options = {"lr": 0.03, "weight_decay": 0.01}
    optimizer = bb.STE(_binary(model), inner=inner, clip=0.4, seed=3, **options)
    latents = [s["belief"]["latent"].view(p.shape).clone().requires_grad_() for p, s in optimizer.state.items()]
    kind = torch.optim.Adam if inner == "adam" else torch.optim.SGD
    theirs = kind(latents, **options, **({} if inner == "adam" else {"momentum": 0.9}))
    for _ in range(30):
        loss(model, x, y).backward()
        for latent, p in zip(latents, optimizer.state, strict=True):
            latent.grad = p.grad.clone()
        optimizer.step()
        optimizer.zero_grad()
        theirs.step()
        for latent, (p, state) in zip(latents, optimizer.state.items(), strict=True):
            latent.data.clamp_(-0.4, 0.4)
            torch.testing.assert_close(state["belief"]["latent"].view(p.shape), latent.detach(), rtol=1e-4, atol=1e-6)


def _options(**options) -> SimpleNamespace:
    return SimpleNamespace(**options)


def test_bop_by_hand() -> None:
    o = _options(lr=0.5, threshold=0.3, step=1)
    belief = {"sign": torch.tensor([1, 1, -1, -1], dtype=torch.int8), "average": torch.tensor([0.0, 0.4, 0.0, -1.0])}
    new = bb.Bop.update(belief, torch.tensor([1.0, 0.0, 1.0, 0.0]), o)
    torch.testing.assert_close(new["average"], torch.tensor([0.5, 0.2, 0.5, -0.5]))
    assert new["sign"].tolist() == [-1, 1, -1, 1]


def test_bop2ndorder_by_hand() -> None:
    options = {"lr": 0.5, "sigma": 0.25}
    o = _options(**options, **bb.Bop2ndOrder.schedule(options, 2), threshold=0.9, unbiased=False)
    belief = {"sign": torch.ones(2, dtype=torch.int8), "first": torch.zeros(2), "second": torch.tensor([0.0, 4.0])}
    new = bb.Bop2ndOrder.update(belief, torch.tensor([2.0, 2.0]), o)
    torch.testing.assert_close(new["first"], torch.tensor([1.0, 1.0]))
    torch.testing.assert_close(new["second"], torch.tensor([1.0, 4.0]))
    assert new["sign"].tolist() == [-1, 1]  # 1/1 > 0.9, 1/2 is not
    o.unbiased = True  # (1 / 0.75) / √(1 / 0.4375) is 0.88
    assert bb.Bop2ndOrder.update(belief, torch.tensor([2.0, 2.0]), o)["sign"].tolist() == [1, 1]


@pytest.mark.parametrize("jacobian", ["exact", "released"])
def test_pmf_against_two_logits(jacobian: str) -> None:
    """The half-difference of two softmax logits moves as PMF says, for both Jacobians written out as matrices."""
    torch.manual_seed(0)
    logits, beta, gradient = torch.randn(7, 2), 1.7, torch.randn(7)
    values = torch.tensor([-1.0, 1.0])
    u = torch.softmax(beta * logits, -1)
    outer = u[:, :, None] * u[:, None, :]
    matrix = (torch.diag_embed(u) if jacobian == "exact" else torch.eye(2)) - outer
    by_logit = beta * (matrix @ (gradient[:, None] * values)[..., None]).squeeze(-1)
    latent = (logits[:, 1] - logits[:, 0]) / 2
    o = _options(beta=beta, beta_drawn=beta, jacobian=jacobian)
    draw = bb.PMF.draw({"latent": latent}, Noise(0, 7), o)
    torch.testing.assert_close(draw, (u * values).sum(-1))
    mine = bb.PMF.estimate({"latent": latent}, gradient, draw, Noise(0, 7), o)
    torch.testing.assert_close(mine, by_logit[:, 1] - by_logit[:, 0], rtol=1e-4, atol=1e-5)
    if jacobian == "exact":  # and that is what autograd says
        v = latent.clone().requires_grad_()
        (expected,) = torch.autograd.grad((torch.tanh(beta * v) * gradient).sum(), v)
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-5)


def test_pmf_with_weight_decay_is_adam_on_two_logits() -> None:
    torch.manual_seed(0)
    latent, beta = torch.randn(9), 1.3
    logits = torch.nn.Parameter(torch.stack([-latent, latent]))
    adam = torch.optim.Adam([logits], lr=0.05, weight_decay=0.1)
    belief = {"latent": latent, "first": torch.zeros(9), "second": torch.zeros(9)}
    for step in range(1, 31):
        moments = F.adam_options((0.9, 0.999), step)
        o = _options(lr=0.05, beta=beta, beta_drawn=beta, jacobian="exact", weight_decay=0.1, **moments)
        slope = 3 * torch.sin(torch.arange(9.0) + step)
        adam.zero_grad()
        (torch.softmax(beta * logits, 0)[1] * 2 * slope).sum().backward()
        adam.step()
        draw = bb.PMF.draw(belief, Noise(0, 9), o)
        belief = bb.PMF.update(belief, bb.PMF.estimate(belief, slope, draw, Noise(0, 9), o), o)
    torch.testing.assert_close(belief["latent"], (logits[1] - logits[0]).detach() / 2, rtol=1e-4, atol=1e-5)


def test_mirror_descent_is_a_dual_step() -> None:
    """MD with the mirror map's inverse: atanh(w′) = atanh(w) − β·α·direction."""
    torch.manual_seed(0)
    latent, gradient = torch.randn(9) * 0.3, torch.randn(9)
    zero = torch.zeros(9)
    o = _options(lr=0.01, beta=2.0, **F.adam_options((0.9, 0.999), 1))
    belief = {"latent": latent, "first": zero, "second": zero}
    before = bb.MirrorDescent.draw(belief, Noise(0, 9), o)
    after = bb.MirrorDescent.draw(bb.MirrorDescent.update(belief, gradient, o), Noise(0, 9), o)
    # Adam's first direction is the sign of the gradient.
    torch.testing.assert_close(
        torch.atanh(after), torch.atanh(before) - 2.0 * 0.01 * gradient.sign(), rtol=1e-3, atol=1e-5
    )


def test_proxquant_is_the_proximal_map() -> None:
    """The step minimises ½(x − θ)² + κ·||x| − 1| over [−1, 1], found on a grid."""
    theta = torch.tensor([-1.3, -0.97, -0.4, -0.01, 0.02, 0.6, 0.95, 1.0])
    kappa = 0.1
    o = _options(lr=0.5, rate=0.02, step=10, hard=0.0, **F.adam_options((0.9, 0.999), 10))
    zero = torch.zeros_like(theta)
    belief = {"weights": theta, "first": zero, "second": zero}
    new = bb.ProxQuant.update(belief, zero, o)["weights"]
    grid = torch.linspace(-1, 1, 200_001)
    cost = 0.5 * (grid - theta[:, None]) ** 2 + kappa * (grid.abs() - 1).abs()
    torch.testing.assert_close(new, grid[cost.argmin(1)], atol=1e-4, rtol=0)
    o.hard = 1.0
    assert torch.equal(bb.ProxQuant.update(belief, zero, o)["weights"], F.sign(theta))


def test_adaste_by_hand() -> None:
    o = _options(ess=2.0, beta=0.5, beta_drawn=0.5, hard=0.0, a=0.01, dead_zone=1e-3, lr=0.1, momentum=0.0, step=1)
    # Inside: towards a flip, outwards. Outside: towards a flip, outwards, outwards, at most ½. In the dead zone.
    latent = torch.tensor([0.8, 0.8, 6.0, 6.0, -1.5, -1.5, 6.0])
    gradient = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 5e-4])
    w = bb.AdaSTE.draw({"latent": latent}, Noise(0, 7), o)
    torch.testing.assert_close(w, torch.tensor([(0.8 + 0.505) / 1.5] * 2 + [1.0, 1.0, -1.0, -1.0, 1.0]))

    def factors() -> torch.Tensor:
        return bb.AdaSTE.estimate({"latent": latent}, gradient, w, Noise(0, 7), o) / gradient / 4

    flip, inside = 2.005 / 1.5, 1 / 1.5
    expected = [(1.01 - 0.8) / (1.5 * 0.8), inside, flip / 6, 0.0, 0.0, 0.5, inside]
    torch.testing.assert_close(factors(), torch.tensor(expected))
    o.beta_drawn, o.hard = 1 / o.a, 1.0
    latent[0] = 5e-4
    torch.testing.assert_close(factors(), torch.tensor([1.0, 0.0, 1 / 6, 0.0, 0.0, 0.5, 1.0]))
    o.beta = 1 / o.a  # the end of the annealing: w is the sign, however small θ is
    tiny = torch.tensor([-1e-6, 1e-6])
    torch.testing.assert_close(bb.AdaSTE.draw({"latent": tiny}, Noise(0, 2), o), F.sign(tiny), atol=1e-6, rtol=0)


@pytest.mark.parametrize("rule", [bb.AdaSTE, bb.BayesBiNN])
def test_the_first_step_with_momentum_is_that_without(rule: type[bb.BinaryOptimizer]) -> None:
    """What the bias correction is for."""
    beliefs = []
    for momentum in (0.0, 0.9):
        weights = torch.nn.Parameter(torch.zeros(50))
        optimizer = rule([weights], lr=0.1, ess=3, momentum=momentum, seed=0)
        weights.grad = torch.linspace(-1, 1, 50)
        optimizer.step()
        beliefs.append(next(iter(optimizer.state.values()))["belief"])
    name = "natural" if rule is bb.BayesBiNN else "latent"
    torch.testing.assert_close(beliefs[1][name], beliefs[0][name])


def test_ways_with_different_numbers_have_different_folders() -> None:
    rates = (0.01, 0.00123456, 0.00123456781, 0.0012345678100000002)
    scales = (10.0, 1e4, 1234567.0, 1234568.0, 1234569, math.nan)
    ways = [Way("bayesbinn:default", {"lr": lr, "options": {"ess_scale": ess}}) for lr in rates for ess in scales]
    assert len({way.slug for way in ways}) == len(ways)
    assert ways[1].slug == "bayesbinn-default-lr0.01-10000N", "labels that are exact stay short"
