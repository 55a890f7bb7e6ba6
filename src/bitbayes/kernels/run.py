"""Runs a kernel on tensors, or says that it cannot."""

from __future__ import annotations

import ctypes
import functools
from array import array
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bitbayes.kernels import build
from bitbayes.kernels.table import DRAWS, UPDATES, Call, hard_draw
from bitbayes.noise import Noise
from bitbayes.options import Options

_NARROW = torch.float32, torch.bfloat16
_SMALL = 1 << 15  # weights that one more thread must have to be worth waking


class Job(NamedTuple):
    """A kernel and its tensors, ready to run.

    Attributes:
        header: What `bitbayes_run` in `kernels.c` reads: six numbers, then address and size of an entry of each tensor.
        numbers: Those of the call.
        weights: Those of the tensor.
        others: Keeps the memory that the header points to.
    """

    header: array[int]
    numbers: array[float]
    weights: Tensor
    others: tuple[Tensor | None, ...]


@functools.cache
def _address(name: str) -> int | None:
    """Where a block function is, or None where there are no kernels."""
    library = build.library()
    return None if library is None else ctypes.cast(getattr(library, name), ctypes.c_void_p).value


@functools.cache
def _driver() -> Any:
    library = build.library()
    assert library is not None, "asked for after a function of it was found"
    driver = library.bitbayes_run
    driver.restype = None
    driver.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
    return driver


@functools.cache
def _checker() -> Any:
    library = build.library("finite")
    if library is not None:
        library.bitbayes_finite.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int]
    return library and library.bitbayes_finite


def _fits(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.is_contiguous() and type(tensor) is Tensor


def _name(rule: type) -> str:
    return f"{rule.__module__}.{rule.__qualname__}"


def _threads(weights: int) -> int:
    return min(torch.get_num_threads(), 1 + weights // _SMALL)


def _job(call: Call, gradient: Tensor | None, weights: Tensor, noise: Noise) -> Job | None:
    """None if that is not possible here."""
    belief = [tensor for tensor in call.arrays if tensor is not None]
    if not (_fits(weights) and weights.dtype in _NARROW and all(map(_fits, belief))):
        return None
    function = _address(call.kernel)
    if function is None:
        return None
    if gradient is not None and not (_fits(gradient) and gradient.dtype in _NARROW):
        gradient = gradient.float().contiguous()
    count = weights.numel()
    assert noise.start == 0, "a kernel takes a whole tensor"
    assert all(tensor.numel() == count for tensor in belief), "a belief has the size of its weights"
    header = [function, count, len(call.arrays), len(call.numbers), int(noise.key), call.noisy]
    tensors = (gradient, weights, *call.arrays)
    for tensor in tensors:
        header += (0, 0) if tensor is None else (tensor.data_ptr(), tensor.element_size())
    return Job(array("q", header), array("f", map(float, call.numbers)), weights, tensors)


def run(jobs: Iterable[Job]) -> None:
    """Runs jobs on different tensors by one call."""
    headers, numbers, count, largest = array("q"), array("f"), 0, 0
    for job in jobs:
        headers += job.header
        numbers += job.numbers
        count, largest = count + 1, max(largest, job.weights.numel())
        if not job.weights.is_inference():
            torch.autograd.graph.increment_version(job.weights)  # autograd notices the change, as it does torch's own
    if count:
        _driver()(headers.buffer_info()[0], count, numbers.buffer_info()[0], _threads(largest))


def _run(call: Call, gradient: Tensor | None, weights: Tensor, noise: Noise, jobs: list[Job] | None = None) -> bool:
    """Whether it was done, or put on the list; otherwise nothing has changed."""
    job = _job(call, gradient, weights, noise)
    if job is None:
        return False
    if jobs is None:
        run([job])
    else:
        jobs.append(job)
    return True


def finite(tensors: Iterable[Tensor]) -> bool:
    """Whether all values are finite, read once without a temporary; False also where there is no kernel for them.

    Args:
        tensors: Of any shape.
    """
    places, largest = array("q"), 0
    for tensor in tensors:
        if not (_fits(tensor) and tensor.dtype in _NARROW):
            return False
        places.extend((tensor.data_ptr(), tensor.numel(), tensor.element_size()))
        largest = max(largest, tensor.numel())
    check = _checker()
    return check is not None and bool(check(places.buffer_info()[0], len(places) // 3, _threads(largest)))


def advance(
    rule: type,
    belief: Mapping[str, Tensor],
    gradient: Tensor,
    weights: Tensor,
    o: Options,
    drawn: Noise,
    noise: Noise,
    *,
    estimated: bool = False,
    jobs: list[Job] | None = None,
) -> bool:
    """Does an update, whose parts `rules.update.Update` describes, if there is a kernel for it.

    Given `jobs`, it is put there instead, for `run`. Returns whether that was possible; if not, nothing has changed.
    """
    row = UPDATES.get(_name(rule))
    call = row and row(belief, o, drawn, noise, estimated)
    return call is not None and _run(call, gradient, weights, noise, jobs)


def redraw(rule: type, belief: Mapping[str, Tensor], weights: Tensor, o: Options, noise: Noise) -> bool:
    """Writes a draw of an unchanged belief, the one that `advance` would have written; returns as `advance` does."""
    row = DRAWS.get(_name(rule))
    call = row and row(belief, o, noise)
    return call is not None and _run(call, None, weights, noise)


def bernoulli(natural: Tensor, weights: Tensor, noise: Noise) -> bool:
    """Writes a hard draw from flat λ, +1 with probability σ(2λ), else −1; returns as `advance` does."""
    return _run(hard_draw(natural), None, weights, noise)
