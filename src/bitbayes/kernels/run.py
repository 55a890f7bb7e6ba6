"""Runs a kernel on tensors, or says that it cannot."""

from __future__ import annotations

import ctypes
import functools
from array import array
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from bitbayes.kernels import build
from bitbayes.kernels.table import DRAWS, UPDATES, Call, hard_draw
from bitbayes.noise import Noise

_MASK = (1 << 64) - 1
_NARROW = torch.float32, torch.bfloat16
_SMALL = 1 << 15  # weights that one more thread must have to be worth waking


@functools.cache
def _function(name: str) -> ctypes.c_void_p | None:
    """The address of a block function."""
    library = build.library()
    return None if library is None else ctypes.cast(getattr(library, name), ctypes.c_void_p)


@functools.cache
def _driver() -> Any:
    library = build.library()
    assert library is not None, "asked for after a function of it was found"
    driver = library.bitbayes_run
    driver.restype = None
    pointer, count, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    driver.argtypes = [pointer, count, pointer, number, pointer, ctypes.c_uint64, number, number]
    return driver


def _fits(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.is_contiguous() and type(tensor) is Tensor


def _name(rule: type) -> str:
    return f"{rule.__module__}.{rule.__qualname__}"


def _run(call: Call, gradient: Tensor | None, weights: Tensor, noise: Noise) -> bool:
    """Whether it was done; otherwise nothing has changed."""
    belief = [tensor for tensor in call.arrays if tensor is not None]
    if not (_fits(weights) and weights.dtype in _NARROW and all(map(_fits, belief))):
        return False
    function = _function(call.kernel)
    if function is None:
        return False
    if gradient is not None and not (_fits(gradient) and gradient.dtype in _NARROW):
        gradient = gradient.float().contiguous()
    count = weights.numel()
    assert noise.start == 0, "a kernel takes a whole tensor"
    assert all(tensor.numel() == count for tensor in belief), "a belief has the size of its weights"
    tensors, numbers = array("q"), array("f", map(float, call.numbers))
    for tensor in (gradient, weights, *call.arrays):
        tensors.extend((0, 0) if tensor is None else (tensor.data_ptr(), tensor.element_size()))
    threads = min(torch.get_num_threads(), 1 + count // _SMALL)
    places = tensors.buffer_info()[0], numbers.buffer_info()[0]
    _driver()(function, count, places[0], len(call.arrays), places[1], int(noise.key) & _MASK, call.noisy, threads)
    if not weights.is_inference():
        torch.autograd.graph.increment_version(weights)  # autograd notices the change, as it does torch's own
    return True


def advance(
    rule: type,
    belief: Mapping[str, Tensor],
    gradient: Tensor,
    weights: Tensor,
    o: SimpleNamespace,
    drawn: Noise,
    noise: Noise,
    *,
    estimated: bool = False,
) -> bool:
    """Updates a belief in place and writes the next draw: `rules.engine.advance`, if there is a kernel for it.

    Args:
        rule: The learning rule.
        belief: Flat tensors, or rows of them; changed in place.
        gradient: Flat gradient at the weights, or an estimate already averaged over draws.
        weights: Flat weights of the current draw; overwritten with the next.
        o: Options of the rule.
        drawn: Noise of the current draw.
        noise: Noise of the next.
        estimated: Whether `gradient` is already an estimate.

    Returns:
        Whether it was done; if not, nothing has changed.
    """
    row = UPDATES.get(_name(rule))
    call = row and row(belief, o, drawn, noise, estimated)
    return call is not None and _run(call, gradient, weights, noise)


def redraw(rule: type, belief: Mapping[str, Tensor], weights: Tensor, o: SimpleNamespace, noise: Noise) -> bool:
    """Writes a draw of an unchanged belief, the one that `advance` would have written; returns as `advance` does."""
    row = DRAWS.get(_name(rule))
    call = row and row(belief, o, noise)
    return call is not None and _run(call, None, weights, noise)


def bernoulli(natural: Tensor, weights: Tensor, noise: Noise) -> bool:
    """Writes a hard draw from flat λ, +1 with probability σ(2λ), else −1; returns as `advance` does."""
    return _run(hard_draw(natural), None, weights, noise)
