"""What the files of a run hold: a row of metrics for each evaluation, a summary, and figures of an evaluation."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from typing_extensions import Self

Figures = dict[str, float]
"""Measured quantities by name: accuracy in percent, NLL and entropies in nats."""


_DEEPEST = 20  # lists and objects inside one another; ours have 4


def parsed(text: str) -> Any:
    """Return the content of a JSON file that somebody else may have written.

    Raises:
        ValueError: If the text is no JSON, holds a whole number beyond 64 bits, or is nested more than 20 deep.

    Example:
        >>> parsed('{"epochs": 3}')
        {'epochs': 3}
    """
    try:
        found = json.loads(text, parse_int=_whole)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    level = [found]
    for _ in range(_DEEPEST):
        within = (item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list))
        level = [each for items in within for each in items]
    if level:
        raise ValueError("it is nested too deeply")
    return found


def _whole(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**63:
        raise ValueError(f"{digits[:20]}... is too large")
    return int(digits)


class Record:
    """A dataclass that goes into a JSON file and comes back from it; None and `{}` are mostly left out."""

    def to_dict(self) -> dict[str, Any]:
        """Return the entries that are present, by name; records inside become dictionaries too."""
        return dataclasses.asdict(self, dict_factory=_present)  # type: ignore[call-overload]

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """Read what `to_dict` returned; unknown entries are ignored, so that files of other versions can be read.

        Raises:
            ValueError: If an entry is missing.
        """
        known = {item.name for item in dataclasses.fields(cls)}  # type: ignore[arg-type]
        try:
            return cls(**{name: value for name, value in raw.items() if name in known})
        except TypeError as error:
            raise ValueError(f"not the record of a run: {error}") from error


# Entries that every file has, null where they mean nothing, so that programs which read the files find them.
_ALWAYS = {"estimator", "train_accuracy", "val_accuracy", "test_accuracy", "test_nll", "flips", "step_flips", "std"}
_ALWAYS |= {"last_test_accuracy", "last_test_nll"}


def _present(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in items if name in _ALWAYS or value not in (None, {})}


@dataclass(frozen=True, kw_only=True)
class EpochRow(Record):
    """One line of metrics.jsonl: an epoch and the evaluation after it. Accuracies are in percent.

    Args:
        epoch: Number of the epoch, from 1.
        lr: Learning rate of its last step.
        train_loss: Mean loss of its batches, at the draws that were trained on.
        train_accuracy: Accuracy of the same draws; None for a regression.
        val_accuracy: Validation accuracy of the mode.
        test_accuracy: Test accuracy of the mode.
        test_nll: Test negative log-likelihood of the mode, in nats.
        flips: Share of the mode's weights whose sign differs from the evaluation before.
        step_flips: Share of the mode's weights that the last step of the epoch has turned.
        seconds: Wall-clock time of the epoch without the evaluation.
        val_error: Validation squared error of the mode, for a regression.
        test_error: Test squared error of the mode, for a regression.
        probabilities: Percent of the weights in equal parts of P[w = +1].
        mean_samples: Networks that the mean averages over.
        mean_test_accuracy: Test accuracy of the mean of posterior samples.
        mean_test_nll: Its negative log-likelihood.
        mean_test_error: Its squared error, for a regression.
        sample_test_accuracy: Test accuracy of one sample.
        observation_noise: Standard deviation of the noise of a regression, estimated on training data.
        accuracies: Accuracy on every task so far, the newest last, in a stream of tasks.
    """

    epoch: int
    lr: float
    train_loss: float
    train_accuracy: float | None = None
    val_accuracy: float | None = None
    test_accuracy: float | None = None
    test_nll: float | None = None
    flips: float | None = None
    step_flips: float | None = None
    seconds: float
    val_error: float | None = None
    test_error: float | None = None
    probabilities: list[float] | None = None
    mean_samples: int | None = None
    mean_test_accuracy: float | None = None
    mean_test_error: float | None = None
    mean_test_nll: float | None = None
    sample_test_accuracy: float | None = None
    observation_noise: float | None = None
    accuracies: list[float] | None = None


@dataclass(frozen=True, kw_only=True)
class Summary(Record):
    """summary.json: what a finished run has reached. Accuracies are in percent.

    The figures are those of the mode at the best epoch that the protocol selects, unless their name says otherwise.
    """

    recipe: str
    rule: str
    estimator: str | None = None
    seed: int
    precision: str = "fp32"
    protocol: str = "validation"
    epochs: int
    epochs_done: int
    best_epoch: int
    train_accuracy: float | None = None
    val_accuracy: float | None = None
    test_accuracy: float | None = None
    test_nll: float | None = None
    last_test_accuracy: float | None = None
    last_test_nll: float | None = None
    seconds_per_epoch: float
    peak_memory_mib: float | None = None
    weights: int
    binary_weights: int
    bytes_32_bit: int
    bytes_1_bit: int
    test_error: float | None = None
    posterior_entropy_bits: float | None = None
    mean_samples: int | None = None
    mean_test_accuracy: float | None = None
    mean_test_error: float | None = None
    mean_test_nll: float | None = None
    sample_test_accuracy: float | None = None
    observation_noise: float | None = None


@dataclass(frozen=True, kw_only=True)
class Evaluation(Record):
    """evaluation.json: figures of the mode and, with a posterior, of the mean of samples on test data.

    Args:
        recipe: Name of the recipe.
        rule: Name of the rule.
        estimator: Gradient estimator of BayesBiNN.
        seed: Seed of the run.
        samples: Networks that the mean averages over.
        posterior_entropy_bits: Mean entropy of a weight in bits.
        unlike: Recipe of the out-of-distribution data, if any was used.
        mode: Figures of the mode.
        mean: Figures of the mean.
        reliability: Points of reliability diagrams by "mode" or "mean", then by kind of bins, then by "confidence",
            "accuracy" and "share"; empty for a regression.
    """

    recipe: str
    rule: str
    estimator: str | None = None
    seed: int
    samples: int
    posterior_entropy_bits: float | None = None
    unlike: str | None = None
    reliability: dict[str, dict[str, dict[str, list[float]]]] = field(default_factory=dict)
    mode: Figures = field(default_factory=dict)
    mean: Figures | None = None


@dataclass(frozen=True)
class Spread(Record):
    """One figure over several seeds: mean, sample standard deviation (None for a single seed), and the values."""

    mean: float
    std: float | None
    values: list[float]

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return mean and standard deviation of at least one value.

        Example:
            >>> Spread.of([1.0, 3.0])
            Spread(mean=2.0, std=1.4142135623730951, values=[1.0, 3.0])
        """
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.mean(values), deviation, list(values))
