"""Every operation of the format on every backend that is installed, against the reference."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import needs
from bitbayes.kernels import build
from bitbayes.packed import PackedNetwork, Program, Step, load
from bitbayes.packed.backends.load import BACKENDS
from bitbayes.packed.format.bits import pack_signs
from bitbayes.packed.format.ops import OPS

RNG = np.random.default_rng(0)
WINDOW = {"kernel": [3, 2], "stride": [2, 1], "padding": [1, 1]}
WEIGHT = pack_signs(RNG.standard_normal((6, 2 * 6)))
CHANNELS = RNG.standard_normal(4).astype(np.float32)
# Settings and tensors of an operation on a value of shape (4, 5, 6); a linear layer takes it flattened.
FORMS: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {
    "linear": [
        ({}, {"weight": pack_signs(RNG.standard_normal((3, 120)))}),
        ({}, {"weight": CHANNELS[None].repeat(30, 1)}),
    ],
    "conv": [
        ({**WINDOW, "dilation": [1, 2], "groups": 2}, {"weight": WEIGHT}),
        ({**WINDOW, "dilation": [1, 1], "groups": 1}, {"weight": RNG.standard_normal((3, 4, 3, 2)).astype(np.float32)}),
    ],
    "affine": [
        ({}, {"scale": CHANNELS, "shift": CHANNELS[:1]}),
        ({}, {"scale": CHANNELS}),
        ({}, {"shift": CHANNELS}),
        ({}, {}),
    ],
    "sign": [({}, {})],
    "threshold": [({}, {"threshold": np.array([0, 1, -1, 2], np.int32), "direction": np.array([-1], np.int8)})],
    "clamp": [
        ({"min": -1, "max": 0.5}, {}),
        ({"min": 0, "max": None}, {}),
        ({"min": None, "max": 1}, {}),
        ({"min": -(10**30), "max": 10**30}, {}),  # integers that no array holds
    ],
    "prelu": [({}, {"slope": CHANNELS})],
    "tanh": [({}, {})],
    "sigmoid": [({}, {})],
    "gelu": [({"tanh": False}, {}), ({"tanh": True}, {})],
    "max_pool": [({**WINDOW, "dilation": [1, 2], "ceil": ceil}, {}) for ceil in (False, True)],
    "avg_pool": [({**WINDOW, "count_padding": count}, {}) for count in (False, True)],
    "adaptive_avg_pool": [({"size": [2, 4]}, {})],
    "reshape": [({"shape": [10, 12]}, {})],
    "permute": [({"axes": [3, 1, 2]}, {})],
    "pad": [({"before": [1, 0, 2], "after": [0, 3, 1]}, {})],
    "add": [({}, {})],
    "concat": [({"axis": 2}, {})],
    "softmax": [({"axis": 1}, {}), ({"axis": 3}, {})],
    "multiply": [({}, {})],
    "slice": [({"axis": axis, "begin": 1, "end": end}, {}) for axis, end in ((1, 2), (3, 5))],
    "offset": [({}, {"offset": RNG.standard_normal(120).astype(np.float32)})],
    "embed": [({}, {"table": RNG.standard_normal((9, 3)).astype(kind)}) for kind in (np.float32, np.float16)],
    "norm": [({"centre": centre, "eps": eps}, {}) for centre in (False, True) for eps in (1e-12, 0.5)],
    "attention": [({"heads": 3, "scale": 0.7, "causal": causal}, {}) for causal in (False, True)],
    "mask": [({"id": 3}, {})],
    "masked_attention": [({"heads": 3, "scale": 0.7, "causal": causal}, {}) for causal in (False, True)],
    "masked_mean": [({}, {})],
}
SHAPES = {"linear": [120], "attention": [12, 10]}  # of what an operation takes that does not take three axes
OF_TOKENS = {"embed": 0, "mask": 0, "masked_attention": 3, "masked_mean": 1}  # sources before the mask


def network(op: str, settings: dict[str, Any], tensors: dict[str, Any], *, signs: bool) -> PackedNetwork:
    """The operation on numbers, on signs, or on token ids."""
    step = Step(op, (0,), "", settings, {role: role for role in tensors})
    if op == "embed":
        return PackedNetwork(Program((7,), 1, (step,)), tensors)
    if op in OF_TOKENS:
        embed, mask = Step("embed", (0,), "", {}, {"table": "table"}), Step("mask", (0,), "", {"id": 3})
        sources = (2,) * OF_TOKENS[op] + (3,)
        last = (step,) if op == "mask" else (mask, replace(step, sources=sources))
        program = Program((7,), 1, (embed, Step("sign" if signs else "tanh", (1,)), *last))
        return PackedNetwork(program, {"table": np.random.default_rng(3).standard_normal((9, 12)).astype(np.float32)})
    steps = [Step("sign", (0,))] if signs else []
    if op in SHAPES:
        steps.append(Step("reshape", (len(steps),), "", {"shape": SHAPES[op]}))
    sources = (len(steps),) * {"add": 2, "multiply": 2, "concat": 2, "attention": 3}.get(op, 1)
    return PackedNetwork(Program((4, 5, 6), 1, (*steps, replace(step, sources=sources))), tensors)


def outputs(packed: PackedNetwork, backend: str, x: np.ndarray) -> np.ndarray:
    """The outputs of a backend, which takes tensors if it is torch."""
    return np.asarray(load(packed, backend).outputs(__import__("torch").tensor(x) if backend == "torch" else x))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "reference"])
def test_every_operation_on_every_backend(backend, op):
    if backend == "native" and build.library("inference") is None:
        needs.COMPILER.skip()
    if backend == "openvino" and importlib.util.find_spec(backend) is None:
        needs.OPENVINO.skip()
    x = (np.random.default_rng(1).integers(-24, 25, (3, 4, 5, 6)) / 16).astype(np.float32)
    x = np.random.default_rng(1).integers(0, 9, (3, 7)) if op in OF_TOKENS else x
    for (settings, tensors), signs in [(form, signs) for form in FORMS[op] for signs in (False, op != "embed")]:
        packed = network(op, settings, tensors, signs=signs)
        wanted, got = load(packed).outputs(x), outputs(packed, backend, x)
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5, err_msg=f"{op} {settings} {signs}")


@needs.kernels("inference")
@pytest.mark.parametrize(
    ("op", "tensors"),
    [
        ("linear", {"weight": pack_signs(RNG.standard_normal((3, 120)))}),
        ("prelu", {"slope": np.array([0, 0.5, 1, 0], np.float32)}),
    ],
)
def test_after_an_overflow_the_kernels_have_the_infinities_of_the_reference(op, tensors):
    """A part of a sum may overflow where the whole does not, and 0 times infinity is no number."""
    steps = [Step("affine", (0,), "", {}, {"scale": "huge"}), Step("affine", (1,), "", {}, {"scale": "huge"})]
    steps = steps if op == "prelu" else steps[:1]
    steps += [Step("reshape", (1,), "", {"shape": [120]})] if op == "linear" else []
    steps.append(Step(op, (len(steps),), "", {}, {role: role for role in tensors}))
    packed = PackedNetwork(Program((4, 5, 6), 1, tuple(steps)), {**tensors, "huge": np.array([3e37], np.float32)})
    x = np.random.default_rng(2).uniform(1, 9, (5, 4, 5, 6)).astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        wanted, got = load(packed).outputs(x), load(packed, "native").outputs(x)
    assert np.array_equal(np.isnan(got), np.isnan(wanted)) and np.array_equal(np.isinf(got), np.isinf(wanted))
    assert np.isinf(wanted).any() or op == "linear"
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


@needs.kernels("inference")
@needs.UNIX.unless(hasattr(__import__("os"), "fork"))
def test_a_forked_process_runs_too():
    """The threads of its parent are not there; a kernel that waited for them would hang."""
    code = """
import os, signal, numpy as np
from bitbayes.packed import PackedNetwork, Program, Step, load
rng = np.random.default_rng(0)
window = {"kernel": [3], "stride": [1], "padding": [1], "dilation": [1], "groups": 1}
steps = (Step("conv", (0,), "", window, {"weight": "r"}), Step("conv", (1,), "", window, {"weight": "b"}),
         Step("sign", (2,)), Step("conv", (3,), "", window, {"weight": "b"}))
tensors = {"r": rng.standard_normal((64, 64, 3), np.float32), "b": rng.integers(0, 256, (64, 24), dtype=np.uint8)}
runtime = load(PackedNetwork(Program((64, 99), 1, steps), tensors), "native", threads=4)
x = rng.standard_normal((9, 64, 99), np.float32)
wanted = runtime.outputs(x)
child = os.fork()
if child == 0:
    signal.alarm(20)
    os._exit(0 if np.array_equal(runtime.outputs(x), wanted) else 1)
_, status = os.waitpid(child, 0)
assert status == 0, status
"""
    result = subprocess.run([sys.executable, "-c", code], timeout=120, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
