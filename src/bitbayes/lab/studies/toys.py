"""The two synthetic experiments of the BayesBiNN paper: what is trained, and what is measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bitbayes.lab.recipes import make_config, run_recipe
from bitbayes.lab.studies.evaluate import evaluation_inputs
from bitbayes.lab.studies.load import FinishedRun, load_run
from bitbayes.lab.studies.several import finished
from bitbayes.lab.train import Progress, RunFolder
from bitbayes.lab.train.machine import tuned_for
from bitbayes.lab.train.measure import observation_noise, regression_figures, whole
from bitbayes.lab.train.records import Record

_SAMPLES = 100  # of the mean in figures that are reported; pictures average as many as the paper


@dataclass(frozen=True)
class MoonsFigures(Record):
    """moons.json: accuracies as fractions, entropies in nats on and off the data (on a ring)."""

    estimator: str | None
    points: int
    ste_accuracy: float
    mode_accuracy: float
    mean_accuracy: float
    mean_samples: int
    entropy_on_data: float
    entropy_on_ring: float
    entropy_ratio: float
    entropy_bits_a_weight: float | None


@dataclass(frozen=True)
class MoonsStudy:
    """STE and BayesBiNN on two moons: their runs, and what was measured."""

    ste: FinishedRun
    bayes: FinishedRun
    figures: MoonsFigures


@dataclass(frozen=True)
class SplitFigures(Record):
    """What was measured on one split of Snelson's data: squared errors, percent inside two standard deviations, σ."""

    ste_error: float
    mode_error: float
    mean_error: float
    inside_two_std: float
    observation_noise: float


@dataclass(frozen=True)
class SnelsonFigures(Record):
    """snelson.json."""

    source: str
    estimator: str | None
    mean_samples: int
    splits: list[SplitFigures]
    mean_of_splits: SplitFigures


@dataclass(frozen=True)
class SnelsonStudy:
    """STE and BayesBiNN on Snelson's data: one pair of runs for every split, and what was measured."""

    ste: list[FinishedRun]
    bayes: list[FinishedRun]
    figures: SnelsonFigures


def moons_study(
    out: str,
    *,
    epochs: int | None = None,
    seed: int = 0,
    note: Callable[[str], None] = print,
    progress: Progress | None = None,
) -> MoonsStudy:
    """Train both rules on two moons, measure accuracy and uncertainty on and off the data, and write moons.json.

    Args:
        out: Folder of the runs.
        epochs: Length of the schedule, if not the recipe's.
        seed: Seed of both runs.
        note: Told of each run as it begins.
        progress: Display.
    """
    ste, bayes = (
        _trained("moons", rule, f"{out}/{rule}-seed{seed}", note, progress, epochs=epochs, seed=seed)
        for rule in ("ste", "bayesbinn")
    )
    x, y = evaluation_inputs(bayes).test
    with tuned_for(wide=False):
        on_data = bayes.predict(x, _SAMPLES)
        far = bayes.predict(ring(4.0).to(x.device), _SAMPLES)
        ste_mode, bayes_mode = ste.predict(x), bayes.predict(x)
    entropy, far_entropy = float(on_data.entropy.mean()), float(far.entropy.mean())
    figures = MoonsFigures(
        estimator=bayes.config.estimator,
        points=len(x),
        ste_accuracy=_accuracy(ste_mode.probs, y),
        mode_accuracy=_accuracy(bayes_mode.probs, y),
        mean_accuracy=_accuracy(on_data.probs, y),
        mean_samples=_SAMPLES,
        entropy_on_data=entropy,
        entropy_on_ring=far_entropy,
        entropy_ratio=far_entropy / max(entropy, 1e-12),
        entropy_bits_a_weight=float(bayes.posterior.entropy()) if bayes.posterior else None,
    )
    RunFolder(out).write_json("moons.json", figures.to_dict())
    return MoonsStudy(ste, bayes, figures)


def ring(radius: float, count: int = 360) -> Tensor:
    """Return points around the middle of the data, in standardised inputs, shape (count, 2).

    Example:
        >>> ring(4.0, 4).norm(dim=1)
        tensor([4., 4., 4., 4.])
    """
    angle = torch.arange(count) * (2 * math.pi / count)
    return radius * torch.stack([angle.cos(), angle.sin()], dim=1)


def snelson_study(
    out: str,
    *,
    data: str | None = None,
    splits: int = 5,
    epochs: int | None = None,
    note: Callable[[str], None] = print,
    progress: Progress | None = None,
) -> SnelsonStudy:
    """Train both rules on every split, measure errors and coverage on held-out points, and write snelson.json.

    Args:
        out: Folder of the runs.
        data: Folder of Snelson's data; None generates data with a gap in the inputs.
        splits: Number of random splits into 150 and 50 points.
        epochs: Length of the schedule, if not the recipe's.
        note: Told of each run as it begins.
        progress: Display.
    """
    if splits < 1:
        raise ValueError(f"splits must be at least 1, got {splits}")
    ste, bayes, found = [], [], []
    for split in range(splits):
        how = {"epochs": epochs, "data": data, "data_seed": split}
        for rule, runs in (("ste", ste), ("bayesbinn", bayes)):
            runs.append(_trained("snelson", rule, f"{out}/{rule}-split{split}", note, progress, **how))
        with tuned_for(wide=False):
            found.append(_held_out(ste[-1], bayes[-1]))
    means = {name: statistics.mean(getattr(split, name) for split in found) for name in found[0].to_dict()}
    figures = SnelsonFigures(
        source=bayes[0].experiment.data.source,
        estimator=bayes[0].config.estimator,
        mean_samples=_SAMPLES,
        splits=found,
        mean_of_splits=SplitFigures(**means),
    )
    RunFolder(out).write_json("snelson.json", figures.to_dict())
    return SnelsonStudy(ste, bayes, figures)


def _held_out(ste: FinishedRun, bayes: FinishedRun) -> SplitFigures:
    x, y = evaluation_inputs(bayes).test
    predictions, noise = (ste.predict(x), bayes.predict(x), bayes.predict(x, _SAMPLES)), training_noise(bayes)
    single, mode, mean = (regression_figures(prediction, y, noise) for prediction in predictions)
    return SplitFigures(single["error"], mode["error"], mean["error"], mean["inside"], noise)


def training_noise(run: FinishedRun) -> float:
    """Return the observation noise of a regression run's mean prediction on its training data, in target units."""
    x, y = whole(run.experiment.data.train)
    return observation_noise(run.predict(x, _SAMPLES), y)


def _accuracy(probs: Tensor, y: Tensor) -> float:
    return float(((probs.reshape(-1) > 0.5) == (y.reshape(-1) > 0.5)).float().mean())


def _trained(
    recipe: str, rule: str, out: str, note: Callable[[str], None], progress: Progress | None, **choices: Any
) -> FinishedRun:
    """Return the run in a folder, trained now unless it is finished."""
    config = make_config(recipe, rule, out=out, **choices)
    if finished(config) is not None:
        note(f"{recipe}: {rule} is finished already: it is read, not trained again, in {Path(out)}")
    else:
        note(f"{recipe}: training {rule}, in {Path(out)}")
        run_recipe(config, resume=True, progress=progress)
    return load_run(out, data=config.data)
