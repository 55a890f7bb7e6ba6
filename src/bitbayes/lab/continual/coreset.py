"""Coresets (Nguyen et al., ICLR 2018, Algorithm 1): a few examples of every task that only a copy of the belief sees.

They are set aside before a task is learned, so that the belief q̃ which goes from task to task has not seen them. Before
each evaluation a copy is fitted to the coresets C of all tasks so far, with q̃ as its prior,

    q ∝ q̃ · p(C | w)

and predicts in its place. What the copy has learned is thrown away: the stream goes on with q̃, as if nobody had looked.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import ClassVar, Literal

import torch

from bitbayes.continual import advance_prior
from bitbayes.lab.continual.buffer import bytes_of, chosen, joined, k_center, shuffled
from bitbayes.lab.continual.memory import Memory
from bitbayes.lab.continual.tasks import Task
from bitbayes.lab.data import DataBundle, TensorData
from bitbayes.lab.train import COSINE_BY_STEPS, Experiment, RunConfig
from bitbayes.lab.train.experiment import continue_experiment
from bitbayes.lab.train.schedule import advance
from bitbayes.lab.train.step import training_step
from bitbayes.noise import stream_key
from bitbayes.rules import BayesBiNN, checks

__all__ = ["Coreset"]

_FIT_STREAM = 33


class Coreset(Memory):
    """Keeps a few examples of every task, and fits a copy of the network to all of them before each evaluation.

    Any rule can have one. For BayesBiNN the copy's prior is the belief as it is, and each kept example counts
    `weight` times; other rules are simply trained on. The BatchNorm statistics of old tasks are estimated
    from what is kept of them.

    Args:
        examples: Kept of every task, at most half of them.
        choice: "random", or "k-center": spread over the inputs.
        steps: Of the fit, in batches of the run's size; its learning rate falls by a cosine from that of the run.
            With 0 only the statistics are new.
        weight: Effective examples for each that is kept (BayesBiNN alone).

    Raises:
        ValueError: For options out of range.

    Example:
        >>> Coreset(40, choice="k-center").options
        {'examples': 40, 'choice': 'k-center', 'steps': 300, 'weight': 1.0}
    """

    name: ClassVar[str] = "coreset"

    def __init__(
        self,
        examples: int = 200,
        choice: Literal["random", "k-center"] = "random",
        steps: int = 300,
        weight: float = 1.0,
    ) -> None:
        super().__init__(examples=examples, choice=choice, steps=steps, weight=weight)
        checks.whole(examples, "examples of a coreset", 2)
        checks.option(choice in ("random", "k-center"), "choice of a coreset", "random or k-center", choice)
        checks.whole(steps, "steps of a coreset", 0)
        checks.number(weight, "weight of a coreset", "a positive number")
        self.kept: list[TensorData] = []

    def training_data(self, task: Task, config: RunConfig) -> DataBundle[TensorData]:
        """The task without its coreset, which is chosen by the seed of the run and the number of the task."""
        own = task.data.train
        order = shuffled(len(own), config.seed, len(self.kept))
        count = min(self.options["examples"], len(own) // 2)
        if count < 2:
            raise ValueError(f"{task.name} has {len(own)} training examples, too few to set two of them aside")
        index = order[:count] if self.options["choice"] == "random" else k_center(own, count, int(order[0]))
        self.kept.append(chosen(own, index))
        left = torch.ones(len(own), dtype=torch.bool)
        left[index] = False
        return dataclasses.replace(task.data, train=chosen(own, left.nonzero()[:, 0]))

    def corrected(self, experiment: Experiment, config: RunConfig, *, mixed: bool) -> Experiment:
        """A copy of the network and of its belief, fitted to all coresets."""
        if self.options["steps"] == 0:
            return experiment
        parts = experiment.model, experiment.optimizer, experiment.real_optimizer
        model, optimizer, real = copy.deepcopy(parts)  # in one go: the optimizers hold the model's parameters
        found = dataclasses.replace(experiment, model=model, optimizer=optimizer, real_optimizer=real, hooks=None)
        whole = joined(self.kept)
        fit = self._config(config, len(whole))
        found = continue_experiment(found, fit, dataclasses.replace(experiment.data, train=whole))
        if isinstance(optimizer, BayesBiNN):
            advance_prior(optimizer)
        sources = [whole] if mixed else self.kept  # BatchNorm sees in a batch what it will see in the test
        device = experiment.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(stream_key(config.seed, _FIT_STREAM, len(self.kept)))  # of dropout
            model.train()
            for step in range(self.options["steps"]):
                advance(found.schedulers)
                source = sources[step % len(sources)]
                batch = shuffled(len(source), config.seed, len(self.kept), step)[: config.batch_size or None]
                x, y = next(source.stream([batch], None))
                training_step(fit, found, x, y)
        return dataclasses.replace(found, data=experiment.data, schedulers=[])

    def _config(self, config: RunConfig, kept: int) -> RunConfig:
        """Epochs of one step, and an `ess` of the kept examples."""
        options = {name: value for name, value in config.spec.options.items() if name not in ("ess", "ess_scale")}
        if config.rule == "bayesbinn":
            options["ess"] = self.options["weight"] * kept
        return config.changed(
            options=options,
            schedule=COSINE_BY_STEPS,
            epochs=self.options["steps"],
            stop_after=None,
            batch_size=0,
        )

    def examples_seen(self) -> list[TensorData]:
        """The coresets."""
        return self.kept

    def bytes(self) -> int:
        """Of the coresets."""
        return bytes_of(self.kept)
