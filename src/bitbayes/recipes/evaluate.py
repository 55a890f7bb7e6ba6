"""Evaluation of a finished run: the mode and the mean of samples, side by side."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bitbayes.functional import require
from bitbayes.recipes.run import make_experiment
from bitbayes.training import RunConfig, RunFolder
from bitbayes.training.mean import mean_prediction
from bitbayes.training.measure import gaussian_nll, outputs_of, whole
from bitbayes.training.results import load_mode, load_posterior

__all__ = ["evaluate_run", "probability_figures"]


def evaluate_run(
    folder: str | Path, *, samples: int = 32, data: str | None = None, device: str = "cpu"
) -> dict[str, Any]:
    """Measures accuracy, likelihood, Brier score, calibration and entropy on the test data.

    Args:
        folder: Of the run.
        samples: Networks that the mean averages over.
        data: Where the data is, if not where the run found it.
        device: Torch device.

    Returns:
        What it writes to evaluation.json.

    Raises:
        ValueError: If the folder is not a run, or the data is missing.
        RunError: If a file of the run is missing or damaged.
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    config = RunConfig.load(folder)
    config = dataclasses.replace(config, data=data or config.data, device=device)
    files = RunFolder(folder)
    experiment = make_experiment(config)
    test = experiment.data.test
    if test is None:
        raise ValueError(f"recipe {config.recipe} has no test data")
    model = experiment.model
    load_mode(files, model)
    found: dict[str, Any] = {
        "recipe": config.recipe,
        "rule": config.rule,
        "estimator": config.estimator,
        "seed": config.seed,
        "samples": samples,
    }
    _, y = whole(test)
    _, target = whole(experiment.data.train)
    squared = experiment.loss == "squared"
    mode = outputs_of(model, test, config.precision)
    if squared:
        train = outputs_of(model, experiment.data.train, config.precision)
        found["mode"] = error_figures(mode, y, train, target)
    else:
        found["mode"] = probability_figures(_probabilities(mode), y)
    posterior = load_posterior(files, experiment.device)
    if posterior is not None:
        found["posterior_entropy_bits"] = float(posterior.entropy())
        mean = mean_prediction(config, experiment, model, posterior, test, samples)
        if squared:
            train = mean_prediction(config, experiment, model, posterior, experiment.data.train, samples).mean
            found["mean"] = error_figures(mean.mean, y, train, target)
        else:
            found["mean"] = probability_figures(mean.probs, y)
    files.write_json("evaluation.json", found)
    return found


def _probabilities(output: Tensor) -> Tensor:
    return output.sigmoid() if output.shape[-1] == 1 else output.softmax(-1)


def error_figures(output: Tensor, y: Tensor, train: Tensor, target: Tensor) -> dict[str, float]:
    """Squared error, and Gaussian likelihood with the noise of the training residuals.

    Args:
        output: Predictions for the test data.
        y: Test targets.
        train: Predictions for the training data.
        target: Training targets.

    Returns:
        error, noise and nll.
    """
    noise = float((train.reshape(-1) - target.reshape(-1)).square().mean().sqrt())
    error = float((output.reshape(-1) - y.reshape(-1)).square().mean())
    return {"error": error, "noise": noise, "nll": gaussian_nll(error, noise)}


def probability_figures(probs: Tensor, y: Tensor) -> dict[str, float]:
    """Accuracy, likelihood, Brier score, expected calibration error and entropy.

    Args:
        probs: Predicted probabilities, shape (N, K), or (N, 1) with the probability of class 1.
        y: Classes, shape (N,).

    Returns:
        accuracy in percent; nll and entropy in nats; brier (sum over classes); ece (15 bins).

    Example:
        >>> figures = probability_figures(torch.tensor([[0.5, 0.5], [0.0, 1.0]]), torch.tensor([0, 1]))
        >>> figures["accuracy"], figures["brier"]
        (100.0, 0.25)
    """
    metrics = require("torchmetrics.functional.classification", "train")
    if probs.shape[-1] == 1:
        probs = torch.cat([1 - probs, probs], dim=-1)
    probs, y = probs.float(), y.reshape(-1).long()
    classes = probs.shape[-1]
    chosen = probs.gather(1, y[:, None]).clamp(min=1e-12)
    one_hot = torch.nn.functional.one_hot(y, classes)
    ece = metrics.multiclass_calibration_error(probs, y, num_classes=classes, n_bins=15)
    return {
        "accuracy": 100 * float((probs.argmax(1) == y).float().mean()),
        "nll": -float(chosen.log().mean()),
        "brier": float((probs - one_hot).square().sum(1).mean()),
        "ece": float(ece),
        "entropy": float(torch.special.entr(probs).sum(1).mean()),
    }
