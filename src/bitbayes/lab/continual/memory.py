"""Interface of the methods against forgetting: what a stream keeps of old tasks beside the network and its beliefs."""

# ruff: noqa: B027 -- a method overrides only the calls that it needs

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from bitbayes.lab.continual.tasks import Task
from bitbayes.lab.data import DataBundle, TensorData
from bitbayes.lab.train import Experiment, RunConfig


class Memory(ABC):
    """Method against forgetting, which is called at every task and at every step of a stream.

    The order of the calls is `training_data` of the first task, then `begin`. For each task follow `training_data`,
    `before_update` and `after_update` at each of its steps, `corrected` at each evaluation, and `end_task`. What a
    step depends on is in `state_dict`, which training keeps in the checkpoint of the task. Everything else must be a
    function of the tasks, so that a stream which continues finds it again.

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

    def __init__(self, **options: Any) -> None:
        self.options = options

    def begin(self, experiment: Experiment) -> None:
        """Prepare for a network that has not learned yet, or raise ValueError if it cannot be protected."""

    def training_data(self, task: Task, config: RunConfig) -> DataBundle[TensorData]:
        """Return the data to train on while the task is learned."""
        return task.data

    def before_update(self) -> None:
        """Change the gradients of the task's loss, for instance by those of a penalty."""

    def after_update(self) -> None:
        """Take notice of a step of the weights."""

    def end_task(self, task: Task, experiment: Experiment, config: RunConfig) -> None:
        """Take notice of a task that has been learned."""

    def corrected(self, experiment: Experiment, config: RunConfig, *, mixed: bool) -> Experiment:
        """Return what is evaluated: the experiment, or a copy with a better network. The stream goes on unchanged.

        Args:
            experiment: Experiment of the stream.
            config: Configuration of the task.
            mixed: Whether one set of BatchNorm statistics serves all tasks.
        """
        return experiment

    def examples_seen(self) -> list[TensorData]:
        """Return training examples of each task so far, the newest last, for BatchNorm statistics at every evaluation.

        Without examples, each task has the statistics of the end of its training.
        """
        return []

    @abstractmethod
    def bytes(self) -> int:
        """Return the number of bytes that are kept from task to task."""

    def state_dict(self) -> dict[str, Any]:
        """Return the tensors that a step depends on."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""


class NoMemory(Memory):
    """The method "none", which keeps nothing but the network and its beliefs."""

    name: ClassVar[str] = "none"

    def bytes(self) -> int:
        """Return 0."""
        return 0
