"""The OpenVINO runtime: binary convolutions with thresholds and scales in the same kernel, on x86 only."""

from __future__ import annotations

import functools
import statistics
import timeit
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bitbayes.packed.backends.openvino.graph import different, graph
from bitbayes.packed.backends.openvino.quiet import openvino
from bitbayes.packed.backends.reference import ReferenceRuntime, input_ranges
from bitbayes.packed.backends.runtime import Runtime, check_threads, checked, in_pieces, random_inputs
from bitbayes.packed.format.bits import Array
from bitbayes.packed.format.network import PackedNetwork

ov = openvino("openvino")

_MOST = 32  # most inputs at a time
_TURN = 3e-3  # seconds per turn of a measurement
_ROUNDED, _ALIKE = ("bfloat16", "int8"), 0.99
_CHECKED, _CLOSE = 4, 1e-4  # number of inputs of the check at load, and the tolerance relative to the largest output


@functools.cache
def _core() -> Any:
    """Return the only OpenVINO core of the process.

    The CPU plugin of every core sets a stack for signal handlers in the calling thread. If several cores end in the
    order in which they began, the last one restores the stack of a core that is gone. The next signal, such as Ctrl-C
    or the end of a child process, would then kill the process silently (OpenVINO 2026.4).
    """
    return ov.Core()


def compiled(network: PackedNetwork, inputs: int, threads: int, precision: str = "f32", ranges: Any = None) -> Any:
    """Return an inference request for one batch size.

    With `threads=0`, OpenVINO chooses the number of threads. The precision is "f32" or "bf16"; OpenVINO itself would
    choose bf16 if the processor supports it. `ranges` are those of `graph`.
    """
    options = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1"}
    if threads:
        options["INFERENCE_NUM_THREADS"] = str(threads)
    try:
        model, _kept = graph(network, inputs, ranges or {})
        return _core().compile_model(model, "CPU", options).create_infer_request()
    except RuntimeError as error:
        last = (str(error).strip().splitlines() or ["no reason given"])[-1].strip()
        raise RuntimeError(
            f'OpenVINO {ov.__version__} cannot run this network ({last[:160]}); use the backend "native" or "torch"'
        ) from error


class OpenVinoRuntime(Runtime):
    """Runtime that runs a packed network with OpenVINO, in float32 unless layers are binary or `allow` is set.

    A model for each of the batch sizes 1, 2, 4, ... 32 is compiled on first use; other batches are padded or split. At
    load, the outputs are compared with those of the reference.

    Args:
        network: Packed network to run.
        threads: Number of threads; 0 for one per core.
        allow: Precisions that may replace float32: "bfloat16" and "int8". For each batch size, one of them is used if
            it measures faster and its outputs for `inputs` correlate with those of float32 by at least 0.99. Layers of
            binary weights and signs stay on bits.
        inputs: Representative inputs, (N, ...), of which 32 are used to fit the scales of int8 and to measure times.

    Raises:
        ImportError: Without OpenVINO; names the extra.
        RuntimeError: If the outputs differ from those of the reference.
        ValueError: If `threads` is negative, or `allow` has an unknown word or comes without `inputs`.
    """

    def __init__(
        self, network: PackedNetwork, threads: int = 0, allow: Sequence[str] = (), inputs: Array | None = None
    ) -> None:
        check_threads(threads)
        if isinstance(allow, str) or not set(allow) <= set(_ROUNDED):
            raise ValueError(f"allow must be a list of {' and '.join(map(repr, _ROUNDED))}, got {allow!r}")
        if allow and (inputs is None or not len(inputs)):
            raise ValueError("allow needs inputs=, representative inputs to check the rounded outputs; got none")
        self.network, self.threads = network, threads
        self.chosen: dict[int, str] = {}  # the precision in use for each batch size
        self._allow: Sequence[str] = ()
        self._requests: dict[int, Any] = {}
        self._check()
        if inputs is not None and allow:
            self._allow, self._inputs = tuple(allow), np.ascontiguousarray(checked(network, inputs)[:_MOST])
            self._ranges = input_ranges(network, self._inputs) if "int8" in allow else {}
            self._requests.clear()
            self.chosen.clear()

    def outputs(self, x: Array) -> Array:
        """Return the raw outputs of all C networks, shape (C, N, ...), float32, for inputs of shape (N, ...)."""
        x = np.ascontiguousarray(checked(self.network, x))
        return in_pieces(self.network, x, _MOST, self._piece)

    def _piece(self, x: Array) -> Array:
        count = 1 << (len(x) - 1).bit_length()
        if count not in self._requests:
            self._requests[count] = self._chosen(count)
        whole = x
        if count > len(x):
            whole = np.zeros((count, *x.shape[1:]), x.dtype)
            whole[: len(x)] = x
        return self._results(self._requests[count], whole)[:, : len(x)]

    def _chosen(self, count: int) -> Any:
        """Return the request for a batch size: float32, or the fastest allowed precision that is close to it."""
        best, self.chosen[count] = compiled(self.network, count, self.threads), "float32"
        if not self._allow:
            return best
        x = np.resize(self._inputs, (count, *self._inputs.shape[1:]))
        wanted, requests = self._results(best, x), {"float32": best}
        for form in self._allow:
            ranges = self._ranges if form == "int8" else None
            request = compiled(self.network, count, self.threads, "bf16" if form == "bfloat16" else "f32", ranges)
            if np.corrcoef(self._results(request, x).reshape(-1), wanted.reshape(-1))[0, 1] >= _ALIKE:
                requests[form] = request
        seconds = _seconds({form: functools.partial(self._results, request, x) for form, request in requests.items()})
        self.chosen[count] = min(seconds, key=lambda form: seconds[form])
        return requests[self.chosen[count]]

    def _results(self, request: Any, x: Array) -> Array:
        request.infer({0: x}, share_inputs=True)
        count = different(self.network)
        every = [request.get_output_tensor(index).data for index in range(count)]
        return np.stack(every * (self.network.program.samples // count))

    def _check(self) -> None:
        """Compare the outputs with those of the reference.

        Only half of the inputs must agree, because a sum of real numbers may be rounded across a threshold.
        """
        x = random_inputs(self.network, _CHECKED)
        wanted, got = ReferenceRuntime(self.network).outputs(x), self.outputs(x)
        usual = np.where(np.isfinite(wanted), np.abs(wanted), 0).max()  # an infinite number is close to everything
        with np.errstate(invalid="ignore"):
            apart = np.where((got == wanted) | (np.isnan(got) & np.isnan(wanted)), 0, np.abs(got - wanted))
        apart = apart.reshape(wanted.shape[0], _CHECKED, -1).max(-1)  # NaN if one of the two is
        agree = (apart <= _CLOSE * usual).mean(1)
        if agree.min() < 0.5:
            far = np.where(np.isnan(apart), np.inf, apart).max()
            raise RuntimeError(
                f"OpenVINO {ov.__version__} computes this network wrongly (outputs are {far:.3g} away "
                'from the reference\'s); use the backend "native" or "torch"'
            )


def _seconds(calls: Mapping[str, Callable[[], Any]], turns: int = 5) -> dict[str, float]:
    """Return the median seconds of each call; calls take turns, so that disturbances affect all of them."""
    once = [[timeit.timeit(call, number=1) for _ in range(2)][1] for call in calls.values()]  # the first does not count
    number = 1 + int(_TURN / max(once))
    found = [{name: timeit.timeit(call, number=number) for name, call in calls.items()} for _ in range(turns)]
    return {name: statistics.median(turn[name] for turn in found) / number for name in calls}
