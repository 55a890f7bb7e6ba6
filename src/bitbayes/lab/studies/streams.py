"""Continual learning: permuted MNIST as in the BayesBiNN paper (Figure 5), split MNIST, methods against forgetting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bitbayes.errors import nearest
from bitbayes.lab import continual
from bitbayes.lab.choices import Overrides, StreamChoice
from bitbayes.lab.recipes import STREAMS, make_config
from bitbayes.lab.recipes.bayesbinn import stream_network
from bitbayes.lab.recipes.configure import open_device
from bitbayes.lab.train import CROSS_ENTROPY, PAIRED, Progress, RunConfig
from bitbayes.lab.train.machine import tuned_for

# The factor for five tasks of permuted MNIST, which was found in the same runs. With it, the last of five tasks counts
# a tenth of the first. In longer streams, the last task also counts a tenth, as nothing could be learned at 0.55⁴⁹.
_ESS_DECAY, _TASKS = 0.55, 5


def _default_ess_decay(tasks: int, prior: bool, prior_decay: float) -> float:
    """Return the default factor of `ess` from task to task; a relaxed prior needs none."""
    if not prior or prior_decay < 1:
        return 1.0
    return _ESS_DECAY ** ((_TASKS - 1) / max(tasks - 1, _TASKS - 1))


def _check_used(config: RunConfig, choice: StreamChoice, split: bool) -> None:
    """Raise ValueError for choices that have no effect on the stream or with the rule."""
    usual = StreamChoice()
    not_split = "permuted-mnist has one scenario; only split-mnist has several"
    without_prior = f"rule {config.rule} has no prior; only bayesbinn does"
    without_ess = f"rule {config.rule} has no ess"
    useless = {
        "tasks": (split, "split-mnist always has five tasks"),
        "scenario": (not split, not_split),
        "prior_decay": (
            config.rule != "bayesbinn" or not choice.prior,
            without_prior if config.rule != "bayesbinn" else "--no-prior leaves nothing to decay",
        ),
        "ess_decay": (not {"ess", "ess_scale"} & config.spec.options.keys(), without_ess),
    }
    for name, (is_so, why) in useless.items():
        if is_so and getattr(choice, name) != getattr(usual, name):
            raise ValueError(f"--{name.replace('_', '-')} has no effect: {why}; leave it out")
    if choice.tasks < 1:
        raise ValueError(f"tasks must be at least 1, got {choice.tasks}")


METHODS: dict[str, type[continual.Memory]] = {
    method.name: method
    for method in (continual.NoMemory, continual.Coreset, continual.Replay, continual.EWC, continual.SI)
}
"""Methods against forgetting by their names on the command line."""


def find_method(method: str, options: Mapping[str, Any]) -> continual.Memory:
    """Construct a method against forgetting from its name in `METHODS` and its options.

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
        if not known:
            raise ValueError(f"method {method} has no options, got {name}")
        if name not in known:
            raise nearest(f"option of method {method}", name, known)
    return METHODS[method](**options)


def run_continual(
    stream: str,
    rule: str = "bayesbinn",
    choice: StreamChoice | None = None,
    given: Overrides | None = None,
    *,
    samples: int | None = None,
    progress: Progress | None = None,
    note: Callable[[str], None] = print,
) -> continual.StreamResult:
    """Train on a sequence of tasks, or continue such a run.

    Args:
        stream: Name in `STREAMS`.
        rule: Learning rule.
        choice: Settings of the stream.
        given: Choices for the run of every task. `seed`, 1 by default, is also the seed of the permutations; `out` is
            the folder of the stream.
        samples: Number of posterior samples at test time; None for the recipe's number.
        progress: Display of each task.
        note: Function that gets a line about each task when it ends.

    Raises:
        ValueError: If a stream, method or setting does not exist, or a method does not support the rule.
    """
    if stream not in STREAMS:
        raise nearest("stream", stream, STREAMS)
    recipe, choice, given = STREAMS[stream], choice or StreamChoice(), given or Overrides()
    if choice.tasks < 1:
        raise ValueError(f"tasks must be at least 1, got {choice.tasks}")
    memory = find_method(choice.method, choice.method_options)
    config = make_config(recipe, rule, given, predict_samples=samples)
    has_prior, split = config.rule == "bayesbinn", stream == "split-mnist"
    known = not split or choice.scenario == "task"  # whether the task of an input is known at test time
    _check_used(config, choice, split)
    if given.out is None:
        unusual = {
            choice.method: memory.name != "none",
            choice.scenario: not known,
            "no-prior": has_prior and not choice.prior,
            f"decay{choice.prior_decay:g}": choice.prior_decay != 1,
            f"{choice.tasks}-tasks": not split and choice.tasks != 5,
        }
        config = config.changed(out=config.out + "".join(f"-{name}" for name, is_so in unusual.items() if is_so))
    prior, tasks, ess_decay = choice.prior and has_prior, choice.tasks, choice.ess_decay
    bundle = recipe.load(config.data, open_device(config.device), config.seed)
    if split:
        tasks, made = bundle.classes // 2, continual.split_tasks(bundle, choice.scenario)
    else:
        made = continual.permuted_tasks(bundle, tasks, seed=config.seed)
    if ess_decay is None:
        ess_decay = _default_ess_decay(tasks, prior, choice.prior_decay)
    settings = continual.StreamSettings(
        choice.scenario if split else None,
        prior,
        choice.prior_decay,
        ess_decay,
        choice.statistics,
        choice.curve_examples,
    )
    outputs = 2 if split and choice.scenario == "domain" else bundle.classes
    with tuned_for(wide=recipe.wide):
        return continual.run_stream(
            config,
            made,
            lambda: stream_network(outputs),
            settings,
            loss=PAIRED if split and choice.scenario == "task" else CROSS_ENTROPY,
            memory=memory,
            count=tasks,
            progress=progress,
            note=note,
        )
