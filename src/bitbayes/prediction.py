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
        return _entropy(self.probs)

    @property
    def mutual_information(self) -> A:
        """Disagreement of the networks: entropy of `probs` minus mean entropy of the networks, in nats, shape (N,)."""
        return (_entropy(self.probs) - _mean(_entropy(self.sample_probs))).clip(min=0)

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
        # 0.5 (1 + tanh(x / 2)) is the logistic function without overflow.
        return 0.5 * (1 + np.tanh(0.5 * outputs)) if single else softmax(outputs, -1)
    import torch

    outputs = outputs if outputs.dtype == torch.float64 else outputs.float()
    return torch.sigmoid(outputs) if single else torch.softmax(outputs, -1)


def _mean(values: Any) -> Any:
    return values.mean(0)


def _std(values: Any) -> Any:
    if isinstance(values, np.ndarray):
        return values.std(0, ddof=1) if len(values) > 1 else np.zeros_like(values[0])
    return values.std(0) if len(values) > 1 else values[0].new_zeros(values[0].shape)


def _entropy(probs: Any) -> Any:
    single = probs.shape[-1] == 1
    if isinstance(probs, np.ndarray):
        probs = np.concatenate([probs, 1 - probs], -1) if single else probs
        return -(probs * np.log(np.where(probs > 0, probs, 1))).sum(-1)
    import torch

    return torch.special.entr(torch.cat([probs, 1 - probs], -1) if single else probs).sum(-1)
