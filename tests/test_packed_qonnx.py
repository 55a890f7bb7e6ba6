"""Packed networks as QONNX, run by the package qonnx, say what the reference says."""

from __future__ import annotations

import copy
import functools
import importlib
from typing import Any

import numpy as np
import pytest
import torch

import bitbayes as bb
import needs
from bitbayes.lab import cli
from bitbayes.packed import PackedNetwork, Program, Step, load, onnx_model, qonnx_model
from bitbayes.packed.backends import reference
from bitbayes.packed.format.bits import crossing
from test_packed_encoders import logits
from test_packed_encoders import made as encoder
from test_packed_export import NETWORKS, classes, made

DOMAIN = "qonnx.custom_op.general"


@pytest.fixture
def qonnx(monkeypatch):
    """Functions that give a packed network's model its types, and that run it."""
    needs.QONNX.module("qonnx")
    from qonnx.core import onnx_exec
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.change_batchsize import ChangeBatchSize
    from qonnx.transformation.infer_datatypes import InferDataTypes
    from qonnx.transformation.infer_shapes import InferShapes

    # qonnx asks for the newest IR version of onnx, which may be newer than what onnxruntime reads.
    old = functools.partial(onnx_exec.qonnx_make_model, ir_version=7)
    monkeypatch.setattr(onnx_exec, "qonnx_make_model", old)

    def typed(packed: PackedNetwork, count: int = 1) -> Any:
        model = ModelWrapper(qonnx_model(packed))
        if count > 1:  # a batch of one is as it was written
            model = model.transform(ChangeBatchSize(count))
        return model.transform(InferShapes()).transform(InferDataTypes())

    def run(model: Any, x: np.ndarray) -> dict[str, np.ndarray]:
        found = onnx_exec.execute_onnx(model, {model.graph.input[0].name: x}, return_full_exec_context=True)
        return found | {"output": found[model.graph.output[0].name]}

    return typed, run


def values_of(packed: PackedNetwork, x: np.ndarray) -> dict[str, np.ndarray]:
    """All values of the reference by their names in the model."""
    values = [x]
    for index, step in enumerate(packed.program.steps):
        values.append(reference.computed(packed, index, [values[source] for source in step.sources], 0))
    names = ["input", *(f"value{i}" for i in range(1, len(values) - 1)), "output"]
    return dict(zip(names, values, strict=True))


def steps_of(*steps: tuple[Any, ...], shape: tuple[int, ...], **tensors: np.ndarray) -> PackedNetwork:
    """Network of steps (op, sources, settings, tensors)."""
    made_steps = tuple(Step(op, sources, "", *more) for op, sources, *more in steps)
    return PackedNetwork(Program(shape, 1, made_steps), tensors)


@pytest.mark.parametrize("name", NETWORKS)
def test_qonnx_is_the_reference(name, qonnx):
    typed, run = qonnx
    packed, x = made(name)
    wanted = values_of(packed, x)
    assert {(entry.domain, entry.version) for entry in qonnx_model(packed).opset_import} == {("", 13), (DOMAIN, 1)}
    for count in (4, 1):
        model = typed(packed, count)
        got = run(model, x[:count])
        assert got["output"].shape == wanted["output"][:count].shape and got["output"].dtype == np.float32
        np.testing.assert_allclose(got["output"], wanted["output"][:count], rtol=1e-6, atol=3e-6)
        assert np.array_equal(classes(got["output"]), classes(wanted["output"][:count]))
    names = [*wanted]
    there = {tensor for node in model.graph.node for tensor in node.output}
    for label, value in zip(names, packed.values, strict=True):
        if label in there:  # not a scale before a sign
            kind = model.get_tensor_datatype(label).name
            assert (kind == "BIPOLAR") == value.signs, label
            assert (kind == "INT32") >= bool(value.binary), label
            if value.signs or value.binary:  # nothing is rounded
                assert np.array_equal(got[label], wanted[label][:count])
    # Every weight of bits is ±1 in the file, and is marked.
    layers = [step for step in packed.program.steps if step.op in ("linear", "conv")]
    bits = [step for step in layers if packed.tensors[step.tensors["weight"]].dtype == np.uint8]
    quantisers = [node for node in model.graph.node if node.op_type == "BipolarQuant"]
    marked = [node for node in quantisers if model.get_initializer(node.input[0]) is not None]
    assert len(marked) == len(bits) and {node.domain for node in quantisers} == {DOMAIN}
    assert {model.get_tensor_datatype(node.output[0]).name for node in marked} == {"BIPOLAR"}
    assert all(set(np.unique(model.get_initializer(node.input[0]))) <= {-1, 1} for node in marked)
    assert all(model.get_initializer(node.input[1]) == 1 for node in quantisers)


@pytest.mark.parametrize("name", ["mlp", "residual"])
def test_the_model_survives_the_cleanup_that_converters_ask_for(name, qonnx):
    from qonnx.transformation.infer_datatypes import InferDataTypes
    from qonnx.util.cleanup import cleanup_model

    typed, run = qonnx
    packed, x = made(name)
    model = cleanup_model(typed(packed)).transform(InferDataTypes())
    wanted = load(packed).outputs(x[:1])[0]
    np.testing.assert_allclose(run(model, x[:1])["output"], wanted, rtol=1e-6, atol=3e-6)
    assert not {node.op_type for node in model.graph.node} & {"Gemm", "Cast", "Less", "Where"}


@pytest.mark.parametrize("limit", [0, 1, -3, (1 << 24) + 1, -(1 << 24) - 1, (1 << 31) - 1, -(1 << 31)])
def test_numbers_at_a_threshold_and_next_to_it(limit, qonnx):
    typed, run = qonnx
    tensors = {"t": np.full(2, limit, np.int32), "d": np.array([1, -1], np.int8)}
    packed = steps_of(("threshold", (0,), {}, {"threshold": "t", "direction": "d"}), shape=(2,), **tensors)
    near = np.float32(limit)
    numbers = [near, *(np.nextafter(near, np.float32(end)) for end in (-np.inf, np.inf)), -0.0, 1e-45, -1e-45, 3e38]
    x = np.array([[number, -number] for number in numbers], np.float32)
    wanted = load(packed).outputs(x)[0]
    assert len(np.unique(wanted)) == 2
    assert np.array_equal(run(typed(packed, len(x)), x)["output"], wanted)


def test_numbers_where_a_scaled_sign_turns_and_next_to_it(qonnx):
    """In both forms of ONNX: a product and a sum that round would change a sign of these numbers."""
    onnxruntime = needs.ONNX.module("onnxruntime")
    typed, run = qonnx
    rng = np.random.default_rng(0)
    scale, shift = (rng.normal(size=(2, 500)) * 10.0 ** rng.integers(-6, 6, (2, 500))).astype(np.float32)
    scale[:2] = 0
    packed = steps_of(
        ("affine", (0,), {}, {"scale": "scale", "shift": "shift"}),
        ("sign", (1,)),
        shape=(500,),
        scale=scale,
        shift=shift,
    )
    threshold, direction = crossing(scale, shift)
    near = (threshold * direction).clip(-1e38, 1e38)
    x = np.stack([near, *(np.nextafter(near, np.float32(end)) for end in (-np.inf, np.inf)), 0 * near])
    wanted = load(packed).outputs(x)[0]
    assert not np.array_equal(np.where(x * scale + shift >= 0, 1, -1), wanted)
    model = typed(packed, len(x))
    assert [node.op_type for node in model.graph.node] == ["Mul", "Sub", "BipolarQuant"]
    assert np.array_equal(run(model, x)["output"], wanted)
    session = onnxruntime.InferenceSession(onnx_model(packed).SerializeToString(), providers=["CPUExecutionProvider"])
    assert np.array_equal(session.run(None, {"input": x})[0], wanted)


POOL = {"kernel": [2], "stride": [3], "padding": [1], "dilation": [1], "ceil": True}
BITS = {"w": np.arange(1, 9, dtype=np.uint8).reshape(8, 1)}
STEPS: dict[str, tuple[Any, ...]] = {  # of value 1, signs; and of value 2, integers
    "zeros beside signs": ("pad", (1,), {"before": [0, 1], "after": [2, 0]}),
    "signs, then reals": ("concat", (1, 0), {"axis": 1}),
    "signs and signs": ("concat", (1, 1), {"axis": 2}),
    "integers, then reals": ("concat", (2, 0), {"axis": 1}),
    "smaller signs": ("clamp", (1,), {"min": -0.5, "max": 0.25}),
    "integers between fractions": ("clamp", (2,), {"min": -1.5, "max": 2.5}),
    "at most": ("clamp", (2,), {"min": None, "max": 0.5}),
    "at least": ("clamp", (2,), {"min": 0.5, "max": None}),
    "pooled signs": ("max_pool", (1,), POOL),
    "pooled integers": ("max_pool", (2,), POOL),
    "windows that see only padding": ("max_pool", (1,), {**POOL, "dilation": [12], "ceil": False}),
    "tanh": ("tanh", (2,)),
    "sigmoid": ("sigmoid", (2,)),
    "gelu": ("gelu", (2,), {"tanh": False}),
    "gelu by tanh": ("gelu", (2,), {"tanh": True}),
    "sum": ("add", (1, 2)),
    "product": ("affine", (2,), {}, {"scale": "s"}),
    "nothing": ("affine", (1,)),
    "shape": ("reshape", (1,), {"shape": [4, 22]}),
    "order": ("permute", (2,), {"axes": [2, 1]}),
}


@pytest.mark.parametrize("name", STEPS)
def test_every_step_after_signs_and_integers(name, qonnx):
    """Where qonnx would infer signs or integers from the first input alone, it must not round the others."""
    typed, run = qonnx
    conv = {"kernel": [1], "stride": [1], "padding": [0], "dilation": [1], "groups": 1}
    scale = {"s": np.full(8, 0.3, np.float32)} if name == "product" else {}
    packed = steps_of(
        ("sign", (0,)),
        ("conv", (1,), conv, {"weight": "w"}),
        STEPS[name],
        ("affine", (3,), {}, {"shift": "half"}),
        shape=(8, 11),
        half=np.array([0.5], np.float32),
        **BITS,
        **scale,
    )
    x = np.random.default_rng(0).standard_normal((2, 8, 11), np.float32)
    wanted = np.nan_to_num(load(packed).outputs(x)[0])  # onnxruntime has no maximum below the lowest float
    model = typed(packed, 2)
    got = run(model, x)
    np.testing.assert_allclose(got["output"], wanted, rtol=1e-5, atol=1e-6)
    if model.get_tensor_datatype("value3").name == "BIPOLAR":
        assert set(np.unique(got["value3"])) <= {-1, 1}
    else:
        assert not packed.values[3].signs


@pytest.mark.parametrize("name", ["vit of patches", "reader, causal"])
def test_transformers(name, qonnx):
    typed, run = qonnx
    model, inputs = encoder(name)
    x = inputs(1)
    got = run(typed(bb.pack(model, x)), x.numpy())["output"]
    np.testing.assert_allclose(got, logits(model, x), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@needs.HLS4ML.unless_installed("hls4ml")
@needs.kernels()  # a compiler
@pytest.mark.filterwarnings("ignore::UserWarning:hls4ml")
@pytest.mark.parametrize("activation", [bb.nn.BinaryActivation, torch.nn.ReLU])
def test_hls4ml_emulates_the_same_network(activation, tmp_path, monkeypatch):
    """The C++ of hls4ml in fixed point; docs/qonnx.md says which two passes it must leave out, and why."""
    hls4ml, flow = map(importlib.import_module, ("hls4ml", "hls4ml.model.flow"))
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.util.cleanup import cleanup_model

    torch.manual_seed(0)
    modules = [
        torch.nn.Sequential(torch.nn.Linear(inputs, outputs, bias=False), torch.nn.BatchNorm1d(outputs))
        for inputs, outputs in ((8, 6), (6, 6), (6, 3))
    ]
    model = torch.nn.Sequential(modules[0], activation(), modules[1], activation(), modules[2])
    for module in modules:  # also negative scales, which turn signs
        torch.nn.init.normal_(module[1].weight)
        torch.nn.init.normal_(module[1].bias, std=0.3)
    binary, _ = bb.split_parameters(model)
    bb.STE(binary, seed=0).eval()
    x = (16 * torch.randn(64, 8)).round() / 16  # exact in fixed point
    bb.refresh_batchnorm(model, [x])
    packed = bb.pack(model, x)
    wanted = load(packed).outputs(x.numpy())[0]
    assert len({*classes(wanted).tolist()}) == 3
    exported = cleanup_model(ModelWrapper(qonnx_model(packed)))
    passes = copy.deepcopy(flow.get_flow("vivado:quantization"))
    monkeypatch.setitem(flow.flow.flow_map, "vivado:quantization", passes)
    left_out = ["vivado:merge_batch_norm_quantized_tanh", "vivado:quantize_dense_output"]
    flow.update_flow("vivado:quantization", remove_optimizers=left_out)
    settings = hls4ml.utils.config.config_from_onnx_model(
        exported, granularity="name", backend="Vitis", default_precision="fixed<32,12>"
    )
    converted = hls4ml.converters.convert_from_onnx_model(
        exported, output_dir=str(tmp_path / "hls"), backend="Vitis", hls_config=settings
    )
    weights = [layer for layer in converted.get_layers() if layer.class_name == "Dense"]
    assert [str(layer.get_weights("weight").type.precision) for layer in weights] == ["uint<1>"] * 3
    converted.compile()
    got = converted.predict(x.numpy())
    np.testing.assert_allclose(got, wanted, atol=2e-4)  # 20 bits after the point
    assert np.array_equal(classes(got), classes(wanted))


def test_several_networks_are_refused(qonnx):
    weight = np.array([[[1]], [[0]]], np.uint8)
    packed = PackedNetwork(Program((3,), 2, (Step("linear", (0,), "", {}, {"weight": "w"}),)), {"w": weight})
    with pytest.raises(ValueError, match="an ONNX model holds one network, got 2; pack the mode"):
        qonnx_model(packed)


def test_command(tmp_path, monkeypatch, capsys):
    onnx = needs.ONNX.module("onnx")
    monkeypatch.chdir(tmp_path)
    packed, _ = made("bits")
    packed.save("net.safetensors")
    assert cli.main(["export", "net.safetensors", "--qonnx", "net.onnx"]) == 0
    assert "written: net.onnx" in capsys.readouterr().out
    assert onnx.load("net.onnx") == qonnx_model(packed)
    assert cli.main(["export", "net.safetensors", "--onnx", "same.onnx", "--qonnx", "./same.onnx"]) == 2
    assert "one file" in capsys.readouterr().err
