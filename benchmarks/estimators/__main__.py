"""Which estimator of the gradient in μ, and what limits the tempered posterior. Results: docs/estimators.md.

    python -m benchmarks.estimators truth --out FOLDER                     enumeration, small networks
    python -m benchmarks.estimators practice --out FOLDER --data MNIST     variances on MNIST
    python -m benchmarks.estimators linearity --out FOLDER --data MNIST    bias of straight-through on MNIST
    python -m benchmarks.estimators tempered --out FOLDER --data MNIST     short trainings
    python -m benchmarks.estimators figures --out FOLDER                   plots, as PNG

Each prints its tables and leaves `FOLDER/PART.json`, from which the figures are drawn. It is written piece by piece,
and a piece that is there is not run again: a study that was interrupted goes on, and other options need another folder.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bitbayes.lab.data import DataBundle, TensorData, load_mnist

from . import figures, linearity, practice, tables, tempered, truth

Pieces = Iterator[tuple[str, Callable[[], Any]]]
SCALES = (1.0, 10.0, 100.0, 1e3)  # ess / N of the beliefs that are frozen


def _truth(options: argparse.Namespace) -> Pieces:
    for network, belief, problem in truth.problems():
        yield f"{network}, {belief}", partial(_qualities, problem, options)


def _qualities(problem: truth.Small, options: argparse.Namespace) -> Any:
    found = truth.study(problem, options.passes, options.seed)
    return {name: dataclasses.asdict(quality) for name, quality in found.items()}


def _subset(options: argparse.Namespace) -> DataBundle[TensorData]:
    """MNIST with the first of its (already shuffled) training images."""
    data = load_mnist(options.data)
    few = dataclasses.replace(data.train, x=data.train.x[: options.images], y=data.train.y[: options.images])
    return dataclasses.replace(data, train=few)


def _practice(options: argparse.Namespace) -> Pieces:
    data = _subset(options).train
    for scale in SCALES:
        yield f"{scale:g}", partial(_variances, scale, data, options.seed)


def _variances(scale: float, data: TensorData, seed: int) -> Any:
    network, natural = practice.belief(data, seed, 300, scale, 1e-2)
    rows = practice.variances(network, natural, data, 8, 5, seed)
    return {name: dataclasses.asdict(row) for name, row in rows.items()}


def _linearity(options: argparse.Namespace) -> Pieces:
    data = _subset(options).train
    for scale in SCALES:
        yield f"{scale:g}", partial(_lines, scale, data, options.seed)


def _lines(scale: float, data: TensorData, seed: int) -> Any:
    network, natural = practice.belief(data, seed, 300, scale, 1e-2)
    return [dataclasses.asdict(line) for line in linearity.measure(network, natural, data, 24, 24, seed)]


def _tempered(options: argparse.Namespace) -> Pieces:
    data = _subset(options)
    for s in tempered.settings():
        yield f"{s.scale:g}, {s.estimator.name}, {s.start:g}, {s.lr:g}", partial(_training, s, data, options)


def _training(setting: tempered.Setting, data: DataBundle[TensorData], options: argparse.Namespace) -> Any:
    outcomes = [tempered.run(setting, data, options.epochs, options.seed + i) for i in range(options.seeds)]
    return {
        "scale": setting.scale,
        "estimator": setting.estimator.name,
        "passes": setting.estimator.passes,
        "start": setting.start,
        "lr": setting.lr,
        "outcomes": [dataclasses.asdict(outcome) for outcome in outcomes],
    }


PARTS: dict[str, Callable[[argparse.Namespace], Pieces]] = {
    "truth": _truth,
    "practice": _practice,
    "linearity": _linearity,
    "tempered": _tempered,
}


def main() -> None:
    """Runs one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[*PARTS, "figures"])
    parser.add_argument("--out", type=Path, required=True, help="folder of the JSON files and of the figures")
    parser.add_argument("--data", default="ylecun/mnist", help="folder of MNIST, or a hub id")
    parser.add_argument("--passes", type=int, default=240_000, help="forward passes an estimator (truth)")
    parser.add_argument("--images", type=int, default=10_000, help="training images (all but truth)")
    parser.add_argument("--epochs", type=int, default=3, help="of a training (tempered)")
    parser.add_argument("--seeds", type=int, default=1, help="trainings a setting (tempered)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.part == "figures":
        found = {part: json.loads((options.out / f"{part}.json").read_text()) for part in PARTS}
        for path in figures.draw(found, options.out):
            print(path)
        return
    path = options.out / f"{options.part}.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    for name, piece in PARTS[options.part](options):
        if name not in found:
            found[name] = piece()
            path.write_text(json.dumps(found, indent=1))
            print(f"done: {name}", flush=True)
    print(tables.table(options.part, found))


if __name__ == "__main__":
    main()
