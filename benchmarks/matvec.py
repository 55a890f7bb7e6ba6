"""Measure how near a product of binary weights and one float input comes to the time of reading its weights.

    python benchmarks/matvec.py [--turns 7]

The weights of many layers lie in memory one after the other, as in a network whose layers run in turn, so that no cache
holds them. The floor is the time of a loop in C that only reads the same bytes (`read_limit.c`, compiled by cc). Both
take one thread, and are timed turn by turn by the processor time of this process. The figures are shares: 1.00 is a
product in the time of the reading. The call from Python is part of the product, and weighs on small layers.
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

import numpy as np

from bitbayes.packed.backends.native.products import NumberProduct, library
from bitbayes.table import Table

SHAPES = ((768, 768), (3072, 768), (2048, 2048), (4096, 4096), (8192, 8192), (4096, 11008))
Reader = Callable[[int, int], int]


def reader(folder: Path) -> Reader:
    """Return the function that reads so many bytes from an address."""
    source, made = Path(__file__).with_name("read_limit.c"), folder / "read.so"
    command = ["cc", "-O3", "-march=native", "-shared", "-fPIC", str(source), "-o", str(made)]
    subprocess.run(command, check=True, timeout=60)
    read = ctypes.CDLL(str(made)).read_all
    read.restype, read.argtypes = ctypes.c_uint64, [ctypes.c_void_p, ctypes.c_int64]
    return read


def share(read: Reader, outputs: int, inputs: int, layers: int, turns: int) -> float:
    """Return the time of reading the weights of all layers, divided by that of their products with one input."""
    rng = np.random.default_rng(0)
    bits = (rng.integers(0, 256, (1, outputs, inputs // 8), dtype=np.uint8) for _ in range(layers))
    products = [NumberProduct(rows, inputs) for rows in bits]
    x = rng.standard_normal((1, 1, inputs)).astype(np.float32)
    shares = []
    for _ in range(turns):
        times = [time.process_time()]
        for product in products:
            product(x)
        times.append(time.process_time())
        for product in products:
            read(product.weights.ctypes.data, product.weights.nbytes)
        times.append(time.process_time())
        shares.append((times[2] - times[1]) / (times[1] - times[0]))
    return statistics.median(shares)


def main(arguments: list[str] | None = None) -> None:
    """Print a share for each size of a layer."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--turns", type=int, default=7, help="measurements, of which the median counts")
    parser.add_argument("--megabytes", type=int, default=256, help="weights in memory, more than a cache holds")
    options = parser.parse_args(arguments)
    path, rows = library("inference").bitbayes_path().decode(), list[list[str]]()
    with tempfile.TemporaryDirectory() as folder:
        read = reader(Path(folder))
        for outputs, inputs in SHAPES:
            layers = max(1, (options.megabytes << 23) // (outputs * inputs))
            rows.append([f"{outputs} x {inputs}", f"{share(read, outputs, inputs, layers, options.turns):.2f}"])
    print(Table(f"binary weights and one float input, {path}", ["outputs x inputs", "share of the floor"], rows).text())


if __name__ == "__main__":
    main()
