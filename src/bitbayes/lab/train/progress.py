"""Display of a running run: a bar on a terminal, plain lines elsewhere, curves in TensorBoard."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from bitbayes.errors import require
from bitbayes.lab.train.records import EpochRow


class Progress:
    """Interface of displays, which `train` calls; a display overrides the methods that it needs."""

    left_in_all = ""  # estimated remaining time of all runs, if the run is one of several

    def note(self, line: str) -> None:
        """Show a line about the run before it starts."""

    def start(self, title: str, epochs: int, done: int, steps: int) -> None:
        """Begin a run after `done` of `epochs` epochs, each with `steps` steps."""

    def step(self, epoch: int, step: int) -> None:
        """Show that a step has ended."""

    def epoch(self, row: EpochRow) -> None:
        """Show an epoch that has been evaluated."""

    def close(self) -> None:
        """End the display, however the run has ended."""


class SilentProgress(Progress):
    """Display that shows nothing."""


class LineProgress(Progress):
    """Display with one line per epoch, or about twenty lines for a run of very many epochs."""

    def note(self, line: str) -> None:
        """Print the line."""
        print(line, flush=True)

    def start(self, title: str, epochs: int, done: int, steps: int) -> None:
        """Remember the length of the run."""
        self._title, self._last = title, epochs
        self._every = 1 if epochs <= 50 or steps > 20 else max(1, epochs // 20)
        if done:
            print(f"{title}: continuing after epoch {done}", flush=True)

    def epoch(self, row: EpochRow) -> None:
        """Print the line."""
        if row.epoch % self._every == 0 or row.epoch == self._last:
            parts = f"{self._title}: epoch {row.epoch}/{self._last}", f"loss {row.train_loss:.4f}"
            parts = (*parts, *_metrics(row, "train", "val", "test"), f"{row.seconds:.1f} s")
            print(*parts, *filter(None, [self.left_in_all]), sep="  ", flush=True)


class BarProgress(Progress):
    """Progress bar with epoch, loss, accuracy, and time left in the run or in all runs."""

    def __init__(self) -> None:
        progress = require("rich.progress", "train")
        self._bar = progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(bar_width=12),
            progress.TextColumn("{task.fields[metrics]}", markup=False),
            progress.TextColumn("{task.fields[left]}", markup=False),
            transient=True,
        )
        self._shown = 0.0

    def note(self, line: str) -> None:
        """Print the line above the bar."""
        print(line, flush=True)

    def start(self, title: str, epochs: int, done: int, steps: int) -> None:
        """Show the bar."""
        self._title, self._epochs, self._steps = title, epochs, steps
        text, fields = f"{title} epoch {done}/{epochs}", {"metrics": "", "left": self.left_in_all}
        self._task = self._bar.add_task(text, total=epochs * steps, completed=done * steps, **fields)
        self._bar.start()

    def _left(self) -> str:
        """Return the time left in all runs, or in this run if it is the only one; there is no room for both."""
        seconds = self._bar.tasks[-1].time_remaining
        return self.left_in_all or ("" if seconds is None else f"{about(seconds)} left")

    def step(self, epoch: int, step: int) -> None:
        """Move the bar a few times per second."""
        now = time.monotonic()
        if now - self._shown > 0.1:
            self._shown = now
            text = f"{self._title} epoch {epoch}/{self._epochs}"
            done = (epoch - 1) * self._steps + step
            self._bar.update(self._task, description=text, completed=done, left=self._left())

    def epoch(self, row: EpochRow) -> None:
        """Show the loss and one metric, because a terminal of 80 columns has no room for more."""
        metrics = " ".join([f"loss {row.train_loss:.3f}", *_metrics(row, "val", "test", "train")[:1]])
        done = row.epoch * self._steps
        self._bar.update(self._task, metrics=metrics, completed=done, left=self._left())

    def close(self) -> None:
        """Remove the bar, so that the next run starts its own."""
        self._bar.stop()
        for task in self._bar.task_ids:
            self._bar.remove_task(task)


class OfSeveral(Progress):
    """Wrapper of a display for consecutive runs that also estimates the time left in all of them.

    Args:
        shown: Display of each run.
        epochs: Total number of epochs of all runs.

    Example:
        >>> progress = OfSeveral(SilentProgress(), epochs=4)
        >>> progress.start("digits ste", epochs=2, done=0, steps=13)
        >>> progress.epoch(EpochRow(epoch=1, lr=0.1, train_loss=0.5, seconds=1.0))
        >>> progress.left_in_all
        'about 1 s left in all'
    """

    def __init__(self, shown: Progress, epochs: int) -> None:
        self._shown = shown
        self._later = epochs  # epochs of runs that have not begun
        self._mine, self._at, self._trained = 0, 0, 0  # epochs of this run; completed; trained by all runs
        self._began: float | None = None

    def note(self, line: str) -> None:
        """Show the line in the wrapped display."""
        self._shown.note(line)

    def start(self, title: str, epochs: int, done: int, steps: int) -> None:
        """Begin the next run; its epochs that were trained before take no time."""
        self._began = time.monotonic() if self._began is None else self._began
        self._later, self._mine, self._at = max(self._later - epochs, 0), epochs, done
        self._estimate()
        self._shown.start(title, epochs, done, steps)

    def step(self, epoch: int, step: int) -> None:
        """Show the step."""
        self._shown.step(epoch, step)

    def epoch(self, row: EpochRow) -> None:
        """Estimate the time left from the epochs so far."""
        self._trained += row.epoch - self._at
        self._at = row.epoch
        self._estimate()
        self._shown.epoch(row)

    def close(self) -> None:
        """Close the wrapped display, which the next run starts again."""
        self._shown.close()

    def _estimate(self) -> None:
        if self._trained and self._began is not None:
            each = (time.monotonic() - self._began) / self._trained
            self.left_in_all = f"{about(each * (self._later + self._mine - self._at))} left in all"
            self._shown.left_in_all = self.left_in_all


def about(seconds: float) -> str:
    """Return a duration in a few characters.

    Example:
        >>> about(0.2), about(70), about(4000), about(200_000)
        ('about 1 s', 'about 70 s', 'about 67 min', 'about 56 h')
    """
    if seconds < 90:
        return f"about {max(round(seconds), 1)} s"
    return f"about {seconds / 60:.0f} min" if seconds < 7200 else f"about {seconds / 3600:.0f} h"


class EventProgress(Progress):
    """Wrapper of a display that also writes each row of metrics into an event file for TensorBoard.

    The file lies in the folder of the run, so that `tensorboard --logdir runs` names runs by their folders. A continued
    run writes another file, and TensorBoard drops later epochs of the earlier file.

    Args:
        shown: Display of the run.
        folder: Folder of the run.

    Raises:
        ImportError: If TensorBoard is not installed.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> progress = EventProgress(SilentProgress(), folder)
        >>> progress.start("digits ste", epochs=1, done=0, steps=13)
        >>> progress.epoch(EpochRow(epoch=1, lr=0.1, train_loss=0.5, test_accuracy=91.0, seconds=1.0))
        >>> progress.close()
        >>> len(list(folder.glob("events.out.tfevents.*")))
        1
    """

    def __init__(self, shown: Progress, folder: str | Path) -> None:
        require("tensorboard", "tensorboard")
        self._shown, self._folder = shown, Path(folder)
        self._writer: Any = None

    def note(self, line: str) -> None:
        """Show the line in the wrapped display."""
        self._shown.note(line)

    def start(self, title: str, epochs: int, done: int, steps: int) -> None:
        """Open the file."""
        # Not earlier, because an older run in the folder is renamed before this call.
        writer = require("torch.utils.tensorboard", "tensorboard").SummaryWriter
        self._writer = writer(str(self._folder), purge_step=done + 1 if done else None)
        self._shown.start(title, epochs, done, steps)

    def step(self, epoch: int, step: int) -> None:
        """Show the step."""
        self._shown.step(epoch, step)

    def epoch(self, row: EpochRow) -> None:
        """Write the metrics of the epoch; names such as accuracy/test put curves of one kind side by side."""
        for name, value in row.to_dict().items():
            if name != "epoch" and isinstance(value, int | float):
                self._writer.add_scalar("/".join(name.rsplit("_", 1)[::-1]), value, row.epoch)
        self._writer.flush()
        self._shown.epoch(row)

    def close(self) -> None:
        """Close the file."""
        self._shown.close()
        if self._writer is not None:
            self._writer.close()


def _metrics(row: EpochRow, *parts: str) -> list[str]:
    """Return a short text per part of the data for which the row has an accuracy or bits per byte."""
    found = []
    for part in parts:
        accuracy, bits = getattr(row, f"{part}_accuracy"), getattr(row, f"{part}_bits", None)
        found += [] if accuracy is None else [f"{part} {accuracy:.2f}"]
        found += [] if bits is None else [f"{part} {bits:.3f} bits/byte"]
    return found


def default_progress() -> Progress:
    """Return a progress bar if stdout is a terminal, and lines otherwise."""
    return BarProgress() if sys.stdout.isatty() else LineProgress()
