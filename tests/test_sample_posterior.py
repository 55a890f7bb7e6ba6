"""Posteriors that are bags of bits: their formulas, the order of their samples, their files, and their refusals."""

from __future__ import annotations

import math
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import bitbayes as bb
from bitbayes import bits
from bitbayes.packed.format import bits as numpy_bits
from bitbayes.posterior.turns import Turns

SHAPES = {"a.weight": (3, 5), "b.weight": (4, 2, 3, 3), "c": ()}


def signs(count: int = 6, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(count, *shape, generator=generator) for name, shape in SHAPES.items()}


def bag(count: int = 6, weights: list[float] | None = None, seed: int = 0) -> bb.SamplePosterior:
    return bb.SamplePosterior(signs(count, seed), {"b.weight": torch.rand(4, 1, 1, 1) + 0.1}, weights)


# Bits. --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 64, 1001])
def test_the_bits_of_tensors_are_those_of_packed_files(count: int) -> None:
    rows = torch.randn(3, count)
    packed = bits.pack_signs(rows)
    assert packed.shape == (3, bits.row_bytes(count)) and bits.row_bytes(count) == numpy_bits.row_bytes(count)
    assert np.array_equal(packed.numpy(), numpy_bits.pack_signs(rows.numpy()))
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.int8):
        assert torch.equal(bits.unpack_signs(packed, count, dtype), rows.sign().to(dtype))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(bits.pack_signs(rows), packed)


# The order of the members. ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3, 8, 10])
def test_equal_members_take_turns(count: int) -> None:
    turns, same = Turns(count), Turns(count, [0.3] * count)
    orders = set()
    for seed in range(5):
        found = [turns.at(index, seed) for index in range(3 * count)]
        for block in range(3):
            members = [member for member, _ in found[block * count : (block + 1) * count]]
            assert sorted(members) == list(range(count))
        assert [earlier for _, earlier in found] == [index // count for index in range(3 * count)]
        assert found == [same.at(index, seed) for index in range(3 * count)]
        orders.add(tuple(found))
    assert len(orders) > 1 or count == 1


WEIGHTS = [[0.5, 0.25, 0.125, 0.125], [0.7, 0.2, 0.0, 0.1], [1.0, 0.0], [0.0, 3.0, 5.0, 0.0], [1e-30, 1.0]]


@pytest.mark.parametrize("weights", WEIGHTS)
def test_weighted_members_are_stratified(weights: list[float]) -> None:
    turns, p = Turns(len(weights), weights), [weight / sum(weights) for weight in weights]
    for seed in range(3):
        seen = Counter[int]()
        for index in range(200):
            member, earlier = turns.at(index, seed)
            assert earlier == seen[member] and weights[member] > 0
            seen[member] += 1
            for k, probability in enumerate(p):
                assert abs(seen[k] - probability * (index + 1)) <= 2 + math.log2(index + 1)
    assert [Counter(turns.at(i, 0)[0] for i in range(8))[k] for k in range(4)] == [4, 2, 1, 1] or weights != WEIGHTS[0]


def test_over_seeds_every_sample_has_the_probabilities() -> None:
    turns, counts = Turns(3, [0.6, 0.3, 0.1]), np.zeros((3, 3))
    for seed in range(4000):
        for index in range(3):
            counts[index, turns.at(index, seed)[0]] += 1
    assert abs(counts / 4000 - np.array([0.6, 0.3, 0.1])).max() < 0.03
    first = Counter(Turns(5).at(0, seed)[0] for seed in range(4000))
    assert all(abs(first[member] / 4000 - 0.2) < 0.03 for member in range(5))


def test_far_samples_are_quick_and_exist() -> None:
    turns = Turns(2, [0.75, 0.25])
    member, earlier = turns.at(10**15, 1)
    assert abs(earlier / 10**15 - [0.75, 0.25][member]) < 1e-9


# The distribution. --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.0, 4.0, 1.0, 8.0]])
def test_marginals_are_those_of_the_samples(weights: list[float] | None) -> None:
    q, given = bag(6, weights), signs(6)
    w = torch.ones(6) / 6 if weights is None else torch.tensor(weights) / 16
    torch.testing.assert_close(q.weights, w.double())
    for name, tensor in given.items():
        ones = (tensor >= 0).double()
        p = torch.tensordot(w.double(), ones, 1)
        torch.testing.assert_close(q.probabilities()[name].double(), p, rtol=1e-6, atol=1e-6)
        mean = (2 * p - 1).float() * q.scale[name]
        torch.testing.assert_close(q.mean()[name], mean, rtol=1e-5, atol=1e-6)
        best = torch.where(p >= 0.5, 1.0, -1.0) * q.scale[name]
        assert torch.equal(q.mode()[name], best)
    p = torch.cat([t.flatten() for t in q.probabilities().values()]).double()
    expected = (torch.special.entr(p) + torch.special.entr(1 - p)).mean() / math.log(2)
    torch.testing.assert_close(q.entropy(), expected.float(), rtol=1e-5, atol=1e-6)


def test_a_weight_on_which_all_agree_is_certain() -> None:
    q = bb.SamplePosterior({"w": torch.tensor([[1.0, -1.0, 0.0, -0.0]] * 3)})
    assert torch.equal(q.natural["w"], torch.tensor([20.0, -20.0, 20.0, 20.0]))
    assert q.entropy() < 1e-12 and torch.equal(q.mean()["w"], q.mode()["w"])
    assert q.marginals().natural["w"].isfinite().all() and q.marginals().kl().isfinite()


def test_a_tie_is_exactly_even() -> None:
    q = bb.SamplePosterior({"w": torch.tensor([1, -1] * 35)[:, None]})
    assert q.natural["w"] == 0 and q.mode()["w"] == 1


def test_smoothing_adds_imaginary_samples() -> None:
    given = {"w": torch.tensor([[1, 1], [1, -1], [1, -1], [1, -1]])}
    p = bb.SamplePosterior(given).marginals(smoothing=0.5).probabilities()["w"]
    torch.testing.assert_close(p, torch.tensor([4.5 / 5, 1.5 / 5]))
    # One sample that has all the weight counts as one sample; equal weights count as all of them.
    for weights, p_up in (([0.0, 7.0, 0.0, 0.0], 1.5 / 2), ([0.1] * 4, 4.5 / 5)):
        found = bb.SamplePosterior(given, weights=weights).marginals(smoothing=0.5).probabilities()["w"]
        torch.testing.assert_close(found[0], torch.tensor(p_up))
    with pytest.raises(ValueError, match="smoothing must be at least 0, got -1"):
        bb.SamplePosterior(given).marginals(-1)


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.0, 4.0, 1.0, 8.0]])
def test_log_prob_is_the_weight_of_equal_samples(weights: list[float] | None) -> None:
    given = signs(6)
    for tensor in given.values():
        tensor[4] = tensor[1]
    q = bb.SamplePosterior(given, weights=weights)
    w = q.weights
    expected = torch.stack([w[0], w[1] + w[4], w[2], w[3], w[1] + w[4], w[5]]).log().float()
    torch.testing.assert_close(q.log_prob(given), expected)
    for index in range(6):
        torch.testing.assert_close(q.log_prob(q.member(index)), expected[index])
    other = q.member(0)
    other["b.weight"][1, 1, 2, 2] *= -1
    assert q.log_prob(other) == -math.inf


def test_samples_visit_every_member_once() -> None:
    q = bag(6)
    drawn = q.sample(12, seed=3)
    for part in (slice(0, 6), slice(6, 12)):
        found = sorted(drawn["b.weight"][part].flatten(1).tolist())
        assert found == sorted(q.member(index)["b.weight"].flatten().tolist() for index in range(6))
    assert not torch.equal(q.sample(6, seed=4)["b.weight"], drawn["b.weight"][:6])
    for name, tensor in q.sample_at(8, seed=3).items():
        assert torch.equal(tensor, drawn[name][8]) and tensor.shape == SHAPES[name]


def test_networks_become_a_posterior() -> None:
    networks = [{name: tensor[index] for name, tensor in signs().items()} for index in range(6)]
    q = bb.SamplePosterior.of_networks(networks, scale={}, weights=[1, 2, 3, 4, 5, 6])
    assert len(q) == 6 and torch.equal(q.weights, torch.arange(1, 7) / torch.tensor(21.0, dtype=torch.float64))
    for index, network in enumerate(networks):
        for name, tensor in q.member(index).items():
            assert torch.equal(tensor, torch.where(network[name] >= 0, 1.0, -1.0))
    with pytest.raises(ValueError, match=r"network 1 has tensors .* but network 0 has"):
        bb.SamplePosterior.of_networks([networks[0], {"c": torch.ones(())}])
    with pytest.raises(ValueError, match="at least one network"):
        bb.SamplePosterior.of_networks([])


def test_networks_keep_the_sizes_that_they_share() -> None:
    sizes = torch.tensor([[0.125], [3.0]])
    networks = [{"a": 0.25 * torch.tensor([1.0, -1.0]), "b": sign * sizes.expand(2, 3)} for sign in (1, -1)]
    q = bb.SamplePosterior.of_networks(networks)
    assert q.scale["a"].shape == () and q.scale["a"] == 0.25 and q.scale["b"].shape == (2, 1)
    for index, network in enumerate(networks):
        assert all(torch.equal(q.member(index)[name], tensor) for name, tensor in network.items())
    networks[1]["b"] = -networks[1]["b"] / 2
    with pytest.raises(ValueError, match=r"weights 'b' have different sizes in the networks.* scale={}"):
        bb.SamplePosterior.of_networks(networks)
    signs_alone = bb.SamplePosterior.of_networks(networks, scale={})
    assert signs_alone.member(1)["b"].unique().tolist() == [1.0]


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bfloat16, torch.float64])
def test_any_signed_type(dtype: torch.dtype) -> None:
    given = {name: tensor.mul(3).to(dtype) for name, tensor in signs().items()}
    q = bb.SamplePosterior(given)
    assert all(torch.equal(q.member(2)[name], torch.where(t[2] >= 0, 1.0, -1.0)) for name, t in given.items())


def test_members_are_written_into_tensors_of_an_earlier_one() -> None:
    q = bag()
    room = q.member(0)
    again = q.member(1, out=room)
    assert all(again[name] is room[name] and torch.equal(room[name], q.member(1)[name]) for name in room)
    narrow = q.member(2, out={name: tensor.bfloat16() for name, tensor in room.items()})
    assert all(torch.equal(narrow[name], tensor.bfloat16()) for name, tensor in q.member(2).items())
    with pytest.raises(ValueError, match="in out"):
        q.member(0, out={**room, "a.weight": torch.ones(5, 3)})
    for index in (-1, 6):
        with pytest.raises(IndexError, match=f"member {index} does not exist; the posterior has 6"):
            q.member(index)


# Files. -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [None, [0.1, 0.2, 0.3, 0.15, 0.15, 0.1]])
def test_save_and_load_are_bit_exact(weights: list[float] | None, tmp_path: Path) -> None:
    q = bag(6, weights)
    q.save(tmp_path / "q")
    for again in (bb.load_posterior(tmp_path / "q"), bb.SamplePosterior.load(tmp_path / "q"), q.to("cpu")):
        assert isinstance(again, bb.SamplePosterior) and len(again) == 6 and again.shapes == q.shapes
        assert torch.equal(again.weights, q.weights)
        for name in q.shapes:
            assert torch.equal(again.bits[name], q.bits[name]) and torch.equal(again.scale[name], q.scale[name])
            assert torch.equal(again.sample(9, seed=2)[name], q.sample(9, seed=2)[name])
    assert sum(t.numel() for t in q.bits.values()) == 6 * (2 + 9 + 1)


def refused(path: Path, change: dict[str, Tensor | None], words: str) -> None:
    """Write a file that is whole but for some entries, and expect one line that says what is wrong."""
    q = bb.SamplePosterior({"w": torch.ones(3, 10)}, weights=[1, 2, 3])
    parts, _ = q.parts()
    tensors = {f"{part}/{name}": tensor for part, named in parts.items() for name, tensor in named.items()} | change
    save_file({key: t for key, t in tensors.items() if t is not None}, str(path), {"format": q.FORMAT})
    with pytest.raises(ValueError, match=words) as caught:
        bb.load_posterior(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bits/w": torch.ones(3, 1, dtype=torch.uint8)}, r"have 1 bytes, expected 2 for the shape \(10,\)"),
        ({"bits/w": torch.ones(3, 3, dtype=torch.uint8)}, "have 3 bytes, expected 2"),
        ({"bits/w": torch.ones(3, 2)}, "must be torch.uint8"),
        ({"bits/w": torch.ones(6, dtype=torch.uint8)}, "must be torch.uint8 of shape"),
        ({"bits/w": torch.ones(0, 2, dtype=torch.uint8)}, "with C >= 1"),
        ({"bits/w": torch.full((3, 2), 4, dtype=torch.uint8)}, "ones in their unused bits"),
        ({"bits/w": None}, "it has no bits"),
        ({"bits/v": torch.ones(3, 2, dtype=torch.uint8)}, "must have the same names"),
        (
            {"bits/v": torch.ones(2, 1, dtype=torch.uint8), "shape/v": torch.tensor([4])},
            "the same number of samples",
        ),
        ({"shape/w": torch.tensor([-10])}, "int64 numbers of at least 0"),
        ({"shape/w": torch.tensor([10.0])}, "int64 numbers"),
        ({"shape/w": torch.tensor([1 << 40, 1 << 40])}, "bytes, expected"),
        (
            {"shape/w": torch.tensor([8, (1 << 61) + 1]), "bits/w": torch.ones(3, 1, dtype=torch.uint8)},
            "bytes, expected",
        ),
        ({"shape/w": torch.tensor([1 << 62, 0]), "bits/w": torch.ones(3, 0, dtype=torch.uint8)}, "at least one weight"),
        ({"shape/w": None}, "it has no shape"),
        ({"scale/w": torch.tensor(-1.0)}, "must be positive"),
        ({"scale/w": torch.ones(3)}, "does not broadcast"),
        ({"weights/members": torch.ones(2)}, r"weights have shape \(2,\), expected \(3,\)"),
        ({"weights/members": torch.tensor([1.0, -1.0, 1.0])}, "not negative"),
        ({"weights/members": torch.zeros(3)}, "not all zero"),
        ({"weights/members": torch.tensor([1.0, math.nan, 1.0])}, "must be finite"),
        ({"weights/members": torch.tensor([1.0, math.inf, 1.0])}, "must be finite"),
        ({"weights/members": None, "weights/other": torch.ones(3)}, "must be called 'members'"),
    ],
)
def test_hostile_files_are_one_clear_line(change: dict[str, Tensor | None], words: str, tmp_path: Path) -> None:
    refused(tmp_path / "q", change, words)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="at least one tensor"):
        bb.SamplePosterior({})
    with pytest.raises(ValueError, match=r"'w' have shape \(0, 3\), expected \(C, ...\) with C >= 1"):
        bb.SamplePosterior({"w": torch.ones(0, 3)})
    with pytest.raises(ValueError, match=r"'w' have shape \(\), expected"):
        bb.SamplePosterior({"w": torch.ones(())})
    for unsigned in (torch.ones(2, 3, dtype=torch.bool), torch.ones(2, 3, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="must have a signed type"):
            bb.SamplePosterior({"w": unsigned})
    with pytest.raises(ValueError, match="'w' contain NaN"):
        bb.SamplePosterior({"w": torch.tensor([[math.nan]])})
    with pytest.raises(ValueError, match="the same number of samples"):
        bb.SamplePosterior({"w": torch.ones(2, 3), "v": torch.ones(3, 3)})
    with pytest.raises(ValueError, match="unknown tensors"):
        bb.SamplePosterior({"w": torch.ones(2, 3)}, {"v": torch.ones(())})
    with pytest.raises(ValueError, match="weights are named"):
        bag().log_prob({"c": torch.ones(())})
    with pytest.raises(ValueError, match=r"'c' has the weights of a single network\(s\), but 'a.weight' of 6"):
        bag().log_prob(signs() | {"c": torch.ones(())})
    with pytest.raises(TypeError, match=r"use marginals\(\)\.kl\(\)"):
        bag().kl()


def test_many_samples_are_counted_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    q = bag(50)
    whole = q.natural
    monkeypatch.setattr(sys.modules[bb.SamplePosterior.__module__], "CHUNK", 100)
    assert all(torch.equal(natural, whole[name]) for name, natural in q.natural.items())
    same = bb.SamplePosterior(signs(50), weights=[2.0] * 49 + [2.0 + 1e-12])
    for name, natural in same.natural.items():
        torch.testing.assert_close(natural, whole[name])


@pytest.mark.parametrize("size", [1e-200, 1.0, 1e200, 2.0**1000])
def test_only_proportions_of_weights_matter(size: float) -> None:
    """However large the numbers, such as importance weights: probabilities, and what smoothing adds."""
    signs = {"w": torch.tensor([[1, 1], [1, -1], [1, -1]])}
    plain, q = (bb.SamplePosterior(signs, weights=[1 * s, 1 * s, 2 * s]) for s in (1.0, size))
    torch.testing.assert_close(q.weights, plain.weights, rtol=1e-15, atol=0)
    torch.testing.assert_close(q.marginals(smoothing=0.5).natural, plain.marginals(smoothing=0.5).natural)
    assert 0 < float(q.marginals(smoothing=0.5).natural["w"][0]) < 2
    assert bb.SamplePosterior(signs, weights=[0.1, 0.9, 0.0]).weights.tolist() == [0.1, 0.9, 0.0]


def test_the_default_type_does_not_matter() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        q, again = bag(), bb.SamplePosterior({name: tensor.double() for name, tensor in signs().items()})
        assert all(torch.equal(q.bits[name], again.bits[name]) for name in q.bits)
    finally:
        torch.set_default_dtype(torch.float32)
