"""Conversion of every operation that torch.export records: a table from names to functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.fx import Node

from bitbayes.packed.convert.draft import Builder, Get, Refusal, Vector

Layer = Callable[[Builder, Node, dict[str, Any]], int]


def shape_of(node: Any) -> tuple[Any, ...]:
    """Return the shape without the batch."""
    return tuple(node.meta["val"].shape[1:])


def _sizes(value: Any, rank: int, missing: Any = 1) -> list[int]:
    """Return a torch setting for every axis, given a number, a list of one number, or nothing."""
    given = [value] if isinstance(value, int) else list(value or [missing])
    given = [size for each in given for size in (each if isinstance(each, list) else [each])]
    return given * rank if len(given) == 1 else given


def _weighted(b: Builder, op: str, a: dict[str, Any], source: int, **settings: Any) -> int:
    """Add a step of weights, then its scale, then its bias."""
    if a["weight"] not in b.constants:
        raise Refusal("its weights depend on the input")
    bias, result = a["bias"], b.add("affine", [b.add(op, [source], {"weight": a["weight"]}, **settings)])
    return result if bias is None else b.add("affine", [result], {"shift": lambda get: get(bias)})


def _linear(b: Builder, node: Node, a: dict[str, Any]) -> int:
    if len(shape_of(a["input"])) != 1:
        raise Refusal(f"Linear takes inputs (N, K) here, got shape (N, {', '.join(map(str, shape_of(a['input'])))})")
    return _weighted(b, "linear", a, b.value(a["input"]))


def _conv(b: Builder, node: Node, a: dict[str, Any]) -> int:
    rank, source, padding = len(shape_of(node)) - 1, b.value(a["input"]), a["padding"]
    kernel, dilation = list(a["weight"].meta["val"].shape[2:]), _sizes(a["dilation"], rank)
    if padding == "same":
        both = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        padding = [size // 2 for size in both]
        if any(size % 2 for size in both):  # torch puts the odd zero last
            before, after = [0, *padding], [0, *(size - size // 2 for size in both)]
            source, padding = b.add("pad", [source], before=before, after=after), 0
    padding = _sizes(0 if padding == "valid" else padding, rank)
    geometry = {"kernel": kernel, "stride": _sizes(a["stride"], rank), "padding": padding, "dilation": dilation}
    return _weighted(b, "conv", a, source, **geometry, groups=a["groups"])


def _batch_norm(b: Builder, node: Node, a: dict[str, Any]) -> int:
    mean, variance, weight, bias, eps = (a[k] for k in ("running_mean", "running_var", "weight", "bias", "eps"))
    if a.get("training") or mean is None:
        raise Refusal("it has no running statistics, so its outputs depend on the batch")

    # Round as torch does on a CPU, because a sign may be taken of the result.
    def scale(get: Get) -> npt.NDArray[np.float64]:
        one = np.float32(1)
        scale = one / np.sqrt(get(variance).astype(np.float32) + np.float32(eps))
        return (scale * (one if weight is None else get(weight).astype(np.float32))).astype(np.float64)

    def shift(get: Get) -> npt.NDArray[np.float64]:
        shift = (0.0 if bias is None else get(bias)) - get(mean) * scale(get)
        return shift.astype(np.float32).astype(np.float64)

    return b.add("affine", [b.value(a["input"])], {"scale": scale, "shift": shift})


def _vector(constant: Any, value: Node) -> Vector:
    """Return a constant that is combined with a value: one number, or one per channel."""
    shape = () if isinstance(constant, int | float) else tuple(constant.meta["val"].shape)
    whole = (1, *shape_of(value))
    aligned = (1,) * (len(whole) - len(shape)) + shape
    channels = (1, whole[1], *[1] * (len(whole) - 2))
    if math.prod(shape) != 1 and aligned != channels:
        raise Refusal(f"a constant of shape {shape} is neither a single number nor one per channel of {whole[1:]}")
    return lambda get: get(constant).reshape(-1)


def _affine(b: Builder, value: Node, *, times: Any = 1, plus: Any = 0, sign: float = 1) -> int:
    """Add a step that computes value · times + sign · plus."""
    scale, shift = _vector(times, value), _vector(plus, value)
    return b.add("affine", [b.value(value)], {"scale": scale, "shift": lambda get: sign * shift(get)})


def _sum(sign: float) -> Layer:
    def convert(b: Builder, node: Node, a: dict[str, Any]) -> int:
        left, right, factor = a["self"], a["other"], sign * a["alpha"]
        if b.constant(right):
            return _affine(b, left, plus=right, sign=factor)
        if b.constant(left):
            return _affine(b, right, times=factor, plus=left)
        if shape_of(left) != shape_of(right):
            raise Refusal(f"shapes (N, *{shape_of(left)}) and (N, *{shape_of(right)}) cannot be added here")
        other = b.value(right) if factor == 1 else _affine(b, right, times=factor)
        return b.add("add", [b.value(left), other])

    return convert


def _mul(b: Builder, node: Node, a: dict[str, Any]) -> int:
    value, factor = (a["self"], a["other"]) if b.constant(a["other"]) else (a["other"], a["self"])
    if not b.constant(factor):
        raise Refusal("the product of two activations has no packed form")
    return _affine(b, value, times=factor)


def _div(b: Builder, node: Node, a: dict[str, Any]) -> int:
    if not b.constant(a["other"]) or a.get("rounding_mode") is not None:
        raise Refusal("it must divide by a constant")
    divisor = _vector(a["other"], a["self"])
    return b.add("affine", [b.value(a["self"])], {"scale": lambda get: 1 / divisor(get)})


def _step_function(flip: bool, negate: bool) -> Layer:
    """Compare x with t as (sign + 1) / 2. x ≤ t is −x ≥ −t (`flip`), and < is the negation of ≥ (`negate`)."""

    def convert(b: Builder, node: Node, a: dict[str, Any]) -> int:
        if not b.constant(a["other"]):
            raise Refusal("it must compare with a constant")
        side, half = (-1 if flip else 1), (-0.5 if negate else 0.5)
        signs = b.add("sign", [_affine(b, a["self"], times=side, plus=a["other"], sign=-side)])
        return b.add("affine", [signs], {"scale": lambda get: get(half), "shift": lambda get: get(0.5)})

    return convert


def _where(b: Builder, node: Node, a: dict[str, Any]) -> int:
    if not b.constant(a["self"]) or not b.constant(a["other"]):
        raise Refusal("it must choose between constants")
    one, zero = _vector(a["self"], node), _vector(a["other"], node)
    return b.add("affine", [b.value(a["condition"])], {"scale": lambda get: one(get) - zero(get), "shift": zero})


def _clamp(low: Any, high: Any) -> Layer:
    """Add a clamp whose bounds are numbers or names of arguments."""

    def convert(b: Builder, node: Node, a: dict[str, Any]) -> int:
        bounds = [a[each] if isinstance(each, str) else each for each in (low, high)]
        if any(isinstance(bound, Node) for bound in bounds):
            raise Refusal("its bounds must be numbers")
        return b.add("clamp", [b.value(a["self"])], min=bounds[0], max=bounds[1])

    return convert


def _prelu(b: Builder, node: Node, a: dict[str, Any]) -> int:
    slope = a["weight"] if "weight" in a else a["negative_slope"]
    return b.add("prelu", [b.value(a["self"])], {"slope": lambda get: get(slope).reshape(-1)})


def _pool(op: str) -> Layer:
    def convert(b: Builder, node: Node, a: dict[str, Any]) -> int:
        rank, source = len(shape_of(node)) - 1, b.value(a["self"])
        kernel, padding = _sizes(a["kernel_size"], rank), _sizes(a["padding"], rank)
        sliding: dict[str, Any] = {"kernel": kernel, "stride": _sizes(a["stride"] or kernel, rank), "padding": padding}
        if op == "max_pool":
            return b.add(op, [source], **sliding, dilation=_sizes(a["dilation"], rank), ceil=a["ceil_mode"])
        if a["ceil_mode"] or a.get("divisor_override") is not None:
            raise Refusal("average pooling with ceil_mode or a divisor is not supported")
        return b.add(op, [source], **sliding, count_padding=a["count_include_pad"])

    return convert


def _adaptive(b: Builder, node: Node, a: dict[str, Any]) -> int:
    size = list(shape_of(node)[1:])
    if len(size) != len(a["output_size"]):
        raise Refusal("pooling needs inputs with a batch axis, a channel axis, and the pooled axes")
    return b.add("adaptive_avg_pool", [b.value(a["self"])], size=size)


def _mean(b: Builder, node: Node, a: dict[str, Any]) -> int:
    shape = shape_of(a["self"])
    axes = sorted(axis % (len(shape) + 1) for axis in a.get("dim") or [])
    if len(shape) not in (2, 3) or axes != list(range(2, len(shape) + 1)) or a.get("dtype") is not None:
        raise Refusal("a mean must be over all positions of an image or a sequence")
    pooled = b.add("adaptive_avg_pool", [b.value(a["self"])], size=[1] * len(axes))
    return b.add("reshape", [pooled], shape=list(shape_of(node)))


def _reshape(b: Builder, node: Node, a: dict[str, Any]) -> int:
    before, (batch, *after) = a["self"].meta["val"].shape, node.meta["val"].shape
    if not after or batch != before[0] or not all(isinstance(size, int) for size in after):
        raise Refusal("the batch must stay the first axis and must not be the only one")
    return b.add("reshape", [b.value(a["self"])], shape=after)


def _permute(b: Builder, node: Node, a: dict[str, Any]) -> int:
    rank = len(shape_of(node)) + 1
    axes = [axis % rank for axis in a.get("dims", range(rank))]
    if "dims" not in a:
        axes[a["dim0"]], axes[a["dim1"]] = axes[a["dim1"]], axes[a["dim0"]]
    if axes[0] != 0:
        raise Refusal("the batch must stay the first axis")
    return b.add("permute", [b.value(a["self"])], axes=axes[1:])


def _pad(b: Builder, node: Node, a: dict[str, Any]) -> int:
    rank, pads = len(shape_of(node)), list(a["pad"])
    pads += [0] * (2 * rank - len(pads))
    if a.get("mode", "constant") != "constant" or a["value"] not in (None, 0) or min(pads) < 0 or any(pads[2 * rank :]):
        raise Refusal("padding must be with zeros")
    before, after = pads[0 : 2 * rank : 2][::-1], pads[1 : 2 * rank : 2][::-1]  # torch's starts at the last axis
    return b.add("pad", [b.value(a["self"])], before=before, after=after)


def _axis(node: Node, axis: int) -> int:
    axis %= len(shape_of(node)) + 1
    if axis == 0:
        raise Refusal("it must not work along the batch")
    return axis


def _softmax(b: Builder, node: Node, a: dict[str, Any]) -> int:
    return b.add("softmax", [b.value(a["self"])], axis=_axis(node, a["dim"]))


def _sign(b: Builder, node: Node, a: dict[str, Any]) -> int:
    raise Refusal("torch.sign is 0 at 0, which is not a bit; use bitbayes.nn.BinaryActivation")


LAYERS: dict[str, Layer] = {
    "linear": _linear,
    **dict.fromkeys(["conv1d", "conv2d"], _conv),
    **dict.fromkeys(["batch_norm", "_native_batch_norm_legit_no_training"], _batch_norm),
    **{"add": _sum(1), "sub": _sum(-1), "mul": _mul, "div": _div},
    "rsub": lambda b, node, a: _affine(b, a["self"], times=-a["alpha"], plus=a["other"]),
    "neg": lambda b, node, a: _affine(b, a["self"], times=-1),
    **{"ge": _step_function(False, False), "le": _step_function(True, False)},
    **{"lt": _step_function(False, True), "gt": _step_function(True, True)},
    **{"where": _where, "sign": _sign},
    **{"relu": _clamp(0, None), "relu6": _clamp(0, 6), "hardtanh": _clamp("min_val", "max_val")},
    **{"clamp": _clamp("min", "max"), "clamp_min": _clamp("min", None), "clamp_max": _clamp(None, "max")},
    **dict.fromkeys(["prelu", "leaky_relu"], _prelu),
    "tanh": lambda b, node, a: b.add("tanh", [b.value(a["self"])]),
    "gelu": lambda b, node, a: b.add("gelu", [b.value(a["self"])], tanh=a["approximate"] == "tanh"),
    "sigmoid": lambda b, node, a: b.add("sigmoid", [b.value(a["self"])]),
    **dict.fromkeys(["max_pool1d", "max_pool2d"], _pool("max_pool")),
    **dict.fromkeys(["avg_pool1d", "avg_pool2d"], _pool("avg_pool")),
    **dict.fromkeys(["adaptive_avg_pool1d", "adaptive_avg_pool2d"], _adaptive),
    **dict.fromkeys(["view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "_unsafe_view"], _reshape),
    **{"mean": _mean, "permute": _permute, "transpose": _permute},
    **dict.fromkeys(["pad", "constant_pad_nd"], _pad),
    "cat": lambda b, node, a: b.add("concat", list(map(b.value, a["tensors"])), axis=_axis(node, a["dim"])),
    **dict.fromkeys(["softmax", "_softmax"], _softmax),
}
