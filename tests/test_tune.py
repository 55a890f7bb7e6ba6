"""The search for settings: it begins with the recipe's, goes on where it stopped, and never looks at test data."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

import needs
from bitbayes.lab import cli
from bitbayes.lab.choices import Overrides
from bitbayes.lab.studies.tune import parse_ranges, tune
from bitbayes.lab.train import DivergedError, RunConfig, RunError, SilentProgress

pytestmark = needs.OPTUNA.unless_installed("optuna")


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
    how: dict[str, Any] = {"rule": "bayesbinn:default", "ranges": {"init_lambda": (5.0, 50.0)}}
    (row,) = search(tmp_path / "auto", 1, Overrides(epochs=1), **how)
    assert row["settings"] == {"init_lambda": pytest.approx(15.0)}
    (row,) = search(tmp_path / "own", 1, Overrides(epochs=1, options={"init_lambda": 7.0}), **how)
    assert row["settings"] == {"init_lambda": pytest.approx(7.0)}


def test_the_rate_of_real_parameters_is_searched_too(tmp_path: Path) -> None:
    rows = search(tmp_path, 3, Overrides(epochs=1), rule="ste", ranges={"lr": (1e-3, 1e-1), "real_lr": (1e-4, 1e-1)})
    own = next(row["settings"] for row in rows if row["folder"] == "trial0")
    assert own == {"lr": pytest.approx(1e-2), "real_lr": pytest.approx(1e-3)}
    for row in rows:
        spec = RunConfig.load(tmp_path / row["folder"]).spec
        assert (spec.lr, spec.real_lr) == (row["settings"]["lr"], row["settings"]["real_lr"])
    assert len({row["settings"]["real_lr"] for row in rows}) == 3
    with pytest.raises(ValueError, match="real_lr has no effect on digits with full-precision"):
        search(tmp_path / "float", 1, Overrides(epochs=1), rule="full-precision", ranges={"real_lr": (1e-4, 1e-1)})


def test_the_files_of_a_search_name_its_variant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (row,) = search("", 1, Overrides(epochs=3), rule="bayesbinn:default")
    steps = 3 * 24  # 1,197 digits in batches of 50
    assert row["settings"] == {"lr": pytest.approx(6 / steps), "ess_scale": pytest.approx(300.0)}
    found = json.loads(Path("runs/tune-digits-bayesbinn-default/tune.json").read_text())
    assert (found["rule"], found["trials"]) == ("bayesbinn:default", [row])


class Stops(SilentProgress):
    """Ends the search as a kill would: at the start of a run, or within it."""

    def __init__(self, run: int, epoch: int) -> None:
        self.at, self.begun = (run, epoch), 0

    def start(self, title: str, epochs: int, done: int, steps: int) -> None:
        self.begun += 1
        if self.at == (self.begun, 0):
            raise KeyboardInterrupt

    def step(self, epoch: int, step: int) -> None:
        if self.at == (self.begun, epoch):
            raise KeyboardInterrupt


def test_a_search_is_a_function_of_its_seed(tmp_path: Path) -> None:
    """However often it is interrupted; a trial goes on in its folder, and its first epoch is not repeated."""
    whole = search(tmp_path / "whole", 3)
    for place, run, epoch in (("first", 1, 0), ("within", 2, 2), ("last", 3, 1)):
        out = tmp_path / place
        with pytest.raises(KeyboardInterrupt):
            search(out, 3, progress=Stops(run, epoch))
        lines = (out / f"trial{run - 1}/metrics.jsonl").read_text()
        assert lines.count("\n") == max(epoch - 1, 0)
        assert search(out, 3) == whole
        assert (out / f"trial{run - 1}/metrics.jsonl").read_text().startswith(lines)
    assert search(tmp_path / "parts", 1) == [row for row in whole if row["folder"] == "trial0"]
    assert search(tmp_path / "parts", 3) == whole
    other = search(tmp_path / "other", 2, Overrides(epochs=2, seed=1))
    (mine,) = (row["settings"] for row in other if row["folder"] == "trial1")
    assert mine not in [row["settings"] for row in whole]


def test_a_trial_without_a_record_is_proposed_again(tmp_path: Path) -> None:
    """A kill came after its folder was made; tune.json, too, is made again."""
    whole = search(tmp_path, 2)
    for name in ("config.json", "summary.json", "metrics.jsonl", "environment.json", "model.safetensors"):
        (tmp_path / "trial1" / name).unlink()
    (tmp_path / "tune.json").unlink()
    assert search(tmp_path, 2) == whole
    assert json.loads((tmp_path / "tune.json").read_text())["trials"] == whole


def test_a_search_of_an_earlier_version_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It left a journal, and after a kill a lock that points nowhere; a relative folder was where that hung."""
    monkeypatch.chdir(tmp_path)
    before = search("old", 2)
    about = json.loads(Path("old/search.json").read_text())
    Path("old/search.json").unlink()
    lines = [{"op_code": 0, "study_name": "tune"}, {"op_code": 2, "study_id": 0, "user_attr": {"about": about}}]
    Path("old/study.log").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"op_co')
    Path("old/study.log.lock").symlink_to("old/study.log")
    with pytest.raises(ValueError, match="holds a search with another lr, ranges; choose another --out"):
        search("old", 3, Overrides(epochs=2, lr=0.5))
    after = search("old", 3)
    assert len(after) == 3 and all(row in after for row in before)


def test_the_recipe_comes_first_also_outside_of_the_ranges(tmp_path: Path) -> None:
    rows = search(tmp_path, 3, rule="ste", ranges={"lr": (0.02, 0.04)})
    values = [row["settings"]["lr"] for row in sorted(rows, key=lambda row: row["folder"])]
    assert values[0] == pytest.approx(0.01) and all(0.02 <= value <= 0.04 for value in values[1:])


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    how = {"rule": "ste", "ranges": {"clip": (0.5, 2.0)}}
    search(tmp_path, 1, **how)
    with pytest.raises(ValueError, match=r"holds a search with another .*rule"):
        search(tmp_path, 2)
    path = tmp_path / "trial0" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "options": {}}))
    with pytest.raises(ValueError, match="trial0 is not a trial of this search; choose another --out"):
        search(tmp_path, 2, **how)


def test_a_disk_that_is_full_is_no_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(config: RunConfig, **how: Any) -> None:
        raise RunError("cannot write: No space left on device")

    monkeypatch.setattr("bitbayes.lab.studies.tune.run_recipe", fails)
    with pytest.raises(RunError, match="No space left"):
        search(tmp_path, 2, rule="ste")
    monkeypatch.undo()
    assert [row["accuracy"] is None for row in search(tmp_path, 1, rule="ste")] == [False]


def test_a_run_that_diverged_is_a_trial(tmp_path: Path) -> None:
    """And is not trained again."""
    search(tmp_path, 1, rule="ste")
    folder = tmp_path / "trial0"
    (folder / "summary.json").unlink()
    (folder / "failure.json").write_text(json.dumps({"epochs_done": 1, "error": "the loss is not finite"}))
    assert search(tmp_path, 1, rule="ste")[0]["accuracy"] is not None  # an interruption of an earlier version
    (folder / "summary.json").unlink()
    (folder / "failure.json").write_text(json.dumps({"epochs_done": 1, "error": "not finite", "diverged": True}))
    (row,) = search(tmp_path, 1, rule="ste")
    assert row["accuracy"] is None and not (folder / "summary.json").exists()


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
    command = shown.split("train with the best settings: bitbayes ")[1]
    assert "weight_decay=1e-5" in command and f"clip={best['settings']['clip']}" in command
    assert cli.main([*shlex.split(command), "--out", "again"]) == 0
    assert json.loads(Path("again/summary.json").read_text())["val_accuracy"] == best["accuracy"]


def test_a_range_that_a_trial_could_not_take_is_refused_before_the_first(tmp_path: Path) -> None:
    """Later, no call could continue the search."""
    for name, low, high, message in (
        ("lr", 0.5, 2.0, "lr must be at most 1"),
        ("momentum", 0.5, 1.5, r"momentum must be in \[0, 1\)"),
    ):
        given = Overrides(out=str(tmp_path / name), epochs=1, budget="quick")
        with pytest.raises(ValueError, match=message):
            tune("digits", "bayesbinn", given, trials=6, ranges={name: (low, high)})
        assert not (tmp_path / name).exists()


def test_what_is_set_is_not_searched(tmp_path: Path) -> None:
    given = Overrides(out=str(tmp_path), epochs=1, budget="quick", options={"ess_scale": 2.0})
    rows = tune("digits", "bayesbinn", given, trials=2)
    assert [list(row["settings"]) for row in rows] == [["lr"], ["lr"]]
    assert RunConfig.load(tmp_path / "trial1").spec.options["ess_scale"] == 2.0


def test_what_is_set_and_searched_is_in_the_command_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["tune", "digits", "--set", "ess_scale=2", "momentum=0.5", "--search", "ess_scale=1:3", "--trials", "1"]
    assert cli.main([*words, "--epochs", "1", "--out", str(tmp_path)]) == 0
    command = capsys.readouterr().out.split("train with the best settings: bitbayes ")[1]
    assert command.split("--set ")[1].split() == ["momentum=0.5", "ess_scale=2.0"]


def test_a_range_around_the_recipes_rate_ends_where_the_rule_does(tmp_path: Path) -> None:
    rows = search(tmp_path, 3, Overrides(epochs=1, lr=0.5))
    assert all(row["settings"]["lr"] <= 1 for row in rows)


def test_a_name_with_two_ranges_is_refused() -> None:
    with pytest.raises(ValueError, match="lr has two ranges; give one"):
        parse_ranges(["lr=1e-3:1e-2", "lr=1e-1:1"])


@pytest.mark.parametrize("word", ["lr", "lr=1", "lr=a:b", "lr=2:1", "lr=0:1", "lr=1:inf", "lr=1:2:3"])
def test_ranges_that_make_no_sense(word: str) -> None:
    with pytest.raises(ValueError, match="range"):
        parse_ranges([word])


def test_what_cannot_be_tuned(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="snelson cannot be tuned"):
        tune("snelson", "ste", Overrides(out=str(tmp_path), epochs=1, budget="quick"), trials=1)
    with pytest.raises(ValueError, match="trials must be at least 1"):
        search(tmp_path, 0)
