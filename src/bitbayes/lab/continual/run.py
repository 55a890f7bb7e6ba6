"""Trains on a stream of tasks, one run folder a task, and measures all tasks seen so far after each and on the way."""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from bitbayes.continual import advance_prior
from bitbayes.lab.continual.evaluate import Seen, Statistics, accuracies, batch_statistics
from bitbayes.lab.continual.matrix import AccuracyMatrix
from bitbayes.lab.continual.memory import Memory
from bitbayes.lab.continual.tasks import Task
from bitbayes.lab.train import CROSS_ENTROPY, Experiment, Loss, Progress, RunConfig, RunFolder, build_experiment, train
from bitbayes.lab.train.experiment import continue_experiment
from bitbayes.rules import BayesBiNN

__all__ = ["StreamResult", "run_stream"]

_SHOWN = 8  # accuracies that fit into a line


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
class _Watch:
    """Measures all tasks so far while one is learned, and how long that takes."""

    experiment: Experiment
    task: Task
    before: list[Seen]
    memory: Memory
    statistics: Statistics
    seconds: float = 0.0

    def __call__(self, config: RunConfig, examples: int | None = None) -> list[float]:
        started = time.perf_counter()
        found = self.memory.corrected(self.experiment, config, mixed=self.statistics == "shared")
        seen = [*self.before, Seen.of(self.task, batch_statistics(found, config))]
        row = accuracies(found, config, seen, self.memory.examples_seen(), self.statistics, examples)
        self.seconds += time.perf_counter() - started
        return row

    def line(self, examples: int, config: RunConfig) -> dict[str, Any]:
        """What a line of metrics says of them."""
        return {"accuracies": self(config, examples)}


def run_stream(
    config: RunConfig,
    tasks: Iterable[Task],
    network: Callable[[], nn.Module],
    *,
    loss: Loss = CROSS_ENTROPY,
    prior: bool = True,
    decay: float = 1.0,
    ess_decay: float = 1.0,
    statistics: Statistics = "task",
    memory: Memory | None = None,
    scenario: str | None = None,
    curve_examples: int = 1000,
    count: int | None = None,
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
        loss: Of every task; `PAIRED` if it is known at test time which pair of classes an input is of.
        prior: Whether the posterior of a task is the prior of the next (`advance_prior`); only for BayesBiNN.
        decay: Relaxation of that prior.
        ess_decay: Factor of `ess` from task to task. Below 1 a later task moves the posterior less, so that earlier
            ones are kept better; they share one network, and all of them would otherwise yield to the newest.
        statistics: BatchNorm statistics at test time: those kept from the end of the task's own training, or the newest
            for all tasks. "task" needs to be told at test time which task an input is of.
        memory: What else is kept of old tasks, such as `Coreset`, `Replay`, `EWC` or `SI`; the stream works on a copy
            of it.
        scenario: What is known of the task at test time, for summary.json: a stream is not continued as another.
        curve_examples: Test examples of every task that accuracy is measured on after every epoch; 0 for none. This
            does not change what is learned.
        count: Number of tasks, if it is known; the notes then say how long the rest will take.
        progress: Display of each task.
        note: Told of each task as it ends.

    Returns:
        Accuracies of the mean of `config.predict_samples` networks, or of the mode for rules without a posterior.

    Raises:
        ValueError: If the folder holds a stream with other settings, the memory does not suit the rule,
            `curve_examples` is negative, or `ess_decay`, `decay` or `statistics` is out of range.
        TypeError: If a prior is wanted of a rule that has none.

    Example:
        >>> import tempfile
        >>> from bitbayes.lab.continual import Replay, permuted_tasks
        >>> from bitbayes.lab.data import load_digits
        >>> from bitbayes.lab.train import RuleSpec, SilentProgress
        >>> config = RunConfig("digits", "ste", tempfile.mkdtemp(), RuleSpec(1e-2), epochs=1, precision="fp32")
        >>> how = {"prior": False, "memory": Replay(50), "progress": SilentProgress(), "note": lambda line: None}
        >>> stream = run_stream(config, permuted_tasks(load_digits(), 2), lambda: bb.nn.mlp(64, [32], 10), **how)
        >>> [len(row) for row in stream.matrix.rows]
        [1, 2]
    """
    if curve_examples < 0:
        raise ValueError(f"curve_examples must be at least 0, got {curve_examples}")
    if not ess_decay > 0:
        raise ValueError(f"ess_decay must be positive, got {ess_decay}")
    if not 0 <= decay <= 1:
        raise ValueError(f"decay of the prior must be in [0, 1], got {decay}")
    if statistics not in ("task", "shared"):
        raise ValueError(f'statistics must be "task" or "shared", got {statistics!r}')
    folder = RunFolder(config.out)
    memory = copy.deepcopy(memory) if memory is not None else Memory()
    about: dict[str, Any] = {
        "scenario": scenario,
        "prior": prior,
        "decay": decay,
        "ess_decay": ess_decay,
        "statistics": statistics,
    }
    about |= {"method": memory.name, "method_options": memory.options}
    matrix = _recorded(folder, about)
    experiment: Experiment | None = None
    seen: list[Seen] = []
    curves: list[dict[str, Any]] = []
    for index, task in enumerate(tasks):
        options = _less_sure(config.spec.options, ess_decay**index)
        mine = config.changed(out=str(Path(config.out, f"task{index + 1}")), options=options)
        data = memory.training_data(task, mine)
        if experiment is None:
            experiment = build_experiment(mine, network, data, loss)
            if prior and not isinstance(experiment.optimizer, BayesBiNN):
                raise TypeError(f"only bayesbinn has a prior, got rule {config.rule}; call run_stream with prior=False")
            memory.begin(experiment)
            experiment.hooks = None if type(memory) is Memory else memory
        else:
            experiment = continue_experiment(experiment, mine, data)
            if prior:
                assert experiment.optimizer is not None
                advance_prior(experiment.optimizer, decay=decay)
        watch = _Watch(experiment, task, seen, memory, statistics)
        curve = functools.partial(watch.line, curve_examples) if curve_examples else None
        started = time.perf_counter()
        result = train(mine, experiment, resume=True, progress=progress, figures=curve)
        mine = result.config
        curves += [
            {"task": index + 1} | {name: line[name] for name in ("epoch", "accuracies")}
            for line in result.history
            if "accuracies" in line
        ]
        folder.write_lines("curves.jsonl", curves)
        row = watch(mine) if len(matrix) <= index else None
        learning = time.perf_counter() - started - watch.seconds
        seen.append(Seen.of(task, batch_statistics(experiment, mine)))
        memory.end_task(task, experiment, mine)
        if row is not None:
            matrix.append(row)
            folder.write_json("summary.json", _summary(config, about, matrix, memory))
            rest = "" if count is None else _to_go(index + 1, count, learning, watch.seconds)
            note(f"after {task.name}: {_shown(row)}  mean {matrix.average[-1]:.2f}{rest}")
    return StreamResult(folder.path, matrix, _summary(config, about, matrix, memory))


def _less_sure(options: Mapping[str, Any], factor: float) -> dict[str, Any]:
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


def _summary(config: RunConfig, about: dict[str, Any], matrix: AccuracyMatrix, memory: Memory) -> dict[str, Any]:
    names = ("recipe", "rule", "estimator", "options", "seed", "epochs", "predict_samples")
    kept = {"tasks": len(matrix), "method_bytes": memory.bytes()}
    settings = config.flat()
    return {name: settings[name] for name in names} | about | kept | matrix.figures()


def _shown(row: list[float]) -> str:
    values = "  ".join(f"{value:.1f}" for value in row[-_SHOWN:])
    return values if len(row) <= _SHOWN else f"...  {values}"


def _to_go(done: int, count: int, learning: float, measuring: float) -> str:
    """How long the rest takes: learning is the same for every task, but there is ever more to be measured."""
    seconds = learning * (count - done) + measuring / done * sum(range(done + 1, count + 1))
    return f"; about {seconds / 60:.0f} min to go" if done < count else ""
