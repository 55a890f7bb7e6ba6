"""The operations of packed networks: what each takes, the shape that it makes, and what it costs.

`docs/file-format.md` says the same in words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from bitbayes.packed.format.bits import row_bytes
from bitbayes.packed.format.program import PackedFileError

__all__ = ["OPS", "Layout", "Op", "Tensors", "Value", "bounded", "fan_in", "pooled"]

MAX_VALUE = 1 << 24  # numbers that a value may have for one input


class Layout(NamedTuple):
    """Type, as safetensors calls it, and shape of a tensor."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Value:
    """What a step makes, for one input.

    Args:
        shape: Its shape, without the batch.
        signs: It holds −1 and +1 alone.
        binary: Operations of xnor and popcount, two a product.
        real: Operations of floating-point numbers: two a product, one where a sign takes its place.

    Example:
        >>> Value((128, 32, 32)).size
        131072
    """

    shape: tuple[int, ...]
    signs: bool = False
    binary: int = 0
    real: int = 0

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)


Tensors = Mapping[str, Layout]
Infer = Callable[[Sequence[Value], dict[str, Any], Tensors], Value]


class Op(NamedTuple):
    """How many values it takes (0: one or more), its settings and tensors, and its rule of shapes."""

    sources: int
    infer: Infer
    settings: Mapping[str, str] = {}
    needed: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()


def fan_in(settings: Mapping[str, Any], source: Sequence[int]) -> int:
    """Weights of one output of a linear step or convolution."""
    return source[0] // settings.get("groups", 1) * math.prod(settings.get("kernel", ()))


def pooled(size: int, kernel: int, stride: int, padding: int, dilation: int = 1, ceil: bool = False) -> int:
    """Output size of a window that slides over one axis (torch's formula)."""
    room = size + 2 * padding - dilation * (kernel - 1) - 1
    if room < 0:
        raise PackedFileError(f"a window of {dilation * (kernel - 1) + 1} is larger than {size + 2 * padding}")
    count = (room + (stride - 1 if ceil else 0)) // stride + 1
    # The last window must begin inside the input or its left padding.
    return count - 1 if ceil and (count - 1) * stride >= size + padding else count


def bounded(value: Value) -> Value:
    """Refuses a value that is empty or too large."""
    if not 1 <= value.size <= MAX_VALUE or len(value.shape) > 6:
        raise PackedFileError(f"shape {list(value.shape)} must have at most 6 axes and 1 to {MAX_VALUE} numbers")
    return value


def _expect(what: str, layout: Layout, *shapes: tuple[int, ...]) -> None:
    if layout.shape not in shapes:
        wanted = " or ".join(str(list(shape)) for shape in shapes)
        raise PackedFileError(f"{what} has shape {list(layout.shape)}, expected {wanted}")


def _spatial(value: Value, *lists: Sequence[int]) -> tuple[int, ...]:
    rank = len(value.shape) - 1
    if rank not in (1, 2) or any(len(entry) != rank for entry in lists):
        raise PackedFileError(f"an input of shape {list(value.shape)} does not fit; expected 1 or 2 axes and channels")
    return value.shape[1:]


def _product(value: Value, shape: tuple[int, ...], fan: int, weight: Layout) -> Value:
    products = math.prod(shape) * fan
    if weight.dtype == "U8" and value.signs:
        return Value(shape, binary=2 * products)
    return Value(shape, real=products if weight.dtype == "U8" else 2 * products)


def _linear(values: Sequence[Value], settings: dict[str, Any], tensors: Tensors) -> Value:
    (value,), weight = values, tensors["weight"]
    if len(value.shape) != 1:
        raise PackedFileError(f"takes one axis, got shape {list(value.shape)}")
    inputs, outputs = value.shape[0], weight.shape[0] if weight.shape else 0
    _expect("weight", weight, (outputs, row_bytes(inputs) if weight.dtype == "U8" else inputs))
    return _product(value, (outputs,), inputs, weight)


def _conv(values: Sequence[Value], settings: dict[str, Any], tensors: Tensors) -> Value:
    (value,), weight, groups = values, tensors["weight"], settings["groups"]
    places = [settings[key] for key in ("kernel", "stride", "padding", "dilation")]
    sizes = _spatial(value, *places)
    outputs = weight.shape[0] if weight.shape else 0
    if value.shape[0] % groups or outputs % groups:
        raise PackedFileError(f"{value.shape[0]} and {outputs} channels cannot be in {groups} groups")
    fan = fan_in(settings, value.shape)
    inside = (outputs, value.shape[0] // groups, *settings["kernel"])
    _expect("weight", weight, (outputs, row_bytes(fan)) if weight.dtype == "U8" else inside)
    bounded(Value((value.shape[0], *(n + 2 * p for n, p in zip(sizes, settings["padding"], strict=True)))))
    shape = tuple(pooled(*each) for each in zip(sizes, *places, strict=True))
    return _product(value, (outputs, *shape), fan, weight)


def _channels(values: Sequence[Value], settings: dict[str, Any], tensors: Tensors) -> Value:
    for role, layout in tensors.items():
        _expect(role, layout, (1,), values[0].shape[:1])
    return Value(values[0].shape, real=values[0].size * max(1, len(tensors)))


def _clamp(values: Sequence[Value], settings: dict[str, Any], tensors: Tensors) -> Value:
    if settings["min"] is None and settings["max"] is None:
        raise PackedFileError("needs a bound")
    return _channels(values, settings, tensors)


def _signs(values: Sequence[Value], settings: dict[str, Any], tensors: Tensors) -> Value:
    return Value(values[0].shape, signs=True, real=_channels(values, settings, tensors).size)


def _pool(values: Sequence[Value], settings: dict[str, Any], tensors: Tensors) -> Value:
    (value,), kernel = values, settings["kernel"]
    stride, padding = settings["stride"], settings["padding"]
    dilation = settings.get("dilation", (1,) * len(kernel))
    sizes = _spatial(value, kernel, stride, padding, dilation)
    if any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
        raise PackedFileError(f"padding {list(padding)} is more than half of kernel {list(kernel)}")
    ceil = settings.get("ceil", False)
    shape = [pooled(*each, ceil) for each in zip(sizes, kernel, stride, padding, dilation, strict=True)]
    bounded(Value((value.shape[0], *(n + 2 * p for n, p in zip(sizes, padding, strict=True)))))
    result = Value((value.shape[0], *shape))
    return Value(result.shape, real=result.size * math.prod(kernel))


def _max_pool(values: Sequence[Value], settings: dict[str, Any], tensors: Tensors) -> Value:
    result = _pool(values, settings, tensors)
    # A dilated window may see padding alone.
    return Value(result.shape, values[0].signs and set(settings["dilation"]) == {1}, real=result.real)


def _adaptive(values: Sequence[Value], settings: dict[str, Any], tensors: Tensors) -> Value:
    sizes = _spatial(values[0], settings["size"])
    if any(out > size for out, size in zip(settings["size"], sizes, strict=True)):
        raise PackedFileError(f"{list(sizes)} cannot become {list(settings['size'])}")
    return Value((values[0].shape[0], *settings["size"]), real=values[0].size)


def _reshape(values: Sequence[Value], settings: dict[str, Any], tensors: Tensors) -> Value:
    if math.prod(settings["shape"]) != values[0].size or not settings["shape"]:
        raise PackedFileError(f"shape {list(values[0].shape)} cannot become {list(settings['shape'])}")
    return Value(settings["shape"], values[0].signs)


def _permute(values: Sequence[Value], settings: dict[str, Any], tensors: Tensors) -> Value:
    shape, axes = values[0].shape, settings["axes"]
    if sorted(axes) != list(range(1, len(shape) + 1)):
        raise PackedFileError(f"axes must be an order of 1 to {len(shape)}")
    return Value(tuple(shape[axis - 1] for axis in axes), values[0].signs)


def _pad(values: Sequence[Value], settings: dict[str, Any], tensors: Tensors) -> Value:
    shape, before, after = values[0].shape, settings["before"], settings["after"]
    if not len(shape) == len(before) == len(after):
        raise PackedFileError(f"before and after must have {len(shape)} entries")
    return Value(tuple(map(sum, zip(shape, before, after, strict=True))))


def _add(values: Sequence[Value], settings: dict[str, Any], tensors: Tensors) -> Value:
    if values[0].shape != values[1].shape:
        raise PackedFileError(f"cannot add shapes {list(values[0].shape)} and {list(values[1].shape)}")
    return Value(values[0].shape, real=values[0].size)


def _axis(settings: dict[str, Any], shape: Sequence[int]) -> int:
    if not 1 <= settings["axis"] <= len(shape):
        raise PackedFileError(f"axis must be from 1 to {len(shape)}")
    return settings["axis"] - 1


def _concat(values: Sequence[Value], settings: dict[str, Any], tensors: Tensors) -> Value:
    shape = list(values[0].shape)
    axis = _axis(settings, shape)
    for value in values:
        if [*value.shape[:axis], *value.shape[axis + 1 :]] != [*shape[:axis], *shape[axis + 1 :]]:
            raise PackedFileError(f"cannot concatenate shapes {shape} and {list(value.shape)} along axis {axis + 1}")
    shape[axis] = sum(value.shape[axis] for value in values)
    return Value(tuple(shape), all(value.signs for value in values))


def _softmax(values: Sequence[Value], settings: dict[str, Any], tensors: Tensors) -> Value:
    _axis(settings, values[0].shape)
    return Value(values[0].shape, real=3 * values[0].size)


_WEIGHT = frozenset({"weight"})
_SLIDING = {"kernel": "sizes", "stride": "sizes", "padding": "places"}
OPS: Mapping[str, Op] = {
    "linear": Op(1, _linear, needed=_WEIGHT),
    "conv": Op(1, _conv, {**_SLIDING, "dilation": "sizes", "groups": "size"}, _WEIGHT),
    "affine": Op(1, _channels, optional=frozenset({"scale", "shift"})),
    "sign": Op(1, _signs),
    "threshold": Op(1, _signs, needed=frozenset({"threshold"}), optional=frozenset({"direction"})),
    "clamp": Op(1, _clamp, {"min": "bound", "max": "bound"}),
    "prelu": Op(1, _channels, needed=frozenset({"slope"})),
    "tanh": Op(1, _channels),
    "sigmoid": Op(1, _channels),
    "max_pool": Op(1, _max_pool, {**_SLIDING, "dilation": "sizes", "ceil": "flag"}),
    "avg_pool": Op(1, _pool, {**_SLIDING, "count_padding": "flag"}),
    "adaptive_avg_pool": Op(1, _adaptive, {"size": "sizes"}),
    "reshape": Op(1, _reshape, {"shape": "sizes"}),
    "permute": Op(1, _permute, {"axes": "sizes"}),
    "pad": Op(1, _pad, {"before": "places", "after": "places"}),
    "add": Op(2, _add),
    "concat": Op(0, _concat, {"axis": "size"}),
    "softmax": Op(1, _softmax, {"axis": "size"}),
}
