"""Evaluation of a finished run: the mode and the mean of samples, side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from bitbayes.calibration import fit_temperature, probability_figures, separation
from bitbayes.data import TensorData
from bitbayes.posterior import Posterior
from bitbayes.predict import Prediction, predict
from bitbayes.recipes.run import make_experiment
from bitbayes.training import Experiment, RunConfig, RunFolder
from bitbayes.training.mean import MeanPredictor
from bitbayes.training.measure import autocast, whole
from bitbayes.training.regression import observation_noise, regression_figures
from bitbayes.training.results import load_mode, load_posterior

__all__ = ["LoadedRun", "evaluate_run", "load_run"]


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
    run = load_run(folder, data=data, device=device)
    config, experiment = run.config, run.experiment
    if experiment.data.test is None:
        raise ValueError(f"recipe {config.recipe} has no test data")
    if not isinstance(experiment.data.test, TensorData):
        raise ValueError(
            f"evaluate holds all test data in memory, which those of {config.recipe} do not fit; summary.json has the "
            "accuracy and likelihood of the mode and of the mean"
        )
    found: dict[str, Any] = {
        "recipe": config.recipe,
        "rule": config.rule,
        "estimator": config.estimator,
        "seed": config.seed,
        "samples": samples,
    }
    x, y = whole(experiment.data.test)
    names = ["mode"]
    if run.posterior is not None:
        found["posterior_entropy_bits"] = float(run.posterior.entropy())
        names.append("mean")
    for name in names:
        count = samples if name == "mean" else 0
        if experiment.loss == "squared":
            predicted = run.predictor(count)
            train_x, target = whole(experiment.data.train)
            found[name] = regression_figures(predicted(x), y, observation_noise(predicted(train_x), target))
        else:
            found[name] = _class_figures(run, x, y, count)
    run.files.write_json("evaluation.json", found)
    return found


def _class_figures(run: LoadedRun, x: Tensor, y: Tensor, count: int) -> dict[str, float]:
    """Figures on test data, and those that a temperature fitted on validation data changes."""
    predicted = run.predictor(count)
    prediction = predicted(x)
    figures = probability_figures(prediction.probs, y)
    wrong = prediction.probs.argmax(-1) != y.reshape(-1) if prediction.probs.shape[-1] > 1 else None
    if wrong is not None and wrong.any() and not wrong.all():
        figures["auroc_errors"] = separation(prediction.entropy[~wrong], prediction.entropy[wrong])
    validation = run.experiment.data.validation
    if validation is not None:
        held, target = whole(validation)
        temperature = fit_temperature(predicted(held), target)
        tempered = probability_figures(prediction.tempered(temperature).probs, y)
        figures["temperature"] = temperature
        figures |= {f"{name}_tempered": tempered[name] for name in ("nll", "brier", "ece")}
    return figures


@dataclass(frozen=True)
class LoadedRun:
    """A finished run, ready to predict.

    Args:
        config: Its record.
        files: Its folder.
        experiment: Its data and settings; `experiment.model` holds the mode of the best epoch.
        posterior: Of the same epoch; None if the rule keeps none.
    """

    config: RunConfig
    files: RunFolder
    experiment: Experiment
    posterior: Posterior | None

    def predict(self, x: Tensor, samples: int = 0) -> Prediction:
        """Predicts with the mode, or with the mean of drawn networks.

        Args:
            x: Inputs, on the device of the run.
            samples: Networks to draw; 0 for the mode.

        Returns:
            The prediction.

        Raises:
            ValueError: If samples are wanted of a rule without a posterior.
        """
        return self.predictor(samples)(x)

    def predictor(self, samples: int = 0) -> Callable[[Tensor], Prediction]:
        """The same for several inputs, with BatchNorm statistics of the draws estimated once.

        Args:
            samples: Networks to draw; 0 for the mode.

        Returns:
            A function of inputs.

        Raises:
            ValueError: If samples are wanted of a rule without a posterior.
        """
        if samples == 0:
            return self._mode
        if self.posterior is None:
            raise ValueError(f"{self.config.rule} keeps no posterior; use samples=0 for its mode")
        return MeanPredictor(self.config, self.experiment, self.experiment.model, self.posterior, samples)

    def _mode(self, x: Tensor) -> Prediction:
        with autocast(self.experiment.device, self.config.precision):
            return predict(self.experiment.model, x, chunk=2000)


def load_run(folder: str | Path, *, data: str | None = None, device: str = "cpu") -> LoadedRun:
    """Loads the mode and the posterior of a run, and its data.

    Args:
        folder: Of the run.
        data: Where the data is, if not where the run found it.
        device: Torch device.

    Returns:
        The run.

    Raises:
        ValueError: If the folder is not a run, or the data is missing.
        RunError: If a file of the run is missing or damaged.
    """
    config = RunConfig.load(folder)
    config = dataclasses.replace(config, data=data or config.data, device=device)
    files = RunFolder(folder)
    experiment = make_experiment(config)
    load_mode(files, experiment.model)
    return LoadedRun(config, files, experiment, load_posterior(files, experiment.device))
