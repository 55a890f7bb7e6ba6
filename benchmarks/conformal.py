"""Measure the coverage of conformal sets on test data, over random splits.

    python benchmarks/conformal.py [--data mnist=FOLDER cifar10-small=FOLDER] [--level 0.9] [--splits 200] [--seeds 3]

The first table shows the pretrained networks. Each split calibrates the sets on one half of the test data and measures
them on the other half. The second table shows what it costs to choose the epoch on the calibration data: the recipe
"digits" is trained with several seeds, and the 600 examples that no run was trained on are split into three parts. The
epoch with the best accuracy on the first part is chosen, as `bitbayes train` does. The sets are calibrated on the first
part ("the same") or on the second part ("other"), and measured on the third part.

Every figure is a mean over splits, and its spread is a standard deviation over splits. Splits share examples, so the
mean is more certain than one split, but less certain than that of as many fresh data sets.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

import bitbayes as bb
from bitbayes.conformal import ConformalSets
from bitbayes.lab.recipes import find_recipe, make_config, make_experiment
from bitbayes.lab.studies.entry import predict_packed
from bitbayes.lab.train import RunConfig, SilentProgress, train
from bitbayes.lab.train.measure import mode_weights, whole
from bitbayes.prediction import Prediction
from bitbayes.table import Table, spread

RULES = ("ste", "bayesbinn")


def splits(count: int, parts: int, number: int) -> Iterator[Sequence[Tensor]]:
    """Yields random partitions of the examples."""
    for seed in range(number):
        yield torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tensor_split(parts)


def chosen(outputs: Tensor, index: Tensor) -> Prediction[Tensor]:
    return Prediction(outputs[:, index])


def zoo_table(places: dict[str, str], level: float, number: int) -> Table:
    """Returns coverage, size and answers of the pretrained networks whose data are here."""
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
    """Returns the logits of the mode after every epoch, (1, N, K) each, and the classes of the held-out examples."""
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
    """Returns the coverage with the calibration data that have also chosen the epoch, and with other data."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", nargs="*", default=[], metavar="NAME=FOLDER", help="data of the pretrained networks")
    parser.add_argument("--level", type=float, default=0.9)
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3, help="runs of each rule; 0 leaves out the second table")
    o = parser.parse_args()
    places = dict(pair.split("=", 1) for pair in o.data)
    print(zoo_table(places, o.level, o.splits).markdown())
    if o.seeds:
        print(selection_table(o.seeds, o.level, o.splits).markdown())


if __name__ == "__main__":
    main()
