"""Search the settings of STE and of BayesBiNN on validation points of Snelson's data.

    python benchmarks/snelson.py FOLDER [--rules ste bayesbinn] [--splits 5] [--first-split 0] [--seeds 2]
                                        [--steps 5000] [--plain]

Each split of `bitbayes reproduce snelson` has 150 training points. A network trains on 120 of them, and its squared
error on the other 30 judges the setting: that of the mode for STE, and of the mean of 100 networks for BayesBiNN. The
50 held-out points are never read. Both rules have five settings. STE's include the paper's constant rate of 0.1, and
BayesBiNN's include an earlier setting of the recipe, which was chosen on held-out points. With --plain, the network is
that of the recipe snelson-plain, whose output has a fixed factor in place of BatchNorm.

The networks of all splits and seeds train together, stacked in one set of parameters, which takes a tenth of the time
of as many runs. BayesBiNN starts as in such a run. STE's first latent weights are smaller, because they depend on the
size of a tensor.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import bitbayes as bb
from bitbayes.lab.data import load_snelson
from bitbayes.lab.train import Schedule
from bitbayes.lab.train.schedule import advance
from bitbayes.table import Table, spread

VALIDATION, WIDTH, SAMPLES = 30, 64, 100
EPS = 1e-4  # of the BatchNorm after the output
PLAIN = 1 / 8  # factor of the output without BatchNorm
CONSTANT, DOWN, COSINE = Schedule("constant"), Schedule("exponential", factor=0.1), Schedule("cosine")


@dataclass(frozen=True)
class Setting:
    """One row of the search; `ess` is a multiple of the number of training points, and None for STE."""

    rule: str
    lr: float
    schedule: Schedule
    ess: float | None = None

    def label(self) -> str:
        """Return what distinguishes the setting from others of its rule."""
        return f"lr {self.lr:g}, {self.schedule.kind}" + (f", ess {self.ess:g}·N" if self.ess else "")

    def optimizer(self, weights: Mapping[str, Tensor], count: int) -> bb.BinaryOptimizer:
        """Return the optimizer of some weights for so many training points."""
        if self.ess is None:
            return bb.STE(list(weights.items()), lr=self.lr, seed=0)
        return bb.BayesBiNN(list(weights.items()), lr=self.lr, ess=self.ess * count, momentum=0.99, seed=0)


SETTINGS = [
    Setting("ste", 1e-1, CONSTANT),
    *(Setting("ste", lr, COSINE) for lr in (1e-1, 3e-2, 1e-2, 3e-3)),
    *(Setting("bayesbinn", lr, COSINE, ess) for ess in (100.0, 300.0) for lr in (3e-4, 1e-3)),
    Setting("bayesbinn", 3e-4, DOWN, 300.0),
]


def points(folder: str | None, splits: Sequence[int], seeds: int) -> tuple[Tensor, Tensor]:
    """Return inputs and targets of the training points of every split and seed, both of shape (networks, 150, 1)."""
    train = [load_snelson(folder, split=split).train for split in splits for _ in range(seeds)]
    return torch.stack([data.x for data in train]), torch.stack([data.y for data in train])


def output(weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Return the outputs of `bb.nn.synthetic_mlp(1, norm_output=True)` before its BatchNorm, for stacked networks."""
    for layer in "abc":
        weight, bias = (weights[f"{layer}.{name}"] for name in ("weight", "bias"))
        x = (x if layer == "a" else x.tanh()) @ weight.view(len(x), -1, x.shape[-1]).mT + bias.view(len(x), 1, -1)
    return x


def finished(out: Tensor, seen: Tensor, *, correction: int, plain: bool) -> Tensor:
    """Return outputs after BatchNorm with the statistics of the outputs that training has seen, or times a factor."""
    if plain:
        return PLAIN * out
    return (out - seen.mean(1, keepdim=True)) / (seen.var(1, correction=correction, keepdim=True) + EPS).sqrt()


def errors(weights: Sequence[Mapping[str, Tensor]], x: Tensor, y: Tensor, plain: bool = False) -> list[float]:
    """Return the squared error on the validation points of each stacked network, of the mean of some draws."""
    total = torch.zeros(len(x), VALIDATION, 1)
    with torch.no_grad():
        for each in weights:
            out = output(each, x)
            # A drawn network has BatchNorm statistics of its own, of its training points.
            total += finished(out[:, -VALIDATION:], out[:, :-VALIDATION], correction=1, plain=plain)
    return (total / len(weights) - y[:, -VALIDATION:]).square().mean((1, 2)).tolist()


def validation_errors(setting: Setting, x: Tensor, y: Tensor, steps: int, plain: bool = False) -> list[float]:
    """Train on 120 points of every split and return the squared errors on the others."""
    shapes = {"a": (WIDTH, 1), "b": (WIDTH, WIDTH), "c": (1, WIDTH)}
    weights: dict[str, Tensor] = {}
    for layer, (wide, narrow) in shapes.items():
        weights[f"{layer}.weight"] = torch.nn.Parameter(torch.zeros(len(x) * wide, narrow))
        weights[f"{layer}.bias"] = torch.nn.Parameter(torch.zeros(len(x) * wide))
    optimizer = setting.optimizer(weights, x.shape[1] - VALIDATION)
    schedule = setting.schedule.build(optimizer, steps)
    seen_x, seen_y = x[:, :-VALIDATION], y[:, :-VALIDATION]
    for _ in range(steps):
        advance([schedule])
        out = output(weights, seen_x)
        (finished(out, out, correction=0, plain=plain) - seen_y).square().mean((1, 2)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    if isinstance(optimizer, bb.BayesBiNN):
        posterior = optimizer.posterior()
        return errors([posterior.sample_at(index) for index in range(SAMPLES)], x, y, plain)
    optimizer.eval()
    return errors([weights], x, y, plain)


def search(
    folder: str | None, rules: Sequence[str], splits: Sequence[int], seeds: int, steps: int, plain: bool
) -> Table:
    """Return the mean validation error of every setting, the best of each rule first."""
    (x, y), rows = points(folder, splits, seeds), []
    for setting in SETTINGS:
        if setting.rule in rules:
            found = validation_errors(setting, x, y, steps, plain)
            of_splits = [statistics.mean(found[place : place + seeds]) for place in range(0, len(found), seeds)]
            rows.append((setting, of_splits))
            print(f"{setting.rule}, {setting.label()}: {statistics.mean(found):.4f}", flush=True)
    rows.sort(key=lambda row: (row[0].rule, statistics.mean(row[1])))
    cells = [[setting.rule, setting.label(), spread(of_splits, 3)] for setting, of_splits in rows]
    return Table("Snelson's data, squared error on validation points", ["rule", "setting", "error"], cells)


def main(words: Sequence[str] | None = None) -> None:
    """Print the mean validation error of every setting."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", nargs="?", help="folder of Snelson's data; the default is generated data")
    parser.add_argument(
        "--rules", nargs="+", default=["ste", "bayesbinn"], choices=["ste", "bayesbinn"], help="rules to search"
    )
    parser.add_argument("--splits", type=int, default=5, help="number of splits")
    parser.add_argument("--first-split", type=int, default=0, help="the first of them")
    parser.add_argument("--seeds", type=int, default=2, help="seeds per split")
    parser.add_argument("--steps", type=int, default=5000, help="training steps")
    parser.add_argument("--plain", action="store_true", help="take the network without BatchNorm")
    o = parser.parse_args(words)
    splits = range(o.first_split, o.first_split + o.splits)
    print(search(o.folder, o.rules, splits, o.seeds, o.steps, o.plain).markdown())


if __name__ == "__main__":
    main()
