"""The command for streams of tasks, as a dataclass for tyro: continual."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from bitbayes.lab.cli.train import Name, chosen_device, parsed_options, tyro

__all__ = ["Continual", "ContinualCommand"]


@dataclass
class Continual:
    """Learns one task after another; continues where it was interrupted.

    Args:
        stream: permuted-mnist or split-mnist.
        tasks: Number of tasks of permuted-mnist.
        scenario: Of split-mnist: task, domain or class.
        rule: Learning rule: bayesbinn can take yesterday's posterior as today's prior, ste:metaplastic damps steps of
            large latent weights towards zero.
        estimator: Of bayesbinn: straight-through, concrete or released; the recipe's by default.
        prior: Whether it does.
        prior_decay: Relaxation of that prior: 1 keeps all of it, 0.9 about the last ten tasks.
        ess_decay: Factor of ess from task to task; by default 0.55 with a prior (nearer to 1 for more than five tasks),
            1 without a prior or with a relaxed one.
        method: What is kept of old tasks beside the beliefs: none, coreset, replay, or for full-precision ewc or si.
        method_set: Options of the method, as NAME=VALUE.
        statistics: BatchNorm statistics at test time: task (kept from the end of each task) or shared (the newest);
            task by default, but shared for replay and for the scenarios domain and class.
        curve_examples: Test examples of every task that accuracy is measured on after every epoch; 0 for none.
        epochs: Of each task; the recipe's by default.
        samples: Networks that the mean averages over at test time.
        lr: Learning rate of the binary weights; the recipe's by default.
        seed: Seed of the run and of the permutations.
        data: Folder or hub id of MNIST.
        device: cpu, cuda, ...; auto takes a GPU if there is one.
        out: Folder of the stream; runs/STREAM-RULE[-ESTIMATOR]-seedS, and what is unusual, by default.
        set: Options of the rule, as NAME=VALUE.
    """

    stream: Name
    tasks: int = 5
    scenario: Literal["task", "domain", "class"] = "task"
    rule: str = "bayesbinn"
    estimator: str | None = None
    prior: bool = True
    prior_decay: float = 1.0
    ess_decay: float | None = None
    method: str = "none"
    method_set: tuple[str, ...] = ()
    statistics: Literal["task", "shared"] | None = None
    curve_examples: int = 1000
    epochs: int | None = None
    samples: int | None = None
    lr: float | None = None
    seed: int = 1
    data: str | None = None
    device: str = "auto"
    out: str | None = None
    set: tuple[str, ...] = ()

    def run(self) -> None:
        """Trains, prints the matrix and draws it."""
        from bitbayes.lab.report.figures import stream_figures
        from bitbayes.lab.report.tables import show, stream_table
        from bitbayes.lab.studies.streams import run_continual

        choices: dict[str, Any] = {
            **vars(self),
            "device": chosen_device(self.device),
            "options": parsed_options(self.set),
        }
        choices["method_options"] = parsed_options(choices.pop("method_set"), "--method-set")
        choices.pop("set")
        result = run_continual(choices.pop("stream"), **choices)
        written = ", ".join(map(str, stream_figures(result.folder)))
        show(stream_table(result.summary), f"written: {result.folder}/summary.json, {written}")


ContinualCommand = Annotated[Continual, tyro.conf.subcommand("continual")]
