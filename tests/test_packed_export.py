"""Packed networks as C and as ONNX say what the reference says."""

from __future__ import annotations

import functools
import math
import shutil
import subprocess
import sys
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bitbayes as bb
import needs
from bitbayes.lab import cli
from bitbayes.packed import Inputs, PackedNetwork, Program, Step, c_header, load, onnx_model
from bitbayes.packed.backends import reference
from bitbayes.packed.format.bits import crossing, float_above, unpack_signs
from test_packed import Narrow, grid, settled

needs_gcc = needs.COMPILER.unless(shutil.which("gcc"))
FLAGS = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-pedantic"]
DRIVER = """
#include <stdio.h>
#include "net.h"
int main(void) {
  static float input[INPUTS], logits[OUTPUTS];
  while (fread(input, sizeof(float), INPUTS, stdin) == INPUTS) {
    int32_t best = net_predict(input, logits);
    fwrite(logits, sizeof(float), OUTPUTS, stdout);
    fwrite(&best, sizeof best, 1, stdout);
  }
  return 0;
}
"""


class Residual(nn.Module):
    """Two branches that are needed at the same time, windows of every form, sums of reals and of signs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.sign = bb.nn.BinaryActivation()
        self.grouped = nn.Conv2d(8, 8, (3, 2), padding=(2, 1), dilation=(2, 2), groups=4, bias=False)
        self.norm = nn.Sequential(nn.BatchNorm2d(8), nn.PReLU(8))
        self.deep = nn.Conv2d(8, 8, 3, stride=2, bias=False)
        self.pool = nn.MaxPool2d(3, 2, padding=1, ceil_mode=True)
        self.bits = nn.Sequential(nn.BatchNorm2d(8), bb.nn.BinaryActivation(), self.pool)
        self.last = bb.nn.keep_real(nn.Conv2d(8, 6, 2, groups=2))
        self.last.weight.data = (self.last.weight.data * 8).round() / 8
        self.means = nn.Sequential(nn.AvgPool2d(3, 2, 1), nn.AvgPool2d(2, 1, 1, count_include_pad=False))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d((2, 3)), nn.Flatten(), nn.Linear(36, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.grouped(self.sign(x))) + x
        z = self.deep(self.sign(y)) / 8
        y = self.last(self.bits(z)) + self.last(self.pool(nn.functional.hardtanh(z)))
        return self.head(self.means(y.relu()))


def signs_1d() -> nn.Module:
    layers: list[nn.Module] = [bb.nn.BinaryActivation()]
    for inputs, outputs in ((3, 7), (7, 33)):
        layers += [nn.Conv1d(inputs, outputs, 5, padding=2), nn.BatchNorm1d(outputs), bb.nn.BinaryActivation()]
    layers += [nn.AvgPool1d(2), nn.Flatten(), nn.Linear(33 * 10, 2), nn.Unflatten(1, (2, 1)), nn.Softmax(1)]
    return nn.Sequential(*layers)


def signs_of_words() -> nn.Module:
    """Rows of 31, 32, 33 and 64 signs, and one logit."""
    layers: list[nn.Module] = [nn.Linear(5, 31), bb.nn.BinaryActivation()]
    for inputs, outputs in ((31, 32), (32, 33), (33, 64)):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), bb.nn.BinaryActivation()]
    return nn.Sequential(*layers, nn.Linear(64, 1), nn.Flatten())


def image_of_bits() -> nn.Module:
    layers = [nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), bb.nn.BinaryActivation(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), bb.nn.BinaryActivation(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(144, 10))


NETWORKS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "mlp": (lambda: bb.nn.mlp(20, [40, 24], 3), (20,)),
    "words": (signs_of_words, (5,)),
    "bits": (image_of_bits, (1, 6, 6)),
    "residual": (Residual, (2, 19, 23)),
    "1d": (signs_1d, (3, 20)),
    "narrow": (Narrow, (3, 21)),
}
IN_C = [name for name in NETWORKS if name != "narrow"]  # which has steps that no header has


@functools.cache
def made(name: str) -> tuple[PackedNetwork, np.ndarray]:
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    x = grid(24, *shape)
    return bb.pack(settled(make()), x), x.numpy()


def compiled(packed: PackedNetwork, folder, *flags: str):
    """A function from inputs to logits and classes, by gcc."""
    (folder / "net.h").write_text(c_header(packed))
    (folder / "main.c").write_text(DRIVER)
    sizes = [f"-DINPUTS={packed.values[0].size}", f"-DOUTPUTS={packed.values[-1].size}"]
    command = ["gcc", *FLAGS, *sizes, *flags, "main.c", "-o", "net", "-lm"]
    subprocess.run(command, cwd=folder, check=True)

    def run(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        done = subprocess.run([folder / "net"], input=x.astype("<f4").tobytes(), capture_output=True)
        assert done.returncode == 0 and not done.stderr, done.stderr.decode()
        rows = np.frombuffer(done.stdout, "<f4").reshape(len(x), -1)
        logits, classes = rows[:, :-1].reshape(len(x), *packed.values[-1].shape), rows[:, -1:].copy()
        return logits, classes.view("<i4")[:, 0]

    return run


def in_order(monkeypatch) -> None:
    """Makes the reference round as C does: every sum in float32, one term after the other."""

    def total(terms: np.ndarray) -> np.ndarray:
        return np.cumsum(terms, -1, np.float32)[..., -1]

    def products(rows, weight, signs):
        if weight.dtype == np.uint8:
            weight = unpack_signs(weight, rows.shape[1])
        return total(rows[:, None].astype(np.float32) * weight.reshape(len(weight), -1).astype(np.float32))

    def affine(x, tensors):
        return x * np.float32(tensors.get("scale", 1)) + np.float32(tensors.get("shift", 0))

    def avg_pool(x, step):
        def windows(values):
            found = reference._pool_windows(values, step, 0.0)
            return found.reshape(*found.shape[: values.ndim], -1)

        seen = windows(np.ones_like(x)).sum(-1)
        return total(windows(x)) / np.float32(windows(x).shape[-1] if step.settings["count_padding"] else seen)

    def adaptive(x, step):
        (rows, columns), (m, n) = x.shape[2:], step.settings["size"]
        result = np.empty((*x.shape[:2], m, n), np.float32)
        for h in range(m):
            for w in range(n):
                part = x[:, :, h * rows // m : -(-(h + 1) * rows // m), w * columns // n : -(-(w + 1) * columns // n)]
                flat = part.reshape(*x.shape[:2], -1)
                result[:, :, h, w] = total(flat) / np.float32(flat.shape[-1])
        return result

    for name, other in [("_products", products), ("_affine", affine), ("_avg_pool", avg_pool)]:
        monkeypatch.setattr(reference, name, other)
    monkeypatch.setattr(reference, "_adaptive_avg_pool", adaptive)


def classes(logits: np.ndarray) -> np.ndarray:
    flat = logits.reshape(len(logits), -1)
    return flat.argmax(1) if flat.shape[1] > 1 else (flat[:, 0] > 0).astype(int)


def same(name: str, got: tuple[np.ndarray, np.ndarray], wanted: np.ndarray) -> None:
    if name == "1d":  # a softmax, and two libraries' exp
        np.testing.assert_allclose(got[0], wanted, rtol=3e-7, atol=0)
    else:
        assert np.array_equal(got[0], wanted)
    assert np.array_equal(got[1], classes(wanted)) and len({row.tobytes() for row in wanted}) > 1


@needs_gcc
@pytest.mark.parametrize("name", IN_C)
def test_c_is_the_reference_bit_for_bit(name, tmp_path, monkeypatch):
    packed, x = made(name)
    noise = np.random.default_rng(0).standard_normal(x.shape, np.float32)  # whose sums are not exact
    wanted = load(packed).outputs(x)[0]
    same(name, compiled(packed, tmp_path, "-Dnet_sum=double")(x), wanted)
    run = compiled(packed, tmp_path)
    np.testing.assert_allclose(run(x)[0], wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())
    in_order(monkeypatch)
    for inputs in (x, noise):
        same(name, run(inputs), load(packed).outputs(inputs)[0])


@needs_gcc
def test_c_stays_within_its_memory(tmp_path):
    packed, x = made("residual")
    run = compiled(packed, tmp_path, "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    assert np.array_equal(run(x)[1], classes(load(packed).outputs(x)[0]))


@needs_gcc
def test_c_allocates_nothing(tmp_path):
    """All that the object asks for is memset, memcpy and exp."""
    packed, _ = made("1d")
    (tmp_path / "net.h").write_text(c_header(packed, "tiny"))
    (tmp_path / "net.c").write_text('#include "net.h"\nint (*const use)(const float *, float *) = tiny_predict;\n')
    subprocess.run(["gcc", *FLAGS, "-Wconversion", "-Wshadow", "-c", "net.c"], cwd=tmp_path, check=True)
    asked = subprocess.run(["nm", "-u", "net.o"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert {line.split()[-1] for line in asked.splitlines()} <= {"memset", "memcpy", "exp", "_GLOBAL_OFFSET_TABLE_"}


def test_c_memory_by_hand():
    """Signs of 8 x 6 x 6 take 9 words and pooled 3; the window of 72 signs and its mask take 6 more."""
    text = c_header(made("bits")[0])
    assert "scratch  72 bytes" in text and "net_memory[18]" in text
    # Bits of 9, 72 and 144 signs in rows of whole words; 8 scales and shifts; 16 thresholds and directions; a shift.
    assert f"tables   {4 * (8 + 16 * 3 + 10 * 5) + 4 * 2 * 8 + 5 * 16 + 4 * 10} bytes" in text
    assert "malloc" not in text and c_header(made("mlp")[0]).count("static const uint32_t") == 3


@needs_gcc
def test_c_of_programs_that_bb_pack_does_not_make(tmp_path):
    """Thresholds of reals beyond float32's integers, float16 weights, a tied tensor, an output that is a copy."""
    tensors = {
        "w": np.array([[0.5, -1], [2, 0.25]], np.float16),
        "t": np.array([(1 << 24) + 1, -3], np.int32),
        "d": np.array([1, -1], np.int8),
    }
    above = Step("threshold", (1,), "", {}, {"threshold": "t", "direction": "d"})
    steps = (Step("linear", (0,), "", {}, {"weight": "w"}), above, Step("add", (2, 1)), Step("sign", (0,)))
    steps += (
        Step("add", (3, 4)),
        Step("linear", (5,), "", {}, {"weight": "w"}),
        Step("reshape", (6,), "", {"shape": [1, 2]}),
    )
    packed = PackedNetwork(Program((2,), 1, steps), tensors)
    x = np.array([[1 << 25, 0], [(1 << 25) + 4, 0], [0, 12], [0, -12], [1, -1]], np.float32)
    wanted = load(packed).outputs(x)[0]
    assert np.array_equal(compiled(packed, tmp_path)(x)[0], wanted)
    assert len({row.tobytes() for row in wanted}) == len(x)


@pytest.mark.parametrize("threshold", [0, -7, (1 << 24) + 1, -(1 << 24) - 1, (1 << 31) - 1, -(1 << 31)])
def test_a_float_takes_the_place_of_an_integer(threshold):
    above = float_above(np.array([threshold], np.int32))[0]
    for x in (above, np.nextafter(above, np.float32(-np.inf)), np.nextafter(above, np.float32(np.inf))):
        assert bool(x >= above) == (float(x) >= threshold)


def test_where_a_scaled_sign_turns():
    """The sign of x · scale + shift at the numbers around its zero is that of the exact sum."""
    rng = np.random.default_rng(0)
    scale, shift = (rng.normal(size=(2, 2000)) * 10.0 ** rng.integers(-9, 9, (2, 2000))).astype(np.float32)
    scale[:2], shift[:4] = 0, [-1, 1, 0, -0.0]
    threshold, direction = crossing(scale, shift)
    near = np.clip(threshold * direction, -1e38, 1e38, dtype=np.float32)
    for x in (near, np.nextafter(near, np.float32(np.inf)), np.nextafter(near, np.float32(-np.inf)), near * 0):
        exact = np.array(
            [
                Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c)) >= 0
                for a, b, c in zip(x, scale, shift, strict=True)
            ]
        )
        assert np.array_equal(x * direction >= threshold, exact)


@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_is_the_reference(name):
    onnx = needs.ONNX.module("onnx")
    onnxruntime = needs.ONNX.module("onnxruntime")
    packed, x = made(name)
    model = onnx_model(packed)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 13)]
    # Values that are signs or counts of signs are outputs too here: in them nothing is rounded.
    exact = [i for i, value in enumerate(packed.values[:-1]) if value.signs or value.binary]
    assert bool(exact) == (name != "mlp")
    model.graph.output.extend(onnx.ValueInfoProto(name=f"value{i}") for i in exact)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    values = [x]
    for index, step in enumerate(packed.program.steps):
        values.append(reference.computed(packed, index, [values[source] for source in step.sources], 0))
    for count in (len(x), 1):
        got, *signs = session.run(None, {"input": x[:count]})
        assert got.dtype == np.float32 and got.shape == (count, *packed.values[-1].shape)
        np.testing.assert_allclose(got, values[-1][:count], rtol=1e-5, atol=1e-5 * np.abs(values[-1]).max())
        for i, found in zip(exact, signs, strict=True):
            assert np.array_equal(found, values[i][:count])


def test_export_of_every_other_step():
    """Steps that the networks above do not have."""
    onnxruntime = needs.ONNX.module("onnxruntime")
    pool = {"kernel": [2], "stride": [3], "padding": [1], "dilation": [3], "ceil": True}
    steps = (
        Step("clamp", (0,), "", {"min": -1.5, "max": None}),
        Step("affine", (1,)),
        Step("max_pool", (2,), "", pool),
        Step("clamp", (3,), "", {"min": None, "max": 1.0}),
        Step("tanh", (4,)),
        Step("sigmoid", (5,)),
        Step("softmax", (6,), "", {"axis": 1}),
    )
    packed = PackedNetwork(Program((3, 11), 1, steps, {"for": "tests"}), {})
    model = onnx_model(packed)
    assert {entry.key: entry.value for entry in model.metadata_props} == {"for": "tests"}
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = 2 * np.random.default_rng(0).standard_normal((4, 3, 11), np.float32)
    np.testing.assert_allclose(session.run(None, {"input": x})[0], load(packed).outputs(x)[0], rtol=1e-5)


def test_refusals():
    model = settled(nn.Sequential(nn.Linear(8, 4), nn.Tanh()))
    optimizer = bb.BayesBiNN([("0.weight", model[0].weight)], ess=10, seed=0)
    several = bb.pack(model, torch.zeros(1, 8), optimizer.eval().posterior(), samples=3)
    for wrong, message in [
        (
            lambda: c_header(bb.pack(model, torch.zeros(1, 8))),
            r"'tanh' of layer '1 \(Tanh\)' cannot be written as C, ",
        ),
        (lambda: c_header(several), "a C header holds one network, got 3"),
        (lambda: onnx_model(several), "an ONNX model holds one network, got 3"),
        (lambda: c_header(bb.pack(model[:1], torch.zeros(1, 8)), "my-net"), "begin with a letter, got 'my-net'"),
    ]:
        with pytest.raises(ValueError, match=message) as caught:
            wrong()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("my-net.v2.h", "my_net_v2"),
        ("2bit.h", "net_2bit"),
        ("größe.h", "gr_e"),
        ("---.h", "net"),
        (f"{'x' * 200}.h", "x" * 50),
    ],
)
def test_a_header_is_named_after_any_file(tmp_path, monkeypatch, capsys, file, name):
    monkeypatch.chdir(tmp_path)
    packed, _ = made("bits")
    packed.save("net.safetensors")
    assert cli.main(["export", "net.safetensors", "--c", file]) == 0
    assert f"it defines {name}_predict" in capsys.readouterr().out
    assert (tmp_path / file).read_text() == c_header(packed, name)


PREPARE = """
#include <stdio.h>
#include "net.h"
int main(void) {
  static SOURCE source[SIZE];
  static float input[SIZE];
  while (fread(source, sizeof source[0], SIZE, stdin) == SIZE) {
    net_prepare(source, input);
    fwrite(input, sizeof(float), SIZE, stdout);
  }
  for (int index = -1; index <= 3; ++index) puts(net_class(index));
  return 0;
}
"""
NAMES = ('a "b" \\n ??/ %s */ @', "Grüße 1", "{", "x" * 100)


@needs_gcc
@pytest.mark.parametrize("kind", ["grey", "rgb", "vector"])
def test_c_makes_inputs_of_pixels_and_names_classes(tmp_path, kind):
    """As `prepare` does, bit for bit; a header whose functions are not used brings no warnings either."""
    generator = np.random.default_rng(0)
    shape = {"grey": (24,), "rgb": (3, 4, 6), "vector": (5,)}[kind]
    if kind == "vector":
        inputs = Inputs("vector", mean=0.5, std=(1.0, 2.0, 4.0, 8.0, 3.0), classes=NAMES[:3])
        given = generator.integers(-9, 9, (7, 5)).astype(np.float32)
    else:
        mean, std = (0.3, 0.7) if kind == "grey" else ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
        inputs = Inputs("image", colour=kind, height=4, width=6, mean=mean, std=std, classes=NAMES[:3])
        given = generator.integers(0, 256, (7, 4, 6) if kind == "grey" else (7, 4, 6, 3), dtype=np.uint8)
    model = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 3))
    bb.STE([model[1].weight], seed=0).eval()
    packed = bb.pack(model, torch.zeros(1, *shape), inputs=inputs)
    run, x = compiled(packed, tmp_path), packed.prepare(given)
    np.testing.assert_allclose(run(x)[0], load(packed).outputs(x)[0], rtol=1e-5, atol=1e-5)
    (tmp_path / "main.c").write_text(PREPARE)
    sizes = [f"-DSIZE={math.prod(shape)}", f"-DSOURCE={'float' if kind == 'vector' else 'uint8_t'}"]
    subprocess.run(["gcc", *FLAGS, "-Wno-unused-function", *sizes, "main.c", "-o", "made"], cwd=tmp_path, check=True)
    done = subprocess.run([tmp_path / "made"], input=given.tobytes(), capture_output=True, check=True)
    made_inputs, text = done.stdout[: x.nbytes], done.stdout[x.nbytes :].decode()
    got = np.frombuffer(made_inputs, "<f4").reshape(x.shape)
    assert np.array_equal(got, x)
    assert text == "\n".join(["", *NAMES[:3], "", ""])


def test_onnx_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"onnx is not installed; run: pip install .*\[onnx\]"):
        onnx_model(made("mlp")[0])


def test_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    packed, _ = made("bits")
    packed.save("net.safetensors")
    assert cli.main(["export", "net.safetensors", "--c", "digits.h"]) == 0
    assert (tmp_path / "digits.h").read_text() == c_header(packed, "digits")
    assert "written: digits.h" in capsys.readouterr().out
    assert cli.main(["export", "net.safetensors"]) == 2
    error = capsys.readouterr().err
    assert "give --c, --onnx, --qonnx or --gguf" in error and len(error.splitlines()) == 1
    onnx = needs.ONNX.module("onnx")
    assert cli.main(["export", "net.safetensors", "--onnx", "net.onnx"]) == 0
    assert onnx.load("net.onnx") == onnx_model(packed)
