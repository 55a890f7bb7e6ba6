"""The commands for single runs, as dataclasses for tyro: recipes, train, evaluate."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from bitbayes.lab.choices import Overrides, Views
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
    """List all recipes: their data, networks, rules and published results."""

    def run(self) -> None:
        """Print the table."""
        from bitbayes.lab.recipes import RECIPES
        from bitbayes.lab.report.tables import recipes_table

        show(recipes_table(RECIPES.values()))
        show(
            "A recipe of your own is a Python file: `bitbayes new my_recipe.py` writes one to begin with, and commands "
            "take my_recipe.py where they take the name of a recipe."
        )


@dataclass(kw_only=True)
class Train(Command):
    """Train one network, several with consecutive seeds, or the members of an ensemble.

    Args:
        recipe: Name of the recipe, or a Python file that defines one; `bitbayes recipes` lists the names.
        seeds: Number of runs, with consecutive seeds. They are written to OUT/seedS, for each seed S.
        members: Number of independent members of an ensemble, which share the epochs of one run: each is trained for
            EPOCHS / MEMBERS epochs with its own seed. They are written to OUT/member1, OUT/member2, ..., and
            `bitbayes evaluate OUT` and `bitbayes pack OUT` take all of them together.
        jobs: Number of runs to train in parallel, each in its own process.
        resume: Continue from the checkpoint in the run's folder. It is an error if there is none.
        set: Options of the rule as NAME=VALUE, such as ess=54000, or ess_scale=1 for 1x the number of training
            examples. An unknown or unused option is an error that lists the rule's options.
        tensorboard: Also write the metrics as TensorBoard event files into the run's folder.
    """

    epilog = """
examples:
  bitbayes train digits --epochs 20
  bitbayes train mnist --rule ste --lr 0.01 --out runs/mnist-ste
  bitbayes train mnist --rule bayesbinn:default --seeds 5 --jobs 2
  bitbayes train digits --rule ste --members 4 --out runs/four
  bitbayes train digits --rule bayesbinn:default --cycles 4 --relax 0.3
"""
    recipe: Name
    rule: Annotated[
        str,
        tyro.conf.arg(help=f"Learning rule: {rule_names()}. bayesbinn:default needs no hyper-parameter search."),
    ] = "bayesbinn"
    seeds: int = 1
    members: int = 1
    jobs: int = 1
    resume: Flag = False
    set: tuple[str, ...] = ()
    tensorboard: Flag = False
    given: Annotated[Overrides, options_of(Overrides)]

    def advice(self, saved: bool) -> str:
        """Return what to do after Ctrl-C: several runs continue by themselves, one run needs --resume."""
        if self._runs_several or self.resume:
            return CONTINUES
        return "give the same command with --resume to continue" if saved else self.again

    @property
    def _runs_several(self) -> bool:
        return (self.seeds, self.members, self.jobs) != (1, 1, 1)

    def run(self) -> None:
        """Train on all processes that torchrun has started, and print the summary."""
        from bitbayes.lab.recipes import make_config, run_recipe
        from bitbayes.lab.recipes.configure import begun_folders
        from bitbayes.lab.report.tables import summary_table
        from bitbayes.lab.train import EventProgress, default_progress
        from bitbayes.lab.train.distributed import joined, restarted
        from bitbayes.lab.train.folder import require_checkpoint
        from bitbayes.lab.train.rules import kept_posterior

        given = placed(self.given, options=parsed_options(self.set))
        if self._runs_several:
            self._several(given)
            return
        with joined(given.device) as device:
            config = make_config(self.recipe, self.rule, given, device=device)
            if self.resume and not restarted():  # torchrun may restart what had no checkpoint yet
                require_checkpoint(begun_folders([config]))
            kept = kept_posterior(config.rule, config.estimator, config.spec)
            progress = EventProgress(default_progress(), config.out) if self.tensorboard else None
            result = run_recipe(config, resume=self.resume or restarted(), progress=progress, about=kept)
        if result.summary is not None:  # that only the first process has
            show(summary_table(result.summary, result.folder))
            if config.cycles > 1:
                show(f"All members together: bitbayes evaluate {shlex.quote(config.out)}")

    def _several(self, given: Overrides) -> None:
        from bitbayes.lab.recipes import full_name, open_recipe
        from bitbayes.lab.recipes.configure import begun_folders
        from bitbayes.lab.report import results
        from bitbayes.lab.studies.several import make_configs, member_configs, run_members, run_several
        from bitbayes.lab.studies.tables import TableRow
        from bitbayes.lab.train.distributed import under_torchrun
        from bitbayes.lab.train.folder import require_checkpoint
        from bitbayes.lab.train.rules import kept_posterior

        if self.seeds != 1 and self.members != 1:
            raise ValueError("--seeds and --members both set a number of runs; give one of them")
        if self.seeds == self.members == 1:
            raise ValueError(f"--jobs {self.jobs} needs several runs; set their number with --seeds or --members")
        what = "--seeds" if self.members == 1 else "--members"
        if self.tensorboard:
            raise ValueError(f"--tensorboard supports one run, got {what}; leave out {what} or --tensorboard")
        if under_torchrun():
            raise ValueError(
                f"{what} starts processes of its own, but torchrun has done so; leave out torchrun or {what}"
            )
        recipe, ensemble = open_recipe(self.recipe), self.members != 1
        make, count = (member_configs, self.members) if ensemble else (make_configs, self.seeds)
        configs = make(self.recipe, self.rule, count, given)
        if self.resume:
            require_checkpoint(begun_folders(configs))
        show(kept_posterior(configs[0].rule, configs[0].estimator, configs[0].spec))
        rule = full_name(recipe, self.rule, given.estimator)
        summaries = (run_members if ensemble else run_several)(configs, jobs=self.jobs)
        show(results.results_table(None, recipe, [TableRow(str(rule), summaries)]))
        if ensemble:
            show(f"All members together: bitbayes evaluate {shlex.quote(str(Path(configs[0].out).parent))}")


@dataclass
class Evaluate(Command):
    """Evaluate a finished run on its test data and write evaluation.json into its folder.

    Args:
        folder: Folder of the finished run, or the folder that holds the members of an ensemble. All members together
            are then measured too.
        samples: Number of posterior samples that the posterior mean averages over, of each member.
        data: Folder or Hugging Face Hub id of the data set, if it has moved since the run was trained.
        unlike: Recipe whose test inputs serve as out-of-distribution data, such as fashion-mnist for a run on MNIST; or
            letters, which are printed in the size of MNIST's digits and need no download. Grey images smaller than
            the run's inputs are centred on black.
        unlike_data: Folder or Hugging Face Hub id of the out-of-distribution data. The recipe sets the default.
        views: Test-time augmentation, which averages the logits of several views of an image. one is the image alone.
            mirror adds the flipped image, and mirror-shift also adds shifted copies of both. The run sets the default.
            Other views replace the figures of evaluation.json, which the report shows.
        device: PyTorch device, such as cpu or cuda. auto selects a GPU if one is available.
        trust: Run the recipe file of the run, a program, although this account has not run it before.
    """

    epilog = """
The table shows accuracy, likelihood, calibration and entropy of the posterior
mode and of the posterior mean side by side.

examples:
  bitbayes evaluate runs/mnist-bayesbinn-released-seed1
  bitbayes evaluate runs/mnist-ste-seed1 --unlike fashion-mnist
  bitbayes evaluate runs/mnist-ste-seed1-members4
"""
    folder: Name
    samples: int = 32
    data: str | None = None
    unlike: str | None = None
    unlike_data: str | None = None
    views: Views | None = None
    device: str = "auto"
    trust: Flag = False

    def run(self) -> None:
        """Evaluate, and print the table."""
        from bitbayes.lab.report.trust import evaluation_table, members_table
        from bitbayes.lab.studies.evaluate import evaluate_run

        options = {**vars(self), "device": chosen_device(self.device)}
        found = evaluate_run(**options)
        show(evaluation_table(found))
        if found.members is not None:
            show(members_table(found))
