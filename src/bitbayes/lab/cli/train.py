"""The commands for single runs, as dataclasses for tyro: recipes, train, evaluate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from bitbayes.lab.choices import Overrides
from bitbayes.lab.cli.output import show
from bitbayes.lab.cli.shared import (
    CONTINUES,
    Command,
    Flag,
    Name,
    chosen_device,
    options_of,
    parsed_options,
    placed,
    rule_names,
    tyro,
)


@dataclass
class Recipes(Command):
    """Lists every experiment: data, network, rules, published figures."""

    def run(self) -> None:
        """Print the table."""
        from bitbayes.lab.recipes import RECIPES
        from bitbayes.lab.report.tables import recipes_table

        show(recipes_table(RECIPES.values()))


@dataclass(kw_only=True)
class Train(Command):
    """Trains one network, or the same with several seeds.

    Args:
        recipe: Name of the experiment; `bitbayes recipes` lists them.
        seeds: Number of runs, with consecutive seeds; their folders are OUT/seed1, OUT/seed2, ...
        jobs: Number of runs at a time, each in a process of its own.
        resume: Continue the run in its folder from its checkpoint; refused where there is none.
        set: Options of the rule as NAME=VALUE, such as ess=54000, or ess_scale=1 for 1 times the number of training
            examples. An option that the rule does not have or does not use is refused, with a list of those it has.
        tensorboard: Also write the metrics as event files for TensorBoard into the folder of the run.
    """

    recipe: Name
    rule: Annotated[
        str,
        tyro.conf.arg(
            help=f"Learning rule: {rule_names()}. bayesbinn:default is the one setting that needs no search."
        ),
    ] = "bayesbinn"
    seeds: int = 1
    jobs: int = 1
    resume: Flag = False
    set: tuple[str, ...] = ()
    tensorboard: Flag = False
    given: Annotated[Overrides, options_of(Overrides)]

    def advice(self, saved: bool) -> str:
        """Several runs continue by themselves, and a single one when it is told to."""
        if (self.seeds, self.jobs) != (1, 1) or self.resume:
            return CONTINUES
        return "give the same command with --resume to continue" if saved else self.again

    def run(self) -> None:
        """Train, on all processes that torchrun has started, and print the summary."""
        from bitbayes.lab.recipes import make_config, run_recipe
        from bitbayes.lab.report.tables import summary_table
        from bitbayes.lab.train import EventProgress, default_progress
        from bitbayes.lab.train.distributed import Ranks, joined, restarted
        from bitbayes.lab.train.folder import require_checkpoint
        from bitbayes.lab.train.rules import kept_posterior

        given = placed(self.given, options=parsed_options(self.set))
        if (self.seeds, self.jobs) != (1, 1):
            self._several(given)
            return
        with joined(given.device) as device:
            config = make_config(self.recipe, self.rule, given, device=device)
            if self.resume and not restarted():  # torchrun may restart what had no checkpoint yet
                require_checkpoint([config.out])
            if Ranks.here().first:
                show(kept_posterior(config.rule, config.estimator, config.spec))
            progress = EventProgress(default_progress(), config.out) if self.tensorboard else None
            result = run_recipe(config, resume=self.resume or restarted(), progress=progress)
        if result.summary is not None:  # that only the first process has
            show(summary_table(result.summary, result.folder))

    def _several(self, given: Overrides) -> None:
        from bitbayes.lab.recipes import find_recipe, full_name
        from bitbayes.lab.report import results
        from bitbayes.lab.studies.several import make_configs, run_several
        from bitbayes.lab.studies.tables import TableRow
        from bitbayes.lab.train.distributed import under_torchrun
        from bitbayes.lab.train.folder import require_checkpoint
        from bitbayes.lab.train.rules import kept_posterior

        if self.seeds == 1:
            raise ValueError(f"--jobs {self.jobs} is for several runs; say how many with --seeds")
        if self.tensorboard:
            raise ValueError("--tensorboard follows one run; leave out --seeds, or --tensorboard")
        if under_torchrun():
            raise ValueError("--seeds runs in one process or in its own; leave out torchrun, or --seeds")
        recipe = find_recipe(self.recipe)
        configs = make_configs(self.recipe, self.rule, self.seeds, given)
        if self.resume:
            require_checkpoint([config.out for config in configs])
        show(kept_posterior(configs[0].rule, configs[0].estimator, configs[0].spec))
        rule = full_name(recipe, self.rule, given.estimator)
        show(results.results_table(None, recipe, [TableRow(str(rule), run_several(configs, jobs=self.jobs))]))


@dataclass
class Evaluate(Command):
    """Evaluates a finished run: mode and mean, likelihood, calibration, entropy; writes evaluation.json.

    Args:
        folder: Folder of the run.
        samples: Number of networks that the mean averages over.
        data: Folder or hub id of the data, if it is no longer where the run found it.
        unlike: Recipe whose test inputs the network should be unsure of, such as fashion-mnist for a run on MNIST.
        unlike_data: Folder or hub id of the data of that recipe.
        device: cpu, cuda, ...; auto takes a GPU if there is one.
    """

    folder: Name
    samples: int = 32
    data: str | None = None
    unlike: str | None = None
    unlike_data: str | None = None
    device: str = "auto"

    def run(self) -> None:
        """Evaluate, and print the table."""
        from bitbayes.lab.report.tables import evaluation_table
        from bitbayes.lab.studies.evaluate import evaluate_run

        options = {**vars(self), "device": chosen_device(self.device)}
        show(evaluation_table(evaluate_run(**options)))
