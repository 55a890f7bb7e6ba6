"""Calibration figures against closed forms, scikit-learn, and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve
from sklearn.metrics import roc_curve

from bitbayes.calibration import (
    accuracy_by_coverage,
    area_under_risk_coverage,
    expected_calibration_error,
    false_positive_rate,
    fit_temperature,
    log_likelihood,
    probability_figures,
    reliability,
    separation,
)
from bitbayes.conformal import ConformalSets
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


def test_equal_mass_does_not_depend_on_the_order_of_equal_confidences() -> None:
    probs, y = torch.tensor([[0.75, 0.25]] * 60), torch.tensor([0] * 45 + [1] * 15)
    for order in (torch.arange(60), torch.randperm(60, generator=torch.Generator().manual_seed(0))):
        assert expected_calibration_error(probs[order], y[order], bins="mass") == pytest.approx(0, abs=1e-6)


def test_one_logit_says_as_much_as_two_whichever_class_is_called_1() -> None:
    """1 − p is 0 where p rounds to 1, which must not make a sure input look surer than any other."""
    output = torch.linspace(-40, 40, 81)[None, :, None]
    wanted = Prediction(torch.cat([-output / 2, output / 2], -1))
    for one in (Prediction(output), Prediction(output.numpy())):
        for found, expected in ((one.entropy, wanted.entropy), (one.confidence, wanted.confidence)):
            torch.testing.assert_close(torch.as_tensor(found), expected, rtol=0.1, atol=1e-30)
        torch.testing.assert_close(torch.as_tensor(one.class_probs), wanted.probs, rtol=1e-4, atol=1e-30)
    nll = [
        probability_figures(Prediction(sign * output[:, -1:]).class_probs, torch.tensor([label]))["nll"]
        for sign, label in ((1, 0), (-1, 1))
    ]
    assert nll[0] == pytest.approx(nll[1])


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


@pytest.mark.parametrize("count", [19, 20, 60, 101])
@pytest.mark.parametrize("recall", [0.5, 0.95, 1.0])
def test_the_false_positive_rate_is_that_of_scikit_learn(count: int, recall: float) -> None:
    generator = torch.Generator().manual_seed(count)
    usual, unusual = torch.randn(count, generator=generator), torch.randn(50, generator=generator) + 1
    usual[:5] = unusual[:5]
    labels, scores = [1] * count + [0] * 50, -torch.cat([usual, unusual]).numpy()
    wrong, right, _ = roc_curve(labels, scores, drop_intermediate=False)
    assert false_positive_rate(usual, unusual, recall=recall) == pytest.approx(wrong[right >= recall - 1e-12][0])


def test_false_positives_by_hand() -> None:
    usual = torch.arange(20.0)  # 19 of 20 have at most 18
    assert false_positive_rate(usual, torch.tensor([18.0, 18.1])) == 0.5
    assert false_positive_rate(usual, usual + 100) == 0
    assert false_positive_rate(usual, usual - 100) == 1
    assert false_positive_rate(torch.zeros(9), torch.zeros(4)) == 1  # equal scores pass
    assert false_positive_rate(torch.tensor([1.0, float("inf")]), torch.tensor([float("inf")]), recall=0.5) == 0
    with pytest.raises(ValueError, match="0 usual"):
        false_positive_rate(usual[:0], usual)
    with pytest.raises(ValueError, match="scores must not be NaN"):
        false_positive_rate(usual, usual / 0 * 0)
    for recall in (0.0, 1.01, float("nan")):
        with pytest.raises(ValueError, match="recall must be a fraction"):
            false_positive_rate(usual, usual, recall=recall)


def test_the_area_under_the_risk_coverage_curve() -> None:
    z, y = logits(300)
    probs = z.softmax(1)
    score = torch.special.entr(probs).sum(1)
    order = score.argsort().tolist()
    wrong = (probs.argmax(1) != y).tolist()
    risks = [sum(wrong[index] for index in order[:kept]) / kept for kept in range(1, 301)]
    assert area_under_risk_coverage(probs, y) == pytest.approx(sum(risks) / 300, abs=1e-6)
    assert area_under_risk_coverage(probs, y, -score) > sum(wrong) / 300 > area_under_risk_coverage(probs, y)
    right_first = torch.tensor(wrong).float()
    count = sum(wrong)
    best = sum((count - 300 + kept) / kept for kept in range(300 - count + 1, 301)) / 300
    assert area_under_risk_coverage(probs, y, right_first) < best + 1e-6 + count**2 / (2 * 300**2)
    assert area_under_risk_coverage(probs[:, :1] + probs[:, 1:2] * 0, (y == 0).long(), score) > 0  # a single output


def test_equal_scores_are_answered_in_random_order() -> None:
    probs = torch.tensor([[0.9, 0.1]] * 4)
    y = torch.tensor([0, 0, 0, 1])
    for labels in (y, y.flip(0)):
        coverage, accuracy = accuracy_by_coverage(probs, labels)
        assert coverage.tolist() == [0.25, 0.5, 0.75, 1.0] and accuracy.tolist() == [0.75] * 4
        assert area_under_risk_coverage(probs, labels) == 0.25
        _, accuracy = accuracy_by_coverage(probs, labels, torch.tensor([0.0, 1.0, 1.0, 2.0]))
        first, last = float(labels[0] == 0), float(labels[3] == 0)
        assert accuracy.tolist() == pytest.approx([first, (first + 1) / 2, (first + 2) / 3, (first + 2 + last) / 4])
    for score in (torch.zeros(3), torch.full((4,), float("nan"))):
        with pytest.raises(ValueError, match="expected 4 scores without NaN"):
            area_under_risk_coverage(probs, y, score)


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


def test_rounding_below_zero_costs_no_entropy() -> None:
    probs = torch.tensor([[1.0001, -0.0001], [0.5, 0.5]])
    y = torch.tensor([0, 1])
    assert probability_figures(probs, y)["entropy"] == pytest.approx(math.log(2) / 2, abs=1e-3)
    assert accuracy_by_coverage(probs, y)[1].tolist() == [1.0, 0.5]


def test_logits_and_other_lengths_are_refused() -> None:
    z, y = logits(10)
    probs = z.softmax(1)
    measures = (expected_calibration_error, accuracy_by_coverage, area_under_risk_coverage, probability_figures)
    for measure in (*measures, reliability):
        with pytest.raises(ValueError, match="apply softmax"):
            measure(z, y)
        with pytest.raises(ValueError, match=r"got \(10, 5\) and \(1,\)"):
            measure(probs, y[:1])
        with pytest.raises(ValueError, match="got NaN; the network's outputs are not finite"):
            measure(probs * float("nan"), y)
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_likelihood_of_logits_is_exact_where_probabilities_round_to_0(dtype: torch.dtype) -> None:
    z = torch.tensor([[[500.0, 0.0, 3.0]], [[300.0, 0.0, 1.0]]], dtype=dtype)
    prediction, y = Prediction(z), torch.tensor([1])
    expected = -300.0 + math.log(0.5)  # of the network that is less sure
    assert float(log_likelihood(prediction, y)) == pytest.approx(expected)
    assert probability_figures(prediction, y)["nll"] == pytest.approx(-expected)
    one = Prediction(torch.tensor([[[-400.0], [30.0]]], dtype=dtype))
    found = log_likelihood(one, torch.tensor([1, 1]))
    assert found.tolist() == pytest.approx([-400.0, -math.exp(-30)])
    assert probability_figures(one.probs, torch.tensor([1, 1]))["nll"] == pytest.approx(87.34 / 2, abs=0.01)


def test_the_temperature_of_logits_of_hundreds_is_found() -> None:
    mistaken = Prediction(torch.tensor([[[900.0, 0.0]] * 4]))  # labels have a probability of 0 in float32
    assert fit_temperature(mistaken, torch.tensor([0, 1, 1, 1])) == pytest.approx(20, rel=1e-6)
    assert fit_temperature(Prediction(torch.full((2, 4, 3), 7.0)), torch.tensor([0, 1, 2, 0])) == 1.0


def test_labels_that_are_no_whole_numbers_are_refused() -> None:
    z, y = logits()
    for value, text in ((0.5, "0.5"), (math.nan, "nan")):
        wrong = y.float()
        wrong[3] = value
        for function in (probability_figures, expected_calibration_error, accuracy_by_coverage):
            with pytest.raises(ValueError, match=f"classes must be whole numbers, got {text} among them"):
                function(z.softmax(-1), wrong)
    with pytest.raises(ValueError, match="expected labels of shape"):
        log_likelihood(Prediction(z[None]), y[:2])


@pytest.mark.parametrize("margin", [1.0, 3.0, 30.0, 700.0])
def test_the_temperature_of_networks_that_are_always_right_is_the_lowest(margin: float) -> None:
    right = Prediction(torch.tensor([[[margin, 0.0], [0.0, margin]]]))
    assert fit_temperature(right, torch.tensor([0, 1])) == pytest.approx(0.05, rel=1e-6)


def test_a_label_that_is_impossible_has_no_temperature() -> None:
    z, y = logits(50)
    z[3, y[3]] = -math.inf
    with pytest.raises(ValueError, match="a label has a probability of 0 at every temperature"):
        fit_temperature(Prediction(z[None]), y)


def test_arrays_and_lists_are_converted_and_others_are_refused() -> None:
    z, y = logits(200)
    prediction, of_numpy = Prediction(z[None]), Prediction(z[None].numpy())
    assert fit_temperature(of_numpy, y.tolist()) == fit_temperature(prediction, y)
    assert torch.equal(log_likelihood(of_numpy, y[:, None].numpy()), log_likelihood(prediction, y))
    for labels in (y.numpy(), y.tolist()):
        for mine, theirs in ((of_numpy, prediction), (z.softmax(-1).numpy(), z.softmax(-1))):
            assert probability_figures(mine, labels) == probability_figures(theirs, y)
    for function in (fit_temperature, log_likelihood, ConformalSets.fit):
        with pytest.raises(TypeError, match="expected a Prediction, got Tensor; wrap"):
            function(z, y)
    with pytest.raises(TypeError, match=r"classes must be numbers, got list: \['cat', 'dog'\]"):
        probability_figures(z[:2].softmax(-1), ["cat", "dog"])
