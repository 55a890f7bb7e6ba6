"""Records of what lies in the folders of runs. A missing or damaged file becomes one line of text and is left out."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeGuard, TypeVar

from bitbayes.lab.continual import AccuracyMatrix
from bitbayes.lab.studies.trust import TrustRow
from bitbayes.lab.train import RunConfig
from bitbayes.lab.train.folder import COUNT, one_line, set_aside_from
from bitbayes.lab.train.measure import histogram
from bitbayes.lab.train.members import member_folder
from bitbayes.lab.train.records import Spread, parsed
from bitbayes.posterior import load_posterior

BINS = 50
"""Equal parts of [0, 1] in the histogram of a posterior."""

_LARGEST = 3e38  # of float32

State = Literal["finished", "going", "stopped"]
T = TypeVar("T")


@dataclass(frozen=True)
class RunRecord:
    """One run, finished or not.

    The contents of files are numbers and texts as they were found: entries may be missing.

    Args:
        name: The folder's name, with as many parents as tell it from the others.
        config: Its record.
        state: "finished" (summary.json is there); "stopped", if there is a failure.json, or nothing was written for
            long; else "going".
        status: The state in a few words.
        history: Lines of metrics.jsonl, numbers only.
        summary: Content of summary.json; empty for a run that is not finished.
        evaluation: Content of evaluation.json.
        environment: Content of environment.json.
        weights: Percent of the weights in `BINS` equal parts of P[w = +1]; empty without a posterior.
        beliefs: Histograms after some of the epochs, in fewer parts.
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
        """Return the newest value of a metric, or None."""
        return next((row[key] for row in reversed(self.history) if key in row), None)


@dataclass(frozen=True)
class StreamRecord:
    """One stream of tasks, finished or not.

    Args:
        name: As for a run.
        config: Record of the first task.
        status: How far the stream is.
        matrix: Accuracy on every task after every task, in percent.
        summary: Content of summary.json; empty before the first task has ended.
        curves: Content of curves.jsonl: accuracy on every task so far after every epoch of the newest of them.
        environment: As for a run, of the first task.
        weights: As for a run, after each task.
    """

    name: str
    config: RunConfig
    status: str
    matrix: AccuracyMatrix
    summary: dict[str, Any]
    curves: list[list[float]]
    environment: dict[str, Any]
    weights: list[list[float]]


@dataclass(frozen=True)
class TrustRecord:
    """Measurements of `bitbayes reproduce trust` in a folder."""

    name: str
    rows: list[TrustRow]


@dataclass(frozen=True)
class Folders:
    """All that was found, in the order in which the folders were named, and a line for everything that was left out.

    An ensemble of independent members is a record of its evaluation, with the settings of the first member and no
    history. Its members are runs.
    """

    runs: list[RunRecord]
    streams: list[StreamRecord]
    trust: list[TrustRecord]
    notes: list[str]
    ensembles: list[RunRecord] = field(default_factory=list)


def read_folders(paths: Sequence[str | Path], now: float | None = None) -> Folders:
    """Read runs and streams of tasks; a folder of runs stands for all runs in it.

    A run that a later start has set aside (NAME.old-1) is not another seed. It is left out with a note where the later
    run is shown, too. So is a float network that was trained first (NAME-pretrained) if it was found in a folder of
    runs, and a run that begins with it is shown: it is the first part of that run's training.

    Args:
        paths: Folders of runs, of streams of tasks, or of several of them.
        now: Seconds since 1970, to tell a run that is going from one that has stopped; None for the clock.

    Raises:
        ValueError: If a folder does not exist, or there is nothing to show.

    Example:
        >>> import tempfile
        >>> read_folders([tempfile.mkdtemp(prefix="none-")])
        Traceback (most recent call last):
        ...
        ValueError: nothing to show: ...none-... is empty
    """
    reader = _Reader(time.time() if now is None else now)
    runs: dict[Path, Path] = {}  # the folder itself, so that none is shown twice, and as it was named
    streams: dict[Path, Path] = {}
    trust: dict[Path, Path] = {}
    ensembles: dict[Path, Path] = {}
    explicit: set[Path] = set()  # named themselves, and not a folder that holds them
    for named in map(Path, paths):
        if not named.exists():
            raise ValueError(f"{named} does not exist")
        alone = _is_run(named) or _is_stream(named)
        if alone:
            explicit.add(named.resolve())
        for folder in [named] if alone else reader.inside(named):
            (streams if _is_stream(folder) else runs).setdefault(folder.resolve(), folder)
        if (named / "trust.json").is_file():
            trust.setdefault(named.resolve(), named)
        if (named / COUNT).is_file() and not alone:
            ensembles.setdefault(named.resolve(), named)
    for path in reader.superseded([*runs, *streams]):
        runs.pop(path, None)
        streams.pop(path, None)
    for path in reader.trained_first(runs, explicit):
        del runs[path]
    names = short_names([*runs, *streams, *trust, *ensembles])
    folders = Folders(
        [run for path, folder in runs.items() if (run := reader.run(names[path], folder))],
        [stream for path, folder in streams.items() if (stream := reader.stream(names[path], folder))],
        [TrustRecord(names[path], rows) for path, folder in trust.items() if (rows := reader.trust(folder))],
        reader.notes,
        [one for path, folder in ensembles.items() if (one := reader.ensemble(names[path], folder))],
    )
    if not folders.runs and not folders.streams:
        raise ValueError(f"nothing to show: {'; '.join(reader.notes) or 'no folder was named'}")
    return folders


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a value of a JSON file is a number that charts can show, which have float32."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST


def _is_run(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def _is_stream(folder: Path) -> bool:
    return not _is_run(folder) and _is_run(folder / "task1")


def _folders(place: Path) -> list[Path]:
    """Return the folders in a place, none if it cannot be read."""
    with contextlib.suppress(OSError):
        return [each for each in place.iterdir() if each.is_dir()]
    return []


def short_names(folders: Sequence[Path]) -> dict[Path, str]:
    """Return the shortest ends of paths that differ, by path.

    Example:
        >>> list(short_names([Path("ste/seed0"), Path("bop/seed0"), Path("runs/vispa")]).values())
        ['ste/seed0', 'bop/seed0', 'vispa']
    """
    names: dict[Path, str] = {}
    for folder in folders:
        ends, others = (folder.parts[-i:] for i in range(1, len(folder.parts))), {*folders} - {folder}
        alone = (end for end in ends if all(other.parts[-len(end) :] != end for other in others))
        names[folder] = "/".join(next(alone, folder.parts))
    return names


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _trust_row(row: Mapping[str, Any]) -> TrustRow | None:
    """A row of trust.json without the figures that are damaged; None if it is none."""
    raw, size = row.get("figures"), row.get("bytes")
    if not {"rule", "kind", "networks"} <= row.keys() or not isinstance(raw, Mapping) or not is_number(size):
        return None
    lists = {name: found.get("values") for name, found in raw.items() if isinstance(found, Mapping)}
    values = {name: list(filter(is_number, found)) for name, found in lists.items() if isinstance(found, list)}
    figures = {name: Spread.of(found) for name, found in values.items() if found}
    return TrustRow(str(row["rule"]), str(row["kind"]), row["networks"], int(size), figures)


def _object_in(path: Path) -> dict[str, Any]:
    found = parsed(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError("it holds no JSON object")
    return found


def _matrix(rows: Any) -> AccuracyMatrix:
    if not all(is_number(value) for row in rows for value in row):
        raise ValueError("it holds values that are no numbers")
    return AccuracyMatrix(rows)


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"


@dataclass
class _Reader:
    """Reads folders, some of which are being written or damaged, and notes what it could not read."""

    now: float
    notes: list[str] = field(default_factory=list)

    def _note(self, line: str) -> None:
        if line not in self.notes:
            self.notes.append(line)

    def _tried(self, path: Path, what: str, read: Callable[[], T]) -> T | None:
        """Return what was read; of a damaged file None, after a note with its path, which some errors name."""
        try:
            return read()
        except (ValueError, TypeError, AttributeError, KeyError, OSError, RuntimeError, OverflowError) as error:
            line = " ".join(str(error).split())
            self._note(line if str(path) in line else f"{path} {what}: {one_line(error)}")
            return None

    def inside(self, folder: Path) -> list[Path]:
        """Return the runs and streams in a folder that is neither."""
        if not folder.is_dir():
            if folder.name not in (COUNT, "evaluation.json"):  # which lie beside the members of an ensemble
                self._note(f"{folder} is a file, not the folder of a run")
            return []
        try:
            children = sorted(folder.iterdir())
        except OSError as error:
            self._note(f"{folder} cannot be read: {error.strerror}")
            return []
        found = [child for child in children if _is_run(child) or _is_stream(child)]
        if deeper := [str(child) for child in children if child not in found and any(map(_is_run, _folders(child)))]:
            hold, them = ("holds", "it") if len(deeper) == 1 else ("hold", "them")
            self._note(f"{_some(deeper)} {hold} runs; name {them} to see these")
        elif not found:
            self._note(
                f"{folder} is not the folder of a run: it has no config.json" if children else f"{folder} is empty"
            )
        return found

    def superseded(self, folders: Sequence[Path]) -> list[Path]:
        """Return the runs that a later start of the same run has set aside, after a note, if the later one is here."""
        by_origin: dict[Path, list[tuple[float, Path]]] = {}
        for folder in folders:
            origin, number = set_aside_from(folder) or (folder, math.inf)
            by_origin.setdefault(origin, []).append((number, folder))
        older = [folder for found in by_origin.values() for _, folder in sorted(found)[:-1]]
        if older:
            names = _some([folder.name for folder in older])
            self._note(f"{names}: set aside by a later start of the same run; to see it, name it without the later one")
        return older

    def trained_first(self, folders: Mapping[Path, Path], explicit: Set[Path]) -> list[Path]:
        """Return the float networks that were trained first for other runs here and are not explicit, after a note.

        A run records where its float network is. The folder lies beside the run, also after both have moved.
        """
        configs = {path: self._config(folder) for path, folder in folders.items()}
        begun = {
            path.parent / Path(config.pretrained).name
            for path, config in configs.items()
            if config is not None and config.pretrain_epochs and config.pretrained is not None
        }
        first = [path for path in folders if path in begun - explicit]
        if first:
            names = _some([path.name for path in first])
            self._note(f"{names}: trained first for other runs, which begin there; to see it, name its own folder")
        return first

    def run(self, name: str, folder: Path) -> RunRecord | None:
        """Read a run; without a record of its settings there is nothing to show."""
        if (config := self._config(folder)) is None:
            return None
        lines = self._lines(folder / "metrics.jsonl")
        history = _history(lines)
        summary = self._scalars(folder / "summary.json")
        state, status = self._state(folder, config, history, summary)
        summary = summary if state == "finished" else {}  # else of an earlier, shorter part of the run
        evaluation, environment = self._object(folder / "evaluation.json"), self._scalars(folder / "environment.json")
        weights, beliefs = self._weights(folder / "posterior.safetensors"), _beliefs(lines)
        return RunRecord(name, config, state, status, history, summary, evaluation, environment, weights, beliefs)

    def ensemble(self, name: str, folder: Path) -> RunRecord | None:
        """Read the evaluation of all members of an ensemble together; None if there is none."""
        member = Path(member_folder(folder, 1))
        evaluation = self._object(folder / "evaluation.json")
        if not evaluation or (config := self._config(member)) is None:
            return None
        environment = self._scalars(member / "environment.json")
        return RunRecord(name, config, "finished", "", [], evaluation=evaluation, environment=environment)

    def stream(self, name: str, folder: Path) -> StreamRecord | None:
        """Read a stream of tasks, which may be going."""
        if (config := self._config(folder / "task1")) is None:
            return None
        summary = self._object(folder / "summary.json")
        path, rows = folder / "summary.json", summary.get("matrix", [])
        matrix = self._tried(path, "has no matrix of accuracies", lambda: _matrix(rows)) or AccuracyMatrix()
        done = len(matrix)
        status = f"{done} task{'' if done == 1 else 's'} learned"
        task = folder / f"task{done + 1}"
        if _is_run(task) and (its := self._config(task)):
            history = _history(self._lines(task / "metrics.jsonl"))
            status += f"; task {done + 1} {self._state(task, its, history, self._scalars(task / 'summary.json'))[1]}"
        each = (self._weights(folder / f"task{i + 1}/posterior.safetensors") for i in range(done))
        weights = list(itertools.takewhile(bool, each))
        environment = self._scalars(folder / "task1/environment.json")
        curves = curve_rows(self._lines(folder / "curves.jsonl"))
        return StreamRecord(name, config, status, matrix, summary, curves, environment, weights)

    def trust(self, folder: Path) -> list[TrustRow]:
        """Read trust.json; rows that are damaged are left out."""
        rows = self._object(folder / "trust.json").get("rows")
        every = (_trust_row(row) for row in rows if isinstance(row, dict)) if isinstance(rows, list) else ()
        return [row for row in every if row is not None]

    def _state(
        self, folder: Path, config: RunConfig, history: list[dict[str, float]], summary: dict[str, Any]
    ) -> tuple[State, str]:
        """A run that fails leaves a line; one that is killed cannot, and is told by how long it has been silent."""
        epoch = int(history[-1]["epoch"]) if history else 0
        if summary.get("epochs_done") == config.last_epoch:
            return "finished", f"finished, {config.last_epoch} epochs"
        so_far = f"{epoch} of {config.last_epoch} epochs" if epoch else "no epoch finished"
        stopped = f"stopped after {so_far}" if epoch else "stopped before the end of the first epoch"
        if why := self._scalars(folder / "failure.json").get("error"):
            return "stopped", f"{stopped}: {why}"
        files = (folder / "config.json", folder / "metrics.jsonl")
        silent = self.now - max((path.stat().st_mtime for path in files if path.is_file()), default=0.0)
        slowest = max((row.get("seconds", 0.0) for row in history), default=600.0)
        if silent < 60 + 3 * config.evaluate_every * slowest:
            return "going", f"in progress, {so_far}"
        return "stopped", f"{stopped}, silent for {_duration(silent)}; continue it with --resume"

    def _config(self, folder: Path) -> RunConfig | None:
        return self._tried(folder / "config.json", "is not a record of a run", lambda: RunConfig.load(folder))

    def _object(self, path: Path) -> dict[str, Any]:
        """A JSON object; empty if there is no file, or after a note."""
        return (self._tried(path, "is damaged", lambda: _object_in(path)) if path.is_file() else None) or {}

    def _scalars(self, path: Path) -> dict[str, Any]:
        """The numbers and texts of a JSON object."""
        return {key: value for key, value in self._object(path).items() if isinstance(value, str) or is_number(value)}

    def _lines(self, path: Path) -> list[dict[str, Any]]:
        """The JSON objects of a file of lines; a last line that is still being written is left out without a note."""
        if not path.is_file():
            return []
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            self._note(f"{path} cannot be read: {error.strerror}")
            return []
        found, damaged = [], []
        for number, line in enumerate(text.splitlines(keepends=True), 1):
            try:
                row = parsed(line)
            except ValueError:
                row = None
            if isinstance(row, dict):
                found.append(row)
            elif line.endswith("\n"):
                damaged.append(str(number))
        if damaged:
            shown = ", ".join(damaged[:5]) + (", ..." if len(damaged) > 5 else "")
            lines, are = ("lines", "are") if len(damaged) > 1 else ("line", "is")
            self._note(f"{path}: {lines} {shown} cannot be read and {are} left out")
        return found

    def _weights(self, path: Path) -> list[float]:
        """The histogram of a posterior; empty if there is no such file, or after a note."""
        if not path.is_file():
            return []
        percent = self._tried(path, "is damaged", lambda: histogram(load_posterior(path), BINS)) or []
        if not all(map(math.isfinite, percent)):  # of none
            self._note(f"{path} holds no weights")
            return []
        return percent


def curve_rows(lines: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """Return the accuracies of the sound lines of curves.jsonl: those with one for each of their tasks."""
    pairs = [(line.get("task"), line.get("accuracies")) for line in lines]
    return [row for task, row in pairs if isinstance(row, list) and len(row) == task and all(map(is_number, row))]


def _history(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """The numbers of the lines of metrics.jsonl that have an epoch."""
    rows = [{key: value for key, value in line.items() if is_number(value)} for line in lines]
    return [row for row in rows if "epoch" in row]


def _beliefs(lines: Sequence[Mapping[str, Any]]) -> list[tuple[float, list[float]]]:
    """The histograms in metrics.jsonl by epoch: percent of the weights in 10 or more equal parts of P[w = +1]."""
    pairs = [(line.get("epoch"), line.get("probabilities")) for line in lines]
    sound = [(float(at), x) for at, x in pairs if isinstance(at, int) and isinstance(x, list) and len(x) >= 10]
    return [(epoch, shares) for epoch, shares in sound if all(map(is_number, shares)) and sum(shares) > 0]
