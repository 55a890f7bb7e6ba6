"""Train the seeds of two moons or of Snelson's data together, and compare their posteriors with the exact one.

    python benchmarks/seeds.py moons [--rules vispa] [--first-seed 40] [--seeds 5] [--out runs/seeds]
    python benchmarks/seeds.py snelson --data FOLDER --first-seed 20 --chains 8 --sweeps 400

The networks of all seeds, and of all members of a seed, are stacked in one set of parameters. They train with the
settings of `bitbayes reproduce truth`, in much less time than as many runs. The table is that of
`bitbayes reproduce truth`, and OUT/PROBLEM/truth.json has its figures. Draws and initial weights are not those of
single runs. STE begins with smaller latent weights, because they depend on the size of a tensor. VISPA's networks keep
tensors of their own, because its posterior correlates all weights of a tensor.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bitbayes.lab.data import DataBundle, TensorData
from bitbayes.lab.recipes import find_recipe, make_experiment
from bitbayes.lab.report.results import truth_table
from bitbayes.lab.studies.exact import Sampling
from bitbayes.lab.studies.load import FinishedRun
from bitbayes.lab.studies.problems import PROBLEMS, Problem
from bitbayes.lab.studies.truth import SAMPLES, measured
from bitbayes.lab.studies.ways import Way
from bitbayes.lab.train import Experiment, RunConfig, RunFolder
from bitbayes.lab.train.experiment import build_experiment
from bitbayes.lab.train.loop import training_step
from bitbayes.lab.train.measure import whole
from bitbayes.lab.train.schedule import advance
from bitbayes.nn import LogitScale
from bitbayes.prediction import Prediction


class Stacked(nn.Module):
    """Copies of a perceptron with weights of their own, stacked in the first dimension of each parameter.

    Inputs have shape (N, networks, features) and outputs (N, networks).

    Args:
        model: The perceptron.
        networks: Number of copies.
        apart: Whether the copies have parameters of their own, which only the forward pass stacks.
    """

    def __init__(self, model: nn.Module, networks: int, apart: bool = False) -> None:
        super().__init__()
        parts = networks if apart else 1
        self.layers = nn.ModuleList(
            nn.ModuleList(nn.Linear(layer.in_features, networks // parts * layer.out_features) for _ in range(parts))
            for layer in model.modules()
            if isinstance(layer, nn.Linear)
        )
        self.factor = next(
            (float(layer.log_scale.exp()) for layer in model.modules() if isinstance(layer, LogitScale)), 1.0
        )
        self.networks = networks

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of all networks."""
        x = x.transpose(0, 1)
        stacked = joined(dict(self.named_parameters()))
        for index in range(len(self.layers)):
            weight, bias = (stacked[f"layers.{index}.0.{name}"] for name in ("weight", "bias"))
            weight = weight.view(self.networks, -1, x.shape[-1])
            x = torch.baddbmm(bias.view(self.networks, 1, -1), x.tanh() if index else x, weight.mT)
        return self.factor * x.squeeze(-1).T


def joined(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of copies that are apart as those of copies that are not."""
    found: dict[str, list[Tensor]] = {}
    for name, weight in weights.items():
        _, layer, _, kind = name.split(".")
        found.setdefault(f"layers.{layer}.0.{kind}", []).append(weight)
    return {name: parts[0] if len(parts) == 1 else torch.cat(parts) for name, parts in found.items()}


def runs_of(problem: Problem, seeds: Iterable[int], out: str, data: str | None) -> list[FinishedRun]:
    """Return a run of each seed, which has its data and an untrained network."""
    configs = (problem.configs(Way("ste"), seed, out, data, None)[0] for seed in seeds)
    return [FinishedRun(config, RunFolder(config.out), make_experiment(config), None) for config in configs]


def stacked_data(runs: Sequence[FinishedRun], members: int) -> DataBundle:
    """Return the training data of every network, with inputs of shape (N, networks, features), and no other data."""
    points = [whole(run.experiment.data.train) for run in runs for _ in range(members)]
    x, y = (torch.stack(each, 1) for each in zip(*((x, y.float()) for x, y in points), strict=True))
    return dataclasses.replace(runs[0].experiment.data, train=TensorData(x, y.squeeze(-1)), test=None)


def trained(
    problem: Problem, way: Way, runs: Sequence[FinishedRun], epochs: int | None
) -> list[Callable[[Tensor], Prediction]]:
    """Train the networks of all seeds together, and return a function from inputs to a prediction for each seed."""
    recipe, seed = find_recipe(problem.recipe), runs[0].config.seed
    config, *_ = problem.configs(way, seed, "-", None, epochs)
    config = config.changed(seed=seed)  # of all members
    data, apart = stacked_data(runs, way.members), way.rule == "vispa"
    make = partial(Stacked, recipe.network(), len(runs) * way.members, apart)
    experiment = build_experiment(config, make, data, recipe.loss, all_binary=True)
    train_all(config, experiment)
    return predictors(experiment, Stacked(recipe.network(), way.members), len(runs))


def train_all(config: RunConfig, experiment: Experiment) -> None:
    """Take the steps of a run, in which every network has the gradient of its own mean loss."""
    x, y = whole(experiment.data.train)
    for _ in range(config.epochs):
        advance(experiment.schedulers)
        training_step(config, experiment, x, y, share=y.shape[1])


def predictors(experiment: Experiment, model: Stacked, runs: int) -> list[Callable[[Tensor], Prediction]]:
    """Return a function from inputs to a prediction for each run, whose members `model` stacks."""
    optimizer, members = experiment.optimizer, model.networks
    assert optimizer is not None
    if optimizer.has_posterior:
        posterior = optimizer.posterior()
        weights = [joined(posterior.sample_at(index)) for index in range(SAMPLES // members)]
    else:
        optimizer.eval()
        weights = [joined({name: each.detach() for name, each in experiment.model.named_parameters()})]

    @torch.no_grad()
    def predicted(inputs: Tensor, place: int) -> Prediction:
        found = []
        for each in weights:
            mine = {name: part.view(runs, -1, *part.shape[1:])[place] for name, part in each.items()}
            found.append(functional_call(model, mine, (inputs[:, None].expand(-1, members, -1),)))
        return Prediction(torch.stack(found).permute(0, 2, 1).flatten(0, 1)[..., None])  # (networks, N, 1)

    return [partial(predicted, place=place) for place in range(runs)]


def main(words: Sequence[str] | None = None) -> None:
    """Print the table and write truth.json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("problem", choices=["moons", "snelson"])
    parser.add_argument("--data", help="folder of Snelson's data; the default is generated data")
    known = sorted({way.rule for problem in PROBLEMS.values() for way in problem.ways.values()})
    parser.add_argument("--rules", nargs="+", choices=known, default=known, help="rules to train; the default is all")
    parser.add_argument("--first-seed", type=int, default=40, help="first seed, and number of the first split")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds")
    parser.add_argument("--epochs", type=int, help="training steps; the default is that of the recipe")
    parser.add_argument("--chains", type=int, default=16, help="chains of the exact posterior")
    parser.add_argument("--sweeps", type=int, default=1500, help="sweeps of each chain")
    parser.add_argument("--out", default="runs/seeds", help="folder of truth.json and of the sampled networks")
    o = parser.parse_args(words)
    problem, out = PROBLEMS[o.problem], f"{o.out}/{o.problem}"
    runs = runs_of(problem, range(o.first_seed, o.first_seed + o.seeds), o.out, o.data)
    predictors = {}
    for title, way in problem.ways.items():
        if way.rule in o.rules:
            print(f"{title} ...", flush=True)
            predictors[title] = trained(problem, way, runs, o.epochs)
    figures = measured(problem, runs, predictors, out, Sampling(o.chains, o.sweeps), print)
    RunFolder(out).write_json("truth.json", {"truth": [figures.to_dict()]})
    print(truth_table(figures).markdown())


if __name__ == "__main__":
    main()
