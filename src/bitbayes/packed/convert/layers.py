"""Conversion of every operation that torch.export records: a table from names to functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.fx import Node

from bitbayes.packed.convert.attention import (
    attention,
    baddbmm,
    masked,
    masked_fill,
    matmul,
    scaled,
    scores_of,
    softmax,
)
from bitbayes.packed.convert.axes import (
    BATCH,
    BATCH_SIZE,
    Axis,
    Traced,
    as_torch,
    axis_of,
    channels_first,
    flat,
    matched,
    narrowed,
    reshaped,
    shape_of,
    size_of,
    sizes_of,
    stored_as,
    traced,
)
from bitbayes.packed.convert.draft import Builder, Get, Refusal, Vector
from bitbayes.packed.convert.masks import Mask, MaskedTokens, masked_mean, masked_tokens, summed
from bitbayes.packed.convert.weights import conv, linear, per_axis
from bitbayes.packed.format.ops import MIN_EPSILON

# What a node is: a `Traced` tensor, the value of one that has torch's axes, several tensors, or scores of attention.
Layer = Callable[[Builder, Node, dict[str, Any]], Any]


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

    return b.add("affine", [as_torch(b, a["input"])], {"scale": scale, "shift": shift})


def _aligned(b: Builder, x: Traced, *constants: Any) -> tuple[Traced, list[Vector]]:
    """Return a tensor with the constants' axis as its channels, and the constants: one number, or one per channel."""
    along = {axis for constant in constants for axis in _varying(constant, x)}
    if len(along) > 1:
        shapes = " and ".join(str(_constant_shape(constant)) for constant in constants)
        raise Refusal(f"a constant of shape {shapes} is neither a number nor one for each channel of {_shown(x)}")
    channels = x.axes[along.pop()] if along else x.stored[1]
    if channels != x.stored[1]:
        x = stored_as(b, x, ((BATCH,), channels, *x.others(channels)))
    return x, [_vector(constant) for constant in constants]


def _vector(constant: Any) -> Vector:
    return lambda get: get(constant).reshape(-1)


def _varying(constant: Any, x: Traced) -> list[int]:
    """Return the axes of a tensor along which a constant that is combined with it has several numbers."""
    shape = _constant_shape(constant)
    sizes = [*[1] * (len(x.axes) - len(shape)), *shape]
    along = [axis for axis, size in enumerate(sizes) if size > 1]
    if len(sizes) > len(x.axes) or any(sizes[axis] != x.sizes[axis] for axis in along):
        raise Refusal(f"a constant of shape {shape} does not fit a tensor of shape {_shown(x)}")
    return along


def _constant_shape(constant: Any) -> tuple[int, ...]:
    """Return the shape of a number or a constant, which may be repeated along the batch."""
    if isinstance(constant, int | float):
        return ()
    return tuple(1 if size == BATCH_SIZE else size for size in sizes_of(constant))


def _shown(x: Traced) -> str:
    return f"({', '.join('N' if size == BATCH_SIZE else str(size) for size in x.sizes)})"


def _in_order(constant: Vector, x: Traced) -> Vector:
    """Return a constant of torch's axes with one number for each entry of a value, in the order of the value."""
    axes = flat(x.axes)
    order = [axes.index(atom) for atom in flat(x.stored)]

    def vector(get: Get) -> npt.NDArray[np.float64]:
        sizes = [size_of(atom for atom in axis if atom is not BATCH) for axis in x.axes]
        whole = np.broadcast_to(constant(get), sizes).reshape([1 if a is BATCH else a.size for a in axes])
        return whole.transpose(order).reshape(-1)

    return vector


def _affine(b: Builder, node: Any, *, times: Any = 1, plus: Any = 0, sign: float = 1) -> Traced:
    """Add a step that computes value · times + sign · plus, or two if there is a number to add for each entry."""
    x = traced(b, node)
    if len(_varying(plus, x)) > 1:
        x = _affine(b, node, times=times)
        whole = _in_order(lambda get: get(plus), x)
        return x.of(b.add("offset", [x.value], {"offset": lambda get: sign * whole(get)}))
    x, (scale, shift) = _aligned(b, x, times, plus)
    return x.of(b.add("affine", [x.value], {"scale": scale, "shift": lambda get: sign * shift(get)}))


def _sum(sign: float) -> Layer:
    def convert(b: Builder, node: Node, a: dict[str, Any]) -> Any:
        left, right, factor = a["self"], a["other"], sign * a["alpha"]
        if node.meta["val"].dtype == torch.bool:
            raise Refusal("the sum of two comparisons is true if one of them is; call .float() on each")
        if factor == 1 and (scores := scores_of(b, left)) is not None:
            return masked(b, scores, right)
        if b.constant(right):
            return _affine(b, left, plus=right, sign=factor)
        if b.constant(left):
            return _affine(b, right, times=factor, plus=left)
        return _both(b, "add", traced(b, left), traced(b, right) if factor == 1 else _affine(b, right, times=factor))

    return convert


def _both(b: Builder, op: str, left: Traced, right: Traced) -> Traced:
    """Add a step that combines two tensors of equal shapes entry by entry."""
    if left.sizes != right.sizes:
        raise Refusal(f"shapes {_shown(left)} and {_shown(right)} cannot be combined here")
    left, right = matched(b, left, right)
    return right.of(b.add(op, [left.value, right.value]))


def _mul(b: Builder, node: Node, a: dict[str, Any]) -> Any:
    value, factor = (a["self"], a["other"]) if b.constant(a["other"]) else (a["other"], a["self"])
    for x, mask in ((a["self"], b.values.get(a["other"])), (a["other"], b.values.get(a["self"]))):
        if isinstance(mask, Mask):
            return masked_tokens(b, x, mask)
    if not b.constant(factor):
        return _both(b, "multiply", traced(b, a["self"]), traced(b, a["other"]))
    return scaled(b, value, factor) or _affine(b, value, times=factor)


def _div(b: Builder, node: Node, a: dict[str, Any]) -> Any:
    if isinstance(tokens := b.values.get(a["self"]), MaskedTokens) and a.get("rounding_mode") is None:
        return masked_mean(b, node, tokens, a["other"])
    if not b.constant(a["other"]) or a.get("rounding_mode") is not None:
        raise Refusal("it must divide by a constant")
    if (scores := scaled(b, a["self"], a["other"], divide=True)) is not None:
        return scores
    x, (divisor,) = _aligned(b, traced(b, a["self"]), a["other"])
    return x.of(b.add("affine", [x.value], {"scale": lambda get: 1 / divisor(get)}))


def _step_function(flip: bool, negate: bool) -> Layer:
    """Compare x with t as (sign + 1) / 2. x ≤ t is −x ≥ −t (`flip`), and < is the negation of ≥ (`negate`)."""

    def convert(b: Builder, node: Node, a: dict[str, Any]) -> Traced:
        if not b.constant(a["other"]):
            raise Refusal("it must compare with a constant")
        side, half = (-1 if flip else 1), (-0.5 if negate else 0.5)
        x = _affine(b, a["self"], times=side, plus=a["other"], sign=-side)
        signs = b.add("sign", [x.value])
        return x.of(b.add("affine", [signs], {"scale": lambda get: get(half), "shift": lambda get: get(0.5)}))

    return convert


def _cast(b: Builder, node: Node, a: dict[str, Any]) -> Traced:
    """Return a value of 0 and 1 that was of booleans; all other changes of type are removed before."""
    if node.meta["val"].dtype != torch.float32:
        raise Refusal(f"it changes torch.bool to {node.meta['val'].dtype}; call .float() instead")
    return traced(b, a["self"])


def _where(b: Builder, node: Node, a: dict[str, Any]) -> Traced | MaskedTokens:
    if isinstance(mask := b.values.get(a["condition"]), Mask) and _is_zero(b, a["other"]):
        return masked_tokens(b, a["self"], mask)
    if not b.constant(a["self"]) or not b.constant(a["other"]):
        raise Refusal("it must choose between constants")
    x, (one, zero) = _aligned(b, traced(b, a["condition"]), a["self"], a["other"])
    return x.of(b.add("affine", [x.value], {"scale": lambda get: one(get) - zero(get), "shift": zero}))


def _is_zero(b: Builder, value: Any) -> bool:
    return not b.evaluate(value).any() if value in b.constants else value == 0


def _each(op: str, **settings: Callable[[dict[str, Any]], Any]) -> Layer:
    """Add an operation on single entries, whose settings are functions of the arguments."""

    def convert(b: Builder, node: Node, a: dict[str, Any]) -> Traced:
        x = traced(b, a["self"])
        return x.of(b.add(op, [x.value], **{name: setting(a) for name, setting in settings.items()}))

    return convert


def _silu(b: Builder, node: Node, a: dict[str, Any]) -> Traced:
    x = traced(b, a["self"])
    return x.of(b.add("multiply", [x.value, b.add("sigmoid", [x.value])]))


def _clamp(low: Any, high: Any) -> Layer:
    """Add a clamp whose bounds are numbers or names of arguments."""

    def convert(b: Builder, node: Node, a: dict[str, Any]) -> Traced:
        bounds = [a[each] if isinstance(each, str) else each for each in (low, high)]
        if any(isinstance(bound, Node) for bound in bounds):
            raise Refusal("its bounds must be numbers")
        return _each("clamp", min=lambda _: bounds[0], max=lambda _: bounds[1])(b, node, a)

    return convert


def _prelu(b: Builder, node: Node, a: dict[str, Any]) -> Any:
    if "weight" not in a:
        x = traced(b, a["self"])
        return x.of(b.add("prelu", [x.value], {"slope": _vector(a["negative_slope"])}))
    return b.add("prelu", [as_torch(b, a["self"])], {"slope": _vector(a["weight"])})  # of torch's axis 1


def _pool(op: str) -> Layer:
    def convert(b: Builder, node: Node, a: dict[str, Any]) -> int:
        rank, source = len(shape_of(node)) - 1, as_torch(b, a["self"])
        kernel, padding = per_axis(a["kernel_size"], rank), per_axis(a["padding"], rank)
        sliding: dict[str, Any] = {
            "kernel": kernel,
            "stride": per_axis(a["stride"] or kernel, rank),
            "padding": padding,
        }
        if op == "max_pool":
            return b.add(op, [source], **sliding, dilation=per_axis(a["dilation"], rank), ceil=a["ceil_mode"])
        if a["ceil_mode"] or a.get("divisor_override") is not None:
            raise Refusal("average pooling with ceil_mode or a divisor is not supported")
        return b.add(op, [source], **sliding, count_padding=a["count_include_pad"])

    return convert


def _adaptive(b: Builder, node: Node, a: dict[str, Any]) -> int:
    size = list(shape_of(node)[1:])
    if len(size) != len(a["output_size"]):
        raise Refusal("pooling needs inputs with a batch axis, a channel axis, and the pooled axes")
    return b.add("adaptive_avg_pool", [as_torch(b, a["self"])], size=size)


def _mean(b: Builder, node: Node, a: dict[str, Any]) -> Traced:
    """Add an average over the positions of an image, over tokens, or over channels."""
    x = traced(b, a["self"])
    means = {axis % len(x.axes) for axis in a.get("dim") or range(len(x.axes))}
    if any(BATCH in x.axes[axis] for axis in means) or a.get("dtype") is not None:
        raise Refusal("a mean must not be over the batch or in another type")
    pooled = flat(x.axes[axis] for axis in means)
    given = channels_first(b, x, tuple(atom for atom in flat(x.stored[1:]) if atom not in pooled))
    places = len(given.stored) - 2
    value = b.add("adaptive_avg_pool", [given.value], size=[1] * places) if places else given.value
    axes = [() if place in means else axis for place, axis in enumerate(x.axes)]
    axes = axes if a["keepdim"] else [axis for place, axis in enumerate(axes) if place not in means]
    return Traced(value, (*given.stored[:2], *[()] * places), tuple(axes))


def _reshape(b: Builder, node: Node, a: dict[str, Any]) -> Traced:
    before, dtype = a["self"].meta["val"].dtype, node.meta["val"].dtype
    if dtype != before:  # x.view(dtype)
        raise Refusal(f"it reads the bytes of {before} as {dtype}")
    return reshaped(b, traced(b, a["self"]), sizes_of(node))


def _permute(b: Builder, node: Node, a: dict[str, Any]) -> Traced:
    x = traced(b, a["self"])
    axes = [axis % len(x.axes) for axis in a.get("dims", range(len(x.axes)))]
    if "dims" not in a:  # transpose, or mT, which takes the last two
        one, two = a.get("dim0", -1), a.get("dim1", -2)
        axes[one], axes[two] = axes[two], axes[one]
    return Traced(x.value, x.stored, tuple(x.axes[axis] for axis in axes))


def _pad(b: Builder, node: Node, a: dict[str, Any]) -> int:
    rank, pads = len(shape_of(node)), list(a["pad"])
    pads += [0] * (2 * rank - len(pads))
    if a.get("mode", "constant") != "constant" or a["value"] not in (None, 0) or min(pads) < 0 or any(pads[2 * rank :]):
        raise Refusal("padding must be with zeros")
    before, after = pads[0 : 2 * rank : 2][::-1], pads[1 : 2 * rank : 2][::-1]  # torch's starts at the last axis
    return b.add("pad", [as_torch(b, a["self"])], before=before, after=after)


def _own_axis(b: Builder, x: Traced, axis: int) -> tuple[Traced, int]:
    """Return a tensor whose value has an axis of torch's tensor as one of its own, and the number of that axis."""
    if BATCH in x.axes[axis]:
        raise Refusal("it must not work along the batch")
    atoms = x.axes[axis]
    if not atoms:  # of one entry
        return stored_as(b, x, x.axes), axis
    if atoms not in x.stored:
        x = stored_as(b, x, ((BATCH,), *x.others(atoms), atoms))
    return x, x.stored.index(atoms)


def _cat(b: Builder, node: Node, a: dict[str, Any]) -> Traced:
    """Join tensors. Constants before or after them, such as a learned token, are added to padding."""
    parts, axis = list(a["tensors"]), a["dim"] % len(sizes_of(node))
    live = [place for place, part in enumerate(parts) if part not in b.constants]
    before, parts, after = parts[: live[0]], parts[live[0] : live[-1] + 1], parts[live[-1] + 1 :]
    if any(part in b.constants for part in parts):
        raise Refusal("a constant must not stand between the tensors that it is joined with")
    x, place = _joined(b, [traced(b, part) for part in parts], axis)
    if not before and not after:
        return x
    sizes = [sum(sizes_of(part)[axis] for part in some) for some in (before, after)]
    pads = [[size * (1 + i == place) for i in range(len(x.stored) - 1)] for size in sizes]
    value = b.add("pad", [x.value], before=pads[0], after=pads[1])
    count, whole = x.sizes[axis], axis_of(x.sizes[axis] + sum(sizes))
    x = _with_axis(x.of(value), place, axis, whole)

    def constants(get: Get) -> npt.NDArray[np.float64]:
        middle = [1 if BATCH in each else size_of(each) for each in x.axes]
        middle[axis] = count
        return np.concatenate([*map(get, before), np.zeros(middle), *map(get, after)], axis)

    return x.of(b.add("offset", [x.value], {"offset": _in_order(constants, x)}))


def _joined(b: Builder, xs: list[Traced], axis: int) -> tuple[Traced, int]:
    """Join tensors along an axis of torch's; return the result, and the number of that axis in its value."""
    first, place = _own_axis(b, xs[0], axis)
    if len(xs) == 1:
        return first, place
    parts = [[[atom.size for atom in each] for i, each in enumerate(x.axes) if i != axis] for x in xs]
    if all(x.axes[axis] for x in xs) and all(part == parts[0] for part in parts):
        layout = [first]
        for x in xs[1:]:
            pairs = [(one, two) for i, (one, two) in enumerate(zip(first.axes, x.axes, strict=True)) if i != axis]
            twin = {a: c for one, two in pairs for a, c in zip(one, two, strict=True)}
            stored = [x.axes[axis] if i == place else tuple(twin[a] for a in s) for i, s in enumerate(first.stored)]
            layout.append(stored_as(b, x, stored))
    else:
        layout, place = [stored_as(b, x, x.axes) for x in xs], axis
    value, whole = b.add("concat", [x.value for x in layout], axis=place), axis_of(sum(x.sizes[axis] for x in xs))
    return _with_axis(layout[0].of(value), place, axis, whole), place


def _with_axis(x: Traced, place: int, axis: int, new: Axis) -> Traced:
    """Return a tensor with another axis: number `place` of its value, and number `axis` of torch's tensor."""
    stored = tuple(new if i == place else each for i, each in enumerate(x.stored))
    return Traced(x.value, stored, tuple(new if i == axis else each for i, each in enumerate(x.axes)))


def _softmax(b: Builder, node: Node, a: dict[str, Any]) -> Any:
    if (weights := softmax(b, node, a)) is not None:
        return weights
    x, place = _own_axis(b, traced(b, a["self"]), a["dim"] % len(sizes_of(node)))
    return x.of(b.add("softmax", [x.value], axis=place))


def _narrow(b: Builder, x: Traced, axis: int, begin: int, end: int, *, keep: bool = True) -> Traced:
    axis %= len(x.axes)
    x = narrowed(b, x, axis, begin, end)
    return x if keep else Traced(x.value, x.stored, (*x.axes[:axis], *x.axes[axis + 1 :]))


def _select(b: Builder, node: Node, a: dict[str, Any]) -> Traced:
    x = traced(b, a["self"])
    if isinstance(a["index"], Node):
        raise Refusal("it must select by a number")
    index = a["index"] % x.sizes[a["dim"]]
    return _narrow(b, x, a["dim"], index, index + 1, keep=False)


def _slice(b: Builder, node: Node, a: dict[str, Any]) -> Traced:
    x = traced(b, a["self"])
    if a["step"] != 1 or isinstance(a["start"], Node) or isinstance(a["end"], Node):
        raise Refusal("a slice must have fixed ends and a step of 1")
    begin, end, _ = slice(a["start"], a["end"]).indices(x.sizes[a["dim"]])
    return _narrow(b, x, a["dim"], begin, end)


def _narrow_op(b: Builder, node: Node, a: dict[str, Any]) -> Traced:
    x = traced(b, a["self"])
    if isinstance(a["start"], Node) or isinstance(a["length"], Node):
        raise Refusal("it must begin and end at fixed places")
    if not a["length"]:
        raise Refusal("it must keep at least one entry")
    begin = a["start"] % x.sizes[a["dim"]]
    return _narrow(b, x, a["dim"], begin, begin + a["length"])


def _unbind(b: Builder, node: Node, a: dict[str, Any]) -> list[Traced]:
    x = traced(b, a["self"])
    return [_narrow(b, x, a["dim"], i, i + 1, keep=False) for i in range(len(node.meta["val"]))]


def _split(b: Builder, node: Node, a: dict[str, Any]) -> list[Traced]:
    """Convert split and chunk."""
    x, begin, parts = traced(b, a["self"]), 0, list[Traced]()
    for part in node.meta["val"]:
        size = part.shape[a["dim"]]
        if not isinstance(size, int):
            raise Refusal("it must not work along the batch")
        parts.append(_narrow(b, x, a["dim"], begin, begin + size))
        begin += size
    return parts


def _embedding(b: Builder, node: Node, a: dict[str, Any]) -> Traced:
    table, ids = a["weight"], traced(b, a["indices"])
    if table not in b.constants:
        raise Refusal("its weights depend on the input")
    if ids.value != 0 or ids.stored != ids.axes:
        raise Refusal("the token ids must be the network's input as it is")
    channels = axis_of(table.meta["val"].shape[1])
    value = b.add("embed", [0], {"table": lambda get: get(table)})
    return Traced(value, (ids.stored[0], channels, *ids.stored[1:]), (*ids.axes, channels))


def _norm(centre: bool) -> Layer:
    """Add the normalisation of the last axes, and its scale and shift."""

    def convert(b: Builder, node: Node, a: dict[str, Any]) -> Traced:
        x = traced(b, a["input"])
        eps = float(np.finfo(np.float32).eps) if a["eps"] is None else a["eps"]
        if eps < MIN_EPSILON:
            raise Refusal(f"its eps must be at least {MIN_EPSILON:g}, got {eps:g}")
        given = channels_first(b, x, flat(x.axes[-len(a["normalized_shape"]) :]))
        value = b.add("norm", [given.value], centre=centre, eps=eps)
        roles = {"scale": a["weight"], "shift": a.get("bias")}
        vectors = {role: _vector(constant) for role, constant in roles.items() if constant is not None}
        return Traced(b.add("affine", [value], vectors), given.stored, x.axes)

    return convert


def _sign(b: Builder, node: Node, a: dict[str, Any]) -> int:
    raise Refusal("torch.sign is 0 at 0, which is not a bit; use bitbayes.nn.BinaryActivation")


LAYERS: dict[str, Layer] = {
    "linear": linear,
    **dict.fromkeys(["conv1d", "conv2d"], conv),
    **dict.fromkeys(["batch_norm", "_native_batch_norm_legit_no_training"], _batch_norm),
    **{"layer_norm": _norm(True), "rms_norm": _norm(False), "embedding": _embedding},
    **{"scaled_dot_product_attention": attention, "matmul": matmul, "bmm": matmul, "baddbmm": baddbmm},
    **{"masked_fill": masked_fill, "sum": summed, **dict.fromkeys(["to", "_to_copy"], _cast)},
    **{"add": _sum(1), "sub": _sum(-1), "mul": _mul, "div": _div},
    "rsub": lambda b, node, a: _affine(b, a["self"], times=-a["alpha"], plus=a["other"]),
    "neg": lambda b, node, a: _affine(b, a["self"], times=-1),
    **{"ge": _step_function(False, False), "le": _step_function(True, False)},
    **{"lt": _step_function(False, True), "gt": _step_function(True, True)},
    **{"where": _where, "sign": _sign},
    **{"relu": _clamp(0, None), "relu6": _clamp(0, 6), "hardtanh": _clamp("min_val", "max_val")},
    **{"clamp": _clamp("min", "max"), "clamp_min": _clamp("min", None), "clamp_max": _clamp(None, "max")},
    **dict.fromkeys(["prelu", "leaky_relu"], _prelu),
    **{"tanh": _each("tanh"), "sigmoid": _each("sigmoid"), "silu": _silu},
    "gelu": _each("gelu", tanh=lambda a: a["approximate"] == "tanh"),
    **dict.fromkeys(["max_pool1d", "max_pool2d"], _pool("max_pool")),
    **dict.fromkeys(["avg_pool1d", "avg_pool2d"], _pool("avg_pool")),
    **dict.fromkeys(["adaptive_avg_pool1d", "adaptive_avg_pool2d"], _adaptive),
    **dict.fromkeys(["view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "_unsafe_view"], _reshape),
    **{"mean": _mean, "permute": _permute, "transpose": _permute, "mT": _permute},
    **{"select": _select, "slice": _slice, "narrow": _narrow_op, "unbind": _unbind},
    **dict.fromkeys(["split", "split_with_sizes", "chunk"], _split),
    **dict.fromkeys(["pad", "constant_pad_nd"], _pad),
    "cat": _cat,
    **dict.fromkeys(["softmax", "_softmax"], _softmax),
}
