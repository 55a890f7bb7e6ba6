"""The compiled kernels of packed networks, every path of them, against integers, float64 and the reference."""

from __future__ import annotations

import itertools
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import arm
import bitbayes as bb
import needs
from bitbayes.kernels import build
from bitbayes.packed import PackedNetwork, Program, Step, load
from bitbayes.packed.backends.native import products
from bitbayes.packed.backends.native.products import NumberProduct, RealProduct, SignProduct, pack_places
from bitbayes.packed.backends.native.runtime import NativeRuntime
from bitbayes.packed.backends.reference import _in_order
from bitbayes.packed.convert import draft
from bitbayes.packed.format.bits import pack_signs
from bitbayes.packed.format.sliding import Sliding
from test_packed import Narrow, grid, halved, settled

pytestmark = needs.kernels("inference")

LENGTHS = (1, 7, 31, 63, 64, 65, 127, 128, 513)
# What CC must say for a path; on a processor that lacks it, it is skipped.
PATHS = {
    "this machine's": "",
    "avx512": "-mno-avx512vpopcntdq",
    "avx2": "-mno-avx512f",
    "portable": "-DBITBAYES_PORTABLE",
    "neon": "",
}


@pytest.fixture(params=PATHS)
def path(request, monkeypatch):
    """The kernels as another processor would have them."""
    wanted = request.param
    if wanted == "neon":
        if arm.MISSING:
            needs.ARM.skip()
        monkeypatch.setattr(products, "library", arm.library)
        return
    monkeypatch.setenv("CC", f"cc {PATHS[wanted]}")
    monkeypatch.setattr(build, "_outcome", build._outcome.__wrapped__)
    libraries: dict[str, Any] = {name: products.library.__wrapped__(name) for name in ("inference", "real")}
    if PATHS[wanted] and libraries["inference"].bitbayes_path().decode() != wanted:
        needs.processor(wanted).skip()
    monkeypatch.setattr(products, "library", libraries.__getitem__)


def some_signs(rng, *shape):
    return np.where(rng.random(shape) < 0.5, -1, 1)


@pytest.mark.parametrize("threads", [1, 2])
def test_signs_with_signs(path, threads):
    """Sums and comparisons, exactly, for lengths around a word and rows around a tile and a group of rows."""
    rng = np.random.default_rng(0)
    for length, (rows, outputs) in itertools.product(LENGTHS, [(1, 1), (3, 33), (5, 64), (49, 31), (97, 100)]):
        x, weight = some_signs(rng, 1, rows, length), some_signs(rng, 1, outputs, length)
        wanted = x @ weight.swapaxes(1, 2)
        bits, words = pack_signs(weight), pack_places(x > 0)
        product = SignProduct(bits, length)
        got = product(words, threads)
        assert product._weights.ctypes.data % 64 == 0  # a line of the cache
        assert got.dtype == np.float32 and np.array_equal(got, wanted), (length, rows, outputs)
        scale, shift = rng.normal(size=(2, 1, outputs)).astype(np.float32)
        got = SignProduct(bits, length, tensors={"scale": scale, "shift": shift})(words, threads)
        assert np.array_equal(got, (wanted * scale.astype(np.float64) + shift).astype(np.float32))  # rounded once
        threshold, direction = rng.integers(-length - 2, length + 3, (1, outputs)), some_signs(rng, 1, outputs)
        got = SignProduct(bits, length, tensors={"threshold": threshold, "direction": direction})(words, threads)
        assert np.array_equal(got, pack_places(wanted * direction >= threshold)), (length, rows, outputs)


@pytest.mark.parametrize("threads", [1, 2])
def test_signs_with_numbers(path, threads):
    """Within the bound that the docstring states, and exactly where every sum is exact."""
    rng = np.random.default_rng(1)
    for length, (rows, outputs) in itertools.product((*LENGTHS, 2100), [(1, 1), (3, 33), (5, 64), (2, 100)]):
        weight = some_signs(rng, 1, outputs, length)
        product = NumberProduct(pack_signs(weight), length)
        whole = rng.integers(-99, 100, (1, rows, length)).astype(np.float32)
        assert np.array_equal(product(whole, threads), whole @ weight.swapaxes(1, 2))
        x = rng.normal(size=(1, rows, length)).astype(np.float32)
        error = np.abs(product(x, threads) - x.astype(np.float64) @ weight.swapaxes(1, 2))
        assert (error <= length * 2.0**-24 * np.abs(x).sum(-1, keepdims=True)).all()


def test_convolutions(path):
    """Strides, padding, dilation, one axis or two: torch's numbers, exactly; also as bits."""
    rng = np.random.default_rng(2)
    for channels, outputs, kernel, stride, padding, dilation in [
        (3, 5, (3, 3), (1, 1), (1, 1), (1, 1)),
        (65, 33, (2, 3), (2, 1), (2, 0), (1, 2)),
        (64, 70, (1, 1), (2, 2), (0, 0), (1, 1)),
        (130, 4, (5,), (2,), (4,), (2,)),
    ]:
        sizes = (9, 7)[: len(kernel)]
        x, weight = some_signs(rng, 1, 3, channels, *sizes), some_signs(rng, outputs, channels, *kernel)
        function: Any = F.conv2d if len(kernel) == 2 else F.conv1d
        wanted = function(torch.tensor(x[0]).float(), torch.tensor(weight).float(), None, stride, padding, dilation)
        sliding = Sliding(kernel, stride, padding, dilation)
        bits, words = pack_signs(weight.reshape(1, outputs, -1)), pack_places(np.moveaxis(x, 2, -1) > 0)
        assert np.array_equal(SignProduct(bits, channels, sizes, sliding)(words)[0], wanted)
        threshold = rng.integers(-9, 10, (1, outputs))
        product = SignProduct(bits, channels, sizes, sliding, {"threshold": threshold})
        above = np.moveaxis(wanted.numpy(), 1, -1) >= threshold
        assert np.array_equal(product(words)[0], pack_places(above))


@pytest.mark.parametrize("threads", [1, 2])
def test_real_numbers_in_order(path, threads):
    """Bit for bit what the reference sums term after term, for rows around a tile and outputs around a block."""
    rng = np.random.default_rng(7)
    for rows, (channels, kernel), outputs in itertools.product(
        (1, 5, 6, 13), [(3, (3, 3)), (1, (7,)), (40, ())], (1, 32, 45)
    ):
        weight = rng.normal(size=(2, outputs, channels, *kernel)).astype(np.float32)
        x = rng.normal(size=(1, rows, channels * int(np.prod(kernel)))).astype(np.float32)
        scale, shift = rng.normal(size=(2, 1, outputs)).astype(np.float32)
        got = RealProduct(weight, {"scale": scale, "shift": shift})(x, threads)
        for one, mine in zip(got, np.moveaxis(weight, 2, -1).reshape(2, outputs, -1), strict=True):
            sums = _in_order(x[0], mine)
            assert np.abs(sums - x[0].astype(np.float64) @ mine.T).max() < 1e-4
            assert np.array_equal(one, (sums * scale.astype(np.float64) + shift).astype(np.float32))


def test_several_networks_at_once(path):
    """Inputs that all share, and inputs of their own; weights that all share."""
    rng = np.random.default_rng(3)
    for sources, networks in [(1, 3), (3, 3), (3, 1)]:
        x, weight = some_signs(rng, sources, 5, 70), some_signs(rng, networks, 40, 70)
        wanted = x @ weight.swapaxes(1, 2)
        assert np.array_equal(SignProduct(pack_signs(weight), 70)(pack_places(x > 0)), wanted)
        assert np.array_equal(NumberProduct(pack_signs(weight), 70)(x.astype(np.float32)), wanted)
        each = rng.integers(-9, 10, (3, 40))
        got = SignProduct(pack_signs(weight), 70, tensors={"threshold": each})(pack_places(x > 0))
        assert np.array_equal(got, pack_places(wanted >= each[:, None]))


def agree(network: PackedNetwork, x: Any, **options: Any) -> NativeRuntime:
    """The same as the reference: for several inputs, one, and none."""
    x = np.asarray(x, np.float32)
    native, reference = load(network, "native", **options), load(network)
    for part in (x, x[:1], x[:0]):
        wanted, got = reference.outputs(part), native.outputs(part)
        assert got.dtype == np.float32 and got.shape == wanted.shape
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max(initial=0))
        assert np.array_equal(got.argmax(-1), wanted.argmax(-1))
    return native


NETWORKS: dict[str, Any] = {
    "mlp": lambda: (bb.nn.mlp(784, [96, 64], 10), torch.randn(33, 784)),
    "vgg": lambda: (bb.nn.binaryconnect_vgg(10, width=0.0625), torch.randn(4, 3, 32, 32)),
    "vgg of signs": lambda: (bb.nn.binaryconnect_vgg(10, width=0.0625, activation="sign"), grid(6, 3, 32, 32)),
    "vgg_small": lambda: (halved(bb.nn.vgg_small(10), 8), grid(3, 3, 32, 32)),
    "resnet18": lambda: (halved(bb.nn.resnet18(10, activation="sign"), 8), grid(3, 3, 16, 16)),
    "speed_net": lambda: (bb.nn.speed_net(width=0.5), torch.randn(3, 3, 32, 32)),
    "speed_net of signs": lambda: (bb.nn.speed_net(width=0.5, activation="sign"), torch.randn(3, 3, 32, 32)),
    "a user's": lambda: (Narrow(), grid(5, 3, 21)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name):
    torch.manual_seed(0)
    model, x = NETWORKS[name]()
    agree(bb.pack(settled(model), x[:1]), x, threads=2)


def test_steps_that_run_as_one():
    """Directions of either sign through a pool, padding that no window sees, flattened signs, signs that are shown."""
    rng = np.random.default_rng(4)
    pool = {"kernel": [3, 2], "stride": [2, 2], "padding": [1, 0], "dilation": [1, 2], "ceil": True}
    conv = {"kernel": [3, 3], "stride": [1, 1], "padding": [1, 1], "dilation": [1, 1], "groups": 1}
    average = {"kernel": [2, 2], "stride": [2, 1], "padding": [1, 0], "count_padding": False}
    tensors = {
        "w": pack_signs(some_signs(rng, 9, 5 * 9)),
        "t": rng.integers(-6, 7, 9).astype(np.int32),
        "d": some_signs(rng, 9).astype(np.int8),
        "one": np.array([-1], np.int8),
        "slope": rng.uniform(-1, 1, 9).astype(np.float32),
        "v": pack_signs(some_signs(rng, 3, 9 * 4 * 3)),
    }
    signs, thresholds = Step("sign", (0,)), {"threshold": "t", "direction": "d"}
    head = (signs, Step("conv", (1,), settings=conv, tensors={"weight": "w"}))
    flat = (Step("reshape", (4,), settings={"shape": [108]}), Step("linear", (5,), tensors={"weight": "v"}))
    pooled = Step("max_pool", (2,), settings=pool)
    last = Step("add", (6, 6))
    for steps in [
        (*head, pooled, Step("threshold", (3,), tensors=thresholds), *flat, last),
        (*head, pooled, Step("threshold", (3,), tensors={"threshold": "t", "direction": "one"}), *flat, last),
        (*head, pooled, Step("threshold", (3,), tensors=thresholds)),
        (
            *head,
            Step("threshold", (2,), tensors=thresholds),
            Step("max_pool", (3,), settings=pool),
            Step("add", (3, 3)),
        ),
        (*head, Step("threshold", (2,), tensors=thresholds), Step("add", (2, 3))),
        (*head, Step("avg_pool", (2,), settings=average)),
        (*head, Step("prelu", (2,), tensors={"slope": "slope"}), Step("sign", (3,))),
    ]:
        steps = tuple(
            Step(s.op, s.sources, "", {"dilation": [1, 1]} | s.settings, s.tensors)
            if s.op == "max_pool" and s.sources == (3,)
            else s
            for s in steps
        )
        used = {name for step in steps for name in step.tensors.values()}
        network = PackedNetwork(Program((5, 7, 6), 1, steps), {n: t for n, t in tensors.items() if n in used})
        agree(network, rng.normal(size=(4, 5, 7, 6)))


def test_signs_of_real_sums():
    """Sums of a real layer that are zero but for rounding have the same sign everywhere."""
    torch.manual_seed(0)
    layers = [bb.nn.keep_real(nn.Conv2d(3, 9, 3, padding=1, bias=False)), nn.BatchNorm2d(9, affine=False), nn.PReLU(9)]
    model: Any = settled(nn.Sequential(*layers, bb.nn.BinaryActivation(), nn.Conv2d(9, 9, 1, bias=False)))
    x = torch.randn(65, 3, 15, 15)
    with torch.no_grad():  # one of the sums of each channel is where the sign turns
        model[1].running_mean.copy_(model[0](x).transpose(0, 1).flatten(1).median(1).values)
    network = bb.pack(model, x[:1])
    assert [step.op for step in network.program.steps] == ["conv", "affine", "sign", "conv"]
    assert np.array_equal(load(network, "native").outputs(x.numpy()), load(network).outputs(x.numpy()))


@pytest.mark.parametrize("slopes", [[-1.0, 0.5, 1.0], [-1.0, 0.0, 2.0]])
def test_slopes(slopes):
    network = PackedNetwork(
        Program((3, 5), 1, (Step("prelu", (0,), tensors={"slope": "s"}),)), {"s": np.array(slopes, np.float32)}
    )
    x = np.random.default_rng(6).normal(size=(4, 3, 5)).astype(np.float32)
    assert np.array_equal(load(network, "native").outputs(x), load(network).outputs(x))


def test_without_torch():
    """On a machine that has NumPy, safetensors and a compiler."""
    code = (
        "import sys; sys.modules['torch'] = None; import numpy as np\n"
        "from bitbayes.packed import PackedNetwork, Program, Step, load\n"
        "steps = (Step('sign', (0,)), Step('linear', (1,), tensors={'weight': 'w'}))\n"
        "network = PackedNetwork(Program((8,), 1, steps), {'w': np.array([[15], [255]], np.uint8)})\n"
        "print(load(network, 'native').predict(np.ones((1, 8))).outputs.tolist())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[[[0.0, 8.0]]]", result.stderr


def test_an_ensemble(tmp_path):
    """C networks with BatchNorm of their own; the uncertainty too."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv1d(2, 8, 3), nn.BatchNorm1d(8), bb.nn.BinaryActivation(), nn.Flatten())
    model += nn.Sequential(nn.Linear(64, 24, bias=False), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 3))
    optimizer = bb.BayesBiNN(bb.split_parameters(model)[0], ess=100, scale="fan_in", seed=0)
    optimizer.eval()
    x = grid(7, 2, 10)
    network = bb.pack(model, x, optimizer.posterior(), samples=5, seed=4, batches=[grid(40, 2, 10)])
    native = agree(network, x)
    wanted, got = load(network).predict(x.numpy()), native.predict(x.numpy())
    assert got.mutual_information.max() > 1e-3
    np.testing.assert_allclose(got.probs, wanted.probs, rtol=1e-5)
    np.testing.assert_allclose(got.mutual_information, wanted.mutual_information, rtol=1e-3, atol=1e-6)


def test_a_batch_in_pieces(monkeypatch):
    from bitbayes.packed.backends.native import runtime as native

    network = bb.pack(settled(bb.nn.mlp(16, [8], 3)), torch.zeros(1, 16))
    x = np.random.default_rng(5).normal(size=(11, 16)).astype(np.float32)
    whole = load(network, "native").outputs(x)
    monkeypatch.setattr(native, "_PIECE", 48)
    assert np.array_equal(load(network, "native").outputs(x), whole)


def test_refusals(monkeypatch):
    network = bb.pack(settled(bb.nn.mlp(16, [8], 3)), torch.zeros(1, 16))
    with pytest.raises(ValueError, match="threads must be at least 0, got -1"):
        load(network, "native", threads=-1)
    runtime = load(network, "native", threads=0)
    with pytest.raises(ValueError, match="expected inputs of shape"):
        runtime.outputs(np.zeros((2, 17), np.float32))
    with pytest.raises(ValueError, match="NaN"):
        runtime.outputs(np.full((2, 16), np.nan, np.float32))
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setattr(build, "_outcome", build._outcome.__wrapped__)
    monkeypatch.setattr("bitbayes.packed.backends.native.runtime.library", products.library.__wrapped__)
    with pytest.raises(RuntimeError, match=r"no C compiler: no-such-compiler .*; take \"torch\" or \"reference\""):
        load(network, "native")


@pytest.mark.parametrize("count", (1, 8, 255, 256, 257, 600))
def test_bits_and_scales_of_a_weight(count, monkeypatch):
    """The kernel against NumPy: what is binary, and what is not for one number, wherever that is."""
    rng = np.random.default_rng(count)
    weight = (some_signs(rng, 5, count) * rng.uniform(0.1, 2, (5, 1))).astype(np.float32)

    def binary(tensor):
        monkeypatch.setattr(draft, "_MANY", tensor.size + 1)
        bits, scale = draft.split_scale(tensor)
        monkeypatch.setattr(draft, "_MANY", 0)
        ours = draft.split_scale(tensor)
        assert ours[0].tobytes() == bits.tobytes() and np.array_equal(ours[1], scale)
        assert ours[0].dtype == bits.dtype and ours[0].shape == bits.shape
        return bits.dtype == np.uint8

    assert all(map(binary, (weight, np.abs(weight), -np.abs(weight), np.asfortranarray(weight))))
    for number in (np.nextafter(abs(weight[4, -1]), np.float32(9)), np.nan, np.inf, 0.0):
        for row, place in itertools.product((0, 4), {1 % count, count // 2, count - 1}):
            changed = weight.copy()
            changed[row, place] = number
            assert binary(changed) == (count == 1 and number > 0)
