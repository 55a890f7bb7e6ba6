"""The native runtime: binary layers run on bits in compiled kernels, other steps with NumPy in float32."""

from __future__ import annotations

import math
import os
import sys
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bitbayes.packed.backends import reference
from bitbayes.packed.backends.native import steps
from bitbayes.packed.backends.native.products import (
    NumberProduct,
    RealProduct,
    SignProduct,
    classes_of,
    library,
    wasteful,
)
from bitbayes.packed.backends.native.steps import FAST, Compute, Held, along, floats, many_taps
from bitbayes.packed.backends.runtime import Order, Runtime, check_threads, checked, in_pieces
from bitbayes.packed.format.bits import Array
from bitbayes.packed.format.network import PackedNetwork
from bitbayes.packed.format.program import MAX_SAMPLES, Step

_PIECE = 1 << 19  # numbers of the largest value per piece, so that pieces stay in a cache


class _Job(NamedTuple):
    """One or several steps that run as one, and the value that the last step makes."""

    run: Compute
    sources: tuple[int, ...]
    target: int


class NativeRuntime(Runtime):
    """Runtime that runs a packed network with kernels in C.

    Products of binary weights and signs are counted by xor and popcount, with thresholds, scales and shifts in the same
    pass. Products of binary weights and numbers are summed in float32. All C networks run together, and common inputs
    are read once. A step without a kernel runs as in the reference.

    Args:
        network: Packed network to run.
        threads: Largest number of threads; 0 for one per core.

    Raises:
        RuntimeError: If no compiled kernels are in use here; says why.
        ValueError: If `threads` is negative.

    Example:
        >>> model = torch.nn.Linear(3, 2)
        >>> _ = bb.STE([model.weight], seed=0).eval()
        >>> network = bb.pack(model, torch.zeros(1, 3))
        >>> if not bb.kernels.status("inference").startswith("not in use"):
        ...     assert NativeRuntime(network).predict(np.ones((5, 3))).probs.shape == (5, 2)
    """

    def __init__(self, network: PackedNetwork, threads: int = 1) -> None:
        check_threads(threads)
        if sys.byteorder != "little":
            raise RuntimeError('the backend "native" needs a little-endian machine; use "torch" or "reference"')
        library("inference")
        self.network, self.threads = network, threads or os.cpu_count() or 1
        last = len(network.program.steps)
        self._users = Counter(source for step in network.program.steps for source in step.sources)
        self._users[last] += 1  # the calling module
        needed = {last}
        for index in reversed(range(last)):
            needed.update(network.program.steps[index].sources if index + 1 in needed else ())
        self._jobs: list[_Job] = []
        place = 0
        while place < last:
            if place + 1 not in needed:  # the layout of its weights would only take memory
                place += 1
                continue
            self._jobs.append(self._job(place))
            place = self._jobs[-1].target
        self._order = Order((job.sources, job.target) for job in self._jobs)

    def outputs(self, x: Array) -> Array:
        """Return the raw outputs of all C networks, shape (C, N, ...), float32, for inputs of shape (N, ...)."""
        x = checked(self.network, x)
        largest = max(value.size for value in self.network.values) * self.network.program.samples
        return in_pieces(self.network, x, max(1, _PIECE // largest), self._whole)

    def _whole(self, x: Array) -> Array:
        values = self._order.run({0: x[None]}, lambda place, sources: self._jobs[place].run(sources))
        result = floats(values[len(self.network.program.steps)])
        return np.broadcast_to(result, (self.network.program.samples, *result.shape[1:]))

    # Planning: which steps run as one, starting with a given step.

    def _job(self, index: int) -> _Job:
        step = self.network.program.steps[index]
        tensors, made = self.network.stacked(step), self.network.values[index + 1]
        if step.op in ("linear", "conv") and step.groups == 1 and not self._wasteful(step, made.binary > 0):
            binary = tensors["weight"].dtype == np.uint8
            return (self._binary if binary else self._real)(index, step, tensors["weight"])
        if many_taps(step):
            return _Job(self._as_reference(index, tensors), step.sources, index + 1)
        if step.op == "max_pool" and made.signs:
            return _Job(steps.pooled_signs(step.sliding), step.sources, index + 1)
        if step.op == "embed":
            return _Job(steps.embedding(tensors["table"]), step.sources, index + 1)
        if step.op not in FAST:
            return _Job(self._as_reference(index, tensors), step.sources, index + 1)
        fast, shaped = FAST[step.op], {role: along(tensor, len(made.shape)) for role, tensor in tensors.items()}
        if step.op == "offset":
            shaped = {role: tensor.reshape(-1, 1, *made.shape) for role, tensor in shaped.items()}
        return _Job(lambda sources: fast([floats(x) for x in sources], step, shaped), step.sources, index + 1)

    def _wasteful(self, step: Step, signs: bool) -> bool:
        """Return whether the kernels' layout of a layer's weights would take much memory; NumPy then runs the layer."""
        weight, inputs = self.network.tensors_of(step)["weight"], self.network.source_shape(step)[0]
        if not signs and (weight.dtype == np.uint8 or step.op == "linear"):
            return False  # a bit of 32 outputs takes as much as a number; a linear layer of numbers has no kernel
        channels, taps = inputs, step.kernel
        if signs and step.op == "linear":
            channels, *taps = self.network.values[self._flat(step)].shape
        windows = signs and step.op == "conv"
        classes = classes_of(step.sliding, self.network.source_shape(step)[1:]) if windows else 0
        return wasteful(channels, math.prod(taps), len(weight), signs=signs, classes=classes)

    def _flat(self, step: Step) -> int:
        """Return the value whose signs a linear layer takes: before a reshape, if its places have their own bits."""
        flat = self.network.unflattened(step.sources[0])
        value = self.network.values[flat]
        channels, *places = value.shape
        few = len(places) <= 2 and not wasteful(channels, math.prod(places), 32, signs=True)
        return flat if value.signs and few else step.sources[0]

    def _real(self, index: int, step: Step, weight: Array) -> _Job:
        """Plan a layer of real weights; a convolution includes the affine step that follows."""
        weight = weight.astype(np.float32)
        if step.op == "linear":
            return _Job(steps.real_linear(weight), step.sources, index + 1)
        last, tensors = self._taken(index, self._only_follower(index), ["affine"])
        return _Job(steps.number_layer(RealProduct(weight, tensors), step, self.threads), step.sources, last + 1)

    def _binary(self, index: int, step: Step, weight: Array) -> _Job:
        """Plan a layer of binary weights, including the affine step or comparison that follows."""
        value, source = self.network.values[step.sources[0]], step.sources[0]
        if not value.signs:
            last, tensors = self._taken(index, self._only_follower(index), ["affine"], len(weight))
            product = NumberProduct(weight, step.fan_in(value.shape), tensors)
            return _Job(steps.number_layer(product, step, self.threads), step.sources, last + 1)
        pool, follower = None, self._only_follower(index)
        if follower is not None and follower.op == "max_pool" and step.op == "conv" and not many_taps(follower):
            second = self._only_follower(index + 1)
            if self._taken(index + 1, second, ["threshold"], len(weight))[
                1
            ]:  # a maximum of sums, or an any or all of signs
                pool, follower = follower, second
        last, tensors = self._taken(index + (pool is not None), follower, ["affine", "threshold"], len(weight))
        if step.op == "linear":
            source = self._flat(step)  # the weights are reordered, not the bits
            value = self.network.values[source]
        channels, *sizes = value.shape
        windows = step.sliding if step.op == "conv" else None
        product, direction = SignProduct(weight, channels, sizes, windows, tensors), tensors.get("direction")
        run = steps.sign_layer(product, step.op == "linear", self.threads)
        if pool is None:
            return _Job(run, (source,), last + 1)
        if direction is not None:
            direction = np.broadcast_to(direction, (len(direction), product.outputs))
        pooled = steps.pooled_signs(pool.sliding, direction)
        return _Job(lambda sources: pooled([run(sources)]), (source,), last + 1)

    def _taken(
        self, index: int, follower: Step | None, operations: Sequence[str], networks: int = MAX_SAMPLES
    ) -> tuple[int, dict[str, Array]]:
        """Return the last step of a job that includes the next step, if it is such an operation, and its tensors.

        A next step with tensors for more networks than the weights is not included, because the weights would be
        repeated.
        """
        if follower is None or follower.op not in operations:
            return index, {}
        tensors = self.network.stacked(follower)
        if max(map(len, tensors.values()), default=1) > networks:
            return index, {}
        return index + 1, tensors

    def _only_follower(self, index: int) -> Step | None:
        """Return the next step, if it is the only one that takes this step's value and takes no other."""
        every = self.network.program.steps
        only = index + 1 < len(every) and self._users[index + 1] == 1 and every[index + 1].sources == (index + 1,)
        return every[index + 1] if only else None

    def _as_reference(self, index: int, tensors: dict[str, Array]) -> Compute:
        differ = max(map(len, tensors.values()), default=1)

        def run(sources: list[Held]) -> Held:
            values = [floats(source) for source in sources]
            parts = [[value[i % len(value)] for value in values] for i in range(max(differ, *map(len, values)))]
            return np.stack([reference.computed(self.network, index, part, i) for i, part in enumerate(parts)])

        return run
