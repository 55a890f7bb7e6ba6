"""Outputs of one or several networks, and the uncertainties that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

A = TypeVar("A")


@dataclass(frozen=True)
class Prediction(Generic[A]):
    """Outputs of one or several networks for the same inputs.

    All properties have the type of `outputs`: torch tensors, or NumPy arrays if torch is not installed.

    Args:
        outputs: Raw outputs (logits, or regression values), shape (C, N, K) for C networks.

    Example:
        >>> both = Prediction(torch.tensor([[[9.0, -9.0]], [[-9.0, 9.0]]]))  # two confident networks that disagree
        >>> both.probs
        tensor([[0.5000, 0.5000]])
        >>> both.entropy, both.mutual_information
        (tensor([0.6931]), tensor([0.6931]))
        >>> Prediction(both.outputs.numpy()).probs.tolist()
        [[0.5, 0.5]]
    """

    outputs: A

    @property
    def sample_probs(self) -> A:
        """Class probabilities of each network, shape (C, N, K). With K = 1, the only output is the logit of class 1."""
        return _probabilities(self.outputs)

    @property
    def probs(self) -> A:
        """Mean of the networks' class probabilities, shape (N, K) (BayesBiNN, eq. 18)."""
        return _mean(self.sample_probs)

    @property
    def class_probs(self) -> A:
        """Mean probabilities of all classes, shape (N, K), or (N, 2) if the only output is the logit of class 1.

        Those of two classes are computed from the logits, because 1 − p is 0 where p rounds to 1.
        """
        return _mean(_of_classes(self.outputs))

    def tempered(self, temperature: float) -> Prediction[A]:
        """Return the prediction with all logits divided by a temperature from `bitbayes.calibration.fit_temperature`.

        Args:
            temperature: Positive number. Values above 1 make the networks less confident.

        Raises:
            ValueError: If the temperature is not positive.
        """
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        outputs: Any = self.outputs
        return Prediction(outputs / temperature)

    @property
    def entropy(self) -> A:
        """Total uncertainty: the entropy of `probs` in nats, shape (N,)."""
        return _entropy(self.class_probs)

    @property
    def mutual_information(self) -> A:
        """Disagreement of the networks: entropy of `probs` minus mean entropy of the networks, in nats, shape (N,)."""
        probs = _of_classes(self.outputs)
        return (_entropy(_mean(probs)) - _mean(_entropy(probs))).clip(min=0)

    @property
    def confidence(self) -> A:
        """Probability of the most probable class in `class_probs`, shape (N,)."""
        return _max(self.class_probs)

    @property
    def energy(self) -> A:
        """Mean over the networks of the free energy −log Σₖ exp(logit k), shape (N,) (Liu et al., NeurIPS 2020).

        Unfamiliar inputs tend to have a higher energy. The energy at temperature T is T · `tempered(T).energy`. With
        K = 1, the logits of the two classes are −output / 2 and output / 2.
        """
        return _mean(_energy(self.outputs))

    @property
    def probs_std(self) -> A:
        """Standard deviation of each class probability over the networks, shape (N, K); zeros for a single network."""
        return _std(self.sample_probs)

    @property
    def mean(self) -> A:
        """Mean of the raw outputs, shape (N, K), for regression."""
        return _mean(self.outputs)

    @property
    def std(self) -> A:
        """Standard deviation of the raw outputs over the networks, shape (N, K); zeros for a single network."""
        return _std(self.outputs)


def softmax(x: Any, axis: int) -> Any:
    """Return the class probabilities of logits in a NumPy array."""
    grown = np.exp(x - x.max(axis, keepdims=True))
    return grown / grown.sum(axis, keepdims=True)


def _probabilities(outputs: Any) -> Any:
    single = outputs.shape[-1] == 1
    if isinstance(outputs, np.ndarray):
        # The logistic function as exp(−log(1 + e⁻ˣ)), without overflow and as precise near 0 as near 1.
        return np.exp(-np.logaddexp(0, -outputs)) if single else softmax(outputs, -1)
    import torch

    outputs = outputs if outputs.dtype == torch.float64 else outputs.float()
    return torch.sigmoid(outputs) if single else torch.softmax(outputs, -1)


def _of_classes(outputs: Any) -> Any:
    """Return the probabilities of all classes, shape (..., K), or (..., 2) from the logit of class 1 alone."""
    single = outputs.shape[-1] == 1
    return _joined(_probabilities(-outputs), _probabilities(outputs)) if single else _probabilities(outputs)


def _mean(values: Any) -> Any:
    return values.mean(0)


def _std(values: Any) -> Any:
    if isinstance(values, np.ndarray):
        return values.std(0, ddof=1) if len(values) > 1 else np.zeros_like(values[0])
    return values.std(0) if len(values) > 1 else values[0].new_zeros(values[0].shape)


def _max(values: Any) -> Any:
    return values.max(-1) if isinstance(values, np.ndarray) else values.amax(-1)


def _energy(outputs: Any) -> Any:
    logits = _joined(-0.5 * outputs, 0.5 * outputs) if outputs.shape[-1] == 1 else outputs
    if isinstance(logits, np.ndarray):
        return -np.logaddexp.reduce(logits, axis=-1)
    return -(logits if logits.dtype.itemsize == 8 else logits.float()).logsumexp(-1)


def _joined(first: Any, second: Any) -> Any:
    if isinstance(first, np.ndarray):
        return np.concatenate([first, second], -1)
    import torch

    return torch.cat([first, second], -1)


def _entropy(probs: Any) -> Any:
    if isinstance(probs, np.ndarray):
        return -(probs * np.log(np.where(probs > 0, probs, 1))).sum(-1)
    import torch

    return torch.special.entr(probs).sum(-1)
