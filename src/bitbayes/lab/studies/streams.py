"""Streams of tasks: permuted MNIST as in the BayesBiNN paper (Figure 5) and split MNIST; methods against forgetting."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import torch

from bitbayes import nn
from bitbayes.errors import nearest
from bitbayes.lab.continual import (
    EWC,
    SI,
    Coreset,
    Memory,
    NoMemory,
    Replay,
    StreamResult,
    StreamSettings,
    Task,
    permuted_tasks,
    run_stream,
    split_tasks,
)
from bitbayes.lab.continual.tasks import Scenario
from bitbayes.lab.data import load_mnist
from bitbayes.lab.recipes.base import Recipe, RuleSpec, loading
from bitbayes.lab.recipes.configure import make_config
from bitbayes.lab.train import COSINE_BY_STEPS, CROSS_ENTROPY, PAIRED, Progress
from bitbayes.lab.train.machine import tuned_for

__all__ = ["METHODS", "STREAMS", "find_method", "run_continual"]

# Found on five tasks of permuted MNIST; see docs/log.md.
_RULES = {
    "full-precision": RuleSpec(1e-3),
    "ste": RuleSpec(1e-2),
    # Laborieux et al. 2021; latent weights must be free to grow for metaplasticity to hold them.
    "ste:metaplastic": RuleSpec(5e-3, {"metaplasticity": 1.35, "clip": None}),
    "bayesbinn:straight-through": RuleSpec(3e-3, {"ess_scale": 1.0, "init_lambda": 0.1}, COSINE_BY_STEPS),
    # The published rule and τ. The published run also had 100 epochs a task, 100 networks at test time, BatchNorm
    # statistics that all tasks share, no logit scale, and the same `ess` for all tasks.
    "bayesbinn:released": RuleSpec(1e-3, {"ess_scale": 1.0, "tau": 1e-2}),
}

# Of five tasks of permuted MNIST, found in the same runs. The factor says that the last of five counts a tenth of the
# first; in longer streams the last one still does, as nothing could be learned at 0.55⁴⁹.
_ESS_DECAY, _TASKS = 0.55, 5


def _default_ess_decay(tasks: int, prior: bool, prior_decay: float) -> float:
    """Factor of `ess` from task to task; a prior that is relaxed makes room for later tasks by itself."""
    if not prior or prior_decay < 1:
        return 1.0
    return _ESS_DECAY ** ((_TASKS - 1) / max(tasks - 1, _TASKS - 1))


def _network(outputs: int) -> torch.nn.Module:
    """The paper's 784-100-100-10; with a logit scale, which its last BatchNorm needs to be sure of anything."""
    network = nn.mlp(784, [100, 100], outputs, logit_scale=False)
    return network.append(nn.LogitScale(6.0))


def _stream(name: str, title: str) -> Recipe:
    return Recipe(
        name=name,
        title=title,
        source="Meng, Bachmann & Khan, ICML 2020, Table 13 and Figure 5",
        network=lambda: _network(10),
        load=loading(load_mnist, validation=0.0),
        loss=CROSS_ENTROPY,
        epochs=20,
        batch_size=100,
        rules=_RULES,
        predict_samples=50,
        seed=1,
    )


STREAMS = {
    "permuted-mnist": _stream("permuted-mnist", "permuted MNIST, MLP 784-100-100-10"),
    "split-mnist": _stream("split-mnist", "split MNIST, two classes a task, MLP 784-100-100-10"),
}
"""Streams by the names of the command line."""

METHODS: dict[str, type[Memory]] = {method.name: method for method in (NoMemory, Coreset, Replay, EWC, SI)}
"""What is kept of old tasks beside the beliefs, by the names of the command line."""


def find_method(method: str, options: Mapping[str, Any]) -> Memory:
    """Makes a method against forgetting.

    Args:
        method: Name in `METHODS`.
        options: Its keywords.

    Returns:
        The memory of a new stream.

    Raises:
        ValueError: If there is no such method, or it has no such option.

    Example:
        >>> find_method("si", {"strength": 0.5}).options
        {'strength': 0.5, 'damping': 0.1}
    """
    if method not in METHODS:
        raise nearest("method", method, METHODS)
    known = METHODS[method]().options
    for name in options:
        if name not in known:
            raise ValueError(f"method {method} has no option {name!r}; it has: {', '.join(known) or 'none'}")
    return METHODS[method](**options)


def run_continual(
    stream: str,
    *,
    tasks: int = 5,
    scenario: Scenario = "task",
    rule: str = "bayesbinn",
    estimator: str | None = None,
    prior: bool = True,
    prior_decay: float = 1.0,
    ess_decay: float | None = None,
    statistics: Literal["task", "shared"] | None = None,
    method: str = "none",
    method_options: Mapping[str, Any] | None = None,
    curve_examples: int = 1000,
    samples: int | None = None,
    data: str | None = None,
    seed: int = 1,
    progress: Progress | None = None,
    note: Callable[[str], None] = print,
    **choices: Any,
) -> StreamResult:
    """Trains on a stream, or continues one.

    Args:
        stream: Name in `STREAMS`.
        tasks: Number of permutations.
        scenario: Of split-mnist, see `split_tasks`.
        rule: Learning rule.
        estimator: Of BayesBiNN.
        prior: Whether the posterior of a task is the prior of the next; only BayesBiNN has one.
        prior_decay: Its relaxation.
        ess_decay: Factor of `ess` from task to task, see `StreamSettings`. None for 0.55 in streams of up to five
            tasks, nearer to 1 in longer ones so that the last task counts as much as the fifth of five, and 1 with a
            relaxed prior or without one.
        statistics: BatchNorm statistics at test time, see `StreamSettings`. None for "task", but "shared" for replay,
            whose batches mix the tasks, and for the scenarios domain and class, where the task of an input is unknown.
        method: What is kept of old tasks beside the beliefs, in `METHODS`.
        method_options: Its keywords.
        curve_examples: Test examples a task that accuracy is measured on after every epoch; 0 for none.
        samples: Networks at test time; None for the recipe's.
        data: Folder or hub id of MNIST.
        seed: Of the run and of the permutations.
        progress: Display of each task.
        note: Told of each task as it ends.
        **choices: Other arguments of `make_config`.

    Returns:
        The accuracies.

    Raises:
        ValueError: For a stream, method or setting that does not exist, or a method that does not suit the rule.
    """
    if stream not in STREAMS:
        raise nearest("stream", stream, STREAMS)
    recipe = STREAMS[stream]
    memory = find_method(method, method_options or {})
    config = make_config(recipe, rule, estimator=estimator, seed=seed, data=data, predict_samples=samples, **choices)
    has_prior, split = rule.startswith("bayesbinn"), stream == "split-mnist"
    if choices.get("out") is None:
        unusual = {
            method: memory.name != "none",
            scenario: split and scenario != "task",
            "no-prior": has_prior and not prior,
            f"decay{prior_decay:g}": prior_decay != 1,
            f"{tasks}-tasks": not split and tasks != 5,
        }
        suffix = "".join(f"-{name}" for name, is_so in unusual.items() if is_so)
        config = dataclasses.replace(config, out=config.out + suffix)
    prior = prior and has_prior
    if statistics is None:
        statistics = "shared" if method == "replay" or (split and scenario != "task") else "task"
    bundle = recipe.load(config.data, torch.device(config.device), seed)
    made: Iterator[Task]
    if split:
        tasks, made = bundle.classes // 2, split_tasks(bundle, scenario)
    else:
        made = permuted_tasks(bundle, tasks, seed=seed)
    if ess_decay is None:
        ess_decay = _default_ess_decay(tasks, prior, prior_decay)
    settings = StreamSettings(scenario if split else None, prior, prior_decay, ess_decay, statistics, curve_examples)
    outputs = 2 if split and scenario == "domain" else 10
    with tuned_for(recipe):
        return run_stream(
            config,
            made,
            lambda: _network(outputs),
            settings,
            loss=PAIRED if split and scenario == "task" else CROSS_ENTROPY,
            memory=memory,
            count=tasks,
            progress=progress,
            note=note,
        )
