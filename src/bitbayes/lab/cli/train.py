"""The commands for single runs, as dataclasses for tyro: recipes, train, evaluate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from bitbayes.lab.choices import Overrides
from bitbayes.lab.cli.shared import Flag, Name, chosen_device, options_of, parsed_options, placed, tyro


@dataclass
class Recipes:
    """Lists every experiment: data, network, rules, published figures."""

    def run(self) -> None:
        """Print the table."""
        from bitbayes.lab.recipes import RECIPES
        from bitbayes.lab.report.tables import recipes_table, show

        show(recipes_table(RECIPES.values()))


@dataclass(kw_only=True)
class Train:
    """Trains one network.

    Args:
        recipe: The experiment; `bitbayes recipes` lists them.
        rule: Learning rule: full-precision, ste, bop, bop2, pmf, md, proxquant, adaste, bayesbinn, vispa; with
            bayesbinn:default the one setting that needs no search.
        seeds: Number of runs, with seeds that follow each other; their folders are OUT/seed1, ...
        jobs: Runs at a time, in processes of their own.
        resume: Continues the run in that folder from its checkpoint; refused where there is none.
        set: Options of the rule, as NAME=VALUE.
        tensorboard: Also writes the metrics as event files for TensorBoard into the folder of the run.
    """

    recipe: Name
    rule: str = "bayesbinn"
    seeds: int = 1
    jobs: int = 1
    resume: Flag = False
    set: tuple[str, ...] = ()
    tensorboard: Flag = False
    given: Annotated[Overrides, options_of(Overrides)]

    def run(self) -> None:
        """Train, on all processes that torchrun has started, and print the summary."""
        from bitbayes.lab.recipes import make_config, run_recipe
        from bitbayes.lab.report.tables import show, summary_table
        from bitbayes.lab.train import EventProgress, default_progress
        from bitbayes.lab.train.distributed import joined, restarted
        from bitbayes.lab.train.folder import require_checkpoint

        given = placed(self.given, options=parsed_options(self.set))
        if (self.seeds, self.jobs) != (1, 1):
            self._several(given)
            return
        with joined(given.device) as device:
            config = make_config(self.recipe, self.rule, given, device=device)
            if self.resume and not restarted():  # torchrun may restart what had no checkpoint yet
                require_checkpoint([config.out])
            progress = EventProgress(default_progress(), config.out) if self.tensorboard else None
            result = run_recipe(config, resume=self.resume or restarted(), progress=progress)
        if result.summary is not None:  # that only the first process has
            show(summary_table(result.summary, result.folder))

    def _several(self, given: Overrides) -> None:
        from bitbayes.lab.recipes import find_recipe, full_name
        from bitbayes.lab.report import results, tables
        from bitbayes.lab.studies.several import make_configs, run_several
        from bitbayes.lab.studies.tables import TableRow
        from bitbayes.lab.train.distributed import under_torchrun
        from bitbayes.lab.train.folder import require_checkpoint

        if self.seeds == 1:
            raise ValueError(f"--jobs {self.jobs} is for several runs; say how many with --seeds")
        if self.tensorboard:
            raise ValueError("--tensorboard follows one run; leave out --seeds, or --tensorboard")
        if under_torchrun():
            raise ValueError("--seeds runs in one process or in its own; leave out torchrun, or --seeds")
        recipe = find_recipe(self.recipe)
        configs = make_configs(self.recipe, self.rule, self.seeds, given)
        rule = full_name(recipe, self.rule, given.estimator)
        if self.resume:
            require_checkpoint([config.out for config in configs])
        tables.show(results.results_table(None, recipe, [TableRow(str(rule), run_several(configs, jobs=self.jobs))]))


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
        """Evaluate, and print the table."""
        from bitbayes.lab.report.tables import evaluation_table, show
        from bitbayes.lab.studies.evaluate import evaluate_run

        options = {**vars(self), "device": chosen_device(self.device)}
        show(evaluation_table(evaluate_run(**options)))
