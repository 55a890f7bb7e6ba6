"""Posteriors of several rules beside the exact posterior of the same network and data, which `bitbayes.Gibbs` samples.

Agreement and total variation are those of Izmailov et al. (ICML 2021), between the posterior predictive distributions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bitbayes.errors import nearest
from bitbayes.gibbs import Chains
from bitbayes.lab.recipes import make_config
from bitbayes.lab.studies.evaluate import evaluation_inputs
from bitbayes.lab.studies.exact import Sampled, Sampling, sample_exact
from bitbayes.lab.studies.load import FinishedRun, load_run
from bitbayes.lab.studies.several import run_several
from bitbayes.lab.studies.toys import ring
from bitbayes.lab.train import Progress, RuleName, RunFolder
from bitbayes.lab.train.records import Record, Spread

_SAMPLES, _TOGETHER = 200, 100  # networks of a posterior's mean, and networks whose probabilities are added at once
RADII = (2.0, 3.0, 4.0, 6.0)
"""Radii of the rings around the data of two moons, in standardised inputs."""

TRUTH_RING = "ring 4"
"""Name of the ring on which tables show the divergence."""


@dataclass(frozen=True)
class Problem:
    """A network whose weights are all binary, and its data.

    Args:
        name: Name of the problem.
        recipe: Name of the recipe.
        first_scale: Scale of the first layer; see `RunConfig`. If it is "normal", every seed has a network and an exact
            posterior of its own.
        rings: Whether to measure on rings around the data, for two inputs.
    """

    name: str
    recipe: str
    first_scale: str | None = None
    rings: bool = False

    @property
    def own_networks(self) -> bool:
        """Whether the seeds have different networks."""
        return self.first_scale == "normal"


_PROBLEMS = (
    Problem("moons", "moons", rings=True),
    Problem("moons-sizes", "moons", first_scale="normal", rings=True),
)
PROBLEMS: Mapping[str, Problem] = {problem.name: problem for problem in _PROBLEMS}
"""Problems by name: two moons, and the same where the weights of the first layer have random sizes."""

_TEN = {"lr": 1e-2, "options": {"ess_scale": 10.0}}
RULES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "STE, Adam": ("ste", {}),
    "BayesBiNN, published": ("bayesbinn:released", {}),
    "BayesBiNN, recommended": ("bayesbinn:default", {}),
    "BayesBiNN, ess = 10·N": ("bayesbinn:straight-through", _TEN),
    "VISPA, K = 4": ("vispa", {}),
}
"""Name of the rule and changed settings by title."""


@dataclass(frozen=True)
class Region(Record):
    """A predictive distribution beside the exact one on some points.

    Args:
        entropy: Mean entropy in nats.
        agreement: Share of the points at which both have the same most probable class.
        total_variation: Mean total variation distance, in [0, 1].
        kl: Mean KL divergence from the exact distribution, KL(exact ‖ this), in nats.
    """

    entropy: Spread
    agreement: Spread
    total_variation: Spread
    kl: Spread


@dataclass(frozen=True)
class TruthRow(Record):
    """One way to predict, over several seeds.

    Args:
        title: Title of the rule, or of the exact posterior.
        networks: Number of networks in the mean.
        accuracy: Accuracy on test points, as a fraction.
        nll: Negative log-likelihood on test points in nats.
        regions: Comparisons by the name of the points: "data" for test points, "ring 2" and so on.
        rising: Number of seeds whose entropy rises from each ring to the next; None without rings.
    """

    title: str
    networks: int
    accuracy: Spread
    nll: Spread
    regions: dict[str, Region]
    rising: int | None = None


@dataclass(frozen=True)
class TruthFigures(Record):
    """Measurements on one problem.

    Args:
        problem: Name of the problem.
        weights: Number of binary weights.
        points: Number of training points.
        chains: Number of chains of the exact posterior.
        sweeps: Number of sweeps of each chain, burn-in included.
        burn_in: Number of sweeps that are dropped.
        loss: Mean total loss of the training points under the exact posterior, in nats.
        rows: The exact posterior, half of its chains beside the other half, a short run of `bitbayes.Gibbs`, and the
            rules.
        seeds: Number of runs per rule.
        rhat: R-hat of the loss, the largest of all seeds; None if ArviZ is not installed.
        ess: Effective sample size of the loss, the smallest of all seeds; None if ArviZ is not installed.
        largest_rhat: Largest R-hat of the logits at 60 of the test points; None if ArviZ is not installed.
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


def truth_study(
    out: str,
    *,
    problems: tuple[str, ...] = (),
    rules: tuple[str, ...] = (),
    sampling: Sampling | None = None,
    epochs: int | None = None,
    seeds: int = 1,
    jobs: int = 1,
    note: Callable[[str], None] = print,
    progress: Progress | None = None,
) -> list[TruthFigures]:
    """Train the rules, sample the exact posteriors, compare predictions, and write truth.json.

    The networks that the sampler visits are written to `out`/PROBLEM/exact or, if each seed has a network of its own,
    to exact-seedS. Later calls with the same settings read them from there.

    Args:
        out: Folder of the runs.
        problems: Names of the problems; empty for all.
        rules: Rules to compare; empty for all.
        sampling: Settings of the sampler of the exact posteriors; None for the default.
        epochs: Number of epochs of the schedules; None for the recipe's.
        seeds: Number of runs per rule, with seeds from 0.
        jobs: Number of runs at a time.
        note: Function that gets a line about each step.
        progress: Display of runs, with one job.

    Raises:
        ValueError: If a name does not exist, or a number is out of range.
    """
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {seeds}")
    for name in problems:
        if name not in PROBLEMS:
            raise nearest("problem of truth", name, PROBLEMS)
    known = {name for name, _ in RULES.values()}
    for rule in rules:
        if rule not in known:
            raise nearest("rule of truth", rule, known)
    chosen = {title: RULES[title] for title in RULES if not rules or RULES[title][0] in rules}
    found = []
    for name in problems or PROBLEMS:
        problem = PROBLEMS[name]
        same = {"epochs": epochs, "first_scale": problem.first_scale}
        configs = {
            title: [
                make_config(
                    *(problem.recipe, rule),
                    **{"out": f"{out}/{name}/{_slug(rule, more)}-seed{seed}", "seed": seed, **same, **more},
                )
                for seed in range(seeds)
            ]
            for title, (rule, more) in chosen.items()
        }
        run_several([one for each in configs.values() for one in each], jobs=jobs, progress=progress, note=note)
        runs = {title: [load_run(config.out) for config in each] for title, each in configs.items()}
        found.append(_measured(problem, runs, f"{out}/{name}", sampling or Sampling(), note))
        RunFolder(out).write_json("truth.json", {"truth": [each.to_dict() for each in found]})
    return found


def _slug(rule: str, changes: Mapping[str, Any]) -> str:
    scale = changes.get("options", {}).get("ess_scale")
    return RuleName.parse(rule).slug + ("" if scale is None else f"-{scale:g}N")


# Comparison. ----------------------------------------------------------------------------------------------------------


def log_probabilities(outputs: Tensor) -> Tensor:
    """Return log-probabilities of classes, float64, shape (N, classes), of the mean over networks.

    Means of logarithms near 0 and 1 are not rounded, so that a KL divergence from a sure network is finite.

    Args:
        outputs: Logits, shape (C, N, K). With K = 1, the only output is the logit of class 1.

    Example:
        >>> log_probabilities(torch.tensor([[[0.0]], [[90.0]]])).exp()
        tensor([[0.2500, 0.7500]], dtype=torch.float64)
    """
    total: Tensor | None = None
    for part in outputs.split(_TOGETHER):
        z = part.double()
        logs = F.logsigmoid(torch.cat([-z, z], -1)) if z.shape[-1] == 1 else z.log_softmax(-1)
        added = logs.logsumexp(0)
        total = added if total is None else torch.logaddexp(total, added)
    assert total is not None
    return total - math.log(len(outputs))


def compared(ours: Tensor, exact: Tensor) -> dict[str, float]:
    """Return entropy, agreement, total variation and KL divergence of a predictive distribution; see `Region`.

    Args:
        ours: Log-probabilities, shape (N, classes).
        exact: Log-probabilities of the exact posterior, shape (N, classes).

    Example:
        >>> half, sure = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.1, 0.9]]).log()
        >>> {name: round(value, 3) for name, value in compared(half, sure).items()}
        {'entropy': 0.693, 'agreement': 0.0, 'total_variation': 0.4, 'kl': 0.368}
    """
    p, q = ours.exp(), exact.exp()
    return {
        "entropy": float(-(p * ours).sum(-1).mean()),
        "agreement": float((ours.argmax(-1) == exact.argmax(-1)).double().mean()),
        "total_variation": float((p - q).abs().sum(-1).mean() / 2),
        "kl": float((q * (exact - ours)).sum(-1).mean()),
    }


def _measured(
    problem: Problem,
    runs: Mapping[str, list[FinishedRun]],
    out: str,
    sampling: Sampling,
    note: Callable[[str], None],
) -> TruthFigures:
    some = next(iter(runs.values()))  # of every seed; the rule does not matter
    x, y = evaluation_inputs(some[0]).test
    classes = y.reshape(-1).long()
    places = {"data": x} | ({f"ring {radius:g}": ring(radius) for radius in RADII} if problem.rings else {})
    lengths, points = [len(each) for each in places.values()], torch.cat(list(places.values()))

    def sampled(run: FinishedRun, folder: str, how: Sampling) -> Sampled:
        return sample_exact(run.config, run.experiment, RunFolder(f"{out}/{folder}"), how, note)

    if problem.own_networks:
        truths = [sampled(run, f"exact-seed{seed}", sampling) for seed, run in enumerate(some)]
    else:
        truths = [sampled(some[0], "exact", sampling)]
    outputs = [truth.outputs(points) for truth in truths]  # (chains, draws, N, K) each

    def row(title: str, found: list[Tensor], exact: list[Tensor]) -> TruthRow:
        """Compare outputs of several seeds, (C, N, K) each, with exact log-probabilities at all places."""
        logs = [log_probabilities(each).split(lengths) for each in found]
        truth = [each.split(lengths) for each in (exact if len(exact) > 1 else exact * len(found))]
        regions = {}
        for place, name in enumerate(places):
            each = [compared(one[place], other[place]) for one, other in zip(logs, truth, strict=True)]
            regions[name] = Region(**{key: Spread.of([one[key] for one in each]) for key in each[0]})
        accuracy = Spread.of([float((one[0].argmax(-1) == classes).double().mean()) for one in logs])
        nll = Spread.of([float(F.nll_loss(one[0], classes)) for one in logs])
        by_seed = zip(*(regions[name].entropy.values for name in places if name != "data"), strict=True)
        rising = sum(list(rings) == sorted(set(rings)) for rings in by_seed) if problem.rings else None
        return TruthRow(title, len(found[0]), accuracy, nll, regions, rising)

    every = [each.flatten(0, 1) for each in outputs]
    exact = [log_probabilities(each) for each in every]
    rows = [row("exact posterior", every, exact)]
    half = sampling.chains // 2
    if half:
        one, other = ([each[part].flatten(0, 1) for each in outputs] for part in (slice(half), slice(half, None)))
        rows.append(row("half of its chains beside the others", one, [log_probabilities(each) for each in other]))
    brief = [sampled(run, f"gibbs-seed{seed}", sampling.short(seed)) for seed, run in enumerate(some)]
    first = sampling.short(0)
    title = f"Gibbs, {first.chains} chain{'s' * (first.chains > 1)} of {first.sweeps} sweeps"
    rows.append(row(title, [each.predict(points).outputs for each in brief], exact))
    for title, each in runs.items():
        samples = _SAMPLES if each[0].posterior else 0
        rows.append(row(title, [run.predict(points, samples).outputs for run in each], exact))
    weights = sum(shape.numel() for shape in truths[0].chains.posterior.shapes.values())
    return TruthFigures(
        problem=problem.name,
        weights=weights,
        points=len(some[0].experiment.data.train),
        chains=sampling.chains,
        sweeps=sampling.sweeps,
        burn_in=sampling.burn_in,
        loss=sum(float(truth.chains.kept_losses.mean()) for truth in truths) / len(truths),
        seeds=len(some),
        rows=rows,
        **_diagnosed([(truth.chains, each[:, :, : lengths[0]]) for truth, each in zip(truths, outputs, strict=True)]),
    )


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
