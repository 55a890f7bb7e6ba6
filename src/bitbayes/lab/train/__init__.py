"""The training loop, and the configuration, files and display of a run."""

from bitbayes.lab.choices import Views
from bitbayes.lab.train.config import RunConfig
from bitbayes.lab.train.distributed import Ranks, joined
from bitbayes.lab.train.experiment import Experiment, StepHooks, build_experiment
from bitbayes.lab.train.folder import RunError, RunFolder
from bitbayes.lab.train.loop import DivergedError, Interrupted, RunResult, train
from bitbayes.lab.train.losses import BINARY, CROSS_ENTROPY, NEXT_BYTE, OUTLIER_EXPOSURE, PAIRED, SQUARED, Loss
from bitbayes.lab.train.precision import choose_precision
from bitbayes.lab.train.progress import (
    BarProgress,
    EventProgress,
    LineProgress,
    Progress,
    SilentProgress,
    default_progress,
)
from bitbayes.lab.train.records import EpochRow, Evaluation, Summary
from bitbayes.lab.train.rules import RULES, RuleName, RuleSpec
from bitbayes.lab.train.schedule import COSINE_BY_STEPS, Schedule

__all__ = [
    "BINARY",
    "COSINE_BY_STEPS",
    "CROSS_ENTROPY",
    "NEXT_BYTE",
    "OUTLIER_EXPOSURE",
    "PAIRED",
    "RULES",
    "SQUARED",
    "BarProgress",
    "DivergedError",
    "EpochRow",
    "Evaluation",
    "EventProgress",
    "Experiment",
    "Interrupted",
    "LineProgress",
    "Loss",
    "Progress",
    "Ranks",
    "RuleName",
    "RuleSpec",
    "RunConfig",
    "RunError",
    "RunFolder",
    "RunResult",
    "Schedule",
    "SilentProgress",
    "StepHooks",
    "Summary",
    "Views",
    "build_experiment",
    "choose_precision",
    "default_progress",
    "joined",
    "train",
]
