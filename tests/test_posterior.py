"""Files, samples and refusals of the posterior; its formulas are checked in `test_truth.py`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import bitbayes as bb
from bitbayes.posterior import load_posterior


def posterior() -> bb.BernoulliPosterior:
    natural = {"a.weight": torch.randn(3, 5), "b.weight": torch.randn(4, 2, 3, 3)}
    return bb.BernoulliPosterior(natural, {"b.weight": torch.rand(4, 1, 1, 1) + 0.1})


def test_save_and_load_are_bit_exact(tmp_path: Path) -> None:
    q = posterior()
    q.save(tmp_path / "q.safetensors")
    again = bb.BernoulliPosterior.load(tmp_path / "q.safetensors")
    for name in q.natural:
        assert torch.equal(q.natural[name], again.natural[name]) and torch.equal(q.scale[name], again.scale[name])
    assert all(torch.equal(q.sample(3)[n], again.sample(3)[n]) for n in q.natural)


def test_samples_have_the_right_frequencies_and_scales() -> None:
    q = posterior()
    draws = q.sample(4000, seed=2)
    for name, p in q.probabilities().items():
        assert torch.equal(draws[name].abs(), q.scale[name].expand(p.shape).expand(4000, *p.shape))
        frequency = (draws[name] > 0).float().mean(0)
        assert ((frequency - p).abs() < 5 * (p * (1 - p) / 4000).sqrt() + 1e-3).all()


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("family", ["bernoulli", "low rank"])
def test_draws_into_the_tensors_of_an_earlier_one(family: str, scaled: bool) -> None:
    center, scale = posterior().natural, posterior().scale if scaled else None
    factors = {name: torch.randn(2, *tensor.shape) for name, tensor in center.items()}
    one = bb.BernoulliPosterior(center, scale)
    q = one if family == "bernoulli" else bb.LowRankGaussianPosterior(center, factors, scale)
    room = q.sample_at(0)
    first = {name: tensor.clone() for name, tensor in room.items()}
    again = q.sample_at(1, out=room)
    for name in room:
        assert again[name] is room[name] and torch.equal(room[name], q.sample(2)[name][1])
        assert not torch.equal(room[name], first[name])
        assert torch.equal(room[name].abs(), q.scale[name].expand_as(room[name]))
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        narrow = q.sample_at(2, out={name: tensor.to(dtype) for name, tensor in room.items()})
        for name, drawn in q.sample_at(2).items():
            assert narrow[name].dtype == dtype and torch.equal(narrow[name], drawn.to(dtype))
    with pytest.raises(ValueError, match=r"name different tensors: only the posterior has \['b.weight'\]"):
        q.sample_at(0, out={"a.weight": torch.ones(3, 5)})
    with pytest.raises(ValueError, match=r"'a.weight' has shape .* in out"):
        q.sample_at(0, out={**room, "a.weight": torch.ones(5, 3)})


def test_it_is_a_copy() -> None:
    natural = torch.zeros(3)
    q = bb.BernoulliPosterior({"w": natural})
    natural.fill_(9.0)
    assert q.natural["w"].abs().max() == 0
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = bb.BayesBiNN([("w", p)], ess=1.0, seed=0)
    before = optimizer.posterior()
    kept = before.natural["w"].clone()
    p.grad = torch.ones(3)
    optimizer.step()
    assert torch.equal(before.natural["w"], kept)


def test_kl_is_zero_only_for_itself() -> None:
    q = posterior()
    assert q.kl(q) == 0 and q.kl() > 0
    moved = bb.BernoulliPosterior({n: t + 0.1 for n, t in q.natural.items()})
    assert q.kl(moved) > 0


def test_refusals(tmp_path: Path) -> None:
    q = posterior()
    with pytest.raises(ValueError, match="needs at least one tensor"):
        bb.BernoulliPosterior({})
    with pytest.raises(ValueError, match=r"must be floating point, got torch.int64"):
        bb.BernoulliPosterior({"w": torch.ones(2, dtype=torch.int64)})
    with pytest.raises(ValueError, match="'w' contain NaN"):
        bb.BernoulliPosterior({"w": torch.tensor([float("nan")])})
    with pytest.raises(ValueError, match="must be positive"):
        bb.BernoulliPosterior({"w": torch.ones(2)}, {"w": torch.zeros(())})
    with pytest.raises(ValueError, match="unknown tensors"):
        bb.BernoulliPosterior({"w": torch.ones(2)}, {"v": torch.ones(())})
    with pytest.raises(ValueError, match="count must be at least 1"):
        q.sample(0)
    with pytest.raises(ValueError, match="weights are named"):
        q.log_prob({"a.weight": torch.ones(3, 5)})
    with pytest.raises(ValueError, match="has shape"):
        q.log_prob({"a.weight": torch.ones(3, 4), "b.weight": torch.ones(4, 2, 3, 3)})
    with pytest.raises(ValueError, match="name different tensors"):
        q.kl(bb.BernoulliPosterior({"w": torch.ones(2)}))
    (tmp_path / "junk").write_bytes(b"junk")
    with pytest.raises(ValueError, match="is not a saved posterior"):
        bb.BernoulliPosterior.load(tmp_path / "junk")
    save_file({"w": torch.ones(2)}, str(tmp_path / "model"))
    with pytest.raises(ValueError, match="its format is None"):
        bb.BernoulliPosterior.load(tmp_path / "model")


@pytest.mark.parametrize("size", [1e-4, 1e-3, 1.0])
def test_kl_of_many_weights_that_hardly_know_anything(size: float) -> None:
    natural = size * torch.randn(1_000_000, generator=torch.Generator().manual_seed(0))
    exact = natural.double()
    up = torch.sigmoid(2 * exact)
    entropy = -(up * up.log() + (1 - up) * (1 - up).log())
    expected = (torch.tensor(2.0, dtype=torch.float64).log() - entropy).sum()
    assert float(bb.BernoulliPosterior({"w": natural}).kl()) == pytest.approx(float(expected), rel=1e-4)


def test_divergences_and_beliefs_that_do_not_exist() -> None:
    low_rank = bb.LowRankGaussianPosterior({"w": torch.zeros(2)}, {"w": torch.ones(1, 2)})
    with pytest.raises(TypeError, match=r"use marginals\(\)\.kl\(\)"):
        low_rank.kl()
    with pytest.raises(TypeError, match=r"pass its marginals\(\) instead"):
        bb.BernoulliPosterior({"w": torch.zeros(2)}).kl(low_rank)
    with pytest.raises(ValueError, match="contain NaN or infinity"):
        bb.BernoulliPosterior({"w": torch.tensor([0.0, float("inf")])})


def test_a_file_without_a_part(tmp_path: Path) -> None:
    path = tmp_path / "q.safetensors"
    save_file({"scale/w": torch.ones(())}, str(path), metadata={"format": "bitbayes.bernoulli.1"})
    with pytest.raises(ValueError, match="it has no natural"):
        bb.load_posterior(path)
    save_file({"center/w": torch.ones(1)}, str(path), metadata={"format": bb.LowRankGaussianPosterior.FORMAT})
    with pytest.raises(ValueError, match="it has no factors, scale, shared"):
        bb.load_posterior(path)


def test_a_subclass_does_not_take_over_a_format(tmp_path: Path) -> None:
    class Mine(bb.BernoulliPosterior):
        pass

    class Unsaved(bb.Posterior):
        pass

    Mine({"w": torch.zeros(2)}).save(tmp_path / "q.safetensors")
    assert type(bb.load_posterior(tmp_path / "q.safetensors")) is bb.BernoulliPosterior
    assert issubclass(Unsaved, bb.Posterior)


@pytest.mark.parametrize("kind", ["bernoulli", "low rank"])
def test_a_loaded_posterior_draws_the_same_networks_whatever_the_order_of_its_names(kind: str, tmp_path: Path) -> None:
    """A file keeps its tensors by name, so "10" comes before "4"."""
    generator = torch.Generator().manual_seed(0)
    natural = {name: 0.1 * torch.randn(40, generator=generator) for name in ("4.weight", "10.weight", "b")}
    low_rank = bb.LowRankGaussianPosterior(natural, {name: torch.ones(1, 40) for name in natural})
    q = bb.BernoulliPosterior(natural) if kind == "bernoulli" else low_rank
    q.save(tmp_path / "q.safetensors")
    again = load_posterior(tmp_path / "q.safetensors")
    assert list(q.shapes) != list(again.shapes)
    for found, expected in ((again, q), (bb.Mixture([again, again]), bb.Mixture([q, q]))):
        drawn, wanted = found.sample(8, seed=3), expected.sample(8, seed=3)
        assert all(torch.equal(drawn[name], wanted[name]) for name in natural)


def test_log_prob_refuses_weights_without_signs() -> None:
    q = bb.BernoulliPosterior({"w": torch.zeros(2)})
    for weights, message in (
        (torch.tensor([True, False]), "weights of 'w' must have a signed type, got torch.bool; pass −1 and \\+1"),
        (torch.tensor([0, 1], dtype=torch.uint8), "must have a signed type, got torch.uint8"),
        (torch.tensor([1.0, torch.nan]), "weights of 'w' contain NaN"),
    ):
        for each in (q, bb.SamplePosterior({"w": torch.ones(1, 2)}), bb.Mixture([q, q])):
            with pytest.raises(ValueError, match=message):
                each.log_prob({"w": weights})


@pytest.mark.parametrize("large", [torch.tensor([1e39], dtype=torch.float64), torch.tensor([3e38])])
def test_numbers_that_float32_cannot_hold_are_refused(large: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="or are too large for float32"):
        bb.BernoulliPosterior({"w": large})
    wide = torch.full((1,), 1e39, dtype=torch.float64)
    for center, factors in ((wide, torch.ones(1, 1)), (torch.ones(1), wide[None])):
        with pytest.raises(ValueError, match="center and factors of 'w' must be finite in float32"):
            bb.LowRankGaussianPosterior({"w": center}, {"w": factors})


def test_a_low_rank_weight_without_center_and_noise_is_certain() -> None:
    q = bb.LowRankGaussianPosterior({"w": torch.zeros(1)}, {"w": torch.zeros(1, 1)})
    assert q.mode()["w"] == 1 and q.mean()["w"] == 1 and (q.sample(9)["w"] == 1).all() and q.entropy() == 0


@pytest.mark.parametrize(
    ("tensors", "about"),
    [
        (
            {"natural/w": torch.zeros(3, dtype=torch.uint8).view(torch.float4_e2m1fn_x2), "scale/w": torch.ones(())},
            {"format": "bitbayes.bernoulli.1"},
        ),
        *(
            (
                {"center/w": torch.zeros(3, dtype=dtype), "factors/w": torch.zeros(1, 3, dtype=dtype)}
                | {"scale/w": torch.ones(())},
                {"format": "bitbayes.low-rank-gaussian.1", "shared": "tensor"},
            )
            for dtype in (torch.complex64, torch.bool, torch.uint16)
        ),
        *(
            (
                {"bits/a": torch.zeros(2, 0, dtype=torch.uint8), "shape/a": torch.tensor(shape)}
                | {"bits/b": torch.zeros(2, 1, dtype=torch.uint8), "shape/b": torch.tensor([3])}
                | {"scale/a": torch.ones(()), "scale/b": torch.ones(())},
                {"format": "bitbayes.samples.1"},
            )
            for shape in ([0, 2**62, 2**62], [2**62, 2**62, 0])
        ),
    ],
)
def test_strange_types_and_shapes_in_a_file_are_refused(tensors, about, tmp_path: Path) -> None:
    save_file(tensors, tmp_path / "q.safetensors", metadata=about)
    with pytest.raises(ValueError, match=r"q\.safetensors is not a saved posterior"):
        load_posterior(tmp_path / "q.safetensors")


def test_samples_are_written_into_contiguous_tensors_alone() -> None:
    out = {"w": torch.empty(3, 4, 5, 5).to(memory_format=torch.channels_last)}
    with pytest.raises(ValueError, match="out has a tensor 'w' that is not contiguous"):
        bb.BernoulliPosterior({"w": torch.zeros(3, 4, 5, 5)}).sample_at(0, out=out)
