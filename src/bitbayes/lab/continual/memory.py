"""What is kept of old tasks beside the network and its beliefs: the interface of the methods in this folder."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from bitbayes.lab.continual.tasks import Task
from bitbayes.lab.data import DataBundle, TensorData
from bitbayes.lab.train import Experiment, RunConfig

__all__ = ["Memory", "real_parameters"]


class Memory:
    """Called at every task and at every step of a stream; this one keeps nothing.

    The order of the calls: `training_data` of the first task, `begin`, and for every task `training_data`, for each of
    its steps `before_update` and `after_update`, for each evaluation `corrected`, and `end_task`. What a step depends
    on is in `state_dict`, which training keeps in the checkpoint of the task; the rest is a function of the tasks, so
    that a stream which continues finds it again.

    Args:
        **options: As they go into summary.json.

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
        >>> Frozen().options
        {}
    """

    name: ClassVar[str] = "none"

    def __init__(self, **options: Any) -> None:
        self.options = options

    def begin(self, experiment: Experiment) -> None:
        """The network is there, and has not learned yet; refuses what the method cannot protect."""

    def training_data(self, task: Task, config: RunConfig) -> DataBundle[TensorData]:
        """What is trained on while the task is learned."""
        return task.data

    def before_update(self) -> None:
        """The gradients of the task's loss are there; may add those of a penalty."""

    def after_update(self) -> None:
        """The weights have moved."""

    def end_task(self, task: Task, experiment: Experiment, config: RunConfig) -> None:
        """The task has been learned."""

    def corrected(self, experiment: Experiment, config: RunConfig, *, mixed: bool) -> Experiment:
        """What is evaluated: the network as it is, or a copy that has been made ready; the stream goes on as it was.

        Args:
            experiment: Of the stream.
            config: Of the task.
            mixed: Whether one set of BatchNorm statistics serves all tasks.

        Returns:
            The experiment, or another.
        """
        return experiment

    def examples_seen(self) -> list[TensorData]:
        """Training examples of every task so far, the newest last, for new BatchNorm statistics at every evaluation.

        Without any, the statistics are those of the end of each task.
        """
        return []

    def bytes(self) -> int:
        """Bytes that are kept from task to task."""
        return _bytes(self.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """What a step depends on."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Puts it back."""


def _bytes(value: Any) -> int:
    """Of all tensors in dictionaries of dictionaries."""
    if isinstance(value, Tensor):
        return value.nbytes
    return sum(map(_bytes, value.values())) if isinstance(value, dict) else 0


def real_parameters(experiment: Experiment, name: str) -> dict[str, Tensor]:
    """The parameters that a penalty on the distance from old weights can hold.

    Args:
        experiment: Of the stream.
        name: Of the method, for the message.

    Returns:
        Live parameters by name.

    Raises:
        ValueError: If a rule trains binary weights: they hold draws, which are never near anything.
    """
    if experiment.optimizer is not None:
        raise ValueError(
            f"{name} holds real weights in place, but {type(experiment.optimizer).__name__} trains binary ones; "
            "take rule full-precision, or for binary ones method replay, rule ste:metaplastic or the prior of bayesbinn"
        )
    return {key: value for key, value in experiment.model.named_parameters() if value.requires_grad}
