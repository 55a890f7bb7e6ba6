"""The commands of the command line, as dataclasses for tyro. What they call lives elsewhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from bitbayes.errors import require

tyro = require("tyro", "train")

__all__ = ["Command", "Demo", "Evaluate", "Recipes", "Reproduce", "Train", "chosen_device", "parsed_options"]

Flag = tyro.conf.FlagCreatePairsOff[bool]
Name = tyro.conf.Positional[str]


@dataclass
class Recipes:
    """Lists every experiment: data, network, rules, published figures."""

    def run(self) -> None:
        """Prints the table."""
        from bitbayes.lab.recipes import RECIPES
        from bitbayes.lab.report.tables import recipes_table, show

        show(recipes_table(RECIPES.values()))


@dataclass
class Train:
    """Trains one network.

    Args:
        recipe: The experiment; `bitbayes recipes` lists them.
        rule: Learning rule: full-precision, ste, bop, bop2, pmf, md, proxquant, adaste, bayesbinn, vispa; with
            bayesbinn:default the one setting that needs no search.
        estimator: Of bayesbinn: straight-through, concrete or released; the recipe's by default.
        data: Folder or hub id of the data; the recipe's hub id by default.
        epochs: Length of the schedule; the published one by default.
        stop_after: Ends the run after this epoch of the schedule.
        seed: Seed of the run, or of the first of several.
        seeds: Number of runs, with seeds that follow each other; their folders are OUT/seed1, ...
        jobs: Runs at a time, in processes of their own.
        device: cpu, cuda, ...; auto takes a GPU if there is one.
        precision: fp32, bf16, or auto to measure which is faster.
        capture: Records whole steps as a CUDA graph, and repeats them.
        protocol: validation (best validation epoch), or test (VISPA's paper: best test epoch, all training data).
        out: Folder of the run; runs/RECIPE-RULE[-ESTIMATOR]-seedS by default.
        resume: Continues the run in that folder.
        budget: Hyper-parameters for the published schedule (paper) or a short one (quick).
        lr: Learning rate of the binary weights; the recipe's by default.
        real_lr: Learning rate of the real parameters.
        batch_size: Examples a step.
        accumulate: Parts that a batch is taken in, one after the other: less memory for the same batch.
        samples: Draws a step.
        dropout: Probability of every dropout layer, if not the network's own.
        set: Options of the rule, as NAME=VALUE.
        tensorboard: Also writes the metrics as event files for TensorBoard into the folder of the run.
    """

    recipe: Name
    rule: str = "bayesbinn"
    estimator: str | None = None
    data: str | None = None
    epochs: int | None = None
    stop_after: int | None = None
    seed: int | None = None
    seeds: int = 1
    jobs: int = 1
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    capture: Flag = False
    protocol: Literal["validation", "test"] = "validation"
    out: str | None = None
    resume: Flag = False
    budget: Literal["paper", "quick"] = "paper"
    lr: float | None = None
    real_lr: float | None = None
    batch_size: int | None = None
    accumulate: int | None = None
    samples: int | None = None
    dropout: float | None = None
    set: tuple[str, ...] = ()
    tensorboard: Flag = False

    def run(self) -> None:
        """Trains, on all processes that torchrun has started, and prints the summary."""
        from bitbayes.lab.recipes import make_config, run_recipe
        from bitbayes.lab.report.tables import show, summary_table
        from bitbayes.lab.train import EventProgress, default_progress
        from bitbayes.lab.train.distributed import joined, restarted

        choices: dict[str, Any] = {**vars(self), "options": parsed_options(self.set)}
        for name in ("recipe", "rule", "resume", "device", "set", "tensorboard", "seeds", "jobs"):
            choices.pop(name)
        if (self.seeds, self.jobs) != (1, 1):
            self._several(device=chosen_device(self.device), **choices)
            return
        with joined(chosen_device(self.device)) as device:
            config = make_config(self.recipe, self.rule, device=device, **choices)
            progress = EventProgress(default_progress(), config.out) if self.tensorboard else None
            result = run_recipe(config, resume=self.resume or restarted(), progress=progress)
        if result.summary is not None:  # that only the first process has
            show(summary_table(result.summary, result.folder))

    def _several(self, **choices: Any) -> None:
        from bitbayes.lab.recipes import find_recipe, full_name
        from bitbayes.lab.report.results import seeds_table
        from bitbayes.lab.report.tables import show
        from bitbayes.lab.studies.several import make_configs, run_several
        from bitbayes.lab.studies.tables import TableRow
        from bitbayes.lab.train.distributed import under_torchrun

        if self.seeds == 1:
            raise ValueError(f"--jobs {self.jobs} is for several runs; say how many with --seeds")
        if self.tensorboard:
            raise ValueError("--tensorboard follows one run; leave out --seeds, or --tensorboard")
        if under_torchrun():
            raise ValueError("--seeds runs in one process or in its own; leave out torchrun, or --seeds")
        recipe = find_recipe(self.recipe)
        configs = make_configs(self.recipe, self.rule, self.seeds, **choices)
        row = TableRow(full_name(recipe, self.rule, self.estimator), run_several(configs, jobs=self.jobs))
        show(seeds_table(recipe, row))


@dataclass
class Evaluate:
    """Evaluates a finished run: mode and mean, likelihood, calibration, entropy; writes evaluation.json.

    Args:
        run: Folder of the run.
        samples: Networks that the mean averages over.
        data: Folder or hub id of the data, if it is no longer where the run found it.
        unlike: Recipe whose test inputs the network should be unsure of, such as fashion-mnist for a run on MNIST.
        unlike_data: Folder or hub id of those.
        device: cpu, cuda, ...; auto takes a GPU if there is one.
    """

    folder: Annotated[Name, tyro.conf.arg(name="run")]
    samples: int = 32
    data: str | None = None
    unlike: str | None = None
    unlike_data: str | None = None
    device: str = "auto"

    def run(self) -> None:
        """Evaluates, and prints the table."""
        from bitbayes.lab.report.tables import evaluation_table, show
        from bitbayes.lab.studies.evaluate import evaluate_run

        found = evaluate_run(
            self.folder,
            samples=self.samples,
            data=self.data,
            unlike=self.unlike,
            unlike_data=self.unlike_data,
            device=chosen_device(self.device),
        )
        show(evaluation_table(found))


@dataclass
class Reproduce:
    """Reproduces a published table or figure; can be interrupted and continued.

    Args:
        target: table2, table10 (BayesBiNN); vispa-table1 to 5, vispa-figure1; small, trust, default (ours); moons,
            snelson; curves, histogram.
        dataset: Recipe of the table; its first by default.
        budget: quick (the recipe's short schedule, 3 seeds) or paper (the published one, 5 seeds).
        seeds: Number of runs, if not the budget's.
        rules: Rules of the table, such as ste or bayesbinn:straight-through; all by default.
        epochs: Length of the schedule, if not the budget's.
        data: Folder or hub id of the data.
        unlike_data: Folder or hub id of Fashion-MNIST, for trust.
        out: Folder of the runs and of the table; runs/TARGET-... by default.
        runs: Finished runs, for curves and histogram.
        published: JSON file with the published curves.
        device: cpu, cuda, ...; auto takes a GPU if there is one.
        precision: fp32, bf16, or auto to measure which is faster.
        capture: Records whole steps as a CUDA graph, and repeats them.
        protocol: validation (best validation epoch), or test (VISPA's paper: best test epoch, all training data).
        jobs: Runs at a time, in processes of their own.
    """

    target: Name
    dataset: str | None = None
    budget: Literal["paper", "quick"] = "quick"
    seeds: int | None = None
    rules: tuple[str, ...] = ()
    epochs: int | None = None
    data: str | None = None
    unlike_data: str | None = None
    out: str | None = None
    runs: tuple[str, ...] = ()
    published: str | None = None
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    capture: Flag = False
    protocol: Literal["validation", "test"] = "validation"
    jobs: int = 1

    def run(self) -> None:
        """Dispatches to the report of that name."""
        from bitbayes.lab.studies.targets import reproduce

        given = {option.name for option in fields(self) if getattr(self, option.name) != option.default}
        choices = {**vars(self), "device": chosen_device(self.device)}
        reproduce(choices.pop("target"), given - {"target"}, **choices)


@dataclass
class Demo:
    """Trains three rules on the 8x8 digits and draws the two synthetic figures, in under two minutes.

    Args:
        out: Folder of the pictures.
        seeds: Runs of every rule.
    """

    out: str = "runs/demo"
    seeds: int = 3

    def run(self) -> None:
        """Runs the demo."""
        from bitbayes.lab.studies.demo import demo

        demo(self.out, self.seeds)


Command = (
    Annotated[Recipes, tyro.conf.subcommand("recipes")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Reproduce, tyro.conf.subcommand("reproduce")]
    | Annotated[Demo, tyro.conf.subcommand("demo")]
)


def chosen_device(name: str) -> str:
    """What `--device` stands for."""
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def parsed_options(pairs: Sequence[str], flag: str = "--set") -> dict[str, Any]:
    """NAME=VALUE words; values are JSON, or text if they are not."""
    options: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ValueError(f"{flag} takes NAME=VALUE, got {pair!r}")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options
