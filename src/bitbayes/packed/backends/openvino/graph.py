"""Construction of OpenVINO graphs from packed networks, operation by operation.

A converted PyTorch model would stay in float32. Binary layers run on bits only in one form, which was found by trial: a
FakeQuantize whose limits are both the threshold, from 0 to 1, directly before a BinaryConvolution with u1 weights.
Similar forms silently give wrong numbers; a comment at each such place says what it avoids.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bitbayes.packed.backends.openvino.quiet import openvino
from bitbayes.packed.format.bits import Array
from bitbayes.packed.format.network import Comparison, PackedNetwork
from bitbayes.packed.format.ops import PADDED
from bitbayes.packed.format.program import Step
from bitbayes.packed.format.sliding import Sliding

ov, ops = openvino("openvino"), openvino("openvino.opset14")

Node = Any


class _Sign(NamedTuple):
    """Signs that are not computed yet: +1 where `numbers` are at least `least`."""

    numbers: Node
    least: npt.NDArray[np.float32]


def graph(network: PackedNetwork, inputs: int, ranges: Mapping[int, float]) -> tuple[Any, list[Any]]:
    """Build a model with one output for each of the networks that differ.

    Args:
        network: Packed network.
        inputs: Batch size, because OpenVINO's binary convolution does not support a dynamic one.
        ranges: Largest input magnitudes of the layers of real weights and real inputs that run in int8, by index.

    Returns:
        The model, and arrays that must stay alive until it is compiled, because constants share their memory.
    """
    keep: list[Any] = []
    x = ops.parameter([inputs, *network.program.input], ov.Type.f32 if network.tokens is None else ov.Type.i32)
    outputs = [_Graph(network, inputs, sample, ranges, keep).run(x) for sample in range(different(network))]
    return ov.Model([ops.result(output) for output in outputs], [x], "bitbayes"), keep


def different(network: PackedNetwork) -> int:
    """Return the number of networks that differ."""
    return network.program.samples if network.own_values else 1


class _Graph(NamedTuple):
    """One of the C networks."""

    network: PackedNetwork
    inputs: int
    sample: int
    ranges: Mapping[int, float]
    keep: list[Any]

    def run(self, x: Node) -> Node:
        values: list[Any] = [x]
        for index, step in enumerate(self.network.program.steps):
            tensors = self.network.tensors_of(step, self.sample)
            sources = [values[source] for source in step.sources]
            if step.op in ("linear", "conv"):
                values.append(self.layer(index, step, values))
            elif step.op in ("sign", "threshold"):
                # OpenVINO would fold a scale before a sign into a convolution's weights, which changes small values.
                found, rank = self.network.comparison(step, self.sample), len(self.network.source_shape(step))
                values.append(self.sign(values[found.value], found, rank))
            else:
                rank = len(self.network.source_shape(step))
                shaped = {role: _along(tensor, rank) for role, tensor in tensors.items()}
                if step.op == "offset":
                    shaped["offset"] = shaped["offset"].reshape(1, *self.network.source_shape(step))
                elif step.op == "embed":
                    shaped = {"table": tensors["table"].astype(np.float32)}
                values.append(_STEPS[step.op]([number(source) for source in sources], step, shaped, self.inputs))
        return number(values[-1])

    def sign(self, x: Any, found: Comparison, rank: int) -> _Sign:
        numbers = number(x)
        if (found.direction < 0).any():
            numbers = ops.multiply(numbers, _along(found.direction, rank))
        return _Sign(numbers, _along(found.threshold, rank))

    def layer(self, index: int, step: Step, values: Sequence[Any]) -> Node:
        """Add a linear layer or convolution."""
        place, conv, weight = step.sources[0], step.op == "conv", self.network.weight(step, self.sample)
        bits = self.network.stacked(step)["weight"].dtype == np.uint8
        s = step.sliding if conv else Sliding.covering(())
        geometry = zip(s.stride, s.dilation, s.padding, s.span, strict=True)
        # OpenVINO's binary convolution computes the first case wrongly, and refuses windows that see only padding.
        wrong = any((stride > 1 and dilation > 1) or pad >= span for stride, dilation, pad, span in geometry)
        if bits and self.network.values[place].signs and step.groups == 1 and not wrong:
            flat = self.network.unflattened(place)
            if not conv and self.network.values[flat].signs and len(self.network.values[flat].shape) == 3:
                place = flat  # as a convolution with one place
            shape, out = self.network.values[place].shape, self.network.values[index + 1].shape
            windows = step.sliding if conv else Sliding.covering(shape[1:])
            return self.binary(values[place], shape, out, weight, windows)
        x = number(values[place])
        if not conv:
            return ops.matmul(*self.quantised(index, x, weight), False, True)
        if step.groups > 1:
            weight = weight.reshape(step.groups, -1, *weight.shape[1:])
            return ops.group_convolution(x, ops.constant(weight), *_places(step.sliding))
        return ops.convolution(*self.quantised(index, x, weight), *_places(step.sliding))

    def quantised(self, index: int, x: Node, weight: Array) -> tuple[Node, Node]:
        """Round weights and inputs to eight bits if requested, so that OpenVINO computes in int8."""
        if index not in self.ranges:
            return x, ops.constant(weight)
        limit, largest = np.float32(self.ranges[index]), np.abs(weight).max()
        low = np.float32(0) if self.rectified(self.network.program.steps[index].sources[0]) else -limit
        x = ops.fake_quantize(x, low, limit, low, limit, 256)
        return x, ops.fake_quantize(ops.constant(weight), -largest, largest, -largest, largest, 255)

    def rectified(self, value: int) -> bool:
        """Return whether all numbers of a value are non-negative."""
        step = self.network.made_by(value)
        while step is not None and step.op in ("max_pool", "reshape"):
            step = self.network.made_by(step.sources[0])
        return step is not None and step.op == "clamp" and step.bounds[0] == 0

    def binary(self, value: Any, shape: Sequence[int], out: Sequence[int], weight: Array, windows: Sliding) -> Node:
        """Multiply signs by signs. An input with one axis gets a first axis of size 1."""
        sign = value if isinstance(value, _Sign) else _Sign(value, np.zeros((1,) * (len(shape) + 1), np.float32))
        channels, sizes, sliding = shape[0], (1,) * (3 - len(shape)) + tuple(shape[1:]), windows.in_two_axes()
        ones = (weight > 0).astype(np.uint8).reshape(-1, channels, *sliding.kernel)
        # Numbers of channels that are not multiples of 8 silently give wrong sums, so channels are added: -1 in the
        # input, +1 in weights.
        more = -channels % 8
        x, least = ops.reshape(sign.numbers, [self.inputs, channels, *sizes], False), sign.least.reshape(-1)
        if more:
            x = ops.pad(x, [0, 0, 0, 0], [0, more, 0, 0], "constant", np.float32(-1))
            least = np.append(np.broadcast_to(least, channels), np.zeros(more))
            ones = np.pad(ones, ((0, 0), (0, more), (0, 0), (0, 0)), constant_values=1)
        # OpenVINO compares x > limit, so the limit is the next number below. Processors may flush tiny numbers to 0, so
        # the limit is the smallest normal number there.
        tiny = np.finfo(np.float32).tiny
        limit = np.nextafter(least.astype(np.float32), np.float32(-np.inf))
        limit = np.where(np.abs(limit) < tiny, -tiny, limit).reshape(1, -1, 1, 1)
        # With other limits, the comparison would not be fused with the previous layer. From -1 to 1, or before anything
        # but a binary convolution, these limits give NaN.
        x = ops.fake_quantize(x, limit, limit, np.float32(0), np.float32(1), 2)
        packed = np.packbits(ones.reshape(-1), bitorder="little")  # an ordinary constant would reverse bits
        tensor = ov.Tensor(packed, ov.Shape(ones.shape), ov.Type.u1)
        self.keep.extend([packed, tensor])
        y = ops.binary_convolution(x, ops.constant(tensor), *_places(sliding), "xnor-popcount", 0.0)
        if more:  # for every tap inside the input
            rows, columns = (ends[:, 1] - ends[:, 0] for ends in sliding.seen(sizes))
            y = ops.add(y, more * np.outer(rows, columns).astype(np.float32)[None, None])
        return ops.reshape(y, [self.inputs, *out], False)


def _places(s: Sliding) -> tuple[Sequence[int], ...]:
    return s.stride, s.padding, s.padding, s.dilation


def number(value: Any) -> Node:
    """Return a value as numbers."""
    if not isinstance(value, _Sign):
        return value
    return ops.select(ops.greater_equal(value.numbers, value.least), np.float32(1), np.float32(-1))


def _along(tensor: Array, rank: int) -> npt.NDArray[np.float32]:
    return tensor.astype(np.float32).reshape(1, -1, *[1] * (rank - 1))


def _affine(x: Node, t: Mapping[str, Array]) -> Node:
    x = ops.multiply(x, t["scale"]) if "scale" in t else x
    return ops.add(x, t["shift"]) if "shift" in t else x


def _clamp(x: Node, step: Step) -> Node:
    low, high = step.bounds
    x = x if low is None else ops.maximum(x, np.float32(low))
    return x if high is None else ops.minimum(x, np.float32(high))


def _max_pool(x: Node, s: Sliding) -> Node:
    places = (s.stride, s.dilation, s.padding, s.padding, s.kernel)
    return ops.max_pool(x, *places, "ceil_torch" if s.ceil else "floor").output(0)


def _avg_pool(x: Node, step: Step) -> Node:
    s = step.sliding
    return ops.avg_pool(x, s.stride, s.padding, s.padding, s.kernel, not step.settings["count_padding"])


def _embed(ids: Node, table: Array) -> Node:
    return ops.transpose(ops.gather(ops.constant(table), ids, np.int32(0)), [0, 2, 1])


def _norm(x: Node, *, centre: bool, eps: float) -> Node:
    axes = np.array([1], np.int64)
    x = ops.subtract(x, ops.reduce_mean(x, axes, True)) if centre else x
    square = ops.reduce_mean(ops.multiply(x, x), axes, True)
    return ops.divide(x, ops.sqrt(ops.add(square, np.float32(eps))))


def _attention(xs: Sequence[Node], step: Step, inputs: int) -> Node:
    heads, shapes = step.settings["heads"], [list(x.get_output_shape(0)) for x in xs[:3]]
    count, others = shapes[0][2], shapes[1][2]
    split = zip(xs[:3], shapes, strict=True)
    query, key, value = (ops.reshape(x, [inputs, heads, c // heads, size], False) for x, (_, c, size) in split)
    scores = ops.multiply(ops.matmul(query, key, True, False), np.float32(step.settings["scale"]))
    for mask in xs[3:]:
        present = ops.greater(ops.reshape(mask, [inputs, 1, 1, others], False), np.float32(0))
        scores = ops.select(present, scores, np.float32(PADDED))
    if step.settings["causal"]:
        seen = np.tri(count, others, dtype=bool)
        scores = ops.select(seen, scores, np.float32(-np.inf))
    mixed = ops.matmul(value, ops.softmax(scores, 3), False, True)
    return ops.reshape(mixed, [inputs, shapes[2][1], count], False)


def _mask(ids: Node, padding: int) -> Node:
    return ops.convert(ops.not_equal(ids, np.int32(padding)), ov.Type.f32)


def _masked_mean(x: Node, mask: Node) -> Node:
    every, tokens = np.array([1], np.int64), np.array([2], np.int64)
    sums = ops.reduce_sum(ops.multiply(x, ops.unsqueeze(mask, every)), tokens, False)
    return ops.divide(sums, ops.maximum(ops.reduce_sum(mask, every, True), np.float32(1)))


def _slice(x: Node, step: Step) -> Node:
    begin, end, one, axis = ([step.settings[key]] if key else [1] for key in ("begin", "end", "", "axis"))
    return ops.slice(x, *(np.array(numbers, np.int64) for numbers in (begin, end, one, axis)))


def _pad(x: Node, step: Step) -> Node:
    before, after = ([0, *step.settings[key]] for key in ("before", "after"))
    return ops.pad(x, before, after, "constant", np.float32(0))


_STEPS: Mapping[str, Callable[[list[Node], Step, Mapping[str, Array], int], Node]] = {
    "affine": lambda xs, step, t, n: _affine(xs[0], t),
    "clamp": lambda xs, step, t, n: _clamp(xs[0], step),
    "prelu": lambda xs, step, t, n: ops.prelu(xs[0], t["slope"].reshape(-1)),
    "tanh": lambda xs, step, t, n: ops.tanh(xs[0]),
    "sigmoid": lambda xs, step, t, n: ops.sigmoid(xs[0]),
    "gelu": lambda xs, step, t, n: ops.gelu(xs[0], "tanh" if step.settings["tanh"] else "erf"),
    "max_pool": lambda xs, step, t, n: _max_pool(xs[0], step.sliding),
    "avg_pool": lambda xs, step, t, n: _avg_pool(xs[0], step),
    "adaptive_avg_pool": lambda xs, step, t, n: ops.adaptive_avg_pool(xs[0], np.array(step.settings["size"], np.int64)),
    "reshape": lambda xs, step, t, n: ops.reshape(xs[0], [n, *step.settings["shape"]], False),
    "permute": lambda xs, step, t, n: ops.transpose(xs[0], [0, *step.settings["axes"]]),
    "pad": lambda xs, step, t, n: _pad(xs[0], step),
    "add": lambda xs, step, t, n: ops.add(xs[0], xs[1]),
    "multiply": lambda xs, step, t, n: ops.multiply(xs[0], xs[1]),
    "concat": lambda xs, step, t, n: ops.concat(xs, step.settings["axis"]),
    "softmax": lambda xs, step, t, n: ops.softmax(xs[0], step.settings["axis"]),
    "slice": lambda xs, step, t, n: _slice(xs[0], step),
    "offset": lambda xs, step, t, n: ops.add(xs[0], t["offset"]),
    "embed": lambda xs, step, t, n: _embed(xs[0], t["table"]),
    "norm": lambda xs, step, t, n: _norm(xs[0], **step.settings),
    **dict.fromkeys(["attention", "masked_attention"], lambda xs, step, t, n: _attention(xs, step, n)),
    "mask": lambda xs, step, t, n: _mask(xs[0], step.settings["id"]),
    "masked_mean": lambda xs, step, t, n: _masked_mean(*xs),
}
