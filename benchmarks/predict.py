"""Measure what a prediction with several networks costs, as ratios within one run.

    python benchmarks/predict.py [--threads 2] [--samples 32]

Each number is the time of `bb.predict` with C networks over the time of C forward passes of one network on the same
inputs. The columns are:

- "alone": one network after the other.
- "together": up to 32 networks in one batched pass (`torch.func.vmap`).
- "predict": what the library chooses by itself.
- "bf16": "predict" under `torch.autocast` in bfloat16, over the same passes in float32.
- "native": "predict" with `backend="native"`, which draws, packs and runs.
- "draw": the share of drawing the weights.
- "packed": the same prediction from a packed file of these networks. Nothing is drawn, and a weight is one bit.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

import bitbayes as bb

module: Any = sys.modules[bb.predict.__module__]
CASES = [([16], 100), ([100, 100], 1), ([100, 100], 100), ([100, 100], 1000), ([2048] * 3, 100), ([2048] * 3, 1000)]


def seconds(action: Callable[[], object], repeats: int = 5) -> float:
    """Return the median time of a call."""
    action()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        action()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def measure(widths: list[int], inputs: int, samples: int) -> list[float]:
    """Ratios for one network and one number of inputs."""
    torch.manual_seed(0)
    model = bb.nn.mlp(784, widths, 10).eval()
    optimizer = bb.BayesBiNN(bb.split_parameters(model)[0], ess=1, seed=0)
    posterior, x = optimizer.posterior(), torch.randn(inputs, 784)
    with torch.no_grad():
        forward = samples * seconds(lambda: model(x))
    draw = seconds(lambda: [bool(posterior.sample_at(index)) for index in range(samples)], 3)
    ways, chosen = [], (module._TOGETHER, module._SMALL)
    for together, small in ((1, 0), (32, 10**12), chosen):
        module._TOGETHER, module._SMALL = together, small
        ways.append(seconds(lambda: bb.predict(model, x, posterior, samples=samples), 3) / forward)
    with torch.autocast("cpu", torch.bfloat16):
        ways.append(seconds(lambda: bb.predict(model, x, posterior, samples=samples), 3) / forward)
    native = seconds(lambda: bb.predict(model, x, posterior, samples=samples, backend="native"), 3)
    packed = bb.packed.load(bb.pack(model, x, posterior, samples), "native", threads=torch.get_num_threads())
    given = x.numpy()
    return [*ways, native / forward, draw / forward, seconds(lambda: packed.predict(given), 3) / forward]


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--samples", type=int, default=32, help="number of networks")
    o = parser.parse_args()
    torch.set_num_threads(o.threads)
    print(f"torch {torch.__version__}, {o.threads} threads, {o.samples} networks")
    print("| hidden layers | inputs | alone | together | predict | bf16 | native | draw | packed |")
    print("| --- |" + " ---: |" * 8)
    for widths, inputs in CASES:
        ratios = measure(widths, inputs, o.samples)
        print(f"| {' x '.join(map(str, widths))} | {inputs} | " + " | ".join(f"{r:.2f}" for r in ratios) + " |")


if __name__ == "__main__":
    main()
