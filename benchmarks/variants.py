"""What the libraries of a wheel cost beside libraries that are compiled for this processor alone.

    python benchmarks/variants.py [--repeats 21] [--only NAME] [--flags="-mprefer-vector-width=256"]

Every variant of a wheel that this processor can run is compiled here. Its time is divided by that of the library that
`-march=native` makes, which a source tree uses. Both run turn by turn on one thread. The clock is the processor time of
that thread, so that other processes disturb little. "same" says whether every bit of the results is equal.
`--flags` adds options to those of the variants.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import Parameter

import bitbayes as bb
from bitbayes.kernels import build, run, threads, variants
from bitbayes.packed.backends.native import products
from bitbayes.packed.convert.draft import split_scale
from bitbayes.packed.format.bits import pack_signs

NATIVE = "-march=native"
Action = Callable[[], Any]


def compiled(name: str, flags: tuple[str, ...], folder: Path) -> ctypes.CDLL:
    """A file of kernels, compiled with some options."""
    made = folder / f"{name}{len(list(folder.iterdir()))}.so"
    source = Path(build.__file__).with_name(f"{name}.c")
    subprocess.run(variants.command(variants.compiler(), list(flags), source, made), check=True)
    library = ctypes.CDLL(str(made))
    threads.connect(library)
    return library


usual = build.library


def use(name: str, library: ctypes.CDLL) -> None:
    """Let the package call this library from now on where it asks for a file of that name."""
    build.library = lambda asked="kernels": library if asked == name else usual(asked)
    for cached in (run._address, run._driver, run._checker, products.library):
        cached.cache_clear()


def update(count: int, make: Callable[..., bb.BinaryOptimizer]) -> Callable[[], Action]:
    """Steps of an optimizer; all that it makes take the same steps."""

    def prepare() -> Action:
        weights = Parameter(torch.empty(count))
        optimizer = make([weights], seed=0, compile="kernels")
        weights.grad = torch.randn(count, generator=torch.Generator().manual_seed(0)) * 0.1

        def action() -> list[torch.Tensor]:
            optimizer.step()
            return [weights.detach(), *optimizer.state[weights]["belief"].values()]

        return action

    return prepare


def signs() -> Action:
    """Signs with signs: a convolution of 512 channels, as a product."""
    rng = np.random.default_rng(0)
    product = products.SignProduct(pack_signs(np.where(rng.random((1, 512, 4608)) < 0.5, -1, 1)), 4608)
    x = products.pack_places(rng.random((1, 64, 4608)) < 0.5)
    return lambda: product(x)


def numbers() -> Action:
    """Signs with numbers, for one input."""
    rng = np.random.default_rng(0)
    product = products.NumberProduct(pack_signs(np.where(rng.random((1, 2048, 2048)) < 0.5, -1, 1)), 2048)
    x = rng.normal(size=(1, 1, 2048)).astype(np.float32)
    return lambda: product(x)


def real() -> Action:
    """Numbers with numbers: the first convolution of a network for images."""
    rng = np.random.default_rng(0)
    product = products.RealProduct(rng.normal(size=(1, 64, 3, 3, 3)).astype(np.float32), {})
    x = rng.normal(size=(1, 4096, 27)).astype(np.float32)
    return lambda: product(x)


def finite() -> Action:
    """The read of the gradients."""
    gradients = [torch.randn(1_000_000)]
    return lambda: run.finite(gradients)


def packing() -> Action:
    """Weights of ±1 as bits."""
    weight = np.where(np.random.default_rng(0).random((1024, 1024)) < 0.5, np.float32(-1), np.float32(1))
    return lambda: split_scale(weight)


# File of kernels, and what prepares a call of it. A million weights lie in the cache, so computing counts.
CASES: dict[str, tuple[str, Callable[[], Action]]] = {
    "BayesBiNN": ("kernels", update(1_000_000, lambda p, **k: bb.BayesBiNN(p, lr=0.1, ess=100, **k))),
    "BayesBiNN, momentum": (
        "kernels",
        update(1_000_000, lambda p, **k: bb.BayesBiNN(p, lr=0.1, ess=100, momentum=0.9, **k)),
    ),
    "BayesBiNN, ten million": ("kernels", update(10_000_000, lambda p, **k: bb.BayesBiNN(p, lr=0.1, ess=100, **k))),
    "STE, Adam": ("kernels", update(1_000_000, lambda p, **k: bb.STE(p, lr=0.05, **k))),
    "STE, SGD": ("kernels", update(1_000_000, lambda p, **k: bb.STE(p, lr=0.05, inner="sgd", **k))),
    "Bop": ("kernels", update(1_000_000, lambda p, **k: bb.Bop(p, **k))),
    "VISPA, K = 4": ("kernels", update(1_000_000, lambda p, **k: bb.VISPA(p, rank=4, **k))),
    "finite gradients": ("finite", finite),
    "packing": ("signs", packing),
    "signs with signs": ("inference", signs),
    "signs with numbers": ("inference", numbers),
    "numbers with numbers": ("real", real),
}


def equal(mine: Any, theirs: Any) -> bool:
    """Whether results are the same bits."""
    if isinstance(mine, list | tuple):
        return all(map(equal, mine, theirs))
    if isinstance(mine, torch.Tensor):
        mine, theirs = mine.numpy(), theirs.numpy()
    return np.asarray(mine).tobytes() == np.asarray(theirs).tobytes()


def measure(name: str, prepare: Callable[[], Action], pair: list[ctypes.CDLL], repeats: int) -> tuple[float, bool]:
    """Median of the ratios of the first library's time over the second's, and whether results are the same."""
    actions, same, ratios = [], True, []
    for library in pair:
        use(name, library)
        actions.append(prepare())
    for turn in range(repeats + 3):
        taken, results = [0.0, 0.0], [None, None]
        for which in (turn % 2, 1 - turn % 2):  # the first of a turn finds cold caches
            use(name, pair[which])
            begin = time.thread_time()
            results[which] = actions[which]()
            taken[which] = time.thread_time() - begin
        same &= equal(*results)
        if turn >= 3:
            ratios.append(taken[0] / taken[1])
    return statistics.median(ratios), same


def main(arguments: list[str] | None = None) -> None:
    """Print a line for each kernel and variant."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--only", default="", help="kernels whose name contains this")
    parser.add_argument("--flags", default="", help="more options for the variants")
    o = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print(f"{'kernel':24}{'variant':22}{'time':>6}  same")
    with tempfile.TemporaryDirectory() as room:
        for case, (name, prepare) in CASES.items():
            if o.only not in case:
                continue
            native = compiled(name, (NATIVE,), Path(room))
            for variant in variants.fitting(name):
                library = compiled(name, (*variant.flags, *o.flags.split()), Path(room))
                ratio, same = measure(name, prepare, [library, native], o.repeats)
                print(f"{case:24}{variant.name:22}{ratio:6.2f}  {'yes' if same else 'no'}", flush=True)


if __name__ == "__main__":
    main()
