"""Export of packed networks as ONNX models, for runtimes that read only ONNX."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from bitbayes.errors import require
from bitbayes.packed.format.bits import Array, float_above
from bitbayes.packed.format.network import PackedNetwork
from bitbayes.packed.format.program import Step

_OPSET, _IR = 13, 7  # of 2020, the first version in which softmax takes one axis, so that old runtimes can read it


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
        ['Gemm']
    """
    onnx = require("onnx", "onnx")
    if network.program.samples > 1:
        raise ValueError(
            f"an ONNX model holds one network, got {network.program.samples}; pack the mode of a run, without --samples"
        )
    graph = _Graph(network)
    for index, step in enumerate(network.program.steps):
        graph.index = index
        _STEPS[step.op](graph, step)
    make, number = onnx.helper, onnx.TensorProto.FLOAT
    ends = [
        make.make_tensor_value_info(name, number, ["N", *value.shape])
        for name, value in (("input", network.values[0]), ("output", network.values[-1]))
    ]
    nodes = [make.make_node(op, *ends, name=name, **more) for op, *ends, name, more in graph.nodes]
    tensors = [onnx.numpy_helper.from_array(tensor, name) for name, tensor in graph.tensors.items()]
    whole = make.make_graph(nodes, "packed", ends[:1], ends[1:], tensors)
    opset = make.make_opsetid("", _OPSET)
    model = make.make_model(whole, producer_name="bitbayes", opset_imports=[opset], ir_version=_IR)
    make.set_model_props(model, dict(network.program.about))
    onnx.checker.check_model(model, full_check=True)
    return model


class _Graph:
    """Nodes (type, inputs, outputs, name, attributes) and initialisers; ":" keeps their names apart from tensors'."""

    def __init__(self, network: PackedNetwork) -> None:
        self.network = network
        self.nodes: list[tuple[str, list[str], list[str], str, dict[str, Any]]] = []
        self.tensors: dict[str, Array] = {}
        self.index = 0  # number of the current step

    def source(self, step: Step, which: int = 0) -> str:
        """Return the name of a value that a step takes."""
        return f"value{step.sources[which]}" if step.sources[which] else "input"

    def add(self, op: str, *inputs: str, last: bool = True, **attributes: Any) -> str:
        """Add a node; the last node of a step makes the step's value."""
        steps = self.network.program.steps
        name = f"value{self.index + 1}" if self.index + 1 < len(steps) else "output"
        name = name if last else f"node{len(self.nodes)}"
        self.nodes.append((op, list(inputs), [name], f"{steps[self.index].name}:{name}", attributes))
        return name

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
        """Add a tensor of channels, shaped to broadcast over (N, C, ...)."""
        name, rank = step.tensors[role], len(self.network.source_shape(step))
        tensor = float_above(self.network.tensors[name])
        return self.constant(f"{name}:{rank}", tensor.reshape(-1, *[1] * (rank - 1)))

    def weight(self, step: Step) -> str:
        """Add a weight as floats."""
        weight = self.network.weight(step)
        axes = "x".join(map(str, weight.shape))  # one tensor may be the weight of two layers of different shapes
        return self.constant(f"{step.tensors['weight']}:{axes}", weight)


def _affine(graph: _Graph, step: Step) -> None:
    x = graph.source(step)
    if "scale" in step.tensors:
        x = graph.add("Mul", x, graph.vector(step, "scale"), last="shift" not in step.tensors)
    if "shift" in step.tensors:
        x = graph.add("Add", x, graph.vector(step, "shift"))
    if not step.tensors:
        graph.add("Identity", x)


def _sign(graph: _Graph, x: str, threshold: str) -> None:
    """Add a sign with Less and Where, which are older than GreaterOrEqual."""
    below = graph.add("Less", x, threshold, last=False)
    graph.add("Where", below, graph.number(-1), graph.number(1))


def _threshold(graph: _Graph, step: Step) -> None:
    x = graph.source(step)
    if "direction" in step.tensors:
        x = graph.add("Mul", x, graph.vector(step, "direction"), last=False)
    _sign(graph, x, graph.vector(step, "threshold"))


def _clamp(graph: _Graph, step: Step) -> None:
    low, high = step.bounds
    if low == 0 and high is None:
        graph.add("Relu", graph.source(step))
    else:
        bounds = ["" if bound is None else graph.number(bound) for bound in (low, high)]
        graph.add("Clip", graph.source(step), *bounds)


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
    attributes, x = _windows(step, "dilation"), graph.source(step)
    if step.sliding.ceil:  # Runtimes round sizes up in different ways, so the input is padded to what torch would see.
        before, after = zip(*step.sliding.pads(graph.network.source_shape(step)[1:]), strict=True)
        attributes["pads"] = [0] * (2 * len(after))
        pads = graph.own("pads", [0, 0, *before, 0, 0, *after])
        x = graph.add("Pad", x, pads, graph.number(-np.inf), last=False)
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


_STEPS: Mapping[str, Callable[[_Graph, Step], Any]] = {
    "linear": lambda g, s: g.add("Gemm", g.source(s), g.weight(s), transB=1),
    "conv": lambda g, s: g.add("Conv", g.source(s), g.weight(s), group=s.groups, **_windows(s, "dilation")),
    "affine": _affine,
    "sign": lambda g, s: _sign(g, g.source(s), g.number(0)),
    "threshold": _threshold,
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
    "reshape": lambda g, s: g.add("Reshape", g.source(s), g.own("shape", [0, *s.settings["shape"]])),
    "permute": lambda g, s: g.add("Transpose", g.source(s), perm=[0, *s.settings["axes"]]),
    "pad": lambda g, s: g.add("Pad", g.source(s), g.own("pads", [0, *s.settings["before"], 0, *s.settings["after"]])),
    "add": lambda g, s: g.add("Add", g.source(s), g.source(s, 1)),
    "concat": lambda g, s: g.add("Concat", *(g.source(s, i) for i in range(len(s.sources))), axis=s.settings["axis"]),
    "softmax": lambda g, s: g.add("Softmax", g.source(s), axis=s.settings["axis"]),
}
