"""The reference backend, which runs packed networks with NumPy only, slowly.

If weights and inputs are signs, sums are counted by xnor and popcount and are exact. Convolutions with real weights are
summed in torch's order on a CPU, because signs are taken of their sums. All other steps compute in float64 and round
their results to float32.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from bitbayes.packed.backends.runtime import Runtime, Steps, checked, sliced
from bitbayes.packed.format.bits import Array, sign_products, unpack_signs
from bitbayes.packed.format.network import PackedNetwork
from bitbayes.packed.format.ops import PADDED
from bitbayes.packed.format.program import Step

_CHUNK = 1 << 20  # numbers that a convolution gathers at a time
_ROOT = math.sqrt(2 / math.pi)
_ERFC = np.frompyfunc(math.erfc, 1, 1)


class ReferenceRuntime(Runtime):
    """Runtime that runs a packed network with NumPy.

    Args:
        network: Packed network to run.

    Example:
        >>> model = torch.nn.Linear(3, 2)
        >>> _ = bb.STE([model.weight], seed=0).eval()
        >>> ReferenceRuntime(bb.pack(model, torch.zeros(1, 3))).predict(np.ones((5, 3))).entropy.shape
        (5,)
    """

    def __init__(self, network: PackedNetwork) -> None:
        self.network, self._steps = network, Steps(network)

    def outputs(self, x: Array) -> Array:
        """Return the raw outputs of all C networks, shape (C, N, ...), float32, for inputs of shape (N, ...)."""
        network, x = self.network, checked(self.network, x)
        return np.stack(list(self._steps.run(x, functools.partial(computed, network))))


def computed(network: PackedNetwork, index: int, sources: list[Array], sample: int) -> Array:
    """Return the value that step `index` computes from its sources, for one of the C networks."""
    step = network.program.steps[index]
    tensors, signs = network.tensors_of(step, sample), network.values[step.sources[0]].signs
    if step.op == "linear":
        result = _products(sources[0], tensors["weight"], signs)
    elif step.op == "conv":
        result = _conv(sources[0], tensors["weight"], step, signs)
    elif step.op == "embed":
        result = tensors["table"][sources[0]].swapaxes(1, 2)
    elif step.op == "offset":
        result = sources[0] + tensors["offset"].reshape(sources[0].shape[1:])
    else:
        shaped = {role: _along(tensor, sources[0]) for role, tensor in tensors.items()}
        result = _STEPS[step.op](sources, step, shaped)
    return result.astype(np.float32, copy=False)


def input_ranges(network: PackedNetwork, x: Array) -> dict[int, float]:
    """Return the largest input magnitude of each layer for inputs (N, ...), by the index of its step."""
    found: dict[int, float] = {}

    def watched(index: int, sources: list[Array], sample: int) -> Array:
        if network.program.steps[index].op in ("linear", "conv"):
            found[index] = max(found.get(index, 0.0), float(np.abs(sources[0]).max()) or 1.0)
        return computed(network, index, sources, sample)

    for _ in Steps(network).run(checked(network, x), watched):
        pass
    return found


def _along(tensor: Array, x: Array) -> Array:
    """Return a tensor of channels, shaped to broadcast over (N, C, ...), in float64."""
    return tensor.astype(np.float64).reshape(-1, *[1] * (x.ndim - 2))


def _products(rows: Array, weight: Array, signs: bool) -> Array:
    """Multiply rows (M, n) by weights (K, n), which are real numbers or bits."""
    if weight.dtype == np.uint8 and signs:
        return sign_products(rows, weight)
    if weight.dtype == np.uint8:
        weight = unpack_signs(weight, rows.shape[1], np.float64)
    return rows.astype(np.float64) @ weight.astype(np.float64).T


def _in_order(rows: Array, weight: Array) -> npt.NDArray[np.float32]:
    """Multiply rows (M, n) by real weights (K, n); each sum starts at zero with one fused multiply-add per term.

    A product of two float32 numbers is exact in float64. Double rounding of the sum shows about once in 2²⁹ terms.
    """
    sums = np.zeros((len(rows), len(weight)), np.float32)
    for numbers, weights in zip(rows.T.astype(np.float64), weight.T.astype(np.float64), strict=True):
        sums = (numbers[:, None] * weights + sums).astype(np.float32)
    return sums


def _conv(x: Array, weight: Array, step: Step, signs: bool) -> Array:
    groups, sliding, fan = step.groups, step.sliding, step.fan_in(x.shape[1:])
    windows = sliding.windows(np.pad(x, ((0, 0), (0, 0), *((p, p) for p in sliding.padding))))
    rank, places = len(sliding.kernel), windows.shape[2 : 2 + len(sliding.kernel)]
    # (N, groups, C / groups, places, kernel) to (groups, N, places, C / groups, kernel).
    windows = windows.reshape(len(x), groups, x.shape[1] // groups, *windows.shape[2:])
    windows = windows.transpose(1, 0, *range(3, 3 + rank), 2, *range(3 + rank, 3 + 2 * rank))
    real = weight.dtype != np.uint8
    if real:  # channels are summed first, then taps
        windows, weight = np.moveaxis(windows, 2 + rank, -1), np.moveaxis(weight, 1, -1).reshape(len(weight), -1)
    outputs = np.empty((len(x), len(weight), *places), np.float32)
    each = len(weight) // groups
    several = max(1, _CHUNK // (fan * math.prod(places)))
    boxes = list(sliding.boxes(x.shape[2:], _CHUNK // (several * fan)))
    for start, group, box in itertools.product(range(0, len(x), several), range(groups), boxes):
        part, mine = slice(start, start + several), slice(group * each, (group + 1) * each)
        seen = windows[(group, part, *box)]
        rows = seen.reshape(-1, fan)
        sums = _in_order(rows, weight[mine]) if real else _products(rows, weight[mine], signs)
        outputs[(part, mine, *box)] = np.moveaxis(sums.reshape(*seen.shape[: 1 + rank], each), -1, 1)
    return outputs


def _pool_windows(x: Array, step: Step, fill: float) -> Array:
    """Return the windows of a pool, shape (N, C, *places, *kernel)."""
    sizes, sliding = x.shape[2:], step.sliding
    padded = np.pad(x, ((0, 0), (0, 0), *sliding.pads(sizes)), constant_values=fill)
    return sliding.windows(padded)[(slice(None), slice(None), *map(slice, sliding.places(sizes)))]


def _taps(step: Step) -> tuple[int, ...]:
    return tuple(range(-len(step.kernel), 0))


def _avg_pool(x: Array, step: Step) -> Array:
    sums = _pool_windows(x, step, 0.0).sum(axis=_taps(step), dtype=np.float64)
    if step.settings["count_padding"]:
        return sums / math.prod(step.kernel)
    return sums / _pool_windows(np.ones((1, 1, *x.shape[2:])), step, 0.0).sum(axis=_taps(step))


def _adaptive_avg_pool(x: Array, step: Step) -> Array:
    result = x.astype(np.float64)
    for axis, count in enumerate(step.settings["size"], start=2):
        size = result.shape[axis]
        bounds = [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]
        means = [result.take(range(*bound), axis).mean(axis, keepdims=True) for bound in bounds]
        result = np.concatenate(means, axis)
    return result


def _affine(x: Array, tensors: dict[str, Array]) -> Array:
    return x * tensors.get("scale", 1.0) + tensors.get("shift", 0.0)


def _gelu(x: Array, *, tanh: bool) -> Array:
    if tanh:
        return 0.5 * x * (1 + np.tanh(_ROOT * (x + 0.044715 * x * x * x)))
    return 0.5 * x * np.asarray(_ERFC(-math.sqrt(0.5) * x), np.float64)


def _softmax(x: Array, axis: int) -> Array:
    grown = np.exp(x - x.max(axis, keepdims=True))
    return grown / grown.sum(axis, keepdims=True)


def _norm(x: Array, *, centre: bool, eps: float) -> Array:
    x = x - x.mean(1, keepdims=True) if centre else x
    return x / np.sqrt(np.square(x).mean(1, keepdims=True) + eps)


def _attention(sources: list[Array], step: Step) -> npt.NDArray[np.float32]:
    heads, (inputs, _, count), (_, channels, others) = step.settings["heads"], sources[0].shape, sources[2].shape
    out = np.empty((inputs, channels, count), np.float32)
    hidden = ~np.tri(count, others, dtype=bool) if step.settings["causal"] else None
    several = max(1, _CHUNK // (heads * count * others))
    for start in range(0, inputs, several):
        part = slice(start, start + several)
        q, k, v = (x[part].reshape(-1, heads, x.shape[1] // heads, x.shape[2]) for x in sources[:3])
        scores = q.swapaxes(2, 3).astype(np.float64) @ k.astype(np.float64)
        scores *= step.settings["scale"]
        for mask in sources[3:]:
            scores = np.where(mask[part, None, None] > 0, scores, PADDED)
        if hidden is not None:
            scores[..., hidden] = -np.inf
        scores -= scores.max(-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(-1, keepdims=True)
        out[part] = (v.astype(np.float64) @ scores.swapaxes(2, 3)).reshape(out[part].shape)
    return out


def _masked_mean(x: Array, mask: Array) -> Array:
    seen = mask > 0
    counts = np.maximum(seen.sum(1, keepdims=True), 1)
    return np.where(seen[:, None], x, 0).sum(2, dtype=np.float64) / counts


def _pad(x: Array, settings: Mapping[str, Any]) -> Array:
    return np.pad(x, ((0, 0), *zip(settings["before"], settings["after"], strict=True)))


_STEPS: dict[str, Callable[[list[Array], Step, dict[str, Array]], Array]] = {
    "affine": lambda xs, step, t: _affine(xs[0], t),
    "sign": lambda xs, step, t: np.where(xs[0] >= 0, 1, -1),
    "threshold": lambda xs, step, t: np.where(xs[0] * t.get("direction", 1) >= t["threshold"], 1, -1),
    "clamp": lambda xs, step, t: np.clip(xs[0], *step.bounds),
    "prelu": lambda xs, step, t: np.where(xs[0] > 0, xs[0], xs[0] * t["slope"]),
    "tanh": lambda xs, step, t: np.tanh(xs[0], dtype=np.float64),
    "sigmoid": lambda xs, step, t: 0.5 * (1 + np.tanh(0.5 * xs[0], dtype=np.float64)),
    "gelu": lambda xs, step, t: _gelu(xs[0].astype(np.float64), tanh=step.settings["tanh"]),
    "max_pool": lambda xs, step, t: _pool_windows(xs[0], step, -np.inf).max(axis=_taps(step)),
    "avg_pool": lambda xs, step, t: _avg_pool(xs[0], step),
    "adaptive_avg_pool": lambda xs, step, t: _adaptive_avg_pool(xs[0], step),
    "reshape": lambda xs, step, t: xs[0].reshape(len(xs[0]), *step.settings["shape"]),
    "permute": lambda xs, step, t: xs[0].transpose(0, *step.settings["axes"]),
    "pad": lambda xs, step, t: _pad(xs[0], step.settings),
    "add": lambda xs, step, t: xs[0] + xs[1],
    "multiply": lambda xs, step, t: xs[0] * xs[1],
    "concat": lambda xs, step, t: np.concatenate(xs, step.settings["axis"]),
    "softmax": lambda xs, step, t: _softmax(xs[0].astype(np.float64), step.settings["axis"]),
    "slice": lambda xs, step, t: xs[0][sliced(step)],
    "norm": lambda xs, step, t: _norm(xs[0].astype(np.float64), **step.settings),
    **dict.fromkeys(["attention", "masked_attention"], lambda xs, step, t: _attention(xs, step)),
    "mask": lambda xs, step, t: xs[0] != step.settings["id"],
    "masked_mean": lambda xs, step, t: _masked_mean(*xs),
}
