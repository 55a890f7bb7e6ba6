"""The oracle: runs packed networks with NumPy alone, slowly.

Where weights and inputs are signs, sums are counted by xnor and popcount and are exact. Convolutions of real weights
are summed as torch does on a CPU, because signs are taken of their sums. Elsewhere each step computes in float64 and
rounds its result to float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from bitbayes.packed.backends.runtime import Runtime
from bitbayes.packed.format.bits import sign_products, unpack_signs
from bitbayes.packed.format.ops import fan_in, pooled
from bitbayes.packed.format.program import Step
from bitbayes.prediction import Prediction, softmax

__all__ = ["ReferenceRuntime"]

Array = npt.NDArray[Any]
_CHUNK = 1 << 22  # numbers that a convolution lays out at a time


class ReferenceRuntime(Runtime):
    """Runs a packed network with NumPy.

    Args:
        network: What to run.

    Example:
        >>> model = torch.nn.Linear(3, 2)
        >>> _ = bb.STE([model.weight], seed=0)
        >>> ReferenceRuntime(bb.pack(model, torch.zeros(1, 3))).predict(np.ones((5, 3))).entropy.shape
        (5,)
    """

    def outputs(self, x: Array) -> Array:
        """Raw outputs of all C networks, shape (C, N, ...), float32, for inputs of shape (N, ...)."""
        x = np.asarray(x)
        self.check(x.shape, np.issubdtype(x.dtype, np.floating), x.dtype)
        x = x.astype(np.float32)
        self.check_finite(bool(np.isfinite(x).all()))
        return np.stack([self.run(x, sample) for sample in range(self.network.program.samples)])

    def predict(self, x: Array) -> Prediction[Array]:
        """Mean probabilities of all C networks, and their uncertainty, for inputs of shape (N, ...)."""
        outputs = self.outputs(x)
        return Prediction(outputs[..., None] if outputs.ndim == 2 else outputs)

    def step(self, step: Step, index: int, sources: list[Array], sample: int) -> Array:
        """One step; see `Runtime.step`."""
        get = {role: self.network.tensor(step, role, sample) for role in step.tensors}
        if step.op in ("linear", "conv"):
            signs = self.network.values[step.sources[0]].signs
            layer = _linear if step.op == "linear" else _conv
            result = layer(sources[0], get["weight"], step.settings, signs)
        else:
            tensors = {role: _along(tensor, sources[0]) for role, tensor in get.items()}
            result = _STEPS[step.op](sources, step.settings, tensors)
        return result.astype(np.float32, copy=False)


def _along(tensor: Array, x: Array) -> Array:
    """A tensor of channels, shaped to broadcast over (N, C, ...), in float64."""
    return tensor.astype(np.float64).reshape(-1, *[1] * (x.ndim - 2))


def _products(rows: Array, weight: Array, signs: bool) -> Array:
    """Rows (M, n) times weights (K, n), real or bits."""
    if weight.dtype == np.uint8 and signs:
        return sign_products(rows, weight)
    if weight.dtype == np.uint8:
        weight = unpack_signs(weight, rows.shape[1], np.float64)
    return rows.astype(np.float64) @ weight.astype(np.float64).T


def _in_order(rows: Array, weight: Array) -> npt.NDArray[np.float32]:
    """Rows (M, n) times real weights (K, n); each sum starts at zero and takes one fused multiply-add a term.

    A product of two float32 is exact in float64; that its sum is rounded twice shows once in 2²⁹ terms or so.
    """
    sums = np.zeros((len(rows), len(weight)), np.float32)
    for numbers, weights in zip(rows.T.astype(np.float64), weight.T.astype(np.float64), strict=True):
        sums = (numbers[:, None] * weights + sums).astype(np.float32)
    return sums


def _linear(x: Array, weight: Array, settings: Any, signs: bool) -> Array:
    return _products(x, weight, signs)


def _conv(x: Array, weight: Array, settings: Any, signs: bool) -> Array:
    groups, padding = settings["groups"], settings["padding"]
    padded = np.pad(x, ((0, 0), (0, 0), *((p, p) for p in padding)))
    windows = _windows(padded, settings["kernel"], settings["stride"], settings["dilation"])
    rank, fan = len(padding), fan_in(settings, x.shape[1:])
    places = windows.shape[2 : 2 + rank]
    # (N, groups, C / groups, places, kernel) to (groups, N, places, C / groups, kernel).
    windows = windows.reshape(len(x), groups, x.shape[1] // groups, *windows.shape[2:])
    windows = windows.transpose(1, 0, *range(3, 3 + rank), 2, *range(3 + rank, 3 + 2 * rank))
    real = weight.dtype != np.uint8
    if real:  # channels are summed first, then taps
        windows, weight = np.moveaxis(windows, 2 + rank, -1), np.moveaxis(weight, 1, -1).reshape(len(weight), -1)
    outputs = np.empty((len(x), len(weight), *places), np.float32)
    step = max(1, _CHUNK // (fan * math.prod(places)))
    each = len(weight) // groups
    for start in range(0, len(x), step):
        part = slice(start, start + step)
        for group in range(groups):
            rows = windows[group, part].reshape(-1, fan)
            mine = slice(group * each, (group + 1) * each)
            sums = _in_order(rows, weight[mine]) if real else _products(rows, weight[mine], signs)
            outputs[part, mine] = np.moveaxis(sums.reshape(-1, *places, each), -1, 1)
    return outputs


def _windows(x: Array, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Array:
    """All windows of (N, C, *sizes): (N, C, *places, *kernel), without a copy."""
    rank = len(kernel)
    span = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True))
    view = sliding_window_view(x, span, axis=tuple(range(2, 2 + rank)))
    strides = tuple(slice(None, None, s) for s in stride)
    return view[(slice(None), slice(None), *strides, *(slice(None, None, d) for d in dilation))]


def _pool_windows(x: Array, settings: Any, fill: float) -> Array:
    kernel, stride, padding = settings["kernel"], settings["stride"], settings["padding"]
    dilation, ceil = settings.get("dilation", [1] * len(kernel)), settings.get("ceil", False)
    pads: list[tuple[int, int]] = []
    for size, k, s, p, d in zip(x.shape[2:], kernel, stride, padding, dilation, strict=True):
        reach = (pooled(size, k, s, p, d, ceil) - 1) * s + d * (k - 1) + 1
        pads.append((p, max(p, reach - size - p)))
    padded = np.pad(x, ((0, 0), (0, 0), *pads), constant_values=fill)
    windows = _windows(padded, kernel, stride, dilation)
    places = [pooled(*each, ceil) for each in zip(x.shape[2:], kernel, stride, padding, dilation, strict=True)]
    return windows[(slice(None), slice(None), *map(slice, places))]


def _max_pool(x: Array, settings: Any) -> Array:
    return _pool_windows(x, settings, -np.inf).max(axis=_last(settings["kernel"]))


def _avg_pool(x: Array, settings: Any) -> Array:
    axes = _last(settings["kernel"])
    sums = _pool_windows(x, settings, 0.0).sum(axis=axes, dtype=np.float64)
    if settings["count_padding"]:
        return sums / math.prod(settings["kernel"])
    return sums / _pool_windows(np.ones((1, 1, *x.shape[2:])), settings, 0.0).sum(axis=axes)


def _last(kernel: Sequence[int]) -> tuple[int, ...]:
    return tuple(range(-len(kernel), 0))


def _adaptive_avg_pool(x: Array, settings: Any) -> Array:
    result = x.astype(np.float64)
    for axis, count in enumerate(settings["size"], start=2):
        size = result.shape[axis]
        bounds = [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]
        means = [result.take(range(*bound), axis).mean(axis, keepdims=True) for bound in bounds]
        result = np.concatenate(means, axis)
    return result


def _sign(x: Array) -> Array:
    return np.where(x >= 0, 1, -1)


def _affine(x: Array, tensors: dict[str, Array]) -> Array:
    return x * tensors.get("scale", 1.0) + tensors.get("shift", 0.0)


_STEPS: dict[str, Callable[[list[Array], Any, dict[str, Array]], Array]] = {
    "affine": lambda xs, settings, tensors: _affine(xs[0], tensors),
    "sign": lambda xs, settings, tensors: _sign(xs[0]),
    "threshold": lambda xs, settings, t: np.where(xs[0] * t.get("direction", 1) >= t["threshold"], 1, -1),
    "clamp": lambda xs, settings, tensors: np.clip(xs[0], settings["min"], settings["max"]),
    "prelu": lambda xs, settings, tensors: np.where(xs[0] > 0, xs[0], xs[0] * tensors["slope"]),
    "tanh": lambda xs, settings, tensors: np.tanh(xs[0], dtype=np.float64),
    "sigmoid": lambda xs, settings, tensors: 0.5 * (1 + np.tanh(0.5 * xs[0], dtype=np.float64)),
    "max_pool": lambda xs, settings, tensors: _max_pool(xs[0], settings),
    "avg_pool": lambda xs, settings, tensors: _avg_pool(xs[0], settings),
    "adaptive_avg_pool": lambda xs, settings, tensors: _adaptive_avg_pool(xs[0], settings),
    "reshape": lambda xs, settings, tensors: xs[0].reshape(len(xs[0]), *settings["shape"]),
    "permute": lambda xs, settings, tensors: xs[0].transpose(0, *settings["axes"]),
    "pad": lambda xs, settings, tensors: np.pad(
        xs[0], ((0, 0), *zip(settings["before"], settings["after"], strict=True))
    ),
    "add": lambda xs, settings, tensors: xs[0] + xs[1],
    "concat": lambda xs, settings, tensors: np.concatenate(xs, settings["axis"]),
    "softmax": lambda xs, settings, tensors: softmax(xs[0].astype(np.float64), settings["axis"]),
}
