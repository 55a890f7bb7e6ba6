"""Methods that keep examples of old tasks: experience replay and coresets."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from bitbayes.continual import advance_prior
from bitbayes.lab.continual.memory import Memory
from bitbayes.lab.continual.tasks import Task
from bitbayes.lab.data import DataBundle, TensorData
from bitbayes.lab.train import COSINE_BY_STEPS, Experiment, RunConfig
from bitbayes.lab.train.experiment import continue_experiment, resolved
from bitbayes.lab.train.loop import training_step
from bitbayes.lab.train.schedule import advance
from bitbayes.noise import stream_key
from bitbayes.rules import BayesBiNN, checks

_CHOICE_STREAM, _FIT_STREAM = 32, 33


class Rehearsal(Memory):
    """Base of methods that keep examples of every task."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.kept: list[TensorData] = []

    def bytes(self) -> int:
        """Return the number of bytes of the kept examples."""
        return sum(part.x.nbytes + part.y.nbytes for part in self.kept)


class Replay(Rehearsal):
    """Experience replay: examples of every old task are kept and trained on again with every new task.

    An epoch of a later task uses the task's examples once and equally many old examples. The kept examples are
    repeated, or thinned out, so that all old tasks together count as much as the new task. The order is shuffled, so on
    average half of a batch is old. Any rule can use replay (Robins 1995; with few examples Chaudhry et al. 2019).

    Args:
        examples: Number of random examples to keep per task, or all of them if the task has fewer.

    Raises:
        ValueError: If no example is kept.

    Example:
        >>> Replay().options
        {'examples': 200}
    """

    name: ClassVar[str] = "replay"
    mixes: ClassVar[bool] = True

    def __init__(self, examples: int = 200) -> None:
        super().__init__(examples=examples)
        checks.whole(examples, "examples of replay", 1)

    def training_data(self, task: Task, config: RunConfig) -> DataBundle[TensorData]:
        """Return the task's own examples and equally many old examples, spread over all old tasks."""
        if not self.kept:
            return task.data
        new, old = task.data.train, joined(self.kept)
        count = torch.arange(len(new))
        repeated = count % len(old) if len(old) <= len(new) else count * len(old) // len(new)
        return dataclasses.replace(task.data, train=new.joined(old.chosen(repeated)))

    def end_task(self, task: Task, experiment: Experiment, config: RunConfig) -> None:
        """Keep some examples, which the seed of the run and the number of the task determine."""
        order = _shuffled(len(task.data.train), config.seed, len(self.kept))
        self.kept.append(task.data.train.chosen(order[: self.options["examples"]]))


class Coreset(Rehearsal):
    """Coresets (Nguyen et al., ICLR 2018, Algorithm 1): examples of every task that only a copy of the belief sees.

    The examples are set aside before a task is learned, so the belief q̃ that is passed from task to task has not seen
    them. Before each evaluation, a copy of q̃ is fitted to the coresets C of all tasks so far, with q̃ as its prior,

        q ∝ q̃ · p(C | w)

    and predicts in place of q̃. Then the copy is discarded, and training continues with q̃. Any rule can use a coreset.
    With BayesBiNN, each kept example counts `weight` times; other rules are simply trained on the examples. The
    BatchNorm statistics of old tasks are estimated from the kept examples.

    Args:
        examples: Number of examples to keep per task, at most half of them.
        choice: "random", or "k-center" for examples that are spread over the inputs.
        steps: Number of steps of the fit, with the batch size of the run and a cosine schedule that starts at the run's
            learning rate. With 0 steps, only the BatchNorm statistics change.
        weight: Effective number of examples per kept example (only for BayesBiNN).

    Raises:
        ValueError: If an option is out of range.

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

    def training_data(self, task: Task, config: RunConfig) -> DataBundle[TensorData]:
        """Return the task without its coreset, which the seed of the run and the number of the task determine."""
        own = task.data.train
        order = _shuffled(len(own), config.seed, len(self.kept))
        count = min(self.options["examples"], len(own) // 2)
        if count < 2:
            raise ValueError(f"{task.name} has {len(own)} training examples, too few for a coreset of two examples")
        index = order[:count] if self.options["choice"] == "random" else k_center(own, count, int(order[0]))
        self.kept.append(own.chosen(index))
        left = torch.ones(len(own), dtype=torch.bool)
        left[index] = False
        return dataclasses.replace(task.data, train=own.chosen(left))

    def corrected(self, experiment: Experiment, config: RunConfig, *, mixed: bool) -> Experiment:
        """Return a copy of the network and its belief that is fitted to all coresets."""
        if self.options["steps"] == 0:
            return experiment
        parts = experiment.model, experiment.optimizer, experiment.real_optimizer
        model, optimizer, real = copy.deepcopy(parts)  # together, because optimizers hold the model's parameters
        found = dataclasses.replace(experiment, model=model, optimizer=optimizer, real_optimizer=real, hooks=None)
        whole = joined(self.kept)
        rate = resolved(config, len(experiment.data.train)).lr  # of the run: a fit has other numbers of steps
        fit = self._config(config if rate is None else config.changed(lr=rate), len(whole))
        found = continue_experiment(found, fit, dataclasses.replace(experiment.data, train=whole))
        if isinstance(optimizer, BayesBiNN):
            advance_prior(optimizer)
        sources = [whole] if mixed else self.kept  # BatchNorm sees the same mixture in a batch as in the test
        device = experiment.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(stream_key(config.seed, _FIT_STREAM, len(self.kept)))  # of dropout
            model.train()
            for step in range(self.options["steps"]):
                advance(found.schedulers)
                source = sources[step % len(sources)]
                batch = _shuffled(len(source), config.seed, len(self.kept), step)[: config.batch_size or None]
                x, y = next(source.batches([batch]))
                training_step(fit, found, x, y)
        return dataclasses.replace(found, data=experiment.data, schedulers=[])

    def _config(self, config: RunConfig, kept: int) -> RunConfig:
        """Return a configuration with epochs of one step, and an `ess` for the kept examples."""
        options = {name: value for name, value in config.spec.options.items() if name not in ("ess", "ess_scale")}
        if config.rule == "bayesbinn":
            options["ess"] = self.options["weight"] * kept
        return config.changed(
            options=options, schedule=COSINE_BY_STEPS, epochs=self.options["steps"], stop_after=None, batch_size=0
        )

    def examples_seen(self) -> list[TensorData]:
        """Return the coresets."""
        return self.kept


def joined(parts: Sequence[TensorData]) -> TensorData:
    """Return one or several sets of examples as one set."""
    return functools.reduce(TensorData.joined, parts)


def k_center(data: TensorData, count: int, first: int) -> Tensor:
    """Choose positions by greedy k-center (Gonzalez 1985): each next example is the farthest from all chosen examples.

    Args:
        data: Examples, whose distances are Euclidean distances between inputs.
        count: Number of examples to choose, at most as many as there are.
        first: Position of the first chosen example.

    Example:
        >>> data = TensorData(torch.tensor([[0.0], [1.0], [9.0], [5.0]]), torch.zeros(4))
        >>> k_center(data, 3, first=0)
        tensor([0, 2, 3])
    """
    flat = data.x.flatten(1).float()
    nearest = torch.full((len(flat),), float("inf"), device=flat.device)
    found = [first]
    for _ in range(count - 1):
        nearest = torch.minimum(nearest, (flat - flat[found[-1]]).square_().sum(1))
        nearest[found[-1]] = -1.0  # never chosen again, even if inputs are equal
        found.append(int(nearest.argmax()))
    return torch.tensor(found)


def _shuffled(count: int, seed: int, *path: int) -> Tensor:
    """Return a permutation on the CPU, which the seed and the counters in `path` determine."""
    generator = torch.Generator().manual_seed(stream_key(seed, _CHOICE_STREAM, *path))
    return torch.randperm(count, generator=generator)
