"""Figures of a regression, whose loss has no noise parameter: the noise is estimated on the training data."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bitbayes.prediction import Prediction

__all__ = ["gaussian_nll", "likeliest_noise", "observation_noise", "regression_figures"]


def regression_figures(test: Prediction, y: Tensor, noise: float) -> dict[str, float]:
    """Squared error of the mean, and Gaussian likelihood with the spread of the networks and the noise.

    Args:
        test: Prediction for the test data.
        y: Test targets, as many as outputs.
        noise: From `observation_noise`.

    Returns:
        error, noise, nll, and inside (percent of targets within two predictive standard deviations).

    Example:
        >>> both = Prediction(torch.tensor([[[-3.0]], [[3.0]]]))  # two networks: mean 0, variance 18
        >>> regression_figures(both, torch.tensor([9.0]), noise=0.1)["inside"]
        0.0
    """
    residuals = (test.mean.reshape(-1) - y.reshape(-1)).square()
    variances = test.std.reshape(-1).square()
    inside = residuals <= 4 * (variances + noise * noise)
    return {
        "error": float(residuals.mean()),
        "noise": noise,
        "nll": gaussian_nll(residuals, variances, noise),
        "inside": 100 * float(inside.float().mean()),
    }


def observation_noise(train: Prediction, target: Tensor) -> float:
    """Standard deviation of the noise that makes the training targets most likely.

    The predictive variance is v(x) + σ², with v the variance over networks. The residuals of the mean alone would
    count the disagreement of the networks twice.

    Args:
        train: Prediction for the training data.
        target: Training targets, as many as outputs.

    Returns:
        σ in units of the target.

    Example:
        >>> round(observation_noise(Prediction(torch.zeros(1, 4, 1)), torch.full((4,), 2.0)), 2)  # one network
        2.0
    """
    residuals = (train.mean.reshape(-1) - target.reshape(-1)).square()
    return likeliest_noise(residuals, train.std.reshape(-1).square())


def likeliest_noise(squared_residuals: Tensor, variances: Tensor) -> float:
    """The σ that maximises Σ log N(residual; 0, variance + σ²), on a grid of 0.1 % steps.

    Args:
        squared_residuals: Shape (N,).
        variances: Of the prediction, the same shape.

    Returns:
        σ, between a thousandth of the residuals' root mean square and that itself.

    Example:
        >>> round(likeliest_noise(torch.full((4,), 5.0), torch.full((4,), 1.0)), 2)
        2.0
    """
    largest = squared_residuals.mean().sqrt().double()
    grid = largest * torch.logspace(-3, 0, 7000, dtype=torch.float64, device=largest.device)
    total = variances[:, None].double() + grid.square()
    cost = (total.log() + squared_residuals[:, None].double() / total).sum(0)
    return float(grid[cost.argmin()])


def gaussian_nll(squared_residuals: Tensor, variances: Tensor, noise: float) -> float:
    """Mean negative log-likelihood of Gaussians of variance v + σ².

    Args:
        squared_residuals: Shape (N,).
        variances: v, the variance over networks, the same shape.
        noise: σ, the standard deviation of the observation noise.

    Returns:
        Nats an example.

    Example:
        >>> round(gaussian_nll(torch.ones(1), torch.zeros(1), 1.0), 4)
        1.4189
    """
    total = (variances.double() + noise * noise).clamp(min=1e-12)
    return float(0.5 * (squared_residuals.double() / total + total.log() + math.log(2 * math.pi)).mean())
