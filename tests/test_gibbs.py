"""The sampler against enumeration in float64, its kernel against torch, and what it refuses."""

from __future__ import annotations

import copy
import itertools
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bitbayes as bb
import needs
from bitbayes.lab.data import load_moons
from bitbayes.lab.studies.toys import EXACT_MOONS, RING, ring

LOSSES = ("binary", "cross-entropy", "squared")
# Networks of 12 binary weights: widths, whether the biases are binary, activation, temperature.
CASES = {
    "tanh": ([3, 3, 1], False, nn.Tanh, 1.0),
    "relu": ([3, 3, 1], False, nn.ReLU, 0.5),
    "tanh, two hidden layers": ([2, 2, 2, 2], False, nn.Tanh, 0.5),
    "relu, two hidden layers": ([2, 2, 2, 2], False, nn.ReLU, 1.0),
    "tanh, binary biases": ([2, 2, 2], True, nn.Tanh, 1.0),
    "linear": ([6, 2], False, nn.Tanh, 1.0),
}

needs_compiler = needs.kernels("gibbs")
both = pytest.mark.parametrize("compile", [pytest.param(True, marks=needs_compiler), False], ids=["kernel", "torch"])


def network(case: str, loss: str) -> tuple[nn.Sequential, list[tuple[str, nn.Parameter]]]:
    """A dense network with real or binary biases in its layers but the last, and its 12 binary parameters."""
    widths, biases, activation, _ = CASES[case]
    generator = torch.Generator().manual_seed(1)
    layers: list[nn.Module] = [nn.Flatten()]
    widths = [2, 3, 2] if loss == "cross-entropy" and widths[-1] == 1 else widths
    for wide, units in itertools.pairwise(widths):
        layers += [nn.Linear(wide, units, bias=biases or len(widths) > 3), activation()]
        if layers[-2].bias is not None:
            layers[-2].bias.data = torch.randn(units, generator=generator)
    model = nn.Sequential(*layers[:-1], bb.nn.LogitScale(0.6))
    binary, _ = bb.split_parameters(model, binary=["*.bias"] if biases else [])
    assert sum(p.numel() for _, p in binary) == 12
    return model, binary


def points(inputs: int, outputs: int, loss: str) -> tuple[Tensor, Tensor]:
    """Eleven points: not a multiple of what the kernel takes at once."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(11, inputs, generator=generator)
    if loss == "cross-entropy":
        return x, torch.randint(outputs, (11,), generator=generator)
    y = torch.randn(11, outputs, generator=generator)
    return x, (y > 0).float() if loss == "binary" else y


def losses_and_outputs(model, binary, rows: Tensor, x: Tensor, y: Tensor, loss: str, noise) -> tuple[Tensor, Tensor]:
    """Total losses (C,) and outputs (C, N, K) of networks, rows of signs, by torch's own layers in float64."""
    parts = rows.split([p.numel() for _, p in binary], 1)
    weights = {name: part.reshape(-1, *p.shape) for (name, p), part in zip(binary, parts, strict=True)}
    precise = copy.deepcopy(model).double()

    def one(signs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        output = torch.func.functional_call(precise, signs, (x.double(),))
        if loss == "binary":
            return nn.functional.binary_cross_entropy_with_logits(output, y.double(), reduction="sum"), output
        if loss == "cross-entropy":
            return nn.functional.cross_entropy(output, y, reduction="sum"), output
        return -torch.distributions.Normal(output, noise).log_prob(y.double()).sum(), output

    with torch.no_grad():
        return torch.func.vmap(one)(weights)


@both
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("case", CASES)
def test_the_posterior_is_that_of_enumeration(case: str, loss: str, compile: bool) -> None:
    """Marginals, pairs, losses and the predictive distribution, each within five standard errors over chains."""
    (model, binary), temperature = network(case, loss), CASES[case][-1]
    layers = [layer for layer in model if isinstance(layer, nn.Linear)]
    x, y = points(layers[0].in_features, layers[-1].out_features, loss)
    noise = 1.3 if loss == "squared" else None
    states = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=12)), dtype=torch.float64)
    losses, outputs = losses_and_outputs(model, binary, states, x, y, loss, noise)
    exact = torch.softmax(-losses / temperature, 0)
    known = np.log(4096) + float(torch.special.xlogy(exact, exact).sum())
    assert 0.3 < known < 7  # nats: the data say something, and leave something open

    sampler = bb.Gibbs(
        *(model, x, y),
        **{"loss": loss, "temperature": temperature, "noise": noise, "binary": binary},
        **{"chains": 128, "seed": 3, "compile": compile},
    )
    assert sampler.implementation == ("kernel" if compile else "eager")
    chains = sampler.run(30, burn_in=15, thin=3)
    members = [chains.posterior.member(index) for index in range(128 * 10)]
    rows = torch.stack([torch.cat([member[name].flatten() for name, _ in binary]) for member in members]).double()
    found_losses, found_outputs = losses_and_outputs(model, binary, rows, x, y, loss, noise)

    def agree(of_states: Tensor, of_draws: Tensor) -> None:
        """Compare exact means with those of the chains, whose spread gives the standard error."""
        wanted = (exact[:, None] * of_states).sum(0)
        means = of_draws.unflatten(0, (128, -1)).mean(1)
        error = means.std(0) / 128**0.5
        assert ((means.mean(0) - wanted).abs() < 5 * error + 1e-3).all()
        assert error.max() < 0.1 * of_states.std(0).max()  # so that the line above can fail

    pairs = list(itertools.combinations(range(12), 2))
    agree(states, rows)
    agree(*(torch.stack([w[:, i] * w[:, j] for i, j in pairs], 1) for w in (states, rows)))
    agree(losses[:, None], found_losses[:, None])
    probs = torch.sin if loss == "squared" else lambda z: bb.Prediction(z).sample_probs
    agree(*(probs(z).flatten(1) for z in (outputs, found_outputs)))
    # What the sampler reports is what belongs to the networks that it returns; a density has a constant more.
    shift = found_losses.view(128, -1) - chains.kept_losses[:, 2::3]
    torch.testing.assert_close(shift, shift.mean().expand_as(shift), rtol=0, atol=3e-5)
    torch.testing.assert_close(chains.outputs(model, x).flatten(0, 1).double(), found_outputs, rtol=0, atol=1e-5)


# The kernel, and what chains depend on. -------------------------------------------------------------------------------


def sampler(widths: list[int], count: int, *, loss: str = "binary", **options) -> bb.Gibbs:
    """A sampler of a network that is drawn anew, with binary weights and biases."""
    generator = torch.Generator().manual_seed(5)
    layers = [
        m for a, b in itertools.pairwise(widths) for m in (nn.Linear(a, b), nn.Tanh(), nn.Linear(b, b), nn.ReLU())
    ]
    model = nn.Sequential(*layers[:-1])
    x = torch.randn(count, widths[0], generator=generator)
    y = torch.randint(widths[-1], (count,), generator=generator)
    y = y if loss == "cross-entropy" else torch.rand(count, widths[-1], generator=generator)
    return bb.Gibbs(model, x, y, loss=loss, binary=list(model.named_parameters()), **options)


def signs(chains: bb.Chains) -> Tensor:
    """All kept signs, shape (chains, draws, weights)."""
    members = [chains.posterior.member(index) for index in range(len(chains.posterior))]
    return torch.stack([torch.cat([w.flatten() for w in m.values()]) for m in members]).unflatten(0, (-1, chains.draws))


@needs_compiler
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("widths", "count"), [([5, 4], 1), ([3, 7, 2], 16), ([4, 6, 5, 3], 33), ([2, 12], 80)])
def test_the_kernel_decides_as_torch_does(widths: list[int], count: int, loss: str) -> None:
    """For as many layers, and for numbers of points that do and do not fill its vectors."""
    options = {"noise": 3.0 if loss == "squared" else None, "chains": 3, "seed": 11}
    runs = [sampler(widths, count, loss=loss, compile=compile, **options).run(6) for compile in (True, False)]
    assert torch.equal(*map(signs, runs))
    torch.testing.assert_close(runs[0].losses, runs[1].losses, rtol=3e-6, atol=3e-5)
    assert (signs(runs[0]).diff(dim=1) != 0).any()  # so that equal signs say something


@needs_compiler
def test_the_kernel_computes_losses_of_large_and_small_outputs() -> None:
    """As far as float32 goes: from outputs of 1e-4, near the straight part of tanh, to outputs that are sure."""
    for gain in (1e-4, 1.0, 10.0, 200.0):
        for loss in LOSSES:
            model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Tanh(), nn.Linear(1, 3), bb.nn.LogitScale(gain))
            x = torch.linspace(-12, 12, 2001)[:, None]
            y = torch.arange(2001) % 3 if loss == "cross-entropy" else torch.rand(2001, 3)
            options = {"loss": loss, "noise": 0.5 if loss == "squared" else None, "chains": 2}
            found, wanted = (bb.Gibbs(model, x, y, compile=c, **options).run(1).losses for c in (True, False))
            torch.testing.assert_close(found, wanted, rtol=2e-6, atol=1e-5)


@needs_compiler
def test_networks_that_are_too_deep_for_the_kernel_run_in_torch() -> None:
    for layers, name in ((64, "kernel"), (65, "eager")):
        model = nn.Sequential(*(nn.Linear(1, 1, bias=False) for _ in range(layers)))
        one = bb.Gibbs(model, torch.ones(2, 1), torch.ones(2), chains=1)
        assert one.implementation == name and one.run(1).losses.isfinite().all()


@both
def test_chains_depend_on_the_seed_alone(compile: bool) -> None:
    def run(**options) -> bb.Gibbs:
        return sampler([3, 4], 20, compile=compile, **{"chains": 4, "seed": 7, **options})

    whole = run().run(9, burn_in=3)
    fewer = run(chains=2).run(9, burn_in=3)
    assert torch.equal(signs(whole)[:2], signs(fewer)) and torch.equal(whole.losses[:2], fewer.losses)
    parts = run()
    first = parts.run(2, burn_in=3)
    other = run()
    other.load_state_dict(copy.deepcopy(parts.state_dict()))
    rest = parts.run(7)
    assert torch.equal(torch.cat([signs(first), signs(rest)], 1), signs(whole))
    assert torch.equal(torch.cat([first.losses, rest.losses], 1), whole.losses)
    assert torch.equal(signs(other.run(7)), signs(rest)) and other.sweeps == 12
    assert not torch.equal(signs(run(seed=8).run(9, burn_in=3)), signs(whole))
    assert len({tuple(row) for row in run().state_dict()["signs"].tolist()}) == 4  # they start from random signs
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(signs(run().run(9, burn_in=3)), signs(whole))
    finally:
        torch.set_num_threads(before)
    with pytest.raises(ValueError, match=r"the state has the shape \(chains, weights\) = \(4, "):
        run(chains=3).load_state_dict(parts.state_dict())


def test_thinning_keeps_the_end_of_every_group_of_sweeps() -> None:
    dense, thin = sampler([3, 4], 10).run(9, burn_in=2), sampler([3, 4], 10).run(9, burn_in=2, thin=4)
    assert (dense.draws, thin.draws) == (9, 2)
    assert torch.equal(signs(thin), signs(dense)[:, [3, 7]])
    assert torch.equal(thin.losses, dense.losses) and thin.kept_losses.shape == (4, 9)


def test_the_temperature_falls_geometrically_during_burn_in(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, one = [], sampler([2, 3], 5, temperature=0.5, compile=False)
    plain = one._sweep

    def spy(vectors: Tensor, noise: Tensor, temperature: float) -> Tensor:
        seen.append(temperature)
        return plain(vectors, noise, temperature)

    monkeypatch.setattr(one, "_sweep", spy)
    one.run(2, burn_in=3, start_temperature=50.0)
    assert seen == pytest.approx([50.0, 5.0, 0.5, 0.5, 0.5])
    one.run(1, burn_in=2, start_temperature=50.0)
    assert seen[-3:] == pytest.approx([50.0, 0.5, 0.5])


def test_real_parameters_scales_and_the_network_are_left_alone() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), bb.nn.keep_real(nn.Linear(3, 1)))
    before, scale = copy.deepcopy(model.state_dict()), {"0.weight": torch.rand(3, 2) + 0.5}
    x, y = torch.randn(20, 2), torch.rand(20)
    for compile in (True, False):
        chains = bb.Gibbs(model, x, y, scale=scale, chains=2, seed=1, compile=compile).run(5)
        assert set(chains.posterior.shapes) == {"0.weight"}
        assert torch.equal(chains.posterior.member(0)["0.weight"].abs(), scale["0.weight"])
        outputs = chains.outputs(model, x)[:, -1, :, 0]
        wanted = [nn.functional.binary_cross_entropy_with_logits(o, y, reduction="sum") for o in outputs]
        torch.testing.assert_close(chains.losses[:, -1].float(), torch.stack(wanted), rtol=1e-5, atol=1e-5)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())


# Refusals. ------------------------------------------------------------------------------------------------------------

X, Y = torch.zeros(4, 2), torch.zeros(4)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)], "layer '1' is BatchNorm1d; Gibbs reads"),
        ([nn.Linear(2, 3), nn.Sequential(nn.Tanh(), nn.Dropout(0.2)), nn.Linear(3, 1)], "layer '1.1' is Dropout"),
        ([nn.Tanh(), nn.Linear(2, 1)], "layer '0' is Tanh"),
        ([nn.Linear(2, 3), nn.Tanh(), nn.ReLU(), nn.Linear(3, 1)], "layer '2' is ReLU"),
        ([nn.Flatten(0), nn.Linear(2, 1)], "layer '0' is Flatten"),
        ([nn.Linear(2, 1), nn.Tanh()], "the last layer must be Linear or LogitScale, got Tanh"),
        ([nn.Linear(2, 1), bb.nn.LogitScale(), nn.Tanh()], r"layer '2' \(Tanh\) follows '1', which must be the last"),
        ([nn.Linear(2, 3), nn.Linear(4, 1)], "'0' has 3 outputs, but '1' takes 4 inputs"),
        ([nn.Flatten()], "the network has no Linear layer"),
    ],
)
def test_other_networks_are_refused_by_name(layers: list[nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bb.Gibbs(nn.Sequential(*layers), X, Y)


def test_networks_that_are_no_sequence_or_share_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Gibbs reads an nn\.Sequential of dense layers, got Linear"):
        bb.Gibbs(nn.Linear(2, 1), X, Y)
    twice = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="several layers share a parameter"):
        bb.Gibbs(nn.Sequential(twice, nn.Tanh(), twice), X, Y.repeat(2, 1).T)
    model = nn.Sequential(nn.Linear(2, 1), bb.nn.LogitScale())
    with pytest.raises(ValueError, match=r"\['1.log_scale'\] are not weights or biases"):
        bb.Gibbs(model, X, Y, binary=list(model.named_parameters()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "hinge"}, "loss must be one of 'binary', 'cross-entropy', 'squared', got 'hinge'"),
        ({"temperature": 0.0}, r"temperature must be positive and finite, got 0\.0"),
        ({"temperature": float("nan")}, "temperature must be positive and finite, got nan"),
        ({"chains": 0}, "chains must be a whole number of at least 1, got 0"),
        ({"noise": 1.0}, "loss='binary' takes no noise"),
        ({"loss": "squared"}, "loss='squared' needs noise=σ"),
        ({"loss": "squared", "noise": 0.0}, r"noise must be positive and finite, got 0\.0"),
        ({"x": torch.zeros(4, 3)}, r"x must have the shape \(N, 2\) with N of at least 1, got \(4, 3\)"),
        ({"x": torch.zeros(0, 2), "y": torch.zeros(0)}, r"with N of at least 1, got \(0, 2\)"),
        ({"x": torch.full((4, 2), torch.inf)}, "x and y must be finite"),
        ({"y": torch.zeros(3)}, "x has 4 points and y has 3"),
        ({"y": torch.zeros(4, 2)}, r"y must have the shape \(N, 1\), got \(4, 2\)"),
        ({"y": torch.full((4,), 1.5)}, r"y must be in \[0, 1\] for loss='binary', got 1\.5 to 1\.5"),
        ({"loss": "cross-entropy"}, r"y must hold whole numbers from 0 to 0, shape \(N,\), for cross-entropy"),
        ({"loss": "cross-entropy", "y": torch.ones(4, dtype=torch.long)}, "whole numbers from 0 to 0"),
        ({"scale": {"0.weight": torch.zeros(1)}}, "the scale of '0.weight' must be positive"),
        ({"scale": {"weight": torch.ones(1)}}, "scales for unknown tensors"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bb.Gibbs(nn.Sequential(nn.Linear(2, 1)), **({"x": X, "y": Y} | options))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sweeps": 0}, "sweeps must be at least thin, .* got sweeps=0, thin=1, burn_in=0"),
        ({"sweeps": 3, "thin": 4}, "got sweeps=3, thin=4"),
        ({"sweeps": 3, "burn_in": -1}, "burn_in=-1"),
        (
            {"sweeps": 3, "start_temperature": 9.0},
            "start_temperature has no effect without a burn_in of at least 2, got 0",
        ),
        ({"sweeps": 3, "burn_in": 2, "start_temperature": -9.0}, r"must be positive and finite, got -9\.0"),
    ],
)
def test_bad_runs_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sampler([2, 3], 5).run(**arguments)


# Diagnostics. ---------------------------------------------------------------------------------------------------------


def split_rhat(values: Tensor) -> Tensor:
    """The split R-hat of Gelman et al. (Bayesian Data Analysis, third edition, section 11.4), without ranks."""
    count = values.shape[1] // 2
    halves = torch.cat([values[:, :count], values[:, -count:]]).double()
    within, between = halves.var(1).mean(0), halves.mean(1).var(0)
    return ((count - 1) / count + between / within).sqrt()


def test_arviz_gets_chains_and_draws_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its functions replaced, because it need not be installed."""
    seen: list[np.ndarray] = []

    def spy(values: np.ndarray, *, chain_axis: int, draw_axis: int) -> np.ndarray:
        seen.append(values)
        return values.mean((chain_axis, draw_axis))

    stats = SimpleNamespace(rhat=spy, ess=lambda values, **axes: -spy(values, **axes))
    monkeypatch.setitem(sys.modules, "arviz_stats.base", SimpleNamespace(array_stats=stats))
    chains = bb.Chains(bb.SamplePosterior({"w": torch.ones(6, 2)}), torch.arange(10.0).view(2, 5), burn_in=2)
    assert (float(chains.rhat()), float(chains.ess())) == (5.5, -5.5)
    assert seen[0].dtype == np.float64 and seen[0].tolist() == [[2, 3, 4], [7, 8, 9]]
    assert chains.rhat(torch.ones(2, 3, 4, 1)).shape == (4, 1)
    for wrong in (torch.ones(2), torch.ones(3, 2)):
        with pytest.raises(ValueError, match=r"values must have the shape \(2, draws, ...\), got"):
            chains.rhat(wrong)
    monkeypatch.setitem(sys.modules, "arviz_stats.base", None)
    with pytest.raises(ImportError, match=r"arviz_stats.base is not installed; run: pip install .*\[diagnostics\]"):
        chains.ess()


@needs.DIAGNOSTICS.unless_installed("arviz_stats")
def test_arviz_tells_chains_that_agree_from_chains_that_do_not() -> None:
    same = torch.randn(4, 500, generator=torch.Generator().manual_seed(0))
    chains = bb.Chains(bb.SamplePosterior({"w": torch.ones(2000, 1)}), same, burn_in=0)
    assert float(chains.rhat()) < 1.01 and 1000 < float(chains.ess()) < 4000
    both = torch.stack([same, same + torch.arange(4.0)[:, None]], 2)
    assert (chains.rhat(both) > 1.01).tolist() == [False, True]


@needs_compiler
@pytest.mark.slow
def test_chains_of_two_moons_agree() -> None:
    """On the BayesBiNN paper's network and points, with the figures that tables and pictures print."""
    model, data = bb.nn.synthetic_mlp(2, norm_output=False), load_moons()
    one = bb.Gibbs(model, data.train.x, data.train.y, binary=list(model.named_parameters()), chains=8, seed=0)
    chains = one.run(600, burn_in=200, thin=5)
    assert float(split_rhat(chains.kept_losses)) < 1.02
    assert float(chains.kept_losses.mean()) == pytest.approx(5.6, abs=0.3)
    logits, far = chains.outputs(model, torch.cat([data.test.x, ring(RING)])).split([1000, 360], 2)
    assert float(split_rhat(logits[:, :, ::20]).max()) < 1.1
    prediction = bb.Prediction(logits.flatten(0, 1))
    probability = prediction.probs.clamp(1e-7, 1 - 1e-7)
    nll = nn.functional.binary_cross_entropy(probability, data.test.y)
    assert float(nll) == pytest.approx(EXACT_MOONS.nll, abs=0.003)
    accuracy = ((prediction.probs > 0.5) == (data.test.y > 0.5)).float().mean()
    assert float(accuracy) == pytest.approx(EXACT_MOONS.accuracy, abs=0.003)
    assert float(prediction.entropy.mean()) == pytest.approx(EXACT_MOONS.entropy_on_data, abs=0.005)
    entropy = bb.Prediction(far.flatten(0, 1)).entropy.mean()
    assert float(entropy) == pytest.approx(EXACT_MOONS.entropy_on_ring, abs=0.01)


@pytest.mark.parametrize("compile", [True, False])
def test_chains_do_not_depend_on_the_default_type(compile: bool) -> None:
    x, y = torch.randn(20, 2, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 2
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Tanh(), nn.Linear(3, 1, bias=False))

    def losses() -> Tensor:
        return bb.Gibbs(model, x, y.to(x.dtype), chains=2, seed=1, compile=compile).run(5).losses

    plain = losses()
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(losses(), plain)
    finally:
        torch.set_default_dtype(torch.float32)


def test_real_parameters_must_be_finite() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    x, y = torch.randn(9, 2), torch.rand(9)
    assert model[0].bias is not None
    model[0].bias.data[1] = math.nan
    with pytest.raises(ValueError, match=r"'0.bias' is a real parameter with NaN or infinity"):
        bb.Gibbs(model, x, y)
    model[0].bias.data[1] = 0.0
    with pytest.raises(ValueError, match="no binary weight to sample"):
        bb.Gibbs(model, x, y, binary=[])
    zeros, ones = (bb.Gibbs(model, x, y, chains=2) for _ in range(2))
    zeros.load_state_dict({"sweeps": 0, "signs": torch.zeros(2, 9)})  # 0 counts as +1
    ones.load_state_dict({"sweeps": 0, "signs": torch.ones(2, 9)})
    assert torch.equal(zeros.run(3).losses, ones.run(3).losses)


def test_a_network_with_a_forward_hook_is_refused() -> None:
    """A hook may change what a layer returns, which the sampler does not see."""
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    for place, name in ((model[1], "1"), (model, "the network")):
        hook = place.register_forward_hook(lambda module, inputs, output: 2 * output)
        with pytest.raises(ValueError, match=f"Gibbs does not run forward hooks, but {name} has one; remove it"):
            bb.Gibbs(model, torch.randn(4, 2), torch.ones(4), loss="binary")
        hook.remove()
    hook = nn.modules.module.register_module_forward_hook(lambda module, inputs, output: 2 * output)
    try:
        with pytest.raises(ValueError, match="Gibbs does not run forward hooks"):
            bb.Gibbs(model, torch.randn(4, 2), torch.ones(4), loss="binary")
    finally:
        hook.remove()
