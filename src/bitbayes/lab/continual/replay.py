"""Experience replay: some examples of every old task are kept, and learned again with every new one.

An epoch of a later task goes through its examples once, and through as many old ones: the buffer, repeated, so that all
old tasks together count as much as the new one. The order is shuffled as always, so a batch is half old and half new.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch

from bitbayes.lab.continual.buffer import bytes_of, chosen, joined, shuffled
from bitbayes.lab.continual.memory import Memory
from bitbayes.lab.continual.tasks import Task
from bitbayes.lab.data import DataBundle, TensorData
from bitbayes.lab.train import Experiment, RunConfig
from bitbayes.rules import checks

__all__ = ["Replay"]


class Replay(Memory):
    """Keeps examples of every task at random, for any rule (Robins 1995; with a small buffer Chaudhry et al. 2019).

    Args:
        examples: Kept of every task; all, if it has fewer.

    Raises:
        ValueError: If none is kept.

    Example:
        >>> Replay().options
        {'examples': 200}
    """

    name: ClassVar[str] = "replay"

    def __init__(self, examples: int = 200) -> None:
        super().__init__(examples=examples)
        checks.whole(examples, "examples of replay", 1)
        self.kept: list[TensorData] = []

    def training_data(self, task: Task, config: RunConfig) -> DataBundle[TensorData]:
        """The task's own examples, and as many old ones."""
        if not self.kept:
            return task.data
        new, old = task.data.train, joined(self.kept)
        again = chosen(old, torch.arange(len(new)) % len(old))
        return dataclasses.replace(task.data, train=new.joined(again))

    def end_task(self, task: Task, experiment: Experiment, config: RunConfig) -> None:
        """Keeps some examples, chosen by the seed of the run and the number of the task."""
        order = shuffled(len(task.data.train), config.seed, len(self.kept))
        self.kept.append(chosen(task.data.train, order[: self.options["examples"]]))

    def bytes(self) -> int:
        """Of the buffer."""
        return bytes_of(self.kept)
