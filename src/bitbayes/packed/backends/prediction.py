"""Predictions as NumPy arrays, or as torch tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bitbayes.packed.format.bits import Array


@dataclass(frozen=True)
class ArrayPrediction:
    """`bitbayes.predict.Prediction` with NumPy arrays: outputs of one or several networks for the same inputs.

    Args:
        outputs: Raw outputs (logits, or regression values), shape (C, N, K) for C networks.

    Example:
        >>> both = ArrayPrediction(np.array([[[9.0, -9.0]], [[-9.0, 9.0]]]))  # two sure networks that disagree
        >>> both.probs.tolist(), both.entropy.round(4).tolist(), both.mutual_information.round(4).tolist()
        ([[0.5, 0.5]], [0.6931], [0.6931])
    """

    outputs: Array

    @property
    def sample_probs(self) -> Array:
        """Class probabilities of every network, shape (C, N, K); K = 1 means one logit: P[class 1], (C, N, 1)."""
        if self.outputs.shape[-1] == 1:
            return 0.5 * (1 + np.tanh(0.5 * self.outputs))  # the logistic function, without overflow
        return _softmax(self.outputs, -1)

    @property
    def probs(self) -> Array:
        """Mean of the networks' class probabilities, shape (N, K) (BayesBiNN, eq. 18)."""
        return self.sample_probs.mean(0)

    @property
    def entropy(self) -> Array:
        """Entropy of `probs` in nats, shape (N,): all of the uncertainty."""
        return _entropy(self.probs)

    @property
    def mutual_information(self) -> Array:
        """Entropy of the mean minus mean of the entropies in nats, shape (N,): how much the networks disagree."""
        return np.maximum(self.entropy - _entropy(self.sample_probs).mean(0), 0)

    @property
    def mean(self) -> Array:
        """Mean of the raw outputs, shape (N, K); for regression."""
        return self.outputs.mean(0)

    @property
    def std(self) -> Array:
        """Standard deviation of the raw outputs over networks, shape (N, K); zeros for one network."""
        return self.outputs.std(0, ddof=1) if len(self.outputs) > 1 else np.zeros_like(self.outputs[0])


def _softmax(x: Array, axis: int) -> Array:
    grown = np.exp(x - x.max(axis, keepdims=True))
    return grown / grown.sum(axis, keepdims=True)


def _entropy(probs: Array) -> Array:
    if probs.shape[-1] == 1:
        probs = np.concatenate([probs, 1 - probs], -1)
    return -(probs * np.log(np.where(probs > 0, probs, 1))).sum(-1)


def prediction(outputs: Any) -> Any:
    """Return the prediction of outputs (C, N, K), of the type that fits to theirs."""
    if isinstance(outputs, np.ndarray):
        return ArrayPrediction(outputs)
    from bitbayes.predict import Prediction

    return Prediction(outputs)
