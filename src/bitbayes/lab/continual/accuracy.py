"""Accuracy on all tasks so far, and the metrics that follow from it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bitbayes.batchnorm import batch_buffers
from bitbayes.lab.continual.rehearsal import joined
from bitbayes.lab.continual.tasks import Task
from bitbayes.lab.data import TensorData
from bitbayes.lab.train import Experiment, RunConfig
from bitbayes.lab.train.mean import pooled_statistics
from bitbayes.lab.train.measure import mode_weights, refresh_inputs, whole
from bitbayes.lab.train.precision import autocast
from bitbayes.lab.train.results import silent_posterior
from bitbayes.predict import predict

_CHUNK = 2000
_ENDS = 5  # number of tasks at either end of a long stream

BatchStatistics = dict[str, Tensor]
"""Buffers of all BatchNorm layers, by name."""

Statistics = Literal["task", "shared"]


class AccuracyMatrix:
    """Accuracy matrix: `R[t][i]` is the accuracy in percent on task i after training on task t, for i ≤ t.

    Average accuracy and backward transfer are defined as by Lopez-Paz & Ranzato (NeurIPS 2017), forgetting as by
    Chaudhry et al. (ECCV 2018).

    Args:
        rows: Accuracies after each task; row t has t + 1 entries.

    Raises:
        ValueError: If a row has another length.

    Example:
        >>> matrix = AccuracyMatrix([[90.0], [80.0, 94.0]])
        >>> matrix.average, matrix.backward_transfer, matrix.forgetting
        ([90.0, 87.0], -10.0, 10.0)
    """

    def __init__(self, rows: Sequence[Sequence[float]] = ()) -> None:
        self.rows: list[list[float]] = []
        for row in rows:
            self.append(row)

    def __len__(self) -> int:
        return len(self.rows)

    def append(self, row: Sequence[float]) -> None:
        """Add the accuracies after one more task, the newest task last; raise ValueError if some are missing."""
        count = len(self.rows) + 1
        if len(row) != count:
            raise ValueError(f"after task {count} there are {count} tasks, got {len(row)} accuracies")
        self.rows.append([float(value) for value in row])

    @property
    def average(self) -> list[float]:
        """Mean accuracy over the tasks so far, after each task."""
        return [sum(row) / len(row) for row in self.rows]

    @property
    def backward_transfer(self) -> float | None:
        """Mean of `R[T][i] − R[i][i]` over the tasks before the last; negative if tasks were forgotten."""
        return self._mean([self.rows[-1][i] - self.rows[i][i] for i in range(len(self.rows) - 1)])

    @property
    def forgetting(self) -> float | None:
        """Mean over the tasks before the last of the best earlier accuracy minus the final accuracy."""
        last = len(self.rows) - 1
        return self._mean([max(self.rows[t][i] for t in range(i, last)) - self.rows[last][i] for i in range(last)])

    @staticmethod
    def _mean(values: Sequence[float]) -> float | None:
        return sum(values) / len(values) if values else None

    @property
    def first_and_last(self) -> tuple[float, float] | None:
        """Mean final accuracies over the first five and the last five tasks; None for fewer than ten tasks.

        The first mean shows what is retained, and the second what can still be learned.
        """
        if len(self.rows) < 2 * _ENDS:
            return None
        first, last = self.rows[-1][:_ENDS], self.rows[-1][-_ENDS:]
        return sum(first) / _ENDS, sum(last) / _ENDS

    def figures(self) -> dict[str, object]:
        """Return the entries of summary.json."""
        first, last = self.first_and_last or (None, None)
        return {
            "matrix": self.rows,
            "average_accuracy": self.average,
            "backward_transfer": self.backward_transfer,
            "forgetting": self.forgetting,
            "first_five": first,
            "last_five": last,
        }


@dataclass(frozen=True)
class Seen:
    """Record of a task that was trained on. It is small if the task can recreate its test data."""

    name: str
    test: Callable[[], TensorData | None]
    classes: tuple[int, ...] | None
    statistics: BatchStatistics

    @classmethod
    def of(cls, task: Task, statistics: BatchStatistics) -> Seen:
        """Return the record of a task with its BatchNorm statistics at the end of its training, or so far."""
        test = task.data.test
        return cls(task.name, task.test_again or (lambda: test), task.classes, statistics)


def batch_statistics(experiment: Experiment, config: RunConfig) -> BatchStatistics:
    """Return BatchNorm statistics on the training data for the test prediction: of samples, or of the mode."""
    optimizer = experiment.optimizer
    if optimizer is not None and optimizer.has_posterior:
        inputs = refresh_inputs(experiment, config.refresh_batches)
        return pooled_statistics(experiment.model, silent_posterior(optimizer), inputs, config, experiment.device)
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
    """Return the accuracy in percent on every task so far, or on as many test `examples` of each.

    If training examples of the tasks are kept, the BatchNorm statistics of every network are estimated from them.
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
    """Return the accuracy in percent on a task's test examples, or on as many `examples` spread over them.

    BatchNorm statistics are given, or are estimated for every network from given inputs.
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
