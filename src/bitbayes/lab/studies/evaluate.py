"""Evaluation of a finished run: posterior mode and posterior mean side by side."""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bitbayes.calibration import (
    area_under_risk_coverage,
    false_positive_rate,
    fit_temperature,
    probability_figures,
    reliability,
    separation,
)
from bitbayes.conformal import ConformalIntervals, ConformalSets
from bitbayes.lab.choices import Views
from bitbayes.lab.data import (
    CORRUPTIONS,
    LETTERS,
    SEVERITIES,
    DataBundle,
    TensorData,
    corrupted,
    framed,
    printed_letters,
)
from bitbayes.lab.recipes import open_recipe
from bitbayes.lab.studies.load import FinishedRun, joint, load_members
from bitbayes.lab.train import RunConfig, RunFolder
from bitbayes.lab.train.measure import bits, measure_regression, measure_text, whole
from bitbayes.lab.train.members import members_of
from bitbayes.lab.train.records import Evaluation, Figures
from bitbayes.lab.train.views import recorded
from bitbayes.prediction import Prediction

LEVEL = 0.9
"""Level of the conformal sets and intervals that an evaluation measures."""

_LETTERS = 2000  # number of printed letters

_SCORES: dict[str, Callable[[Prediction], Tensor]] = {
    "": lambda prediction: prediction.entropy,
    "_information": lambda prediction: prediction.mutual_information,
    "_probability": lambda prediction: 1 - prediction.confidence,
    "_energy": lambda prediction: prediction.energy,
}  # scores that are larger for unfamiliar inputs, by the ends of the names of their figures


def evaluate_run(
    folder: str | Path,
    *,
    samples: int = 32,
    data: str | None = None,
    unlike: str | None = None,
    unlike_data: str | None = None,
    views: Views | None = None,
    device: str = "cpu",
    trust: bool = False,
) -> Evaluation:
    """Measure accuracy, likelihood, Brier score, calibration and entropy on the test data; write evaluation.json.

    Of a text, bits per byte are measured.

    With validation data in memory, conformal sets (or, for regression, intervals) of level 0.9 are calibrated on them,
    and their coverage and mean size are measured on the test data.

    Args:
        folder: Folder of the run, or a folder that holds the members of an ensemble. All members together are then
            measured too, as the mean of their probabilities.
        samples: Number of posterior samples that the mean averages over, of each member.
        data: Folder or Hugging Face Hub id of the data, if it has moved since the run was trained.
        unlike: Recipe whose test inputs serve as out-of-distribution data, such as "fashion-mnist" for a run on MNIST;
            or "letters", printed letters of 28×28 pixels that need no download. Grey images smaller than the run's
            inputs are centred on black. It adds AUROC and FPR95 by which entropy, mutual
            information, maximum probability and energy separate these inputs from the run's own.
        unlike_data: Folder or Hugging Face Hub id of the out-of-distribution data; None for the recipe's default.
        views: Test-time augmentation of mode and mean, see `RunConfig.views`; None for that of the run.
        device: Torch device.
        trust: Run the recipe file of the run, a program, although this account has not run it before.

    Raises:
        ValueError: If the folder is not a run, the data is missing, or the views are unknown or do not suit the data.
        RunError: If a file of the run is missing or damaged, or the run or a member is still in progress.
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    _check_unlike(unlike, unlike_data)
    members = members_of(folder)
    for place in members or [folder]:
        RunConfig.load(place)
    with contextlib.ExitStack() as stack:
        for place in dict.fromkeys([str(folder), *members]):  # a run in progress would overwrite the weights
            stack.enter_context(RunFolder(place).held())
        runs = load_members(folder, data=data, device=device, trust=trust)
        own = runs[0].config.views
        runs = runs if views is None else [run.with_views(views) for run in runs]
        evaluation = _evaluation(runs, samples, unlike, unlike_data, several=bool(members))
        if views is not None and views != own:
            evaluation = dataclasses.replace(evaluation, views=views)
        RunFolder(folder).write_json("evaluation.json", evaluation.to_dict())
    return evaluation


def _evaluation(
    runs: Sequence[FinishedRun], samples: int, unlike: str | None, unlike_data: str | None, several: bool
) -> Evaluation:
    """Measure a run, or each of several members and all of them together."""
    run, kinds = runs[0], {"mode": 0} | ({} if runs[0].posterior is None else {"mean": samples})
    points = {}
    if run.experiment.loss.classifies:
        inputs = evaluation_inputs(run, unlike, unlike_data)
        found = [{k: Predictions.of(one.predictor(n), inputs) for k, n in kinds.items()} for one in runs]
        together = {kind: Predictions.joined([each[kind] for each in found]) for kind in kinds}
        figures = {kind: predictions.figures(inputs) for kind, predictions in together.items()}
        points = {kind: predictions.points(inputs) for kind, predictions in together.items()}
        members = [{k: p.figures(inputs) for k, p in each.items()} for each in found] if several else None
    else:
        if unlike is not None:
            raise ValueError(f"unlike needs a classifier, but {run.config.recipe} has no classes; leave it out")
        measured = _text if run.experiment.loss.text else _regression
        figures = measured(runs, kinds)
        members = [measured([one], kinds) for one in runs] if several else None
    entropies = [float(one.posterior.entropy()) for one in runs if one.posterior is not None]
    return Evaluation(
        recipe=run.config.recipe,
        rule=run.config.rule,
        estimator=run.config.estimator,
        seed=run.config.seed,
        samples=samples,
        posterior_entropy_bits=statistics.mean(entropies) if entropies else None,
        unlike=unlike,
        views=recorded(run.config.views),
        mode=figures["mode"],
        mean=figures.get("mean"),
        members=members,
        reliability=points,
    )


def _text(runs: Sequence[FinishedRun], kinds: Mapping[str, int]) -> dict[str, Figures]:
    """Return the figures of a text by kind, with all members together."""
    test = runs[0].experiment.data.test
    if test is None:
        raise ValueError(f"recipe {runs[0].config.recipe} has no test data")
    found = {kind: measure_text(joint(runs, count), test)[0] for kind, count in kinds.items()}
    return {kind: {"bits": bits(nll), "nll": nll} for kind, nll in found.items()}


def _regression(runs: Sequence[FinishedRun], kinds: Mapping[str, int]) -> dict[str, Figures]:
    """Return the figures of a regression by kind, with all members together."""
    figures = {}
    for kind, count in kinds.items():
        predictor = joint(runs, count)
        found = measure_regression(predictor, runs[0].experiment.data.train, _test_of(runs[0]))
        figures[kind] = found | _interval_figures(predictor, runs[0], found["noise"])
    return figures


@dataclass(frozen=True)
class Inputs:
    """Evaluation data of a classifier, normalised like its training data.

    Args:
        test: Inputs and targets.
        held: Validation inputs and targets, on which a temperature is fitted, or None.
        unlike: Out-of-distribution inputs, or None.
        shifted: Corrupted inputs and their targets, by kind and severity.
    """

    test: tuple[Tensor, Tensor]
    held: tuple[Tensor, Tensor] | None = None
    unlike: Tensor | None = None
    shifted: Mapping[tuple[str, int], tuple[Tensor, Tensor]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        data: DataBundle,
        recipe: str,
        unlike: str | None = None,
        unlike_data: str | None = None,
        *,
        shifted: int = 0,
    ) -> Inputs:
        """Return the evaluation data of classification runs.

        Args:
            data: Data of the runs, as divided by their protocol.
            recipe: Name of their recipe, for errors.
            unlike: See `evaluate_run`.
            unlike_data: See `evaluate_run`.
            shifted: Number of test images, from the first, that are corrupted in every way and severity. Inputs that
                are no images of type uint8 are not corrupted.

        Raises:
            ValueError: If there is no test data that fits in memory, or the out-of-distribution data has another shape
                or is named without a recipe that reads it.
        """
        _check_unlike(unlike, unlike_data)
        test, validation = _test(data, recipe), data.validation
        other = None if unlike is None else _unlike(test, unlike, unlike_data)
        held = whole(validation) if isinstance(validation, TensorData) else None
        return cls(whole(test), held, other, _shifted(test, shifted))


def evaluation_inputs(
    run: FinishedRun, unlike: str | None = None, unlike_data: str | None = None, *, shifted: int = 0
) -> Inputs:
    """Return the evaluation data of a classification run; see `Inputs.of`."""
    return Inputs.of(run.experiment.data, run.config.recipe, unlike, unlike_data, shifted=shifted)


def _shifted(test: TensorData, count: int) -> dict[tuple[str, int], tuple[Tensor, Tensor]]:
    """Return the first test images in every corruption and severity."""
    if not count or test.x.dtype != torch.uint8:
        return {}
    first = test.chosen(torch.arange(min(count, len(test))))
    return {
        (kind, severity): whole(dataclasses.replace(first, x=corrupted(first.x, kind, severity)))
        for kind in CORRUPTIONS
        for severity in SEVERITIES
    }


def _interval_figures(predicted: Callable[[Tensor], Prediction], run: FinishedRun, noise: float) -> Figures:
    """Return coverage and mean width of conformal intervals on test data, if there is validation data."""
    validation = run.experiment.data.validation
    if not isinstance(validation, TensorData):
        return {}
    (held, targets), (x, y) = whole(validation), whole(_test_of(run))
    found = ConformalIntervals.fit(predicted(held), targets, level=LEVEL, noise=noise or None)
    prediction = predicted(x)
    low, high = found.intervals(prediction)
    return {
        "conformal_coverage": 100 * found.coverage(prediction, y),
        "conformal_width": float((high - low).mean()),
    }


def _test_of(run: FinishedRun) -> TensorData:
    return _test(run.experiment.data, run.config.recipe)


def _test(data: DataBundle, recipe: str) -> TensorData:
    test = data.test
    if test is None:
        raise ValueError(f"recipe {recipe} has no test data")
    if not isinstance(test, TensorData):
        raise ValueError(
            f"evaluate needs all test data in memory, but those of {recipe} do not fit; summary.json has the "
            "accuracy and likelihood of the mode and of the mean"
        )
    return test


def _check_unlike(unlike: str | None, unlike_data: str | None) -> None:
    if unlike is None and unlike_data is not None:
        raise ValueError(f"unlike_data {unlike_data} has no effect without unlike, the recipe that reads it")


def _unlike(test: TensorData, recipe: str, where: str | None) -> Tensor:
    """Return test inputs of another recipe, or printed letters, normalised like the run's own."""
    if recipe == LETTERS:
        other = _letters(where, test.x.device)
    else:
        other = open_recipe(recipe).load(where, test.x.device, 0).test
    if not isinstance(other, TensorData):
        what = "no test data" if other is None else "test data that do not fit in memory"
        raise ValueError(f"{recipe} has {what}; choose another recipe for unlike")
    try:
        x = framed(other.x, test.x)
    except ValueError as error:
        raise ValueError(f"inputs of {recipe} do not suit the run: {error}; choose another recipe for unlike") from None
    return whole(dataclasses.replace(test, x=x, y=other.y))[0]


def _letters(where: str | None, device: torch.device) -> TensorData:
    if where is not None:
        raise ValueError(f"the letters are drawn, so unlike_data {where} has no effect; leave it out")
    x = printed_letters(_LETTERS).to(device)
    return TensorData(x, x.new_zeros(_LETTERS, dtype=torch.long))


@dataclass(frozen=True)
class Predictions:
    """Predictions for the parts of `Inputs`."""

    test: Prediction
    held: Prediction | None = None
    unlike: Prediction | None = None
    shifted: Mapping[tuple[str, int], Prediction] = field(default_factory=dict)

    @classmethod
    def of(cls, predicted: Callable[[Tensor], Prediction], inputs: Inputs) -> Predictions:
        """Predict all inputs."""
        held = None if inputs.held is None else predicted(inputs.held[0])
        unlike = None if inputs.unlike is None else predicted(inputs.unlike)
        shifted = {which: predicted(x) for which, (x, _) in inputs.shifted.items()}
        return cls(predicted(inputs.test[0]), held, unlike, shifted)

    def first(self, networks: int) -> Predictions:
        """Return the predictions of the first networks alone."""
        return self._each(lambda prediction: Prediction(prediction.outputs[:networks]))

    def _each(self, changed: Callable[[Prediction], Prediction]) -> Predictions:
        held, unlike = (None if part is None else changed(part) for part in (self.held, self.unlike))
        return Predictions(changed(self.test), held, unlike, {k: changed(p) for k, p in self.shifted.items()})

    @classmethod
    def joined(cls, members: Sequence[Predictions]) -> Predictions:
        """Return the predictions of all members of an ensemble as one prediction."""

        def together(parts: Sequence[Any]) -> Any:
            if isinstance(parts[0], Mapping):
                return {which: together([part[which] for part in parts]) for which in parts[0]}
            return None if parts[0] is None else Prediction(torch.cat([part.outputs for part in parts]))

        return cls(*map(together, zip(*(vars(member).values() for member in members), strict=True)))

    def figures(self, inputs: Inputs) -> Figures:
        """Return metrics on test data, metrics that validation data makes possible, and out-of-distribution metrics."""
        y, prediction = inputs.test[1], self.test
        figures = probability_figures(prediction, y)
        wrong = prediction.class_probs.argmax(1) != y.reshape(-1)
        if wrong.any() and not wrong.all():
            figures["auroc_errors"] = separation(prediction.entropy[~wrong], prediction.entropy[wrong])
        figures["aurc"] = area_under_risk_coverage(prediction.class_probs, y)
        if self.unlike is not None:
            for end, score in _SCORES.items():
                if end != "_information" or len(prediction.outputs) > 1:
                    usual, unusual = score(prediction), score(self.unlike)
                    figures[f"auroc_unlike{end}"] = separation(usual, unusual)
                    figures[f"fpr95_unlike{end}"] = false_positive_rate(usual, unusual)
        if self.held is not None and inputs.held is not None:
            temperature = fit_temperature(self.held, inputs.held[1])
            tempered = probability_figures(prediction.tempered(temperature), y)
            figures["temperature"] = temperature
            figures |= {f"{name}_tempered": tempered[name] for name in ("nll", "brier", "ece")}
            sets = ConformalSets.fit(self.held, inputs.held[1], level=LEVEL)
            figures["conformal_coverage"] = 100 * sets.coverage(prediction, y)
            figures["conformal_size"] = float(sets.sets(prediction).sum(1).float().mean())
        return figures

    def shift_figures(self, inputs: Inputs) -> Figures:
        """Return metrics on corrupted inputs: over all, and the NLL and accuracy of each kind and of each severity."""
        each = {w: probability_figures(self.shifted[w], y) for w, (_, y) in inputs.shifted.items()}
        found = {
            f"{name}_shifted": statistics.mean(figures[name] for figures in each.values())
            for name in ("accuracy", "nll", "brier", "ece")
            if each
        }
        for part, values in enumerate((CORRUPTIONS, SEVERITIES)):
            for value in values if each else ():
                among = [figures for which, figures in each.items() if which[part] == value]
                for name in ("accuracy", "nll"):
                    found[f"{name}_{value}"] = statistics.mean(figures[name] for figures in among)
        return found

    def points(self, inputs: Inputs) -> dict[str, dict[str, list[float]]]:
        """Return the points of reliability diagrams on test data; see `bitbayes.calibration.reliability`.

        Returns:
            For bins of equal "width" and of equal "mass": confidence, accuracy and share of the examples in each bin.

        Example:
            >>> predictions = Predictions(Prediction(torch.tensor([[[3.0, 0.0], [0.0, 1.0]]])))
            >>> points = predictions.points(Inputs((torch.zeros(2, 1), torch.tensor([0, 0]))))
            >>> points["width"]["accuracy"], points["mass"]["share"]
            ([0.0, 1.0], [0.5, 0.5])
        """
        found = {}
        for bins in ("width", "mass"):
            points = reliability(self.test.class_probs, inputs.test[1], bins=bins)
            found[bins] = {name: values.tolist() for name, values in vars(points).items()}
        return found


def fitted_temperature(runs: Sequence[FinishedRun], samples: int = 0) -> float:
    """Return the temperature fitted on validation data, for all members together.

    It is that of the images themselves, without further views, because a packed network sees nothing else.

    Args:
        runs: The members, or a single run.
        samples: Number of posterior samples of each member; 0 for the mode.

    Raises:
        ValueError: If the run is a regression, or has no validation data that fits in memory.
    """
    x, y = calibration_data(runs[0], "a temperature")
    return fit_temperature(joint([run.with_views("one") for run in runs], samples)(x), y)


def calibration_data(run: FinishedRun, what: str) -> tuple[Tensor, Tensor]:
    """Return the validation inputs and classes of a run.

    Args:
        run: The run.
        what: Name of the result that needs the data, for the error message.

    Raises:
        ValueError: If the run is a regression, or has no validation data that fits in memory.
    """
    data = run.experiment.data.validation
    if not run.experiment.loss.classifies or not isinstance(data, TensorData):
        raise ValueError(f"{what} needs a classifier and validation data that fits in memory")
    return whole(data)
