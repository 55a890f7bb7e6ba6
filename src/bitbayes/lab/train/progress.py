"""What a run shows while it works: a bar on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any, Protocol

from bitbayes.errors import require

__all__ = ["BarProgress", "LineProgress", "Progress", "SilentProgress", "default_progress"]


class Progress(Protocol):
    """Three calls that `train` makes."""

    def start(self, title: str, epochs: int, done: int, steps: int) -> None:
        """Begins: `done` of `epochs` epochs are behind us, each of `steps` steps."""
        ...

    def step(self, epoch: int, step: int) -> None:
        """A step has ended."""
        ...

    def epoch(self, row: dict[str, Any]) -> None:
        """An epoch has ended, with this line of metrics."""
        ...

    def close(self) -> None:
        """The run has ended, in whatever way."""
        ...


class SilentProgress:
    """Shows nothing."""

    def start(self, title: str, epochs: int, done: int, steps: int) -> None:
        """Nothing."""

    def step(self, epoch: int, step: int) -> None:
        """Nothing."""

    def epoch(self, row: dict[str, Any]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class LineProgress:
    """One line an epoch, or about twenty lines for a run of very many epochs."""

    def __init__(self) -> None:
        self._every, self._last, self._title = 1, 0, ""

    def start(self, title: str, epochs: int, done: int, steps: int) -> None:
        """Remembers how long the run is."""
        self._title, self._last = title, epochs
        self._every = 1 if epochs <= 50 or steps > 20 else max(1, epochs // 20)
        if done:
            print(f"{title}: continuing after epoch {done}", flush=True)

    def step(self, epoch: int, step: int) -> None:
        """Nothing."""

    def epoch(self, row: dict[str, Any]) -> None:
        """Prints the line."""
        number = row["epoch"]
        if number % self._every == 0 or number == self._last:
            text = f"{self._title}: epoch {number}/{self._last}  {describe(row)}"
            print(f"{text}  {row['seconds']:.1f} s", flush=True)

    def close(self) -> None:
        """Nothing."""


class BarProgress:
    """A rich progress bar: epoch, loss, accuracy, time left."""

    def __init__(self) -> None:
        progress = require("rich.progress", "train")
        self._bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(bar_width=12),
            progress.TextColumn("{task.fields[metrics]}"),
            progress.TimeRemainingColumn(),
            progress.TextColumn("left"),
            transient=True,
        )
        self._task: Any = None
        self._title, self._epochs, self._steps, self._shown = "", 0, 1, 0.0

    def start(self, title: str, epochs: int, done: int, steps: int) -> None:
        """Shows the bar."""
        self._title, self._epochs, self._steps = title, epochs, steps
        self._task = self._bar.add_task(
            f"{title} epoch {done}/{epochs}", total=epochs * steps, completed=done * steps, metrics=""
        )
        self._bar.start()

    def step(self, epoch: int, step: int) -> None:
        """Moves the bar, a few times a second."""
        now = time.monotonic()
        if now - self._shown > 0.1:
            self._shown = now
            text = f"{self._title} epoch {epoch}/{self._epochs}"
            completed = (epoch - 1) * self._steps + step
            self._bar.update(self._task, description=text, completed=completed)

    def epoch(self, row: dict[str, Any]) -> None:
        """Shows the metrics of the epoch."""
        self._bar.update(self._task, metrics=_brief(row), completed=row["epoch"] * self._steps)

    def close(self) -> None:
        """Removes the bar."""
        self._bar.stop()


def describe(row: dict[str, Any]) -> str:
    """Loss and accuracies of a line of metrics, for a person.

    Args:
        row: A line of metrics.jsonl.

    Returns:
        A short text.

    Example:
        >>> describe({"train_loss": 0.5, "train_accuracy": 91.0, "val_accuracy": None, "test_accuracy": 90.0})
        'loss 0.5000  train 91.00  test 90.00'
    """
    parts = [f"loss {row['train_loss']:.4f}"]
    for name in ("train", "val", "test"):
        value = row.get(f"{name}_accuracy")
        if value is not None:
            parts.append(f"{name} {value:.2f}")
    return "  ".join(parts)


def _brief(row: dict[str, Any]) -> str:
    """Loss and one accuracy: a terminal of 80 columns has room for no more."""
    name = next((n for n in ("val", "test", "train") if row.get(f"{n}_accuracy") is not None), None)
    text = f"loss {row['train_loss']:.3f}"
    return text if name is None else f"{text} {name} {row[f'{name}_accuracy']:.2f}"


def default_progress() -> Progress:
    """A bar if stdout is a terminal, else lines.

    Returns:
        A new progress display.
    """
    return BarProgress() if sys.stdout.isatty() else LineProgress()
