"""Compare estimators of the gradient in μ, and find what limits the tempered posterior.

    python -m benchmarks.estimators truth --out FOLDER                     exact gradients of small networks
    python -m benchmarks.estimators practice --out FOLDER --data MNIST     variances on MNIST
    python -m benchmarks.estimators linearity --out FOLDER --data MNIST    bias of straight-through on MNIST
    python -m benchmarks.estimators tempered --out FOLDER --data MNIST     short trainings

Each part prints its tables and writes `FOLDER/PART.json` piece by piece. A piece that is in the file is not run again,
so an interrupted study continues, and other options need another folder. The results are in docs/estimators.md.
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

from . import linearity, practice, tables, tempered, truth

Pieces = Iterator[tuple[str, Callable[[], Any]]]
SCALES = (1.0, 10.0, 100.0, 1e3)  # ess / N of the beliefs that are frozen


def _truth(options: argparse.Namespace) -> Pieces:
    for network, belief, problem in truth.problems():
        yield f"{network}, {belief}", partial(_qualities, problem, options)


def _qualities(problem: truth.Small, options: argparse.Namespace) -> Any:
    found = truth.study(problem, options.passes, options.seed)
    return {name: dataclasses.asdict(quality) for name, quality in found.items()}


def _subset(options: argparse.Namespace) -> DataBundle[TensorData]:
    """Return MNIST with the first of its training images, which are already shuffled."""
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
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=list(PARTS), help="study to run")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--data", default="ylecun/mnist", help="folder or hub id of MNIST")
    parser.add_argument("--passes", type=int, default=240_000, help="forward passes per estimator, in the part truth")
    parser.add_argument("--images", type=int, default=10_000, help="training images, in all parts but truth")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of a training, in the part tempered")
    parser.add_argument("--seeds", type=int, default=1, help="trainings per setting, in the part tempered")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first run")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
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
