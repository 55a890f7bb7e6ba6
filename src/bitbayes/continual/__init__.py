"""Continual learning: yesterday's posterior is today's prior, and what else is done against forgetting."""

from bitbayes.continual.coreset import Coreset
from bitbayes.continual.ewc import EWC, fisher_diagonal
from bitbayes.continual.matrix import AccuracyMatrix
from bitbayes.continual.memory import Memory
from bitbayes.continual.prior import advance_prior
from bitbayes.continual.replay import Replay
from bitbayes.continual.run import StreamResult, run_stream
from bitbayes.continual.si import SI
from bitbayes.continual.tasks import Task, permuted_tasks, split_tasks

__all__ = [
    "EWC",
    "SI",
    "AccuracyMatrix",
    "Coreset",
    "Memory",
    "Replay",
    "StreamResult",
    "Task",
    "advance_prior",
    "fisher_diagonal",
    "permuted_tasks",
    "run_stream",
    "split_tasks",
]
