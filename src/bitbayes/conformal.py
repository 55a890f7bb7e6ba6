"""Split conformal prediction: sets of classes, and intervals, that hold the truth with a given probability.

The threshold is computed on calibration data that the network was not trained on (Vovk et al., 2005; Lei et al., JASA
2018). If calibration examples and new inputs are exchangeable, for example drawn independently from one distribution,
the truth is in at least a fraction `level` of the sets. Without ties among n calibration scores, the fraction is at
most level + 1 / (n + 1). Both hold on average over calibration data: with given calibration data, the standard
deviation of the fraction is about √(level · (1 − level) / n). Nothing holds for out-of-distribution inputs.

Predictions and labels may be torch tensors or NumPy arrays; torch is not needed for NumPy arrays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt

from bitbayes.prediction import Prediction

__all__ = ["ConformalIntervals", "ConformalSets"]

A = TypeVar("A")
_Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ConformalSets:
    """Sets of classes: all classes whose probability is at least a threshold (Sadinle et al., JASA 2019).

    For a given coverage, these sets have the smallest mean size if the probabilities are correct. A set may be empty:
    an accurate network needs empty sets to cover no more than `level`. One-element sets are answers, and all others are
    reasons to abstain.

    Args:
        level: Fraction of the sets that hold the true class, in (0, 1).
        threshold: Smallest probability of a class in a set, from 0, with which every set holds all classes, to 1.

    Raises:
        ValueError: If the level is not in (0, 1), or the threshold not in [0, 1].

    Example:
        >>> calibration = Prediction(torch.tensor([[[3.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0]]]))
        >>> found = ConformalSets.fit(calibration, torch.tensor([0, 1, 2]), level=0.75)
        >>> round(found.threshold, 3)  # the ⌈4 · 0.75⌉ = 3rd largest probability of a label: e / (e + 2)
        0.576
        >>> found.sets(Prediction(torch.tensor([[[5.0, 0.0, 0.0], [0.1, 0.0, 0.0]]])))
        tensor([[ True, False, False],
                [False, False, False]])
    """

    level: float
    threshold: float

    def __post_init__(self) -> None:
        _check_level(self.level)
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be a probability from 0 to 1, got {self.threshold}")

    @classmethod
    def fit(cls, prediction: Prediction[Any], y: Any, *, level: float = 0.9) -> Self:
        """Compute the threshold for a level: the ⌈(n + 1) · level⌉-th largest probability of a label.

        Args:
            prediction: Prediction for n calibration inputs.
            y: Their classes, shape (n,) or (n, 1).
            level: Fraction of the sets that shall hold the true class, in (0, 1).

        Returns:
            The sets. If n < level / (1 − level), no threshold above 0 guarantees the level, and every set holds all
            classes.

        Raises:
            ValueError: If the level is not in (0, 1), there is no calibration input, the outputs are not finite, or the
                labels are not one class for each input.
        """
        own = _of_labels(_all_probs(prediction), y)
        place = _rank(len(own), level)
        return cls(float(level), float(np.sort(own)[::-1][place - 1]) if place <= len(own) else 0.0)

    def sets(self, prediction: Prediction[A]) -> A:
        """Return which classes are in the set of each input, a Boolean array of shape (N, K), or (N, 2) if K = 1.

        Raises:
            ValueError: If the outputs are not finite.
        """
        found: Any = _all_probs(prediction) >= self.threshold
        return found

    def coverage(self, prediction: Prediction[Any], y: Any) -> float:
        """Return the fraction of the sets that hold the label, for test inputs and their classes.

        Raises:
            ValueError: If there is no input, the outputs are not finite, or the labels are not one class for each
                input.
        """
        return float((_of_labels(_all_probs(prediction), y) >= self.threshold).mean())


@dataclass(frozen=True)
class ConformalIntervals:
    """Intervals for regression: mean ± threshold · s, with s = 1 or the predictive standard deviation.

    Without `noise`, all intervals have the same width. With `noise`, s = √(std² + noise²), where std is the standard
    deviation over the networks, and the intervals are wider where the networks disagree (Lei et al., JASA 2018, sec.
    5.2). With several outputs, all intervals of an input hold the truth at the same time.

    Args:
        level: Fraction of the intervals that hold the target, in (0, 1).
        threshold: Half of the width, in units of s. It is infinite if there were too few calibration examples.
        noise: Standard deviation of the observation noise, positive, or None for s = 1.

    Raises:
        ValueError: If the level is not in (0, 1), the threshold is negative, or the noise is not positive.

    Example:
        >>> calibration = Prediction(torch.zeros(1, 4, 1))
        >>> found = ConformalIntervals.fit(calibration, torch.tensor([0.5, -1.0, 2.0, -3.0]), level=0.6)
        >>> found.threshold  # the ⌈5 · 0.6⌉ = 3rd smallest residual
        2.0
        >>> low, high = found.intervals(Prediction(torch.ones(1, 1, 1)))
        >>> float(low), float(high)
        (-1.0, 3.0)
    """

    level: float
    threshold: float
    noise: float | None = None

    def __post_init__(self) -> None:
        _check_level(self.level)
        if not self.threshold >= 0:
            raise ValueError(f"threshold must be at least 0, got {self.threshold}")
        if self.noise is not None and not 0 < self.noise < math.inf:
            raise ValueError(f"noise must be positive and finite, or None for intervals of one width; got {self.noise}")

    @classmethod
    def fit(cls, prediction: Prediction[Any], y: Any, *, level: float = 0.9, noise: float | None = None) -> Self:
        """Compute the threshold for a level: the ⌈(n + 1) · level⌉-th smallest residual, in units of s.

        Args:
            prediction: Prediction for n calibration inputs.
            y: Their targets, shape (n, K), or (n,) if K = 1.
            level: Fraction of the intervals that shall hold the target, in (0, 1).
            noise: Standard deviation of the observation noise, or None for intervals of the same width.

        Returns:
            The intervals. They are infinite if n < level / (1 − level).

        Raises:
            ValueError: If the level is not in (0, 1), there is no calibration input, outputs or targets are not finite,
                or their shapes differ.
        """
        unit = cls(level, math.inf, noise)
        scores = unit._scores(prediction, y)
        place = _rank(len(scores), level)
        return cls(float(level), float(np.sort(scores)[place - 1]) if place <= len(scores) else math.inf, noise)

    def intervals(self, prediction: Prediction[A]) -> tuple[A, A]:
        """Return the lower and the upper ends of the intervals, both of shape (N, K).

        Raises:
            ValueError: If the outputs are not finite.
        """
        exact: Any = _exact(prediction)
        half = self.threshold * self._spread(exact)
        return exact.mean - half, exact.mean + half

    def coverage(self, prediction: Prediction[Any], y: Any) -> float:
        """Return the fraction of the inputs whose targets are in their intervals.

        Raises:
            ValueError: If there is no input, outputs or targets are not finite, or their shapes differ.
        """
        return float((self._scores(prediction, y) <= self.threshold).mean())

    def _spread(self, exact: Prediction[Any]) -> Any:
        """Return s: 1, or an array of shape (N, K)."""
        return 1.0 if self.noise is None else (exact.std**2 + self.noise**2) ** 0.5

    def _scores(self, prediction: Prediction[Any], y: Any) -> _Array:
        """Return the largest residual of each input over its outputs, in units of s."""
        exact = _exact(prediction)
        mean, spread, targets = _numpy(exact.mean), _numpy(self._spread(exact)), _numpy(y)
        if mean.shape[1] == 1 and targets.shape == mean.shape[:1]:
            targets = targets[:, None]
        if not len(mean) or targets.shape != mean.shape:
            raise ValueError(
                f"targets must have the shape (N, K) of the outputs, N at least 1; got {targets.shape} "
                f"for outputs of shape {mean.shape}"
            )
        if not np.isfinite(targets).all():
            raise ValueError("expected finite targets, got NaN or infinities; remove or replace them")
        return (np.abs(targets - mean) / spread).max(1)


def _rank(count: int, level: float) -> int:
    """Return ⌈(count + 1) · level⌉, exact for the decimal number that `level` prints as."""
    _check_level(level)
    return math.ceil((count + 1) * Fraction(repr(float(level))))


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must be a fraction between 0 and 1, such as 0.9; got {level}")


def _exact(prediction: Prediction[A]) -> Prediction[A]:
    """Return the prediction in float64: probabilities near 1 would be equal in float32."""
    if not isinstance(prediction, Prediction):
        found = type(prediction).__name__
        raise TypeError(
            f"expected a Prediction, got {found}; wrap outputs of shape (N, K) as Prediction(outputs[None])"
        )
    outputs: Any = prediction.outputs
    if outputs.ndim != 3:
        raise ValueError(f"outputs must have shape (C, N, K), for C networks, got {tuple(outputs.shape)}")
    outputs = outputs.astype(np.float64) if isinstance(outputs, np.ndarray) else outputs.detach().double()
    if not bool((abs(outputs) < math.inf).all()):
        raise ValueError("expected finite outputs, got NaN or infinities")
    return Prediction(outputs)


def _all_probs(prediction: Prediction[Any]) -> Any:
    return _exact(prediction).class_probs


def _of_labels(probs: Any, y: Any) -> _Array:
    """Return the probability of each label."""
    probs, labels = _numpy(probs), _numpy(y)
    if not len(probs) or labels.size != len(probs):
        raise ValueError(
            f"expected one class for each input, and at least one input; got classes of shape "
            f"{labels.shape} for {len(probs)} inputs"
        )
    labels, classes = labels.reshape(-1), probs.shape[1]
    wrong = labels[~((labels >= 0) & (labels < classes) & (labels == np.floor(labels)))]
    if wrong.size:
        raise ValueError(f"classes must be whole numbers from 0 to {classes - 1}, got {wrong[0]:g}")
    return probs[np.arange(len(probs)), labels.astype(np.int64)]


def _numpy(values: Any) -> _Array:
    return np.asarray(values.detach().double().cpu() if hasattr(values, "detach") else values, np.float64)
