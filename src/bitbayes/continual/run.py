"""Trains on a stream of tasks, one run folder a task, and measures all tasks seen so far after each and on the way."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bitbayes.continual.matrix import AccuracyMatrix
from bitbayes.continual.memory import Memory
from bitbayes.continual.prior import advance_prior
from bitbayes.continual.tasks import Task
from bitbayes.predict import predict
from bitbayes.rules import BayesBiNN
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
        folder: Where its files are: task1, task2, ..., curves.jsonl and summary.json.
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
    ess_decay: float = 1.0,
    statistics: Literal["task", "shared"] = "task",
    memory: Memory | None = None,
    curve_examples: int = 1000,
    progress: Progress | None = None,
    note: Callable[[str], None] = print,
) -> StreamResult:
    """Trains on one task after another with the same network and the same beliefs.

    Learning rates and schedule start anew with every task. A stream that was interrupted continues where it was,
    between tasks or within one, if it is called again with the same arguments.

    It writes summary.json after every task, and curves.jsonl with one line an epoch: task, epoch, and the accuracies on
    all tasks so far, the newest last.

    Args:
        config: Of every task; `epochs` are those of one task, `out` the folder of the stream.
        tasks: The stream.
        network: Makes the network; called under the seed.
        prior: Whether the posterior of a task is the prior of the next (`advance_prior`); only for BayesBiNN.
        decay: Relaxation of that prior.
        ess_decay: Factor of `ess` from task to task. Below 1 a later task moves the posterior less, so that earlier
            ones are kept better; they share one network, and all of them would otherwise yield to the newest.
        statistics: BatchNorm statistics at test time: those kept from the end of the task's own training, or the newest
            for all tasks. "task" needs to be told at test time which task an input is of.
        memory: What else is kept of old tasks, such as `EWC`, `SI` or `Replay`; the stream works on a copy of it.
        curve_examples: Test examples of every task that accuracy is measured on after every epoch; 0 for none. This
            does not change what is learned.
        progress: Display of each task.
        note: Told of each task as it ends.

    Returns:
        Accuracies of the mean of `config.predict_samples` networks, or of the mode for rules without a posterior.

    Raises:
        ValueError: If the folder holds a stream with other settings, the memory does not suit the rule,
            `curve_examples` is negative, or `ess_decay` is not positive.
        TypeError: If a prior is wanted of a rule that has none.

    Example:
        >>> import tempfile
        >>> from bitbayes.continual import Replay, permuted_tasks
        >>> from bitbayes.data import load_digits
        >>> from bitbayes.training import SilentProgress
        >>> config = RunConfig("digits", "ste", tempfile.mkdtemp(), lr=1e-2, epochs=1, precision="fp32")
        >>> how = {"prior": False, "memory": Replay(50), "progress": SilentProgress(), "note": lambda line: None}
        >>> stream = run_stream(config, permuted_tasks(load_digits(), 2), lambda: bb.nn.mlp(64, [32], 10), **how)
        >>> [len(row) for row in stream.matrix.rows]
        [1, 2]
    """
    if curve_examples < 0:
        raise ValueError(f"curve_examples must be at least 0, got {curve_examples}")
    if not ess_decay > 0:
        raise ValueError(f"ess_decay must be positive, got {ess_decay}")
    folder = RunFolder(config.out)
    memory = copy.deepcopy(memory) if memory is not None else Memory()
    about = {"prior": prior, "decay": decay, "ess_decay": ess_decay, "statistics": statistics}
    about |= {"method": memory.name, "method_options": memory.options}
    matrix = _recorded(folder, about)
    experiment: Experiment | None = None
    seen: list[_Seen] = []
    curves: list[dict[str, Any]] = []
    for index, task in enumerate(tasks):
        options = _less_sure(config.options, ess_decay**index)
        mine = dataclasses.replace(config, out=str(Path(config.out, f"task{index + 1}")), options=options)
        data = memory.training_data(task)
        if experiment is None:
            experiment = build_experiment(mine, network, data, "cross_entropy")
            if prior and not isinstance(experiment.optimizer, BayesBiNN):
                raise TypeError(f"only bayesbinn has a prior, got rule {config.rule}; call run_stream with prior=False")
            memory.begin(experiment)
            experiment.hooks = None if type(memory) is Memory else memory
        else:
            experiment = continue_experiment(experiment, mine, data)
            if prior:
                assert experiment.optimizer is not None
                advance_prior(experiment.optimizer, decay=decay)
        curve = functools.partial(_curve, experiment, task, seen, statistics, curve_examples)
        result = train(mine, experiment, resume=True, progress=progress, figures=curve if curve_examples else None)
        mine = result.config
        seen.append(_Seen(task, _statistics(experiment, mine)))
        memory.end_task(task, experiment, mine)
        curves += [
            {"task": index + 1} | {name: line[name] for name in ("epoch", "accuracies")}
            for line in result.history
            if "accuracies" in line
        ]
        folder.write_lines("curves.jsonl", curves)
        if len(matrix) <= index:
            row = _row(experiment, mine, seen, statistics)
            matrix.append(row)
            folder.write_json("summary.json", _summary(config, about, matrix))
            note(f"after {task.name}: {'  '.join(f'{value:.1f}' for value in row)}  mean {matrix.average[-1]:.2f}")
    return StreamResult(folder.path, matrix, _summary(config, about, matrix))


def _less_sure(options: dict[str, Any], factor: float) -> dict[str, Any]:
    """Options with another effective sample size."""
    return {name: value * factor if name in ("ess", "ess_scale") else value for name, value in options.items()}


def _recorded(folder: RunFolder, about: dict[str, Any]) -> AccuracyMatrix:
    """The rows that an earlier call has finished."""
    if not folder.has("summary.json"):
        return AccuracyMatrix()
    # Older ones name no method.
    summary = {"method": "none", "method_options": {}, "ess_decay": 1.0} | folder.read_json("summary.json")
    different = [name for name, value in about.items() if summary.get(name) != value]
    if different:
        was = ", ".join(f"{name} {summary.get(name)}, not {about[name]}" for name in different)
        raise ValueError(f"{folder.path} holds a stream with {was}; continue with the same, or choose another --out")
    return AccuracyMatrix(summary["matrix"])


def _summary(config: RunConfig, about: dict[str, Any], matrix: AccuracyMatrix) -> dict[str, Any]:
    names = ("recipe", "rule", "estimator", "options", "seed", "epochs", "predict_samples")
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


def _curve(
    experiment: Experiment, task: Task, before: list[_Seen], statistics: str, examples: int, config: RunConfig
) -> dict[str, Any]:
    """What a line of metrics says of all tasks so far while one is learned."""
    seen = [*before, _Seen(task, _statistics(experiment, config))]
    return {"accuracies": _row(experiment, config, seen, statistics, examples)}


def _row(
    experiment: Experiment, config: RunConfig, seen: list[_Seen], statistics: str, examples: int | None = None
) -> list[float]:
    """Accuracy on every task seen, the newest last."""
    newest = seen[-1].statistics
    return [
        _accuracy(experiment, config, s.task, s.statistics if statistics == "task" else newest, examples) for s in seen
    ]


def _accuracy(
    experiment: Experiment, config: RunConfig, task: Task, statistics: Statistics, examples: int | None
) -> float:
    """Percent of a task's test examples, or of so many spread over them, with given BatchNorm statistics."""
    test = task.data.test
    if test is None:
        raise ValueError(f"{task.name} has no test data")
    optimizer = experiment.optimizer
    if optimizer is not None:
        optimizer.eval()
    model = copy.deepcopy(experiment.model)
    if optimizer is not None:
        optimizer.train()
    model.load_state_dict(statistics, strict=False)
    posterior = silent_posterior(optimizer) if optimizer is not None and optimizer.has_posterior else None
    x, y = whole(test)
    if examples is not None and examples < len(y):
        spread = torch.arange(examples, device=y.device) * len(y) // examples
        x, y = x[spread], y[spread]
    with autocast(experiment.device, config.precision):
        probs = predict(model, x, posterior, config.predict_samples, chunk=_CHUNK).probs
    if task.classes is not None:
        others = torch.ones(probs.shape[1], dtype=torch.bool, device=probs.device)
        others[list(task.classes)] = False
        probs = probs.masked_fill(others, -1.0)
    return 100 * int((probs.argmax(1) == y.reshape(-1)).sum()) / len(y)
