"""What a step costs on a GPU, beside what the GPU can do, both measured in one run.

    python benchmarks/gpu.py [--precision bf16|fp32] [--batch 100] [--width 2048] [--repeats 30] [--only NAME]

Network: the MNIST MLP of the BayesBiNN paper (784, three hidden layers, 10). "passes" is forward and backward, "update"
`optimizer.step()` with `compile=True`, both in milliseconds; "matmul" is the share of the matrix-multiply ceiling that
the passes reach, "memory" the share of the bandwidth that the update reaches. The ceiling is that of one large matrix
multiplication in the same precision, the bandwidth that of one large copy, bytes read and written both counted. The
update's bytes are its least: belief read and written, gradient read twice (once for whether it is finite), weights
written. `--device cpu` runs the same code where there is no GPU; its numbers say nothing about one.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import step
import torch
from torch import Tensor

import bitbayes as bb


def milliseconds(action: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median time of a call, from a device with nothing to do until it has nothing to do again."""

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
    """Operations a second of the product of two square matrices of random values."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * size**3 / milliseconds(lambda: torch.mm(a, b, out=out), device, repeats) * 1e3


def bandwidth(size: int, device: torch.device, repeats: int) -> float:
    """Bytes a second of a copy of `size` bytes, read and written."""
    source = torch.empty(size, dtype=torch.uint8, device=device).fill_(1)
    target = torch.empty_like(source)
    return 2 * size / milliseconds(lambda: target.copy_(source), device, repeats) * 1e3


def network(
    width: int, batch: int, dtype: torch.dtype, device: torch.device
) -> tuple[list[tuple[str, torch.nn.Parameter]], Callable[[], object]]:
    """Binary parameters, and a forward and backward pass that leaves their gradients."""
    torch.manual_seed(0)
    model = bb.nn.mlp(784, [width] * 3, 10).to(device=device, dtype=dtype)
    x = torch.randn(batch, 784, device=device, dtype=dtype)
    y = torch.randint(10, (batch,), device=device)

    def passes() -> None:
        model.zero_grad()
        torch.nn.functional.cross_entropy(model(x).float(), y).backward()

    passes()
    return bb.split_parameters(model)[0], passes


def operations(parameters: list[tuple[str, torch.nn.Parameter]], batch: int) -> int:
    """Of the passes: a multiplication and an addition a weight and input, in forward and in two products back."""
    forward = 2 * batch * sum(p.numel() for _, p in parameters)
    first = 2 * batch * parameters[0][1].numel()  # no gradient of the images
    return 3 * forward - first


def moved(optimizer: bb.BinaryOptimizer) -> int:
    """The least bytes of an update."""

    def size(tensor: Tensor) -> int:
        return tensor.numel() * tensor.element_size()

    total = 0
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            belief = optimizer.state[parameter]["belief"].values()
            total += 2 * sum(map(size, belief)) + 3 * size(parameter)
    return total


def measure(
    name: str, width: int, batch: int, dtype: torch.dtype, device: torch.device, repeats: int
) -> tuple[float, float, float, float]:
    """Milliseconds of the passes and of the update; operations and bytes a second."""
    parameters, passes = network(width, batch, dtype, device)
    if name == "float, Adam":
        adam = torch.optim.Adam([p for _, p in parameters], fused=True)
        update, least = adam.step, 7 * sum(p.numel() * p.element_size() for _, p in parameters)
    else:
        rule = step.RULES[name](parameters, compile=True)
        update, least = rule.step, moved(rule)
    there = milliseconds(passes, device, repeats)
    then = milliseconds(update, device, repeats)
    return there, then, operations(parameters, batch) / there * 1e3, least / then * 1e3


def main(arguments: list[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--matmul", type=int, default=8192, help="rows of the large matrices")
    parser.add_argument("--copy", type=float, default=4e9, help="bytes of the large copy")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    o = parser.parse_args(arguments)
    device = torch.device(o.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("not measured: torch sees no GPU here; --device cpu runs the same code without one")
    dtype = torch.bfloat16 if o.precision == "bf16" else torch.float32
    most, fastest = ceiling(o.matmul, dtype, device, 10), bandwidth(int(o.copy), device, 10)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "processor"
    print(f"{where}, torch {torch.__version__}, {o.precision}, batch {o.batch}, width {o.width}")
    print(f"ceiling {most / 1e12:.3g} TFLOP/s, bandwidth {fastest / 1e12:.3g} TB/s")
    print(f"{'rule':38}{'passes, ms':>12}{'update, ms':>12}{'matmul':>9}{'memory':>9}")
    for name in ["float, Adam", *step.RULES]:
        if o.only in name:
            there, then, rate, speed = measure(name, o.width, o.batch, dtype, device, o.repeats)
            print(f"{name:38}{there:12.3f}{then:12.3f}{rate / most:9.1%}{speed / fastest:9.1%}", flush=True)


if __name__ == "__main__":
    main()
