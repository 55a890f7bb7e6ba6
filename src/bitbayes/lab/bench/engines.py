"""Timing of packed networks on every backend, and of the same networks with float weights in torch and OpenVINO."""

from __future__ import annotations

import statistics
import time
import timeit
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from bitbayes.lab.bench.rivals import openvino_rival, torch_bfloat16, without_bits
from bitbayes.packed import PackedNetwork, load
from bitbayes.packed.backends.runtime import random_inputs
from bitbayes.packed.format.bits import Array
from bitbayes.table import Table

Call = Callable[[], Any]
_TURN, _LONG = 3e-3, 0.5  # seconds per turn, and of a call that is too long to repeat


class Timing(NamedTuple):
    """Time that an engine takes for a batch."""

    engine: str
    batch: int
    threads: int
    seconds: float | None  # None if it could not run
    why: str = ""


def _torch(network: PackedNetwork, x: Array, threads: int) -> Call:
    import torch

    runtime, images = load(without_bits(network), "torch"), torch.from_numpy(x)
    return lambda: runtime.outputs(images)


def _backend(name: str, **options: Any) -> Callable[[PackedNetwork, Array, int], Call]:
    def build(network: PackedNetwork, x: Array, threads: int) -> Call:
        runtime = load(network, name, **({"threads": threads} if options else {}))
        return lambda: runtime.outputs(x)

    return build


# First engines that run one of the C networks with float weights, then backends that run all C networks.
ENGINES: Mapping[str, Callable[[PackedNetwork, Array, int], Call]] = {
    "torch float32": _torch,
    "torch bfloat16": lambda network, x, threads: torch_bfloat16(network, x),
    "OpenVINO float32": lambda network, x, threads: openvino_rival(network, x, threads, "f32"),
    "OpenVINO bfloat16": lambda network, x, threads: openvino_rival(network, x, threads, "bf16"),
    "OpenVINO int8": lambda network, x, threads: openvino_rival(network, x, threads, "int8"),
    "backend torch": _backend("torch"),
    "backend native": _backend("native", threads=True),
    "backend openvino": _backend("openvino", threads=True),
    "backend reference": _backend("reference"),
}


def engines(
    network: PackedNetwork, x: Array, threads: int, names: tuple[str, ...] = tuple(ENGINES)
) -> tuple[dict[str, Call], dict[str, str]]:
    """Return calls that run inputs (N, ...) by engine of `ENGINES`, and reasons why other engines cannot run."""
    calls: dict[str, Call] = {}
    missing: dict[str, str] = {}
    for name in names:
        try:
            calls[name] = ENGINES[name](network, x, threads)
        except (ImportError, RuntimeError) as error:
            missing[name] = str(error)
    return calls, missing


def measure(calls: Mapping[str, Call], turns: int, clock: Callable[[], float] = time.perf_counter) -> dict[str, float]:
    """Return the median seconds of each call; calls take turns, so that disturbances affect all of them."""
    timers = {name: timeit.Timer(call, timer=clock) for name, call in calls.items()}
    once = {name: timer.repeat(2, 1)[1] for name, timer in timers.items()}  # without the first call, which may compile
    counts = {name: max(1, round(_TURN / max(once[name], 1e-7))) for name in calls if once[name] <= _LONG}
    found = [{name: timers[name].timeit(count) / count for name, count in counts.items()} for _ in range(turns)]
    return once | {name: statistics.median(turn[name] for turn in found) for name in counts}


def bench(network: PackedNetwork, batch: int, threads: int, turns: int = 7) -> list[Timing]:
    """Time all engines of `ENGINES` in order on random inputs, and restore torch's number of threads."""
    x = random_inputs(network, batch)
    try:
        import torch
    except ImportError:
        torch = None
    before = torch.get_num_threads() if torch else 0
    if torch:
        torch.set_num_threads(threads)
    try:
        calls, missing = engines(network, x, threads)
        seconds = measure(calls, turns)
    finally:
        if torch:
            torch.set_num_threads(before)
    return [Timing(name, batch, threads, seconds.get(name), missing.get(name, "")) for name in ENGINES]


def timings_table(timings: Sequence[Sequence[Timing]], network: PackedNetwork) -> tuple[Table, list[str]]:
    """Return the timings for one number of threads as a table, and notes on their meaning.

    Args:
        timings: What `bench` returned for each batch size.
        network: The packed network.
    """
    threads = timings[0][0].threads
    columns = [head for group in timings for head in (f"batch {group[0].batch}\nms", "\ninputs/s", "\nspeed")]
    rows, notes = [], []
    for engine in zip(*timings, strict=True):
        cells = [cell for row, group in zip(engine, timings, strict=True) for cell in _cells(row, group[0].seconds)]
        rows.append([engine[0].engine, *cells])
        notes += [f"{engine[0].engine} could not run: {engine[0].why}"] if engine[0].why else []
    table = Table(f"{threads} thread{'s' if threads > 1 else ''}", ["engine", *columns], rows)
    notes.append(
        "Speed is relative to torch float32. Engines that are not backends do not use bits: weights and sums have the "
        "named type."
    )
    notes.append(
        "OpenVINO int8 rounds weights and inputs of all layers by FakeQuantize, with one scale per tensor from the "
        "largest magnitudes, and replaces signs by rectifiers. It shows a speed, not an accuracy."
    )
    if network.program.samples > 1:
        count = network.program.samples
        notes.append(f"Backends run all {count} networks of the file; the other engines run one network.")
    return table, notes


def _cells(row: Timing, base: float | None) -> list[str]:
    if row.seconds is None:
        return ["–", "–", "–"]
    milliseconds = f"{1e3 * row.seconds:{'.3g' if row.seconds < 1 else '.0f'}}"
    ratio = f"{base / row.seconds:.1f}×" if base else "–"
    return [milliseconds, f"{row.batch / row.seconds:,.0f}", ratio]
