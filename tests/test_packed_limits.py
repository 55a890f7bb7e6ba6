"""What a packed network may cost whoever loads it: small files that claim much are refused, or take little."""

from __future__ import annotations

import importlib
import itertools
import runpy
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import needs
from bitbayes.packed import PackedFileError, PackedNetwork, Program, Step, load
from bitbayes.packed.backends import reference
from bitbayes.packed.backends.native import steps as native_steps
from bitbayes.packed.backends.runtime import Order
from bitbayes.packed.format.bits import pack_signs

MB = 1 << 20
compiled = needs.kernels("inference")


def peak(call: Callable[[], Any]) -> tuple[Any, int]:
    """What a call returns, and the most bytes of Python and NumPy that it takes at a time."""
    tracemalloc.start()
    try:
        return call(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def convolution(channels: int, size: int, kernel: int, outputs: int, *, signs: bool = True, real: bool = False) -> Any:
    """A convolution that pads half of its kernel."""
    rng = np.random.default_rng(0)
    weight: Any = rng.standard_normal((outputs, channels, kernel, kernel)).astype(np.float32)
    first = [Step("sign", (0,))] if signs else []
    settings = {"kernel": [kernel] * 2, "stride": [1, 1], "padding": [kernel // 2] * 2, "dilation": [1, 1], "groups": 1}
    conv = Step("conv", (len(first),), "", settings, {"weight": "w"})
    held = weight if real else pack_signs(weight.reshape(outputs, -1))
    return PackedNetwork(Program((channels, size, size), 1, (*first, conv)), {"w": held}), weight


@compiled
def test_a_large_window_loads_in_little_memory():
    """Its places see 10,201 different sets of 10,201 taps."""
    network, _ = convolution(1, 160, 101, 8)
    _, most = peak(lambda: load(network, "native"))
    assert most < 24 * MB


@compiled
@pytest.mark.parametrize("size", [1, 5, 12])
def test_every_place_of_a_large_window(size):
    """Places at which other taps lie outside, some of which see less than half of the kernel, and small inputs."""
    network, weight = convolution(3, size, 21, 5)
    x = np.random.default_rng(1).standard_normal((2, 3, size, size)).astype(np.float32)
    signs = torch.where(torch.tensor(x) >= 0, 1.0, -1.0).double()
    wanted = F.conv2d(signs, torch.tensor(weight).sign().double(), padding=10).numpy()
    for backend in ("native", "reference"):
        assert np.array_equal(load(network, backend).outputs(x)[0], wanted)


@compiled
@pytest.mark.parametrize(("signs", "real"), [(False, True), (False, False), (True, False)])
def test_a_convolution_in_boxes_has_the_same_bits(signs, real, monkeypatch):
    network, _ = convolution(2, 9, 5, 3, signs=signs, real=real)
    x = np.random.default_rng(2).standard_normal((3, 2, 9, 9)).astype(np.float32)
    whole = [load(network, backend).outputs(x) for backend in ("native", "reference")]
    for most in (1, 200, 600, 5000):
        monkeypatch.setattr(native_steps, "_ROWS", most)
        monkeypatch.setattr(reference, "_CHUNK", most)
        for backend, wanted in zip(("native", "reference"), whole, strict=True):
            assert np.array_equal(load(network, backend).outputs(x), wanted), (backend, most)


@pytest.mark.parametrize("backend", ["reference", pytest.param("native", marks=compiled)])
def test_a_convolution_is_laid_out_in_pieces(backend):
    """All windows at a time would be 400 MB."""
    network, _ = convolution(1, 100, 101, 1, signs=False, real=False)
    x = np.zeros((1, 1, 100, 100), np.float32)
    runtime = load(network, backend)
    _, most = peak(lambda: runtime.outputs(x))
    assert most < 128 * MB


def branches(count: int) -> tuple[Step, ...]:
    """Values that all are needed until they are added, one after the other."""
    sums = itertools.accumulate(range(1, count), lambda value, _: value + 1, initial=count)
    return (*(Step("tanh", (0,)) for _ in range(count)), *(Step("add", (i + 1, s)) for i, s in enumerate(sums)))


def scaled(samples: int, inputs: int, outputs: int) -> PackedNetwork:
    """Networks that share all but a scale."""
    steps = (
        Step("tanh", (0,)),
        Step("linear", (1,), "", {}, {"weight": "w"}),
        Step("affine", (2,), "", {}, {"scale": "s"}),
    )
    tensors = {"w": np.zeros((outputs, inputs // 8), np.uint8), "s": np.ones((samples, 1), np.float32)}
    return PackedNetwork(Program((inputs,), samples, steps), tensors)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PackedNetwork(Program((4096, 4096), 1, branches(60)), {}), "numbers at the same time for one input"),
        (lambda: scaled(4096, 8, 1 << 16), "needs more than 134217728 numbers at the same time for one input"),
        (lambda: scaled(4096, 1 << 14, 1 << 13), "takes more than 274877906944 operations for one input"),
        (
            lambda: PackedNetwork(Program((2,), 4096, branches(256)), {}),
            "4096 networks of 512 steps; the limit is 1048576 in total",
        ),
        (
            lambda: PackedNetwork(
                Program((1 << 12,), 1, tuple(Step("linear", (i,), "", {}, {"weight": "w"}) for i in range(8))),
                {"w": np.zeros((1 << 12, 1 << 9), np.uint8)},
            ),
            "steps reuse more than 67108864 weights of earlier steps",
        ),
        (
            lambda: PackedNetwork(
                Program((1, 1 << 24), 1, (Step("adaptive_avg_pool", (0,), "", {"size": [1 << 23]}),)), {}
            ),
            "8388608. windows; at most 4096 along an axis",
        ),
    ],
)
def test_a_small_file_that_would_take_much_is_refused(make, words):
    def refused() -> None:
        with pytest.raises(PackedFileError, match=words) as caught:
            make()
        assert "\n" not in str(caught.value)

    assert peak(refused)[1] < 24 * MB


def test_values_count_for_as_long_as_they_are_needed():
    """A long chain holds two of its values at a time, and one that nobody takes is dropped at once."""
    chain = tuple(Step("tanh", (index,)) for index in range(60))
    for steps in (chain, tuple(Step("tanh", (0,)) for _ in range(60))):
        assert PackedNetwork(Program((4096, 4096), 1, steps), {}).values[-1].size == 1 << 24
    assert Order([((0,), 1), ((0,), 2), ((0,), 3)]).run({0: 7}, lambda task, sources: task) == {3: 2}


@compiled
def test_weights_that_networks_share_are_there_once():
    """A scale for each of 512 networks must not repeat the weights 512 times."""
    network = scaled(512, 1 << 12, 256)  # 128 kB of weights
    runtime, most = peak(lambda: load(network, "native"))
    assert most < 4 * MB
    x = np.random.default_rng(3).standard_normal((2, 1 << 12)).astype(np.float32)
    np.testing.assert_allclose(runtime.outputs(x), load(network).outputs(x), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_what_networks_share_is_computed_once(backend, monkeypatch):
    module: Any = reference if backend == "reference" else importlib.import_module("bitbayes.packed.backends.torch")
    network, seen = scaled(7, 8, 3), []
    plain = module._STEPS["tanh"]
    monkeypatch.setitem(module._STEPS, "tanh", lambda xs, step, t: seen.append(1) or plain(xs, step, t))
    x = np.ones((2, 8), np.float32)
    outputs = np.asarray(load(network, backend).outputs(x if backend == "reference" else torch.tensor(x)))
    assert outputs.shape == (7, 2, 3) and len(seen) == 1


def test_torch_unpacks_a_tied_weight_once():
    """Steps that share a tensor share its float32 form."""
    network = PackedNetwork(
        Program((64,), 1, tuple(Step("linear", (i,), "", {}, {"weight": "w"}) for i in range(9))),
        {"w": pack_signs(np.random.default_rng(5).standard_normal((64, 64)))},
    )
    runtime: Any = load(network, "torch")
    assert len({tensors["weight"].data_ptr() for tensors in runtime._once}) == 1
    x = np.ones((2, 64), np.float32)
    assert np.array_equal(runtime.outputs(torch.tensor(x)), load(network).outputs(x))


@compiled
@pytest.mark.parametrize("op", ["max_pool", "avg_pool"])
@pytest.mark.parametrize("first", ["sign", "tanh"])
def test_a_large_pool_takes_little_memory(op, first):
    more = {"dilation": [1, 1], "ceil": False} if op == "max_pool" else {"count_padding": True}
    settings = {"kernel": [300, 300], "stride": [1, 1], "padding": [0, 0], **more}
    network = PackedNetwork(Program((1, 301, 301), 1, (Step(first, (0,)), Step(op, (1,), "", settings))), {})
    x = np.random.default_rng(4).standard_normal((1, 1, 301, 301)).astype(np.float32)
    got, most = peak(lambda: load(network, "native").outputs(x))
    assert most < 8 * MB
    np.testing.assert_allclose(got, load(network).outputs(x), rtol=1e-4, atol=1e-5)


FUZZ_FILE = Path(__file__).resolve().parent.parent / "benchmarks" / "fuzz_limits.py"


def mutated(total: int, folder: Path) -> Any:
    fuzz = runpy.run_path(str(FUZZ_FILE), run_name="fuzz_limits")
    found, worst = fuzz["run"](total, folder, seed=7)
    failed = [line for kind, line in found if kind == "FAILED"]
    assert not failed, (failed, worst)
    return found


@compiled
@needs.LINUX.unless(Path("/proc/self/clear_refs").exists())
def test_mutated_files_take_little_time_and_memory(tmp_path):
    """Each 2 s and four times its own memory; 20,000 in the slow test."""
    found = mutated(100, tmp_path)
    assert {what for _, what in found} == {"refused", "loaded", "run"} and sum(found.values()) == 100


@compiled
@pytest.mark.slow
@needs.LINUX.unless(Path("/proc/self/clear_refs").exists())
def test_twenty_thousand_mutated_files_take_little_time_and_memory(tmp_path):
    assert sum(mutated(20_000, tmp_path).values()) == 20_000


@compiled
@pytest.mark.parametrize("used", [False, True])
def test_many_large_windows_with_one_weight_load_in_little_memory(used):
    """Every place of a window sees other taps, and a weight that many steps share counts once."""
    kernel, steps = 64, 60
    settings = {"kernel": [kernel] * 2, "stride": [1, 1], "padding": [kernel - 1] * 2, "dilation": [1, 1], "groups": 1}
    many = [Step("conv", (1,), "", settings, {"weight": "w"}) for _ in range(steps)]
    many += [Step("add", (2 if index == 0 else steps + 1 + index, 3 + index)) for index in range(steps - 1)] * used
    program = Program((1, 1, 1), 1, (Step("sign", (0,)), *many))
    network = PackedNetwork(program, {"w": np.arange(kernel * kernel // 8, dtype=np.uint8)[None]})
    runtime, most = peak(lambda: load(network, "native"))
    assert most < 16 * MB
    x = np.ones((1, 1, 1, 1), np.float32)
    np.testing.assert_array_equal(runtime.outputs(x), load(network).outputs(x))
