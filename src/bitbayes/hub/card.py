"""The facts of a model card, and how they are kept in a folder."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, NamedTuple

from bitbayes.errors import nearest

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,60}")
_LONGEST = 2000  # characters of a text


class Metric(NamedTuple):
    """Form in which a card shows a number.

    Args:
        label: Its name in the card.
        unit: Text after the number.
        digits: Digits after the point.
        hub: Its name in the front matter that the Hub reads.
        factor: Factor to the unit of the Hub, whose accuracy is a fraction.
    """

    label: str
    unit: str
    digits: int
    hub: str
    factor: float = 1.0

    def text(self, value: float) -> str:
        """Return the number with its unit."""
        return f"{value:.{self.digits}f}{self.unit}"


METRICS: Mapping[str, Metric] = {
    "accuracy": Metric("accuracy", " %", 2, "accuracy", 0.01),
    "nll": Metric("negative log-likelihood", " nats", 4, "nll"),
    "ece": Metric("expected calibration error (15 bins)", "", 4, "expected_calibration_error"),
    "brier": Metric("Brier score", "", 4, "brier_score"),
    "rmse": Metric("root mean squared error", "", 4, "rmse"),
}
"""Every metric that a model card can state: its label, unit and digits, and its name on the Hub."""


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """Statements of a model card that the file itself does not make. Every field may be left out.

    Args:
        title: Name of the network, such as "MNIST, MLP 784-256-256-10".
        summary: One or two sentences: what the network is for.
        license: Identifier of the Hub, such as "apache-2.0" or "cc-by-4.0".
        task: Task of the Hub, such as "image-classification".
        dataset: Name of the data set that the network was tested on.
        dataset_id: Id of that data set on the Hub.
        examples: Number of test examples behind `metrics`.
        metrics: Test figures by name: "accuracy" in percent, "nll" in nats, "ece", "brier", "rmse".
        validation_accuracy: Accuracy in percent on the validation data that selected the network.
        trained: Command or script that trained the network.
        seed: Seed of the training.
        date: Day of the training, YYYY-MM-DD.
        architecture: Call that builds the network, such as "bb.nn.mlp(64, [128, 128], 10)".
        limits: Uses that the network is not fit for, one sentence each.
        tags: Further tags for the Hub.

    Raises:
        ValueError: If a metric is not known or not finite, or a text is not a text.

    Example:
        >>> card = ModelCard(title="Digits", license="apache-2.0", dataset="digits", metrics={"accuracy": 97.5})
        >>> card.metric("accuracy")
        '97.50 %'
    """

    title: str = ""
    summary: str = ""
    license: str = ""
    task: str = ""
    dataset: str = ""
    dataset_id: str = ""
    examples: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    validation_accuracy: float | None = None
    trained: str = ""
    seed: int | None = None
    date: str = ""
    architecture: str = ""
    limits: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if isinstance(item.default, str):
                _check_text(item.name, value)
        for name in ("limits", "tags"):
            texts = getattr(self, name)
            if not isinstance(texts, list | tuple):
                raise ValueError(f"{name} of a model card must be a list of texts, got {texts!r:.60}")
            for text in texts:
                _check_text(name, text)
            object.__setattr__(self, name, tuple(texts))
        if self.license and not _LICENSE.fullmatch(self.license):
            raise ValueError(
                f"license must be an identifier of the Hub, such as 'apache-2.0', got {self.license!r:.60}"
            )
        if not isinstance(self.metrics, Mapping):
            raise ValueError(f"metrics of a model card must be numbers by name, got {self.metrics!r:.60}")
        for name in self.metrics:
            if name not in METRICS:
                raise nearest("metric", str(name), METRICS)
        object.__setattr__(self, "metrics", {name: _number(name, value) for name, value in self.metrics.items()})
        if self.validation_accuracy is not None:
            object.__setattr__(self, "validation_accuracy", _number("validation_accuracy", self.validation_accuracy))
        for name in ("examples", "seed"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _whole_number(name, getattr(self, name)))

    def metric(self, name: str) -> str:
        """Return a test figure with its unit.

        Args:
            name: One of `METRICS`.

        Raises:
            KeyError: If the card does not state it.
        """
        return METRICS[name].text(self.metrics[name])

    def to_dict(self) -> dict[str, Any]:
        """Return what the card states, by name, for a JSON file."""
        found = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        found |= {"metrics": dict(self.metrics), "limits": list(self.limits), "tags": list(self.tags)}
        return {name: value for name, value in found.items() if value not in ("", None, {}, [])}

    @classmethod
    def from_dict(cls, raw: Any) -> ModelCard:
        """Make a card of what `to_dict` returned; entries of other versions are ignored.

        Args:
            raw: Content of a JSON file of any origin.

        Raises:
            ValueError: If an entry has a wrong type.

        Example:
            >>> ModelCard.from_dict({"title": "Digits", "of the future": 1}).title
            'Digits'
        """
        if not isinstance(raw, Mapping):
            raise ValueError(f"a model card must be an object, got {raw!r:.60}")
        known = {item.name for item in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in raw.items() if name in known})


def _check_text(name: str, value: Any) -> None:
    words = value.replace("\n", " ") if isinstance(value, str) and name == "summary" else value
    if not isinstance(words, str) or not words.isprintable() or len(words) > _LONGEST:
        limit = f"at most {_LONGEST} printable characters"
        raise ValueError(f"{name} of a model card must be a text of {limit}, got {value!r:.60}")


def _number(name: str, value: Any) -> float:
    """Return a number as Python's own, which JSON takes: those of NumPy are none."""
    try:
        number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    except OverflowError:  # an integer of more than 308 digits
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name} of a model card must be a finite number, got {value!r:.60}")
    return number


def _whole_number(name: str, value: Any) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise ValueError(f"{name} of a model card must be a whole number, got {value!r:.60}")
    return int(value)
