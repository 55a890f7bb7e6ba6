"""Packed networks as OpenVINO graphs, built operation by operation.

A converted PyTorch model stays in float32. Binary layers run on bits only in one form, found by trial: a FakeQuantize
whose limits are both the threshold, from 0 to 1, straight into a BinaryConvolution whose weights are u1. What else is
near to it gives wrong numbers in silence; each such place says what is avoided.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bitbayes.errors import require
from bitbayes.packed.format.bits import float_above, unpack_signs
from bitbayes.packed.format.network import PackedNetwork
from bitbayes.packed.format.ops import fan_in
from bitbayes.packed.format.program import Step

ov, ops = require("openvino", "openvino"), require("openvino.opset14", "openvino")

__all__ = ["graph"]

Array = npt.NDArray[Any]
Node = Any
Settings = Mapping[str, Any]


class _Sign(NamedTuple):
    """Signs that have not been taken yet: +1 where `numbers` are at least `least`."""

    numbers: Node
    least: npt.NDArray[np.float32]


def graph(
    network: PackedNetwork, inputs: int, ranges: Mapping[int, float] | None = None, keep: list[Any] | None = None
) -> Any:
    """A model with an output for each of the C networks.

    Args:
        network: What to build.
        inputs: Batch size; OpenVINO's binary convolution has no dynamic one.
        ranges: int8 for layers of real weights and real inputs, by index: the largest magnitude of the inputs.
        keep: Gets what must live until the model is compiled: constants share the memory of arrays.

    Returns:
        An `openvino.Model`.
    """
    keep = [] if keep is None else keep
    x = ops.parameter([inputs, *network.program.input], ov.Type.f32)
    outputs = [_Graph(network, inputs, sample, ranges or {}, keep).run(x) for sample in range(network.program.samples)]
    return ov.Model([ops.result(output) for output in outputs], [x], "bitbayes")


class _Graph:
    """One of the C networks."""

    def __init__(
        self, network: PackedNetwork, inputs: int, sample: int, ranges: Mapping[int, float], keep: list[Any]
    ) -> None:
        self.network, self.inputs, self.sample, self.ranges, self.keep = network, inputs, sample, ranges, keep

    def run(self, x: Node) -> Node:
        values: list[Any] = [x]
        for index, step in enumerate(self.network.program.steps):
            tensors = {role: self.network.tensor(step, role, self.sample) for role in step.tensors}
            sources = [values[source] for source in step.sources]
            if step.op in ("linear", "conv"):
                values.append(self.layer(index, step, values, tensors["weight"]))
            elif step.op in ("sign", "threshold"):
                rank, before = len(self.network.values[index + 1].shape), self._made_by(step.sources[0])
                if step.op == "sign" and before is not None and before.op == "affine":
                    # OpenVINO would fold the scale into a convolution's weights, which moves what is near zero.
                    sources = [values[before.sources[0]]]
                    tensors = _crossing(
                        {role: self.network.tensor(before, role, self.sample) for role in before.tensors}
                    )
                values.append(self.sign(sources[0], tensors, rank))
            else:
                rank = len(self.network.values[step.sources[0]].shape)
                shaped = {role: _along(tensor, rank) for role, tensor in tensors.items()}
                inner = [number(source) for source in sources]
                values.append(_STEPS[step.op](inner, step.settings, shaped, self.inputs))
        return number(values[-1])

    def _made_by(self, value: int) -> Step | None:
        return self.network.program.steps[value - 1] if value else None

    def sign(self, x: Any, tensors: Mapping[str, Array], rank: int) -> _Sign:
        numbers = number(x)
        if "direction" in tensors:
            numbers = ops.multiply(numbers, _along(tensors["direction"], rank))
        return _Sign(numbers, _along(float_above(tensors.get("threshold", np.zeros(1))), rank))

    def layer(self, index: int, step: Step, values: Sequence[Any], weight: Array) -> Node:
        """A linear layer or convolution."""
        source, place = self.network.values[step.sources[0]], step.sources[0]
        bits, conv = weight.dtype == np.uint8, step.op == "conv"
        geometry = zip(step.settings.get("stride", ()), step.settings.get("dilation", ()), strict=True)
        wrong = any(stride > 1 and dilation > 1 for stride, dilation in geometry)  # for OpenVINO's binary convolution
        if bits and source.signs and step.settings.get("groups", 1) == 1 and not wrong:
            before = self.network.program.steps[place - 1]
            flat = before.op == "reshape" and len(self.network.values[before.sources[0]].shape) == 3
            if not conv and flat and self.network.values[before.sources[0]].signs:
                place = before.sources[0]  # as a convolution with one place
            shape, out = self.network.values[place].shape, self.network.values[index + 1].shape
            return self.binary(values[place], shape, out, weight, step.settings if conv else None)
        if bits:
            weight = unpack_signs(weight, fan_in(step.settings, source.shape))
        weight = weight.astype(np.float32)
        x = number(values[place])
        if not conv:
            return ops.matmul(*self.quantised(index, x, weight), False, True)
        groups, kernel = step.settings["groups"], step.settings["kernel"]
        weight = weight.reshape(groups, len(weight) // groups, source.shape[0] // groups, *kernel)
        geometry = [step.settings[key] for key in ("stride", "padding", "padding", "dilation")]
        if groups > 1:
            return ops.group_convolution(x, ops.constant(weight), *geometry)
        return ops.convolution(*self.quantised(index, x, weight[0]), *geometry)

    def quantised(self, index: int, x: Node, weight: Array) -> tuple[Node, Node]:
        """Rounds both to eight bits, if that is wanted; OpenVINO then computes with int8."""
        if index not in self.ranges:
            return x, ops.constant(weight)
        limit, largest = np.float32(self.ranges[index]), np.abs(weight).max()
        low = np.float32(0) if self.rectified(self.network.program.steps[index].sources[0]) else -limit
        x = ops.fake_quantize(x, low, limit, low, limit, 256)
        return x, ops.fake_quantize(ops.constant(weight), -largest, largest, -largest, largest, 255)

    def rectified(self, value: int) -> bool:
        """Whether no number of a value is below 0."""
        step = self._made_by(value)
        while step is not None and step.op in ("max_pool", "reshape"):
            step = self._made_by(step.sources[0])
        return step is not None and step.op == "clamp" and step.settings["min"] == 0

    def binary(
        self, value: Any, shape: Sequence[int], out: Sequence[int], weight: Array, settings: Settings | None
    ) -> Node:
        """Signs with signs. One axis is two of which the first has size 1."""
        sign = value if isinstance(value, _Sign) else _Sign(value, np.zeros((1,) * (len(shape) + 1), np.float32))
        channels, sizes = shape[0], (1,) * (3 - len(shape)) + tuple(shape[1:])
        one = [1] * (3 - len(shape))
        kernel = list(sizes) if settings is None else one + list(settings["kernel"])
        stride, dilation = ([1, 1] if settings is None else one + list(settings[k]) for k in ("stride", "dilation"))
        padding = [0, 0] if settings is None else [0] * len(one) + list(settings["padding"])
        fan = channels * math.prod(kernel)
        ones = np.unpackbits(weight, axis=-1, count=fan, bitorder="little").reshape(-1, channels, *kernel)
        # Channels that are no multiple of 8 give wrong sums in silence. More are added: -1 in the input, +1 in weights.
        more = -channels % 8
        x, least = ops.reshape(sign.numbers, [self.inputs, channels, *sizes], False), sign.least.reshape(-1)
        if more:
            x = ops.pad(x, [0, 0, 0, 0], [0, more, 0, 0], "constant", np.float32(-1))
            least = np.append(np.broadcast_to(least, channels), np.zeros(more))
            ones = np.pad(ones, ((0, 0), (0, more), (0, 0), (0, 0)), constant_values=1)
        # x > limit, so the limit is the number below. Processors may take tiny ones for 0: the last one that is not.
        tiny = np.finfo(np.float32).tiny
        limit = np.nextafter(least.astype(np.float32), np.float32(-np.inf))
        limit = np.where(np.abs(limit) < tiny, -tiny, limit).reshape(1, -1, 1, 1)
        # With other limits the comparison would not become part of the layer before; from -1 to 1, or into anything
        # but a binary convolution, these make NaN.
        x = ops.fake_quantize(x, limit, limit, np.float32(0), np.float32(1), 2)
        packed = np.packbits(ones.reshape(-1), bitorder="little")  # an ordinary constant would turn bits round
        tensor = ov.Tensor(packed, ov.Shape(ones.shape), ov.Type.u1)
        self.keep += [packed, tensor]
        filters = ops.constant(tensor)
        y = ops.binary_convolution(x, filters, stride, padding, padding, dilation, "xnor-popcount", 0.0)
        if more:
            y = ops.add(y, more * _inside(sizes, kernel, stride, padding, dilation))
        return ops.reshape(y, [self.inputs, *out], False)


def _crossing(affine: Mapping[str, Array]) -> dict[str, Array]:
    """Where x · scale + shift reaches zero: the `threshold` and `direction` of the same signs."""
    scale, shift = (
        np.atleast_1d(affine.get(r, np.full(1, n))).astype(np.float64) for r, n in (("scale", 1), ("shift", 0))
    )
    size, largest = np.abs(scale), np.finfo(np.float32).max
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        exact = np.where(size > 0, -shift / size, np.where(shift >= 0, -np.inf, np.inf))
        least = exact.clip(-largest, largest).astype(np.float32)  # or a neighbour; in float64 the sum's sign is exact
        below = np.nextafter(least, np.float32(-np.inf))
        least = np.where(below * size + shift >= 0, below, least)
        least = np.where(least * size + shift >= 0, least, np.nextafter(least, np.float32(np.inf)))
    return {"threshold": least.clip(-largest, largest), "direction": np.where(scale < 0, -1, 1).astype(np.int8)}


def number(value: Any) -> Node:
    """A value as numbers."""
    if not isinstance(value, _Sign):
        return value
    return ops.select(ops.greater_equal(value.numbers, value.least), np.float32(1), np.float32(-1))


def _inside(sizes: Any, kernel: Any, stride: Any, padding: Any, dilation: Any) -> npt.NDArray[np.float32]:
    """How many taps of a convolution lie inside the input, (1, 1, *places)."""
    counts = []
    for size, k, s, p, d in zip(sizes, kernel, stride, padding, dilation, strict=True):
        at = np.arange((size + 2 * p - d * (k - 1) - 1) // s + 1)[:, None] * s - p + np.arange(k) * d
        counts.append(((at >= 0) & (at < size)).sum(1))
    return np.outer(*counts).astype(np.float32)[None, None]


def _along(tensor: Array, rank: int) -> npt.NDArray[np.float32]:
    return tensor.astype(np.float32).reshape(1, -1, *[1] * (rank - 1))


def _affine(x: Node, t: Mapping[str, Array]) -> Node:
    x = ops.multiply(x, t["scale"]) if "scale" in t else x
    return ops.add(x, t["shift"]) if "shift" in t else x


def _clamp(x: Node, s: Settings) -> Node:
    x = x if s["min"] is None else ops.maximum(x, np.float32(s["min"]))
    return x if s["max"] is None else ops.minimum(x, np.float32(s["max"]))


def _max_pool(x: Node, s: Settings) -> Node:
    places = (s["stride"], s["dilation"], s["padding"], s["padding"], s["kernel"])
    return ops.max_pool(x, *places, "ceil_torch" if s["ceil"] else "floor").output(0)


def _avg_pool(x: Node, s: Settings) -> Node:
    return ops.avg_pool(x, s["stride"], s["padding"], s["padding"], s["kernel"], not s["count_padding"])


_STEPS: Mapping[str, Callable[[list[Node], Settings, Mapping[str, Array], int], Node]] = {
    "affine": lambda xs, s, t, n: _affine(xs[0], t),
    "clamp": lambda xs, s, t, n: _clamp(xs[0], s),
    "prelu": lambda xs, s, t, n: ops.prelu(xs[0], t["slope"].reshape(-1)),
    "tanh": lambda xs, s, t, n: ops.tanh(xs[0]),
    "sigmoid": lambda xs, s, t, n: ops.sigmoid(xs[0]),
    "max_pool": lambda xs, s, t, n: _max_pool(xs[0], s),
    "avg_pool": lambda xs, s, t, n: _avg_pool(xs[0], s),
    "adaptive_avg_pool": lambda xs, s, t, n: ops.adaptive_avg_pool(xs[0], ops.constant(np.array(s["size"], np.int64))),
    "reshape": lambda xs, s, t, n: ops.reshape(xs[0], [n, *s["shape"]], False),
    "permute": lambda xs, s, t, n: ops.transpose(xs[0], [0, *s["axes"]]),
    "pad": lambda xs, s, t, n: ops.pad(xs[0], [0, *s["before"]], [0, *s["after"]], "constant", np.float32(0)),
    "add": lambda xs, s, t, n: ops.add(xs[0], xs[1]),
    "concat": lambda xs, s, t, n: ops.concat(xs, s["axis"]),
    "softmax": lambda xs, s, t, n: ops.softmax(xs[0], s["axis"]),
}
