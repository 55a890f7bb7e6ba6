"""Continual learning with posteriors as priors, and with other methods against forgetting."""

from bitbayes.lab.continual.accuracy import AccuracyMatrix
from bitbayes.lab.continual.memory import Memory, NoMemory
from bitbayes.lab.continual.penalties import EWC, SI, fisher_diagonal
from bitbayes.lab.continual.rehearsal import Coreset, Replay
from bitbayes.lab.continual.run import StreamResult, StreamSettings, run_stream
from bitbayes.lab.continual.tasks import Task, permuted_tasks, split_tasks

__all__ = [
    "EWC",
    "SI",
    "AccuracyMatrix",
    "Coreset",
    "Memory",
    "NoMemory",
    "Replay",
    "StreamResult",
    "StreamSettings",
    "Task",
    "fisher_diagonal",
    "permuted_tasks",
    "run_stream",
    "split_tasks",
]
