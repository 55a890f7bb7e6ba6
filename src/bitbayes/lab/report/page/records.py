"""What run folders hold, as records. Whatever is missing or damaged becomes one line and is left out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bitbayes.lab.continual import AccuracyMatrix
from bitbayes.lab.report.page.files import Reader
from bitbayes.lab.train import RunConfig

__all__ = ["Folders", "Run", "State", "Stream", "Trust", "read_folders"]

State = Literal["finished", "going", "stopped"]


@dataclass(frozen=True)
class Run:
    """One run, finished or not.

    Args:
        name: Its folder, with as many parents as tell it from the others.
        config: Its record.
        state: "finished" (summary.json is there); "stopped", if there is a failure.json, or nothing was written for
            long; else "going".
        status: The state in a few words.
        history: Lines of metrics.jsonl, numbers only.
        summary: Content of summary.json; empty for a run that is not finished.
        evaluation: Content of evaluation.json, or empty.
        environment: Content of environment.json, or empty.
        weights: Percent of its weights in 50 equal bins of P[w = +1]; empty without a posterior.
        beliefs: Epoch, and the same in fewer bins, on the way there.
    """

    name: str
    config: RunConfig
    state: State
    status: str
    history: list[dict[str, float]]
    summary: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    weights: list[float] = field(default_factory=list)
    beliefs: list[tuple[float, list[float]]] = field(default_factory=list)

    def last(self, key: str) -> float | None:
        """The newest value of a metric, or None."""
        return next((row[key] for row in reversed(self.history) if key in row), None)


@dataclass(frozen=True)
class Stream:
    """One stream of tasks, finished or not.

    Args:
        name: Its folder, as for a run.
        config: Record of its first task.
        status: How far it is.
        matrix: Accuracy on every task after every task, percent.
        summary: Content of summary.json; empty before the first task has ended.
        curves: Lines of curves.jsonl: task, epoch, accuracies.
        environment: As for a run, of its first task.
        weights: As for a run, after each task.
    """

    name: str
    config: RunConfig
    status: str
    matrix: AccuracyMatrix
    summary: dict[str, Any]
    curves: list[dict[str, Any]]
    environment: dict[str, Any]
    weights: list[list[float]]


@dataclass(frozen=True)
class Trust:
    """What `bitbayes reproduce trust` has measured.

    Args:
        name: The folder.
        rows: Of trust.json: rule, kind, networks, bytes, figures.
    """

    name: str
    rows: list[dict[str, Any]]


@dataclass(frozen=True)
class Folders:
    """All that was found.

    Args:
        runs: In the order they were named.
        streams: The same.
        trust: The same.
        notes: One line for everything that was left out.
    """

    runs: list[Run]
    streams: list[Stream]
    trust: list[Trust]
    notes: list[str]


def read_folders(paths: Sequence[str | Path], now: float | None = None) -> Folders:
    """Reads runs and streams; a folder of runs stands for all runs in it.

    Args:
        paths: Folders of runs, of streams of tasks, or of several of them.
        now: Seconds since 1970, to tell a run that is going from one that has stopped; None for the clock.

    Returns:
        The records, and a line for everything that could not be read.

    Raises:
        ValueError: If a folder does not exist, or there is nothing to show.

    Example:
        >>> import tempfile
        >>> read_folders([tempfile.mkdtemp(prefix="none-")])
        Traceback (most recent call last):
        ...
        ValueError: nothing to show: ...none-... is empty
    """
    reader = Reader(now=time.time() if now is None else now)
    runs: dict[Path, Path] = {}  # the folder itself, so that none is shown twice, and as it was named
    streams: dict[Path, Path] = {}
    trust: dict[Path, Path] = {}
    for named in map(Path, paths):
        if not named.exists():
            raise ValueError(f"{named} does not exist")
        found = [named] if _is_run(named) or _is_stream(named) else _inside(named, reader)
        for folder in found:
            (streams if _is_stream(folder) else runs).setdefault(folder.resolve(), folder)
        if (named / "trust.json").is_file():
            trust.setdefault(named.resolve(), named)
    names = _names([*runs, *streams, *trust])
    folders = Folders(
        [run for path, folder in runs.items() if (run := _run(names[path], folder, reader))],
        [stream for path, folder in streams.items() if (stream := _stream(names[path], folder, reader))],
        [Trust(names[path], rows) for path, folder in trust.items() if (rows := _trust(folder, reader))],
        reader.notes,
    )
    if not folders.runs and not folders.streams:
        raise ValueError(f"nothing to show: {'; '.join(reader.notes) or 'no folder was named'}")
    return folders


def _is_run(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def _is_stream(folder: Path) -> bool:
    return not _is_run(folder) and _is_run(folder / "task1")


def _inside(folder: Path, reader: Reader) -> list[Path]:
    """The runs and streams in a folder that is neither."""
    if not folder.is_dir():
        reader.note(f"{folder} is a file, not the folder of a run")
        return []
    try:
        children = sorted(folder.iterdir())
    except OSError as error:
        reader.note(f"{folder} cannot be read: {error.strerror}")
        return []
    found = [child for child in children if _is_run(child) or _is_stream(child)]
    if not found:
        reader.note(f"{folder} is no run: it has no config.json" if children else f"{folder} is empty")
    return found


def _names(folders: Sequence[Path]) -> dict[Path, str]:
    """The shortest ends of the paths that differ."""
    names: dict[Path, str] = {}
    for folder in folders:
        length = 1
        while length < len(folder.parts) and any(
            other != folder and other.parts[-length:] == folder.parts[-length:] for other in folders
        ):
            length += 1
        names[folder] = "/".join(folder.parts[-length:])
    return names


def _run(name: str, folder: Path, reader: Reader) -> Run | None:
    config = reader.config(folder)
    if config is None:
        return None
    history = reader.metrics(folder)
    summary = reader.scalars(folder / "summary.json")
    state, status = _state(folder, config, history, summary, reader)
    if state != "finished":
        summary = {}  # of an earlier, shorter part of the run
    evaluation = reader.object(folder / "evaluation.json")
    environment = reader.scalars(folder / "environment.json")
    weights = reader.weights(folder / "posterior.safetensors")
    beliefs = reader.beliefs(folder)
    return Run(name, config, state, status, history, summary, evaluation, environment, weights, beliefs)


def _state(
    folder: Path, config: RunConfig, history: list[dict[str, float]], summary: dict[str, Any], reader: Reader
) -> tuple[State, str]:
    """A run that fails leaves a line; one that is killed cannot, and is told by how long it has been silent."""
    epoch = int(history[-1]["epoch"]) if history else 0
    if summary.get("epochs_done") == config.last_epoch:
        return "finished", f"finished, {config.last_epoch} epochs"
    so_far = f"{epoch} of {config.last_epoch} epochs" if epoch else "no epoch yet"
    stopped = f"stopped after {so_far}" if epoch else "stopped before the end of the first epoch"
    if why := reader.scalars(folder / "failure.json").get("error"):
        return "stopped", f"{stopped}: {why}"
    silent = reader.now - reader.newest(folder)
    slowest = max((row.get("seconds", 0.0) for row in history), default=600.0)
    if silent < 60 + 3 * config.evaluate_every * slowest:
        return "going", f"going, {so_far}"
    return "stopped", f"{stopped}, silent for {_duration(silent)}; continue it with --resume"


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"


def _stream(name: str, folder: Path, reader: Reader) -> Stream | None:
    config = reader.config(folder / "task1")
    if config is None:
        return None
    summary = reader.object(folder / "summary.json")
    try:
        matrix = AccuracyMatrix(summary.get("matrix", []))
    except (TypeError, ValueError) as error:
        reader.note(f"{folder / 'summary.json'} has no matrix of accuracies: {error}")
        matrix = AccuracyMatrix()
    done = len(matrix)
    status = f"{done} {'task' if done == 1 else 'tasks'} learned"
    if _is_run(task := folder / f"task{done + 1}") and (its := reader.config(task)):
        found = reader.scalars(task / "summary.json")
        state = _state(task, its, reader.metrics(task), found, reader)[1]
        status += f"; task {done + 1} {state}"
    weights = []
    while len(weights) < done and (counts := reader.weights(folder / f"task{len(weights) + 1}/posterior.safetensors")):
        weights.append(counts)
    curves = [line for line in reader.lines(folder / "curves.jsonl") if _is_curve(line)]
    environment = reader.scalars(folder / "task1/environment.json")
    return Stream(name, config, status, matrix, summary, curves, environment, weights)


def _is_curve(line: dict[str, Any]) -> bool:
    task, accuracies = line.get("task"), line.get("accuracies")
    return isinstance(task, int) and isinstance(accuracies, list) and len(accuracies) == task


def _trust(folder: Path, reader: Reader) -> list[dict[str, Any]]:
    rows = reader.object(folder / "trust.json").get("rows")
    wanted = {"rule", "kind", "networks", "bytes", "figures"}
    return [row for row in rows if isinstance(row, dict) and wanted <= row.keys()] if isinstance(rows, list) else []
