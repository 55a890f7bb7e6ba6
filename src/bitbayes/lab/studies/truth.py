"""Posteriors of several rules beside the exact posterior of the same network and data, sampled by `bitbayes.Gibbs`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from bitbayes.errors import nearest
from bitbayes.gibbs import Chains
from bitbayes.lab.studies.evaluate import evaluation_inputs
from bitbayes.lab.studies.exact import Sampled, Sampling, sample_exact
from bitbayes.lab.studies.load import FinishedRun, load_run
from bitbayes.lab.studies.predictive import BINS, band, compared, figures_of, log_probabilities
from bitbayes.lab.studies.problems import PROBLEMS, Problem
from bitbayes.lab.studies.several import run_several
from bitbayes.lab.studies.ways import predictor
from bitbayes.lab.train import Progress, RunFolder
from bitbayes.lab.train.measure import whole
from bitbayes.lab.train.records import Record, Spread
from bitbayes.prediction import Prediction

_CURVE = 200  # inputs at which bands are stored

SAMPLES = 200
"""Number of networks of a posterior's mean."""


@dataclass(frozen=True)
class Region(Record):
    """A predictive distribution beside the exact one on some points.

    Args:
        entropy: Mean entropy in nats; of a density for a real target.
        total_variation: Mean total variation distance, in [0, 1].
        kl: Mean KL divergence from the exact distribution, KL(exact ‖ this), in nats.
        agreement: Share of the points at which both have the same most probable class; None for a real target.
        width: Mean width of the central 95% band of a real target.
        coverage: Mean percentage of the exact distribution that lies within this band.
    """

    entropy: Spread
    total_variation: Spread
    kl: Spread
    agreement: Spread | None = None
    width: Spread | None = None
    coverage: Spread | None = None


@dataclass(frozen=True)
class Curve(Record):
    """Mean and 95% band of a real target along the inputs, of the first seed."""

    mean: list[float]
    low: list[float]
    high: list[float]


@dataclass(frozen=True)
class Axis(Record):
    """Inputs along which bands are drawn, and the training and test points of the first seed as (input, target)."""

    x: list[float]
    train: list[list[float]]
    test: list[list[float]]


@dataclass(frozen=True)
class TruthRow(Record):
    """One way to predict, over several seeds.

    Args:
        title: Title of the rule, or of the exact posterior.
        networks: Number of networks in the mean.
        nll: Negative log-likelihood on test points in nats.
        regions: Comparisons by the name of the points: "data" for test points, "ring 2" and so on.
        accuracy: Accuracy on test points, as a fraction; None for a real target.
        error: Squared error on test points; None for classes.
        inside: Percentage of the test points within the 95% band; None for classes.
        rising: Number of seeds whose entropy rises from each ring to the next; None without rings.
        curve: Bands to draw; None where there is no axis.
    """

    title: str
    networks: int
    nll: Spread
    regions: dict[str, Region]
    accuracy: Spread | None = None
    error: Spread | None = None
    inside: Spread | None = None
    rising: int | None = None
    curve: Curve | None = None


@dataclass(frozen=True)
class TruthFigures(Record):
    """Measurements on one problem.

    Args:
        problem: Name of the problem. If every run has an exact posterior of its own, the title of the rule follows.
        weights: Number of binary weights.
        points: Number of training points.
        chains: Number of chains of the exact posterior.
        sweeps: Number of sweeps of each chain, burn-in included.
        burn_in: Number of sweeps that are dropped.
        loss: Mean total loss of the training points under the exact posterior, in nats.
        seeds: Number of runs per rule.
        rows: The exact posterior, half of its chains beside the other half, a short run of `bitbayes.Gibbs`, and the
            rules.
        rhat: R-hat of the loss, the largest of all seeds; None if ArviZ is not installed.
        ess: Effective sample size of the loss, the smallest of all seeds; None if ArviZ is not installed.
        largest_rhat: Largest R-hat of the outputs at 60 of the test points; None if ArviZ is not installed.
        axis: Inputs of the bands; None for classes, and where every run has an exact posterior of its own.
    """

    problem: str
    weights: int
    points: int
    chains: int
    sweeps: int
    burn_in: int
    loss: float
    seeds: int
    rows: list[TruthRow] = field(default_factory=list)
    rhat: float | None = None
    ess: float | None = None
    largest_rhat: float | None = None
    axis: Axis | None = None


def truth_study(
    out: str,
    *,
    problems: tuple[str, ...] = (),
    rules: tuple[str, ...] = (),
    sampling: Sampling | None = None,
    data: str | None = None,
    epochs: int | None = None,
    first_seed: int = 0,
    seeds: int = 1,
    jobs: int = 1,
    note: Callable[[str], None] = print,
    progress: Progress | None = None,
) -> list[TruthFigures]:
    """Train the rules, sample the exact posteriors, compare predictions, and write truth.json.

    The networks that the sampler visits are written to `out`/PROBLEM/exact-seedS or, if runs learn the sizes of their
    weights, to exact-RULE-seedS. Later calls with the same settings read them from there.

    Args:
        out: Folder of the runs.
        problems: Names of the problems; empty for all.
        rules: Rules to compare; empty for all. Problems without runs of these rules are left out.
        sampling: Settings of the sampler of the exact posteriors; None for the default.
        data: Folder of Snelson's data; None generates data.
        epochs: Number of epochs of the schedules; None for the recipe's.
        first_seed: Seed of the first run of each rule.
        seeds: Number of runs per rule, with consecutive seeds.
        jobs: Number of runs at a time.
        note: Function that gets a line about each step.
        progress: Display of runs, with one job.

    Raises:
        ValueError: If a name does not exist, a number is out of range, or no problem reads the data.
    """
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {seeds}")
    for name in problems:
        if name not in PROBLEMS:
            raise nearest("problem of truth", name, PROBLEMS)
    chosen = [PROBLEMS[name] for name in problems or PROBLEMS]
    known = {way.rule for problem in chosen for way in problem.ways.values()}
    for rule in rules:
        if rule not in known:
            raise nearest("rule of truth", rule, known)
    ways = {
        problem.name: {title: way for title, way in problem.ways.items() if not rules or way.rule in rules}
        for problem in chosen
    }
    for problem in chosen:
        if not ways[problem.name]:
            note(f"{problem.name} is left out, because none of its runs has the rule {' or '.join(rules)}")
    chosen = [problem for problem in chosen if ways[problem.name]]
    if data is not None and not any(problem.own_data for problem in chosen):
        taking = ", ".join(problem.name for problem in PROBLEMS.values() if problem.own_data)
        raise ValueError(f"data {data} has no effect: only {taking} read a folder; leave it out")
    found = []
    for problem in chosen:
        configs = {
            title: [problem.configs(way, seed, out, data, epochs) for seed in range(first_seed, first_seed + seeds)]
            for title, way in ways[problem.name].items()
        }
        every = [one for each in configs.values() for members in each for one in members]
        run_several(every, jobs=jobs, progress=progress, note=note)
        runs = {
            title: [[load_run(config.out, data=config.data) for config in members] for members in each]
            for title, each in configs.items()
        }
        groups = [{title: each} for title, each in runs.items()] if problem.learned else [runs]
        for group in groups:
            some = [run for run, *_ in next(iter(group.values()))]
            predictors = {title: [predictor(members, SAMPLES)[0] for members in each] for title, each in group.items()}
            place = f"{out}/{problem.name}"
            found.append(measured(problem, some, predictors, place, sampling or Sampling(), note))
            RunFolder(out).write_json("truth.json", {"truth": [each.to_dict() for each in found]})
    return found


# Comparison. ----------------------------------------------------------------------------------------------------------


def measured(
    problem: Problem,
    some: Sequence[FinishedRun],
    predictors: Mapping[str, Sequence[Callable[[Tensor], Prediction]]],
    out: str,
    sampling: Sampling,
    note: Callable[[str], None],
) -> TruthFigures:
    """Sample the exact posteriors, or read them from a folder, and compare predictions.

    Args:
        problem: Problem of the predictions.
        some: One run of every seed, for its data and its network. Which one does not matter, unless the runs have
            learned the sizes of their weights.
        predictors: Functions from inputs to predictions, one for every seed, by the title of the row.
        out: Folder of the sampled networks.
        sampling: Settings of the sampler of the exact posteriors.
        note: Function that gets a line about each step.
    """
    real = problem.noise is not None
    axis = _axis(some[0]) if real and not problem.learned else None
    seeds = [_Points.of(problem, run, axis) for run in (some if problem.own_truth else some[:1])]

    def sampled(run: FinishedRun, kind: str, how: Sampling) -> Sampled:
        name = Path(run.config.out).name if problem.learned else f"seed{run.config.seed}"
        files = RunFolder(f"{out}/{kind}-{name}")
        return sample_exact(run.config, run.experiment, files, how, note, problem.noise, problem.start_temperature)

    truths = [sampled(run, "exact", sampling) for run in (some if problem.own_truth else some[:1])]
    outputs = [truth.outputs(at.x) for truth, at in zip(truths, seeds, strict=True)]  # (chains, draws, N, K) each

    def logs_of(found: Sequence[Tensor]) -> list[Tensor]:
        return [log_probabilities(each, problem.noise) for each in found]

    def row(title: str, found: list[Tensor], exact: list[Tensor]) -> TruthRow:
        """Compare outputs of several seeds, (C, N, K) each, with exact log-probabilities at all points."""
        logs = logs_of(found)
        points = seeds if len(seeds) > 1 else seeds * len(logs)
        exact = exact if len(exact) > 1 else exact * len(logs)
        each_seed = [at.compared(ours, other) for at, ours, other in zip(points, logs, exact, strict=True)]
        regions = {name: Region(**_spreads([each[name] for each in each_seed])) for name in each_seed[0]}
        by_seed = zip(*(regions[name].entropy.values for name in regions if name.startswith("ring")), strict=True)
        rising = [list(rings) == sorted(set(rings)) for rings in by_seed]
        figures = _spreads([at.figures(each) for at, each in zip(points, logs, strict=True)])
        curve = points[0].curve(logs[0]) if axis is not None else None
        return TruthRow(
            title, len(found[0]), regions=regions, rising=sum(rising) if rising else None, curve=curve, **figures
        )

    networks = [each.flatten(0, 1) for each in outputs]
    exact = logs_of(networks)
    rows = [row("exact posterior", networks, exact)]
    half = sampling.chains // 2
    if half:
        one, other = ([each[part].flatten(0, 1) for each in outputs] for part in (slice(half), slice(half, None)))
        rows.append(row("half of its chains beside the others", one, logs_of(other)))

    def at_points(predictors: Sequence[Callable[[Tensor], Prediction]]) -> list[Tensor]:
        points = seeds if len(seeds) > 1 else seeds * len(predictors)
        return [predict(at.x).outputs for predict, at in zip(predictors, points, strict=True)]

    brief = [sampled(run, "gibbs", sampling.short(run.config.seed)).predict for run in some]
    how = sampling.short(0)
    title = f"Gibbs, {how.chains} chain{'s' * (how.chains > 1)} of {how.sweeps} sweeps"
    rows.append(row(title, at_points(brief), exact))
    for title, each in predictors.items():
        rows.append(row(title, at_points(each), exact))
    weights = sum(shape.numel() for shape in truths[0].chains.posterior.shapes.values())
    told = [(truth.chains, each[:, :, : len(at.y)]) for truth, each, at in zip(truths, outputs, seeds, strict=True)]
    return TruthFigures(
        problem=f"{problem.name}, {next(iter(predictors))}" if problem.learned else problem.name,
        weights=weights,
        points=len(some[0].experiment.data.train),
        chains=sampling.chains,
        sweeps=sampling.sweeps,
        burn_in=sampling.burn_in,
        loss=sum(float(truth.chains.kept_losses.mean()) for truth in truths) / len(truths),
        seeds=len(some),
        rows=rows,
        axis=axis,
        **_diagnosed(told),
    )


@dataclass(frozen=True)
class _Points:
    """Points of one seed at which posteriors are compared: test points, further places, and inputs of a curve.

    Args:
        x: Inputs of all of them, one after another.
        y: Targets of the test points.
        lengths: Numbers of inputs by the name of the place; "data" is first, and "curve" last if there is one.
        real: Whether the target is real.
    """

    x: Tensor
    y: Tensor
    lengths: dict[str, int]
    real: bool

    @classmethod
    def of(cls, problem: Problem, run: FinishedRun, axis: Axis | None) -> _Points:
        x, y = evaluation_inputs(run).test
        places = {"data": x}
        if problem.places is not None:
            places |= problem.places(whole(run.experiment.data.train)[0], x)
        if axis is not None:
            places["curve"] = torch.tensor(axis.x)[:, None]
        lengths = {name: len(at) for name, at in places.items()}
        return cls(torch.cat(list(places.values())), y, lengths, problem.noise is not None)

    def parts(self, logs: Tensor) -> dict[str, Tensor]:
        """Return log-probabilities by the name of the place."""
        return dict(zip(self.lengths, logs.split(list(self.lengths.values())), strict=True))

    def compared(self, ours: Tensor, exact: Tensor) -> dict[str, dict[str, float]]:
        """Return comparisons by the name of the place."""
        mine, theirs = self.parts(ours), self.parts(exact)
        return {name: compared(mine[name], theirs[name], real=self.real) for name in mine if name != "curve"}

    def figures(self, logs: Tensor) -> dict[str, float]:
        """Return metrics on test points."""
        return figures_of(self.parts(logs)["data"], self.y, real=self.real)

    def curve(self, logs: Tensor) -> Curve:
        """Return mean and band along the inputs of the curve."""
        found = self.parts(logs)["curve"]
        return Curve(*(each.tolist() for each in ((found.exp() * BINS).sum(-1), *band(found))))


def _axis(run: FinishedRun) -> Axis:
    """Return inputs from a quarter of the range before the training inputs to a quarter behind them, and the points."""
    x, y = whole(run.experiment.data.train)
    margin = float(x.max() - x.min()) / 4
    line = torch.linspace(float(x.min()) - margin, float(x.max()) + margin, _CURVE)
    points = [torch.cat(pair, 1).tolist() for pair in ((x, y), evaluation_inputs(run).test)]
    return Axis(line.tolist(), *points)


def _spreads(each: Sequence[Mapping[str, float]]) -> dict[str, Spread]:
    """Return figures of several seeds by name."""
    return {name: Spread.of([one[name] for one in each]) for name in each[0]}


def _diagnosed(truths: Sequence[tuple[Chains, Tensor]]) -> dict[str, float]:
    """Return the worst R-hat and effective sample size where ArviZ is installed."""
    try:
        some = [chains.rhat(each[:, :, :: max(each.shape[2] // 60, 1)]) for chains, each in truths]
        return {
            "rhat": max(float(chains.rhat()) for chains, _ in truths),
            "ess": min(float(chains.ess()) for chains, _ in truths),
            "largest_rhat": max(float(each.max()) for each in some),
        }
    except ImportError:
        return {}
