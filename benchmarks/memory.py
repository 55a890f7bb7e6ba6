"""Measure what is saved by keeping freed memory for the next step, as ratios within one run.

    python benchmarks/memory.py [--recipe mnist] [--steps 150] [--turns 3] [--precision bf16] [--only NAME]

It trains an epoch of a recipe in its short schedule, on random data, in two kinds of processes, turn by turn. One keeps
freed memory, as runs do (`kept_memory`). The other gives it back to the system, as the C library does by itself. The
columns are:

- "step": time of the first over time of the second, evaluation included.
- "faults": pages that the system had to find in a step, in both.
- "peak": ratio of the most memory that was in use.

There is a difference only with glibc.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import torch

from bitbayes.lab.data import DataBundle, TensorData
from bitbayes.lab.recipes import find_recipe, make_config
from bitbayes.lab.recipes.configure import run_recipe
from bitbayes.lab.train import SilentProgress

RULES = ("full-precision", "ste", "bayesbinn:straight-through", "vispa")
_OFF = {"MALLOC_ARENA_TEST": "8"}  # the default: it changes nothing, but runs leave settings of the user's own alone


def train(recipe: str, rule: str, steps: int, precision: str, threads: int) -> dict[str, float]:
    """Train in this process, and return seconds, page faults and peak memory."""
    torch.set_num_threads(threads)
    shape = (784,) if recipe.startswith(("mnist", "fashion")) else (3, 32, 32)
    with tempfile.TemporaryDirectory() as folder:
        config = make_config(recipe, rule, budget="quick", precision=precision, out=folder, stop_after=1)
        count = steps * config.batch_size
        data = TensorData(torch.randn(count, *shape), torch.arange(count) % 10)
        few = TensorData(data.x[:500], data.y[:500])
        bundle = DataBundle(recipe, data, few, few, 10, "random")
        faults, begin = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.perf_counter()
        run_recipe(config, data=bundle, progress=SilentProgress())
        seconds = time.perf_counter() - begin
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {"seconds": seconds, "faults": (usage.ru_minflt - faults) / steps, "peak": usage.ru_maxrss}


def elsewhere(options: argparse.Namespace, rule: str, kept: bool) -> dict[str, float]:
    """Train in a process of its own, and return the same."""
    free = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    same = [f"--{name}={getattr(options, name)}" for name in ("recipe", "steps", "precision", "threads")]
    command = [sys.executable, __file__, *same, "--child", rule]
    result = subprocess.run(command, env=free if kept else free | _OFF, capture_output=True, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", default="mnist", help="recipe to train")
    parser.add_argument("--steps", type=int, default=150, help="training steps")
    parser.add_argument("--turns", type=int, default=3, help="turns of both processes")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--precision", default="bf16", help="precision of the training")
    parser.add_argument("--only", default="", help="measure only the rules whose name contains this text")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(train(options.recipe, options.child, options.steps, options.precision, options.threads)))
        return
    find_recipe(options.recipe)
    print(f"{'rule':30}{'step':>8}{'faults':>10}{'without':>10}{'peak':>8}")
    for rule in RULES:
        if options.only not in rule:
            continue
        turns = [[elsewhere(options, rule, kept) for kept in (True, False)] for _ in range(options.turns)]
        medians = [{key: statistics.median(turn[i][key] for turn in turns) for key in turns[0][i]} for i in (0, 1)]
        ours, theirs = medians
        print(
            f"{rule:30}{ours['seconds'] / theirs['seconds']:8.2f}{ours['faults']:10.0f}{theirs['faults']:10.0f}"
            f"{ours['peak'] / theirs['peak']:8.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
