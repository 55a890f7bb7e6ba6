"""What a run shows while it works: a bar on a terminal, a few plain lines elsewhere, curves in TensorBoard."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from bitbayes.errors import require
from bitbayes.lab.train.records import EpochRow


class Progress:
    """What `train` tells while it works; a display defines the calls that it has something to show for."""

    def start(self, title: str, epochs: int, done: int, steps: int) -> None:
        """Begin: `done` of `epochs` epochs are behind us, each of `steps` steps."""

    def step(self, epoch: int, step: int) -> None:
        """A step has ended."""

    def epoch(self, row: EpochRow) -> None:
        """An epoch has been evaluated."""

    def close(self) -> None:
        """The run has ended, in whatever way."""


class SilentProgress(Progress):
    """Shows nothing."""


class LineProgress(Progress):
    """One line an epoch, or about twenty lines for a run of very many epochs."""

    def start(self, title: str, epochs: int, done: int, steps: int) -> None:
        """Remember how long the run is."""
        self._title, self._last = title, epochs
        self._every = 1 if epochs <= 50 or steps > 20 else max(1, epochs // 20)
        if done:
            print(f"{title}: continuing after epoch {done}", flush=True)

    def epoch(self, row: EpochRow) -> None:
        """Print the line."""
        if row.epoch % self._every == 0 or row.epoch == self._last:
            parts = f"{self._title}: epoch {row.epoch}/{self._last}", f"loss {row.train_loss:.4f}"
            print(*parts, *_accuracies(row, "train", "val", "test"), f"{row.seconds:.1f} s", sep="  ", flush=True)


class BarProgress(Progress):
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
        self._shown = 0.0

    def start(self, title: str, epochs: int, done: int, steps: int) -> None:
        """Show the bar."""
        self._title, self._epochs, self._steps = title, epochs, steps
        text = f"{title} epoch {done}/{epochs}"
        self._task = self._bar.add_task(text, total=epochs * steps, completed=done * steps, metrics="")
        self._bar.start()

    def step(self, epoch: int, step: int) -> None:
        """Move the bar, a few times a second."""
        now = time.monotonic()
        if now - self._shown > 0.1:
            self._shown = now
            text = f"{self._title} epoch {epoch}/{self._epochs}"
            self._bar.update(self._task, description=text, completed=(epoch - 1) * self._steps + step)

    def epoch(self, row: EpochRow) -> None:
        """Show the loss and one accuracy: a terminal of 80 columns has room for no more."""
        metrics = " ".join([f"loss {row.train_loss:.3f}", *_accuracies(row, "val", "test", "train")[:1]])
        self._bar.update(self._task, metrics=metrics, completed=row.epoch * self._steps)

    def close(self) -> None:
        """Remove the bar."""
        self._bar.stop()


class EventProgress(Progress):
    """Another display that also writes each row of metrics into an event file for TensorBoard.

    The file lies in the folder of the run, so that `tensorboard --logdir runs` names runs by their folders. A run that
    is continued writes a further file, and TensorBoard drops what the earlier one has after that epoch.

    Args:
        shown: The other display.
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

    def start(self, title: str, epochs: int, done: int, steps: int) -> None:
        """Open the file."""
        # Not earlier: an older run in the folder has been moved aside by now.
        writer = require("torch.utils.tensorboard", "tensorboard").SummaryWriter
        self._writer = writer(str(self._folder), purge_step=done + 1 if done else None)
        self._shown.start(title, epochs, done, steps)

    def step(self, epoch: int, step: int) -> None:
        """Show the step."""
        self._shown.step(epoch, step)

    def epoch(self, row: EpochRow) -> None:
        """Write the numbers of the epoch; names such as accuracy/test put curves of one kind side by side."""
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


def _accuracies(row: EpochRow, *parts: str) -> list[str]:
    """Return a short text for the accuracy on each of some parts of the data, where the row has it."""
    found = {part: getattr(row, f"{part}_accuracy") for part in parts}
    return [f"{part} {accuracy:.2f}" for part, accuracy in found.items() if accuracy is not None]


def default_progress() -> Progress:
    """Return a bar if stdout is a terminal, else lines."""
    return BarProgress() if sys.stdout.isatty() else LineProgress()
