"""Steps of the native runtime: NumPy in float32 around the compiled products.

A value is `Signs`, or numbers (S, N, channels, *places) with S = C, or S = 1 if the C networks agree. In memory,
numbers have channels last, because products read and write them in this order; NumPy preserves the order.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from bitbayes.packed.backends.native.products import NumberProduct, RealProduct, SignProduct, Signs, pack_places
from bitbayes.packed.backends.runtime import sliced
from bitbayes.packed.format.bits import Array
from bitbayes.packed.format.ops import PADDED
from bitbayes.packed.format.program import Step
from bitbayes.packed.format.sliding import Sliding

_ROWS = 1 << 23  # numbers that a convolution gathers at a time
_SCORES = 1 << 18  # scores of an attention at a time, so that they stay in a cache
_TAPS = 1 << 10  # most taps of a window that is pooled tap by tap
# Coefficients of 1 − Φ by Abramowitz & Stegun, 7.1.26, whose error is below 1e-7.
_TAIL = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)
Held = Array | Signs
Compute = Callable[[list[Held]], Held]
Tensors = Mapping[str, Array]


def floats(value: Held) -> Array:
    """Return a value as numbers."""
    return value.floats if isinstance(value, Signs) else value


def signs(value: Held) -> Signs:
    """Return a value of −1 and +1 as bits."""
    return value if isinstance(value, Signs) else _signs(value > 0)


def _signs(ones: Array) -> Signs:
    return Signs(pack_places(np.moveaxis(ones, 2, -1)), ones.shape[2])


def along(tensor: Array, rank: int) -> npt.NDArray[np.float32]:
    """Return a tensor of channels (S, channels), shaped to broadcast over (S, N, channels, ...)."""
    return tensor.astype(np.float32).reshape(len(tensor), 1, -1, *[1] * (rank - 1))


def sign_layer(product: SignProduct, linear: bool, threads: int) -> Compute:
    """Multiply signs by signs; a linear layer is a convolution with one place."""

    def run(sources: list[Held]) -> Held:
        result = product(signs(sources[0]).words, threads)
        if linear:
            result = result.reshape(*result.shape[:2], -1)
        return Signs(result, product.outputs) if product.bits else result

    return run


def number_layer(product: NumberProduct | RealProduct, step: Step, threads: int) -> Compute:
    """Multiply numbers by signs, with weights in the file's order, or by numbers with channels last."""
    last, sliding = isinstance(product, RealProduct), step.sliding if step.op == "conv" else None

    def run(sources: list[Held]) -> Held:
        x = floats(sources[0])
        if sliding is None:
            return product(x, threads)
        if sliding == Sliding.covering((1,) * len(sliding.kernel)):  # a linear layer on every place
            rows = np.moveaxis(x, 2, -1)
            out = product(rows.reshape(len(x), -1, rows.shape[-1]), threads)
            return np.moveaxis(out.reshape(len(out), *rows.shape[1:-1], product.outputs), -1, 2)
        sizes, (networks, inputs) = x.shape[3:], x.shape[:2]
        seen = _seen(x, sliding, channels_last=last)  # numbers of the window at each input and place
        fan, places = math.prod(seen.shape[-1 - len(sizes) :]), sliding.places(sizes)
        out = np.empty((max(networks, product.networks), inputs, *places, product.outputs), np.float32)
        for box in sliding.boxes(sizes, _ROWS // max(1, len(seen) * fan)):
            rows = seen[(slice(None), *box)].reshape(networks, -1, fan)
            into = out[(slice(None), slice(None), *box)]
            into[...] = product(rows, threads).reshape(into.shape)
        return np.moveaxis(out, -1, 2)

    return run


def real_linear(weight: Array) -> Compute:
    """Multiply numbers by numbers and round once; this is usually the small last layer."""
    columns = weight.swapaxes(1, 2).astype(np.float64)
    return lambda sources: (floats(sources[0]) @ columns).astype(np.float32)


def _seen(x: Array, sliding: Sliding, *, channels_last: bool) -> Array:
    """Return a view of the windows of a convolution, (S N, *places) followed by channels and kernel."""
    x, rank = x.reshape(-1, *x.shape[2:]), len(sliding.kernel)
    sizes = [size + 2 * p for size, p in zip(x.shape[2:], sliding.padding, strict=True)]
    padded = np.zeros((len(x), *sizes, x.shape[1]), np.float32)  # because np.pad takes longer than the copy
    inside = tuple(slice(p, size - p) for size, p in zip(sizes, sliding.padding, strict=True))
    padded[(slice(None), *inside)] = np.moveaxis(x, 1, -1)
    seen = sliding.windows(np.moveaxis(padded, -1, 1))
    at, taps = tuple(range(2, 2 + rank)), tuple(range(2 + rank, 2 + 2 * rank))
    return seen.transpose((0, *at, *taps, 1) if channels_last else (0, *at, 1, *taps))


def _pooled(x: Array, sliding: Sliding, fill: float, combine: np.ufunc) -> Array:
    """Combine the entries of each window of (S, N, *sizes, channels), with `fill` outside the input."""
    pads, first, others = _taps(sliding, x.shape[2:-1])
    if pads:
        x = np.pad(x, pads, constant_values=fill)
    result = x[first].copy()
    for other in others:
        combine(result, x[other], out=result)
    return result


@functools.lru_cache(1024)
def _taps(sliding: Sliding, sizes: tuple[int, ...]) -> tuple[Any, tuple[slice, ...], list[tuple[slice, ...]]]:
    """Return the padded source, if it needs padding, and the views of the first tap and of the others."""
    pads = [(0, 0), (0, 0), *sliding.pads(sizes), (0, 0)]
    axes = zip(sliding.places(sizes), sliding.kernel, sliding.stride, sliding.dilation, strict=True)
    cuts = [[slice(tap * d, tap * d + (count - 1) * s + 1, s) for tap in range(k)] for count, k, s, d in axes]
    first, *others = itertools.product([slice(None)], [slice(None)], *cuts)
    return pads if any(map(any, pads)) else None, first, others


def many_taps(step: Step) -> bool:
    """Return whether a pool has windows that are too large to be pooled tap by tap."""
    return step.op in ("max_pool", "avg_pool") and math.prod(step.kernel) > _TAPS


def pooled_signs(sliding: Sliding, direction: Array | None = None) -> Compute:
    """Take the maximum of signs: +1 if any is +1, or if all are in case sums are compared the other way round."""
    flip = None
    if direction is not None:
        flip = pack_places(direction < 0).reshape(len(direction), 1, *[1] * len(sliding.kernel), -1)

    def run(sources: list[Held]) -> Held:
        x = signs(sources[0])
        words = _pooled(x.words if flip is None else x.words ^ flip, sliding, 0, np.bitwise_or)
        return Signs(words if flip is None else words ^ flip, x.channels)

    return run


def _pool(x: Array, sliding: Sliding, fill: float, combine: np.ufunc) -> Array:
    return np.moveaxis(_pooled(np.moveaxis(x, 2, -1), sliding, fill, combine), -1, 2)


def _avg_pool(x: Array, step: Step) -> Array:
    count = np.float32(math.prod(step.kernel))
    if not step.settings["count_padding"]:
        count = _pool(np.ones((1, 1, 1, *x.shape[3:]), np.float32), step.sliding, 0, np.add)
    return _pool(x, step.sliding, 0, np.add) / count


def _affine(x: Array, t: Tensors) -> Array:
    if len(t) < 2:
        return x * t["scale"] if "scale" in t else x + t.get("shift", np.float32(0))
    return (x.astype(np.float64) * t["scale"] + t["shift"]).astype(np.float32)  # rounded once


def _prelu(x: Array, slope: Array) -> Array:
    if ((slope <= 1) & (slope != 0)).all():  # 0 times infinity is NaN
        return np.maximum(x, x * slope)  # the same, at half the cost
    return np.where(x > 0, x, x * slope)


def _gelu(x: Array, *, tanh: bool) -> Array:
    """Return x · Φ(x), with Φ the normal distribution function, or its approximation by tanh."""
    if tanh:
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
    size = np.abs(x)
    part = 1 / (1 + 0.3275911 * math.sqrt(0.5) * size)
    tail = np.zeros_like(x)
    for coefficient in _TAIL:
        tail = (tail + coefficient) * part
    tail *= 0.5 * np.exp(-0.5 * np.minimum(size, 40) ** 2)
    return x * np.where(x > 0, 1 - tail, tail)


def _norm(x: Array, *, centre: bool, eps: float) -> Array:
    """Normalise the channels of each place; in memory they are last."""
    x = np.ascontiguousarray(np.moveaxis(x, 2, -1))
    x = x - x.mean(-1, keepdims=True) if centre else x
    return np.moveaxis(x / np.sqrt(np.square(x).mean(-1, keepdims=True) + np.float32(eps)), -1, 2)


def _attention(sources: list[Array], step: Step) -> Array:
    """Return softmax(scale · queries · keysᵀ) · values for each head, some inputs at a time."""
    heads, scale, causal = (step.settings[key] for key in ("heads", "scale", "causal"))
    most = max(len(x) for x in sources)
    query, key, value = (_by_head(np.broadcast_to(x, (most, *x.shape[1:])), heads) for x in sources[:3])
    masks = [np.broadcast_to(x, (most, *x.shape[1:])).reshape(-1, 1, 1, x.shape[2]) for x in sources[3:]]
    (inputs, _, count, _), others = query.shape, key.shape[2]
    out = np.empty((inputs, count, heads, value.shape[-1]), np.float32)  # channels last
    hidden = ~np.tri(count, others, dtype=bool) if causal else None
    several = max(1, _SCORES // (heads * count * others))
    for start in range(0, inputs, several):
        part = slice(start, start + several)
        scores = query[part] @ key[part].swapaxes(2, 3)
        scores *= np.float32(scale)
        for mask in masks:
            np.copyto(scores, np.float32(PADDED), where=mask[part] <= 0)
        if hidden is not None:
            scores[..., hidden] = -np.inf
        scores -= scores.max(-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(-1, keepdims=True)
        np.matmul(scores, value[part], out=out[part].swapaxes(1, 2))
    return np.moveaxis(out.reshape(most, -1, count, heads * value.shape[-1]), -1, 2)


def _masked_mean(x: Array, mask: Array) -> Array:
    seen = mask > 0
    counts = np.maximum(seen.sum(2, keepdims=True), 1).astype(np.float32)
    return np.where(seen[:, :, None], x, np.float32(0)).sum(3) / counts


def _by_head(x: Array, heads: int) -> Array:
    """Return (S, N, channels, tokens) as (S N, heads, tokens, channels of a head), with channels last in memory."""
    last = np.ascontiguousarray(np.moveaxis(x, 2, -1))
    return last.reshape(-1, last.shape[2], heads, last.shape[3] // heads).swapaxes(1, 2)


def embedding(table: Array) -> Compute:
    """Look token ids (1, N, tokens) up in tables (S, ids, channels)."""
    return lambda sources: np.moveaxis(table[:, floats(sources[0])[0]].astype(np.float32, copy=False), -1, 2)


def _above(x: Array, t: Tensors) -> Signs:
    return _signs((x * t["direction"] if "direction" in t else x) >= t.get("threshold", np.float32(0)))


FAST: Mapping[str, Callable[[list[Array], Step, Tensors], Held]] = {
    "affine": lambda xs, step, t: _affine(xs[0], t),
    "sign": lambda xs, step, t: _above(xs[0], t),
    "threshold": lambda xs, step, t: _above(xs[0], t),
    "prelu": lambda xs, step, t: _prelu(xs[0], t["slope"]),
    "clamp": lambda xs, step, t: np.clip(xs[0], *step.bounds),
    "gelu": lambda xs, step, t: _gelu(xs[0], tanh=step.settings["tanh"]),
    "max_pool": lambda xs, step, t: _pool(xs[0], step.sliding, -np.inf, np.maximum),
    "avg_pool": lambda xs, step, t: _avg_pool(xs[0], step),
    "add": lambda xs, step, t: xs[0] + xs[1],
    "multiply": lambda xs, step, t: xs[0] * xs[1],
    "norm": lambda xs, step, t: _norm(xs[0], **step.settings),
    **dict.fromkeys(["attention", "masked_attention"], lambda xs, step, t: _attention(xs, step)),
    "mask": lambda xs, step, t: (xs[0] != step.settings["id"]).astype(np.float32),
    "masked_mean": lambda xs, step, t: _masked_mean(*xs),
    "offset": lambda xs, step, t: xs[0] + t["offset"],
    "slice": lambda xs, step, t: xs[0][(slice(None), *sliced(step))],
    "permute": lambda xs, step, t: xs[0].transpose(0, 1, *(axis + 1 for axis in step.settings["axes"])),
    "reshape": lambda xs, step, t: xs[0].reshape(*xs[0].shape[:2], *step.settings["shape"]),
}
