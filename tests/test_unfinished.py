"""Runs that are not what they seem: unfinished, trained on other data, damaged, or named where they cannot be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import needs
from bitbayes.lab import cli
from bitbayes.lab.recipes import make_config, open_recipe, run_recipe
from bitbayes.lab.recipes.finished import weights_of
from bitbayes.lab.report.results import results_table
from bitbayes.lab.studies.load import load_run
from bitbayes.lab.studies.several import finished, run_several
from bitbayes.lab.studies.tables import TableRow
from bitbayes.lab.train import Interrupted, RunError, RunFolder, SilentProgress
from bitbayes.lab.train.results import finished_summary


class Interrupting(SilentProgress):
    """Ctrl-C after the first epoch."""

    def epoch(self, *_: Any, **__: Any) -> None:
        raise KeyboardInterrupt


def trained(out: Path, **choices: Any) -> Any:
    config = make_config("digits", "ste", out=str(out), **{"epochs": 2} | choices)
    run_recipe(config, progress=SilentProgress())
    return config


def changed(out: Path, name: str, **entries: Any) -> None:
    folder = RunFolder(out)
    folder.write_json(name, folder.read_object(name) | entries)


def test_a_run_on_other_data_is_neither_evaluated_nor_counted_as_finished(tmp_path: Path) -> None:
    config = trained(tmp_path / "run")
    assert finished(config) is not None
    assert load_run(tmp_path / "run").config.epochs == 2
    changed(tmp_path / "run", "environment.json", data="0123456789abcdef")
    assert finished(config) is None
    with pytest.raises(RunError, match=r"run was trained on other data, .*; give its own data with --data"):
        load_run(tmp_path / "run")


def test_several_runs_go_on_past_an_early_stop(tmp_path: Path) -> None:
    config = trained(tmp_path / "run", epochs=3, stop_after=1)
    (summary,) = run_several([config.changed(stop_after=None)], progress=SilentProgress(), note=lambda line: None)
    assert summary.epochs_done == 3
    (again,) = run_several([config], progress=SilentProgress(), note=lambda line: None)
    assert again.epochs_done == 3, "a run that has passed the stop is not begun again"


def test_a_run_that_goes_on_is_not_finished(tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = trained(out, epochs=3, stop_after=1)
    assert finished_summary(out) is not None and weights_of(str(out), "other", "teacher")
    whole = config.changed(stop_after=None)
    with pytest.raises(Interrupted):
        run_recipe(whole, resume=True, progress=Interrupting())
    assert finished_summary(out) is None and not RunFolder(out).has("summary.json")
    with pytest.raises(RunError, match="run is not finished; let it finish first, for example with --resume"):
        load_run(out)
    with pytest.raises(ValueError, match=r"teacher .*run is not finished"):
        weights_of(str(out), "other", "teacher")
    run_recipe(whole, resume=True, progress=SilentProgress())
    assert finished_summary(out) is not None and load_run(out).config.epochs == 3


def test_a_summary_of_fewer_epochs_is_that_of_an_unfinished_run(tmp_path: Path) -> None:
    config = trained(tmp_path / "run")
    changed(tmp_path / "run", "summary.json", epochs_done=1)
    assert finished(config) is None
    with pytest.raises(RunError, match="is not finished"):
        load_run(tmp_path / "run")


def test_the_caption_has_the_epochs_that_were_trained(tmp_path: Path) -> None:
    config = trained(tmp_path / "run", epochs=9, stop_after=1)
    summary = finished_summary(config.out)
    assert summary is not None
    assert "epochs: 1 of 9" in results_table(None, open_recipe("digits"), [TableRow("ste", [summary])]).caption


@pytest.mark.parametrize("name", ["summary.json", "environment.json"])
@pytest.mark.parametrize("content", ["[]", "null"])
def test_a_file_that_holds_no_object_is_named(name: str, content: str, tmp_path: Path, capsys: Any) -> None:
    trained(tmp_path / "run", epochs=3, stop_after=1)
    (tmp_path / "run" / name).write_text(content)
    words = ["--rule", "ste", "--epochs", "3", "--out", str(tmp_path / "run"), "--resume"]
    code = cli.main(["evaluate", str(tmp_path / "run")] if name == "summary.json" else ["train", "digits", *words])
    assert code == 1 and f"{name} is damaged: it holds no JSON object; restore it" in capsys.readouterr().err


@needs.LINUX.unless(Path("/proc/self/clear_refs").exists())
def test_every_run_has_a_peak_of_its_own(tmp_path: Path) -> None:
    def memory(name: str) -> float:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024

    large = bytearray(b"x") * (800 * 2**20)
    assert memory("VmHWM") > 800
    del large
    before = memory("VmRSS")
    [first] = run_several([make_config("digits", "ste", epochs=1, out=str(tmp_path / "run"))], note=lambda _: None)
    assert first.peak_memory_mib is not None and first.peak_memory_mib < before + 400


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "digits", "--rule", "ste", "--lr", "inf"], "learning rates must be positive and finite, got inf"),
        (["train", "digits", "--rule", "ste", "--real-lr", "inf"], "learning rates must be positive and finite"),
        (["train", "digits", "--rule", "ste", "--set", "clip=1", "clip=2"], "--set has clip twice; give it once"),
        (["new", "digits.py"], "digits is the name of a recipe of this package; give another name"),
    ],
)
def test_what_would_not_work_is_refused(words: list[str], message: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        ["pack", "run", "-o", "nowhere/net.safetensors"],
        ["run", "zoo:digits", "--out", "nowhere/answers.jsonl"],
        ["export", "zoo:digits", "--c", "nowhere/net.h"],
        ["report", "runs", "-o", "nowhere/page.html"],
    ],
)
def test_a_missing_folder_is_told_before_the_work(words: list[str], tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 2
    assert "there is no folder nowhere to write " in capsys.readouterr().err and not Path("nowhere").exists()


def test_a_folder_without_a_name_is_not_set_aside(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["train", "digits", "--rule", "ste", "--epochs", "1", "--out", "."]
    assert cli.main(words) == 0
    before = (tmp_path / "summary.json").read_text()
    capsys.readouterr()
    assert cli.main(words) == 1
    assert "holds an older run and has no name by which it could be renamed; give another" in capsys.readouterr().err
    assert (tmp_path / "summary.json").read_text() == before


def test_a_training_whose_output_is_closed_says_how_to_go_on(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "bitbayes", "train", "digits", "--rule", "ste", "--epochs", "40"]
    source = str(Path(cli.__file__).resolve().parents[3])
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    with subprocess.Popen([*words, "--out", str(tmp_path / "run")], **pipes) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
    assert "what read the output has ended; give the same command with --resume to continue" in said
    assert json.loads((tmp_path / "run" / "failure.json").read_text())["epochs_done"] < 40
