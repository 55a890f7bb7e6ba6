"""Evaluation of a finished run: the mode and the mean of samples, side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bitbayes.calibration import fit_temperature, probability_figures, reliability, separation
from bitbayes.lab.data import TensorData
from bitbayes.lab.recipes import find_recipe
from bitbayes.lab.studies.load import LoadedRun, load_run
from bitbayes.lab.train.measure import whole
from bitbayes.lab.train.regression import observation_noise, regression_figures
from bitbayes.predict import Prediction

__all__ = ["Inputs", "Predictions", "evaluate_run", "evaluation_inputs", "fitted_temperature"]


def evaluate_run(
    folder: str | Path,
    *,
    samples: int = 32,
    data: str | None = None,
    unlike: str | None = None,
    unlike_data: str | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Measures accuracy, likelihood, Brier score, calibration and entropy on the test data.

    Args:
        folder: Of the run.
        samples: Networks that the mean averages over.
        data: Where the data is, if not where the run found it.
        unlike: Recipe whose test inputs the network should be unsure of, such as "fashion-mnist" for a run on MNIST:
            adds the AUROC by which entropy and mutual information tell them from the run's own.
        unlike_data: Where those are; None for the recipe's own default.
        device: Torch device.

    Returns:
        What it writes to evaluation.json: figures of the mode and, with a posterior, of the mean; for classes also
        "reliability" with the points of both.

    Raises:
        ValueError: If the folder is not a run, or the data is missing.
        RunError: If a file of the run is missing or damaged.
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    run = load_run(folder, data=data, device=device)
    config, experiment = run.config, run.experiment
    found: dict[str, Any] = {
        "recipe": config.recipe,
        "rule": config.rule,
        "estimator": config.estimator,
        "seed": config.seed,
        "samples": samples,
    }
    names = ["mode"]
    if run.posterior is not None:
        found["posterior_entropy_bits"] = float(run.posterior.entropy())
        names.append("mean")
    if unlike is not None:
        found["unlike"] = unlike
    counts = {"mode": 0, "mean": samples}
    if not experiment.loss.classifies:
        if unlike is not None:
            raise ValueError(f"unlike needs a network that predicts classes; {config.recipe} is a regression")
        (x, y), (train_x, target) = whole(_test(run)), whole(experiment.data.train)
        for name in names:
            predicted = run.predictor(counts[name])
            found[name] = regression_figures(predicted(x), y, observation_noise(predicted(train_x), target))
    else:
        inputs = evaluation_inputs(run, unlike, unlike_data)
        found["reliability"] = {}
        for name in names:
            predictions = Predictions.of(run.predictor(counts[name]), inputs)
            found[name] = predictions.figures(inputs)
            found["reliability"][name] = predictions.points(inputs)
    run.files.write_json("evaluation.json", found)
    return found


@dataclass(frozen=True)
class Predictions:
    """What some networks say of all inputs that figures are made of.

    Args:
        test: Of the test inputs.
        held: Of the validation inputs, on which a temperature is fitted; None if there are none.
        unlike: Of inputs of another kind; None if there are none.
    """

    test: Prediction
    held: Prediction | None = None
    unlike: Prediction | None = None

    @classmethod
    def of(cls, predicted: Callable[[Tensor], Prediction], inputs: Inputs) -> Predictions:
        """Predicts all inputs.

        Args:
            predicted: The networks.
            inputs: The inputs.

        Returns:
            The predictions.
        """
        held = None if inputs.held is None else predicted(inputs.held[0])
        return cls(predicted(inputs.test[0]), held, None if inputs.unlike is None else predicted(inputs.unlike))

    def figures(self, inputs: Inputs) -> dict[str, float]:
        """Figures on test data, those that a temperature fitted on validation data changes, and those on other data.

        Args:
            inputs: With the targets.

        Returns:
            Accuracy (percent), NLL, Brier, ECE, and so on.
        """
        y, prediction = inputs.test[1], self.test
        figures = probability_figures(prediction.probs, y)
        wrong = prediction.probs.argmax(-1) != y.reshape(-1) if prediction.probs.shape[-1] > 1 else None
        if wrong is not None and wrong.any() and not wrong.all():
            figures["auroc_errors"] = separation(prediction.entropy[~wrong], prediction.entropy[wrong])
        if self.unlike is not None:
            figures["auroc_unlike"] = separation(prediction.entropy, self.unlike.entropy)
            if len(prediction.outputs) > 1:
                usual, unusual = prediction.mutual_information, self.unlike.mutual_information
                figures["auroc_unlike_information"] = separation(usual, unusual)
        if self.held is not None and inputs.held is not None:
            temperature = fit_temperature(self.held, inputs.held[1])
            tempered = probability_figures(prediction.tempered(temperature).probs, y)
            figures["temperature"] = temperature
            figures |= {f"{name}_tempered": tempered[name] for name in ("nll", "brier", "ece")}
        return figures

    def points(self, inputs: Inputs) -> dict[str, dict[str, list[float]]]:
        """The points of reliability diagrams on test data.

        Args:
            inputs: With the targets.

        Returns:
            For bins of equal width and of equal mass, by these names: confidence, accuracy and share of the examples,
            bin by bin; see `bitbayes.calibration.reliability`.

        Example:
            >>> predictions = Predictions(Prediction(torch.tensor([[[3.0, 0.0], [0.0, 1.0]]])))
            >>> points = predictions.points(Inputs((torch.zeros(2, 1), torch.tensor([0, 0]))))
            >>> points["width"]["accuracy"], points["mass"]["share"]
            ([0.0, 1.0], [0.5, 0.5])
        """
        found = {}
        for bins in ("width", "mass"):
            points = reliability(self.test.probs, inputs.test[1], bins=bins)
            found[bins] = {name: values.tolist() for name, values in vars(points).items()}
        return found


def fitted_temperature(run: LoadedRun, samples: int = 0) -> float:
    """The temperature that suits a run's validation data.

    Args:
        run: The run.
        samples: Networks of the mean; 0 for the mode.

    Returns:
        See `bitbayes.calibration.fit_temperature`.

    Raises:
        ValueError: If the run is of a regression, or has no validation data that fits in memory.
    """
    data = run.experiment.data.validation
    if not run.experiment.loss.classifies or not isinstance(data, TensorData):
        raise ValueError("a temperature needs classes, and validation data that fits in memory")
    x, y = whole(data)
    return fit_temperature(run.predictor(samples)(x), y)


@dataclass(frozen=True)
class Inputs:
    """What a network is measured on.

    Args:
        test: Inputs and targets.
        held: Validation inputs and targets, or None.
        unlike: Inputs of another kind, or None.
    """

    test: tuple[Tensor, Tensor]
    held: tuple[Tensor, Tensor] | None = None
    unlike: Tensor | None = None


def evaluation_inputs(run: LoadedRun, unlike: str | None = None, unlike_data: str | None = None) -> Inputs:
    """The data that a run of classes is evaluated on.

    Args:
        run: The run.
        unlike: Recipe of data of another kind, see `evaluate_run`.
        unlike_data: Where those are.

    Returns:
        Everything at once, normalised like the run's training data.

    Raises:
        ValueError: If there is no test data that fits in memory, or the other data has another shape.
    """
    data = run.experiment.data
    test = _test(run)
    other = None if unlike is None else _unlike(test, unlike, unlike_data, run.experiment.device)
    held = whole(data.validation) if isinstance(data.validation, TensorData) else None
    return Inputs(whole(test), held, other)


def _test(run: LoadedRun) -> TensorData:
    test, recipe = run.experiment.data.test, run.config.recipe
    if test is None:
        raise ValueError(f"recipe {recipe} has no test data")
    if not isinstance(test, TensorData):
        raise ValueError(
            f"evaluate holds all test data in memory, which those of {recipe} do not fit; summary.json has the "
            "accuracy and likelihood of the mode and of the mean"
        )
    return test


def _unlike(test: TensorData, recipe: str, where: str | None, device: torch.device) -> Tensor:
    """Test inputs of another recipe, normalised like the run's own."""
    other = find_recipe(recipe).load(where, device, 0).test
    if not isinstance(other, TensorData) or other.x.shape[1:] != test.x.shape[1:] or other.x.dtype != test.x.dtype:
        came = f"{tuple(other.x.shape[1:])}, {other.x.dtype}" if isinstance(other, TensorData) else "none in memory"
        wanted = f"{tuple(test.x.shape[1:])}, {test.x.dtype}"
        raise ValueError(f"inputs of {recipe} must be like the run's ({wanted}), got {came}")
    return whole(dataclasses.replace(test, x=other.x, y=other.y))[0]
