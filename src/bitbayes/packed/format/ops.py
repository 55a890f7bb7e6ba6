"""The operations of packed networks: their inputs, output shapes, and costs.

`docs/file-format.md` describes the same in words.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bitbayes.packed.format.bits import Array, row_bytes
from bitbayes.packed.format.program import PackedFileError, Step, finite_number, whole_number, whole_numbers

MAX_VALUE = 1 << 24  # most numbers of a value for one input
MIN_EPSILON = 1e-30  # least number that a norm adds to a mean of squares, so that nothing is divided by zero
PADDED = float(np.finfo(np.float32).min)  # score of a key that a mask hides; keys that are all hidden count alike
MAX_MEANS = 1 << 12  # most windows of an adaptive pool along an axis, each of which is computed separately


@dataclass(frozen=True)
class Value:
    """Result of a step for one input.

    Args:
        shape: Shape without the batch.
        signs: Whether all entries are −1 or +1.
        binary: Number of xnor and popcount operations, two per product.
        real: Number of floating-point operations: two per product, or one if the weight is a sign.
        mask: Whether the value says which tokens are padding.

    Example:
        >>> Value((128, 32, 32)).size
        131072
    """

    shape: tuple[int, ...]
    signs: bool = False
    binary: int = 0
    real: int = 0
    mask: bool = False

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)


Tensors = Mapping[str, Array]
Infer = Callable[[Sequence[Value], Step, Tensors], Value]
Check = Callable[[Any, str], Any]  # check of a setting: returns the value, or raises an error with its name


class Op(NamedTuple):
    """Operation: its number of sources (0 means one or more), shape rule, settings and tensors."""

    sources: int
    infer: Infer
    settings: Mapping[str, Check] = {}
    needed: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()


def bounded(value: Value) -> Value:
    """Return a value; raise ValueError if it is empty or too large."""
    if not 1 <= value.size <= MAX_VALUE or len(value.shape) > 6:
        raise PackedFileError(f"shape {list(value.shape)} must have at most 6 axes and 1 to {MAX_VALUE} numbers")
    return value


def _expect(what: str, tensor: Array, *shapes: tuple[int, ...]) -> None:
    if tensor.shape not in shapes:
        wanted = " or ".join(str(list(shape)) for shape in shapes)
        raise PackedFileError(f"{what} has shape {list(tensor.shape)}, expected {wanted}")


def _spatial(value: Value, *lists: Sequence[int]) -> tuple[int, ...]:
    rank = len(value.shape) - 1
    if rank not in (1, 2) or any(len(entry) != rank for entry in lists):
        raise PackedFileError(f"an input of shape {list(value.shape)} does not fit; expected 1 or 2 axes and channels")
    return value.shape[1:]


def _product(value: Value, places: tuple[int, ...], step: Step, weight: Array) -> Value:
    outputs, fan, bits = sum(weight.shape[:1]), step.fan_in(value.shape), weight.dtype == np.uint8
    inputs = (row_bytes(fan),) if bits else (value.shape[0] // step.groups, *step.kernel)
    _expect("weight", weight, (outputs, *inputs))
    shape, products = (outputs, *places), outputs * math.prod(places) * fan
    if bits and value.signs:
        return Value(shape, binary=2 * products)
    return Value(shape, real=products if bits else 2 * products)


def _linear(values: Sequence[Value], step: Step, tensors: Tensors) -> Value:
    (value,), weight = values, tensors["weight"]
    if len(value.shape) != 1:
        raise PackedFileError(f"takes one axis, got shape {list(value.shape)}")
    return _product(value, (), step, weight)


def _places(value: Value, step: Step) -> tuple[int, ...]:
    """Return the number of windows along each axis; raise ValueError if they do not fit into the padded input."""
    sliding = step.sliding
    sizes = _spatial(value, sliding.kernel, sliding.stride, sliding.padding, sliding.dilation)
    padded = [size + 2 * p for size, p in zip(sizes, sliding.padding, strict=True)]
    for span, size in zip(sliding.span, padded, strict=True):
        if span > size:
            raise PackedFileError(f"a window of {span} is larger than {size}")
    bounded(Value((value.shape[0], *padded)))
    return sliding.places(sizes)


def _conv(values: Sequence[Value], step: Step, tensors: Tensors) -> Value:
    (value,), weight, groups = values, tensors["weight"], step.groups
    places, outputs = _places(value, step), sum(weight.shape[:1])
    if value.shape[0] % groups or outputs % groups:
        raise PackedFileError(f"{value.shape[0]} and {outputs} channels cannot be in {groups} groups")
    return _product(value, places, step, weight)


def _channels(values: Sequence[Value], step: Step, tensors: Tensors) -> Value:
    for role, layout in tensors.items():
        _expect(role, layout, (1,), values[0].shape[:1])
    return Value(values[0].shape, real=values[0].size * max(1, len(tensors)))


def _clamp(values: Sequence[Value], step: Step, tensors: Tensors) -> Value:
    if step.settings["min"] is None and step.settings["max"] is None:
        raise PackedFileError("needs a bound")
    return _channels(values, step, tensors)


def _signs(values: Sequence[Value], step: Step, tensors: Tensors) -> Value:
    return Value(values[0].shape, signs=True, real=_channels(values, step, tensors).size)


def _pool(values: Sequence[Value], step: Step, tensors: Tensors) -> Value:
    (value,), sliding = values, step.sliding
    places = _places(value, step)
    if any(2 * p > k for p, k in zip(sliding.padding, sliding.kernel, strict=True)):
        raise PackedFileError(f"padding {list(sliding.padding)} is more than half of kernel {list(sliding.kernel)}")
    shape = (value.shape[0], *places)
    return Value(shape, real=math.prod((*shape, *sliding.kernel)))


def _max_pool(values: Sequence[Value], step: Step, tensors: Tensors) -> Value:
    result = _pool(values, step, tensors)
    # A dilated window may see only padding.
    return Value(result.shape, values[0].signs and set(step.sliding.dilation) == {1}, real=result.real)


def _adaptive(values: Sequence[Value], step: Step, tensors: Tensors) -> Value:
    wanted = step.settings["size"]
    sizes = _spatial(values[0], wanted)
    if max(wanted, default=0) > MAX_MEANS:
        raise PackedFileError(f"{list(wanted)} windows; at most {MAX_MEANS} along an axis are allowed")
    if any(out > size for out, size in zip(wanted, sizes, strict=True)):
        raise PackedFileError(f"{list(sizes)} cannot become {list(wanted)}")
    return Value((values[0].shape[0], *wanted), real=values[0].size)


def _reshape(values: Sequence[Value], step: Step, tensors: Tensors) -> Value:
    shape = step.settings["shape"]
    if math.prod(shape) != values[0].size or not shape:
        raise PackedFileError(f"shape {list(values[0].shape)} cannot become {list(shape)}")
    return Value(shape, values[0].signs)


def _permute(values: Sequence[Value], step: Step, tensors: Tensors) -> Value:
    shape, axes = values[0].shape, step.settings["axes"]
    if sorted(axes) != list(range(1, len(shape) + 1)):
        raise PackedFileError(f"axes must be a permutation of 1 to {len(shape)}")
    return Value(tuple(shape[axis - 1] for axis in axes), values[0].signs)


def _pad(values: Sequence[Value], step: Step, tensors: Tensors) -> Value:
    shape, before, after = values[0].shape, step.settings["before"], step.settings["after"]
    if not len(shape) == len(before) == len(after):
        raise PackedFileError(f"before and after must have {len(shape)} entries")
    return Value(tuple(map(sum, zip(shape, before, after, strict=True))))


def _two(values: Sequence[Value], step: Step, tensors: Tensors) -> Value:
    if values[0].shape != values[1].shape:
        raise PackedFileError(f"cannot combine shapes {list(values[0].shape)} and {list(values[1].shape)}")
    return Value(values[0].shape, real=values[0].size)


def _axis(step: Step, shape: Sequence[int]) -> int:
    if not 1 <= step.settings["axis"] <= len(shape):
        raise PackedFileError(f"axis must be from 1 to {len(shape)}")
    return step.settings["axis"] - 1


def _concat(values: Sequence[Value], step: Step, tensors: Tensors) -> Value:
    shape = list(values[0].shape)
    axis = _axis(step, shape)
    for value in values:
        if [*value.shape[:axis], *value.shape[axis + 1 :]] != [*shape[:axis], *shape[axis + 1 :]]:
            raise PackedFileError(f"cannot concatenate shapes {shape} and {list(value.shape)} along axis {axis + 1}")
    shape[axis] = sum(value.shape[axis] for value in values)
    return Value(tuple(shape), all(value.signs for value in values))


def _gelu(values: Sequence[Value], step: Step, tensors: Tensors) -> Value:
    return Value(values[0].shape, real=8 * values[0].size)


def _softmax(values: Sequence[Value], step: Step, tensors: Tensors) -> Value:
    _axis(step, values[0].shape)
    return Value(values[0].shape, real=3 * values[0].size)


def _embed(values: Sequence[Value], step: Step, tensors: Tensors) -> Value:
    if step.sources != (0,) or len(values[0].shape) != 1:
        raise PackedFileError(f"takes token ids, which are an input of one axis, got shape {list(values[0].shape)}")
    if tensors["table"].ndim != 2 or not len(tensors["table"]):
        raise PackedFileError(f"the table has shape {list(tensors['table'].shape)}, expected [ids, channels]")
    shape = (tensors["table"].shape[1], *values[0].shape)
    return Value(shape, real=math.prod(shape))


def _norm(values: Sequence[Value], step: Step, tensors: Tensors) -> Value:
    return Value(values[0].shape, real=8 * values[0].size)


def scores_shape(values: Sequence[Value], step: Step) -> tuple[int, int, int]:
    """Return the shape of the scores of an attention: heads, queries and keys; raise an error if its sources differ."""
    heads, shapes = step.settings["heads"], [list(value.shape) for value in values[:3]]
    query, key, value = shapes
    if not all(len(shape) == 2 and shape[0] % heads == 0 for shape in shapes):
        raise PackedFileError(f"takes channels of {heads} heads and tokens, got shapes {', '.join(map(str, shapes))}")
    if query[0] != key[0] or key[1] != value[1]:
        raise PackedFileError(f"queries {query}, keys {key} and values {value} do not fit together")
    return heads, query[1], key[1]


def _attention(values: Sequence[Value], step: Step, tensors: Tensors) -> Value:
    scores = bounded(Value(scores_shape(values, step)))
    channels = values[0].shape[0] + values[2].shape[0]  # of all heads
    shape = (values[2].shape[0], values[0].shape[1])
    return Value(shape, real=2 * channels * math.prod(scores.shape[1:]) + 4 * scores.size)


def _masked_attention(values: Sequence[Value], step: Step, tensors: Tensors) -> Value:
    *_, keys = scores_shape(values, step)
    _expect_mask(values[3], keys)
    return _attention(values, step, tensors)


def _mask(values: Sequence[Value], step: Step, tensors: Tensors) -> Value:
    if step.sources != (0,) or len(values[0].shape) != 1:
        raise PackedFileError(f"takes token ids, which are an input of one axis, got shape {list(values[0].shape)}")
    return Value(values[0].shape, real=values[0].size, mask=True)


def _masked_mean(values: Sequence[Value], step: Step, tensors: Tensors) -> Value:
    x, mask = values
    if len(x.shape) != 2:
        raise PackedFileError(f"takes channels and tokens, got shape {list(x.shape)}")
    _expect_mask(mask, x.shape[1])
    return Value(x.shape[:1], real=2 * x.size)


def _expect_mask(mask: Value, tokens: int) -> None:
    if not mask.mask:
        raise PackedFileError("the last value that it takes must be that of a mask")
    if mask.shape != (tokens,):
        raise PackedFileError(f"a mask of shape {list(mask.shape)} does not fit {tokens} tokens")


def _offset(values: Sequence[Value], step: Step, tensors: Tensors) -> Value:
    _expect("offset", tensors["offset"], (values[0].size,))
    return Value(values[0].shape, real=values[0].size)


def _slice(values: Sequence[Value], step: Step, tensors: Tensors) -> Value:
    shape, begin, end = list(values[0].shape), step.settings["begin"], step.settings["end"]
    axis = _axis(step, shape)
    if not begin < end <= shape[axis]:
        raise PackedFileError(f"entries {begin} to {end} are not within the {shape[axis]} of axis {axis + 1}")
    shape[axis] = end - begin
    return Value(tuple(shape), values[0].signs)


_sizes = functools.partial(whole_numbers, least=1)
_size = functools.partial(whole_number, least=1)


def _bound(value: Any, what: str) -> float | None:
    return None if value is None else finite_number(value, what)


def _flag(value: Any, what: str) -> bool:
    if not isinstance(value, bool):
        raise PackedFileError(f"{what} must be true or false")
    return value


def _epsilon(value: Any, what: str) -> float:
    if not MIN_EPSILON <= finite_number(value, what) <= 1:
        raise PackedFileError(f"{what} must be from {MIN_EPSILON:g} to 1, got {value}")
    return float(value)


_WEIGHT = frozenset({"weight"})
_SLIDING: Mapping[str, Check] = {"kernel": _sizes, "stride": _sizes, "padding": whole_numbers}
_ATTENTION: Mapping[str, Check] = {"heads": _size, "scale": finite_number, "causal": _flag}
OPS: Mapping[str, Op] = {
    "linear": Op(1, _linear, needed=_WEIGHT),
    "conv": Op(1, _conv, {**_SLIDING, "dilation": _sizes, "groups": _size}, _WEIGHT),
    "affine": Op(1, _channels, optional=frozenset({"scale", "shift"})),
    "sign": Op(1, _signs),
    "threshold": Op(1, _signs, needed=frozenset({"threshold"}), optional=frozenset({"direction"})),
    "clamp": Op(1, _clamp, {"min": _bound, "max": _bound}),
    "prelu": Op(1, _channels, needed=frozenset({"slope"})),
    "tanh": Op(1, _channels),
    "sigmoid": Op(1, _channels),
    "gelu": Op(1, _gelu, {"tanh": _flag}),
    "max_pool": Op(1, _max_pool, {**_SLIDING, "dilation": _sizes, "ceil": _flag}),
    "avg_pool": Op(1, _pool, {**_SLIDING, "count_padding": _flag}),
    "adaptive_avg_pool": Op(1, _adaptive, {"size": _sizes}),
    "reshape": Op(1, _reshape, {"shape": _sizes}),
    "permute": Op(1, _permute, {"axes": _sizes}),
    "pad": Op(1, _pad, {"before": whole_numbers, "after": whole_numbers}),
    "add": Op(2, _two),
    "multiply": Op(2, _two),
    "concat": Op(0, _concat, {"axis": _size}),
    "softmax": Op(1, _softmax, {"axis": _size}),
    "slice": Op(1, _slice, {"axis": _size, "begin": whole_number, "end": _size}),
    "offset": Op(1, _offset, needed=frozenset({"offset"})),
    "embed": Op(1, _embed, needed=frozenset({"table"})),
    "norm": Op(1, _norm, {"centre": _flag, "eps": _epsilon}),
    "attention": Op(3, _attention, _ATTENTION),
    "mask": Op(1, _mask, {"id": whole_number}),
    "masked_attention": Op(4, _masked_attention, _ATTENTION),
    "masked_mean": Op(2, _masked_mean),
}
