"""What `bitbayes reproduce` can make."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitbayes.errors import nearest
from bitbayes.lab.recipes import find_recipe
from bitbayes.lab.report.figures import curves_figure, histogram_figure, moons_figure, snelson_figure, trust_figure
from bitbayes.lab.report.results import results_table, write_results
from bitbayes.lab.report.tables import show, trust_table
from bitbayes.lab.report.toys import moons_table, snelson_table
from bitbayes.lab.studies.tables import TABLES, run_table
from bitbayes.lab.studies.toys import moons_study, snelson_study
from bitbayes.lab.studies.trust import trust_study
from bitbayes.lab.train import EpochRow, RunConfig, RunError
from bitbayes.posterior import load_posterior

__all__ = ["TARGETS", "reproduce"]


@dataclass(frozen=True)
class Target:
    """A table or a figure.

    Args:
        make: Called with its name and its options.
        options: What it takes of the command line.
    """

    make: Callable[[str, dict[str, Any]], None]
    options: tuple[str, ...]


def reproduce(target: str, given: Collection[str] = (), **choices: Any) -> None:
    """Trains what is missing, prints a table and writes the files.

    Args:
        target: Name in `TARGETS`.
        given: Options that the user has set.
        **choices: All options of the command line.

    Raises:
        ValueError: If there is no such target, or it does not take what was given.
    """
    if target not in TARGETS:
        raise nearest("table or figure", target, TARGETS)
    options = TARGETS[target].options
    for name in given:
        if name not in options:
            takes = ", ".join(_flag(option) for option in options)
            raise ValueError(f"{target} takes no {_flag(name)}; it takes: {takes}")
    TARGETS[target].make(target, {name: choices[name] for name in options})


def _flag(option: str) -> str:
    return f"--{option.replace('_', '-')}"


def _table(target: str, choices: dict[str, Any]) -> None:
    rows, folder = run_table(target, **choices)
    recipe = find_recipe(choices["dataset"] or TABLES[target].recipe)
    results, text = write_results(target, recipe, rows, folder)
    show(results_table(target, recipe, rows), f"written: {results}, {text}")


def _trust(target: str, choices: dict[str, Any]) -> None:
    study = trust_study(**choices)
    picture = trust_figure(study, study.folder / "trust.png")
    show(trust_table(study), f"written: {study.folder / 'trust.json'}, {picture}")


def _moons(target: str, choices: dict[str, Any]) -> None:
    out = choices["out"] or "runs/moons"
    study = moons_study(out, epochs=choices["epochs"])
    picture = moons_figure(study, Path(out, "moons.png"))
    show(moons_table(study.figures), f"written: {out}/results.json, {picture}")


def _snelson(target: str, choices: dict[str, Any]) -> None:
    out = choices["out"] or "runs/snelson"
    study = snelson_study(
        out, data=choices["data"], splits=5 if choices["seeds"] is None else choices["seeds"], epochs=choices["epochs"]
    )
    picture = snelson_figure(study, Path(out, "snelson.png"))
    show(snelson_table(study.figures), f"written: {out}/results.json, {picture}")


def _curves(target: str, choices: dict[str, Any]) -> None:
    runs: dict[str, list[EpochRow]] = {}
    for folder in _run_folders(choices["runs"]):
        path = folder / "metrics.jsonl"
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
            rows = [EpochRow.from_dict(json.loads(line)) for line in lines]
        except (OSError, ValueError) as error:
            raise RunError(f"cannot read {path}: {error}") from error
        runs[folder.name] = rows
    out = Path(choices["out"] or "runs", "curves.png")
    picture = curves_figure(runs, out, published=choices["published"], dataset=choices["dataset"] or "mnist")
    show(f"written: {picture}")


def _histogram(target: str, choices: dict[str, Any]) -> None:
    posteriors = {
        folder.name: load_posterior(folder / "posterior.safetensors") for folder in _run_folders(choices["runs"])
    }
    out = Path(choices["out"] or "runs", "histogram.png")
    show(f"written: {histogram_figure(posteriors, out)}")


def _run_folders(names: Sequence[str]) -> list[Path]:
    if not names:
        raise ValueError("name finished runs: --runs runs/A runs/B")
    for name in names:
        RunConfig.load(name)
    return [Path(name) for name in names]


_RUNS = ("epochs", "data", "out", "device", "precision", "jobs", "seeds", "rules", "dataset")

TARGETS: dict[str, Target] = {
    **dict.fromkeys(TABLES, Target(_table, ("budget", "protocol", "capture", *_RUNS))),
    "trust": Target(_trust, ("unlike_data", *_RUNS)),
    "moons": Target(_moons, ("epochs", "out")),
    "snelson": Target(_snelson, ("data", "epochs", "out", "seeds")),
    "curves": Target(_curves, ("runs", "published", "dataset", "out")),
    "histogram": Target(_histogram, ("runs", "out")),
}
"""What `bitbayes reproduce` makes, by name."""
