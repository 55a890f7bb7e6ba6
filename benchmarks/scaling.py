"""Measure how the cost of an update grows with the number of weights, as ratios within one run.

    python benchmarks/scaling.py [--threads 2] [--repeats 15] [--most 1e8] [--only NAME] [--clock wall|cpu]

- The first table has one tensor of 10^4 to 10^8 weights. "over Adam" is the time of the update with the next draw,
  `compile=True`, over that of fused Adam's step on a tensor of the same size. "per weight" is the time per weight over
  that at 10^6 weights, so 1 everywhere means linear growth.
- The second table has VISPA against its number K of directions, and the bytes that it must move.
- The third table has the update by a kernel over the eager update of four tensors, from 100 weights on. The default of
  `compile` was chosen by it.

Every size is timed turn by turn with Adam; the ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import step
import torch

import bitbayes as bb
from bitbayes import kernels

REFERENCE = 1_000_000
FORMS = 100, 1_000, 10_000, 100_000, 1_000_000


def tensor(count: int) -> torch.nn.Parameter:
    """Return a parameter with a gradient."""
    parameter = torch.nn.Parameter(torch.zeros(count))
    parameter.grad = torch.full((count,), 1e-3)
    return parameter


def in_turns(one: torch.optim.Optimizer, other: torch.optim.Optimizer, steps: int, repeats: int) -> tuple[float, float]:
    """Return the median seconds of a step of two optimizers, with several steps per turn."""
    for _ in range(3):
        one.step()
        other.step()

    def turn(action: Callable[[], object]) -> float:
        return step.seconds(lambda: [action() for _ in range(steps)]) / steps

    pairs = [(turn(one.step), turn(other.step)) for _ in range(repeats)]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def times(rule: Callable[..., bb.BinaryOptimizer], count: int, repeats: int) -> tuple[float, float]:
    """Return the median seconds of the rule's update and of Adam's on one tensor."""
    adam = torch.optim.Adam([tensor(count)], fused=True)
    # Small tensors take microseconds: several steps a turn.
    return in_turns(rule([tensor(count)], compile=True), adam, max(1, REFERENCE // count), repeats)


def by_size(name: str, most: int, repeats: int) -> None:
    """Print one rule's rows."""
    counts = [10**power for power in range(4, 9) if 10**power <= most]
    found = {count: times(step.RULES[name], count, repeats) for count in counts}
    unit, adam_unit = (value / REFERENCE for value in found[REFERENCE])
    for count, (ours, adam) in found.items():
        print(f"{name:38}{count:>12,}{ours / adam:11.2f}{ours / count / unit:12.2f}{adam / count / adam_unit:18.2f}")


def by_rank(count: int, repeats: int) -> None:
    """Print VISPA's rows."""
    for rank in (0, 1, 2, 4, 8, 16):
        ours, adam = times(lambda p, k=rank, **o: bb.VISPA(p, rank=k, **o), count, repeats)
        # Latent and momentum are read and written, the gradient read, the weights written; Adam moves 28 bytes.
        floor = (16 * (rank + 1) + 12) / 28
        print(f"{rank:>4}{ours / adam:11.2f}{floor:16.2f}")


def by_form(name: str, repeats: int) -> None:
    """Print one rule's row of the kernel over the eager form."""
    rule, found = step.RULES[name], []
    for count in FORMS:
        kernel, eager = (rule([tensor(count // 4) for _ in range(4)], compile=form) for form in ("kernels", False))
        if kernel.implementation != "kernel":
            return
        ours, plain = in_turns(kernel, eager, max(1, 20_000 // count), repeats)
        found.append(f"{ours / plain:12.2f}")
    print(f"{name:38}{''.join(found)}")


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--repeats", type=int, default=15, help="timed repetitions")
    parser.add_argument("--most", type=float, default=1e8, help="largest number of weights, at least 1e6")
    parser.add_argument("--only", default="", help="measure only the rules whose name contains this text")
    parser.add_argument("--clock", choices=step.CLOCKS, default="wall", help="wall-clock or CPU time")
    options = parser.parse_args()
    if options.most < REFERENCE:
        parser.error(f"--most must be at least {REFERENCE:,}, the size that others are compared with")
    step.settle(options)
    print(f"kernels: {kernels.status()}")
    print(f"{'rule':38}{'weights':>12}{'over Adam':>11}{'per weight':>12}{'Adam, per weight':>18}", flush=True)
    for name in step.RULES:
        if options.only in name:
            by_size(name, int(options.most), options.repeats)
    print(f"\n{'K':>4}{'over Adam':>11}{'bytes over':>16}  VISPA, ten million weights")
    by_rank(min(10_000_000, int(options.most)), options.repeats)
    print(f"\n{'kernel over eager, weights:':38}{''.join(f'{count:12,}' for count in FORMS)}")
    for name in step.RULES:
        if options.only in name:
            by_form(name, options.repeats)


if __name__ == "__main__":
    main()
