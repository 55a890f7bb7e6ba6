"""The command for published tables and figures, as a dataclass for tyro: reproduce."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from bitbayes.errors import nearest
from bitbayes.lab.choices import Overrides, TableChoice
from bitbayes.lab.cli.shared import Name, options_of, placed

_RUNS = ("epochs", "data", "out", "device", "precision", "jobs", "seeds", "rules", "dataset")
_DEFAULTS = {"budget": "quick"}


@dataclass(kw_only=True)
class Reproduce:
    """Reproduces a published table or figure; can be interrupted and continued.

    Args:
        target: table2, table10 (BayesBiNN); vispa-table1 to 5, vispa-figure1; small, trust, default (ours); moons,
            snelson; curves, histogram.
        unlike_data: Folder or hub id of Fashion-MNIST, for trust.
        runs: Finished runs, for curves and histogram.
        published: JSON file with the published curves.
    """

    target: Name
    choice: Annotated[TableChoice, options_of(TableChoice, "dataset", "seeds", "rules", "jobs")]
    unlike_data: str | None = None
    runs: tuple[str, ...] = ()
    published: str | None = None
    given: Annotated[
        Overrides,
        options_of(
            Overrides,
            *("device", "precision", "capture", "protocol"),
            defaults=_DEFAULTS,
            budget="quick (the recipe's short schedule, 3 seeds) or paper (the published one, 5 seeds).",
            epochs="Length of the schedule, if not the budget's.",
            data="Folder or hub id of the data.",
            out="Folder of the runs and of the table; runs/TARGET-... by default.",
        ),
    ]

    def run(self) -> None:
        """Train what is missing, print a table and write the files."""
        from bitbayes.lab.studies.tables import TABLES

        targets = dict.fromkeys(TABLES, Target(_table, ("budget", "protocol", "capture", *_RUNS))) | _OTHERS
        if self.target not in targets:
            raise nearest("table or figure", self.target, targets)
        target = targets[self.target]
        for name in self._set():
            if name not in target.options:
                takes = ", ".join(map(_flag, target.options))
                raise ValueError(f"{self.target} takes no {_flag(name)}; it takes: {takes}")
        target.make(self)

    def _set(self) -> list[str]:
        """Return the options that the user has set."""
        usual = {"unlike_data": None, "runs": (), "published": None}
        usual |= vars(TableChoice()) | vars(Overrides()) | _DEFAULTS | {"device": "auto"}
        values = {**vars(self), **vars(self.choice), **vars(self.given)}
        return [name for name, value in usual.items() if values[name] != value]


@dataclass(frozen=True)
class Target:
    """A table or a figure: the function that makes it, and the options that it takes of the command."""

    make: Callable[[Reproduce], None]
    options: tuple[str, ...]


def _flag(option: str) -> str:
    return f"--{option.replace('_', '-')}"


def _table(command: Reproduce) -> None:
    from bitbayes.lab.recipes import find_recipe
    from bitbayes.lab.report.results import results_table, write_results
    from bitbayes.lab.report.tables import show
    from bitbayes.lab.studies.tables import TABLES, run_table

    name, choice = command.target, command.choice
    rows, folder = run_table(name, choice, placed(command.given))
    recipe = find_recipe(choice.dataset or TABLES[name].recipe)
    results, text = write_results(name, recipe, rows, folder)
    show(results_table(name, recipe, rows), f"written: {results}, {text}")


def _trust(command: Reproduce) -> None:
    from bitbayes.lab.report.figures import trust_figure
    from bitbayes.lab.report.tables import show, trust_table
    from bitbayes.lab.studies.trust import trust_study

    study = trust_study(command.choice, placed(command.given), unlike_data=command.unlike_data)
    picture = trust_figure(study, study.folder / "trust.png")
    show(trust_table(study), f"written: {study.folder / 'trust.json'}, {picture}")


def _moons(command: Reproduce) -> None:
    from bitbayes.lab.report.figures import moons_figure
    from bitbayes.lab.report.tables import show
    from bitbayes.lab.report.toys import moons_table
    from bitbayes.lab.studies.toys import moons_study

    out = command.given.out or "runs/moons"
    study = moons_study(out, epochs=command.given.epochs)
    picture = moons_figure(study, Path(out, "moons.png"))
    show(moons_table(study.figures), f"written: {out}/results.json, {picture}")


def _snelson(command: Reproduce) -> None:
    from bitbayes.lab.report.figures import snelson_figure
    from bitbayes.lab.report.tables import show
    from bitbayes.lab.report.toys import snelson_table
    from bitbayes.lab.studies.toys import snelson_study

    given, splits = command.given, command.choice.seeds
    out = given.out or "runs/snelson"
    study = snelson_study(out, data=given.data, splits=5 if splits is None else splits, epochs=given.epochs)
    picture = snelson_figure(study, Path(out, "snelson.png"))
    show(snelson_table(study.figures), f"written: {out}/results.json, {picture}")


def _curves(command: Reproduce) -> None:
    from bitbayes.lab.report.figures import curves_figure
    from bitbayes.lab.report.tables import show
    from bitbayes.lab.train import EpochRow, RunError

    runs = {}
    for folder in _run_folders(command.runs):
        path = folder / "metrics.jsonl"
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
            runs[folder.name] = [EpochRow.from_dict(json.loads(line)) for line in lines]
        except (OSError, ValueError) as error:
            raise RunError(f"cannot read {path}: {error}") from error
    out = Path(command.given.out or "runs", "curves.png")
    picture = curves_figure(runs, out, published=command.published, dataset=command.choice.dataset or "mnist")
    show(f"written: {picture}")


def _histogram(command: Reproduce) -> None:
    from bitbayes.lab.report.figures import histogram_figure
    from bitbayes.lab.report.tables import show
    from bitbayes.posterior import load_posterior

    folders = _run_folders(command.runs)
    posteriors = {folder.name: load_posterior(folder / "posterior.safetensors") for folder in folders}
    show(f"written: {histogram_figure(posteriors, Path(command.given.out or 'runs', 'histogram.png'))}")


def _run_folders(names: Sequence[str]) -> list[Path]:
    from bitbayes.lab.train import RunConfig

    if not names:
        raise ValueError("name finished runs: --runs runs/A runs/B")
    for name in names:
        RunConfig.load(name)
    return [Path(name) for name in names]


_OTHERS = {
    "trust": Target(_trust, ("unlike_data", *_RUNS)),
    "moons": Target(_moons, ("epochs", "out")),
    "snelson": Target(_snelson, ("data", "epochs", "out", "seeds")),
    "curves": Target(_curves, ("runs", "published", "dataset", "out")),
    "histogram": Target(_histogram, ("runs", "out")),
}
