"""Event files for TensorBoard, read back with TensorBoard."""

import json
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bitbayes.errors import install_command
from bitbayes.lab import cli
from bitbayes.lab.train import EpochRow, EventProgress, SilentProgress


def curves(folder):
    """Epochs and values by name."""
    events = EventAccumulator(str(folder)).Reload()
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_events_are_the_metrics(tmp_path):
    """Also of a run that was continued."""
    words = ["train", "digits", "--epochs", "3", "--out", str(tmp_path / "run"), "--tensorboard"]
    assert cli.main([*words, "--stop-after", "2"]) == 0
    assert cli.main([*words, "--resume"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    found = curves(tmp_path / "run")
    names = {"lr": "lr", "loss/train": "train_loss", "accuracy/test": "test_accuracy", "nll/test": "test_nll"}
    for name, key in {**names, "accuracy/val": "val_accuracy", "flips": "flips", "seconds": "seconds"}.items():
        assert found[name] == [(row["epoch"], pytest.approx(row[key], rel=1e-6)) for row in rows]
    assert [step for step, _ in found["lr"]] == [1, 2, 3]


def test_epochs_that_are_run_again_count_once(tmp_path):
    for done, losses in ((0, [3.0, 2.0, 1.0]), (1, [2.5])):
        progress = EventProgress(SilentProgress(), tmp_path)
        progress.start("digits ste", 3, done, 13)
        for epoch, loss in enumerate(losses, done + 1):
            progress.step(epoch, 1)
            progress.epoch(EpochRow(epoch=epoch, lr=0.1, train_loss=loss, seconds=1.0))
        progress.close()
    found = curves(tmp_path)
    assert found["loss/train"] == [(1, 3.0), (2, 2.5)] and set(found) == {"loss/train", "lr", "seconds"}


def test_without_tensorboard(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert cli.main(["train", "digits", "--out", str(tmp_path / "run"), "--tensorboard"]) == 1
    line = f"bitbayes: tensorboard is not installed; run: {install_command('tensorboard')}\n"
    assert capsys.readouterr().err == line
    assert not (tmp_path / "run").exists()
