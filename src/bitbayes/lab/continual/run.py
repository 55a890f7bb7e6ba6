"""Training on a sequence of tasks, with a run folder per task and accuracies on all tasks so far."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from bitbayes.continual import advance_prior
from bitbayes.lab.continual.accuracy import AccuracyMatrix, Seen, Statistics, accuracies, batch_statistics
from bitbayes.lab.continual.memory import Memory, NoMemory
from bitbayes.lab.continual.tasks import Scenario, Task
from bitbayes.lab.train import CROSS_ENTROPY, Experiment, Loss, Progress, RunConfig, RunFolder, build_experiment, train
from bitbayes.lab.train.experiment import continue_experiment
from bitbayes.rules import BayesBiNN, checks

_SHOWN = 8  # number of accuracies that fit into a line


@dataclass(frozen=True)
class StreamSettings:
    """Settings of a stream in addition to those of the runs that learn its tasks.

    Args:
        scenario: Knowledge of the task at test time. A stream continues only with the scenario in its summary.json.
        prior: Whether the posterior of a task is the prior of the next task (`advance_prior`). Only BayesBiNN has a
            prior.
        decay: Factor on the natural parameters of that prior, in [0, 1].
        ess_decay: Factor of `ess` from task to task. Below 1, later tasks move the posterior less, so that the shared
            network retains earlier tasks better.
        statistics: BatchNorm statistics at test time: "task" for those from the end of each task's training, "shared"
            for the latest ones for all tasks. "task" requires that the task of an input is known at test time. None
            chooses "shared" with `Replay` and in the scenarios "domain" and "class", and "task" otherwise.
        curve_examples: Number of test examples per task on which accuracy is measured after every epoch; 0 for none.
            This does not change what is learned.

    Raises:
        ValueError: If a setting is out of range.
    """

    scenario: Scenario | None = None
    prior: bool = True
    decay: float = 1.0
    ess_decay: float = 1.0
    statistics: Statistics | None = None
    curve_examples: int = 1000

    def __post_init__(self) -> None:
        checks.option(self.curve_examples >= 0, "curve_examples", "at least 0", self.curve_examples)
        checks.option(self.ess_decay > 0, "ess_decay", "positive", self.ess_decay)
        checks.option(0 <= self.decay <= 1, "decay of the prior", "in [0, 1]", self.decay)
        checks.option(
            self.statistics in ("task", "shared", None), "statistics", '"task", "shared" or None', self.statistics
        )
        if self.statistics == "task" and self.scenario in ("domain", "class"):
            raise ValueError(
                'statistics="task" needs the task of every test input, which is unknown in the scenario '
                f'{self.scenario}; use "shared"'
            )

    def with_statistics(self, memory: Memory) -> StreamSettings:
        """Return the settings with the statistics that None stands for."""
        shared = memory.mixes or self.scenario in ("domain", "class")
        return dataclasses.replace(self, statistics=self.statistics or ("shared" if shared else "task"))

    def record(self, memory: Memory) -> dict[str, Any]:
        """Return the entries of summary.json that must not change when a stream continues."""
        settings = {name: value for name, value in vars(self).items() if name != "curve_examples"}
        return settings | {"method": memory.name, "method_options": memory.options}


@dataclass(frozen=True)
class StreamResult:
    """Result of a stream: its folder (task1, task2, ..., curves.jsonl, summary.json), accuracies and summary."""

    folder: Path
    matrix: AccuracyMatrix
    summary: dict[str, Any]


@dataclass
class _Watch:
    """Measurement of all tasks so far during training, and of its duration."""

    experiment: Experiment
    task: Task
    before: list[Seen]
    memory: Memory
    settings: StreamSettings
    seconds: float = 0.0

    def __call__(self, config: RunConfig, examples: int | None = None) -> list[float]:
        started, statistics = time.perf_counter(), self.settings.statistics
        assert statistics is not None
        found = self.memory.corrected(self.experiment, config, mixed=statistics == "shared")
        seen = [*self.before, Seen.of(self.task, batch_statistics(found, config))]
        row = accuracies(found, config, seen, self.memory.examples_seen(), statistics, examples)
        self.seconds += time.perf_counter() - started
        return row

    def line(self, config: RunConfig) -> dict[str, Any]:
        """Return the entry of a line of metrics."""
        return {"accuracies": self(config, self.settings.curve_examples)}


def run_stream(
    config: RunConfig,
    tasks: Iterable[Task],
    network: Callable[[], nn.Module],
    settings: StreamSettings,
    *,
    loss: Loss = CROSS_ENTROPY,
    memory: Memory | None = None,
    count: int | None = None,
    progress: Progress | None = None,
    note: Callable[[str], None] = print,
) -> StreamResult:
    """Train on one task after another with the same network and beliefs.

    Learning rates and schedules restart with every task. An interrupted stream continues, between or within tasks, if
    the function is called again with the same arguments.

    The function writes summary.json after every task, and curves.jsonl with one line per epoch: task, epoch, and the
    accuracies on all tasks so far, the newest last.

    Args:
        config: Configuration of every task. `epochs` is the number of epochs per task, and `out` is the folder of the
            stream.
        tasks: Tasks of the stream.
        network: Function that makes the network; it is called under the seed.
        settings: Settings of the stream.
        loss: Loss of every task; `PAIRED` if the pair of classes of an input is known at test time.
        memory: Method against forgetting, such as `Coreset`, `Replay`, `EWC` or `SI`. The stream uses a copy of it.
        count: Number of tasks if it is known, so that notes include the time left.
        progress: Display of each task.
        note: Function that gets a line about each task when it ends.

    Returns:
        Accuracies of the mean of `config.predict_samples` networks, or of the mode for rules without a posterior.

    Raises:
        ValueError: If there are no tasks, a task has no training or test examples, `config` has an augmentation, a
            teacher, a pretrained run or an epoch to stop after, the folder holds a single run or a stream with other
            settings, or the memory does not support the rule.
        RunError: If another process is writing into the folder.
        TypeError: If `settings.prior` is set for a rule without a prior.

    Example:
        >>> import tempfile
        >>> from bitbayes.lab.continual import Replay, permuted_tasks
        >>> from bitbayes.lab.data import load_digits
        >>> from bitbayes.lab.train import RuleSpec, SilentProgress
        >>> config = RunConfig("digits", "ste", tempfile.mkdtemp(), RuleSpec(1e-2), epochs=1, precision="fp32")
        >>> quiet = {"progress": SilentProgress(), "note": lambda line: None}
        >>> tasks, settings = permuted_tasks(load_digits(), 2), StreamSettings(prior=False)
        >>> stream = run_stream(config, tasks, lambda: bb.nn.mlp(64, [32], 10), settings, memory=Replay(50), **quiet)
        >>> [len(row) for row in stream.matrix.rows]
        [1, 2]
    """
    for name in ("augment", "teacher", "pretrained", "stop_after"):
        if (value := getattr(config, name)) is not None:
            raise ValueError(f"a stream has no {name}, got {value}; leave it out")
    if config.pretrain_epochs or config.cycles > 1:
        got = f"pretrain_epochs {config.pretrain_epochs} and cycles {config.cycles}"
        raise ValueError(
            f"a stream has no float network that is trained first and no cycles, got {got}; leave them out"
        )
    folder = RunFolder(config.out)
    memory = copy.deepcopy(memory) if memory is not None else NoMemory()
    settings = settings.with_statistics(memory)
    about = settings.record(memory)
    with folder.held():
        matrix = _recorded(folder, about)
        if len(matrix):
            note(f"{len(matrix)} tasks in {folder.path} are already learned and are not trained again")
        experiment: Experiment | None = None
        seen: list[Seen] = []
        curves: list[dict[str, Any]] = []
        for index, task in enumerate(tasks):
            options = _less_sure(config.spec.options, settings.ess_decay**index)
            mine = config.changed(out=str(Path(config.out, f"task{index + 1}")), options=options)
            _check_examples(task)
            data = memory.training_data(task, mine)
            if experiment is None:
                experiment = build_experiment(mine, network, data, loss)
                if settings.prior and not isinstance(experiment.optimizer, BayesBiNN):
                    raise TypeError(
                        f"only bayesbinn has a prior, got rule {config.rule}; pass StreamSettings(prior=False)"
                    )
                memory.begin(experiment)
                experiment.hooks = None if isinstance(memory, NoMemory) else memory
            else:
                experiment = continue_experiment(experiment, mine, data)
                if settings.prior:
                    assert experiment.optimizer is not None
                    advance_prior(experiment.optimizer, decay=settings.decay)
            watch = _Watch(experiment, task, seen, memory, settings)
            curve = watch.line if settings.curve_examples else None
            started = time.perf_counter()
            result = train(mine, experiment, resume=True, progress=progress, figures=curve)
            mine = result.config
            curves += [
                {"task": index + 1, "epoch": row.epoch, "accuracies": row.accuracies}
                for row in result.history
                if row.accuracies is not None
            ]
            row = None
            if len(matrix) <= index:  # else the file has the lines of this task, and maybe of later ones
                folder.write_lines("curves.jsonl", curves)
                row = watch(mine)
            learning = time.perf_counter() - started - watch.seconds
            seen.append(Seen.of(task, batch_statistics(experiment, mine)))
            memory.end_task(task, experiment, mine)
            if row is not None:
                matrix.append(row)
                folder.write_json("summary.json", _summary(config, about, matrix, memory))
                rest = "" if count is None else _to_go(index + 1, count, learning, watch.seconds)
                note(f"after {task.name}: {_shown(row)}  mean {matrix.average[-1]:.2f}{rest}")
        if not seen:
            raise ValueError("a stream needs at least one task, got none")
    return StreamResult(folder.path, matrix, _summary(config, about, matrix, memory))


def _check_examples(task: Task) -> None:
    for part, what in ((task.data.train, "training"), (task.data.test, "test")):
        if part is None or not len(part):
            raise ValueError(f"{task.name} has no {what} examples; a stream learns and tests every task")


def _less_sure(options: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """Return options with another effective sample size."""
    return {name: value * factor if name in ("ess", "ess_scale") else value for name, value in options.items()}


def _recorded(folder: RunFolder, about: dict[str, Any]) -> AccuracyMatrix:
    """Return the rows that an earlier call has finished."""
    if folder.has("config.json"):
        raise ValueError(f"{folder.path} holds a single run, not a stream; choose another --out")
    if not folder.has("summary.json"):
        return AccuracyMatrix()
    # Older files do not name a method.
    summary = {"method": "none", "method_options": {}, "ess_decay": 1.0} | folder.read_json("summary.json")
    different = [name for name, value in about.items() if summary.get(name) != value]
    if different:
        was = ", ".join(f"{name} {summary.get(name)}, not {about[name]}" for name in different)
        raise ValueError(f"{folder.path} holds a stream with {was}; use the same settings, or choose another --out")
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
    """Return the time left, given that every task takes equally long to learn but evaluations become longer."""
    seconds = learning * (count - done) + measuring / done * sum(range(done + 1, count + 1))
    return f"; about {seconds / 60:.0f} min left" if done < count else ""
