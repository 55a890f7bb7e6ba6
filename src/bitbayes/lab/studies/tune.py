"""A search for the settings of a rule, judged on validation data alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bitbayes.errors import require
from bitbayes.lab.choices import Overrides
from bitbayes.lab.data import DataBundle
from bitbayes.lab.recipes import find_recipe, full_name, make_config, make_experiment, run_recipe
from bitbayes.lab.recipes.configure import load_data
from bitbayes.lab.studies.several import finished
from bitbayes.lab.train import Progress, RunConfig, RunError, RunFolder
from bitbayes.lab.train.experiment import resolved

Ranges = dict[str, tuple[float, float]]

_FREE = ("out", "data", "device", "stop_after")  # what a search may go on with another of
_WIDE = 10.0  # the recipe's own value, divided and multiplied by it, where no range is given
_RANGE = re.compile(r"(\w+)=([^:=]+):([^:=]+)")


def parse_ranges(words: Sequence[str]) -> Ranges:
    """Return (low, high) by name from NAME=LOW:HIGH words.

    Raises:
        ValueError: If a word is not of that form, or not 0 < low < high.

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
            raise ValueError(f"a range is NAME=LOW:HIGH, such as lr=1e-4:1e-2; got {word!r}") from None
        if not 0 < low < high < float("inf"):
            raise ValueError(f"the range of {name} must satisfy 0 < low < high, got {low:g} and {high:g}")
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

    Numbers are searched on a logarithmic scale. The same call continues a search that was interrupted, also within a
    trial, until there are as many trials as it asks for.

    Args:
        recipe: Name of the recipe; its data must have classes and a validation part.
        rule: Name of the rule.
        given: Choices for every run. Its `seed` is also that of the search; its `out` is the folder of the trials,
            runs/tune-RECIPE-RULE[-ESTIMATOR] by default.
        trials: Number of trials, with those that are there already.
        ranges: (low, high) of `lr` and of options of the rule; None for a factor of ten both ways around the recipe's
            `lr` and, where it has one, `ess_scale`.
        progress: Display of each run.
        note: Told of each trial.

    Returns:
        The trials, best first: folder within `out`, settings, and accuracy (validation, percent; None if the run
        failed). The same is written to tune.json.

    Raises:
        ValueError: For names or ranges that do not make sense, or data without validation part.
    """
    if trials < 1:
        raise ValueError(f"trials must be at least 1, got {trials}")
    optuna = require("optuna", "tune")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    given = given or Overrides()
    base = make_config(recipe, rule, given)
    full = full_name(find_recipe(recipe), rule, given.estimator)
    folder = Path(given.out or f"runs/tune-{recipe}-{full.slug}")
    data = load_data(base)
    if data.validation is None or not find_recipe(recipe).loss.classifies:
        raise ValueError(f"{recipe} cannot be tuned: that takes classes and validation data")
    own = _own(base, data)
    searched = dict(ranges or _around(base, own))
    study = _study(optuna, folder, searched, base, own)
    while len(done := _ended(study)) < trials:
        trial = study.ask()
        values = {name: trial.suggest_float(name, *limits, log=True) for name, limits in searched.items()}
        place = trial.user_attrs.get("place", f"trial{trial.number}")
        trial.set_user_attr("place", place)
        shown = ", ".join(f"{name} {value:.3g}" for name, value in values.items())
        note(f"trial {len(done) + 1} of {trials}, in {folder / place}: {shown}")
        lr = values.pop("lr", base.spec.lr)
        config = base.changed(lr=lr, options={**base.spec.options, **values}, out=str(folder / place))
        try:
            study.tell(trial, _accuracy(config, data, progress))
        except RunError as error:  # such as a loss that is not finite
            note(f"failed: {error}")
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
    rows = [
        {"folder": trial.user_attrs["place"], "settings": trial.params, "accuracy": trial.value}
        for trial in _ended(study)
    ]
    rows.sort(key=lambda row: (row["accuracy"] is None, -(row["accuracy"] or 0)))
    RunFolder(folder).write_json("tune.json", {"recipe": recipe, "rule": str(full), "trials": rows})
    return rows


def _around(base: RunConfig, own: Mapping[str, Any]) -> Ranges:
    values = {name: own[name] for name in ("lr", "ess_scale") if name in own}
    if base.estimator == "released":  # at tiny τ only signs are left, which no `ess` changes
        values.pop("ess_scale", None)
    return {name: (value / _WIDE, value * _WIDE) for name, value in values.items()}


def _own(base: RunConfig, data: DataBundle) -> dict[str, Any]:
    """Return the settings of the run without a search: those of the recipe, and for the rest the rule's defaults."""
    optimizer = make_experiment(base, data).optimizer
    group = {} if optimizer is None else optimizer.param_groups[0]
    numbers = {name: value for name, value in group.items() if isinstance(value, (int, float))}
    return {**numbers, "lr": resolved(base, len(data.train)).lr, **base.spec.options}


def _study(optuna: Any, folder: Path, searched: Ranges, base: RunConfig, own: Mapping[str, Any]) -> Any:
    """The study in a folder; a new one begins with its own settings, an old one with what was interrupted."""
    folder.mkdir(parents=True, exist_ok=True)
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / "study.log")))
    study = optuna.create_study(study_name="tune", storage=storage, direction="maximize", load_if_exists=True)
    trials = study.trials
    study.sampler = optuna.samplers.TPESampler(seed=base.seed + len(trials))  # which a later start must not repeat
    about = {name: value for name, value in json.loads(base.to_json()).items() if name not in _FREE}
    about["ranges"] = {name: list(limits) for name, limits in searched.items()}
    before = study.user_attrs.get("about", about)
    different = sorted(name for name in about if before.get(name) != about[name])
    if different:
        raise ValueError(f"{folder} holds a search with another {', '.join(different)}; choose another --out")
    if not trials:
        study.set_user_attr("about", about)
        study.enqueue_trial({name: own[name] for name in searched if name in own})
    for trial in trials:
        if trial.state == optuna.trial.TrialState.RUNNING:
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            if "place" in trial.user_attrs:
                study.enqueue_trial(trial.params, user_attrs={"place": trial.user_attrs["place"]})
    return study


def _ended(study: Any) -> list[Any]:
    """Trials that have ended by themselves: those that were interrupted have a successor in the same folder."""
    last = {trial.user_attrs["place"]: trial for trial in study.trials if "place" in trial.user_attrs}
    return [trial for trial in last.values() if trial.state.is_finished()]


def _accuracy(config: RunConfig, data: DataBundle, progress: Progress | None) -> float:
    summary = finished(config) or run_recipe(config, resume=True, data=data, progress=progress).summary
    Path(config.out, "checkpoint.pt").unlink(missing_ok=True)  # the belief is kept, what a further epoch needs is not
    assert summary is not None and summary.val_accuracy is not None
    return summary.val_accuracy
