"""Equal budgets for the methods of a comparison: training time, and trials of the learning rate."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from bitbayes.lab.data import batches
from bitbayes.lab.train import Experiment, RunConfig
from bitbayes.lab.train.experiment import resolved
from bitbayes.lab.train.loop import training_step
from bitbayes.lab.train.records import Record

_ROUNDS, _STEPS, _WARM = 5, 8, 3
_FACTOR = 3.0  # between neighbouring learning rates of a search


@dataclass(frozen=True)
class Spending(Record):
    """Training time and search of one method of a comparison.

    Args:
        rule: Name of the rule, with its variant.
        time: CPU time of a training step relative to that of the first method (on a GPU: wall-clock time).
        epochs: Number of epochs of a run, which take about as long as those of the first method.
        searches: Figure of merit of the trials of each way to train, by factor of the recipe's learning rate; smaller
            is better. None for a trial that diverged, or whose rate the rule refuses. A way without a search has no
            entry.
    """

    rule: str
    time: float
    epochs: int
    searches: dict[str, dict[str, float | None]] = field(default_factory=dict)

    def factor(self, way: str) -> float:
        """Return the factor of the best trial of a way to train, or 1 without a search.

        Example:
            >>> Spending("ste", 1.0, 4, {"single": {"0.333": 0.2, "1": 0.3, "3": None}}).factor("single")
            0.3333333333333333
        """
        best = _best(self.searches.get(way, {}))
        return 1.0 if best is None else best


def factor_name(factor: float) -> str:
    """Return the name of a factor, in files and folders.

    Example:
        >>> factor_name(1 / 3)
        '0.333'
    """
    return f"{factor:.3g}"


def next_factors(trials: Mapping[str, float | None], number: int) -> list[float]:
    """Return the factors of the learning rate that a search tries next; none if it has ended.

    A search of three or more goes on beyond its best factor until that is neither the smallest nor the largest, or
    until it has tried twice as many.

    Args:
        trials: Figure of merit of the trials so far, by factor. Smaller is better. None for a trial that failed.
        number: Number of factors that the search begins with. With 1 there is no search.

    Example:
        >>> [round(factor, 3) for factor in next_factors({}, 3)]
        [0.333, 1.0, 3.0]
        >>> next_factors({"0.333": 0.3, "1": 0.2, "3": 0.1}, 3)
        [9.0]
        >>> next_factors({"0.333": 0.3, "1": 0.2, "3": 0.1, "9": None}, 3)
        []
    """
    if number == 1:
        return []
    first = [_FACTOR ** (index - number // 2) for index in range(number)]
    if missing := [factor for factor in first if factor_name(factor) not in trials]:
        return missing
    best, tried = _best(trials), sorted(map(_factor, trials))
    if best is None or number == 2 or len(trials) >= 2 * number:
        return []
    return [best / _FACTOR] * (best == tried[0]) + [best * _FACTOR] * (best == tried[-1])


def _best(trials: Mapping[str, float | None]) -> float | None:
    ended = {name: merit for name, merit in trials.items() if merit is not None}
    return min(map(_factor, ended), key=lambda each: (ended[factor_name(each)], abs(math.log(each))), default=None)


def _factor(name: str) -> float:
    return _FACTOR ** round(math.log(float(name), _FACTOR))


def scaled(config: RunConfig, factor: float, examples: int) -> RunConfig:
    """Return a run with a multiple of its learning rate, also of that of the real parameters beside binary ones.

    Args:
        config: Configuration of the run.
        factor: Factor of the learning rate.
        examples: Number of training examples, which the recommended learning rate depends on.

    Example:
        >>> from bitbayes.lab.recipes import make_config
        >>> spec = scaled(make_config("digits", "ste"), 3.0, 1000).spec
        >>> spec.lr, spec.real_lr
        (0.03, 0.003)
    """
    lr = resolved(config, examples).lr
    if factor == 1 or lr is None:
        return config
    real = {} if config.rule == "full-precision" else {"real_lr": factor * config.spec.real_lr}
    return config.changed(lr=factor * lr, **real)


def equal_epochs(budget: float, time: float, multiple: int) -> int:
    """Return the multiple of a number of epochs whose training time is nearest to that of a budget.

    Args:
        budget: Number of epochs that take a relative time of 1.
        time: Relative time of an epoch.
        multiple: Number that the epochs are a multiple of.

    Example:
        >>> equal_epochs(12, 1.3, 4), equal_epochs(12, 20.0, 4)
        (8, 4)
    """
    return max(1, round(budget / time / multiple)) * multiple


def step_times(experiments: Mapping[str, tuple[RunConfig, Experiment]]) -> dict[str, float]:
    """Return the time of a training step of each method, relative to that of the first.

    The steps of all methods alternate, and the fastest of five rounds counts. On a CPU, the time is that of the process
    on all cores, so other programs hardly disturb it.

    Args:
        experiments: Configuration and objects of each method, which are trained for some steps.
    """
    fastest: dict[str, float] = {}
    for round_ in range(_ROUNDS + 1):
        for name, (config, experiment) in experiments.items():
            x, y = next(iter(batches(experiment.data.train, config.batch_size or len(experiment.data.train))))
            experiment.model.train()
            began = _now(experiment.device)
            for _ in range(_STEPS if round_ else _WARM):
                training_step(config, experiment, x, y)
            if round_:
                fastest[name] = min(fastest.get(name, float("inf")), _now(experiment.device) - began)
    first = next(iter(fastest.values()))
    return {name: seconds / first for name, seconds in fastest.items()}


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def check_same_study(folder: str, kept: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise ValueError if a folder holds a study that shares its budget in another way.

    Args:
        folder: Folder of the study.
        kept: Content of its spending.json.
        wanted: First rule ("reference"), its epochs, and the numbers of members and trials of the study that begins.
    """
    different = [
        f"{name} {kept[name]}, not {value}" for name, value in wanted.items() if kept.get(name, value) != value
    ]
    if different:
        raise ValueError(f"{folder} holds a study with {', '.join(different)}; choose another --out")
