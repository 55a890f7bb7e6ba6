"""What a run is: a frozen record that goes into config.json, and comes back from it."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bitbayes.lab.train.schedule import Schedule

__all__ = ["PRECISIONS", "RunConfig"]

PRECISIONS = ("auto", "fp32", "bf16")
_COUNTS = (
    "epochs",
    "samples",
    "accumulate",
    "evaluate_every",
    "checkpoint_every",
    "refresh_batches",
    "predict_samples",
)

# What may differ between a run and its continuation: none of it changes what is learned, as long as the data are the
# same wherever they lie, which their fingerprint says.
_FREE = ("stop_after", "out", "data", "device")


@dataclass(frozen=True)
class RunConfig:
    """Everything that a training run depends on, beside the code.

    Args:
        recipe: Name of the recipe that builds the network and the data.
        rule: Name of the learning rule.
        out: Folder that the run writes to.
        estimator: Gradient estimator of BayesBiNN; None for other rules.
        options: Keywords of the rule, beside the learning rate.
        lr: Learning rate of the binary weights (of all weights for full precision). None, for bayesbinn: 6 over the
            number of steps, at most 0.1.
        real_lr: Learning rate of the real parameters.
        real_optimizer: "adam", or "sgd" (momentum 0.9), of the real parameters, or of all for full precision.
        real_weight_decay: L2 penalty on them.
        schedule: How both learning rates change over the epochs.
        epochs: Length of the schedule.
        stop_after: Last epoch of this run, on that schedule; None means `epochs`.
        batch_size: Examples a step; 0 means all of them.
        accumulate: Parts that a batch is taken in, one after the other: less memory for the same batch. BatchNorm
            sees each part alone.
        samples: Draws a step.
        clip_gradient: Largest norm of the gradient over all weights; None to leave it alone.
        dropout: Probability of every dropout layer; None for those of the recipe's network.
        seed: Seed of the network, the batches, dropout and the draws.
        data_seed: Seed of the split into training and validation data.
        device: Torch device.
        precision: "fp32", "bf16" (autocast around the forward pass) or "auto" (measured).
        capture: Whole steps as a CUDA graph.
        data: Folder or hub id of the data; None for the default of the recipe.
        refresh_batches: Training batches of 500 that BatchNorm statistics of the mode are estimated from.
        evaluate_every: Epochs between two evaluations (and lines of metrics.jsonl).
        checkpoint_every: Epochs between two checkpoints.
        predict_samples: Networks that the mean prediction averages over.
        protocol: "validation": the best epoch is the one with the best validation accuracy of the mode. "test": that of
            VISPA's paper, without validation data: the best *test* accuracy, of the mean where there is a posterior.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> config = RunConfig(recipe="digits", rule="ste", out="runs/digits", lr=1e-2, epochs=3)
        >>> RunConfig.from_json(config.to_json()) == config
        True
        >>> config.last_epoch
        3
    """

    recipe: str
    rule: str
    out: str
    lr: float | None
    epochs: int
    estimator: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    real_lr: float = 1e-3
    real_optimizer: Literal["adam", "sgd"] = "adam"
    real_weight_decay: float = 0.0
    schedule: Schedule = field(default_factory=Schedule)
    stop_after: int | None = None
    batch_size: int = 100
    accumulate: int = 1
    samples: int = 1
    clip_gradient: float | None = None
    dropout: float | None = None
    seed: int = 0
    data_seed: int = 0
    device: str = "cpu"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    capture: bool = False
    data: str | None = None
    refresh_batches: int = 20
    evaluate_every: int = 1
    checkpoint_every: int = 1
    predict_samples: int = 10
    protocol: Literal["validation", "test"] = "validation"

    def __post_init__(self) -> None:
        # As JSON will give them back, so that a record equals its own copy.
        object.__setattr__(self, "options", json.loads(json.dumps(self.options)))
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.checkpoint_every % self.evaluate_every:
            raise ValueError(
                f"checkpoint_every ({self.checkpoint_every}) must be a multiple of "
                f"evaluate_every ({self.evaluate_every})"
            )
        if self.batch_size < 0:
            raise ValueError(f"batch_size must be positive, or 0 for all data, got {self.batch_size}")
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed must be in [0, 2**31), got {self.seed}")
        if not (self.lr is None or self.lr > 0) or not self.real_lr > 0:
            raise ValueError(f"learning rates must be positive, got {self.lr} and {self.real_lr}")
        if self.lr is None and self.rule != "bayesbinn":
            raise ValueError(f"lr of rule {self.rule} must be a number, got None, which is for bayesbinn alone")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        if self.stop_after is not None and not 1 <= self.stop_after <= self.epochs:
            raise ValueError(f"stop_after must lie between 1 and epochs ({self.epochs}), got {self.stop_after}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}; got {self.precision!r}")
        if self.real_optimizer not in ("adam", "sgd"):
            raise ValueError(f"real_optimizer must be adam or sgd, got {self.real_optimizer!r}")
        if self.protocol not in ("validation", "test"):
            raise ValueError(f"protocol must be validation or test, got {self.protocol!r}")

    @property
    def last_epoch(self) -> int:
        """The epoch after which this run ends."""
        return self.stop_after or self.epochs

    def to_json(self) -> str:
        """The record as indented JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> RunConfig:
        """Reads what `to_json` wrote; unknown entries are ignored, so that newer files can be read.

        Args:
            text: A JSON object.

        Returns:
            The record.
        """
        raw = json.loads(text)
        known = {f.name for f in dataclasses.fields(cls)}
        values = {key: value for key, value in raw.items() if key in known}
        values["schedule"] = Schedule.from_dict(values.get("schedule", {}))
        return cls(**values)

    @classmethod
    def load(cls, folder: str | Path) -> RunConfig:
        """Reads config.json of a run.

        Args:
            folder: The folder of the run.

        Returns:
            The record.

        Raises:
            ValueError: If there is no readable config.json.
        """
        path = Path(folder) / "config.json"
        if not path.is_file():
            raise ValueError(f"{folder} is not a run: it has no config.json")
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} is not a record of a run: {error}") from error

    def differences(self, other: RunConfig) -> list[str]:
        """What another record would train differently, as short texts for a message.

        Args:
            other: The record to compare with.

        Returns:
            One text for every entry that differs; empty if `other` may continue this run.
        """
        found = []
        for item in dataclasses.fields(self):
            ours, theirs = getattr(self, item.name), getattr(other, item.name)
            if item.name == "precision" and "auto" in (ours, theirs):
                continue
            if item.name not in _FREE and ours != theirs:
                found.append(f"{item.name} {_short(ours)}, not {_short(theirs)}")
        return found


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
