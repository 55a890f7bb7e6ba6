"""Measure where the time of a training step of a convolutional network goes, beside the float network's step.

    python benchmarks/convolutions.py [--recipe cifar10-speed] [--rule RULE ...] [--batch 250] [--steps 5]

The steps are those of `bitbayes train`, in bfloat16 if the machine computes faster in it, on random images of CIFAR's
size. "step over float" is the step of a rule over that of the float network, timed turn by turn; the ratio is that of
the medians. The other columns give the share of a step that each kind of operation takes, by torch's profiler:

- "convolutions": forward, gradient of the inputs and gradient of the weights.
- "pooling", "BatchNorm" and "activations": forward and backward.
- "update": the fused kernels of the optimizers. Other operations of an update count under their own kinds.
- "copies": changes of the order in memory or of the number format, and memory that is filled with zeros.
- "rest": everything else, such as the loss and the bookkeeping of autograd.

The last line gives the time of augmentation and normalisation, which is measured separately.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections import Counter

import torch
from torch.profiler import ProfilerActivity, profile

from bitbayes.lab.data import AUGMENTATIONS, DataBundle, TensorData, batches
from bitbayes.lab.recipes import find_recipe, make_config
from bitbayes.lab.train import Experiment, RunConfig, build_experiment, choose_precision
from bitbayes.lab.train.loop import training_step
from bitbayes.lab.train.machine import kept_memory
from bitbayes.lab.train.precision import bfloat16_weights
from bitbayes.table import Table

# The first kind whose words occur in the name of a profiled operation.
KINDS = {
    "convolutions": ("conv",),
    "pooling": ("pool",),
    "BatchNorm": ("batch_norm", "batchnorm"),
    "activations": ("gelu", "relu", "threshold", "hardtanh", "prelu", "clamp"),
    "update": ("optimizer", "adam", "sgd", "kernel"),
    "copies": ("copy_", "to_copy", "contiguous", "clone", "fill_", "zero_"),
}


def images(count: int) -> DataBundle[TensorData]:
    """Return random images of CIFAR's size with the augmentation of `cifar10-speed`."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    augment, y = AUGMENTATIONS["alternate"], torch.randint(10, (count,), generator=generator)
    data = TensorData(x, y, mean=0.5, std=0.25, augment=augment)
    return DataBundle("random", data, None, None, 10, "generated")


class Run:
    """Training steps of one rule on the same batch."""

    def __init__(self, recipe: str, rule: str, data: DataBundle[TensorData], batch: int, precision: str) -> None:
        found = find_recipe(recipe)
        self.config: RunConfig = make_config(found, rule, out="-", precision=precision, batch_size=batch)
        self.experiment: Experiment = build_experiment(self.config, found.builder(data), data, found.loss)
        self.x, self.y = next(batches(data.train, batch, shuffle=True, augment=True))
        self.experiment.model.train()

    def step(self) -> None:
        """Take one training step."""
        training_step(self.config, self.experiment, self.x, self.y)

    def shares(self, steps: int) -> dict[str, float]:
        """Return the share of the time that each kind of kernel takes, in percent."""
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            for _ in range(steps):
                self.step()
        spent: Counter[str] = Counter()
        for event in profiler.key_averages():
            name = event.key.lower()
            kind = next((kind for kind, words in KINDS.items() if any(word in name for word in words)), "rest")
            spent[kind] += event.self_cpu_time_total
        return {kind: 100 * spent[kind] / spent.total() for kind in (*KINDS, "rest")}


def seconds(run: Run) -> float:
    """Return the time of one step."""
    begin = time.perf_counter()
    run.step()
    return time.perf_counter() - begin


def main(arguments: list[str] | None = None) -> None:
    """Print the ratios and the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", default="cifar10-speed", help="recipe of 32x32 colour images")
    parser.add_argument("--rule", nargs="+", default=["bayesbinn", "ste", "vispa"], help="rules to measure")
    parser.add_argument("--batch", type=int, default=250, help="images per step")
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each rule")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    precision = choose_precision("auto", torch.device("cpu"))
    data = images(options.batch)
    rules = ["full-precision", *options.rule]
    with kept_memory(), contextlib.ExitStack() as stack:
        runs = {rule: Run(options.recipe, rule, data, options.batch, precision) for rule in rules}
        for run in runs.values():
            stack.enter_context(bfloat16_weights(run.config, run.experiment))
        times: dict[str, list[float]] = {rule: [] for rule in rules}
        for _ in range(2):
            for run in runs.values():
                run.step()
        for _ in range(options.steps):
            for rule, run in runs.items():
                times[rule].append(seconds(run))
        median = {rule: statistics.median(found) for rule, found in times.items()}
        rows = []
        for rule, run in runs.items():
            shares = run.shares(options.steps)
            rows.append(
                [rule, f"{median[rule] / median['full-precision']:.2f}", *(f"{s:.1f}" for s in shares.values())]
            )
        begin = time.perf_counter()
        for _ in batches(data.train, options.batch, shuffle=True, augment=True):
            pass
        loading = 100 * (time.perf_counter() - begin) / median["full-precision"]
    head = ["rule", "step over float", *(f"{kind}, %" for kind in (*KINDS, "rest"))]
    note = (
        f"precision {precision}, batch {options.batch}, {options.threads} threads; images take {loading:.1f}% of a step"
    )
    print(Table(f"training step of {options.recipe}", head, rows, note).text())


if __name__ == "__main__":
    main()
