"""Learning-rate schedules of the published experiments, as torch schedulers."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, ExponentialLR, LambdaLR, LRScheduler

_KINDS = ("constant", "cosine", "exponential", "milestones", "staircase", "warmup-cosine")


@dataclass(frozen=True)
class Schedule:
    """Learning-rate schedule over the epochs of a run.

    Args:
        kind: "constant"; "cosine" (falls to `end`; a single epoch has the first value); "exponential" (falls by
            `factor` over the whole run); "milestones" (multiplied by `factor` at the epoch of each of `milestones`);
            "staircase" (multiplied by `factor` after every `every` epochs); "warmup-cosine" (updated every step: rises
            from 0 over `warmup` epochs, then falls to 0).
        factor: Factor of the learning rate; see `kind`.
        milestones: Fractions of the run, so that shorter runs have the same shape.
        every: Number of epochs per stair.
        end: Final value of "cosine"; 1e-16 in the BayesBiNN paper.
        warmup: Number of epochs of "warmup-cosine" in which the rate rises.

    Raises:
        ValueError: If the kind is unknown, or a number is out of range.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        >>> scheduler = Schedule("milestones", milestones=(0.5,)).build(optimizer, epochs=4)
        >>> rates = []
        >>> for _ in range(4):
        ...     advance([scheduler])
        ...     rates.append(optimizer.param_groups[0]["lr"])
        >>> rates
        [1.0, 0.1, 0.1, 0.1]
    """

    kind: str = "cosine"
    factor: float = 0.1
    milestones: tuple[float, ...] = ()
    every: int = 1
    end: float = 1e-16
    warmup: int = 5

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ValueError(f"schedule must be one of {', '.join(_KINDS)}; got {self.kind!r}")
        stairs = ("exponential", "milestones", "staircase")
        for name, kinds, fine, expected in (
            ("factor", stairs, self.factor > 0, "positive"),
            ("milestones", ("milestones",), all(0 < each < 1 for each in self.milestones), "in (0, 1)"),
            ("every", ("staircase",), self.every >= 1, "a number of epochs of at least 1"),
            ("end", ("cosine",), self.end >= 0, "at least 0"),
            ("warmup", ("warmup-cosine",), self.warmup >= 0, "a number of epochs of at least 0"),
        ):
            if self.kind in kinds and not fine:
                raise ValueError(f"{name} of a schedule must be {expected}, got {getattr(self, name)}")

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Schedule:
        """Restore a schedule from its `dataclasses.asdict` form in JSON."""
        return cls(**{**raw, "milestones": tuple(raw.get("milestones", ()))})

    @property
    def per_step(self) -> bool:
        """Whether the scheduler is stepped before every step rather than every epoch."""
        return self.kind == "warmup-cosine"

    def falls(self, epochs: int) -> bool:
        """Return whether the learning rate falls within a number of epochs.

        Example:
            >>> Schedule("cosine").falls(10), Schedule("staircase", every=20).falls(10)
            (True, False)
        """
        least = {
            "cosine": 1,
            "exponential": 1,
            "staircase": self.every,
            "warmup-cosine": self.warmup,
            "milestones": 1 if self.milestones else epochs,
        }
        return epochs > least.get(self.kind, epochs)

    def build(self, optimizer: Optimizer, epochs: int, steps: int = 1) -> LRScheduler:
        """Return the torch scheduler, to be stepped at the start of every epoch, or step if `per_step` (see `advance`).

        Args:
            optimizer: Optimizer whose learning rate the scheduler sets.
            epochs: Number of epochs of the run.
            steps: Number of steps per epoch.
        """
        if self.kind == "warmup-cosine":
            return LambdaLR(optimizer, _WarmupCosine(self.warmup * steps, epochs * steps))
        if self.kind == "cosine" and epochs > 1:
            return CosineAnnealingLR(optimizer, T_max=epochs, eta_min=self.end)
        if self.kind == "exponential":
            return ExponentialLR(optimizer, gamma=self.factor ** (1 / epochs))
        if self.kind == "milestones":
            # From the epoch of the milestone on, because the scheduler is stepped at the start of an epoch. The first
            # epoch of every run has the full rate.
            drops = tuple(max(round(f * epochs) - 1, 1) for f in self.milestones)
            return LambdaLR(optimizer, _Stairs(self.factor, drops))
        if self.kind == "staircase":
            return LambdaLR(optimizer, _Stairs(self.factor, tuple(range(self.every, epochs, self.every))))
        # Includes a cosine over a single epoch, which would run at `end` and learn nothing.
        return ConstantLR(optimizer, factor=1.0, total_iters=0)


COSINE_BY_STEPS = Schedule("warmup-cosine", warmup=0)
"""Cosine to 0 in steps, for short runs; the published cosine changes per epoch, and its last epoch has a rate of 0."""


# MultiStepLR and SequentialLR multiply the rate repeatedly, and so differ from these two in the last bits.
@dataclass(frozen=True)
class _Stairs:
    """Factor of the learning rate in an epoch: one more factor after each of the given epochs."""

    factor: float
    after: tuple[int, ...]

    def __call__(self, epoch: int) -> float:
        return self.factor ** sum(epoch > end for end in self.after)


@dataclass(frozen=True)
class _WarmupCosine:
    """Factor of the learning rate at a step."""

    warmup: int
    total: int

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return step / self.warmup
        if self.total == 1:  # the only step would learn nothing
            return 1.0
        done = (step - self.warmup) / max(self.total - self.warmup, 1)
        return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def advance(schedulers: list[LRScheduler]) -> None:
    """Step schedulers at the start of an epoch (or step), as the released BayesBiNN code does.

    Epoch 1 of a cosine therefore runs at its second value, and the last epoch at `end`, where nothing is learned. A
    cosine over a single epoch (or step) stays at its first value, because it would otherwise learn nothing.
    """
    with warnings.catch_warnings():
        # torch expects schedulers to step after the first optimizer step; the order here is intended.
        warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*before.*")
        for scheduler in schedulers:
            scheduler.step()
