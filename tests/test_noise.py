"""Statistics and identities of the counter-based noise."""

from __future__ import annotations

import pytest
import torch

from bitbayes.noise import Noise, stream_key

COUNT = 1 << 20


def test_golden_words() -> None:
    """Fixed for ever: saved runs depend on these bits. Word 0 of key 0 is SplitMix64's output at state 0."""
    words = Noise(0x9E3779B97F4A7C15 - (1 << 64), 2).bits().view(torch.int64)
    assert words.item() & ((1 << 64) - 1) == 0xE220A8397B1DCDAF  # Vigna's reference: first output for seed 0


def test_bits_are_balanced_and_independent() -> None:
    bits = Noise(stream_key(0, 1), COUNT).bits()
    planes = torch.stack([(bits >> k) & 1 for k in range(32)]).double()
    assert (planes.mean(1) - 0.5).abs().max() < 5 * 0.5 / COUNT**0.5
    correlation = torch.corrcoef(planes) - torch.eye(32)
    assert correlation.abs().max() < 6 / COUNT**0.5
    shifted = torch.stack([torch.corrcoef(torch.stack([p[:-1], p[1:]]))[0, 1] for p in planes])
    assert shifted.abs().max() < 6 / COUNT**0.5


def test_uniform_fits() -> None:
    u = Noise(stream_key(5), COUNT).uniform()
    assert 0 < u.min() and u.max() < 1
    observed = torch.histc(u, 256, 0, 1)
    chi2 = ((observed - COUNT / 256) ** 2 / (COUNT / 256)).sum()
    assert abs(chi2 - 255) < 5 * (2 * 255) ** 0.5


@pytest.mark.parametrize("p", [0.0, 1e-3, 0.25, 0.5, 0.999, 1.0])
def test_sign_probability(p: float) -> None:
    frequency = (Noise(stream_key(1, 2, 3), COUNT).signs(torch.full((COUNT,), p)) > 0).double().mean()
    assert abs(frequency - p) <= 5 * (p * (1 - p) / COUNT) ** 0.5 + 2**-24


def test_streams_differ_and_do_not_correlate() -> None:
    streams = [Noise(stream_key(*path), 1 << 16).uniform() for path in [(0, 1), (0, 2), (1, 1), (0, 1, 0), (0, 1, 1)]]
    correlation = torch.corrcoef(torch.stack(streams)) - torch.eye(len(streams))
    assert correlation.abs().max() < 6 / 256


@pytest.mark.parametrize("cut", [1, 400, 401, 1000])
def test_pieces_are_the_whole(cut: int) -> None:
    for kind in (Noise.bits, Noise.uniform, Noise.normal):
        whole, parts = Noise(7, 1001), (slice(0, cut), slice(cut, 1001))
        assert torch.equal(kind(whole), torch.cat([kind(whole.part(span)) for span in parts]))
    nested = Noise(7, 1001).part(slice(cut, 1001)).part(slice(1, 1001 - cut))
    assert torch.equal(nested.bits(), Noise(7, 1001).bits()[cut + 1 :])


@pytest.mark.parametrize("start", [400, 401])
def test_the_compiled_form_is_the_eager_one(start: int, monkeypatch: pytest.MonkeyPatch) -> None:
    eager = Noise(stream_key(3), 1001, start=start).bits()
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    for where in (start, torch.tensor(start)):
        assert torch.equal(eager, Noise(stream_key(3), 1001, start=where).bits())
