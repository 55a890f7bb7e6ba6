"""Settings that users choose, from Python or on the command line. This module needs the standard library alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Budget = Literal["paper", "quick"]
"""Hyper-parameters and length of a run: those that were published, or a short schedule with its own."""


@dataclass(frozen=True)
class Overrides:
    """Choices that go before those of a recipe; None is the recipe's own.

    Args:
        estimator: Gradient estimator of bayesbinn: straight-through, concrete or released; the recipe's by default.
        data: Folder or hub id of the data; the recipe's hub id by default.
        epochs: Number of epochs of the schedule; the published number by default.
        stop_after: Epoch of the schedule after which the run ends; the last one by default.
        seed: Seed of the run, or of the first of several; the recipe's by default.
        device: cpu, cuda, ...; auto takes a GPU if there is one.
        precision: fp32, bf16, or auto to measure which of them is faster.
        capture: Record whole steps as a CUDA graph, and repeat them.
        protocol: validation (best validation epoch), or test (VISPA's paper: best test epoch, all training data).
        out: Folder of the run; runs/RECIPE-RULE[-ESTIMATOR]-seedS by default.
        budget: Hyper-parameters for the published schedule (paper) or for a short one (quick).
        lr: Learning rate of the binary weights; the recipe's by default.
        real_lr: Learning rate of the real parameters; the recipe's by default.
        batch_size: Number of examples per step, or 0 for all training data in one batch; the recipe's by default.
        accumulate: Number of parts that a batch is processed in, one after the other, which needs less memory; 1 by
            default.
        samples: Number of draws per step; the recipe's by default.
        dropout: Probability of every dropout layer; that of the network by default.
        options: Options of the rule by name, on top of the recipe's.
    """

    estimator: str | None = None
    data: str | None = None
    epochs: int | None = None
    stop_after: int | None = None
    seed: int | None = None
    device: str = "cpu"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    capture: bool = False
    protocol: Literal["validation", "test"] = "validation"
    out: str | None = None
    budget: Budget = "paper"
    lr: float | None = None
    real_lr: float | None = None
    batch_size: int | None = None
    accumulate: int | None = None
    samples: int | None = None
    dropout: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TableChoice:
    """Runs of a table.

    Args:
        dataset: Recipe of the runs; that of the published table by default.
        seeds: Number of runs of every rule; the budget's by default.
        rules: Rules of the table, such as ste or bayesbinn:straight-through; all by default.
        jobs: Number of runs at a time, each in a process of its own.
    """

    dataset: str | None = None
    seeds: int | None = None
    rules: tuple[str, ...] = ()
    jobs: int = 1


@dataclass(frozen=True)
class StreamChoice:
    """How a stream of tasks is learned.

    Args:
        tasks: Number of tasks of permuted-mnist.
        scenario: Scenario of split-mnist: task, domain or class.
        prior: Use each task's posterior as the prior of the next task.
        prior_decay: Share of the prior that is kept from task to task: 1 keeps all of it, 0.9 about the last ten tasks.
        ess_decay: Factor of ess from task to task; by default 0.55 with a prior (nearer to 1 for more than five tasks),
            1 without a prior or with a relaxed one.
        method: Method against forgetting: none, coreset or replay; for full-precision also ewc or si.
        method_options: Options of the method by name.
        statistics: BatchNorm statistics at test time: task (kept from the end of each task) or shared (the
            newest); task by default, but shared for replay and for the scenarios domain and class.
        curve_examples: Number of test examples of every task on which accuracy is measured after every epoch; 0 for
            none.
    """

    tasks: int = 5
    scenario: Literal["task", "domain", "class"] = "task"
    prior: bool = True
    prior_decay: float = 1.0
    ess_decay: float | None = None
    method: str = "none"
    method_options: Mapping[str, Any] = field(default_factory=dict)
    statistics: Literal["task", "shared"] | None = None
    curve_examples: int = 1000
