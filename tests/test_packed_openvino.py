"""The OpenVINO backend against the reference: every trap of its binary convolution, and the rounded forms."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import bitbayes as bb
import needs
from bitbayes.errors import install_command
from bitbayes.packed import PackedNetwork, Program, Step, load
from bitbayes.packed.backends.openvino import graph as openvino_graph
from bitbayes.packed.backends.openvino import runtime as openvino_runtime
from bitbayes.packed.backends.openvino.runtime import OpenVinoRuntime
from bitbayes.packed.format.bits import pack_signs
from test_packed import grid, settled
from test_packed_native import NETWORKS, some_signs

pytestmark = needs.OPENVINO.unless_installed("openvino")


def agree(network: PackedNetwork, x: Any, exact: bool = False) -> OpenVinoRuntime:
    """The same as the reference, for several inputs, one, and none."""
    x = np.asarray(x, np.float32)
    runtime, reference = load(network, "openvino", threads=1), load(network)
    assert isinstance(runtime, OpenVinoRuntime)
    for part in (x, x[:1], x[:0]):
        wanted, got = reference.outputs(part), runtime.outputs(part)
        assert got.dtype == np.float32 and got.shape == wanted.shape
        tolerance = 0 if exact else 1e-5
        np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance * np.abs(wanted).max(initial=0))
    return runtime


PADDED = {"kernel": [1, 1], "stride": [1, 1], "padding": [7, 7], "dilation": [1, 1], "groups": 1}


def mlp_of_signs(inputs: int) -> nn.Module:
    """A layer on numbers and two on signs."""
    layers: list[nn.Module] = []
    for fan, outputs in [(inputs, 64), (64, 64)]:
        layers += [nn.Linear(fan, outputs, bias=False), nn.BatchNorm1d(outputs), bb.nn.BinaryActivation()]
    return nn.Sequential(*layers, nn.Linear(64, 3, bias=False), nn.BatchNorm1d(3))


def layer(rng: Any, op: str, shape: tuple[int, ...], outputs: int, settings: Any, tensors: Any) -> PackedNetwork:
    """Signs of the input, a layer of binary weights, and a comparison whose result is shown as numbers."""
    fan = shape[0] // settings.get("groups", 1) * int(np.prod(settings.get("kernel", [1])))
    held = {"weight": pack_signs(some_signs(rng, outputs, fan)), **tensors}
    steps = [Step("sign", (0,)), Step(op, (1,), "", settings, {"weight": "weight"})]
    if tensors:
        steps += [Step("threshold", (2,), "", {}, {name: name for name in tensors}), Step("add", (3, 2))]
    return PackedNetwork(Program(shape, 1, tuple(steps)), held)


@pytest.mark.parametrize("length", [1, 7, 8, 9, 63, 64, 65, 127, 128, 513])
def test_linear_layers(length):
    """Sums of signs and comparisons with them are exact, whatever the number of channels."""
    rng = np.random.default_rng(length)
    for outputs in (1, 33):
        least = rng.integers(-length, length + 2, outputs).astype(np.int32)
        direction = some_signs(rng, outputs).astype(np.int8)
        for tensors in ({}, {"threshold": least}, {"threshold": least, "direction": direction}):
            network = layer(rng, "linear", (length,), outputs, {}, tensors)
            agree(network, rng.normal(size=(3, length)), exact=True)


@pytest.mark.parametrize("channels", [1, 3, 20, 64, 65])
def test_convolutions(channels):
    """Strides, padding with zeros, dilation, one axis or two, and groups, which have no bits there."""
    rng = np.random.default_rng(channels)
    for kernel, stride, padding, dilation, groups in [
        ([3, 3], [1, 1], [1, 1], [1, 1], 1),
        ([2, 3], [2, 1], [2, 0], [1, 2], 1),
        ([5], [2], [4], [2], 1),
        ([3, 3], [3, 3], [1, 1], [2, 2], 1),  # which its binary convolution computes wrongly
        ([3], [1], [1], [1], channels),
    ]:
        settings = dict(kernel=kernel, stride=stride, padding=padding, dilation=dilation, groups=groups)
        outputs = 9 if groups == 1 else channels
        tensors = {"threshold": rng.integers(-6, 7, outputs).astype(np.int32)}
        network = layer(rng, "conv", (channels, *(9, 7)[: len(kernel)]), outputs, settings, tensors)
        agree(network, rng.normal(size=(3, *network.program.input)), exact=True)


def test_signs_at_zero():
    """sign(0) = +1, of both zeros and not of the number below them; a threshold is reached by what equals it."""
    network = PackedNetwork(
        Program((8,), 1, (Step("sign", (0,)), Step("linear", (1,), "", {}, {"weight": "w"}))),
        {"w": np.full((1, 1), 255, np.uint8)},
    )
    tiny = np.finfo(np.float32).tiny
    x = np.array([[0, -0.0, tiny, -tiny, 1, -1, 1e-30, -1e-30]], np.float32)
    assert agree(network, x, exact=True).outputs(x).item() == 2


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name):
    torch.manual_seed(0)
    model, x = NETWORKS[name]()
    runtime = agree(bb.pack(settled(model), x[:1]), x)
    assert set(runtime.chosen.values()) == {"float32"}


def test_binary_layers_run_on_bits():
    """What runs is the binary convolution, not a float one; thresholds lie in the layers before."""
    network = bb.pack(settled(mlp_of_signs(64)), torch.zeros(1, 64))
    model = openvino_runtime.compiled(network, 1, 1).get_compiled_model().get_runtime_model()
    kinds = [node.get_rt_info()["layerType"].astype(str) for node in model.get_ops()]
    assert kinds.count("BinaryConvolution") == 2 and "Convolution" not in kinds, kinds


def test_an_ensemble():
    torch.manual_seed(3)
    model = mlp_of_signs(16)
    optimizer = bb.BayesBiNN(bb.split_parameters(model)[0], ess=100, seed=0)
    optimizer.eval()
    network = bb.pack(model, grid(1, 16), optimizer.posterior(), samples=5, seed=4, batches=[grid(40, 16)])
    runtime, x = agree(network, grid(7, 16)), grid(7, 16).numpy()
    wanted, got = load(network).predict(x), runtime.predict(x)
    assert got.mutual_information.max() > 1e-3
    np.testing.assert_allclose(got.probs, wanted.probs, rtol=1e-5)
    np.testing.assert_allclose(got.mutual_information, wanted.mutual_information, rtol=1e-3, atol=1e-6)


def test_batches_of_any_size():
    network = bb.pack(settled(bb.nn.mlp(16, [8], 3)), torch.zeros(1, 16))
    x = np.random.default_rng(5).normal(size=(71, 16)).astype(np.float32)
    runtime = agree(network, x)
    np.testing.assert_allclose(runtime.outputs(x[:37]), runtime.outputs(x)[:, :37], rtol=1e-6, atol=1e-5)
    assert set(runtime.chosen) == {1, 4, 8, 32}


def test_rounded_forms(monkeypatch):
    """One is taken if it is faster and near, and for nothing else."""
    network = bb.pack(settled(bb.nn.mlp(64, [96, 96], 10)), torch.zeros(1, 64))
    x = np.random.default_rng(6).normal(size=(32, 64)).astype(np.float32)
    wanted = load(network).outputs(x)

    def fresh(fastest: str) -> tuple[dict[int, str], Any]:
        monkeypatch.setattr(openvino_runtime, "_seconds", lambda calls: {n: n != fastest for n in calls})
        runtime = load(network, "openvino", threads=1, allow=["bfloat16", "int8"], inputs=x)
        assert isinstance(runtime, OpenVinoRuntime)
        got = runtime.outputs(x)
        return runtime.chosen, got

    chosen, got = fresh("float32")
    assert chosen == {32: "float32"}
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-3)
    # Processors without instructions for int8 round so much that the network would not pass for near.
    monkeypatch.setattr(openvino_runtime, "_ALIKE", 0.0)
    chosen, got = fresh("int8")
    assert chosen == {32: "int8"} and np.abs(got - wanted).max() > 1e-2
    assert np.corrcoef(got.reshape(-1), wanted.reshape(-1))[0, 1] > 0.8  # 0.88 without such instructions
    monkeypatch.setattr(openvino_runtime, "_ALIKE", 1.5)
    chosen, got = fresh("int8")
    assert chosen == {32: "float32"}
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-3)


def test_refusals(monkeypatch):
    network = bb.pack(settled(bb.nn.mlp(16, [8], 3)), torch.zeros(1, 16))
    for options, message in [
        ({"threads": -1}, "threads must be at least 0, got -1"),
        ({"allow": ["float16"]}, "allow must be a list of 'bfloat16' and 'int8', got"),
        ({"allow": ["int8"]}, "allow needs inputs"),
    ]:
        with pytest.raises(ValueError, match=message):
            load(network, "openvino", **options)
    runtime = load(network, "openvino", threads=1)
    with pytest.raises(ValueError, match="expected inputs of shape"):
        runtime.outputs(np.zeros((2, 17), np.float32))
    with pytest.raises(ValueError, match="NaN"):
        runtime.outputs(np.full((2, 16), np.nan, np.float32))


def test_wrong_numbers_are_refused_at_load(monkeypatch):
    """The trap of this operation is silence: here weights whose bits are turned round in each byte."""
    network = bb.pack(settled(mlp_of_signs(64)), torch.zeros(1, 64))
    pack = np.packbits

    class Turned:
        def __getattr__(self, name: str) -> Any:
            return getattr(np, name)

        def packbits(self, ones: Any, bitorder: str) -> Any:
            return pack(ones, bitorder="big")

    monkeypatch.setattr(openvino_graph, "np", Turned())
    with pytest.raises(RuntimeError, match=r"computes this network wrongly .*; use the backend \"native\""):
        load(network, "openvino")


def test_without_openvino():
    code = (
        "import sys; sys.modules['openvino'] = sys.modules['torch'] = None\n"
        "from bitbayes.packed import PackedNetwork, Program, Step, load\n"
        "load(PackedNetwork(Program((3,), 1, (Step('sign', (0,)),)), {}), 'openvino')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = result.stderr.strip().splitlines()[-1]
    assert f'openvino is not installed; run: {install_command("openvino")}; or use the backend "native"' in last


def test_a_signal_after_networks_have_gone(tmp_path):
    """Ended one by one, OpenVINO's cores leave a signal stack that is not there, and the next signal kills."""
    code = (
        "import signal, sys\n"
        "from bitbayes.packed import load\n"
        "runtimes = [load(sys.argv[1], 'openvino', threads=1) for _ in range(2)]\n"
        "while runtimes: runtimes.pop(0)\n"
        "signal.signal(signal.SIGINT, lambda *_: print('handled'))\n"
        "signal.raise_signal(signal.SIGINT)\n"
    )
    bb.pack(settled(bb.nn.mlp(16, [8], 3)), torch.zeros(1, 16)).save(tmp_path / "net.safetensors")
    words = [sys.executable, "-c", code, str(tmp_path / "net.safetensors")]
    result = subprocess.run(words, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "handled\n"), result


def test_a_window_that_sees_padding_alone():
    """OpenVINO's binary convolution refuses it with several lines; it runs on numbers."""
    network = layer(np.random.default_rng(0), "conv", (8, 4, 4), 3, PADDED, {})
    agree(network, np.random.default_rng(1).normal(size=(2, 8, 4, 4)), exact=True)


def test_what_openvino_refuses_is_one_line(monkeypatch):
    class Core:
        def compile_model(self, *_: Any) -> None:
            raise RuntimeError("Exception from src/core.cpp:1:\nCheck failed\n  unsupported parameters\n\n")

    monkeypatch.setattr(openvino_runtime, "_core", Core)
    network = layer(np.random.default_rng(0), "linear", (8,), 3, {}, {})
    with pytest.raises(RuntimeError, match=r"cannot run this network \(unsupported parameters\); use the") as caught:
        load(network, "openvino")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("wrong", "refused"), [(None, False), (1.0, True), (np.inf, True), (np.nan, True)])
def test_the_check_at_load_sees_through_infinite_outputs(wrong, refused, monkeypatch):
    """Everything is near to an infinite number, so only the finite ones tell what is near."""
    network = layer(np.random.default_rng(0), "linear", (8,), 3, {}, {})
    wanted = np.tile(np.array([[np.inf, -np.inf, np.nan, 2.0, 3.0]], np.float32), (1, 4, 1))
    got = wanted.copy()
    if wrong is not None:
        got[..., 1 if wrong == 1.0 else 3] = wrong
    monkeypatch.setattr(openvino_runtime.ReferenceRuntime, "outputs", lambda self, x: wanted)
    monkeypatch.setattr(OpenVinoRuntime, "outputs", lambda self, x: got)
    if refused:
        with pytest.raises(RuntimeError, match="computes this network wrongly"):
            load(network, "openvino")
    else:
        load(network, "openvino")
