"""The search for settings: it begins with the recipe's, goes on where it stopped, and never looks at test data."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from bitbayes.lab import cli
from bitbayes.lab.choices import Overrides
from bitbayes.lab.studies.tune import parse_ranges, tune
from bitbayes.lab.train import DivergedError, RunConfig, SilentProgress

pytest.importorskip("optuna", reason="needs the extra tune")


def search(
    out: Path | str, trials: int, given: Overrides | None = None, rule: str = "bayesbinn", **how: Any
) -> list[dict[str, Any]]:
    quiet = {"progress": SilentProgress(), "note": lambda line: None}
    given = dataclasses.replace(given or Overrides(epochs=2), out=str(out))
    return tune("digits", rule, given, trials=trials, **{**quiet, **how})


def test_a_search_begins_with_the_recipe_and_goes_on(tmp_path: Path) -> None:
    first = search(tmp_path, 2)
    more = search(tmp_path, 4)
    assert len(first) == 2 and len(more) == 4
    assert all(row in more for row in first)
    own = next(row["settings"] for row in more if row["folder"] == "trial0")
    assert own == {"lr": pytest.approx(3e-3), "ess_scale": pytest.approx(100.0)}
    assert [row["accuracy"] for row in more] == sorted((row["accuracy"] for row in more), reverse=True)
    assert len({row["settings"]["lr"] for row in more}) == 4
    assert json.loads((tmp_path / "tune.json").read_text())["trials"] == more
    for row in more:
        folder, settings = tmp_path / row["folder"], row["settings"]
        config = RunConfig.load(folder)
        assert (config.spec.lr, config.spec.options["ess_scale"]) == (settings["lr"], settings["ess_scale"])
        assert config.spec.lr is not None and 3e-4 <= config.spec.lr <= 3e-2
        assert 10 <= config.spec.options["ess_scale"] <= 1000
        assert json.loads((folder / "summary.json").read_text())["val_accuracy"] == row["accuracy"]
        assert not (folder / "checkpoint.pt").exists() and (folder / "model.safetensors").exists()
    with pytest.raises(ValueError, match=r"holds a search with another lr, options, ranges; choose another --out"):
        search(tmp_path, 5, Overrides(epochs=2, lr=1e-3, options={"momentum": 0.5}))


def test_the_first_trial_has_the_defaults_of_what_the_recipe_leaves_open(tmp_path: Path) -> None:
    (row,) = search(tmp_path, 1, Overrides(epochs=1), ranges={"init_lambda": (0.1, 100.0)})
    assert row["settings"] == {"init_lambda": pytest.approx(1.0)}


def test_the_files_of_a_search_name_its_variant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (row,) = search("", 1, Overrides(epochs=3), rule="bayesbinn:default")
    steps = 3 * 24  # 1,197 digits in batches of 50
    assert row["settings"] == {"lr": pytest.approx(6 / steps), "ess_scale": pytest.approx(300.0)}
    found = json.loads(Path("runs/tune-digits-bayesbinn-default/tune.json").read_text())
    assert (found["rule"], found["trials"]) == ("bayesbinn:default", [row])


def test_an_interrupted_trial_goes_on_in_its_folder(tmp_path: Path) -> None:
    class Stops(SilentProgress):
        begun = 0

        def start(self, title: str, epochs: int, done: int, steps: int) -> None:
            self.begun += 1

        def step(self, epoch: int, step: int) -> None:
            if (self.begun, epoch) == (2, 2):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, 3, progress=Stops())
    assert RunConfig.load(tmp_path / "trial1").spec.lr != pytest.approx(3e-3)
    config, lines = RunConfig.load(tmp_path / "trial1"), (tmp_path / "trial1/metrics.jsonl").read_text().splitlines()
    assert len(lines) == 1
    rows = search(tmp_path, 3)
    assert len(rows) == 3
    assert (tmp_path / "trial1/metrics.jsonl").read_text().splitlines()[:1] == lines  # its first epoch is not repeated
    assert next(row["settings"]["lr"] for row in rows if row["folder"] == "trial1") == config.spec.lr


def test_a_run_that_fails_is_a_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(config: RunConfig, **how: Any) -> None:
        raise DivergedError("the loss is not finite")

    monkeypatch.setattr("bitbayes.lab.studies.tune.run_recipe", fails)
    seen: list[str] = []
    rows = search(tmp_path, 2, rule="ste", note=seen.append)
    assert [row["accuracy"] for row in rows] == [None, None]
    assert list(rows[0]["settings"]) == ["lr"] and "failed: the loss is not finite" in seen


def test_the_command_prints_how_to_train_the_best_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = "tune digits --trials 2 --rule ste --epochs 2 --search lr=1e-3:1e-1 clip=0.5:2 --set weight_decay=1e-5"
    assert cli.main(shlex.split(words)) == 0
    shown = capsys.readouterr().out
    best = json.loads(Path("runs/tune-digits-ste/tune.json").read_text())["trials"][0]
    command = shown.split("the best again: bitbayes ")[1]
    assert "weight_decay=1e-5" in command and f"clip={best['settings']['clip']}" in command
    assert cli.main([*shlex.split(command), "--out", "again"]) == 0
    assert json.loads(Path("again/summary.json").read_text())["val_accuracy"] == best["accuracy"]


@pytest.mark.parametrize("word", ["lr", "lr=1", "lr=a:b", "lr=2:1", "lr=0:1", "lr=1:inf", "lr=1:2:3"])
def test_ranges_that_make_no_sense(word: str) -> None:
    with pytest.raises(ValueError, match="range"):
        parse_ranges([word])


def test_what_cannot_be_tuned(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="snelson cannot be tuned"):
        tune("snelson", "ste", Overrides(out=str(tmp_path), epochs=1, budget="quick"), trials=1)
    with pytest.raises(ValueError, match="trials must be at least 1"):
        search(tmp_path, 0)
