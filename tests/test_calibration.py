"""Calibration figures against closed forms, scikit-learn, and brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve

from bitbayes.calibration import (
    accuracy_by_coverage,
    expected_calibration_error,
    fit_temperature,
    probability_figures,
    reliability,
    separation,
)
from bitbayes.prediction import Prediction


def logits(count: int = 4000, classes: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits whose softmax is the truth: classes are drawn from it."""
    generator = torch.Generator().manual_seed(seed)
    z = 2 * torch.randn(count, classes, generator=generator)
    return z, torch.multinomial(z.softmax(1), 1, generator=generator)[:, 0]


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_equal_width_is_that_of_scikit_learn(scale: float) -> None:
    z, y = logits()
    probs = (scale * z).softmax(1)
    confidence, right = probs.max(1).values.double().numpy(), (probs.argmax(1) == y).numpy()
    accuracies, confidences = calibration_curve(right, confidence, n_bins=15)  # of the bins that are not empty
    counts = np.histogram(confidence, bins=15, range=(0, 1))[0]
    theirs = np.average(np.abs(accuracies - confidences), weights=counts[counts > 0])
    assert expected_calibration_error(probs, y) == pytest.approx(theirs, abs=1e-5)


def test_equal_mass_by_brute_force() -> None:
    z, y = logits(1000)
    probs = z.softmax(1)
    found = reliability(probs, y, count=10, bins="mass")
    assert torch.allclose(found.share, torch.full((10,), 0.1))
    order = probs.max(1).values.argsort()
    error = 0.0
    for part in order.split(100):
        gap = probs[part].max(1).values.mean() - (probs[part].argmax(1) == y[part]).float().mean()
        error += 0.1 * float(gap.abs())
    assert found.error == pytest.approx(error, abs=1e-6)
    with pytest.raises(ValueError, match="width"):
        reliability(probs, y, bins="size")


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_temperature_is_found(temperature: float) -> None:
    z, y = logits()
    assert fit_temperature(Prediction(temperature * z[None]), y) == pytest.approx(temperature, rel=0.06)


def test_the_temperature_of_an_ensemble_is_the_best() -> None:
    z, y = logits(1000)
    noise = torch.randn(8, *z.shape, generator=torch.Generator().manual_seed(1))
    prediction = Prediction(3 * (z + noise))
    best = fit_temperature(prediction, y)

    def nll(t: float) -> float:
        return -float(prediction.tempered(t).probs.gather(1, y[:, None]).log().mean())

    assert all(nll(best) <= nll(t) + 1e-6 for t in torch.logspace(-1, 1, 50).tolist())
    with pytest.raises(ValueError, match="temperature must be positive"):
        prediction.tempered(0.0)


def test_separation_counts_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    usual, unusual = torch.randn(60, generator=generator), torch.randn(50, generator=generator) + 1
    usual[:5] = unusual[:5]  # ties count half
    pairs = (unusual[:, None] > usual).float() + 0.5 * (unusual[:, None] == usual)
    assert separation(usual, unusual) == pytest.approx(float(pairs.mean()), abs=1e-6)
    assert separation(usual, usual) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="0 unusual"):
        separation(usual, usual[:0])


def test_coverage() -> None:
    z, y = logits(500)
    probs = z.softmax(1)
    coverage, accuracy = accuracy_by_coverage(probs, y)
    assert float(coverage[-1]) == 1 and float(accuracy[-1]) == pytest.approx(
        float((probs.argmax(1) == y).float().mean())
    )
    assert accuracy[100] > accuracy[-1]
    sure = torch.special.entr(probs).sum(1).argsort()[:50]
    assert float(accuracy[49]) == pytest.approx(float((probs[sure].argmax(1) == y[sure]).float().mean()))


def test_logits_and_other_lengths_are_refused() -> None:
    z, y = logits(10)
    probs = z.softmax(1)
    for measure in (expected_calibration_error, accuracy_by_coverage, probability_figures, reliability):
        with pytest.raises(ValueError, match="apply softmax"):
            measure(z, y)
        with pytest.raises(ValueError, match=r"got \(10, 5\) and \(1,\)"):
            measure(probs, y[:1])
        measure(probs.bfloat16(), y[:, None])
    with pytest.raises(ValueError, match="classes must be from 0 to 4"):
        probability_figures(probs, y + 5)
    with pytest.raises(ValueError, match="classes must be from 0 to 4"):
        fit_temperature(Prediction(z[None]), y + 5)
    assert accuracy_by_coverage(probs, y + 5)[1].tolist() == [0.0] * 10  # unknown classes are never right
    with pytest.raises(ValueError, match=r"got \(10, 5\) and \(2,\)"):
        fit_temperature(Prediction(z[None]), y[:2])
    with pytest.raises(ValueError, match="scores must not be NaN"):
        separation(torch.tensor([0.0, float("nan")]), torch.ones(2))
