"""Run kernels on tensors, or report that a kernel cannot run."""

from __future__ import annotations

import ctypes
import functools
from array import array
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bitbayes.kernels import build
from bitbayes.noise import Noise

_NARROW = torch.float32, torch.bfloat16
_SMALL = 1 << 15  # weights that each further thread must get to be worth waking


class Call(NamedTuple):
    """A call of one function of `kernels.c`: its tensors and numbers, apart from the gradient and the weights.

    Attributes:
        kernel: Name of the function.
        arrays: Flat tensors of the belief, in the order of the function; None for an optional one that is absent.
        numbers: Numbers `o` of the function, in its order.
        noisy: Whether the function draws random numbers.
    """

    kernel: str
    arrays: list[Tensor | None]
    numbers: list[Any]
    noisy: bool = False


class Job(NamedTuple):
    """A kernel and its tensors, ready to run.

    Attributes:
        header: Input of `bitbayes_run` in `kernels.c`: six numbers, then address and entry size of each tensor.
        numbers: Numbers of the call.
        weights: Weights that the kernel writes.
        others: Tensors whose memory the header points to.
    """

    header: array[int]
    numbers: array[float]
    weights: Tensor
    others: tuple[Tensor | None, ...]


@functools.cache
def _address(name: str) -> int | None:
    """Return the address of a block function, or None if there are no kernels."""
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


def _threads(weights: int) -> int:
    return build.threads(min(torch.get_num_threads(), 1 + weights // _SMALL))


def takes(call: Call, weights: Tensor) -> bool:
    """Return whether kernels are available and support the tensors of a call."""
    fine = _fits(weights) and weights.dtype in _NARROW
    return fine and all(t is None or _fits(t) for t in call.arrays) and _address(call.kernel) is not None


def _job(call: Call, gradient: Tensor | None, weights: Tensor, noise: Noise) -> Job:
    """Return a job that runs the call."""
    belief = [tensor for tensor in call.arrays if tensor is not None]
    if gradient is not None and not (_fits(gradient) and gradient.dtype in _NARROW):
        gradient = gradient.float().contiguous()
    count, (key, place) = weights.numel(), noise.moved_key()
    assert all(tensor.numel() == count for tensor in belief), "a belief has the size of its weights"
    header = [_address(call.kernel), count, len(call.arrays), len(call.numbers), key, call.noisy and 1 + place]
    tensors = (gradient, weights, *call.arrays)
    for tensor in tensors:
        header += (0, 0) if tensor is None else (tensor.data_ptr(), tensor.element_size())
    return Job(array("q", header), array("f", map(float, call.numbers)), weights, tensors)


def run(jobs: Iterable[Job]) -> None:
    """Run jobs on different tensors in one call."""
    headers, numbers, count, largest = array("q"), array("f"), 0, 0
    for job in jobs:
        headers += job.header
        numbers += job.numbers
        count, largest = count + 1, max(largest, job.weights.numel())
        if not job.weights.is_inference():
            torch.autograd.graph.increment_version(job.weights)  # as torch's own operations do
    if count:
        _driver()(headers.buffer_info()[0], count, numbers.buffer_info()[0], _threads(largest))


def submit(call: Call, gradient: Tensor | None, weights: Tensor, noise: Noise, jobs: list[Job] | None = None) -> bool:
    """Run a call, or append it to the list `jobs` for `run`.

    Returns:
        Whether a kernel supports the call. If not, nothing has changed.
    """
    if not takes(call, weights):
        return False
    job = _job(call, gradient, weights, noise)
    if jobs is None:
        run([job])
    else:
        jobs.append(job)
    return True


def finite(tensors: Iterable[Tensor]) -> bool:
    """Return whether all values are finite, in one pass without temporaries; False also if no kernel can read them."""
    places, largest = array("q"), 0
    for tensor in tensors:
        if not (_fits(tensor) and tensor.dtype in _NARROW):
            return False
        places.extend((tensor.data_ptr(), tensor.numel(), tensor.element_size()))
        largest = max(largest, tensor.numel())
    check = _checker()
    return check is not None and bool(check(places.buffer_info()[0], len(places) // 3, _threads(largest)))


def hard_draw(natural: Tensor) -> Call:
    """Return the call that draws from flat λ: +1 with probability σ(2λ), else −1."""
    return Call("bernoulli", [natural], [], noisy=True)
