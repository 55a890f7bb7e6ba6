"""The commands that train several runs, as dataclasses for tyro: demo, continual, tune."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from bitbayes.lab.choices import Overrides, StreamChoice
from bitbayes.lab.cli.output import show
from bitbayes.lab.cli.shared import CONTINUES, Command, Name, options_of, parsed_options, placed, rule_names, tyro


@dataclass
class Demo(Command):
    """Train small networks with three rules and draw two figures, in about two minutes.

    Args:
        out: Folder where the runs and the figures are written.
        seeds: Number of runs per rule on the digits.
    """

    again = CONTINUES
    epilog = """
The demo trains STE, BayesBiNN and a float network on the 8x8 digits. On two
moons and on a regression problem with a gap in its inputs, it draws STE and
BayesBiNN beside the exact posterior. The exact posterior and the regression
need a C compiler. The demo downloads nothing and takes about two minutes on two
CPU cores.
"""
    out: str = "runs/demo"
    seeds: int = 3

    def run(self) -> None:
        """Train, print the tables, and draw."""
        import torch

        from bitbayes.lab.recipes.configure import load_data, make_config
        from bitbayes.lab.report import figures, results
        from bitbayes.lab.studies.demo import DEMO_EPOCHS, digits_study
        from bitbayes.lab.studies.exact import Sampling, compiled
        from bitbayes.lab.studies.toys import moons_study
        from bitbayes.lab.studies.truth import truth_study
        from bitbayes.lab.train import BarProgress, SilentProgress

        if self.seeds < 1:
            raise ValueError(f"seeds must be at least 1, got {self.seeds}")
        out, progress = self.out, BarProgress() if sys.stdout.isatty() else SilentProgress()
        jobs = min(2, torch.get_num_threads())  # a small network fills one core
        how: dict[str, Any] = {"note": show, "progress": progress, "jobs": jobs}
        examples = len(load_data(make_config("digits")).train)
        show(f"8x8 digits: three rules, {self.seeds} seed(s) per rule, {DEMO_EPOCHS} epochs ...")
        show(results.digits_table(digits_study(f"{out}/digits", self.seeds, **how), examples))
        show("Two moons: STE, BayesBiNN with three settings, and the exact posterior ...")
        moons = moons_study(f"{out}/moons", **how)
        moons_picture = figures.moons_figure(moons, Path(out, "moons.png"))
        show(results.moons_table(moons.figures))
        pictures = [str(moons_picture)]
        if compiled():
            show("Regression with a gap in the inputs: STE, BayesBiNN, and the exact posterior ...")
            rules = ("ste", "bayesbinn:default")
            (bands,) = truth_study(out, problems=("snelson",), rules=rules, sampling=Sampling(8, 400), **how)
            pictures.append(str(figures.bands_figure(bands, Path(out, "snelson.png"))))
            show(results.truth_table(bands))
        show(f"figures: {', '.join(pictures)}")


_STREAM = ("tasks", "scenario", "prior", "prior_decay", "ess_decay", "method", "statistics", "curve_examples")


@dataclass(kw_only=True)
class Continual(Command):
    """Learn one task after another and measure how much is forgotten.

    Args:
        stream: Sequence of tasks: permuted-mnist or split-mnist.
        rule: Learning rule: full-precision, ste, ste:metaplastic or bayesbinn. bayesbinn can use the posterior of one
            task as the prior of the next. ste:metaplastic damps updates that move large latent weights towards zero.
        method_set: Options of the method against forgetting as NAME=VALUE.
        samples: Number of posterior samples that test predictions average over. The recipe sets the default.
        seed: Random seed of the run and of the permutations.
        set: Options of the rule as NAME=VALUE.
    """

    again = CONTINUES
    epilog = """
If the command is interrupted, give it again: it continues from its checkpoint.

examples:
  bitbayes continual permuted-mnist --epochs 5
  bitbayes continual split-mnist --rule ste --method replay --scenario class
"""
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
            epochs="Number of epochs per task. The recipe sets the default.",
            data="Folder or Hugging Face Hub id of MNIST. The recipe sets the default.",
            out="Folder where the run is written. The default is runs/STREAM-RULE[-ESTIMATOR]-seedS, followed by the "
            "method, the scenario, no-prior, the prior decay and the number of tasks where they are unusual. "
            "Streams that differ in other settings need folders of their own.",
        ),
    ]

    def run(self) -> None:
        """Train, and print and draw the accuracy matrix."""
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
    """Search for the settings of a rule that maximise validation accuracy, or minimise bits per byte of a text.

    Args:
        recipe: Name of the recipe, or a Python file that defines one; `bitbayes recipes` lists the names.
        trials: Number of trials in total, including finished ones. The first trial has the recipe's settings.
        search: Settings to search and their ranges, as NAME=LOW:HIGH: lr, real_lr, and options of the rule. The default
            is lr, and ess_scale if the recipe sets it, within a factor of ten of the recipe's values.
        set: Options of the rule, as NAME=VALUE. They are the same in every trial, and only in the first one where
            --search names them.
    """

    again = CONTINUES
    epilog = """
If the search is interrupted, give the command again: it continues.

examples:
  bitbayes tune digits --trials 10
  bitbayes tune mnist --rule ste --search lr=0.001:0.1 --trials 30
"""
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
            estimator="Gradient estimator of bayesbinn. The recipe sets the default.",
            budget="Schedule of every trial: the recipe's short one (quick) or the published one (paper).",
            epochs="Number of epochs of the learning-rate schedule. The budget sets the default.",
            seed="Random seed of the trials and of the search. The recipe sets the default.",
            out="Folder where the trials are written. The default is runs/tune-RECIPE-RULE[-ESTIMATOR].",
        ),
    ]

    def run(self) -> None:
        """Search, and print the trials and the command that trains with the best settings."""
        from bitbayes.lab.report.tables import tuned_table
        from bitbayes.lab.studies.tune import parse_ranges, tune

        ranges, given = parse_ranges(self.search), placed(self.given, options=parsed_options(self.set))
        rows = tune(self.recipe, self.rule, given, trials=self.trials, ranges=ranges)
        show(tuned_table(self.recipe, rows))
        if rows[0].get("accuracy", rows[0].get("bits")) is not None:
            print(f"train with the best settings: {self._command(rows[0]['settings'])}")

    def _command(self, settings: dict[str, float]) -> str:
        from bitbayes.lab.studies.tune import RATES

        words = ["bitbayes", "train", self.recipe, "--rule", self.rule]
        for flag in ("estimator", "data", "budget", "epochs", "seed", "precision"):
            value = getattr(self.given, flag)
            words += [f"--{flag}", str(value)] if value is not None else []
        rates = {name: value for name, value in settings.items() if name in RATES}
        words += [word for name, value in rates.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        options = [word for word in self.set if word.partition("=")[0] not in settings]
        options += [f"{name}={value}" for name, value in settings.items() if name not in rates]
        return shlex.join(words + (["--set", *options] if options else []))
