"""Runs packed networks with compiled kernels: binary layers on bits, the rest with NumPy in float32."""

from __future__ import annotations

import os
import sys
from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bitbayes.packed.backends.native.blocks import library
from bitbayes.packed.backends.native.numbers import NumberProduct, RealProduct
from bitbayes.packed.backends.native.products import SignProduct
from bitbayes.packed.backends.native.steps import (
    FAST,
    POOLS,
    Held,
    Run,
    along,
    chained,
    comparison,
    floats,
    number_layer,
    pooled_signs,
    real_linear,
    sign_layer,
)
from bitbayes.packed.backends.reference import ReferenceRuntime
from bitbayes.packed.format.network import PackedNetwork
from bitbayes.packed.format.ops import fan_in
from bitbayes.packed.format.program import Step

__all__ = ["NativeRuntime"]

Array = npt.NDArray[Any]
_PIECE = 1 << 19  # numbers of the largest value that are computed at a time, so that they stay in a cache


class _Job(NamedTuple):
    """One or several steps that run as one, and the value that the last of them makes."""

    run: Run
    sources: tuple[int, ...]
    target: int


class NativeRuntime(ReferenceRuntime):
    """Runs a packed network with kernels in C, compiled once a machine for its processor.

    Binary weights on signs are counted by xor and popcount, with thresholds, scales and shifts in the same pass;
    binary weights on numbers are summed in float32. C networks run together: what their inputs have in common is
    read once. A step without a kernel runs as the reference does.

    Args:
        network: What to run.
        threads: At most so many; 0: one for each core.

    Raises:
        RuntimeError: If the kernels cannot be compiled here; says why.
        ValueError: If `threads` is negative.

    Example:
        >>> model = torch.nn.Linear(3, 2)
        >>> _ = bb.STE([model.weight], seed=0)
        >>> network = bb.pack(model, torch.zeros(1, 3))
        >>> if bb.kernels.status("inference").startswith("compiled"):
        ...     assert NativeRuntime(network).predict(np.ones((5, 3))).probs.shape == (5, 2)
    """

    def __init__(self, network: PackedNetwork, threads: int = 1) -> None:
        super().__init__(network)
        if threads < 0:
            raise ValueError(f"threads must be at least 0, got {threads}")
        if sys.byteorder != "little":
            raise RuntimeError('the backend "native" wants a little-endian machine; take "torch" or "reference"')
        library("inference")
        self.threads = threads or os.cpu_count() or 1
        self._users = Counter(source for step in network.program.steps for source in step.sources)
        self._users[len(network.program.steps)] += 1  # whoever called
        self._jobs: list[_Job] = []
        done = -1
        for index in range(len(network.program.steps)):
            if index > done:
                done = self._plan(index)
        needed = {len(network.program.steps)}
        for job in reversed(self._jobs):
            needed.update(job.sources if job.target in needed else ())
        self._jobs = [job for job in self._jobs if job.target in needed]
        last = {source: place for place, job in enumerate(self._jobs) for source in job.sources}
        self._free = [[value for value, at in last.items() if at == place] for place in range(len(self._jobs))]

    def outputs(self, x: Array) -> Array:
        """Raw outputs of all C networks, shape (C, N, ...), float32, for inputs of shape (N, ...)."""
        x = np.asarray(x)
        self.check(x.shape, np.issubdtype(x.dtype, np.floating), x.dtype)
        if not len(x):
            return super().outputs(x)
        x = x.astype(np.float32, copy=False)
        self.check_finite(bool(np.isfinite(x).all()))
        largest = max(value.size for value in self.network.values) * self.network.program.samples
        step = max(1, _PIECE // largest)
        if len(x) <= step:
            return self._whole(x)
        return np.concatenate([self._whole(x[start : start + step]) for start in range(0, len(x), step)], axis=1)

    def _whole(self, x: Array) -> Array:
        values: dict[int, Held] = {0: x[None]}
        for job, free in zip(self._jobs, self._free, strict=True):
            values[job.target] = job.run([values[source] for source in job.sources])
            for value in free:
                values.pop(value, None)
        result = floats(values[len(self.network.program.steps)])
        count = self.network.program.samples
        return np.array(np.broadcast_to(result, (count, *result.shape[1:])))  # of its own, and writable

    # Planning: a step, or a few that follow each other, becomes a job; returns the last step that it takes.

    def _plan(self, index: int) -> int:
        step = self.network.program.steps[index]
        tensors = {role: self._stacked(name) for role, name in step.tensors.items()}
        binary = step.op in ("linear", "conv") and tensors["weight"].dtype == np.uint8
        if binary and step.settings.get("groups", 1) == 1:
            return self._binary(index, step, tensors["weight"])
        if step.op in ("linear", "conv") and step.settings.get("groups", 1) == 1:
            return self._real(index, step, tensors["weight"].astype(np.float32))
        rank, signs = len(self.network.values[index + 1].shape), self.network.values[index + 1].signs
        shaped = {role: along(tensor, rank) for role, tensor in tensors.items()}
        if step.op in ("sign", "threshold"):
            run = comparison(shaped)
        elif step.op == "max_pool" and signs:
            run = pooled_signs(step.settings)
        elif step.op in POOLS:
            run = POOLS[step.op](step.settings)
        elif step.op in FAST:
            run = FAST[step.op](step.settings, shaped)
        else:
            run = self._as_reference(step, index)
        self._jobs.append(_Job(run, step.sources, index + 1))
        return index

    def _stacked(self, name: str) -> Array:
        """A tensor with the axis of networks in front, 1 where all have the same."""
        tensor = self.network.tensors[name]
        return tensor if self.network.differs(name) else tensor[None]

    def _real(self, index: int, step: Step, weight: Array) -> int:
        """A layer of real weights, a convolution with the affine step that follows."""
        if step.op == "linear":
            self._jobs.append(_Job(real_linear(weight), step.sources, index + 1))
            return index
        last, tensors = self._taken(index, *self._only_follower(index), "affine")
        self._jobs.append(_Job(number_layer(RealProduct(weight, tensors), step, self.threads), step.sources, last + 1))
        return last

    def _binary(self, index: int, step: Step, weight: Array) -> int:
        """A layer of binary weights, with the affine step or the comparison that follows."""
        value, source = self.network.values[step.sources[0]], step.sources[0]
        pool, (last, follower) = None, self._only_follower(index)
        if value.signs and follower is not None and follower.op == "max_pool" and step.op == "conv":
            after, second = self._only_follower(last)
            if second is not None and second.op == "threshold":  # of sums, a maximum; of their signs, one or all
                pool, last, follower = follower, after, second
        last, tensors = self._taken(index, last, follower, "affine", *(["threshold"] if value.signs else []))
        if not value.signs:
            run = number_layer(NumberProduct(weight, fan_in(step.settings, value.shape), tensors), step, self.threads)
            self._jobs.append(_Job(run, step.sources, last + 1))
            return last
        geometry = {key: list(step.settings[key]) for key in ("stride", "padding", "dilation") if step.op == "conv"}
        shape = value.shape
        kernel = list(step.settings.get("kernel", ()))
        flat = self._flattened(source)
        if step.op == "linear" and flat is not None:  # the weights are put in order, not the bits
            source, shape = flat, self.network.values[flat].shape
            kernel = list(shape[1:])
        threshold, direction = tensors.pop("threshold", None), tensors.pop("direction", None)
        product = SignProduct(
            weight, shape[0], kernel, shape[1:], geometry, threshold=threshold, direction=direction, affine=tensors
        )
        run = sign_layer(product, step.op == "linear", self.threads)
        if pool is not None:
            if direction is not None:
                direction = np.broadcast_to(direction, (len(direction), product.outputs))
            run = chained(run, pooled_signs(pool.settings, direction))
        self._jobs.append(_Job(run, (source,), last + 1))
        return last

    def _taken(self, index: int, last: int, follower: Step | None, *operations: str) -> tuple[int, dict[str, Array]]:
        """The last step of a job that computes its follower too, if that is such an operation, and its tensors."""
        if follower is None or follower.op not in operations:
            return index, {}
        return last, {role: self._stacked(name) for role, name in follower.tensors.items()}

    def _only_follower(self, index: int) -> tuple[int, Step | None]:
        """The next step, if it alone takes what this one makes, and nothing else."""
        steps = self.network.program.steps
        if index + 1 < len(steps) and self._users[index + 1] == 1 and steps[index + 1].sources == (index + 1,):
            return index + 1, steps[index + 1]
        return index, None

    def _flattened(self, source: int) -> int | None:
        """The value of signs in up to two dimensions that a value has all of, in order."""
        step = self.network.program.steps[source - 1] if source else None
        if step is None or step.op != "reshape":
            return None
        value = self.network.values[step.sources[0]]
        return step.sources[0] if value.signs and 2 <= len(value.shape) <= 3 else None

    def _as_reference(self, step: Step, index: int) -> Run:
        differs = any(self.network.differs(name) for name in step.tensors.values())

        def run(sources: list[Held]) -> Held:
            values = [floats(source) for source in sources]
            count = self.network.program.samples if differs else max(map(len, values))
            parts = [[value[sample % len(value)] for value in values] for sample in range(count)]
            return np.stack([self.step(step, index, part, sample) for sample, part in enumerate(parts)])

        return run
