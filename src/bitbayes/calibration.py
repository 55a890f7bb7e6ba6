"""Measures of uncertainty: calibration, temperature scaling, selective prediction, and separation of inputs.

Probabilities have shape (N, K), or (N, 1) with the probability of class 1. Labels have shape (N,) and are whole
numbers. NumPy arrays and lists are converted. Functions of probabilities raise ValueError if they get logits in a
tensor, and all functions do if the numbers of probabilities and labels differ. A label that is not among the K classes
counts as an error in accuracies. It raises ValueError in functions that need its probability.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import torch
from torch import Tensor

from bitbayes.errors import require
from bitbayes.prediction import Prediction

__all__ = [
    "TEMPERATURES",
    "Reliability",
    "accuracy_by_coverage",
    "area_under_risk_coverage",
    "expected_calibration_error",
    "false_positive_rate",
    "fit_temperature",
    "log_likelihood",
    "probability_figures",
    "reliability",
    "separation",
]

Bins = Literal["width", "mass"]

TEMPERATURES = 0.05, 20.0
"""Lowest and highest temperature that `fit_temperature` tries."""

_GRID = 25  # temperatures that are tried at equal ratios, before the search between the best one's neighbours


def probability_figures(probs: Tensor | Prediction[Tensor], y: Tensor) -> dict[str, float]:
    """Return accuracy, likelihood, entropy, Brier score and calibration errors of predicted probabilities.

    Args:
        probs: Predicted probabilities; or a prediction, whose logits give the NLL more precisely.
        y: Classes.

    Returns:
        A dictionary: `accuracy` in percent; `nll` and `entropy` in nats; `brier` (summed over classes); `ece` (15 bins
        of equal width) and `ece_mass` (15 bins of equal mass). The NLL of logits is `log_likelihood`. Among
        probabilities, one of 0 counts as the smallest normal number of float32, so that its NLL is 87 nats.

    Example:
        >>> figures = probability_figures(torch.tensor([[0.5, 0.5], [0.0, 1.0]]), torch.tensor([0, 1]))
        >>> figures["accuracy"], figures["brier"]
        (100.0, 0.25)
        >>> probability_figures(Prediction(torch.tensor([[[1000.0, 0.0]]])), torch.tensor([1]))["nll"]
        1000.0
    """
    if isinstance(probs, Prediction):
        log_likelihoods = log_likelihood(probs, y)
        probs, y = _checked(probs.class_probs, y)
    else:
        probs, y = _checked(probs, y)
        log_likelihoods = _of_class(probs, y).clamp(min=torch.finfo(torch.float32).tiny).log()
    one_hot = torch.nn.functional.one_hot(y, probs.shape[1])
    return {
        "accuracy": 100 * float((probs.argmax(1) == y).float().mean()),
        "nll": -float(log_likelihoods.mean()),
        "brier": float((probs - one_hot).square().sum(1).mean()),
        "ece": expected_calibration_error(probs, y),
        "ece_mass": expected_calibration_error(probs, y, bins="mass"),
        "entropy": float(torch.special.entr(probs).sum(1).mean()),
    }


def log_likelihood(prediction: Prediction[Tensor], y: Tensor) -> Tensor:
    """Return the logarithm of the networks' mean probability of each label.

    It is computed from logarithms, so it is finite where the probability rounds to 0.

    Args:
        prediction: Logits of C networks, shape (C, N, K), or (C, N, 1) with the logit of class 1; N may be several
            dimensions, as in text.
        y: Classes, shape (N,) or (N, 1).

    Returns:
        Log-probabilities in nats, float64, shape (N,).

    Raises:
        TypeError: If `prediction` is not a `Prediction`.
        ValueError: If the numbers of predictions and labels differ, or a label is not among the classes.

    Example:
        >>> two = Prediction(torch.tensor([[[0.0, 0.0]], [[0.0, 200.0]]]))
        >>> log_likelihood(two, torch.tensor([1])).exp(), log_likelihood(two, torch.tensor([0])).exp()
        (tensor([0.7500], dtype=torch.float64), tensor([0.2500], dtype=torch.float64))
    """
    outputs, y = _logits(prediction), _tensor("classes", y)
    shape = outputs.shape[1:-1]
    if y.shape not in (shape, (*shape, 1)):
        raise ValueError(f"expected labels of shape {tuple(shape)}, got {tuple(y.shape)}")
    y = y.reshape(shape)
    outputs = outputs if outputs.dtype == torch.float64 else outputs.float()
    single = outputs.shape[-1] == 1
    y = _whole(y)
    _check_classes(y, 2 if single else outputs.shape[-1])
    if single:
        of_label = torch.nn.functional.logsigmoid(torch.where(y > 0, outputs[..., 0], -outputs[..., 0]))
    else:
        of_label = outputs.log_softmax(-1).gather(-1, y.expand(len(outputs), *y.shape)[..., None])[..., 0]
    return of_label.double().logsumexp(0) - math.log(len(outputs))


@dataclass(frozen=True)
class Reliability:
    """Confidence and accuracy in each non-empty bin.

    Args:
        confidence: Mean probability of the predicted class, shape (B,).
        accuracy: Fraction of correct predictions, shape (B,).
        share: Fraction of all examples, shape (B,).
    """

    confidence: Tensor
    accuracy: Tensor
    share: Tensor

    @property
    def error(self) -> float:
        """The expected calibration error, Σ share · |accuracy − confidence|."""
        return float((self.share * (self.accuracy - self.confidence).abs()).sum())


def reliability(probs: Tensor, y: Tensor, *, count: int = 15, bins: Bins = "width") -> Reliability:
    """Return the points of a reliability diagram.

    Args:
        probs: Predicted probabilities.
        y: Classes.
        count: Number of bins.
        bins: "width" for bins of equal width in [0, 1]; "mass" for bins with equal numbers of examples.

    Returns:
        The non-empty bins in order of confidence.

    Raises:
        ValueError: If `bins` is neither "width" nor "mass".

    Example:
        >>> found = reliability(torch.tensor([[0.9, 0.1], [0.6, 0.4]]), torch.tensor([0, 1]), count=10)
        >>> found.confidence, found.accuracy
        (tensor([0.6000, 0.9000]), tensor([0., 1.]))
    """
    if bins not in ("width", "mass"):
        raise ValueError(f'bins must be "width" or "mass", got {bins!r}')
    probs, y = _checked(probs, y)
    confidence, predicted = probs.max(1)
    confidence, order = confidence.sort()
    right = (predicted == y).float()[order]
    if bins == "mass":
        _, ranks, ties = confidence.unique(return_inverse=True, return_counts=True)
        right = (torch.bincount(ranks, weights=right) / ties)[ranks]  # the order of equal confidences says nothing
        place = torch.arange(len(y), device=y.device) * count // max(len(y), 1)
    else:
        place = (confidence * count).ceil().long().sub(1).clamp(0, count - 1)  # bins are (low, high]
    number = torch.bincount(place, minlength=count).float()
    full = number > 0
    sums = [torch.bincount(place, weights=values, minlength=count)[full] for values in (confidence, right)]
    return Reliability(sums[0] / number[full], sums[1] / number[full], number[full] / len(y))


def expected_calibration_error(probs: Tensor, y: Tensor, *, count: int = 15, bins: Bins = "width") -> float:
    """Return the expected calibration error, a number between 0 and 1 (Guo et al., ICML 2017).

    Args:
        probs: Predicted probabilities.
        y: Classes.
        count: Number of bins.
        bins: Kind of bins; see `reliability`.

    Example:
        >>> expected_calibration_error(torch.tensor([[0.75, 0.25]] * 4), torch.tensor([0, 0, 0, 1]))
        0.0
    """
    return reliability(probs, y, count=count, bins=bins).error


def fit_temperature(prediction: Prediction[Tensor], y: Tensor) -> float:
    """Return the temperature that maximises the likelihood of the labels (Guo et al., ICML 2017).

    Fit the temperature on validation data. With several networks, it divides the logits of each network, and the mean
    of their probabilities is scored. This function needs the extra `train`.

    Args:
        prediction: Logits of one or several networks.
        y: Classes.

    Returns:
        Temperature in the range `TEMPERATURES`, from 0.05 to 20, for `Prediction.tempered`. It is an end of the range
        if the likelihood still grows there, as where all examples are predicted correctly. It is 1 if all temperatures
        have the same likelihood.

    Raises:
        TypeError: If `prediction` is not a `Prediction`.
        ValueError: If the numbers of predictions and labels differ, a label is not among the classes, or a label has a
            probability of 0 at every temperature.

    Example:
        >>> sure = Prediction(torch.tensor([[[4.0, 0.0]] * 4]))  # right three times of four
        >>> round(fit_temperature(sure, torch.tensor([0, 0, 0, 1])), 2)  # 4 / T = log 3
        3.64
    """
    exact = Prediction(_logits(prediction).double())  # in float32, rounding moves the minimum in the fourth digit

    _, y = _checked(exact.probs, y)

    def cost(log_temperature: float) -> float:
        return -float(log_likelihood(exact.tempered(math.exp(log_temperature)), y).mean())

    low, high = map(math.log, TEMPERATURES)
    # The cost of several networks may have more than one minimum.
    grid = torch.linspace(low, high, _GRID, dtype=torch.float64).tolist()
    costs = [cost(each) for each in grid]
    if not all(map(math.isfinite, costs)):
        raise ValueError("a label has a probability of 0 at every temperature; the network's logits are not finite")
    flat = [math.exp(each) for each, its in zip(grid, costs, strict=True) if its == min(costs)]
    if len(flat) > 1:  # rounded to 0, where all examples are right by far
        return 1.0 if len(flat) == _GRID else min(TEMPERATURES, key=lambda end: min(abs(end - each) for each in flat))
    best = costs.index(min(costs))
    around = grid[max(best - 1, 0)], grid[min(best + 1, _GRID - 1)]
    minimize = require("scipy.optimize", "train").minimize_scalar
    return math.exp(minimize(cost, bounds=around, method="bounded", options={"xatol": 1e-8}).x)


def separation(usual: Tensor, unusual: Tensor) -> float:
    """Return the area under the ROC curve: the probability that an unusual input has the larger score.

    This function needs the extra `train`.

    Args:
        usual: Scores, such as entropies, of in-distribution (or correctly classified) inputs, shape (N,).
        unusual: Scores of out-of-distribution (or misclassified) inputs, shape (M,).

    Returns:
        A number between 0 and 1; 0.5 if the score does not separate the inputs.

    Raises:
        ValueError: If one side is empty, or a score is NaN.

    Example:
        >>> separation(torch.tensor([0.1, 0.2]), torch.tensor([0.3, 0.15]))
        0.75
    """
    _check_groups(usual, unusual)
    _, ranks = torch.cat([usual, unusual]).unique(return_inverse=True)  # ranks keep the order and are finite
    labels = [0] * len(usual) + [1] * len(unusual)
    return float(require("sklearn.metrics", "train").roc_auc_score(labels, ranks.numpy(force=True)))


def false_positive_rate(usual: Tensor, unusual: Tensor, *, recall: float = 0.95) -> float:
    """Return the fraction of unusual inputs that pass for usual ones (Liang et al., ICLR 2018); FPR95 by default.

    The threshold t is the smallest score for which at least a fraction `recall` of the usual inputs has a score of at
    most t. The rate is the fraction of unusual inputs whose score is at most t.

    Args:
        usual: Scores, such as entropies, of in-distribution inputs, shape (N,).
        unusual: Scores of out-of-distribution inputs, shape (M,).
        recall: Fraction of the usual inputs that shall be accepted, in (0, 1].

    Returns:
        A number between 0 and 1; 0 if the score separates the inputs.

    Raises:
        ValueError: If one side is empty, a score is NaN, or the recall is not in (0, 1].

    Example:
        >>> false_positive_rate(torch.arange(20.0), torch.tensor([17.5, 18.5, 19.5]))  # the threshold is 18
        0.3333333432674408
    """
    _check_groups(usual, unusual)
    if not 0 < recall <= 1:
        raise ValueError(f"recall must be a fraction above 0 and at most 1, got {recall}")
    accepted = math.ceil(Fraction(repr(float(recall))) * len(usual))
    return float((unusual <= usual.kthvalue(accepted).values).float().mean())


def accuracy_by_coverage(probs: Tensor, y: Tensor, score: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the accuracy on the most certain inputs, for every coverage (El-Yaniv & Wiener, JMLR 2010).

    Inputs with equal scores are answered in random order, and the accuracy is its expectation.

    Args:
        probs: Predicted probabilities.
        y: Classes.
        score: Uncertainty of each input, shape (N,). Inputs with the largest score are rejected first. None uses the
            entropy of `probs`.

    Returns:
        Coverage in (0, 1], and the accuracy at each coverage, both of shape (N,).

    Raises:
        ValueError: If the scores have another shape, or one is NaN.

    Example:
        >>> accuracy_by_coverage(torch.tensor([[0.9, 0.1], [0.6, 0.4]]), torch.tensor([0, 1]))
        (tensor([0.5000, 1.0000]), tensor([1.0000, 0.5000]))
    """
    probs, y = _checked(probs, y)
    score = torch.special.entr(probs).sum(1) if score is None else score
    if score.shape != y.shape or score.isnan().any():
        raise ValueError(f"expected {len(y)} scores without NaN, got a tensor of shape {tuple(score.shape)}")
    right = (probs.argmax(1) == y).double()
    _, ranks, counts = score.unique(return_inverse=True, return_counts=True)
    mean = torch.bincount(ranks, weights=right) / counts  # of the inputs with equal scores
    kept = torch.arange(1, len(y) + 1, device=y.device)
    return kept / len(y), (mean.repeat_interleave(counts).cumsum(0) / kept).float()


def area_under_risk_coverage(probs: Tensor, y: Tensor, score: Tensor | None = None) -> float:
    """Return the area under the risk-coverage curve, AURC (Geifman, Uziel & El-Yaniv, ICLR 2019).

    AURC = 1/N Σₖ rₖ, where rₖ is the fraction of errors among the k most certain of N inputs. Smaller is better. An
    error rate that does not depend on the score is also the area.

    Args:
        probs: Predicted probabilities.
        y: Classes.
        score: Uncertainty of each input, shape (N,); see `accuracy_by_coverage`.

    Example:
        >>> area_under_risk_coverage(torch.tensor([[0.9, 0.1], [0.6, 0.4]]), torch.tensor([0, 1]))  # (0 + 1/2) / 2
        0.25
    """
    _, accuracy = accuracy_by_coverage(probs, y, score)
    return float((1 - accuracy).mean())


def _check_groups(usual: Tensor, unusual: Tensor) -> None:
    if usual.dim() != 1 or unusual.dim() != 1:
        raise ValueError(f"scores must have one dimension, got {tuple(usual.shape)} and {tuple(unusual.shape)}")
    if len(usual) == 0 or len(unusual) == 0:
        raise ValueError(f"both groups need at least one score, got {len(usual)} usual and {len(unusual)} unusual")
    if usual.isnan().any() or unusual.isnan().any():
        raise ValueError("scores must not be NaN; remove or replace the NaN entries")


def _checked(probs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return checked probabilities of all classes and their labels."""
    probs, y = _tensor("probabilities", probs), _tensor("classes", y)
    if probs.dim() != 2 or not len(probs) or y.numel() != len(probs):
        found = f"{tuple(probs.shape)} and {tuple(y.shape)}"
        raise ValueError(f"probabilities and classes must have shapes (N, K) and (N,), N at least 1; got {found}")
    full, y = _full(probs), _whole(y.reshape(-1))
    if full.isnan().any():
        raise ValueError("expected probabilities, got NaN; the network's outputs are not finite")
    if not (full.min() >= -1e-3 and (full.sum(1) - 1).abs().max() < 1e-2):  # bfloat16 sums to 1 roughly
        raise ValueError(
            "expected probabilities, got rows that are negative or do not sum to 1; apply softmax to logits"
        )
    return full.clamp(min=0), y


def _of_class(probs: Tensor, y: Tensor) -> Tensor:
    """Return the probability of each label, which must be one of the classes that the network predicts."""
    _check_classes(y, probs.shape[1])
    return probs.gather(1, y[:, None])


def _check_classes(y: Tensor, count: int) -> None:
    if y.numel() and not 0 <= int(y.min()) <= int(y.max()) < count:
        raise ValueError(f"classes must be from 0 to {count - 1}, got {int(y.min())} to {int(y.max())}")


def _logits(prediction: Prediction[Any]) -> Tensor:
    """Return the outputs of a prediction of torch or NumPy, of shape (C, N, K)."""
    if not isinstance(prediction, Prediction):
        found = type(prediction).__name__
        raise TypeError(f"expected a Prediction, got {found}; wrap logits of shape (N, K) as Prediction(logits[None])")
    return _tensor("logits", prediction.outputs)


def _tensor(what: str, values: Any) -> Tensor:
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{what} must be numbers, got {type(values).__name__}: {values!r:.60}") from None


def _whole(y: Tensor) -> Tensor:
    """Return labels as integers."""
    if y.is_floating_point() and (y != y.round()).any():  # also NaN
        raise ValueError(f"classes must be whole numbers, got {float(y[y != y.round()].flatten()[0]):g} among them")
    return y.long()


def _full(probs: Tensor) -> Tensor:
    """Return the probabilities of both classes of a binary problem."""
    probs = probs.float()
    return torch.cat([1 - probs, probs], 1) if probs.shape[1] == 1 else probs
