"""The two synthetic experiments of the BayesBiNN paper: training and measurements."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bitbayes.calibration import probability_figures
from bitbayes.lab.recipes import make_config, make_experiment
from bitbayes.lab.studies.evaluate import evaluation_inputs
from bitbayes.lab.studies.exact import Sampled, Sampling, compiled, sample_exact
from bitbayes.lab.studies.load import FinishedRun, load_run
from bitbayes.lab.studies.several import run_several
from bitbayes.lab.studies.ways import MOONS_BEST, MOONS_WAYS, predictor
from bitbayes.lab.train import Progress, RunFolder
from bitbayes.lab.train.machine import tuned_for
from bitbayes.lab.train.measure import observation_noise, regression_figures, whole
from bitbayes.lab.train.records import Record

_SAMPLES = 100  # posterior samples per mean

DRAWN = ("STE, Adam", "BayesBiNN, published", "BayesBiNN, recommended", MOONS_BEST)
"""Titles of the ways on two moons that are drawn. The published setting has τ = 1, `ess` = N, and five draws a step."""

_EXACT = {"Exact posterior": None, "Exact posterior, random sizes": "normal"}  # titles with scales of the first layer

RING = 4.0
"""Radius of the points far from the data, in standardised inputs."""


@dataclass(frozen=True)
class MoonsRow(Record):
    """Measurements of one way to train on two moons, with one seed.

    Args:
        title: Title of the way.
        seed: Seed of the run; the training points are always the same.
        networks: Number of networks in the measured mean: 1 without a posterior.
        mode_accuracy: Accuracy of the mode on fresh points, as a fraction; with members, of the mean of their modes.
        accuracy: Accuracy of the mean on fresh points, as a fraction.
        nll: Negative log-likelihood of the mean on fresh points, in nats.
        entropy_on_data: Mean entropy of the mean's predictions on fresh points, in nats.
        entropy_on_ring: Mean entropy of the mean's predictions on a ring around the data.
        entropy_bits_a_weight: Mean per-weight entropy in bits; None without a posterior.
    """

    title: str
    seed: int
    networks: int
    mode_accuracy: float
    accuracy: float
    nll: float
    entropy_on_data: float
    entropy_on_ring: float
    entropy_bits_a_weight: float | None = None


@dataclass(frozen=True)
class MoonsReference:
    """Metrics of the mean prediction of a known distribution over networks on two moons; see `MoonsRow`."""

    accuracy: float
    nll: float
    entropy_on_data: float
    entropy_on_ring: float


EXACT_MOONS = MoonsReference(accuracy=0.995, nll=0.028, entropy_on_data=0.092, entropy_on_ring=0.123)
"""The exact posterior of the same network and points, with temperature 1 and a uniform prior.

`bitbayes.lab.studies.truth` samples it anew, and a slow test compares.
"""


@dataclass(frozen=True)
class MoonsFigures(Record):
    """Content of moons.json: a row for every seed of every way to train."""

    points: int
    radius: float
    runs: list[MoonsRow]

    def values(self, title: str, name: str) -> list[float]:
        """Return an entry of every seed of a way."""
        return [getattr(row, name) for row in self.runs if row.title == title]


@dataclass(frozen=True)
class MoonsStudy:
    """Study on two moons: runs and their measurements.

    Args:
        runs: For each way to train by its title, and for each seed, the only run or the runs of all members.
        figures: Measurements of all runs.
        exact: Networks of the exact posterior by title, for the network of the rules and for one whose first layer has
            weights of random sizes. It is empty without a C compiler, because sampling would take minutes.
    """

    runs: dict[str, list[list[FinishedRun]]]
    figures: MoonsFigures
    exact: dict[str, Sampled]


@dataclass(frozen=True)
class SplitFigures(Record):
    """Measurements on one split of Snelson's data: squared errors, percentage within two standard deviations, and σ."""

    ste_error: float
    mode_error: float
    mean_error: float
    inside_two_std: float
    observation_noise: float


@dataclass(frozen=True)
class SnelsonFigures(Record):
    """Content of snelson.json."""

    source: str
    estimator: str | None
    mean_samples: int
    splits: list[SplitFigures]
    mean_of_splits: SplitFigures


@dataclass(frozen=True)
class SnelsonStudy:
    """Study on Snelson's data: runs of STE and BayesBiNN for every split, and their measurements."""

    ste: list[FinishedRun]
    bayes: list[FinishedRun]
    figures: SnelsonFigures


def moons_study(
    out: str,
    *,
    epochs: int | None = None,
    first_seed: int = 0,
    seeds: int = 1,
    jobs: int = 1,
    note: Callable[[str], None] = print,
    progress: Progress | None = None,
) -> MoonsStudy:
    """Train the ways of `DRAWN` on two moons, measure accuracy and entropy on and off the data, and write moons.json.

    Args:
        out: Folder of the runs.
        epochs: Number of epochs of the schedule; None for the recipe's.
        first_seed: Seed of the first run of each rule.
        seeds: Number of runs per rule, with consecutive seeds.
        jobs: Number of runs at a time.
        note: Function that gets a line about each run when it begins or, with several jobs, when it ends.
        progress: Display, with one job.

    Raises:
        ValueError: If `seeds` or `jobs` is not positive.
    """
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {seeds}")
    configs = {
        title: [
            MOONS_WAYS[title].configs("moons", seed, out, epochs=epochs)
            for seed in range(first_seed, first_seed + seeds)
        ]
        for title in DRAWN
    }
    # The published setting takes longest, so with several jobs it starts first.
    every = [config for each in configs.values() for members in each for config in members]
    run_several(sorted(every, key=lambda config: -config.spec.samples), jobs=jobs, progress=progress, note=note)
    runs = {
        title: [[load_run(config.out) for config in members] for members in each] for title, each in configs.items()
    }
    rows = [
        moons_row(title, first_seed + index, members)
        for title, each in runs.items()
        for index, members in enumerate(each)
    ]
    points = len(evaluation_inputs(runs[DRAWN[0]][0][0]).test[1])
    figures = MoonsFigures(points, RING, rows)
    RunFolder(out).write_json("moons.json", figures.to_dict())
    return MoonsStudy(runs, figures, _exact_moons(out, note))


def _exact_moons(out: str, note: Callable[[str], None]) -> dict[str, Sampled]:
    """Return networks of the exact posteriors by title, each sampled in seconds."""
    if not compiled():
        note("the exact posterior is left out, because there is no C compiler")
        return {}
    found = {}
    for title, first_scale in _EXACT.items():
        config = make_config("moons", "ste", out="-", seed=0, first_scale=first_scale)
        folder = RunFolder(f"{out}/exact{'-sizes' if first_scale else ''}")
        found[title] = sample_exact(
            config, make_experiment(config), folder, Sampling(chains=4, sweeps=250, thin=2), note
        )
    return found


def moons_row(title: str, seed: int, runs: Sequence[FinishedRun]) -> MoonsRow:
    """Return measurements on fresh points and on a ring around the data, of the only run or the runs of all members."""
    (x, y), posteriors = evaluation_inputs(runs[0]).test, [run.posterior for run in runs if run.posterior is not None]
    (of_modes, _), (of_mean, networks) = predictor(runs, 0), predictor(runs, _SAMPLES)
    with tuned_for(wide=False):
        mode, fresh, far = of_modes(x), of_mean(x), of_mean(ring(RING).to(x.device))
    return MoonsRow(
        title=title,
        seed=seed,
        networks=networks,
        mode_accuracy=_accuracy(mode.probs, y),
        accuracy=_accuracy(fresh.probs, y),
        nll=probability_figures(fresh, y)["nll"],
        entropy_on_data=float(fresh.entropy.mean()),
        entropy_on_ring=float(far.entropy.mean()),
        entropy_bits_a_weight=statistics.mean(float(each.entropy()) for each in posteriors) if posteriors else None,
    )


def ring(radius: float, count: int = 360) -> Tensor:
    """Return points on a circle around the data, in standardised inputs, shape (count, 2).

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
    jobs: int = 1,
    note: Callable[[str], None] = print,
    progress: Progress | None = None,
) -> SnelsonStudy:
    """Train both rules on every split, measure errors and coverage on held-out points, and write snelson.json.

    Args:
        out: Folder of the runs.
        data: Folder of Snelson's data; None generates data with a gap in the inputs.
        splits: Number of random splits into 150 and 50 points.
        epochs: Number of epochs of the schedule; None for the recipe's.
        jobs: Number of runs at a time.
        note: Function that gets a line about each run when it begins or, with several jobs, when it ends.
        progress: Display, with one job.

    Raises:
        ValueError: If `splits` or `jobs` is not positive.
    """
    if splits < 1:
        raise ValueError(f"splits must be at least 1, got {splits}")
    configs = {
        rule: [
            make_config("snelson", rule, out=f"{out}/{rule}-split{split}", epochs=epochs, data=data, data_seed=split)
            for split in range(splits)
        ]
        for rule in ("ste", "bayesbinn")
    }
    run_several([*configs["ste"], *configs["bayesbinn"]], jobs=jobs, progress=progress, note=note)
    ste, bayes = ([load_run(config.out, data=data) for config in configs[rule]] for rule in ("ste", "bayesbinn"))
    with tuned_for(wide=False):
        found = [_held_out(*pair) for pair in zip(ste, bayes, strict=True)]
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
