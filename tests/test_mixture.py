"""Mixtures of posteriors: their formulas, their stratified samples, their files and refusals; packing of both."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import bitbayes as bb

SHAPES = {"a.weight": (3, 5), "b.weight": (4, 2)}
SCALE = {"a.weight": torch.tensor(0.5)}


def normal(seed: int, *lead: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(*lead, *shape, generator=generator) for name, shape in SHAPES.items()}


def components() -> list[bb.Posterior]:
    return [
        bb.BernoulliPosterior(normal(0), SCALE),
        bb.LowRankGaussianPosterior(normal(1), normal(2, 3), SCALE, shared="network"),
        bb.SamplePosterior(normal(3, 6), SCALE, [1, 2, 3, 4, 5, 6]),
    ]


@pytest.mark.parametrize("weights", [None, [0.5, 0.2, 0.3], [4.0, 0.0, 1.0]])
def test_marginals_are_mixed(weights: list[float] | None) -> None:
    parts = components()
    q = bb.Mixture(parts, weights)
    w = torch.tensor(weights or [1.0, 1.0, 1.0], dtype=torch.float64)
    w = w / w.sum()
    torch.testing.assert_close(q.weights, w)
    for name in SHAPES:
        p = sum(weight * part.probabilities()[name].double() for weight, part in zip(w, parts, strict=True))
        torch.testing.assert_close(q.probabilities()[name].double(), p, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(q.mean()[name].double(), (2 * p - 1) * q.scale[name], rtol=1e-4, atol=1e-5)
        assert torch.equal(q.mode()[name], torch.where(p >= 0.5, 1.0, -1.0) * q.scale[name])
        assert torch.equal(q.marginals().natural[name], q.natural[name])
        assert torch.equal(q.marginals().scale[name], q.scale[name])
    p = torch.cat([t.flatten() for t in q.probabilities().values()]).double()
    expected = (torch.special.entr(p) + torch.special.entr(1 - p)).mean() / math.log(2)
    torch.testing.assert_close(q.entropy().double(), expected, rtol=1e-5, atol=1e-6)


def test_a_mixture_of_one_is_that_one() -> None:
    sure = bb.BernoulliPosterior({"w": torch.tensor([0.0, 1.0, -40.0, 300.0])})
    q = bb.Mixture([sure])
    assert torch.equal(q.natural["w"], sure.natural["w"])
    even = bb.Mixture([sure, bb.BernoulliPosterior({"w": -sure.natural["w"]})])
    assert torch.equal(even.natural["w"], torch.zeros(4)) and even.entropy() == 1


def test_log_prob_is_the_mixed_probability() -> None:
    first, second = bb.BernoulliPosterior(normal(0), SCALE), bb.SamplePosterior(normal(3, 6), SCALE)
    q = bb.Mixture([first, second], [3, 1])
    asked = {name: torch.cat([normal(3, 6)[name], normal(9, 4)[name]]) for name in SHAPES}
    p = 0.75 * first.log_prob(asked).double().exp() + 0.25 * second.log_prob(asked).double().exp()
    torch.testing.assert_close(q.log_prob(asked), p.log().float())
    one = {name: tensor[2] for name, tensor in asked.items()}
    torch.testing.assert_close(q.log_prob(one), p[2].log().float())
    assert bb.Mixture([second, second]).log_prob({n: t[-1] for n, t in asked.items()}) == -math.inf
    with pytest.raises(TypeError, match="LowRankGaussianPosterior has no log-probability in closed form"):
        bb.Mixture(components()).log_prob(one)
    assert bb.Mixture(components(), [1, 0, 1]).log_prob(one).isfinite()  # a component without weight is not asked
    with pytest.raises(TypeError, match=r"use marginals\(\)\.kl\(\)"):
        q.kl()


def source(weights: dict[str, Tensor], bags: list[dict[str, Tensor]]) -> int:
    """Which bag of networks a network is from."""
    (found,) = (k for k, bag in enumerate(bags) if (bag["w"] == weights["w"]).all(1).any())
    return found


def test_samples_are_stratified_and_visit_every_network() -> None:
    """With four bags of eight, thirty-two samples are all networks, each once, whatever the seed."""
    torch.manual_seed(0)
    bags = [{"w": torch.randn(8, 40).sign()} for _ in range(4)]
    every = sorted(row.tolist() for bag in bags for row in bag["w"])
    q = bb.Mixture([bb.SamplePosterior(bag) for bag in bags])
    drawn = {seed: q.sample(64, seed=seed)["w"] for seed in (0, 1)}
    for found in drawn.values():
        assert sorted(found[:32].tolist()) == sorted(found[32:].tolist()) == every
        assert Counter(source({"w": row}, bags) for row in found[:20]) == dict.fromkeys(range(4), 5)
    assert not torch.equal(drawn[0], drawn[1])
    weighted = bb.Mixture([bb.SamplePosterior(bag) for bag in bags], [8, 4, 2, 2])
    found = [weighted.sample_at(index, seed=3) for index in range(16)]
    assert Counter(source(weights, bags) for weights in found) == {0: 8, 1: 4, 2: 2, 3: 2}
    assert len({tuple(weights["w"].tolist()) for weights in found}) == 16  # and no network twice


def test_equal_components_are_sampled_independently() -> None:
    q = bb.Mixture([bb.BernoulliPosterior({"w": torch.zeros(64)})] * 2)
    first, second = q.sample(2)["w"]
    assert 0.2 < (first == second).float().mean() < 0.8


def test_samples_have_the_marginals() -> None:
    q = bb.Mixture(components(), [0.5, 0.2, 0.3])
    drawn = q.sample(4000, seed=1)
    for name, p in q.probabilities().items():
        assert ((drawn[name] > 0).float().mean(0) - p).abs().max() < 0.05
        assert torch.equal(q.sample_at(5, seed=1)[name], drawn[name][5])


def test_samples_are_written_into_tensors_of_an_earlier_one() -> None:
    q = bb.Mixture(components())
    room = {name: tensor.bfloat16() for name, tensor in q.sample_at(0).items()}
    for index in range(3):
        found = q.sample_at(index, out=room)
        assert all(found[name] is room[name] for name in room)
        assert all(torch.equal(room[name], tensor.bfloat16()) for name, tensor in q.sample_at(index).items())


def test_mixtures_of_mixtures_are_flat() -> None:
    first, second, third = components()
    q = bb.Mixture([bb.Mixture([first, second], [1, 3]), third], [1, 1])
    assert q.components == (first, second, third)
    torch.testing.assert_close(q.weights, torch.tensor([0.125, 0.375, 0.5], dtype=torch.float64))


def test_a_prior_for_the_next_task() -> None:
    layer = nn.Linear(5, 3, bias=False)
    optimizer = bb.BayesBiNN([("weight", layer.weight)], ess=10, seed=0)
    samples = bb.SamplePosterior({"weight": torch.randn(4, 3, 5)})
    mixture = bb.Mixture([samples, bb.BernoulliPosterior({"weight": torch.randn(3, 5)})])
    for prior in (samples.marginals(smoothing=0.5), mixture.marginals()):
        optimizer.set_prior(prior)
        stored = optimizer.state[layer.weight]["belief"]["prior"]
        assert torch.equal(stored, prior.natural["weight"].reshape(-1))
    with pytest.raises(TypeError, match="must be a BernoulliPosterior"):
        optimizer.set_prior(mixture)


# Files. -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [None, [0.5, 0.2, 0.3]])
def test_save_and_load_are_bit_exact(weights: list[float] | None, tmp_path: Path) -> None:
    q = bb.Mixture(components(), weights)
    q.save(tmp_path / "q")
    for again in (bb.load_posterior(tmp_path / "q"), bb.Mixture.load(tmp_path / "q"), q.to("cpu")):
        assert isinstance(again, bb.Mixture) and list(map(type, again.components)) == list(map(type, q.components))
        assert torch.equal(again.weights, q.weights)
        for name, drawn in q.sample(9, seed=4).items():
            assert torch.equal(again.sample(9, seed=4)[name], drawn)
            assert torch.equal(again.natural[name], q.natural[name])
    with pytest.raises(ValueError, match=r"its format is 'bitbayes\.mixture\.1'"):
        bb.SamplePosterior.load(tmp_path / "q")


REMOVED = object()


@pytest.mark.parametrize(
    ("change", "about", "words"),
    [
        ({"1.center/a.weight": REMOVED}, {}, "component 1: center and factors must have the same names"),
        ({"2.bits/a.weight": torch.ones(6, 9, dtype=torch.uint8)}, {}, "component 2: samples of 'a.weight' have 9"),
        ({"0.scale/a.weight": torch.tensor(2)}, {}, "component 0: the scale of 'a.weight' must be floating point"),
        ({"0.scale/a.weight": torch.tensor(2.0)}, {}, "the scale of 'a.weight' differs between component 0 and"),
        ({}, {"1.format": "bitbayes.mixture.1"}, "component 1 is a mixture itself"),
        ({}, {"1.format": "other"}, "its format is 'other', expected one of"),
        ({}, {"1.format": REMOVED}, "its format is ''"),
        ({}, {"1.shared": REMOVED}, "component 1: it has no shared"),
        ({"9.natural/a.weight": torch.ones(3, 5)}, {}, "it has no component 3, but 4 components"),
        ({"weights/members": torch.ones(2)}, {}, r"weights have shape \(2,\), expected \(3,\), one per component"),
        ({"weights/members": torch.tensor([1.0, math.inf, 1.0])}, {}, "weights must be finite"),
    ],
)
def test_hostile_files_are_one_clear_line(change: dict, about: dict, words: str, tmp_path: Path) -> None:
    q = bb.Mixture(components())
    parts, texts = q.parts()
    tensors = {f"{part}/{name}": tensor for part, named in parts.items() for name, tensor in named.items()} | change
    texts = {"format": q.FORMAT} | texts | about
    whole = {key: tensor.clone() for key, tensor in tensors.items() if tensor is not REMOVED}
    save_file(whole, str(tmp_path / "q"), {key: text for key, text in texts.items() if text is not REMOVED})
    with pytest.raises(ValueError, match=words) as caught:
        bb.load_posterior(tmp_path / "q")
    assert str(tmp_path / "q") in str(caught.value) and "\n" not in str(caught.value)


def test_an_empty_mixture_is_no_file(tmp_path: Path) -> None:
    save_file({"weights/members": torch.ones(1)}, str(tmp_path / "q"), {"format": bb.Mixture.FORMAT})
    with pytest.raises(ValueError, match="needs at least one component"):
        bb.load_posterior(tmp_path / "q")


def test_refusals() -> None:
    first = components()[0]
    with pytest.raises(ValueError, match="at least one component, got none"):
        bb.Mixture([])
    with pytest.raises(TypeError, match="component 1 must be a posterior, got dict"):
        bb.Mixture([first, {}])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="component 1 name different tensors"):
        bb.Mixture([first, bb.BernoulliPosterior({"w": torch.zeros(2)})])
    with pytest.raises(ValueError, match=r"'a\.weight' has shape"):
        bb.Mixture([first, bb.BernoulliPosterior({"a.weight": torch.zeros(5, 3), "b.weight": torch.zeros(4, 2)})])
    with pytest.raises(ValueError, match=r"the scale of 'a\.weight' differs between component 0 and component 1"):
        bb.Mixture([first, bb.BernoulliPosterior(normal(0))])
    bb.Mixture([first, bb.BernoulliPosterior(normal(0), {"a.weight": torch.full((3, 1), 0.5)})])
    with pytest.raises(ValueError, match="one per component"):
        bb.Mixture([first], [1, 2])


# Packing. -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["samples", "mixture"])
def test_packed_networks_are_the_same_on_all_backends(kind: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
    model(torch.randn(50, 5) * 3 + 1)
    names = {"0.weight": (6, 5), "3.weight": (3, 6)}
    samples = bb.SamplePosterior(
        {name: torch.randn(5, *shape) for name, shape in names.items()}, weights=[1, 2, 3, 4, 5]
    )
    bernoulli = bb.BernoulliPosterior({name: torch.randn(shape) for name, shape in names.items()})
    posterior = samples if kind == "samples" else bb.Mixture([samples, bernoulli])
    x = torch.randn(7, 5)
    wanted = bb.predict(model, x, posterior, 8, seed=2).outputs.numpy()
    packed = bb.pack(model, x, posterior, 8, seed=2)
    for backend in ("reference", "native", "torch"):
        found = np.asarray(bb.packed.load(packed, backend).outputs(x.numpy() if backend != "torch" else x))
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_a_component_may_be_there_twice(tmp_path: Path) -> None:
    part = components()[0]
    q = bb.Mixture([part, components()[2], part])
    q.save(tmp_path / "q.safetensors")
    again = bb.Mixture.load(tmp_path / "q.safetensors")
    assert all(torch.equal(again.sample(9)[name], drawn) for name, drawn in q.sample(9).items())
