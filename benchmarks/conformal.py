"""Measure the coverage of conformal sets on test data, over random splits.

    python benchmarks/conformal.py [--data mnist=FOLDER cifar10-small=FOLDER] [--level 0.9] [--splits 200] [--seeds 3]
    python benchmarks/conformal.py --runs FOLDER ... [--samples 10] [--splits 200] [--out runs/conformal]

The first command prints two tables. The first one shows the pretrained networks. Each split calibrates the sets on one
half of the test data and measures them on the other half. The second table shows what it costs to choose the epoch on
the calibration data: the recipe "digits" is trained with several seeds, and the 600 examples that no run was trained on
are split into three parts. The epoch with the best accuracy on the first part is chosen, as `bitbayes train` does. The
sets are calibrated on the first part ("the same") or on the second part ("other"), and measured on the third part.

The second command measures finished runs at three levels and writes OUT/conformal.json. Each FOLDER is a run, or holds
runs of one recipe, rule and number of epochs in the folders seed1, seed2 and so on. Sets are calibrated on halves of
the test data, as in the first table, and on the validation data that have chosen the epoch. The latter are measured on
all of the test data.

Every figure is a mean over splits, and its spread is a standard deviation over splits. Over random splits of fixed data
without ties, the expected coverage is ⌈(n + 1) · level⌉ / (n + 1) with n calibration examples, whatever the network
outputs. The coverage of halves therefore checks the code, and says nothing about a network. With validation data, the
spread is that of the seeds.
"""

from __future__ import annotations

import argparse
import re
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import bitbayes as bb
from bitbayes.conformal import ConformalSets
from bitbayes.lab.recipes import find_recipe, make_config, make_experiment
from bitbayes.lab.studies.entry import predict_packed
from bitbayes.lab.studies.load import load_run
from bitbayes.lab.train import RunConfig, RunFolder, SilentProgress, train
from bitbayes.lab.train.measure import mode_weights, whole
from bitbayes.prediction import Prediction
from bitbayes.table import Table, spread

RULES = ("ste", "bayesbinn")
LEVELS = (0.9, 0.95, 0.99)  # of finished runs


def splits(count: int, parts: int, number: int) -> Iterator[Sequence[Tensor]]:
    """Yields random partitions of the examples."""
    for seed in range(number):
        yield torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tensor_split(parts)


def chosen(outputs: Tensor, index: Tensor) -> Prediction[Tensor]:
    return Prediction(outputs[:, index])


def zoo_table(places: dict[str, str], level: float, number: int) -> Table:
    """Return coverage, size and answers of the pretrained networks whose data are here."""
    rows = []
    for name in bb.zoo.names():
        network = bb.zoo.load(name)
        recipe = find_recipe(network.program.about["recipe"])
        if name != "digits" and name not in places:
            continue
        x, y = whole(recipe.load(places.get(name), torch.device("cpu"), 0).test)
        outputs = predict_packed(network, x).outputs
        found: dict[str, list[float]] = {"coverage": [], "size": [], "answers": [], "accuracy": []}
        for first, second in splits(len(y), 2, number):
            sets, test = ConformalSets.fit(chosen(outputs, first), y[first], level=level), chosen(outputs, second)
            members, right = sets.sets(test), test.probs.argmax(1) == y[second]
            one = members.sum(1) == 1
            found["coverage"].append(100 * sets.coverage(test, y[second]))
            found["size"].append(float(members.sum(1).float().mean()))
            found["answers"].append(100 * float(one.float().mean()))
            found["accuracy"].append(100 * float(right[one].float().mean()))
        accuracy = 100 * float((Prediction(outputs).probs.argmax(1) == y).float().mean())
        cells = [spread(values, 3 if name == "size" else 2) for name, values in found.items()]
        rows.append([name, f"{len(y) // 2:,}", f"{accuracy:.2f}", *cells])
    heads = ["network", "calibration examples", "accuracy, %", "coverage, %", "set size", "answers, %"]
    return Table(f"Conformal sets of level {level:g}", [*heads, "accuracy of the answers, %"], rows)


def outputs_by_epoch(rule: str, seed: int, folder: str) -> tuple[list[Tensor], Tensor]:
    """Return the logits of the mode after every epoch, (1, N, K) each, and the classes of the held-out examples."""
    config = make_config("digits", rule, seed=seed, out=str(Path(folder, f"{rule}{seed}")))
    experiment = make_experiment(config)
    parts = [whole(part) for part in (experiment.data.validation, experiment.data.test)]  # type: ignore[arg-type]
    x, found = torch.cat([x for x, _ in parts]), list[Tensor]()

    def figures(config: RunConfig) -> dict[str, float]:
        with mode_weights(experiment, config.refresh_batches, config.precision) as model, torch.no_grad():
            found.append(model(x)[None])
        return {}

    train(config, experiment, progress=SilentProgress(), figures=figures)
    return found, torch.cat([y for _, y in parts])


def selection_table(seeds: int, level: float, number: int) -> Table:
    """Return the coverage with the calibration data that have also chosen the epoch, and with other data."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for rule in RULES:
            same, other = list[float](), list[float]()
            for seed in range(seeds):
                epochs, y = outputs_by_epoch(rule, seed, folder)
                right = torch.stack([outputs[0].argmax(1) == y for outputs in epochs]).float()
                for first, second, third in splits(len(y), 3, number):
                    best = epochs[int(right[:, first].mean(1).argmax())]
                    for part, found in ((first, same), (second, other)):
                        sets = ConformalSets.fit(chosen(best, part), y[part], level=level)
                        found.append(100 * sets.coverage(chosen(best, third), y[third]))
            lower = [b - a for a, b in zip(same, other, strict=True)]
            rows.append([rule, str(seeds), spread(same), spread(other), f"{statistics.mean(lower):.2f}"])
    heads = ["rule", "seeds", "calibrated on the same, %", "calibrated on other, %", "difference, points"]
    return Table(f"Coverage at level {level:g} where data have chosen the epoch", heads, rows)


def halves(outputs: Tensor, y: Tensor, level: float, number: int) -> list[float]:
    """Return the coverage in percent on one half of the examples, calibrated on the other half, for every split."""
    found = []
    for first, second in splits(len(y), 2, number):
        sets = ConformalSets.fit(chosen(outputs, first), y[first], level=level)
        found.append(100 * sets.coverage(chosen(outputs, second), y[second]))
    return found


def runs_row(folders: Sequence[str], samples: int, number: int) -> dict[str, Any]:
    """Return what was measured on the runs of one recipe and rule, with the mode, or with the mean of samples."""
    levels = {level: {"halves": list[float](), "validation": list[float]()} for level in LEVELS}
    accuracy, about = list[float](), dict[str, Any]()
    for folder in folders:
        run = load_run(folder)
        data = run.experiment.data
        if data.validation is None:
            raise SystemExit(f"{folder} has no validation data, expected a run without --protocol test")
        (held, classes), (x, y) = whole(data.validation), whole(data.test)
        with torch.no_grad():
            predict = run.predictor(samples)
            calibration, test = predict(held), predict(x)
        about = {"recipe": run.config.recipe, "rule": str(run.config.rule_name), "epochs": run.config.epochs}
        about |= {"samples": samples, "seeds": len(folders), "halves": len(y) // 2, "validation": len(classes)}
        accuracy.append(100 * float((test.probs.argmax(1) == y).float().mean()))
        one = test.probs.clamp(min=1e-30).log()[None]  # one network with these probabilities, which takes less time
        for level, found in levels.items():
            found["halves"] += halves(one, y, level, number)
            sets = ConformalSets.fit(calibration, classes, level=level)
            found["validation"].append(100 * sets.coverage(test, y))
    spreads = {f"{level:g}": {kind: spread_of(found[kind]) for kind in found} for level, found in levels.items()}
    return about | {"accuracy": spread_of(accuracy), "levels": spreads}


def spread_of(values: Sequence[float]) -> dict[str, float | None]:
    return {"mean": statistics.mean(values), "std": statistics.stdev(values) if len(values) > 1 else None}


def seed_folders(place: str) -> list[str]:
    """Return the folder of a run, or those of the seeds in it, which have one recipe, rule and number of epochs."""
    if RunFolder(place).has("config.json"):
        return [place]
    folders = [str(path) for path in sorted(Path(place).glob("seed*")) if re.fullmatch(r"seed\d+", path.name)]
    if not folders:
        raise SystemExit(f"{place} holds no run, expected config.json, or folders seed1, seed2, ...")
    kinds = [(config.recipe, config.rule_name, config.epochs) for config in map(RunConfig.load, folders)]
    for folder, kind in zip(folders, kinds, strict=True):
        if kind != kinds[0]:
            pairs = zip(("recipe", "rule", "epochs"), kind, kinds[0], strict=True)
            name, found, wanted = next(pair for pair in pairs if pair[1] != pair[2])
            raise SystemExit(f"{folder} has the {name} {found}, expected {wanted} as in {folders[0]}; name them apart")
    return folders


def runs_rows(places: Sequence[str], samples: int, number: int) -> list[dict[str, Any]]:
    """Return a row for the mode of the runs in each folder, and another one for the mean of posterior samples."""
    rows = []
    for place, folders in {place: seed_folders(place) for place in places}.items():  # refusals come first
        for count in [0, *[samples] * (load_run(folders[0]).posterior is not None)]:
            rows.append(runs_row(folders, count, number))
            print(f"{place}, {count} samples", flush=True)
    return rows


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", nargs="+", metavar="NAME=FOLDER", help="data of the pretrained networks")
    parser.add_argument("--level", type=float, help="level of the sets (default: 0.9)")
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--seeds", type=int, help="runs of each rule (default: 3); 0 leaves out the second table")
    parser.add_argument("--runs", nargs="+", metavar="FOLDER", help="measure these finished runs instead")
    parser.add_argument("--samples", type=int, help="posterior samples of the mean of a finished run (default: 10)")
    parser.add_argument("--out", help="folder of conformal.json (default: runs/conformal)")
    o = parser.parse_args(words)
    for name in ("data", "level", "seeds") if o.runs else ("samples", "out"):
        if getattr(o, name) is not None:
            parser.error(f"--{name} has no effect {'with' if o.runs else 'without'} --runs; leave it out")
    if o.runs:
        rows = runs_rows(o.runs, 10 if o.samples is None else o.samples, o.splits)
        RunFolder(o.out or "runs/conformal").write_json("conformal.json", {"coverage": rows})
        return
    level, seeds = 0.9 if o.level is None else o.level, 3 if o.seeds is None else o.seeds
    places = dict(pair.split("=", 1) for pair in o.data or ())
    print(zoo_table(places, level, o.splits).markdown())
    if seeds:
        print(selection_table(seeds, level, o.splits).markdown())


if __name__ == "__main__":
    main()
