"""Trains on a stream of tasks, one run folder a task, and measures all tasks seen so far after each."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bitbayes.continual.matrix import AccuracyMatrix
from bitbayes.continual.prior import advance_prior
from bitbayes.continual.tasks import Task
from bitbayes.predict import predict
from bitbayes.training import Experiment, Progress, RunConfig, RunFolder, build_experiment, train
from bitbayes.training.experiment import continue_experiment
from bitbayes.training.mean import refreshed_for_draws
from bitbayes.training.measure import autocast, mode_weights, refresh_inputs, whole
from bitbayes.training.results import silent_posterior

__all__ = ["StreamResult", "run_stream"]

_CHUNK = 2000
Statistics = dict[str, Tensor]


@dataclass(frozen=True)
class StreamResult:
    """What a stream has left.

    Args:
        folder: Where its files are: task1, task2, ... and summary.json.
        matrix: Accuracies by task.
        summary: Content of summary.json.
    """

    folder: Path
    matrix: AccuracyMatrix
    summary: dict[str, Any]


@dataclass
class _Seen:
    """A task that has been trained on, and the BatchNorm statistics at its end."""

    task: Task
    statistics: Statistics


def run_stream(
    config: RunConfig,
    tasks: Iterable[Task],
    network: Callable[[], nn.Module],
    *,
    prior: bool = True,
    decay: float = 1.0,
    statistics: Literal["task", "shared"] = "task",
    progress: Progress | None = None,
    note: Callable[[str], None] = print,
) -> StreamResult:
    """Trains on one task after another with the same network and the same beliefs.

    Learning rates and schedule start anew with every task. A stream that was interrupted continues where it was,
    between tasks or within one, if it is called again with the same arguments.

    Args:
        config: Of every task; `epochs` are those of one task, `out` the folder of the stream.
        tasks: The stream.
        network: Makes the network; called under the seed.
        prior: Whether the posterior of a task is the prior of the next (`advance_prior`); only for BayesBiNN.
        decay: Relaxation of that prior.
        statistics: BatchNorm statistics at test time: those kept from the end of the task's own training, or the newest
            for all tasks. "task" needs to be told at test time which task an input is of.
        progress: Display of each task.
        note: Told of each task as it ends.

    Returns:
        Accuracies of the mean of `config.predict_samples` networks, or of the mode for rules without a posterior.

    Raises:
        ValueError: If the folder holds a stream with other settings.
        TypeError: If a prior is wanted of a rule that has none.
    """
    folder = RunFolder(config.out)
    about = {"prior": prior, "decay": decay, "statistics": statistics}
    matrix = _recorded(folder, about)
    experiment: Experiment | None = None
    seen: list[_Seen] = []
    for index, task in enumerate(tasks):
        mine = dataclasses.replace(config, out=str(Path(config.out, f"task{index + 1}")))
        if experiment is None:
            experiment = build_experiment(mine, network, task.data, "cross_entropy")
        else:
            experiment = continue_experiment(experiment, mine, task.data)
            if prior:
                assert experiment.optimizer is not None
                advance_prior(experiment.optimizer, decay=decay)
        mine = train(mine, experiment, resume=True, progress=progress).config
        seen.append(_Seen(task, _statistics(experiment, mine)))
        if len(matrix) <= index:
            newest = seen[-1].statistics
            row = [_accuracy(experiment, mine, s, s.statistics if statistics == "task" else newest) for s in seen]
            matrix.append(row)
            folder.write_json("summary.json", _summary(config, about, matrix))
            note(f"after {task.name}: {'  '.join(f'{value:.1f}' for value in row)}  mean {matrix.average[-1]:.2f}")
    return StreamResult(folder.path, matrix, _summary(config, about, matrix))


def _recorded(folder: RunFolder, about: dict[str, Any]) -> AccuracyMatrix:
    """The rows that an earlier call has finished."""
    if not folder.has("summary.json"):
        return AccuracyMatrix()
    summary = folder.read_json("summary.json")
    different = [name for name, value in about.items() if summary.get(name) != value]
    if different:
        was = ", ".join(f"{name} {summary.get(name)}, not {about[name]}" for name in different)
        raise ValueError(f"{folder.path} holds a stream with {was}; continue with the same, or choose another --out")
    return AccuracyMatrix(summary["matrix"])


def _summary(config: RunConfig, about: dict[str, Any], matrix: AccuracyMatrix) -> dict[str, Any]:
    names = ("recipe", "rule", "estimator", "seed", "epochs", "predict_samples")
    return {name: getattr(config, name) for name in names} | about | {"tasks": len(matrix)} | matrix.figures()


def _statistics(experiment: Experiment, config: RunConfig) -> Statistics:
    """BatchNorm statistics for what the task's test will use: draws, or the mode."""
    optimizer = experiment.optimizer
    if optimizer is not None and optimizer.has_posterior:
        inputs = refresh_inputs(experiment, config.refresh_batches)
        posterior = silent_posterior(optimizer)
        return _buffers(refreshed_for_draws(experiment.model, posterior, inputs, config, experiment.device))
    with mode_weights(experiment, config.refresh_batches, config.precision) as model:
        return _buffers(model)


def _buffers(model: nn.Module) -> Statistics:
    return {
        f"{name}.{key}": buffer.clone()
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm)
        for key, buffer in module.named_buffers()
    }


def _accuracy(experiment: Experiment, config: RunConfig, seen: _Seen, statistics: Statistics) -> float:
    """Percent of a task's test examples, with given BatchNorm statistics."""
    test = seen.task.data.test
    if test is None:
        raise ValueError(f"{seen.task.name} has no test data")
    optimizer = experiment.optimizer
    if optimizer is not None:
        optimizer.eval()
    model = copy.deepcopy(experiment.model)
    if optimizer is not None:
        optimizer.train()
    model.load_state_dict(statistics, strict=False)
    posterior = silent_posterior(optimizer) if optimizer is not None and optimizer.has_posterior else None
    x, y = whole(test)
    with autocast(experiment.device, config.precision):
        probs = predict(model, x, posterior, config.predict_samples, chunk=_CHUNK).probs
    if seen.task.classes is not None:
        others = torch.ones(probs.shape[1], dtype=torch.bool, device=probs.device)
        others[list(seen.task.classes)] = False
        probs = probs.masked_fill(others, -1.0)
    return 100 * float((probs.argmax(1) == y.reshape(-1)).float().mean())
