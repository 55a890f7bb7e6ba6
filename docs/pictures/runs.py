"""A run that is stopped and resumed, beside the same run without the stop."""

import contextlib
import io
import json
import tempfile
from pathlib import Path

import style
from matplotlib.figure import Figure

from bitbayes.lab.cli import app

EPOCHS, STOP = 12, 5


def losses(folder: Path) -> list[float]:
    """Return the training loss of every epoch of a run."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["train_loss"] for line in lines]


def train(folder: Path, *words: str) -> list[float]:
    """Train with `bitbayes train` and return the losses so far."""
    command = ["train", "digits", "--epochs", str(EPOCHS), "--precision", "fp32", "--out", str(folder), *words]
    with contextlib.redirect_stdout(io.StringIO()):
        assert app.main(command) == 0, command
    return losses(folder)


def draw() -> Figure:
    """Return one panel: the whole run as a line, the two parts of the other as dots."""
    with tempfile.TemporaryDirectory() as place:
        whole = train(Path(place, "whole"))
        first = train(Path(place, "parts"), "--stop-after", str(STOP))
        parts = train(Path(place, "parts"), "--resume")
    assert first == parts[:STOP] and parts == whole
    figure, ((axes,),) = style.new_figure(width=7.0, height=2.7)
    epochs = range(1, EPOCHS + 1)
    axes.plot(epochs, whole, color=style.LINE, linewidth=5, label="not interrupted")
    axes.plot(epochs[:STOP], parts[:STOP], "o", color=style.ORANGE, label=f"stopped after epoch {STOP}")
    axes.plot(epochs[STOP:], parts[STOP:], "s", color=style.BLUE, label="resumed from the checkpoint")
    axes.axvline(STOP + 0.5, color=style.MUTED, linewidth=1, linestyle=":")
    axes.set(title="A resumed run is the uninterrupted run, bit for bit", xlabel="epoch", ylabel="training loss")
    axes.legend()
    return figure
