"""Measure how fast packed networks run, as ratios within one run.

    python benchmarks/inference.py [--turns 15] [--clock wall|cpu] [--amx]

It uses one thread, random weights and inputs, and medians. What is compared is timed turn by turn. On a machine that
others load too, `--clock cpu` counts the processor time of this process alone.

The targets are for a machine without AMX. Where a processor has AMX, OpenVINO and torch are told not to use it
(`ONEDNN_MAX_CPU_ISA`), unless `--amx` is given. torch runs the network itself, in the better of its two layouts of
images. "int8" is OpenVINO's, for the same layers with rectifiers in place of signs, and weights and inputs rounded by
FakeQuantize. The limit of popcount is measured too: xor, popcount and addition in registers alone
(`popcount_limit.c`, compiled by cc).
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def without_amx() -> None:
    """Limit oneDNN, before anything loads it."""
    processor = Path("/proc/cpuinfo")
    if "--amx" not in sys.argv and processor.exists() and "amx_tile" in processor.read_text():
        os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_VNNI")


def popcount_limit(folder: Path, clock: Callable[[], float]) -> float:
    """Return the products of signs per second, the best of ten turns."""
    source, made = Path(__file__).with_name("popcount_limit.c"), folder / "limit.so"
    command = ["cc", "-O3", "-march=native", "-shared", "-fPIC", str(source), "-o", str(made)]
    subprocess.run(command, check=True, timeout=60)
    limit = ctypes.CDLL(str(made)).limit
    limit.restype, limit.argtypes = ctypes.c_int64, [ctypes.c_int64]
    best = 0.0
    for _ in range(10):
        begin = clock()
        products = limit(200_000)
        best = max(best, products / (clock() - begin))
    return best


def lines(turns: int, clock: Callable[[], float], folder: Path) -> Iterator[tuple[str, float, str]]:
    """A measured figure and its target."""
    import numpy as np
    import torch
    import torch.nn.functional as F

    import bitbayes as bb
    from bitbayes.lab.bench.engines import engines, measure
    from bitbayes.packed.backends.native.products import SignProduct, pack_places
    from bitbayes.packed.format.bits import pack_signs

    rng = np.random.default_rng(0)

    def settled(model: torch.nn.Module, samples: int = 0) -> tuple[torch.nn.Module, bb.packed.PackedNetwork]:
        optimizer = bb.BayesBiNN(bb.split_parameters(model)[0], ess=1000, seed=0)
        optimizer.eval()
        example = torch.zeros(1, *shape)
        more = {"posterior": optimizer.posterior(), "samples": samples} if samples else {}
        return model.eval(), bb.pack(model.eval(), example, **more)

    def timed(model: torch.nn.Module, network: bb.packed.PackedNetwork, batch: int, *names: str) -> dict[str, float]:
        x = rng.normal(size=(batch, *shape)).astype(np.float32)
        calls, missing = engines(network, x, 1, names)
        for name, why in missing.items():
            print(f"{name}: {why}")
        plain = torch.from_numpy(x)
        calls["torch"] = lambda: model(plain)
        if len(shape) == 3:
            last, images = copy.deepcopy(model), plain.to(memory_format=torch.channels_last)
            last.to(memory_format=torch.channels_last)
            calls["torch, channels last"] = lambda: last(images)
        seconds = measure(calls, turns, clock)
        seconds["torch"] = min(value for name, value in seconds.items() if name.startswith("torch"))
        return seconds

    shape = (3, 32, 32)
    model, network = settled(bb.nn.vgg_small(10))
    for batch in (1, 32):
        found = timed(model, network, batch, "OpenVINO int8", "backend native", "backend openvino")
        for name in ("native", "openvino"):
            if f"backend {name}" in found:
                own, what = found[f"backend {name}"], f"W1A1 VGG-Small, batch {batch}, {name}"
                yield f"{what}, over torch float32", found["torch"] / own, "8"
                if "OpenVINO int8" in found:
                    yield f"{what}, over OpenVINO int8", found["OpenVINO int8"] / own, "1.0"

    def product(rows: int, inputs: int, outputs: int) -> tuple[float, float, float]:
        """Return the seconds of torch, of the kernel on bits, and of the kernel with packing."""
        weight, x = (np.where(rng.random(size) < 0.5, -1, 1) for size in ((1, outputs, inputs), (1, rows, inputs)))
        ours, words, numbers = SignProduct(pack_signs(weight), inputs), pack_places(x > 0), x.astype(np.float32)
        theirs, given = torch.tensor(weight[0]).float(), torch.tensor(numbers[0])
        assert np.array_equal(ours(words)[0], F.linear(given, theirs).numpy())
        calls = {
            "torch": lambda: F.linear(given, theirs),
            "bits": lambda: ours(words),
            "packed": lambda: ours(pack_places(numbers >= 0)),
        }
        return tuple(measure(calls, turns, clock).values())

    theirs, bits, packed = product(1, 2048, 2048)
    yield "W1A1 Linear 1×2048×2048, bits in, over torch float32", theirs / bits, "60"
    yield "W1A1 Linear 1×2048×2048, numbers in, over torch float32", theirs / packed, ""
    limit = popcount_limit(folder, clock)
    yield (
        "own kernel 64×4608×512, share of the popcount limit",
        64 * 4608 * 512 / product(64, 4608, 512)[1] / limit,
        "0.6",
    )
    yield "  the limit, 10¹² operations (two a product)", 2 * limit / 1e12, ""

    shape = (784,)
    model, network = settled(bb.nn.mnist_mlp())
    found = timed(model, network, 1, "OpenVINO int8", "backend native")
    yield "W1A32 MNIST MLP, batch 1, native, over torch float32", found["torch"] / found["backend native"], "4"
    if "OpenVINO int8" in found:
        yield "  OpenVINO int8 of it, over torch float32", found["torch"] / found["OpenVINO int8"], ""
    path = folder / "net.safetensors"
    network.save(path)
    loads = {name: lambda name=name: bb.packed.load(path, name) for name in ("reference", "torch", "native")}
    for name, seconds in measure(loads, turns, clock).items():
        yield f"MNIST MLP, load ({name}), milliseconds", 1e3 * seconds, "below 50"
    yield "MNIST MLP, file, megabytes", path.stat().st_size / 1e6, "at most 1.30"
    model, network = settled(bb.nn.mnist_mlp(), samples=32)
    found = timed(model, network, 1, "backend native")
    yield (
        "32 MNIST MLPs, batch 1, native: time in float32 forwards of one",
        found["backend native"] / found["torch"],
        "at most 3",
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--turns", type=int, default=15, help="timed turns")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="wall-clock or CPU time")
    parser.add_argument("--amx", action="store_true", help="let OpenVINO and torch use AMX where the processor has it")
    options = parser.parse_args()
    import torch

    from bitbayes.packed.backends.native.products import library

    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    print(f"kernels: {library('inference').bitbayes_path().decode()}; clock: {options.clock}")
    print(f"{'':66}{'measured':>9}  wanted")
    with tempfile.TemporaryDirectory() as folder:
        for what, value, wanted in lines(options.turns, CLOCKS[options.clock], Path(folder)):
            print(f"{what:66}{value:9.2f}  {wanted}", flush=True)


if __name__ == "__main__":
    without_amx()
    main()
