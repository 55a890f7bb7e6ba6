"""Content of a run's files: a row of metrics per evaluation, a summary, and the results of an evaluation."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

Figures = dict[str, float]
"""Measured quantities by name: accuracy in percent, NLL and entropies in nats."""


_DEEPEST = 20  # nesting of lists and objects; the files of runs have 4 levels


def parsed(text: str) -> Any:
    """Return the content of an untrusted JSON file.

    Raises:
        ValueError: If the text is not JSON, holds an integer of more than 64 bits, or is nested more than 20 levels
            deep.

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
    """Dataclass that is written to and read from a JSON file; None and `{}` are mostly omitted."""

    def to_dict(self) -> dict[str, Any]:
        """Return the present entries by name; nested records also become dictionaries."""
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


# Entries that every file has, null if they do not apply, so that programs can rely on them.
_ALWAYS = {"estimator", "train_accuracy", "val_accuracy", "test_accuracy", "test_nll", "flips", "step_flips", "std"}
_ALWAYS |= {"last_test_accuracy", "last_test_nll"}


def _present(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in items if name in _ALWAYS or value not in (None, {})}


@dataclass(frozen=True, kw_only=True)
class EpochRow(Record):
    """Line of metrics.jsonl: an epoch and the evaluation after it. Accuracies are in percent.

    Args:
        epoch: Number of the epoch, from 1.
        lr: Learning rate of the last step of the epoch.
        train_loss: Mean training loss of the epoch, at the draws, with label smoothing and a teacher if the run has
            them.
        train_accuracy: Training accuracy of the epoch, at the draws; None for regression.
        val_accuracy: Validation accuracy of the mode.
        test_accuracy: Test accuracy of the mode.
        test_nll: Test negative log-likelihood of the mode, in nats.
        flips: Fraction of the mode's weights whose sign differs from the previous evaluation.
        step_flips: Fraction of the mode's weights that the last step of the epoch flipped.
        seconds: Wall-clock time of the epoch without the evaluation.
        val_error: Validation squared error of the mode, for regression.
        test_error: Test squared error of the mode, for regression.
        val_bits: Validation bits per byte of the mode, for text.
        test_bits: Test bits per byte of the mode, for text.
        probabilities: Percentage of the weights in equal bins of P[w = +1].
        mean_samples: Number of posterior samples that the mean averages over.
        mean_test_accuracy: Test accuracy of the mean of posterior samples.
        mean_test_nll: Test negative log-likelihood of the mean, in nats.
        mean_test_error: Test squared error of the mean, for regression.
        mean_test_bits: Test bits per byte of the mean, for text.
        sample_test_accuracy: Test accuracy of one sample.
        sample_test_bits: Test bits per byte of one sample, for text.
        observation_noise: Standard deviation of a regression's observation noise, estimated on training data.
        accuracies: Accuracy on every task so far, the newest last, in continual learning.
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
    val_bits: float | None = None
    test_bits: float | None = None
    probabilities: list[float] | None = None
    mean_samples: int | None = None
    mean_test_accuracy: float | None = None
    mean_test_error: float | None = None
    mean_test_nll: float | None = None
    mean_test_bits: float | None = None
    sample_test_accuracy: float | None = None
    sample_test_bits: float | None = None
    observation_noise: float | None = None
    accuracies: list[float] | None = None


@dataclass(frozen=True, kw_only=True)
class Summary(Record):
    """Content of summary.json: the results of a finished run. Accuracies are in percent.

    Metrics belong to the mode at the best epoch that the protocol selects, unless their name says otherwise. `views` is
    the test-time augmentation of all accuracies and likelihoods, if there is one; a packed network has none.
    """

    recipe: str
    rule: str
    estimator: str | None = None
    seed: int
    precision: str = "fp32"
    protocol: str = "validation"
    views: str | None = None
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
    val_bits: float | None = None
    test_bits: float | None = None
    posterior_entropy_bits: float | None = None
    mean_samples: int | None = None
    mean_test_accuracy: float | None = None
    mean_test_error: float | None = None
    mean_test_nll: float | None = None
    mean_test_bits: float | None = None
    sample_test_accuracy: float | None = None
    sample_test_bits: float | None = None
    observation_noise: float | None = None


@dataclass(frozen=True, kw_only=True)
class Evaluation(Record):
    """Content of evaluation.json: test metrics of the mode and, with a posterior, of the posterior mean.

    Args:
        recipe: Name of the recipe.
        rule: Name of the rule.
        estimator: Gradient estimator of BayesBiNN.
        seed: Seed of the run.
        samples: Number of posterior samples that the mean averages over.
        posterior_entropy_bits: Mean per-weight entropy in bits.
        unlike: Recipe of the out-of-distribution data, if any was used.
        views: Test-time augmentation of mode and mean, if there is one; see `RunConfig`.
        mode: Metrics of the mode.
        mean: Metrics of the mean.
        members: Metrics of each member of an ensemble by "mode" or "mean"; `mode` and `mean` are then those of all
            members together, and `posterior_entropy_bits` is a mean over members. None for a single run.
        reliability: Points of reliability diagrams by "mode" or "mean", then by kind of bins, then by "confidence",
            "accuracy" and "share"; empty for regression.
    """

    recipe: str
    rule: str
    estimator: str | None = None
    seed: int
    samples: int
    posterior_entropy_bits: float | None = None
    unlike: str | None = None
    views: str | None = None
    reliability: dict[str, dict[str, dict[str, list[float]]]] = field(default_factory=dict)
    mode: Figures = field(default_factory=dict)
    mean: Figures | None = None
    members: list[dict[str, Figures]] | None = None


@dataclass(frozen=True)
class Spread(Record):
    """Metric over several seeds: mean, sample standard deviation (None for a single seed), and values."""

    mean: float
    std: float | None
    values: list[float]

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return mean and standard deviation of one or more values.

        Example:
            >>> Spread.of([1.0, 3.0])
            Spread(mean=2.0, std=1.4142135623730951, values=[1.0, 3.0])
        """
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.mean(values), deviation, list(values))
