"""Choose the setting of every rule inside each split of Snelson's data, and compare the posteriors with the exact one.

    python benchmarks/nested.py --data FOLDER [--first-seed 60] [--seeds 5] [--out runs/nested]

Each split has 150 training points and 50 test points. Every rule that is searched has four trials per split. A trial
trains on 120 of the training points, and the NLL of its predictive distribution on the other 30 judges it. The best
trial is trained again on all 150 points. The test points of a split play no part in its choice.

The settings among which the search chooses, and the standard deviation of the noise, are the same for all splits. All
splits divide the same 200 points, so the test points of one split are training points of others.

OUT/trials.json has the NLL of every trial, OUT/truth.json the figures of `bitbayes reproduce truth`, and
OUT/snelson.png the bands on the first split. STE and VISPA train one network at a time, and so STE begins as in single
runs. The networks of BayesBiNN, whose beginning does not depend on the others, are stacked as in `benchmarks/seeds.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from seeds import trained
from torch import Tensor

from bitbayes.lab.recipes import make_experiment
from bitbayes.lab.report.figures import bands_figure
from bitbayes.lab.report.results import truth_table
from bitbayes.lab.studies.exact import Sampling
from bitbayes.lab.studies.load import FinishedRun
from bitbayes.lab.studies.predictive import figures_of, log_probabilities
from bitbayes.lab.studies.problems import PROBLEMS
from bitbayes.lab.studies.truth import measured
from bitbayes.lab.studies.ways import Way
from bitbayes.lab.train import RunFolder
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


def predictors(way: Way, runs: Sequence[FinishedRun], epochs: int | None) -> list[Predictor]:
    """Train a network, or the members of an ensemble, for every split."""
    groups = [[run] for run in runs] if way.rule == "ste" else [runs]  # STE's start depends on the size of a tensor
    return [predict for group in groups for predict in trained(PROBLEM, way, group, epochs)]


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
    found = {}
    for setting, way in settings.items():
        trial = predictors(way, shown, epochs)
        found[setting] = [validation_nll(predict, run) for predict, run in zip(trial, shown, strict=True)]
        print(f"  {setting}: {' '.join(f'{nll:.3f}' for nll in found[setting])}", flush=True)
    return [min(found, key=lambda setting: found[setting][place]) for place in range(len(runs))], found


def retrained(
    settings: Mapping[str, Way], choice: Sequence[str], runs: Sequence[FinishedRun], epochs: int | None
) -> list[Predictor]:
    """Train on all training points of every split, with the setting that was chosen for it."""
    found: dict[int, Predictor] = {}
    for setting in dict.fromkeys(choice):
        places = [place for place, each in enumerate(choice) if each == setting]
        found |= zip(places, predictors(settings[setting], [runs[place] for place in places], epochs), strict=True)
    return [found[place] for place in range(len(runs))]


def main(words: Sequence[str] | None = None) -> None:
    """Print the table, and write trials.json, truth.json and snelson.png."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", help="folder of Snelson's data; the default is generated data")
    parser.add_argument("--first-seed", type=int, default=60, help="first seed, and number of the first split")
    parser.add_argument("--seeds", type=int, default=5, help="number of splits")
    parser.add_argument("--epochs", type=int, help="training steps; the default is that of the recipe")
    parser.add_argument("--chains", type=int, default=8, help="chains of the exact posterior")
    parser.add_argument("--sweeps", type=int, default=400, help="sweeps of each chain")
    parser.add_argument("--out", default="runs/nested", help="folder of the results and of the sampled networks")
    o = parser.parse_args(words)
    splits, runs, rows, trials = range(o.first_seed, o.first_seed + o.seeds), [], {}, []
    for seed in splits:
        (config,) = PROBLEM.configs(Way("ste"), seed, o.out, o.data, None)
        runs.append(FinishedRun(config, RunFolder(config.out), make_experiment(config), None))
    for title, settings in TRIALS.items():
        print(f"{title} ...", flush=True)
        choice, found = chosen(settings, runs, o.epochs)
        trials += [{"rule": title, "setting": setting, "nll": nll} for setting, nll in found.items()]
        rows[title] = retrained(settings, choice, runs, o.epochs)
    RunFolder(o.out).write_json("trials.json", {"validation": trials, "splits": list(splits)})
    figures = measured(PROBLEM, runs, rows, o.out, Sampling(o.chains, o.sweeps), print)
    RunFolder(o.out).write_json("truth.json", {"truth": [figures.to_dict()]})
    bands_figure(figures, Path(o.out, "snelson.png"))
    print(truth_table(figures).markdown())


if __name__ == "__main__":
    main()
