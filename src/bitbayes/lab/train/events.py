"""Metrics for TensorBoard, beside what is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bitbayes.errors import require
from bitbayes.lab.train.progress import Progress

__all__ = ["EventProgress"]


class EventProgress:
    """Another display that also writes each line of metrics into an event file for TensorBoard.

    The file lies in the folder of the run, so that `tensorboard --logdir runs` names runs by their folders. A run that
    is continued writes a further one, and TensorBoard drops what the earlier one has after that epoch.

    Args:
        shown: The display.
        folder: Of the run.

    Raises:
        ImportError: If TensorBoard is not installed.

    Example:
        >>> import tempfile
        >>> from bitbayes.lab.train import SilentProgress
        >>> folder = Path(tempfile.mkdtemp())
        >>> progress = EventProgress(SilentProgress(), folder)
        >>> progress.start("digits ste", epochs=1, done=0, steps=13)
        >>> progress.epoch({"epoch": 1, "train_loss": 0.5, "test_accuracy": 91.0})
        >>> progress.close()
        >>> len(list(folder.glob("events.out.tfevents.*")))
        1
    """

    def __init__(self, shown: Progress, folder: str | Path) -> None:
        require("tensorboard", "tensorboard")
        self._shown, self._folder = shown, Path(folder)
        self._writer: Any = None

    def start(self, title: str, epochs: int, done: int, steps: int) -> None:
        """Opens the file."""
        # Not earlier: an older run in the folder has been moved aside by now.
        writer = require("torch.utils.tensorboard", "tensorboard").SummaryWriter
        self._writer = writer(str(self._folder), purge_step=done + 1 if done else None)
        self._shown.start(title, epochs, done, steps)

    def step(self, epoch: int, step: int) -> None:
        """Shows the step."""
        self._shown.step(epoch, step)

    def epoch(self, row: dict[str, Any]) -> None:
        """Writes the numbers of the epoch; names such as accuracy/test put curves of one kind side by side."""
        for name, value in row.items():
            if name != "epoch" and isinstance(value, int | float):
                self._writer.add_scalar("/".join(name.rsplit("_", 1)[::-1]), value, row["epoch"])
        self._writer.flush()
        self._shown.epoch(row)

    def close(self) -> None:
        """Closes the file."""
        self._shown.close()
        if self._writer is not None:
            self._writer.close()
