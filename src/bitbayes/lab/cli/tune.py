"""The command for a search for settings, as a dataclass for tyro: tune."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from bitbayes.errors import require
from bitbayes.lab.cli.train import chosen_device, parsed_options

tyro = require("tyro", "train")

__all__ = ["Tune", "TuneCommand"]

Name = tyro.conf.Positional[str]


@dataclass
class Tune:
    """Searches for the settings of a rule, by validation accuracy; can be interrupted and continued.

    Args:
        recipe: The experiment; `bitbayes recipes` lists them.
        trials: Runs, the first of them with the recipe's settings.
        rule: Learning rule.
        estimator: Of bayesbinn; the recipe's by default.
        search: What to search, as NAME=LOW:HIGH; lr and ess_scale within a factor of ten by default.
        set: Options of the rule that are the same in every run, as NAME=VALUE.
        data: Folder or hub id of the data; the recipe's hub id by default.
        budget: Schedule of every run: the recipe's short one (quick), or the published one (paper).
        epochs: Length of the schedule, if not the budget's.
        seed: Of the runs and of the search.
        device: cpu, cuda, ...; auto takes a GPU if there is one.
        precision: fp32, bf16, or auto to measure which is faster.
        out: Folder of the runs; runs/tune-RECIPE-RULE[-ESTIMATOR] by default.
    """

    recipe: Name
    trials: int
    rule: str = "bayesbinn"
    estimator: str | None = None
    search: tuple[str, ...] = ()
    set: tuple[str, ...] = ()
    data: str | None = None
    budget: Literal["paper", "quick"] = "quick"
    epochs: int | None = None
    seed: int | None = None
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    out: str | None = None

    def run(self) -> None:
        """Searches, and prints the trials and the command that trains with the best."""
        from bitbayes.lab.report.tables import show, tuned_table
        from bitbayes.lab.studies.tune import parse_ranges, tune

        choices: dict[str, Any] = {**vars(self), "device": chosen_device(self.device)}
        choices |= {"ranges": parse_ranges(choices.pop("search")), "options": parsed_options(choices.pop("set"))}
        rows = tune(choices.pop("recipe"), choices.pop("rule"), **choices)
        show(tuned_table(self.recipe, rows))
        if rows[0]["accuracy"] is not None:
            print(f"the best again: {self._command(rows[0]['settings'])}")

    def _command(self, settings: dict[str, float]) -> str:
        words = ["bitbayes train", self.recipe, "--rule", self.rule]
        for flag in ("estimator", "data", "budget", "epochs", "seed"):
            value = getattr(self, flag)
            words += [f"--{flag}", str(value)] if value is not None else []
        words += [f"--lr {settings['lr']}"] if "lr" in settings else []
        options = [*self.set, *(f"{name}={value}" for name, value in settings.items() if name != "lr")]
        return " ".join(words + (["--set", *options] if options else []))


TuneCommand = Annotated[Tune, tyro.conf.subcommand("tune")]
