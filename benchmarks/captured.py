"""Time a captured training step of whole recipes on a GPU.

    python benchmarks/captured.py [--recipes mnist-trust cifar10-speed text] [--rules ...] [--data cifar10-speed=FOLDER]

Each row is the step of `bitbayes train RECIPE --rule RULE --capture --precision bf16`: forward, backward and update of
one batch, as one CUDA graph. The columns are:

- "step": milliseconds of a step, from an idle device to an idle device, the median of many.
- "over float": the step relative to that of the first rule, by default the float network.
- "kernels": operations of a step on the device, with the copies of the batch.

Binary networks begin with random signs here: this needs no float network and does not change the time of a step.
`--device cpu` runs the same code without a graph and counts no kernels. Its numbers say nothing about a GPU.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from typing import Any

import gpu
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from bitbayes.lab.choices import Overrides
from bitbayes.lab.data import batches
from bitbayes.lab.recipes import make_config, make_experiment
from bitbayes.lab.recipes.configure import load_data
from bitbayes.lab.train.capture import GRAPHS, Captured
from bitbayes.lab.train.loop import training_step
from bitbayes.lab.train.precision import bfloat16_weights
from bitbayes.table import Table

FLOAT = "full-precision"
RECIPES = ("mnist-trust", "cifar10-speed", "text")
RULES = (FLOAT, "ste", "bayesbinn:straight-through")
Found = dict[str, dict[str, dict[str, float | None]]]

_STEPS_BEFORE = 5  # to warm up, and to record the graph


def measure(
    recipe: str, rule: str, data: str | None, device: torch.device, precision: str, repeats: int
) -> tuple[float, int | None]:
    """Return the milliseconds of a step, and the number of its operations on a GPU."""
    graph = device.type in GRAPHS
    given = Overrides(device=str(device), precision=precision, capture=graph, data=data)  # pyright: ignore[reportArgumentType]
    random: dict[str, Any] = {} if rule == FLOAT else {"pretrain_epochs": 0, "options": {"init": "random"}}
    config = make_config(recipe, rule, given, **random)
    bundle = load_data(config)
    experiment = make_experiment(config, bundle)
    step = functools.partial(training_step, config, experiment)
    if graph:
        step = Captured(step, experiment.optimizers, GRAPHS[device.type](), device)
    x, y = next(iter(batches(bundle.train, config.batch_size or len(bundle.train))))
    with bfloat16_weights(config, experiment):
        for _ in range(_STEPS_BEFORE):
            step(x, y)
        time = gpu.milliseconds(lambda: step(x, y), device, repeats)
        if not graph:
            return time, None
        with profile(activities=[ProfilerActivity.CUDA]) as found:
            step(x, y)
            torch.cuda.synchronize(device)
        there = (row.count for row in found.key_averages() if row.device_type == DeviceType.CUDA)
        return time, sum(there)


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipes", nargs="+", default=RECIPES, help="recipes whose steps are measured")
    parser.add_argument("--rules", nargs="+", default=RULES, help="rules; the first is that of the ratios")
    parser.add_argument("--data", nargs="*", default=[], metavar="RECIPE=FOLDER", help="folders of data")
    parser.add_argument("--device", default="cuda", help="device to measure")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16", help="precision of the passes")
    parser.add_argument("--repeats", type=int, default=50, help="timed repetitions")
    return parser.parse_args(arguments)


def table(o: argparse.Namespace, keep: Callable[[Found], object] = lambda found: None) -> Found:
    """Print the table, and return its numbers by recipe and rule.

    Args:
        o: Command line, from `parsed`.
        keep: Function that gets the numbers so far after each row.
    """
    device = gpu.opened(o.device)
    places = dict(each.split("=", 1) for each in o.data)
    found: Found = {}
    rows = []
    for recipe in o.recipes:
        found[recipe] = {}
        for rule in o.rules:
            time, kernels = measure(recipe, rule, places.get(recipe), device, o.precision, o.repeats)
            first = next(iter(found[recipe].values()), {"step, ms": time})["step, ms"]
            assert first is not None
            found[recipe][rule] = {"step, ms": time, "over float": time / first, "kernels": kernels}
            counted = "-" if kernels is None else str(kernels)
            keep(found)
            rows.append([recipe, rule, f"{time:.3f}", f"{time / first:.2f}×", counted])
    heads = ["recipe", "rule", "step, ms", "over float", "kernels"]
    print(Table(f"Step of a recipe on {device}, {o.precision}", heads, rows, align="llrrr").text())
    return found


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    table(parsed(arguments))


if __name__ == "__main__":
    main()
