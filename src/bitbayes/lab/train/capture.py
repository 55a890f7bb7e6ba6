"""A whole training step as a CUDA graph: recorded once, then repeated without Python.

What a graph repeats are operations on the device with the numbers that Python had when they were recorded. So batches
go through tensors that stay where they are, learning rates become tensors while a step runs, and the counter of
steps, from which draws and annealing follow, is on the device already (`capturable` of the optimizers).
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

_WARM_UP = 3  # steps that are run as they are, in which libraries choose their algorithms and compilers compile

TrainingStep = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""From inputs and targets to the loss and the number of right predictions, all on the device."""


class CudaGraph:
    """Records operations on a device and repeats them: `torch.cuda.CUDAGraph`, on a stream of its own."""

    def __init__(self) -> None:
        self._graph, self._stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()

    def aside(self, action: Callable[[], None]) -> None:
        """Run an action on the stream of the graph, between what comes before and after, without recording it."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            action()
        torch.cuda.current_stream().wait_stream(self._stream)

    def record(self, action: Callable[[], None]) -> None:
        """Record an action without effect: afterwards all tensors are as they were."""
        with torch.cuda.graph(self._graph, stream=self._stream):
            action()

    def replay(self) -> None:
        """Carry out what was recorded."""
        self._graph.replay()


GRAPHS: dict[str, type[CudaGraph]] = {"cuda": CudaGraph}
"""What records a step, by the type of the device."""


class Captured:
    """A training step that runs as it is a few times, is then recorded, and repeated from then on.

    Batches of another shape than the first, as the last of an epoch may be, run as they are.

    Args:
        step: Reads nothing back from the device, and clears the gradients itself.
        optimizers: Those that it steps: rules with `capturable=True`, and torch's own with `fused=True`.
        graph: What records it.
        device: Where it runs.
    """

    def __init__(self, step: TrainingStep, optimizers: list[Optimizer], graph: CudaGraph, device: torch.device) -> None:
        self._step, self._graph, self._optimizers = step, graph, optimizers
        self._rates: list[tuple[dict[str, Any], Tensor]] = []
        for optimizer in optimizers:
            # A rule computes with rates in double precision, as with Python's; torch's kernels read single.
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
                    optimizer.zero_grad()  # memory of gradients is the graph's own
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
        """Lend the optimizers their rates as tensors; schedules, records and checkpoints see Python's numbers."""
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

    The device may have no graphs, several processes may train, or something may look into every step.
    """
    device, optimizer = experiment.device, experiment.optimizer
    if device.type not in GRAPHS:
        raise ValueError(f"capture needs a device of type {' or '.join(GRAPHS)}, got {device}; leave it out")
    if experiment.ranks.count > 1:
        raise ValueError(f"capture is for one process, got {experiment.ranks.count}; leave it out")
    if experiment.hooks is not None:
        raise ValueError(f"capture would not call {type(experiment.hooks).__name__} at every step; leave it out")
    if optimizer is not None and not optimizer.param_groups[0]["capturable"]:
        raise ValueError(f"capture needs {type(optimizer).__name__} to be made with capturable=True")
