"""Accuracy on all tasks seen so far, and the BatchNorm statistics that it is measured with."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bitbayes.batchnorm import batch_buffers
from bitbayes.lab.continual.buffer import joined
from bitbayes.lab.continual.tasks import Task
from bitbayes.lab.data import TensorData
from bitbayes.lab.train import Experiment, RunConfig
from bitbayes.lab.train.mean import refreshed_for_draws
from bitbayes.lab.train.measure import mode_weights, refresh_inputs, whole
from bitbayes.lab.train.precision import autocast
from bitbayes.lab.train.results import silent_posterior
from bitbayes.predict import predict

__all__ = ["BatchStatistics", "Seen", "Statistics", "accuracies", "batch_statistics"]

_CHUNK = 2000

BatchStatistics = dict[str, Tensor]
"""Buffers of all BatchNorm layers, by name."""

Statistics = Literal["task", "shared"]


@dataclass(frozen=True)
class Seen:
    """What a stream keeps of a task that it has trained on: nothing that is large, if the task can make its test again.

    Args:
        name: Of the task.
        test: Makes or holds its test data.
        classes: Outputs that count; None for all.
        statistics: Of BatchNorm, from the end of its training.
    """

    name: str
    test: Callable[[], TensorData | None]
    classes: tuple[int, ...] | None
    statistics: BatchStatistics

    @classmethod
    def of(cls, task: Task, statistics: BatchStatistics) -> Seen:
        """A task at the end of its training, or on the way there.

        Args:
            task: The task.
            statistics: Of BatchNorm, for its inputs.

        Returns:
            The record.
        """
        test = task.data.test
        return cls(task.name, task.test_again or (lambda: test), task.classes, statistics)


def batch_statistics(experiment: Experiment, config: RunConfig) -> BatchStatistics:
    """BatchNorm statistics of the training data, for what a test will use: draws, or the mode.

    Args:
        experiment: Network, rule and data.
        config: For the precision and the number of batches.

    Returns:
        The statistics; the network keeps its own.
    """
    optimizer = experiment.optimizer
    if optimizer is not None and optimizer.has_posterior:
        inputs = refresh_inputs(experiment, config.refresh_batches)
        posterior = silent_posterior(optimizer)
        return batch_buffers(refreshed_for_draws(experiment.model, posterior, inputs, config, experiment.device))
    with mode_weights(experiment, config.refresh_batches, config.precision) as model:
        return batch_buffers(model)


def accuracies(
    experiment: Experiment,
    config: RunConfig,
    seen: Sequence[Seen],
    kept: Sequence[TensorData],
    statistics: Statistics,
    examples: int | None = None,
) -> list[float]:
    """Accuracy on every task seen.

    Args:
        experiment: Network and rule.
        config: For the precision, and the networks that are averaged.
        seen: The tasks, the newest last.
        kept: Training examples of each, which every network estimates its statistics from; empty if none are kept.
        statistics: "task" or "shared", see `run_stream`.
        examples: Test examples of every task; None for all.

    Returns:
        Percent, in the order of the tasks.
    """
    used: list[BatchStatistics | Tensor] = [task.statistics for task in seen]
    if kept and statistics == "task":
        used[:-1] = [whole(data)[0] for data in kept[: len(seen) - 1]]
    elif kept:
        used = [whole(joined(kept))[0]] * len(seen)
    elif statistics == "shared":
        used = used[-1:] * len(seen)
    return [_accuracy(experiment, config, *pair, examples) for pair in zip(seen, used, strict=True)]


def _accuracy(
    experiment: Experiment, config: RunConfig, task: Seen, statistics: BatchStatistics | Tensor, examples: int | None
) -> float:
    """Percent of a task's test examples, or of so many spread over them.

    BatchNorm statistics are given, or every network estimates its own from inputs that are.
    """
    test = task.test()
    if test is None:
        raise ValueError(f"{task.name} has no test data")
    optimizer = experiment.optimizer
    if optimizer is not None:
        optimizer.eval()
    model = copy.deepcopy(experiment.model)
    if optimizer is not None:
        optimizer.train()
    inputs = [statistics] if isinstance(statistics, Tensor) else None
    if not isinstance(statistics, Tensor):
        model.load_state_dict(statistics, strict=False)
    posterior = silent_posterior(optimizer) if optimizer is not None and optimizer.has_posterior else None
    x, y = whole(test)
    if examples is not None and examples < len(y):
        spread = torch.arange(examples, device=y.device) * len(y) // examples
        x, y = x[spread], y[spread]
    with autocast(experiment.device, config.precision):
        probs = predict(model, x, posterior, config.predict_samples, chunk=_CHUNK, batches=inputs).probs
    if task.classes is not None:
        others = torch.ones(probs.shape[1], dtype=torch.bool, device=probs.device)
        others[list(task.classes)] = False
        probs = probs.masked_fill(others, -1.0)
    return 100 * int((probs.argmax(1) == y.reshape(-1)).sum()) / len(y)
