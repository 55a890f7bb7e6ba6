"""Conformal sets and intervals: the exact quantile, coverage over many repetitions, and hostile input."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch

import bitbayes as bb
import needs
from bitbayes.conformal import ConformalIntervals, ConformalSets
from bitbayes.lab.recipes import find_recipe
from bitbayes.lab.studies.entry import predict_packed
from bitbayes.lab.train.measure import whole
from bitbayes.prediction import Prediction

REPEATS = 600


def classes(count: int, seed: int, networks: int = 3) -> tuple[Prediction[torch.Tensor], torch.Tensor]:
    """Predictions of overconfident networks, which need not be right for sets to be valid, and drawn classes."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randn(count, 4, generator=generator)
    y = torch.multinomial(truth.softmax(1), 1, generator=generator)[:, 0]
    return Prediction(3 * truth + torch.randn(networks, count, 4, generator=generator)), y


def values(count: int, seed: int, outputs: int = 1) -> tuple[Prediction[torch.Tensor], torch.Tensor]:
    """Predictions of several networks, and targets whose noise depends on the input."""
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(count, outputs, generator=generator)
    noise = torch.randn(count, outputs, generator=generator) * mean.abs()
    return Prediction(mean + 0.3 * torch.randn(3, count, outputs, generator=generator)), mean + noise


@pytest.mark.parametrize(
    ("count", "level", "place"),
    [
        (9, 0.9, 9),  # 10 · 0.9 = 9
        (8, 0.9, None),  # ⌈9 · 0.9⌉ = 9 > 8
        (19, 0.9, 18),  # 20 · 0.9 = 18
        (20, 0.9, 19),  # ⌈18.9⌉
        (9, 0.7, 7),  # 10 · 0.7 is 7.000000000000001 in floating-point numbers of some orders
        (99, 0.07, 7),  # 100 · 0.07 is 7.000000000000001
        (1, 0.5, 1),
        (1, 0.51, None),
        (499, 0.998, 499),
    ],
)
def test_the_quantile_by_hand(count: int, level: float, place: int | None) -> None:
    residuals = torch.arange(1.0, count + 1).flip(0)
    intervals = ConformalIntervals.fit(Prediction(torch.zeros(1, count, 1)), residuals, level=level)
    assert intervals.threshold == (math.inf if place is None else place)
    logits = torch.linspace(-3, 3, count, dtype=torch.float64)[None, :, None]
    sets = ConformalSets.fit(Prediction(logits), torch.ones(count), level=level)
    wanted = 0.0 if place is None else float(logits.sigmoid().flatten().sort(descending=True).values[place - 1])
    assert sets.threshold == pytest.approx(wanted, rel=1e-15)
    assert sets.level == intervals.level == level


@pytest.mark.parametrize(("count", "level"), [(49, 0.9), (30, 0.8), (9, 0.9)])
@pytest.mark.parametrize("kind", ["sets", "width", "noise", "box"])
def test_coverage_over_many_repetitions(kind: str, count: int, level: float) -> None:
    """The mean over calibration data is ⌈(n + 1) · level⌉ / (n + 1), between level and level + 1 / (n + 1)."""
    found = []
    for repeat in range(REPEATS):
        prediction, y = (
            classes(count + 50, repeat) if kind == "sets" else values(count + 50, repeat, 1 + (kind == "box"))
        )
        first, second = Prediction(prediction.outputs[:, :count]), Prediction(prediction.outputs[:, count:])
        if kind == "sets":
            fitted = ConformalSets.fit(first, y[:count], level=level)
        else:
            fitted = ConformalIntervals.fit(first, y[:count], level=level, noise=0.2 if kind == "noise" else None)
        found.append(fitted.coverage(second, y[count:]))
    exact = math.ceil(round((count + 1) * level, 9)) / (count + 1)
    assert level - 1e-9 <= exact <= level + 1 / (count + 1)
    error = np.std(found) / math.sqrt(REPEATS)
    assert 0 < error < 0.005
    assert abs(np.mean(found) - exact) < 3.5 * error


def test_sets_hold_the_probable_classes() -> None:
    calibration, y = classes(200, 0)
    test, labels = classes(300, 1)
    sets = ConformalSets.fit(calibration, y, level=0.8)
    chosen = sets.sets(test)
    assert chosen.shape == (300, 4) and chosen.dtype == torch.bool
    assert torch.equal(chosen, test.probs >= sets.threshold)
    assert sets.coverage(test, labels) == pytest.approx(float(chosen[torch.arange(300), labels].float().mean()))
    own = calibration.probs[torch.arange(200), y]
    assert int((own >= sets.threshold).sum()) == math.ceil(201 * 0.8)
    wider = ConformalSets.fit(calibration, y, level=0.95).sets(test)
    assert not (chosen & ~wider).any() and wider.sum() > chosen.sum()
    everything = ConformalSets.fit(calibration, y, level=0.999)
    assert everything.threshold == 0 and everything.sets(test).all()
    assert not ConformalSets(0.5, 1.0).sets(test).any()


def test_arrays_have_the_sets_of_tensors() -> None:
    prediction, y = classes(100, 0)
    array = Prediction(prediction.outputs.numpy())
    torch_sets, numpy_sets = ConformalSets.fit(prediction, y), ConformalSets.fit(array, y.numpy())
    assert torch_sets.threshold == pytest.approx(numpy_sets.threshold, rel=1e-12)
    assert isinstance(numpy_sets.sets(array), np.ndarray)
    assert np.array_equal(numpy_sets.sets(array), numpy_sets.sets(prediction).numpy())
    prediction, y = values(100, 0, 2)
    array = Prediction(prediction.outputs.numpy())
    for noise in (None, 0.5):
        fitted = ConformalIntervals.fit(prediction, y, noise=noise)
        assert ConformalIntervals.fit(array, y.numpy(), noise=noise).threshold == pytest.approx(fitted.threshold)
        for ours, theirs in zip(fitted.intervals(prediction), fitted.intervals(array), strict=True):
            assert isinstance(theirs, np.ndarray) and np.allclose(ours.numpy(), theirs)


def test_torch_is_not_needed() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; import numpy as np; from bitbayes.prediction import Prediction\n"
        "from bitbayes.conformal import ConformalIntervals, ConformalSets\n"
        "p = Prediction(np.array([[[2.0, 0.0]] * 9])); s = ConformalSets.fit(p, np.zeros(9)); "
        "print(s.sets(p)[0].tolist(), ConformalIntervals.fit(p, np.zeros((9, 2))).threshold, p.energy[0])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.startswith("[True, False] 2.0 -2.126"), result.stderr


def test_a_single_logit_is_that_of_class_1() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2, 60, 1, generator=generator)
    y = torch.bernoulli(z.mean(0).sigmoid(), generator=generator)  # shape (60, 1), in floating-point numbers
    one, both = Prediction(z), Prediction(torch.cat([torch.zeros_like(z), z], -1))
    sets = ConformalSets.fit(one, y, level=0.7)
    assert sets.threshold == pytest.approx(ConformalSets.fit(both, y[:, 0].long(), level=0.7).threshold)
    assert sets.sets(one).shape == (60, 2)
    assert torch.equal(sets.sets(one), sets.sets(both))
    assert sets.coverage(one, y) >= 0.7


def test_certain_networks_have_no_ties() -> None:
    """In float32, all these probabilities would be 1, and every set would hold the label."""
    generator = torch.Generator().manual_seed(0)
    z = torch.zeros(1, 400, 2)
    z[..., 0] = 20 + 5 * torch.rand(400, generator=generator)
    assert (Prediction(z).probs[:, 0] == 1).all()
    y = torch.zeros(400)
    sets = ConformalSets.fit(Prediction(z[:, :199]), y[:199])
    assert 0.8 < sets.coverage(Prediction(z[:, 199:]), y[199:]) < 0.97


def test_intervals_are_wide_where_networks_disagree() -> None:
    outputs = torch.tensor([[[0.0], [0.0]], [[0.0], [8.0]]])  # standard deviations 0 and 4 √2
    prediction = Prediction(outputs)
    low, high = ConformalIntervals(0.9, 2.0, noise=2.0).intervals(prediction)
    assert torch.allclose((high - low)[:, 0], torch.tensor([8.0, 24.0], dtype=torch.float64))
    low, high = ConformalIntervals(0.9, 2.0).intervals(prediction)
    assert torch.allclose((high - low)[:, 0], torch.tensor([4.0, 4.0], dtype=torch.float64))
    assert torch.allclose((high + low)[:, 0] / 2, torch.tensor([0.0, 4.0], dtype=torch.float64))
    assert ConformalIntervals(0.9, 1.0).coverage(prediction, torch.tensor([1.0, 5.1])) == 0.5
    low, high = ConformalIntervals(0.9, math.inf).intervals(prediction)
    assert (low == -math.inf).all() and (high == math.inf).all()


def test_several_outputs_are_covered_together() -> None:
    residuals = torch.tensor([[1.0, -4.0], [2.0, 0.0], [-3.0, 1.0]])
    prediction = Prediction(torch.zeros(1, 3, 2))
    fitted = ConformalIntervals.fit(prediction, residuals, level=0.5)
    assert fitted.threshold == 3.0  # of 4, 2 and 3
    assert fitted.coverage(prediction, residuals) == pytest.approx(2 / 3)


@pytest.mark.parametrize("level", [0, 1, -0.1, 1.5, float("nan")])
@pytest.mark.parametrize("fit", [ConformalSets.fit, ConformalIntervals.fit])
def test_levels_outside_of_0_and_1(fit: Callable, level: float) -> None:
    with pytest.raises(ValueError, match=r"level must be a fraction between 0 and 1, such as 0\.9; got"):
        fit(Prediction(torch.zeros(1, 3, 1)), torch.zeros(3), level=level)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite(bad: float) -> None:
    prediction, y = classes(20, 0)
    outputs = prediction.outputs.clone()
    outputs[1, 3, 2] = bad
    for outputs_of_kind in (outputs, outputs.numpy()):
        wrong = Prediction(outputs_of_kind)
        sets, intervals = ConformalSets(0.9, 0.5), ConformalIntervals(0.9, 1.0)
        for call in (
            lambda wrong=wrong: ConformalSets.fit(wrong, y),
            lambda wrong=wrong: ConformalIntervals.fit(wrong, torch.zeros(20, 4)),
            lambda wrong=wrong, sets=sets: sets.sets(wrong),
            lambda wrong=wrong, sets=sets: sets.coverage(wrong, y),
            lambda wrong=wrong, intervals=intervals: intervals.intervals(wrong),
        ):
            with pytest.raises(ValueError, match="expected finite outputs"):
                call()
    with pytest.raises(ValueError, match="expected finite targets"):
        ConformalIntervals.fit(prediction, torch.full((20, 4), bad))
    with pytest.raises(ValueError, match=r"classes must be whole numbers from 0 to 3, got (nan|inf)"):
        ConformalSets.fit(prediction, torch.full((20,), bad))


@pytest.mark.parametrize(("label", "shown"), [(4, "4"), (-1, "-1"), (0.5, "0.5")])
def test_labels_that_are_no_classes(label: float, shown: str) -> None:
    prediction, y = classes(20, 0)
    y = y.double()
    y[7] = label
    for call in (ConformalSets.fit, ConformalSets(0.9, 0.5).coverage):
        with pytest.raises(ValueError, match=f"classes must be whole numbers from 0 to 3, got {shown}"):
            call(prediction, y)


def test_shapes_that_do_not_fit() -> None:
    prediction, y = classes(20, 0)
    for labels in (y[:19], torch.zeros(20, 4), torch.tensor(1)):
        with pytest.raises(ValueError, match="expected one class for each input"):
            ConformalSets.fit(prediction, labels)
    nothing = Prediction(torch.zeros(1, 0, 4))
    with pytest.raises(ValueError, match="at least one input"):
        ConformalSets.fit(nothing, torch.zeros(0))
    assert ConformalSets(0.9, 0.5).sets(nothing).shape == (0, 4)
    with pytest.raises(ValueError, match=r"must have shape \(C, N, K\), for C networks, got \(20, 4\)"):
        ConformalSets.fit(Prediction(prediction.outputs[0]), y)
    one = Prediction(torch.zeros(1, 20, 1))
    for outputs, targets in (
        (prediction, y),
        (one, torch.zeros(19)),
        (one, torch.zeros(1, 20)),
        (one, torch.zeros(())),
    ):
        with pytest.raises(ValueError, match=r"targets must have the shape \(N, K\) of the outputs"):
            ConformalIntervals.fit(outputs, targets)
    with pytest.raises(ValueError, match="N at least 1"):
        ConformalIntervals.fit(Prediction(torch.zeros(1, 0, 1)), torch.zeros(0))


def test_thresholds_that_are_none() -> None:
    for threshold in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="threshold must be a probability from 0 to 1"):
            ConformalSets(0.9, threshold)
    for threshold in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="threshold must be at least 0"):
            ConformalIntervals(0.9, threshold)
    for noise in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="noise must be positive and finite"):
            ConformalIntervals(0.9, 1.0, noise)
    with pytest.raises(dataclasses.FrozenInstanceError):
        ConformalSets(0.9, 0.5).level = 0.8  # type: ignore[misc]


def test_coverage_of_a_trained_network() -> None:
    """Over random halves of the test data of the zoo's digits network, at three levels."""
    needs.EXPERIMENTS.module("sklearn")
    x, y = whole(find_recipe("digits").load(None, torch.device("cpu"), 0).test)  # type: ignore[arg-type]
    outputs = predict_packed(bb.zoo.load("digits"), x).outputs
    for level in (0.8, 0.9, 0.95):
        found = []
        for seed in range(100):
            first, second = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed)).tensor_split(2)
            sets = ConformalSets.fit(Prediction(outputs[:, first]), y[first], level=level)
            found.append(sets.coverage(Prediction(outputs[:, second]), y[second]))
        assert np.mean(found) == pytest.approx(level, abs=0.01)
