"""Measure what one training step costs, as ratios within one run.

    python benchmarks/step.py [--threads 2] [--repeats 15] [--batch 100] [--only NAME] [--clock wall|cpu]
                              [--precision fp32|bf16] [--adam fp32|bf16]

The network is the MNIST MLP of the BayesBiNN paper, with 10.0 million binary weights. The columns are:

- "update": time of `optimizer.step()`, the update of the belief with the next draw, over that of fused Adam's step on
  the same tensors.
- "step": time of forward, backward and update over that of the same network with fused Adam.
- "memory": peak memory of the process over that of STE with Adam.

Every rule is timed turn by turn with Adam, so that a noisy neighbour disturbs both; the ratio is that of the medians.
"compiled" is `compile=True`, which is the default at this size: the kernels of `bitbayes.kernels` where they have the
rule, else torch.compile. The last rows are float networks: plain SGD (fused), and IVON from its authors' package
`ivon-opt`, whose update is its `step()` with the next sample of the weights. On a machine that others load too,
`--threads 1 --clock cpu` counts the processor time of this thread alone.

`--precision bf16` computes in bfloat16 (autocast), and holds the binary weights of rules whose draws are ±1 in
bfloat16, as the trainer does. `--adam bf16` gives the network with fused Adam autocast too.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

import bitbayes as bb
from bitbayes import kernels

ESS = 54_000
RULES: dict[str, Callable[..., bb.BinaryOptimizer]] = {
    "BayesBiNN straight-through": lambda p, **k: bb.BayesBiNN(p, ess=ESS, **k),
    "BayesBiNN straight-through, momentum": lambda p, **k: bb.BayesBiNN(p, ess=ESS, momentum=0.9, **k),
    "BayesBiNN concrete": lambda p, **k: bb.BayesBiNN(p, ess=ESS, estimator="concrete", **k),
    "BayesBiNN released, tau 1e-10": lambda p, **k: bb.BayesBiNN(p, ess=ESS, estimator="released", **k),
    "STE Adam": lambda p, **k: bb.STE(p, **k),
    "STE SGD": lambda p, **k: bb.STE(p, inner="sgd", **k),
    "Bop": lambda p, **k: bb.Bop(p, **k),
    "Bop2ndOrder": lambda p, **k: bb.Bop2ndOrder(p, **k),
    "PMF": lambda p, **k: bb.PMF(p, **k),
    "MirrorDescent": lambda p, **k: bb.MirrorDescent(p, **k),
    "ProxQuant": lambda p, **k: bb.ProxQuant(p, **k),
    "AdaSTE": lambda p, **k: bb.AdaSTE(p, ess=ESS, **k),
    "VISPA, K = 4": lambda p, **k: bb.VISPA(p, rank=4, **k),
}


CLOCKS = {"wall": time.perf_counter, "cpu": time.thread_time}
clock = "wall"


def seconds(action: Callable[[], object]) -> float:
    """Return the time of one call."""
    begin = CLOCKS[clock]()
    action()
    return CLOCKS[clock]() - begin


def settle(options: argparse.Namespace) -> None:
    """Set the threads and the clock of this process."""
    global clock
    clock = options.clock
    if clock == "cpu" and options.threads != 1:
        raise SystemExit("--clock cpu sees one thread only; add --threads 1")
    torch.set_num_threads(options.threads)


def ratio(action: Callable[[], object], reference: Callable[[], object], repeats: int) -> float:
    """Return the median time of one action over that of another, taken turn by turn."""
    for _ in range(3):
        action()
        reference()
    times = [(seconds(action), seconds(reference)) for _ in range(repeats)]
    return statistics.median(t for t, _ in times) / statistics.median(t for _, t in times)


def network(batch: int, precision: str = "fp32") -> tuple[torch.nn.Module, list, Callable[[], object]]:
    """Return the MLP, its binary parameters, and a forward and backward pass that leaves gradients."""
    torch.manual_seed(0)
    model = bb.nn.mnist_mlp()
    binary, _ = bb.split_parameters(model)
    x, y = torch.randn(batch, 784), torch.randint(10, (batch,))

    def passes() -> None:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()

    passes()
    return model, binary, passes


def ruled(name: str, batch: int, precision: str, **options: bool) -> tuple[bb.BinaryOptimizer, Callable[[], object]]:
    """Return a rule on the MLP, and its forward and backward pass."""
    _, binary, passes = network(batch, precision)
    rule = RULES[name](binary, **options)
    if precision == "bf16" and rule.hard(rule.param_groups[0]):
        for _, parameter in binary:
            parameter.grad, parameter.data = None, parameter.data.bfloat16()
    passes()
    return rule, passes


def sgd(parameters: list[torch.Tensor]) -> tuple[torch.optim.Optimizer, Callable[[], AbstractContextManager]]:
    """Return an optimizer, and the context in which a forward and backward pass runs."""
    return torch.optim.SGD(parameters, lr=1e-3, fused=True), nullcontext


def ivon(parameters: list[torch.Tensor]) -> tuple[torch.optim.Optimizer, Callable[[], AbstractContextManager]]:
    """Return the same for IVON; raise ImportError without its package."""
    from ivon import IVON  # pyright: ignore[reportMissingImports]

    optimizer: Any = IVON(parameters, lr=0.1, ess=ESS)
    return optimizer, lambda: optimizer.sampled_params(train=True)


FLOAT = {"float, SGD": sgd, "float, IVON": ivon}


def measure_float(name: str, repeats: int, batch: int) -> tuple[float, float]:
    """As `measure`, for a float network."""
    _, theirs, adam_passes = network(batch)
    adam = torch.optim.Adam([p for _, p in theirs], fused=True)
    _, ours, passes = network(batch)
    optimizer, sample = FLOAT[name]([p for _, p in ours])

    def step(passes: Callable[[], object]) -> None:
        with sample():
            passes()
        optimizer.step()

    update = ratio(lambda: step(lambda: None), adam.step, repeats)
    whole = ratio(lambda: step(passes), lambda: (adam_passes(), adam.step()), max(repeats // 3, 3))
    return update, whole


def measure(name: str, compile: bool, options: argparse.Namespace) -> tuple[float, float]:
    """Return the ratios of the update and of the whole step."""
    _, theirs, adam_passes = network(options.batch, options.adam)
    adam = torch.optim.Adam([p for _, p in theirs], fused=True)
    rule, passes = ruled(name, options.batch, options.precision, compile=compile)
    update = ratio(rule.step, adam.step, options.repeats)
    step = ratio(lambda: (passes(), rule.step()), lambda: (adam_passes(), adam.step()), max(options.repeats // 3, 3))
    return update, step


def peak(name: str, precision: str = "fp32") -> float:
    """Return the peak resident memory, in MiB, of a process that takes three steps."""
    code = f"import step, json; print(json.dumps(step.three_steps({name!r}, {precision!r})))"
    here = Path(__file__).parent
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=here)
    return json.loads(result.stdout)


def three_steps(name: str, precision: str) -> float:
    """Run three training steps here, and return this process's peak memory in MiB."""
    if name in FLOAT:
        _, binary, passes = network(100)
        optimizer, sample = FLOAT[name]([p for _, p in binary])
    else:
        (optimizer, passes), sample = ruled(name, 100, precision), nullcontext
    for _ in range(3):
        with sample():
            passes()
        optimizer.step()
    status = Path("/proc/self/status")
    if status.exists():  # getrusage's peak would include that of the process that started this one
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--repeats", type=int, default=15, help="timed repetitions")
    parser.add_argument("--batch", type=int, default=100, help="inputs per batch")
    parser.add_argument("--only", default="", help="measure only the rules whose name contains this text")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="wall-clock or CPU time")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="precision of every rule")
    parser.add_argument("--adam", choices=("fp32", "bf16"), default="fp32", help="precision of fused Adam")
    options = parser.parse_args()
    settle(options)
    print(f"kernels: {kernels.status()}")
    memory = peak("STE Adam", options.precision)
    print(f"{'rule':38}{'update':>8}{'step':>8}{'update, compiled':>18}{'step, compiled':>16}{'memory':>8}")
    for name in RULES:
        if options.only in name:
            eager, fused = (measure(name, compile, options) for compile in (False, True))
            used = peak(name, options.precision) / memory
            print(f"{name:38}{eager[0]:8.2f}{eager[1]:8.2f}{fused[0]:18.2f}{fused[1]:16.2f}{used:8.2f}", flush=True)
    for name in FLOAT:
        if options.only in name:
            try:
                update, step = measure_float(name, options.repeats, options.batch)
            except ImportError as error:
                print(f"{name:38}  not measured: {error}; pip install ivon-opt")
            else:
                print(f"{name:38}{update:8.2f}{step:8.2f}{'-':>18}{'-':>16}{peak(name) / memory:8.2f}", flush=True)


if __name__ == "__main__":
    main()
