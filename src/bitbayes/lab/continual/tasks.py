"""Sequences of tasks from one data set: permuted pixels, or a few classes at a time."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bitbayes.lab.data import DataBundle, TensorData
from bitbayes.noise import stream_key

_PERMUTATION_STREAM = 31

Scenario = Literal["task", "domain", "class"]
"""Scenario: what is known at test time, and what is predicted (van de Ven & Tolias 2019)."""


@dataclass(frozen=True)
class Task:
    """Task of a stream.

    Args:
        name: Name of the task in tables and figures.
        data: Training and test data, without validation data, because results are those at the end of training.
        classes: Outputs that count at test time; None for all outputs.
        test_again: Function that recreates the test data, so that a long stream need not keep those of every task; None
            keeps them.
    """

    name: str
    data: DataBundle[TensorData]
    classes: tuple[int, ...] | None = None
    test_again: Callable[[], TensorData] | None = None


def permuted_tasks(bundle: DataBundle[TensorData], count: int, *, seed: int = 0) -> Iterator[Task]:
    """Yield tasks with the same classes and permuted pixels, including the first, as in the BayesBiNN paper.

    Args:
        bundle: Data with flat inputs, shape (N, pixels).
        count: Number of tasks.
        seed: Seed of the permutations.

    Raises:
        ValueError: If there are no tasks, or the inputs are not flat.

    Example:
        >>> data = TensorData(torch.arange(6).view(2, 3).to(torch.uint8), torch.tensor([0, 1]))
        >>> first, second = permuted_tasks(DataBundle("toy", data, None, data, 2, "generated"), 2)
        >>> torch.equal(first.data.train.x, second.data.train.x)
        False
    """
    if count < 1:
        raise ValueError(f"a stream needs at least one task, got {count}")
    plain = bundle.without_validation()
    if plain.train.x.dim() != 2:
        raise ValueError(f"permuted tasks need flat inputs (N, pixels), got {tuple(plain.train.x.shape)}")
    for index in range(count):
        generator = torch.Generator().manual_seed(stream_key(seed, _PERMUTATION_STREAM, index))
        order = torch.randperm(plain.train.x.shape[1], generator=generator).to(plain.train.x.device)
        test = None if plain.test is None else functools.partial(_permuted, plain.test, order)
        parts = {"train": _permuted(plain.train, order), "test": None if test is None else test()}
        data = dataclasses.replace(plain, **parts, inputs=None)  # permuted pixels are not an image
        yield Task(f"permutation {index + 1}", data, test_again=test)


def split_tasks(bundle: DataBundle[TensorData], scenario: Scenario, *, each: int = 2) -> Iterator[Task]:
    """Yield tasks with a few classes each, in order: 0 and 1, 2 and 3, ...

    Args:
        bundle: Data whose number of classes is a multiple of `each`.
        scenario: "task": the task is known at test time, so only its own outputs count. "domain": the network has
            `each` outputs for the position of a class within its task. "class": all outputs count.
        each: Number of classes per task.

    Raises:
        ValueError: If the scenario is unknown, or the classes cannot be split into such tasks.

    Example:
        >>> data = TensorData(torch.zeros(4, 1), torch.tensor([0, 1, 2, 3]))
        >>> tasks = list(split_tasks(DataBundle("toy", data, None, data, 4, "generated"), "domain"))
        >>> [task.data.train.y.tolist() for task in tasks]
        [[0, 1], [0, 1]]
    """
    if scenario not in ("task", "domain", "class"):
        raise ValueError(f"scenario must be task, domain or class, got {scenario!r}")
    if each < 1 or bundle.classes % each or not bundle.classes:
        raise ValueError(f"{bundle.classes} classes cannot be split into tasks of {each} classes each")
    plain = bundle.without_validation()
    for part, what in ((plain.train, "training"), (plain.test, "test")):
        present = set() if part is None else set(part.y.tolist())
        if part is not None and (missing := set(range(bundle.classes)) - present):
            raise ValueError(f"class {min(missing)} of {bundle.classes} has no {what} examples, so no task can have it")
    for start in range(0, bundle.classes, each):
        chosen = tuple(range(start, start + each))
        train = _of_classes(plain.train, start, each, scenario)
        test = None if plain.test is None else _of_classes(plain.test, start, each, scenario)
        outputs = each if scenario == "domain" else bundle.classes
        data = dataclasses.replace(plain, train=train, test=test, classes=outputs, inputs=None)
        yield Task("classes " + ", ".join(map(str, chosen)), data, chosen if scenario == "task" else None)


def _permuted(part: TensorData, order: Tensor) -> TensorData:
    """Permute the entries of the inputs together with their means and standard deviations."""
    known = {"mean": part.mean, "std": part.std}
    moved = {n: tuple(value[i] for i in order.tolist()) for n, value in known.items() if isinstance(value, tuple)}
    return dataclasses.replace(part, x=part.x[:, order], **moved)


def _of_classes(part: TensorData, start: int, each: int, scenario: Scenario) -> TensorData:
    mine = part.chosen((part.y >= start) & (part.y < start + each))
    return dataclasses.replace(mine, y=mine.y - start) if scenario == "domain" else mine
