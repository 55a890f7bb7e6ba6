"""Measure what a training step costs on a GPU, beside what the GPU can do.

    python benchmarks/gpu.py [--precision bf16|fp32] [--batch 100] [--width 2048] [--repeats 30] [--only NAME]

The network is the MNIST MLP of the BayesBiNN paper (784, three hidden layers, 10). The columns are:

- "passes": milliseconds of forward and backward.
- "update": milliseconds of `optimizer.step()` with `compile=True`.
- "step": milliseconds of both.
- "captured": milliseconds of both as one CUDA graph, which is how `bitbayes train --capture` runs them.
- "matmul": share of the matrix-multiply ceiling that the passes reach. The ceiling is that of one large matrix
  multiplication in the same precision.
- "memory": share of the bandwidth that the update reaches. The bandwidth is that of one large copy, bytes read and
  written both counted. The update's bytes are the least that it needs: belief read and written, gradient read twice
  (once to see whether it is finite), weights written.

`--device cpu` runs the same code without a GPU, except for graphs. Its numbers say nothing about a GPU.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import step
import torch
from torch import Tensor

import bitbayes as bb
from bitbayes.lab.train.capture import GRAPHS, Captured


def milliseconds(action: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Return the median time of a call, from an idle device to an idle device."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    times = []
    for turn in range(3 + repeats):
        wait()
        begin = time.perf_counter()
        action()
        wait()
        if turn >= 3:
            times.append(1e3 * (time.perf_counter() - begin))
    return statistics.median(times)


def ceiling(size: int, dtype: torch.dtype, device: torch.device, repeats: int) -> float:
    """Return the operations per second of the product of two square matrices of random values."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * size**3 / milliseconds(lambda: torch.mm(a, b, out=out), device, repeats) * 1e3


def bandwidth(size: int, device: torch.device, repeats: int) -> float:
    """Return the bytes per second, read and written, of a copy of `size` bytes."""
    source = torch.empty(size, dtype=torch.uint8, device=device).fill_(1)
    target = torch.empty_like(source)
    return 2 * size / milliseconds(lambda: target.copy_(source), device, repeats) * 1e3


def network(
    width: int, batch: int, dtype: torch.dtype, device: torch.device
) -> tuple[list[tuple[str, torch.nn.Parameter]], tuple[Tensor, Tensor], Callable[[Tensor, Tensor], Tensor]]:
    """Return binary parameters, a batch, and a forward and backward pass that leaves their gradients."""
    torch.manual_seed(0)
    model = bb.nn.mlp(784, [width] * 3, 10).to(device=device, dtype=dtype)
    x = torch.randn(batch, 784, device=device, dtype=dtype)
    y = torch.randint(10, (batch,), device=device)

    def passes(x: Tensor, y: Tensor) -> Tensor:
        model.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x).float(), y)
        loss.backward()
        return loss.detach()

    passes(x, y)
    return bb.split_parameters(model)[0], (x, y), passes


def operations(parameters: list[tuple[str, torch.nn.Parameter]], batch: int) -> int:
    """Of the passes: a multiplication and an addition a weight and input, in forward and in two products back."""
    forward = 2 * batch * sum(p.numel() for _, p in parameters)
    first = 2 * batch * parameters[0][1].numel()  # no gradient of the images
    return 3 * forward - first


def moved(optimizer: bb.BinaryOptimizer) -> int:
    """Return the least bytes of an update."""

    def size(tensor: Tensor) -> int:
        return tensor.numel() * tensor.element_size()

    total = 0
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            belief = optimizer.state[parameter]["belief"].values()
            total += 2 * sum(map(size, belief)) + 3 * size(parameter)
    return total


def optimizer_of(
    name: str, parameters: list[tuple[str, torch.nn.Parameter]], capturable: bool
) -> torch.optim.Optimizer:
    """Return the optimizer of a rule, or Adam of a float network."""
    if name == "float, Adam":
        return torch.optim.Adam([p for _, p in parameters], fused=True, capturable=capturable)
    return step.RULES[name](parameters, compile=True, capturable=capturable)


def measure(
    name: str, width: int, batch: int, dtype: torch.dtype, device: torch.device, repeats: int
) -> tuple[float, float, float, float, float]:
    """Return milliseconds of the passes, of the update and of both, and operations and bytes per second."""
    parameters, examples, passes = network(width, batch, dtype, device)
    optimizer = optimizer_of(name, parameters, capturable=False)
    if isinstance(optimizer, bb.BinaryOptimizer):
        least = moved(optimizer)
    else:
        least = 7 * sum(p.numel() * p.element_size() for _, p in parameters)
    there = milliseconds(lambda: passes(*examples), device, repeats)
    then = milliseconds(optimizer.step, device, repeats)
    both = milliseconds(lambda: (passes(*examples), optimizer.step()), device, repeats)
    return there, then, both, operations(parameters, batch) / there * 1e3, least / then * 1e3


def captured(name: str, width: int, batch: int, dtype: torch.dtype, device: torch.device, repeats: int) -> float | None:
    """Return the milliseconds of a captured step, or None where nothing can record one."""
    if device.type not in GRAPHS:
        return None
    parameters, examples, passes = network(width, batch, dtype, device)
    optimizer = optimizer_of(name, parameters, capturable=True)

    def whole(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        loss = passes(x, y)
        optimizer.step()
        return loss, loss

    repeated = Captured(whole, [optimizer], GRAPHS[device.type](), device)
    for _ in range(5):  # to warm up, and to record
        repeated(*examples)
    return milliseconds(lambda: repeated(*examples), device, repeats)


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda", help="device to measure")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16", help="precision of the passes")
    parser.add_argument("--batch", type=int, default=100, help="inputs per batch")
    parser.add_argument("--width", type=int, default=2048, help="units of each hidden layer")
    parser.add_argument("--repeats", type=int, default=30, help="timed repetitions")
    parser.add_argument("--matmul", type=int, default=8192, help="rows of the large matrices")
    parser.add_argument("--copy", type=float, default=4e9, help="bytes of the large copy")
    parser.add_argument("--only", default="", help="measure only the rows whose name contains this text")
    return parser.parse_args(arguments)


def opened(name: str) -> torch.device:
    """Return a device; end the program if it is a GPU and there is none."""
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("not measured: torch sees no GPU here; --device cpu runs the same code without one")
    return device


def table(o: argparse.Namespace, keep: Callable[[dict[str, Any]], object] = lambda found: None) -> dict[str, Any]:
    """Print the table, and return its numbers: milliseconds, and shares of the ceiling and of the bandwidth.

    Args:
        o: Command line, from `parsed`.
        keep: Function that gets the numbers so far after each row.
    """
    device = opened(o.device)
    dtype = torch.bfloat16 if o.precision == "bf16" else torch.float32
    most, fastest = ceiling(o.matmul, dtype, device, 10), bandwidth(int(o.copy), device, 10)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "processor"
    print(f"{where}, torch {torch.__version__}, {o.precision}, batch {o.batch}, width {o.width}")
    print(f"ceiling {most / 1e12:.3g} TFLOP/s, bandwidth {fastest / 1e12:.3g} TB/s")
    heads = ["passes, ms", "update, ms", "step, ms", "captured, ms", "matmul", "memory"]
    print(f"{'rule':38}" + "".join(f"{head:>14}" for head in heads))
    found: dict[str, Any] = {"matmul TFLOP/s": most / 1e12, "copy TB/s": fastest / 1e12, "rows": {}}
    for name in ["float, Adam", *step.RULES]:
        if o.only in name:
            what = name, o.width, o.batch, dtype, device, o.repeats
            there, then, both, rate, speed = measure(*what)
            times = [there, then, both, captured(*what)]
            found["rows"][name] = dict(zip(heads, (*times, rate / most, speed / fastest), strict=True))
            cells = ["-" if each is None else f"{each:.3f}" for each in times]
            cells += [f"{rate / most:.1%}", f"{speed / fastest:.1%}"]
            print(f"{name:38}" + "".join(f"{cell:>14}" for cell in cells), flush=True)
            keep(found)
    return found


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    table(parsed(arguments))


if __name__ == "__main__":
    main()
