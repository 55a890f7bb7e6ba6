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
from bitbayes.lab.studies.load import LoadedRun, load_run
from bitbayes.lab.studies.several import finished
from bitbayes.lab.train import Progress, RunFolder
from bitbayes.lab.train.machine import tuned_for
from bitbayes.lab.train.measure import whole
from bitbayes.lab.train.regression import observation_noise, regression_figures

__all__ = ["MoonsStudy", "SnelsonStudy", "moons_study", "snelson_study"]

_SAMPLES = 100  # of the mean in figures that are reported; pictures average as many as the paper


@dataclass(frozen=True)
class MoonsStudy:
    """STE and BayesBiNN on two moons.

    Args:
        ste: The run of STE.
        bayes: The run of BayesBiNN.
        figures: What was measured.
    """

    ste: LoadedRun
    bayes: LoadedRun
    figures: dict[str, Any]


@dataclass(frozen=True)
class SnelsonStudy:
    """STE and BayesBiNN on Snelson's data, one pair of runs for every split.

    Args:
        ste: Runs of STE.
        bayes: Runs of BayesBiNN.
        figures: What was measured.
    """

    ste: list[LoadedRun]
    bayes: list[LoadedRun]
    figures: dict[str, Any]


def moons_study(
    out: str,
    *,
    epochs: int | None = None,
    seed: int = 0,
    note: Callable[[str], None] = print,
    progress: Progress | None = None,
) -> MoonsStudy:
    """Trains both rules, and writes results.json.

    Args:
        out: Folder of the runs.
        epochs: Length of the schedule, if not the recipe's.
        seed: Of both runs.
        note: Told of each run as it begins.
        progress: Display.

    Returns:
        The runs, and accuracy and uncertainty of BayesBiNN on and off the data.
    """
    runs = {
        rule: _trained("moons", rule, f"{out}/{rule}-seed{seed}", note, progress, epochs=epochs, seed=seed)
        for rule in ("ste", "bayesbinn")
    }
    bayes = runs["bayesbinn"]
    test = bayes.experiment.data.test
    assert test is not None
    x, y = whole(test)
    with tuned_for(wide=False):
        on_data = bayes.predict(x, _SAMPLES)
        far = bayes.predict(ring(4.0).to(x.device), _SAMPLES)
        modes = {rule: run.predict(x) for rule, run in runs.items()}
    entropy, far_entropy = float(on_data.entropy.mean()), float(far.entropy.mean())
    figures = {
        "estimator": bayes.config.estimator,
        "points": len(x),
        "ste_accuracy": _accuracy(modes["ste"].probs, y),
        "mode_accuracy": _accuracy(modes["bayesbinn"].probs, y),
        "mean_accuracy": _accuracy(on_data.probs, y),
        "mean_samples": _SAMPLES,
        "entropy_on_data": entropy,
        "entropy_on_ring": far_entropy,
        "entropy_ratio": far_entropy / max(entropy, 1e-12),
        "entropy_bits_a_weight": float(bayes.posterior.entropy()) if bayes.posterior else None,
    }
    RunFolder(out).write_json("results.json", figures)
    return MoonsStudy(runs["ste"], bayes, figures)


def ring(radius: float, count: int = 360) -> Tensor:
    """Points around the middle of the data, in standardised inputs.

    Args:
        radius: Of the ring.
        count: Number of points.

    Returns:
        Shape (count, 2).

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
    """Trains both rules on every split, and writes results.json.

    Args:
        out: Folder of the runs.
        data: Folder of Snelson's data; None generates data with a gap in the inputs.
        splits: Number of random splits into 150 and 50 points.
        epochs: Length of the schedule, if not the recipe's.
        note: Told of each run as it begins.
        progress: Display.

    Returns:
        The runs, and errors and coverage on the points that were held out.
    """
    ste, bayes, rows = [], [], []
    if splits < 1:
        raise ValueError(f"splits must be at least 1, got {splits}")
    for split in range(splits):
        pair = [
            _trained(
                "snelson",
                rule,
                f"{out}/{rule}-split{split}",
                note,
                progress,
                epochs=epochs,
                data=data,
                data_seed=split,
            )
            for rule in ("ste", "bayesbinn")
        ]
        ste.append(pair[0])
        bayes.append(pair[1])
        with tuned_for(wide=False):
            rows.append(_held_out(*pair))
    names = rows[0].keys()
    figures = {
        "source": bayes[0].experiment.data.source,
        "estimator": bayes[0].config.estimator,
        "mean_samples": _SAMPLES,
        "splits": rows,
        "mean_of_splits": {n: statistics.mean(row[n] for row in rows) for n in names},
    }
    RunFolder(out).write_json("results.json", figures)
    return SnelsonStudy(ste, bayes, figures)


def _held_out(ste: LoadedRun, bayes: LoadedRun) -> dict[str, float]:
    test = bayes.experiment.data.test
    assert test is not None
    x, y = whole(test)
    mean = regression_figures(bayes.predict(x, _SAMPLES), y, training_noise(bayes))
    return {
        "ste_error": _error(ste.predict(x).mean, y),
        "mode_error": _error(bayes.predict(x).mean, y),
        "mean_error": mean["error"],
        "inside_two_std": mean["inside"],
        "observation_noise": mean["noise"],
    }


def training_noise(run: LoadedRun) -> float:
    """The observation noise of a regression run's mean prediction, on its training data.

    Args:
        run: A regression run with a posterior.

    Returns:
        σ in units of the standardised target.
    """
    x, y = whole(run.experiment.data.train)
    return observation_noise(run.predict(x, _SAMPLES), y)


def _error(output: Tensor, y: Tensor) -> float:
    return float((output.reshape(-1) - y.reshape(-1)).square().mean())


def _accuracy(probs: Tensor, y: Tensor) -> float:
    return float(((probs.reshape(-1) > 0.5) == (y.reshape(-1) > 0.5)).float().mean())


def _trained(
    recipe: str,
    rule: str,
    out: str,
    note: Callable[[str], None],
    progress: Progress | None,
    **choices: Any,
) -> LoadedRun:
    """The run in a folder, trained now unless it is finished."""
    config = make_config(recipe, rule, out=out, **choices)
    if finished(config) is None:
        note(f"{recipe}: training {rule}, in {Path(out)}")
        run_recipe(config, resume=True, progress=progress)
    return load_run(out, data=config.data)
