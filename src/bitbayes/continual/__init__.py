"""Continual learning: yesterday's posterior is today's prior."""

from bitbayes.continual.matrix import AccuracyMatrix
from bitbayes.continual.prior import advance_prior
from bitbayes.continual.run import StreamResult, run_stream
from bitbayes.continual.tasks import Task, permuted_tasks, split_tasks

__all__ = [
    "AccuracyMatrix",
    "StreamResult",
    "Task",
    "advance_prior",
    "permuted_tasks",
    "run_stream",
    "split_tasks",
]
