"""Measure what a prediction with several networks costs, as ratios within one run.

    python benchmarks/predict.py [--threads 2] [--samples 32] [--small]

Each number is the time of `bb.predict` with C networks over the time of C forward passes of one network on the same
inputs. The columns are:

- "alone": one network after the other.
- "together": up to 32 networks in one batched pass (`torch.func.vmap`).
- "predict": what the library chooses by itself.
- "bf16": "predict" under `torch.autocast` in bfloat16, over the same passes in float32.
- "native": "predict" with `backend="native"`, which draws, packs and runs.
- "draw": the share of drawing the weights.
- "packed": the same prediction from a packed file of these networks. Nothing is drawn, and a weight is one bit.

The second table has the time for a single input over that of one forward pass of one network, with networks that are
drawn once by `bb.Ensemble`. Times are the shortest of many calls. The columns are:

- "predict": `bb.predict`, which draws at every call.
- "ensemble": the outputs of `bb.Ensemble`, equal to those of `bb.predict` bit for bit.
- "native": the outputs of `bb.Ensemble(backend="native")`.
- "probs": the same and the mean of the probabilities.
- "packed": the outputs of the packed networks, as NumPy arrays.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

import bitbayes as bb
from bitbayes import draws

CASES = [([16], 100), ([100, 100], 1), ([100, 100], 100), ([100, 100], 1000), ([2048] * 3, 100), ([2048] * 3, 1000)]
SMALL = [(20, [32, 32]), (20, [100, 100]), (784, [16]), (784, [100, 100])]


def seconds(action: Callable[[], object], repeats: int = 5) -> float:
    """Return the median time of a call."""
    action()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        action()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def fastest(action: Callable[[], object], repeats: int) -> float:
    """Return the shortest time of a call."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        action()
        times.append(time.perf_counter() - begin)
    return min(times)


def problem(fan_in: int, widths: list[int], inputs: int) -> tuple[torch.nn.Module, bb.Posterior, torch.Tensor]:
    """Return a network, its posterior, and inputs."""
    torch.manual_seed(0)
    model = bb.nn.mlp(fan_in, widths, 10).eval()
    optimizer = bb.BayesBiNN(bb.split_parameters(model)[0], ess=1, seed=0)
    return model, optimizer.posterior(), torch.randn(inputs, fan_in)


def measure(widths: list[int], inputs: int, samples: int) -> list[float]:
    """Ratios for one network and one number of inputs."""
    model, posterior, x = problem(784, widths, inputs)
    with torch.no_grad():
        forward = samples * seconds(lambda: model(x))
    draw = seconds(lambda: [bool(posterior.sample_at(index)) for index in range(samples)], 3)
    ways, chosen = [], (draws._TOGETHER, draws._SMALL)
    for together, small in ((1, 0), (32, 10**12), chosen):
        draws._TOGETHER, draws._SMALL = together, small
        ways.append(seconds(lambda: bb.predict(model, x, posterior, samples=samples), 3) / forward)
    with torch.autocast("cpu", torch.bfloat16):
        ways.append(seconds(lambda: bb.predict(model, x, posterior, samples=samples), 3) / forward)
    native = seconds(lambda: bb.predict(model, x, posterior, samples=samples, backend="native"), 3)
    packed = bb.packed.load(bb.pack(model, x, posterior, samples), "native", threads=torch.get_num_threads())
    given = x.numpy()
    return [*ways, native / forward, draw / forward, seconds(lambda: packed.predict(given), 3) / forward]


def measure_kept(fan_in: int, widths: list[int], samples: int) -> list[float]:
    """Ratios for one input of a small network, whose networks are drawn once."""
    model, posterior, x = problem(fan_in, widths, 1)
    kept, native = (bb.Ensemble(model, posterior, samples, backend=backend) for backend in (None, "native"))
    packed = bb.packed.load(bb.pack(model, x, posterior, samples), "native", threads=torch.get_num_threads())
    given = x.numpy()
    ways: list[Callable[[], object]] = [
        lambda: bb.predict(model, x, posterior, samples),
        lambda: kept.predict(x),
        lambda: native.predict(x),
        lambda: native.predict(x).probs,
        lambda: packed.outputs(given),
    ]
    # The fastest of many calls is what the machine can do, whatever else runs on it.
    with torch.no_grad():
        forward = fastest(lambda: model(x), 2000)
        return [fastest(way, repeats) / forward for way, repeats in zip(ways, (10, 100, 500, 500, 500), strict=True)]


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--samples", type=int, default=32, help="number of networks")
    parser.add_argument("--small", action="store_true", help="print the second table alone")
    o = parser.parse_args()
    torch.set_num_threads(o.threads)
    print(f"torch {torch.__version__}, {o.threads} threads, {o.samples} networks\n")
    if not o.small:
        print("| hidden layers | inputs | alone | together | predict | bf16 | native | draw | packed |")
        print("| --- |" + " ---: |" * 8)
    for widths, inputs in [] if o.small else CASES:
        ratios = measure(widths, inputs, o.samples)
        print(f"| {' x '.join(map(str, widths))} | {inputs} | " + " | ".join(f"{r:.2f}" for r in ratios) + " |")
    print("\nOne input, over one forward pass of one network:\n")
    print("| network | predict | ensemble | native | probs | packed |")
    print("| --- |" + " ---: |" * 5)
    for fan_in, widths in SMALL:
        ratios = measure_kept(fan_in, widths, o.samples)
        print(f"| {'-'.join(map(str, [fan_in, *widths, 10]))} | " + " | ".join(f"{r:.1f}" for r in ratios) + " |")


if __name__ == "__main__":
    main()
