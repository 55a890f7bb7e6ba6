"""Choose the setting of every rule inside each split of Snelson's data, and compare the posteriors with the exact one.

    python benchmarks/chosen_settings.py --data FOLDER [--first-seed 60] [--seeds 5] [--out runs/chosen]

Each split has 150 training points and 50 test points. Every rule that is searched has four trials per split. A trial
trains on 120 of the training points, and the NLL of its predictive distribution on the other 30 judges it. The best
trial is trained again on all 150 points. The test points of a split play no part in its choice.

The settings among which the search chooses, and the standard deviation of the noise, are the same for all splits. They
come from earlier searches on other splits of the same 200 points, so the figures are still somewhat optimistic.

OUT/trials.json has the NLL of every trial, OUT/truth.json the figures of `bitbayes reproduce truth`, and
OUT/snelson.png the bands on the first split. All trials of a rule train together, as in `benchmarks/seeds.py`, but
every network has tensors of its own and therefore begins as in a single run.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from seeds import Stacked, predictors, runs_of, stacked_data, train_all
from torch import Tensor

from bitbayes.lab.recipes import find_recipe
from bitbayes.lab.report.figures import bands_figure
from bitbayes.lab.report.results import truth_table
from bitbayes.lab.studies.exact import Sampling
from bitbayes.lab.studies.load import FinishedRun
from bitbayes.lab.studies.predictive import figures_of, log_probabilities
from bitbayes.lab.studies.problems import PROBLEMS
from bitbayes.lab.studies.truth import measured
from bitbayes.lab.studies.ways import Way
from bitbayes.lab.train import RULES, Experiment, RunFolder
from bitbayes.lab.train.experiment import resolved
from bitbayes.lab.train.measure import whole
from bitbayes.prediction import Prediction

PROBLEM = PROBLEMS["snelson"]
VALIDATION = 30  # of the 150 training points; a random part, because splits are shuffled
RATES = (3e-3, 1e-2, 3e-2, 1e-1)
FACTORS = (1e3, 3e3, 1e4, 3e4)
BAYESBINN = [Way("bayesbinn:default", {"options": {"ess_scale": factor}}) for factor in FACTORS]
TRIALS: Mapping[str, Mapping[str, Way]] = {
    "STE, chosen rate": {f"lr {rate:g}": Way("ste", {"lr": rate}) for rate in RATES},
    "BayesBiNN, published": {"": Way("bayesbinn:released")},
    "BayesBiNN, recommended": {"": Way("bayesbinn:default")},
    "BayesBiNN, chosen ess": {f"ess {f:g}·N": way for f, way in zip(FACTORS, BAYESBINN, strict=True)},
    "BayesBiNN, chosen ess, 4 members": {
        f"ess {f:g}·N": dataclasses.replace(way, members=4) for f, way in zip(FACTORS, BAYESBINN, strict=True)
    },
    "VISPA, chosen rate": {f"lr {100 * rate:g}": Way("vispa", {"lr": 100 * rate}) for rate in RATES},
}
"""Settings of every row of the table. A row with one setting has no choice."""

Predictor = Callable[[Tensor], Prediction]


def validated(run: FinishedRun) -> FinishedRun:
    """Return the run with some of its training points as validation data, and without test data."""
    data = run.experiment.data
    train, held = torch.arange(len(data.train)).tensor_split([len(data.train) - VALIDATION])
    bundle = dataclasses.replace(data, train=data.train.chosen(train), validation=data.train.chosen(held), test=None)
    return dataclasses.replace(run, experiment=dataclasses.replace(run.experiment, data=bundle))


def trained(jobs: Sequence[tuple[Way, FinishedRun]], epochs: int | None) -> list[Predictor]:
    """Train a network, or the members of an ensemble, for each setting of a rule and split, all of them together."""
    configs = [PROBLEM.configs(way, run.config.seed, "-", None, epochs)[0] for way, run in jobs]
    recipe, config, members = find_recipe(PROBLEM.recipe), configs[0], jobs[0][0].members
    runs = [run for _, run in jobs]
    data = stacked_data(runs, members)
    model, groups = Stacked(recipe.network(), len(jobs) * members, apart=True), []
    for place, one in enumerate(configs):
        own = range(place * members, (place + 1) * members)
        named = [
            (f"layers.{at}.{each}.{name}", parameter)
            for at, layer in enumerate(model.layers)
            for each in own
            for name, parameter in layer[each].named_parameters()
        ]
        spec = resolved(one, len(data.train))
        groups.append({"lr": spec.lr, **spec.options, "params": named})
    kind, spec = RULES[config.rule], config.spec
    assert kind is not None
    common: dict[str, Any] = {"samples": spec.samples, "seed": runs[0].config.seed, "compile": "kernels"}
    common |= {} if config.estimator is None else {"estimator": config.estimator}
    first = {name: value for name, value in groups[0].items() if name != "params"}  # some options have no default
    optimizer = kind(groups, **first, **common)
    schedule = spec.schedule.build(optimizer, config.epochs)
    experiment = Experiment(model, data, recipe.loss, optimizer, None, [schedule], torch.device("cpu"))
    train_all(config, experiment)
    return predictors(experiment, Stacked(recipe.network(), members), len(jobs))


def validation_nll(predict: Predictor, run: FinishedRun) -> float:
    """Return the NLL of the predictive distribution on the validation points."""
    x, y = whole(run.experiment.data.validation)
    return figures_of(log_probabilities(predict(x).outputs, PROBLEM.noise), y, real=True)["nll"]


def chosen(
    settings: Mapping[str, Way], runs: Sequence[FinishedRun], epochs: int | None
) -> tuple[list[str], dict[str, list[float]]]:
    """Return the best setting for every split, and the validation NLL of every setting on every split."""
    if len(settings) == 1:
        return [*settings] * len(runs), {}
    shown = [validated(run) for run in runs]
    every = trained([(way, run) for way in settings.values() for run in shown], epochs)
    losses = [validation_nll(predict, run) for predict, run in zip(every, len(settings) * shown, strict=True)]
    found = {setting: losses[at * len(runs) : (at + 1) * len(runs)] for at, setting in enumerate(settings)}
    for setting, nll in found.items():
        print(f"  {setting}: {' '.join(f'{each:.3f}' for each in nll)}", flush=True)
    return [min(found, key=lambda setting: found[setting][place]) for place in range(len(runs))], found


def main(words: Sequence[str] | None = None) -> None:
    """Print the table, and write trials.json, truth.json and snelson.png."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", help="folder of Snelson's data; the default is generated data")
    parser.add_argument("--first-seed", type=int, default=60, help="first seed, and number of the first split")
    parser.add_argument("--seeds", type=int, default=5, help="number of splits")
    parser.add_argument("--epochs", type=int, help="training steps; the default is that of the recipe")
    parser.add_argument("--chains", type=int, default=8, help="chains of the exact posterior")
    parser.add_argument("--sweeps", type=int, default=400, help="sweeps of each chain")
    parser.add_argument("--out", default="runs/chosen", help="folder of the results and of the sampled networks")
    o = parser.parse_args(words)
    splits, rows, trials = range(o.first_seed, o.first_seed + o.seeds), {}, []
    runs = runs_of(PROBLEM, splits, o.out, o.data)
    for title, settings in TRIALS.items():
        print(f"{title} ...", flush=True)
        choice, found = chosen(settings, runs, o.epochs)
        trials += [{"rule": title, "setting": setting, "nll": nll} for setting, nll in found.items()]
        rows[title] = trained([(settings[setting], run) for setting, run in zip(choice, runs, strict=True)], o.epochs)
    RunFolder(o.out).write_json("trials.json", {"trials": trials, "splits": list(splits)})
    figures = measured(PROBLEM, runs, rows, o.out, Sampling(o.chains, o.sweeps), print)
    RunFolder(o.out).write_json("truth.json", {"truth": [figures.to_dict()]})
    bands_figure(figures, Path(o.out, "snelson.png"))
    print(truth_table(figures).markdown())


if __name__ == "__main__":
    main()
