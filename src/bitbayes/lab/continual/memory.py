"""Interface of methods against forgetting, which keep information on old tasks besides the beliefs."""

# ruff: noqa: B027 -- a method overrides only the calls that it needs

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from bitbayes.lab.continual.tasks import Task
from bitbayes.lab.data import DataBundle, TensorData
from bitbayes.lab.train import Experiment, RunConfig


def _plain(value: Any) -> Any:
    """Return a number of NumPy or torch as one of Python."""
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{type(value).__name__} is no number")


class Memory(ABC):
    """Interface of a method against forgetting, which is called at every task and at every step.

    The first calls are `training_data` of the first task and `begin`. For each task, the calls are `training_data`,
    `before_update` and `after_update` at each step, `corrected` at each evaluation, and `end_task`. `state_dict`
    contains all state that a step depends on; training saves it in the checkpoint of the task. Everything else must be
    a function of the tasks, so that an interrupted stream can recreate it.

    Args:
        **options: Options of the method, for summary.json.

    Example:
        >>> class Frozen(Memory):
        ...     name = "frozen"
        ...
        ...     def begin(self, experiment):
        ...         self.first, self.done = next(experiment.model.parameters()), 0
        ...
        ...     def before_update(self):
        ...         self.first.grad *= self.done == 0  # the first layer learns from the first task alone
        ...
        ...     def end_task(self, task, experiment, config):
        ...         self.done += 1
        ...
        ...     def bytes(self):
        ...         return 0
        >>> Frozen().options
        {}
    """

    name: ClassVar[str]
    mixes: ClassVar[bool] = False
    """Whether batches of training mix the tasks, so that all tasks share BatchNorm statistics by default."""

    def __init__(self, **options: Any) -> None:
        try:
            # As summary.json has them, to which they are compared.
            self.options = json.loads(json.dumps(options, default=_plain))
        except TypeError as error:
            raise ValueError(f"options of a method are numbers, text and lists of them, got {options}") from error

    def begin(self, experiment: Experiment) -> None:
        """Prepare for an untrained network; raise ValueError if the method does not support it."""

    def training_data(self, task: Task, config: RunConfig) -> DataBundle[TensorData]:
        """Return the training data for a task."""
        return task.data

    def before_update(self) -> None:
        """Change the gradients of the task's loss, for example by adding those of a penalty."""

    def after_update(self) -> None:
        """Process a step of the weights."""

    def end_task(self, task: Task, experiment: Experiment, config: RunConfig) -> None:
        """Process the end of a task's training."""

    def corrected(self, experiment: Experiment, config: RunConfig, *, mixed: bool) -> Experiment:
        """Return the experiment to evaluate: the given one, or a copy with a better network. The stream is unchanged.

        Args:
            experiment: Experiment of the stream.
            config: Configuration of the task.
            mixed: Whether one set of BatchNorm statistics serves all tasks.
        """
        return experiment

    def examples_seen(self) -> list[TensorData]:
        """Return training examples of each task so far, the newest last, for BatchNorm statistics at every evaluation.

        Without examples, each task uses the statistics from the end of its training.
        """
        return []

    @abstractmethod
    def bytes(self) -> int:
        """Return the number of bytes that are kept between tasks."""

    def state_dict(self) -> dict[str, Any]:
        """Return the tensors that a step depends on."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""


class NoMemory(Memory):
    """Method "none", which keeps only the network and its beliefs."""

    name: ClassVar[str] = "none"

    def bytes(self) -> int:
        """Return 0."""
        return 0
