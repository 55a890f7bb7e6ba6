"""The training loop, its record, its files, and its display."""

from bitbayes.training.config import RunConfig
from bitbayes.training.distributed import Ranks, joined
from bitbayes.training.events import EventProgress
from bitbayes.training.experiment import RULES, Experiment, build_experiment, learning_rate
from bitbayes.training.folder import RunError, RunFolder
from bitbayes.training.hooks import StepHooks
from bitbayes.training.loop import Interrupted, RunResult, train
from bitbayes.training.losses import LOSSES, Loss
from bitbayes.training.precision import choose_precision
from bitbayes.training.progress import (
    BarProgress,
    LineProgress,
    Progress,
    SilentProgress,
    default_progress,
)
from bitbayes.training.schedule import COSINE_BY_STEPS, Schedule

__all__ = [
    "COSINE_BY_STEPS",
    "LOSSES",
    "RULES",
    "BarProgress",
    "EventProgress",
    "Experiment",
    "Interrupted",
    "LineProgress",
    "Loss",
    "Progress",
    "Ranks",
    "RunConfig",
    "RunError",
    "RunFolder",
    "RunResult",
    "Schedule",
    "SilentProgress",
    "StepHooks",
    "build_experiment",
    "choose_precision",
    "default_progress",
    "joined",
    "learning_rate",
    "train",
]
