"""Posteriors of several rules beside the exact posterior of the same network and data, which `bitbayes.Gibbs` samples.

Agreement and total variation are those of Izmailov et al. (ICML 2021), between the posterior predictive distributions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bitbayes.errors import nearest
from bitbayes.gibbs import Chains, Gibbs
from bitbayes.lab.recipes import find_recipe, make_config
from bitbayes.lab.studies.evaluate import evaluation_inputs
from bitbayes.lab.studies.load import FinishedRun, load_run
from bitbayes.lab.studies.several import run_several
from bitbayes.lab.studies.toys import ring
from bitbayes.lab.train import Progress, RuleName, RunFolder
from bitbayes.lab.train.measure import whole
from bitbayes.lab.train.records import Record, Spread
from bitbayes.posterior import SamplePosterior

_SAMPLES, _TOGETHER = 200, 100  # networks of a posterior's mean, and networks whose probabilities are added at once
RADII = (2.0, 3.0, 4.0, 6.0)
"""Radii of the rings around the data of two moons, in standardised inputs."""

TRUTH_RING = "ring 4"
"""Name of the ring on which tables show the divergence."""


@dataclass(frozen=True)
class Problem:
    """A recipe whose weights are all binary, and the rules that are compared on it.

    Args:
        recipe: Name of the recipe.
        rings: Whether to measure on rings around the data, for two inputs.
    """

    recipe: str
    rings: bool = False


PROBLEMS: Mapping[str, Problem] = {problem.recipe: problem for problem in (Problem("moons", rings=True),)}
"""Problems by name."""

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
class Sampling:
    """How the exact posterior is sampled.

    Args:
        chains: Number of chains from random signs.
        sweeps: Number of sweeps of each chain. The first fifth is dropped.
        thin: Number of sweeps per kept network.
        seed: Seed of the sampler.
    """

    chains: int = 24
    sweeps: int = 2500
    thin: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if self.chains < 1:
            raise ValueError(f"chains must be at least 1, got {self.chains}")
        if self.sweeps - self.burn_in < self.thin:
            left = self.sweeps - self.burn_in
            raise ValueError(f"{self.sweeps} sweeps leave {left} after burn-in, expected at least {self.thin}")

    @property
    def burn_in(self) -> int:
        """Number of sweeps that are dropped."""
        return self.sweeps // 5


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
    """

    title: str
    networks: int
    accuracy: Spread
    nll: Spread
    regions: dict[str, Region]


@dataclass(frozen=True)
class TruthFigures(Record):
    """What was measured on one problem.

    Args:
        recipe: Name of the recipe.
        weights: Number of binary weights.
        points: Number of training points.
        chains: Number of chains of the exact posterior.
        sweeps: Number of sweeps of each chain, burn-in included.
        burn_in: Number of sweeps that are dropped.
        loss: Mean total loss of the training points under the exact posterior, in nats.
        rows: The exact posterior, half of its chains beside the other half, and the rules.
        seeds: Number of runs per rule.
        rhat: R-hat of the loss; None if ArviZ is not installed.
        ess: Effective sample size of the loss; None if ArviZ is not installed.
        largest_rhat: Largest R-hat of the logits at 60 of the test points; None if ArviZ is not installed.
    """

    recipe: str
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

    The exact posterior of a problem is written to `out`/PROBLEM/exact and read from there by later calls with the same
    settings.

    Args:
        out: Folder of the runs.
        problems: Names of the problems; empty for all.
        rules: Rules to compare; empty for all.
        sampling: How the exact posterior is sampled; None for the default.
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
        configs = {
            title: [
                make_config(
                    *(PROBLEMS[name].recipe, rule),
                    **{"out": f"{out}/{name}/{_slug(rule, more)}-seed{seed}", "epochs": epochs, "seed": seed, **more},
                )
                for seed in range(seeds)
            ]
            for title, (rule, more) in chosen.items()
        }
        run_several([one for each in configs.values() for one in each], jobs=jobs, progress=progress, note=note)
        runs = {title: [load_run(config.out) for config in each] for title, each in configs.items()}
        found.append(_measured(PROBLEMS[name], runs, RunFolder(f"{out}/{name}/exact"), sampling or Sampling(), note))
        RunFolder(out).write_json("truth.json", {"truth": [each.to_dict() for each in found]})
    return found


def _slug(rule: str, changes: Mapping[str, Any]) -> str:
    scale = changes.get("options", {}).get("ess_scale")
    return RuleName.parse(rule).slug + ("" if scale is None else f"-{scale:g}N")


# The exact posterior. -------------------------------------------------------------------------------------------------


def exact_chains(run: FinishedRun, folder: RunFolder, sampling: Sampling, note: Callable[[str], None]) -> Chains:
    """Return networks of the exact posterior of a run's network and training data, from the folder if they are there.

    Raises:
        ValueError: If the recipe keeps some weights real, or the network is none that the sampler reads.
    """
    recipe = find_recipe(run.config.recipe)
    if not recipe.all_binary:
        raise ValueError(f"{recipe.name} has real parameters, of which this posterior would know nothing")
    wanted = {"recipe": recipe.name, "data_seed": run.config.data_seed, **vars(sampling)}
    if folder.has("exact.json") and folder.read_json("exact.json")["settings"] == wanted:
        note(f"{recipe.name}: the exact posterior is already in {folder.path}")
        losses = folder.read_tensors("losses.safetensors")["losses"]
        return Chains(SamplePosterior.load(folder.path / "posterior.safetensors"), losses, sampling.burn_in)
    model, (x, y) = run.experiment.model, whole(run.experiment.data.train)
    sampler = Gibbs(
        *(model, x, y),
        loss=recipe.loss.name.replace("_", "-"),
        binary=list(model.named_parameters()),
        chains=sampling.chains,
        seed=sampling.seed,
    )
    note(f"{recipe.name}: {sampling.chains} chains of {sampling.sweeps} sweeps ({sampler.implementation}) ...")
    chains = sampler.run(sampling.sweeps - sampling.burn_in, burn_in=sampling.burn_in, thin=sampling.thin)
    folder.write_path("posterior.safetensors", chains.posterior.save)
    folder.write_tensors("losses.safetensors", {"losses": chains.losses}, {})
    folder.write_json("exact.json", {"settings": wanted, "implementation": sampler.implementation})
    return chains


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
    folder: RunFolder,
    sampling: Sampling,
    note: Callable[[str], None],
) -> TruthFigures:
    first = next(iter(runs.values()))[0]
    chains = exact_chains(first, folder, sampling, note)
    x, y = evaluation_inputs(first).test
    classes = y.reshape(-1).long()
    places = {"data": x} | ({f"ring {radius:g}": ring(radius) for radius in RADII} if problem.rings else {})
    lengths = [len(each) for each in places.values()]
    outputs = chains.outputs(first.experiment.model, torch.cat(list(places.values())))

    def row(title: str, networks: int, found: list[Tensor], exact: Tensor) -> TruthRow:
        """Compare outputs of several seeds, (C, N, K) each, with exact log-probabilities at all places."""
        logs = [log_probabilities(each).split(lengths) for each in found]
        fresh = [each[0] for each in logs]
        regions = {}
        for place, (name, truth) in enumerate(zip(places, exact.split(lengths), strict=True)):
            each = [compared(one[place], truth) for one in logs]
            regions[name] = Region(**{key: Spread.of([one[key] for one in each]) for key in each[0]})
        accuracy = Spread.of([float((each.argmax(-1) == classes).double().mean()) for each in fresh])
        nll = Spread.of([float(F.nll_loss(each, classes)) for each in fresh])
        return TruthRow(title, networks, accuracy, nll, regions)

    exact = log_probabilities(outputs.flatten(0, 1))
    rows = [row("exact posterior", outputs.shape[:2].numel(), [outputs.flatten(0, 1)], exact)]
    half = len(outputs) // 2
    if half:
        one, other = outputs[:half].flatten(0, 1), outputs[half:].flatten(0, 1)
        rows.append(row("half of its chains beside the others", len(one), [one], log_probabilities(other)))
    for title, each in runs.items():
        samples = _SAMPLES if each[0].posterior else 0
        found = [run.predict(torch.cat(list(places.values())), samples).outputs for run in each]
        rows.append(row(title, max(samples, 1), found, exact))
    weights = sum(shape.numel() for shape in chains.posterior.shapes.values())
    return TruthFigures(
        recipe=problem.recipe,
        weights=weights,
        points=len(first.experiment.data.train),
        chains=sampling.chains,
        sweeps=sampling.sweeps,
        burn_in=sampling.burn_in,
        loss=float(chains.kept_losses.mean()),
        seeds=len(next(iter(runs.values()))),
        rows=rows,
        **_diagnosed(chains, outputs[:, :, : lengths[0]]),
    )


def _diagnosed(chains: Chains, outputs: Tensor) -> dict[str, float]:
    """Return R-hat and effective sample sizes where ArviZ is installed."""
    try:
        some = outputs[:, :, :: max(outputs.shape[2] // 60, 1)]
        return {
            "rhat": float(chains.rhat()),
            "ess": float(chains.ess()),
            "largest_rhat": float(chains.rhat(some).max()),
        }
    except ImportError:
        return {}
