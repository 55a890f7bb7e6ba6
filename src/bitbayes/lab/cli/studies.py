"""The commands that train several runs, as dataclasses for tyro: demo, continual, tune."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from bitbayes.lab.choices import Overrides, StreamChoice
from bitbayes.lab.cli.output import show
from bitbayes.lab.cli.shared import CONTINUES, Command, Name, options_of, parsed_options, placed, rule_names, tyro


@dataclass
class Demo(Command):
    """Trains three rules on the 8x8 digits and draws the two synthetic figures, in about two minutes on two cores.

    Args:
        out: Folder of the runs and of the pictures.
        seeds: Number of runs of every rule on the digits.
    """

    again = CONTINUES
    out: str = "runs/demo"
    seeds: int = 3

    def run(self) -> None:
        """Train, print the tables, and draw."""
        import torch

        from bitbayes.lab.recipes.configure import load_data, make_config
        from bitbayes.lab.report import figures, results
        from bitbayes.lab.studies.demo import DEMO_EPOCHS, digits_study
        from bitbayes.lab.studies.toys import moons_study, snelson_study
        from bitbayes.lab.train import BarProgress, SilentProgress

        if self.seeds < 1:
            raise ValueError(f"seeds must be at least 1, got {self.seeds}")
        out, progress = self.out, BarProgress() if sys.stdout.isatty() else SilentProgress()
        jobs = min(2, torch.get_num_threads())  # a small network fills one core
        how: dict[str, Any] = {"note": show, "progress": progress, "jobs": jobs}
        examples = len(load_data(make_config("digits")).train)
        show(f"8x8 digits: three rules, {self.seeds} seeds each, {DEMO_EPOCHS} epochs ...")
        show(results.digits_table(digits_study(f"{out}/digits", self.seeds, **how), examples))
        show("two moons: STE, and BayesBiNN in its published and its recommended setting ...")
        moons = moons_study(f"{out}/moons", **how)
        moons_picture = figures.moons_figure(moons, Path(out, "moons.png"))
        show(results.moons_table(moons.figures), "regression with a gap: STE and BayesBiNN ...")
        snelson = snelson_study(f"{out}/snelson", splits=1, **how)
        snelson_picture = figures.snelson_figure(snelson, Path(out, "snelson.png"))
        show(results.snelson_table(snelson.figures), f"pictures: {moons_picture}, {snelson_picture}")


_STREAM = ("tasks", "scenario", "prior", "prior_decay", "ess_decay", "method", "statistics", "curve_examples")


@dataclass(kw_only=True)
class Continual(Command):
    """Learns one task after another. The same command continues where it was interrupted.

    Args:
        stream: permuted-mnist or split-mnist.
        rule: Learning rule. bayesbinn can take the posterior of one task as the prior of the next; ste:metaplastic
            damps steps of large latent weights towards zero. Others: full-precision, ste.
        method_set: Options of the method as NAME=VALUE.
        samples: Number of networks that the mean averages over at test time; the recipe's by default.
        seed: Seed of the run and of the permutations.
        set: Options of the rule as NAME=VALUE.
    """

    again = CONTINUES
    stream: Name
    rule: str = "bayesbinn"
    choice: Annotated[StreamChoice, options_of(StreamChoice, *_STREAM)]
    method_set: tuple[str, ...] = ()
    samples: int | None = None
    seed: int = 1
    set: tuple[str, ...] = ()
    given: Annotated[
        Overrides,
        options_of(
            Overrides,
            *("estimator", "lr", "device"),
            epochs="Number of epochs of each task; the recipe's by default.",
            data="Folder or hub id of MNIST; its hub id by default.",
            out="Folder of the stream; by default runs/STREAM-RULE[-ESTIMATOR]-seedS, with unusual settings added.",
        ),
    ]

    def run(self) -> None:
        """Train, print the matrix and draw it."""
        from bitbayes.lab.report.figures import stream_figures
        from bitbayes.lab.report.tables import stream_table
        from bitbayes.lab.studies.streams import run_continual

        given = placed(self.given, seed=self.seed, options=parsed_options(self.set))
        choice = dataclasses.replace(self.choice, method_options=parsed_options(self.method_set, "--method-set"))
        result = run_continual(self.stream, self.rule, choice, given, samples=self.samples)
        written = ", ".join(map(str, stream_figures(result.folder)))
        show(stream_table(result.summary), f"written: {result.folder}/summary.json, {written}")


@dataclass(kw_only=True)
class Tune(Command):
    """Searches for the settings of a rule, by validation accuracy. The same command continues an interrupted search.

    Args:
        recipe: Name of the experiment; `bitbayes recipes` lists them.
        trials: Number of runs, those that are there already included; the first has the recipe's settings.
        search: What to search, as NAME=LOW:HIGH; by default lr, and ess_scale where the recipe has one, within a
            factor of ten of the recipe's values.
        set: Options of the rule that are the same in every run, as NAME=VALUE.
    """

    again = CONTINUES
    recipe: Name
    trials: int = 20
    rule: Annotated[str, tyro.conf.arg(help=f"Learning rule: {rule_names()}.")] = "bayesbinn"
    search: tuple[str, ...] = ()
    set: tuple[str, ...] = ()
    given: Annotated[
        Overrides,
        options_of(
            Overrides,
            *("data", "device", "precision"),
            defaults={"budget": "quick"},
            estimator="Gradient estimator of bayesbinn; the recipe's by default.",
            budget="Schedule of every run: the recipe's short one (quick), or the published one (paper).",
            epochs="Number of epochs of the schedule; the budget's by default.",
            seed="Seed of the runs and of the search; the recipe's by default.",
            out="Folder of the runs; runs/tune-RECIPE-RULE[-ESTIMATOR] by default.",
        ),
    ]

    def run(self) -> None:
        """Search, and print the trials and the command that trains with the best."""
        from bitbayes.lab.report.tables import tuned_table
        from bitbayes.lab.studies.tune import parse_ranges, tune

        ranges, given = parse_ranges(self.search), placed(self.given, options=parsed_options(self.set))
        rows = tune(self.recipe, self.rule, given, trials=self.trials, ranges=ranges)
        show(tuned_table(self.recipe, rows))
        if rows[0]["accuracy"] is not None:
            print(f"the best again: {self._command(rows[0]['settings'])}")

    def _command(self, settings: dict[str, float]) -> str:
        words = ["bitbayes train", self.recipe, "--rule", self.rule]
        for flag in ("estimator", "data", "budget", "epochs", "seed"):
            value = getattr(self.given, flag)
            words += [f"--{flag}", str(value)] if value is not None else []
        words += [f"--lr {settings['lr']}"] if "lr" in settings else []
        options = [*self.set, *(f"{name}={value}" for name, value in settings.items() if name != "lr")]
        return " ".join(words + (["--set", *options] if options else []))
