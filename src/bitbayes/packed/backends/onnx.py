"""Export of packed networks as ONNX models, for runtimes that read only ONNX, and as QONNX models, for FPGAs.

Both are the same graph. They differ in how they write weights of −1 and +1, and signs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from bitbayes.errors import require
from bitbayes.packed.format.bits import Array
from bitbayes.packed.format.network import PackedNetwork
from bitbayes.packed.format.ops import PADDED
from bitbayes.packed.format.program import Step

_OPSET, _IR = 13, 7  # of 2020, the first version in which softmax takes one axis, so that old runtimes can read it
_FLOAT, _INT64, _BOOL = 1, 7, 9  # onnx.TensorProto.FLOAT, INT64 and BOOL
_DOMAIN = "qonnx.custom_op.general"


def onnx_model(network: PackedNetwork) -> Any:
    """Return a network as an ONNX model of opset 13, for batches of any size.

    ONNX has no 1-bit type, so binary weights become −1 and +1 in float32. The model takes 32× the bytes of the packed
    file and runs at the speed of a float network. It is meant for runtimes that read only ONNX.

    Args:
        network: A packed network with C = 1.

    Returns:
        An `onnx.ModelProto` from `input` (N, ...) to `output` (N, ...). `onnx.save(model, path)` writes it to a file.

    Raises:
        ImportError: If onnx is not installed.
        ValueError: If the file holds several networks.

    Example:
        >>> model = torch.nn.Linear(16, 2, bias=False)
        >>> _ = bb.STE([model.weight], seed=0).eval()
        >>> [node.op_type for node in onnx_model(bb.pack(model, torch.zeros(1, 16))).graph.node]
        ['MatMul']
    """
    return _model(_Graph(network))


def qonnx_model(network: PackedNetwork) -> Any:
    """Return a network as a QONNX model for a batch of one, whose weights and activations are marked as binary.

    QONNX is ONNX with operators for quantisation (Pappalardo et al. 2022, QONNX: Representing Arbitrary-Precision
    Quantized Neural Networks). FINN and hls4ml, which make hardware for FPGAs, read it. Binary weights and signs pass
    through the operator `BipolarQuant` with scale 1: +1 where x ≥ 0, else −1. A scale stays a product after the layer.
    A threshold is subtracted before the sign; the subtraction rounds, but it never changes the sign.

    Args:
        network: A packed network with C = 1.

    Returns:
        An `onnx.ModelProto` from `input` (1, ...) to `output` (1, ...). `onnx.save(model, path)` writes it to a file,
        and `qonnx.core.modelwrapper.ModelWrapper(model)` takes it as it is.

    Raises:
        ImportError: If onnx is not installed.
        ValueError: If the file holds several networks.

    Example:
        >>> model = torch.nn.Linear(16, 2, bias=False)
        >>> _ = bb.STE([model.weight], seed=0).eval()
        >>> [node.op_type for node in qonnx_model(bb.pack(model, torch.zeros(1, 16))).graph.node]
        ['BipolarQuant', 'MatMul']
    """
    return _model(_QuantisedGraph(network))


def _model(graph: _Graph) -> Any:
    """Return the model of a graph without nodes; adds the nodes of all steps."""
    onnx = require("onnx", "onnx")
    network = graph.network
    if network.program.samples > 1:
        raise ValueError(
            f"an ONNX model holds one network, got {network.program.samples}; pack the mode of a run, without --samples"
        )
    for index, step in enumerate(network.program.steps):
        graph.index = index
        _STEPS[step.op](graph, step)
    graph.prune()
    make = onnx.helper
    ends = [
        make.make_tensor_value_info(name, kind, [graph.batch, *value.shape])
        for name, kind, value in (
            ("input", _FLOAT if network.tokens is None else _INT64, network.values[0]),
            ("output", _FLOAT, network.values[-1]),
        )
    ]
    nodes = [make.make_node(op, *ends, name=name, **more) for op, *ends, name, more in graph.nodes]
    tensors = [onnx.numpy_helper.from_array(tensor, name) for name, tensor in graph.tensors.items()]
    whole = make.make_graph(nodes, "packed", ends[:1], ends[1:], tensors)
    opsets = [make.make_opsetid(domain, version) for domain, version in graph.opsets.items()]
    model = make.make_model(whole, producer_name="bitbayes", opset_imports=opsets, ir_version=_IR)
    make.set_model_props(model, dict(network.program.about))
    onnx.checker.check_model(model, full_check=True)
    return model


class _Graph:
    """Nodes (type, inputs, outputs, name, attributes) and initialisers; ":" keeps their names apart from tensors'."""

    batch: ClassVar[str | int] = "N"
    opsets: ClassVar[Mapping[str, int]] = {"": _OPSET}

    def __init__(self, network: PackedNetwork) -> None:
        self.network = network
        self.nodes: list[tuple[str, list[str], list[str], str, dict[str, Any]]] = []
        self.tensors: dict[str, Array] = {}
        self.index = 0  # number of the current step

    def source(self, step: Step, which: int = 0) -> str:
        """Return the name of a value that a step takes."""
        return self.value(step.sources[which])

    def value(self, number: int) -> str:
        """Return the name of a value."""
        names = {0: "input", len(self.network.program.steps): "output"}
        return names.get(number, f"value{number}")

    def add(self, op: str, *inputs: str, last: bool = True, **attributes: Any) -> str:
        """Add a node; the last node of a step makes the step's value."""
        name = self.value(self.index + 1) if last else f"node{len(self.nodes)}"
        layer = self.network.program.steps[self.index].name
        self.nodes.append((op, list(inputs), [name], f"{layer}:{name}", attributes))
        return name

    def prune(self) -> None:
        """Remove nodes and initialisers that the output does not need."""
        needed, kept = {"output"}, []
        for node in reversed(self.nodes):
            if needed.intersection(node[2]):
                needed.update(node[1])
                kept.append(node)
        self.nodes = kept[::-1]
        self.tensors = {name: tensor for name, tensor in self.tensors.items() if name in needed}

    def constant(self, name: str, tensor: Array) -> str:
        """Add an initialiser; the same name means the same tensor."""
        self.tensors[name] = tensor
        return name

    def number(self, value: float) -> str:
        """Add a scalar."""
        return self.constant(f"number:{value}", np.array(value, np.float32))

    def own(self, name: str, values: Any, dtype: npt.DTypeLike = np.int64) -> str:
        """Add a constant of the step, such as sizes or pads."""
        return self.constant(f"step{self.index}:{name}", np.array(values, dtype))

    def vector(self, step: Step, role: str) -> str:
        """Add one of the step's tensors of channels."""
        return self.channels(step, step.tensors[role], self.network.tensors_of(step)[role])

    def channels(self, step: Step, name: str, tensor: Array) -> str:
        """Add a tensor of channels, shaped to broadcast over (N, C, ...)."""
        rank = len(self.network.source_shape(step))
        return self.constant(f"{name}:{rank}", tensor.astype(np.float32).reshape(-1, *[1] * (rank - 1)))

    def weight(self, step: Step) -> str:
        """Add a weight as floats: (outputs, inputs / groups, *kernel), or (inputs, outputs) of a linear layer."""
        weight = self.network.weight(step)
        axes = "x".join(map(str, weight.shape))  # one tensor may be the weight of two layers of different shapes
        return self.constant(f"{step.tensors['weight']}:{axes}", weight.T if step.op == "linear" else weight)

    def sign(self, x: str, threshold: str) -> None:
        """Add a sign with Less and Where, which are older than GreaterOrEqual."""
        below = self.add("Less", x, threshold, last=False)
        self.add("Where", below, self.number(-1), self.number(1))

    def real(self, x: str) -> str:
        """Return the name of a value that may be used with any real numbers."""
        return x


class _QuantisedGraph(_Graph):
    """Graph of QONNX.

    A batch is one input, because the package qonnx, FINN and hls4ml need shapes without names.
    """

    batch = 1
    opsets: ClassVar[Mapping[str, int]] = {"": _OPSET, _DOMAIN: 1}

    def __init__(self, network: PackedNetwork) -> None:
        super().__init__(network)
        self.integers = set[str]()  # tensors that qonnx's InferDataTypes takes for integers

    def add(self, op: str, *inputs: str, last: bool = True, **attributes: Any) -> str:
        name = super().add(op, *inputs, last=last, **attributes)
        typed = inputs if op in ("MatMul", "Conv", "Add", "Mul") else inputs[:1] if op in _TYPE_OF_FIRST else ()
        if op == "BipolarQuant" or (typed and self.integers.issuperset(typed)):
            self.integers.add(name)
        return name

    def bipolar(self, x: str, *, last: bool) -> str:
        """Add signs of numbers. FINN supports no other scale than 1."""
        return self.add("BipolarQuant", x, self.number(1), last=last, domain=_DOMAIN)

    def weight(self, step: Step) -> str:
        weight, bits = super().weight(step), self.network.stacked(step)["weight"].dtype == np.uint8
        return self.bipolar(weight, last=False) if bits else weight

    def sign(self, x: str, threshold: str) -> None:
        # The difference of two floats rounds to zero only if they are equal. It stays where the threshold is zero,
        # because FINN converts a BipolarQuant after a Sub, but not one after a layer.
        self.bipolar(self.add("Sub", x, threshold, last=False), last=True)

    def real(self, x: str) -> str:
        # Otherwise, qonnx gives the type of x to numbers that do not have it, and rounds them.
        return self.add("Cast", x, last=False, to=_FLOAT) if x in self.integers else x


_TYPE_OF_FIRST = ("Reshape", "Flatten", "Transpose", "MaxPool", "Pad", "Concat", "Slice", "Identity", "Clip")


def _affine(graph: _Graph, step: Step) -> None:
    x = graph.source(step)
    if "scale" in step.tensors:
        x = graph.add("Mul", x, graph.vector(step, "scale"), last="shift" not in step.tensors)
    if "shift" in step.tensors:
        x = graph.add("Add", x, graph.vector(step, "shift"))
    if not step.tensors:
        graph.add("Identity", x)


def _sign(graph: _Graph, step: Step) -> None:
    found = graph.network.comparison(step)
    x, own = graph.value(found.value), f"step{graph.index}"
    if (found.direction < 0).any():
        x = graph.add("Mul", x, graph.channels(step, f"{own}:direction", found.direction), last=False)
    graph.sign(x, graph.channels(step, f"{own}:threshold", found.threshold))


def _clamp(graph: _Graph, step: Step) -> None:
    (low, high), x = step.bounds, graph.source(step)
    if low == 0 and high is None:
        graph.add("Relu", x)
    else:  # qonnx does not run a Clip that lacks a bound
        bounds = [graph.number(bound) for bound in step.bounds if bound is not None]
        op = "Clip" if len(bounds) > 1 else "Max" if high is None else "Min"
        graph.add(op, graph.real(x), *bounds)


def _gelu(graph: _Graph, step: Step) -> None:
    """Add x · Φ(x) from older operators than Gelu's, which opset 13 lacks."""
    x = graph.source(step)
    if step.settings["tanh"]:
        square = graph.add("Mul", x, x, last=False)
        factor = graph.add("Mul", square, graph.number(0.044715 * math.sqrt(2 / math.pi)), last=False)
        slope = graph.add("Add", factor, graph.number(math.sqrt(2 / math.pi)), last=False)
        inner = graph.add("Tanh", graph.add("Mul", x, slope, last=False), last=False)
    else:
        inner = graph.add("Erf", graph.add("Mul", x, graph.number(math.sqrt(0.5)), last=False), last=False)
    twice = graph.add("Mul", x, graph.add("Add", inner, graph.number(1), last=False), last=False)
    graph.add("Mul", twice, graph.number(0.5))


def _windows(step: Step, *more: str) -> dict[str, Any]:
    names = {"kernel": "kernel_shape", "stride": "strides", "dilation": "dilations"}
    settings = {names[key]: list(getattr(step.sliding, key)) for key in ("kernel", "stride", *more)}
    return settings | {"pads": [*step.sliding.padding] * 2}


def _max_pool(graph: _Graph, step: Step) -> None:
    attributes, x, lowest = _windows(step, "dilation"), graph.source(step), -np.inf
    if graph.network.values[graph.index + 1].signs:
        lowest = -1
    elif step.sliding.ceil or set(step.sliding.dilation) != {1}:  # a window may see the padding, −∞, alone
        x = graph.real(x)
    if step.sliding.ceil:  # Runtimes round sizes up in different ways, so the input is padded to what torch would see.
        before, after = zip(*step.sliding.pads(graph.network.source_shape(step)[1:]), strict=True)
        attributes["pads"] = [0] * (2 * len(after))
        pads = graph.own("pads", [0, 0, *before, 0, 0, *after])
        x = graph.add("Pad", x, pads, graph.number(lowest), last=False)
    graph.add("MaxPool", x, **attributes)


def _adaptive(graph: _Graph, step: Step) -> None:
    sizes, counts, x = graph.network.source_shape(step)[1:], step.settings["size"], graph.source(step)
    if not any(size % count for size, count in zip(sizes, counts, strict=True)):
        kernel = [size // count for size, count in zip(sizes, counts, strict=True)]
        graph.add("AveragePool", x, kernel_shape=kernel, strides=kernel)
        return
    # Windows of different sizes are rows of a matrix for each axis.
    for axis, (size, count) in enumerate(zip(sizes, counts, strict=True)):
        means = np.zeros((count, size), np.float32)
        for i in range(count):
            start, end = i * size // count, -(-(i + 1) * size // count)
            means[i, start:end] = 1 / (end - start)
        last = axis + 1 == len(sizes)
        matrix = graph.own(f"means{axis}", means.T if last else means, np.float32)
        x = graph.add("MatMul", *((x, matrix) if last else (matrix, x)), last=last)


def _reshape(graph: _Graph, step: Step) -> None:
    shape, x = step.settings["shape"], graph.source(step)
    if len(shape) == 1:
        graph.add("Flatten", x)
    else:
        graph.add("Reshape", x, graph.own("shape", [0, *shape]))


def _slice(graph: _Graph, step: Step) -> None:
    places = (graph.own(key, [step.settings[key]]) for key in ("begin", "end", "axis"))
    graph.add("Slice", graph.source(step), *places)


def _offset(graph: _Graph, step: Step) -> None:
    offset = graph.network.tensors_of(step)["offset"].reshape(1, *graph.network.source_shape(step))
    graph.add("Add", graph.source(step), graph.own("offset", offset, np.float32))


def _embed(graph: _Graph, step: Step) -> None:
    table = graph.constant(step.tensors["table"], graph.network.tensors_of(step)["table"].astype(np.float32))
    graph.add("Transpose", graph.add("Gather", table, graph.source(step), last=False), perm=[0, 2, 1])


def _norm(graph: _Graph, step: Step) -> None:
    x = graph.source(step)
    if step.settings["centre"]:
        x = graph.add("Sub", x, graph.add("ReduceMean", x, axes=[1], last=False), last=False)
    square = graph.add("ReduceMean", graph.add("Mul", x, x, last=False), axes=[1], last=False)
    size = graph.add("Sqrt", graph.add("Add", square, graph.number(step.settings["eps"]), last=False), last=False)
    graph.add("Div", x, size)


def _attention(graph: _Graph, step: Step) -> None:
    heads, names = step.settings["heads"], list[str]()
    shapes = [graph.network.values[source].shape for source in step.sources[:3]]
    for which, (channels, tokens) in enumerate(shapes):
        split = graph.own(f"heads{which}", [0, heads, channels // heads, tokens])
        names.append(graph.add("Reshape", graph.source(step, which), split, last=False))
    rows = graph.add("Transpose", names[0], perm=[0, 1, 3, 2], last=False)
    scores = graph.add("MatMul", rows, names[1], last=False)
    scores = graph.add("Mul", scores, graph.number(step.settings["scale"]), last=False)
    if len(step.sources) > 3:
        mask = graph.add("Unsqueeze", graph.source(step, 3), graph.own("every", [1, 2]), last=False)
        present = graph.add("Cast", mask, to=_BOOL, last=False)
        scores = graph.add("Where", present, scores, graph.number(PADDED), last=False)
    if step.settings["causal"]:
        seen = graph.own("seen", np.tri(shapes[0][1], shapes[1][1], dtype=bool), np.bool_)
        scores = graph.add("Where", seen, scores, graph.number(-np.inf), last=False)
    weights = graph.add("Softmax", scores, axis=3, last=False)
    turned = graph.add("Transpose", weights, perm=[0, 1, 3, 2], last=False)
    mixed = graph.add("MatMul", names[2], turned, last=False)
    graph.add("Reshape", mixed, graph.own("shape", [0, *graph.network.values[graph.index + 1].shape]))


def _mask(graph: _Graph, step: Step) -> None:
    padding = graph.add("Equal", graph.source(step), graph.own("padding", [step.settings["id"]]), last=False)
    graph.add("Cast", graph.add("Not", padding, last=False), to=_FLOAT)


def _masked_mean(graph: _Graph, step: Step) -> None:
    x, mask = graph.source(step), graph.source(step, 1)
    every, tokens = graph.own("every", [1]), graph.own("tokens", [2])
    seen = graph.add("Mul", x, graph.add("Unsqueeze", mask, every, last=False), last=False)
    count = graph.add("ReduceSum", mask, every, keepdims=1, last=False)
    sums = graph.add("ReduceSum", seen, tokens, keepdims=0, last=False)
    graph.add("Div", sums, graph.add("Max", count, graph.number(1.0), last=False))


def _pad(graph: _Graph, step: Step) -> None:
    pads = graph.own("pads", [0, *step.settings["before"], 0, *step.settings["after"]])
    graph.add("Pad", graph.real(graph.source(step)), pads)


def _concat(graph: _Graph, step: Step) -> None:
    parts = [graph.source(step, which) for which in range(len(step.sources))]
    if not graph.network.values[graph.index + 1].signs:
        parts[0] = graph.real(parts[0])
    graph.add("Concat", *parts, axis=step.settings["axis"])


_STEPS: Mapping[str, Callable[[_Graph, Step], Any]] = {
    "linear": lambda g, s: g.add("MatMul", g.source(s), g.weight(s)),
    "conv": lambda g, s: g.add("Conv", g.source(s), g.weight(s), group=s.groups, **_windows(s, "dilation")),
    "affine": _affine,
    "sign": _sign,
    "threshold": _sign,
    "clamp": _clamp,
    "prelu": lambda g, s: g.add("PRelu", g.source(s), g.vector(s, "slope")),
    "tanh": lambda g, s: g.add("Tanh", g.source(s)),
    "sigmoid": lambda g, s: g.add("Sigmoid", g.source(s)),
    "gelu": _gelu,
    "max_pool": _max_pool,
    "avg_pool": lambda g, s: g.add(
        "AveragePool", g.source(s), count_include_pad=int(s.settings["count_padding"]), **_windows(s)
    ),
    "adaptive_avg_pool": _adaptive,
    "reshape": _reshape,
    "permute": lambda g, s: g.add("Transpose", g.source(s), perm=[0, *s.settings["axes"]]),
    "pad": _pad,
    "add": lambda g, s: g.add("Add", g.source(s), g.source(s, 1)),
    "multiply": lambda g, s: g.add("Mul", g.source(s), g.source(s, 1)),
    "concat": _concat,
    "softmax": lambda g, s: g.add("Softmax", g.source(s), axis=s.settings["axis"]),
    "slice": _slice,
    "offset": _offset,
    "embed": _embed,
    "norm": _norm,
    **dict.fromkeys(["attention", "masked_attention"], _attention),
    "mask": _mask,
    "masked_mean": _masked_mean,
}
