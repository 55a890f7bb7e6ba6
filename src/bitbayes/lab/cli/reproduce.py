"""The commands that present results, as dataclasses for tyro: reproduce, report."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, get_args

from bitbayes.errors import nearest, require
from bitbayes.lab.choices import Overrides, TableChoice, Way
from bitbayes.lab.cli.output import show
from bitbayes.lab.cli.shared import CONTINUES, Command, Name, Names, Output, check_output, options_of, placed, tyro

_RUNS = ("epochs", "data", "out", "device", "precision", "jobs", "seeds", "rules", "dataset")
_DEFAULTS = {"budget": "quick"}
_DATASET = (
    "Recipe to train; for truth, a problem: moons, snelson, digits or breast-cancer; or moons-sizes, whose first layer "
    "has weights of random sizes, or moons-learned or snelson-learned, which learn these sizes. The default is the "
    "recipe of the published table, or all problems."
)


def _targets() -> str:
    """Return the targets of `reproduce` as a help text."""
    try:
        from bitbayes.lab.studies.tables import TABLES
    except ImportError:  # packed networks run where torch is not installed
        return "A table or a figure."
    figures = ", ".join(name for name in _OTHERS if name not in TABLES)
    return f"A table ({', '.join(TABLES)}) or a figure ({figures})."


@dataclass(kw_only=True)
class Reproduce(Command):
    """Reproduce a published table or figure.

    Args:
        members: Number of members of an ensemble, and of cycles, for the target members.
        ways: Ways to train, for the target members: single (one run), members (runs that share its epochs) and cycles.
        networks: Number of posterior samples, or of dropout masks, that a mean averages over after equally long
            training, for the target members. At equal bytes, as many samples are drawn as fit.
        trials: Number of learning rates that are tried for every rule in every way, for the target members. Three or
            more go on beyond a best rate at the edge. In a folder with a search, 1 stands for its number.
        unlike: Recipe whose test inputs serve as out-of-distribution data, for the target members, or letters: printed
            letters of the size of MNIST's digits. Grey images smaller than the run's inputs are centred on black.
        unlike_data: Folder or Hugging Face Hub id of the out-of-distribution data, for the targets trust (where it is
            Fashion-MNIST) and members.
        runs: Folders of finished runs, for the targets curves, schedules and histogram.
        published: JSON file with the published curves, for the target curves.
        chains: Number of chains that sample the exact posterior, for the target truth.
        sweeps: Number of sweeps of each chain, for the target truth. The first fifth is dropped.
    """

    again = CONTINUES
    epilog = """
If the command is interrupted, give it again: finished runs are not repeated.

examples:
  bitbayes reproduce moons
  bitbayes reproduce truth --dataset moons-sizes --seeds 3
  bitbayes reproduce truth --dataset snelson --data FOLDER
  bitbayes reproduce table2 --rules ste bayesbinn:default --seeds 3
  bitbayes reproduce members --dataset mnist-narrow --unlike letters
  bitbayes reproduce curves --runs runs/mnist-ste-seed1 runs/mnist-bop-seed1
"""
    target: Annotated[Name, tyro.conf.arg(help=_targets())]
    choice: Annotated[TableChoice, options_of(TableChoice, "seeds", "rules", "jobs", dataset=_DATASET)]
    members: int = 4
    ways: tuple[Way, ...] = get_args(Way)
    networks: int = 32
    trials: int = 1
    unlike: str | None = None
    unlike_data: str | None = None
    runs: tuple[str, ...] = ()
    published: str | None = None
    chains: int = 24
    sweeps: int = 2500
    given: Annotated[
        Overrides,
        options_of(
            Overrides,
            *("device", "precision", "capture", "protocol"),
            defaults=_DEFAULTS,
            budget="Schedule and number of seeds: the recipe's short schedule and 3 seeds (quick), or the published "
            "schedule and 5 seeds (paper).",
            epochs="Number of epochs of the learning-rate schedule. The budget sets the default.",
            data="Folder or Hugging Face Hub id of the data set. The recipe sets the default.",
            seed="Seed of the first run of each rule, for the targets moons and truth. A regression of truth takes the "
            "split of its data with the same number. The default is 0.",
            out="Folder where the runs and TARGET.json are written. The default for a table is "
            "runs/RECIPE-BUDGET[-test], which all tables of a recipe share; for a figure it is runs/TARGET.",
        ),
    ]

    def run(self) -> None:
        """Train what is missing, print a table and write the files."""
        from bitbayes.lab.studies.tables import TABLES

        targets = dict.fromkeys(TABLES, (_table, ("budget", "protocol", "capture", *_RUNS))) | _OTHERS
        if self.target not in targets:
            raise nearest("table or figure", self.target, targets)
        make, options = targets[self.target]
        usual = {
            "members": 4,
            "ways": get_args(Way),
            "networks": 32,
            "trials": 1,
            "unlike": None,
            "unlike_data": None,
            "runs": (),
            "published": None,
            "chains": 24,
            "sweeps": 2500,
        }
        usual |= vars(TableChoice()) | vars(Overrides()) | _DEFAULTS | {"device": "auto"}
        values = {**vars(self), **vars(self.choice), **vars(self.given)}
        for name, value in usual.items():
            if values[name] != value and name not in options:
                takes = ", ".join(map(_flag, options))
                raise ValueError(f"{self.target} does not take {_flag(name)}; its options are: {takes}")
        make(self)


@dataclass
class Report(Command):
    """Write an HTML page with charts and tables of runs that works offline.

    Args:
        runs: Folders of runs or continual-learning runs, finished or not, or folders that contain such folders.
        output: HTML file to write.
        published: JSON file with published curves to draw beside those of the runs.
        title: Title of the page.
    """

    epilog = """
example:
  bitbayes report runs/mnist-ste-seed1 runs/mnist-bop-seed1 -o mnist.html
"""
    runs: Names
    output: Output = "report.html"
    published: str | None = None
    title: str = "bitbayes report"

    def run(self) -> None:
        """Write the page, print its path, and name on stderr the folders that were left out."""
        from bitbayes.lab.report.groups import copies
        from bitbayes.lab.report.page import read_folders, write_page

        # Before reading gigabytes of posteriors.
        require("bokeh", "report")
        require("jinja2", "report")
        check_output(self.output, *filter(None, [self.published]))
        found = read_folders(self.runs)
        path = write_page(found, self.output, published=self.published, title=self.title)
        again = [f"{run.name}: its settings, data and seed are those of another run" for run in copies(found.runs)]
        for note in (*found.notes, *again):
            print(f"bitbayes: left out: {note}", file=sys.stderr)
        print(f"written: {path}")


# The functions that make the tables and figures.


def _flag(option: str) -> str:
    return f"--{option.replace('_', '-')}"


def _table(command: Reproduce) -> None:
    from bitbayes.lab.recipes import open_recipe
    from bitbayes.lab.report import results
    from bitbayes.lab.studies.tables import TABLES, run_table

    name, choice = command.target, command.choice
    rows, folder = run_table(name, choice, placed(command.given))
    recipe = open_recipe(choice.dataset or TABLES[name].recipe)
    written, text = results.write_results(name, recipe, rows, folder)
    show(results.results_table(name, recipe, rows).without_empty_columns(), f"written: {written}, {text}")


def _trust(command: Reproduce) -> None:
    from bitbayes.lab.report import figures, trust
    from bitbayes.lab.studies.trust import trust_study

    study = trust_study(command.choice, placed(command.given), unlike_data=command.unlike_data)
    picture = figures.trust_figure(study, study.folder / "trust.png")
    show(trust.trust_table(study), f"written: {study.folder / 'trust.json'}, {picture}")


def _members(command: Reproduce) -> None:
    from bitbayes.lab.report import trust
    from bitbayes.lab.studies.members import members_study

    study = members_study(
        command.choice,
        placed(command.given),
        members=command.members,
        ways=command.ways,
        samples=command.networks,
        trials=command.trials,
        unlike=command.unlike,
        unlike_data=command.unlike_data,
    )
    for table in trust.member_tables(study):
        show(table)
    show(f"written: {study.folder / 'members.json'}")


def _moons(command: Reproduce) -> None:
    from bitbayes.lab.report import figures, results
    from bitbayes.lab.studies.toys import moons_study
    from bitbayes.lab.train import RunFolder

    given, choice = command.given, command.choice
    out = given.out or "runs/moons"
    with RunFolder(out).held():
        seeds = 1 if choice.seeds is None else choice.seeds
        study = moons_study(out, epochs=given.epochs, first_seed=given.seed or 0, seeds=seeds, jobs=choice.jobs)
        picture = figures.moons_figure(study, Path(out, "moons.png"))
    show(results.moons_table(study.figures), f"written: {out}/moons.json, {picture}")


def _snelson(command: Reproduce) -> None:
    from bitbayes.lab.report import figures, results
    from bitbayes.lab.studies.toys import snelson_study
    from bitbayes.lab.train import RunFolder

    given, choice = command.given, command.choice
    out = given.out or "runs/snelson"
    with RunFolder(out).held():
        splits = 5 if choice.seeds is None else choice.seeds
        study = snelson_study(out, data=given.data, splits=splits, epochs=given.epochs, jobs=choice.jobs)
        picture = figures.snelson_figure(study, Path(out, "snelson.png"))
    show(results.snelson_table(study.figures), f"written: {out}/snelson.json, {picture}")


def _truth(command: Reproduce) -> None:
    from bitbayes.lab.report import figures, results
    from bitbayes.lab.studies.exact import Sampling
    from bitbayes.lab.studies.truth import truth_study
    from bitbayes.lab.train import RunFolder

    given, choice = command.given, command.choice
    out = given.out or "runs/truth"
    with RunFolder(out).held():
        found = truth_study(
            out,
            problems=() if choice.dataset is None else (choice.dataset,),
            rules=choice.rules,
            sampling=Sampling(command.chains, command.sweeps),
            data=given.data,
            epochs=given.epochs,
            first_seed=given.seed or 0,
            seeds=1 if choice.seeds is None else choice.seeds,
            jobs=choice.jobs,
        )
        drawn = [each for each in found if each.axis is not None]
        pictures = [figures.bands_figure(each, Path(out, f"{each.problem}.png")) for each in drawn]
    written = ", ".join(map(str, (Path(out, "truth.json"), *pictures)))
    show(*(results.truth_table(each) for each in found), f"written: {written}")


def _curves(command: Reproduce) -> None:
    from bitbayes.lab.report import figures
    from bitbayes.lab.report.series import float_epochs
    from bitbayes.lab.train import EpochRow, RunConfig, RunError

    runs = {}
    for folder, name in _run_folders(command.runs).items():
        config = RunConfig.load(folder)
        try:
            before = float_epochs(config)
        except RunError:  # a run that was copied alone
            before = 0
            show(f"{folder} begins with the float network of {config.pretrained}, which is not there: not counted")
        path = folder / "metrics.jsonl"
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
            rows = [EpochRow.from_dict(json.loads(line)) for line in lines]
        except (OSError, ValueError) as error:
            raise RunError(f"cannot read {path}: {error}") from error
        runs[name] = [dataclasses.replace(row, epoch=row.epoch + before) for row in rows]
    out = Path(command.given.out or "runs", "curves.png")
    dataset = command.choice.dataset or "mnist"
    show(f"written: {figures.curves_figure(runs, out, published=command.published, dataset=dataset)}")


def _schedules(command: Reproduce) -> None:
    from bitbayes.lab.report import figures
    from bitbayes.lab.report.folders import read_folders
    from bitbayes.lab.report.groups import grouped
    from bitbayes.lab.report.series import schedule_rows, schedule_series
    from bitbayes.lab.report.tables import schedules_table
    from bitbayes.lab.train import RunFolder

    _run_folders(command.runs)
    recipes = grouped(read_folders(command.runs).runs)
    if len(recipes) > 1:
        raise ValueError(f"schedules compares runs of one recipe, got runs of {', '.join(recipes)}")
    (recipe, groups), *_ = recipes.items()
    series = schedule_series(groups)
    out = Path(command.given.out or "runs")
    picture = figures.schedules_figure(series, out / "schedules.png")
    RunFolder(out).write_json("schedules.json", {"recipe": recipe, "schedules": schedule_rows(series)})
    show(schedules_table(recipe, series), f"written: {out / 'schedules.json'}, {picture}")


def _histogram(command: Reproduce) -> None:
    from bitbayes.lab.report import figures
    from bitbayes.posterior import load_posterior

    folders = _run_folders(command.runs)
    posteriors = {name: load_posterior(folder / "posterior.safetensors") for folder, name in folders.items()}
    out = Path(command.given.out or "runs", "histogram.png")
    show(f"written: {figures.histogram_figure(posteriors, out)}")


def _run_folders(names: Sequence[str]) -> dict[Path, str]:
    """Return the folders of runs with the shortest names that tell them apart."""
    from bitbayes.lab.report.folders import short_names
    from bitbayes.lab.train import RunConfig

    if not names:
        raise ValueError("this figure needs finished runs, got none; name them: --runs runs/A runs/B")
    for name in names:
        RunConfig.load(name)
    return short_names([Path(name) for name in names])


_OTHERS: dict[str, tuple[Callable[[Reproduce], None], tuple[str, ...]]] = {
    "trust": (_trust, ("unlike_data", *_RUNS)),
    "members": (
        _members,
        ("members", "ways", "networks", "trials", "unlike", "unlike_data", "budget", "protocol", "capture", *_RUNS),
    ),
    "moons": (_moons, ("epochs", "out", "seed", "seeds", "jobs")),
    "snelson": (_snelson, ("data", "epochs", "out", "seeds", "jobs")),
    "truth": (_truth, ("dataset", "rules", "data", "epochs", "out", "seed", "seeds", "jobs", "chains", "sweeps")),
    "curves": (_curves, ("runs", "published", "dataset", "out")),
    "schedules": (_schedules, ("runs", "out")),
    "histogram": (_histogram, ("runs", "out")),
}
