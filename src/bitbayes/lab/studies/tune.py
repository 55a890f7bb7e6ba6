"""Search for the settings of a rule by validation accuracy, or by validation bits per byte of a text."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bitbayes.errors import require
from bitbayes.lab.choices import Overrides
from bitbayes.lab.data import DataBundle
from bitbayes.lab.recipes import full_name, make_config, make_experiment, open_recipe, run_recipe
from bitbayes.lab.recipes.configure import check_real_lr, pretrained
from bitbayes.lab.studies.several import already_there, data_of_process, diverged, finished
from bitbayes.lab.train import DivergedError, Progress, RunConfig, RunFolder, default_progress
from bitbayes.lab.train.config import with_defaults
from bitbayes.lab.train.experiment import resolved
from bitbayes.lab.train.losses import Metric
from bitbayes.lab.train.progress import OfSeveral
from bitbayes.lab.train.rules import check_options
from bitbayes.noise import stream_key

Ranges = dict[str, tuple[float, float]]

_FREE = ("out", "data", "device", "stop_after", "pretrained")  # settings that may differ when a search continues
RATES = ("lr", "real_lr")  # settings of the run; all other names are options of the rule
_WIDE = 10.0  # default range: the recipe's value divided and multiplied by this factor
_TRIAL_STREAM = 13  # keeps the seeds of proposals apart from those of runs
_RANGE = re.compile(r"(\w+)=([^:=]+):([^:=]+)")


@dataclass(frozen=True)
class Trial:
    """One run of a search, in its own folder.

    Args:
        number: Number of the folder.
        settings: Values of the searched settings by name.
        metric: Figure that is searched for: "accuracy", or "bits" per byte of a text.
        result: Its value on the validation data; None if the run diverged or has not ended.
        ended: Whether the run has ended.
    """

    number: int
    settings: dict[str, float]
    metric: Metric
    result: float | None = None
    ended: bool = False

    @property
    def place(self) -> str:
        """Name of the trial's folder within the folder of the search."""
        return f"trial{self.number}"

    def config(self, base: RunConfig, folder: Path) -> RunConfig:
        """Return the configuration of the run."""
        return _with(base, self.settings).changed(out=str(folder / self.place))

    @property
    def score(self) -> float:
        """The result as a number of which more is better."""
        if self.result is None:
            return -math.inf
        return -self.result if self.metric == "bits" else self.result

    def row(self) -> dict[str, Any]:
        """Return the entry of tune.json."""
        return {"folder": self.place, "settings": self.settings, self.metric: self.result}


def parse_ranges(words: Sequence[str]) -> Ranges:
    """Return (low, high) by name from NAME=LOW:HIGH words.

    Raises:
        ValueError: If a word does not have this form, 0 < low < high does not hold, or a name has two ranges.

    Example:
        >>> parse_ranges(["lr=1e-3:1e-1"])
        {'lr': (0.001, 0.1)}
    """
    ranges: Ranges = {}
    for word in words:
        match = _RANGE.fullmatch(word)
        try:
            name, low, high = match[1], float(match[2]), float(match[3])  # type: ignore[index]
        except (TypeError, ValueError):
            raise ValueError(f"a range has the form NAME=LOW:HIGH, such as lr=1e-4:1e-2; got {word!r}") from None
        if not 0 < low < high < float("inf"):
            raise ValueError(f"the range of {name} must satisfy 0 < low < high, got {low:g} and {high:g}")
        if name in ranges:
            raise ValueError(f"{name} has two ranges; give one")
        ranges[name] = (low, high)
    return ranges


def tune(
    recipe: str,
    rule: str = "bayesbinn",
    given: Overrides | None = None,
    *,
    trials: int,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    progress: Progress | None = None,
    note: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """Train with the recipe's settings, then with others that Optuna proposes (TPE: Bergstra et al., NeurIPS 2011).

    Settings are searched on a logarithmic scale. Proposals are a function of the seed and of the trials so far, which
    are the folders trial0, trial1, ... The same call continues an interrupted search, also within a trial, until there
    are `trials` trials.

    Args:
        recipe: Name of the recipe, whose data must have classes or be text, and have a validation part.
        rule: Name of the rule.
        given: Choices for every run. `seed` is also the seed of the search; `out` is the folder of the trials, by
            default runs/tune-RECIPE-RULE[-ESTIMATOR].
        trials: Number of trials in total, including finished ones.
        ranges: Range (low, high) of `lr`, `real_lr` and options of the rule. None searches within a factor of ten of
            the recipe's `lr` and, if it sets one and `given` does not, `ess_scale`.
        progress: Display of each run.
        note: Function that gets a line about each trial.

    Returns:
        The trials, best first: folder within `out`, settings, and validation "accuracy" in percent or "bits" per byte
        (None if the run diverged). The same rows are written to tune.json after every trial.

    Raises:
        ValueError: If a name or a range is invalid, the data has no validation part, or the folder holds another
            search.
        RunError: If a file cannot be written, or another process is writing into the folder.
    """
    if trials < 1:
        raise ValueError(f"trials must be at least 1, got {trials}")
    optuna = require("optuna", "tune")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    given = given or Overrides()
    found = open_recipe(recipe)
    base = make_config(found, rule, given)
    full = full_name(found, rule, given.estimator)
    folder = Path(given.out or f"runs/tune-{found.name}-{full.slug}")
    data, metric = data_of_process(base), found.loss.metric
    if data.validation is None or metric == "error":
        raise ValueError(f"{recipe} cannot be tuned, because tuning needs classes or text, and validation data")
    own = _own(base, data)
    searched = dict(ranges or _around(base, own, set(given.options or ())))
    if "real_lr" in searched:
        check_real_lr(found, base.rule)
    for ends in zip(*searched.values(), strict=True):  # the lower ends of all ranges, and the upper ones
        try:
            _check(base, dict(zip(searched, ends, strict=True)))
        except ValueError as error:
            shown = " ".join(f"{name}={low:g}:{high:g}" for name, (low, high) in searched.items())
            raise ValueError(f"{error}; the search is --search {shown}") from error
    files = RunFolder(folder)
    with files.held():
        files.clean()
        base = pretrained(base, str(folder / "pretrained"), data=data, progress=progress)
        _continue_search(files, base, searched)
        trials_there = [_recorded(folder, number, base, searched, metric) for number in _numbers(folder)]
        ended = [trial for trial in trials_there if trial.ended]
        begun = [trial for trial in trials_there if not trial.ended]  # one trial, unless its folder was changed by hand
        if ended:
            note(already_there(min(len(ended), trials), trials))
        progress = OfSeveral(progress or default_progress(), max(trials - len(ended), 0) * base.last_epoch)
        while True:
            rows = [trial.row() for trial in sorted(ended, key=lambda trial: -trial.score)]
            files.write_json("tune.json", {"recipe": found.name, "rule": str(full), "trials": rows})
            if len(ended) >= trials:
                return rows
            number = max((trial.number for trial in ended), default=-1) + 1
            if begun:
                trial = begun.pop(0)
            else:
                trial = Trial(number, _proposed(optuna, number, ended, searched, base, own), metric)
            shown = ", ".join(f"{name} {value:.3g}" for name, value in trial.settings.items())
            note(f"trial {len(ended) + 1} of {trials}, in {folder / trial.place}: {shown}")
            try:
                result = _trained(trial, trial.config(base, folder), data, progress)
            except DivergedError as error:
                note(f"failed: {error}")
                result = None
            ended.append(replace(trial, result=result, ended=True))


def _with(base: RunConfig, values: Mapping[str, float]) -> RunConfig:
    """Return a configuration with other values of the learning rates and of options of its rule."""
    rates = {name: value for name, value in values.items() if name in RATES}
    return base.changed(**rates, options=base.spec.with_options(_options(values)).options)


def _options(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in RATES}


def _check(base: RunConfig, values: Mapping[str, float]) -> None:
    """Raise ValueError for a searched setting that the rule does not have or use."""
    check_options(base.rule, base.estimator, _with(base, values).spec, _options(values))


def _around(base: RunConfig, own: Mapping[str, Any], fixed: Collection[str]) -> Ranges:
    """Return the ranges of a search that names none, without the settings that are `fixed`."""
    values = {name: own[name] for name in ("lr", "ess_scale") if name in own and name not in fixed}
    if base.estimator == "released":  # at tiny τ, only signs matter, which `ess` does not change
        values.pop("ess_scale", None)
    ranges = {name: (value / _WIDE, value * _WIDE) for name, value in values.items()}
    if base.rule == "bayesbinn":  # whose rate is the share of a step that λ takes
        ranges["lr"] = ranges["lr"][0], min(ranges["lr"][1], 1.0)
    return ranges


def _own(base: RunConfig, data: DataBundle) -> dict[str, Any]:
    """Return the settings without a search: those of the recipe, and the rule's defaults for the rest."""
    optimizer = make_experiment(base, data).optimizer
    group = {} if optimizer is None else optimizer.param_groups[0]
    numbers = {name: value for name, value in group.items() if isinstance(value, (int, float))}
    rates = {"lr": resolved(base, len(data.train)).lr, "real_lr": base.spec.real_lr}
    options = {name: value for name, value in base.spec.options.items() if isinstance(value, (int, float))}
    return {**numbers, **rates, **options}  # an option that is no number, such as "auto", is the optimizer's choice


def _continue_search(files: RunFolder, base: RunConfig, searched: Ranges) -> None:
    """Write search.json, which describes the search; refuse the folder of another search."""
    about = {name: value for name, value in json.loads(base.to_json()).items() if name not in _FREE}
    about = with_defaults(about) | {"ranges": {name: list(limits) for name, limits in searched.items()}}
    before = with_defaults(files.read_json("search.json") if files.has("search.json") else _journal(files) or about)
    different = sorted(name for name in about if before.get(name) != about[name])
    if different:
        raise ValueError(f"{files.path} holds a search with another {', '.join(different)}; choose another --out")
    files.write_json("search.json", about)


def _journal(files: RunFolder) -> dict[str, Any] | None:
    """Return the description that an earlier version wrote into the journal of its study."""
    if not files.has("study.log"):
        return None
    for line in (files.path / "study.log").read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError, TypeError, AttributeError, KeyError):  # a line that a kill has truncated
            return json.loads(line)["user_attr"]["about"]
    return None


def _numbers(folder: Path) -> list[int]:
    """Return the numbers of the trials that have begun, the oldest first."""
    names = (path.parent.name.removeprefix("trial") for path in folder.glob("trial*/config.json"))
    return sorted(int(name) for name in names if name.isdecimal() and name == str(int(name)))


def _recorded(folder: Path, number: int, base: RunConfig, searched: Ranges, metric: Metric) -> Trial:
    """Return a trial that has begun, as read from its folder."""
    spec = RunConfig.load(folder / f"trial{number}").spec
    values = {"lr": spec.lr, "real_lr": spec.real_lr, **spec.options}
    try:
        trial = Trial(number, {name: float(values[name]) for name in searched}, metric)
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{folder / f'trial{number}'} is not a trial of this search; choose another --out") from None
    config = trial.config(base, folder)
    if summary := finished(config):
        return replace(trial, result=getattr(summary, f"val_{metric}"), ended=True)
    return replace(trial, ended=diverged(config))


def _proposed(
    optuna: Any, number: int, before: Sequence[Trial], searched: Ranges, base: RunConfig, own: Mapping[str, Any]
) -> dict[str, float]:
    """Return the settings of the next trial; the first trial has the recipe's own settings."""
    sampler = optuna.samplers.TPESampler(seed=stream_key(base.seed, _TRIAL_STREAM, number) % 2**32)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    limits = {name: optuna.distributions.FloatDistribution(*ends, log=True) for name, ends in searched.items()}
    for trial in before:
        if all(low <= trial.settings[name] <= high for name, (low, high) in searched.items()):  # possibly not the first
            failed = trial.result is None
            value = None if failed else trial.score
            state = optuna.trial.TrialState.FAIL if failed else optuna.trial.TrialState.COMPLETE
            how = {"params": trial.settings, "distributions": limits, "value": value, "state": state}
            study.add_trial(optuna.trial.create_trial(**how))
    drawn = study.ask(limits).params
    return {name: float(own[name]) if number == 0 and name in own else drawn[name] for name in searched}


def _trained(trial: Trial, config: RunConfig, data: DataBundle, progress: Progress | None) -> float:
    """Train a trial unless it has ended, and return its result."""
    summary = finished(config) or run_recipe(config, resume=True, data=data, progress=progress).summary
    Path(config.out, "checkpoint.pt").unlink(missing_ok=True)  # keep the result, not what a further epoch needs
    assert summary is not None  # that only further processes lack
    return getattr(summary, f"val_{trial.metric}")
