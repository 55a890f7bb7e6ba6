"""Continual learning: yesterday's posterior is today's prior, and what else is done against forgetting."""

from bitbayes.lab.continual.coreset import Coreset
from bitbayes.lab.continual.ewc import EWC, fisher_diagonal
from bitbayes.lab.continual.matrix import AccuracyMatrix
from bitbayes.lab.continual.memory import Memory
from bitbayes.lab.continual.replay import Replay
from bitbayes.lab.continual.run import StreamResult, run_stream
from bitbayes.lab.continual.si import SI
from bitbayes.lab.continual.tasks import Task, permuted_tasks, split_tasks

__all__ = [
    "EWC",
    "SI",
    "AccuracyMatrix",
    "Coreset",
    "Memory",
    "Replay",
    "StreamResult",
    "Task",
    "fisher_diagonal",
    "permuted_tasks",
    "run_stream",
    "split_tasks",
]
