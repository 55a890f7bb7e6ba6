"""Capture of a whole training step as a CUDA graph, which is replayed without Python.

A graph replays device operations with the numbers that Python had during capture. Batches are therefore copied into
fixed tensors, and learning rates become tensors while a step runs. The step counter, on which draws and annealing
depend, is already on the device (`capturable` of the optimizers).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from bitbayes.lab.train.experiment import Experiment
from bitbayes.rules.optimizer import BinaryOptimizer

_WARM_UP = 3  # uncaptured warm-up steps, in which libraries choose their algorithms and compilers compile

TrainingStep = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Function from inputs and targets to the loss and the number of correct predictions, all on the device."""


class CudaGraph:
    """Recorder of device operations: `torch.cuda.CUDAGraph` on its own stream."""

    def __init__(self) -> None:
        self._graph, self._stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()

    def aside(self, action: Callable[[], None]) -> None:
        """Run an action on the stream of the graph, in order with other work, without recording it."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            action()
        torch.cuda.current_stream().wait_stream(self._stream)

    def record(self, action: Callable[[], None]) -> None:
        """Record an action without executing it: all tensors stay unchanged."""
        with torch.cuda.graph(self._graph, stream=self._stream):
            action()

    def replay(self) -> None:
        """Replay the recorded operations."""
        self._graph.replay()


GRAPHS: dict[str, type[CudaGraph]] = {"cuda": CudaGraph}
"""Recorders of steps by device type."""


class Captured:
    """Training step that runs normally a few times, is then captured, and is replayed from then on.

    Batches of another shape than the first one, such as the last batch of an epoch, run normally.

    Args:
        step: Step function that reads nothing back from the device and clears the gradients itself.
        optimizers: Optimizers that it steps: rules with `capturable=True`, and torch's own with `fused=True`.
        graph: Recorder of the step.
        device: Device of the step.
    """

    def __init__(self, step: TrainingStep, optimizers: list[Optimizer], graph: CudaGraph, device: torch.device) -> None:
        self._step, self._graph, self._optimizers = step, graph, optimizers
        self._rates: list[tuple[dict[str, Any], Tensor]] = []
        for optimizer in optimizers:
            # Rules compute with learning rates in double precision, as with Python's floats; torch's kernels read
            # float32.
            dtype = torch.float64 if isinstance(optimizer, BinaryOptimizer) else torch.float32
            self._rates += [(group, torch.zeros((), dtype=dtype, device=device)) for group in optimizer.param_groups]
        self._taken = 0
        self._batch: tuple[Tensor, ...] = ()
        self._results: tuple[Tensor, ...] = ()

    def __call__(self, x: Tensor, y: Tensor, share: float = 1.0) -> tuple[Tensor, Tensor]:
        """Take a step with inputs and targets; return loss and hits, which the next call may overwrite."""
        assert share == 1.0, "one process has the whole batch"
        for group, rate in self._rates:
            rate.fill_(group["lr"])
        if not self._batch:
            self._batch, self._results = (x.clone(), y.clone()), (x.new_zeros(()), x.new_zeros(()))
        if x.shape != self._batch[0].shape:
            with self._tensor_rates():
                return self._step(x, y)
        for kept, new in zip(self._batch, (x, y), strict=True):
            kept.copy_(new)
        if self._taken < _WARM_UP:
            with self._tensor_rates():
                self._graph.aside(self._run)
        else:
            if self._taken == _WARM_UP:
                for optimizer in self._optimizers:
                    optimizer.zero_grad()  # the graph owns the memory of gradients
                with self._tensor_rates(capturing=True):
                    self._graph.record(self._run)
            self._graph.replay()
        self._taken += 1
        loss, right = self._results
        return loss, right

    def _run(self) -> None:
        for kept, new in zip(self._results, self._step(*self._batch), strict=True):
            kept.copy_(new)

    @contextmanager
    def _tensor_rates(self, *, capturing: bool = False) -> Iterator[None]:
        """Replace learning rates by tensors during a step; schedules, records and checkpoints see Python numbers."""
        before = []
        for group, rate in self._rates:
            changed = {"lr": rate} | ({"capturable": True} if capturing and "capturable" in group else {})
            before.append((group, {name: group[name] for name in changed}))
            group.update(changed)
        try:
            yield
        finally:
            for group, values in before:
                group.update(values)


def check(experiment: Experiment) -> None:
    """Raise ValueError if the steps of a run cannot be captured.

    Capture is impossible if the device has no graphs, several processes train, or hooks run at every step.
    """
    device, optimizer = experiment.device, experiment.optimizer
    if device.type not in GRAPHS:
        raise ValueError(f"capture needs a device of type {' or '.join(GRAPHS)}, got {device}; leave out capture")
    if experiment.ranks.count > 1:
        raise ValueError(f"capture supports one process, got {experiment.ranks.count}; leave out capture")
    if experiment.hooks is not None:
        raise ValueError(f"capture cannot call {type(experiment.hooks).__name__} at every step; leave out capture")
    if optimizer is not None and not optimizer.param_groups[0]["capturable"]:
        raise ValueError(f"capture needs {type(optimizer).__name__} with capturable=True, got capturable=False")
