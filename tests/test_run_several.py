"""Several runs of one command: the same runs as one by one, whether in turn or side by side."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bitbayes.lab import cli
from bitbayes.lab.choices import Overrides
from bitbayes.lab.recipes import make_config
from bitbayes.lab.recipes.configure import load_data
from bitbayes.lab.studies import several
from bitbayes.lab.studies.several import make_configs, run_several, with_float_networks
from bitbayes.posterior import load_posterior

EPOCHS = 3


def configs(folder: Path, seeds: int = 3) -> list:
    return make_configs("digits", "bayesbinn", seeds, Overrides(out=str(folder), epochs=EPOCHS))


def belief(folder: str) -> dict[str, torch.Tensor]:
    return load_posterior(Path(folder, "posterior.safetensors")).natural


def test_side_by_side_is_one_after_another(tmp_path: Path) -> None:
    """Bit for bit: small networks use one thread either way."""
    told: list[str] = []
    one, other = configs(tmp_path / "one"), configs(tmp_path / "other")
    plain = run_several(one, note=told.append)
    summaries = run_several(other, jobs=2, note=told.append)
    assert told[0] == f"run 1 of 3, in {tmp_path}/one/seed0" and told[3] == "3 runs, 2 at a time"
    assert sorted(line.partition("/seed")[2][0] for line in told[4:]) == ["0", "1", "2"]
    assert [line.endswith(" left in all") for line in told] == [False, True, True, False, True, True, False]
    assert [summary.seed for summary in summaries] == [0, 1, 2]
    assert [s.test_accuracy for s in summaries] == [s.test_accuracy for s in plain]
    for first, second in zip(one, other, strict=True):
        mine, theirs = belief(first.out), belief(second.out)
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert not torch.equal(*(next(iter(belief(config.out).values())) for config in one[:2]))


def test_what_is_finished_is_not_repeated(tmp_path: Path) -> None:
    told: list[str] = []
    before = run_several(configs(tmp_path, 2), note=told.append)
    times = {config.out: Path(config.out, "summary.json").stat().st_mtime_ns for config in configs(tmp_path, 2)}
    after = run_several(configs(tmp_path, 3), note=told.append)
    assert after[:2] == before and told[3:] == [f"run 1 of 1, in {tmp_path}/seed2"]
    assert told[2] == "2 of 3 runs are already finished and are not trained again"
    assert all(Path(out, "summary.json").stat().st_mtime_ns == time for out, time in times.items())


def test_a_failure_is_told_and_leaves_the_others_whole(tmp_path: Path) -> None:
    good = configs(tmp_path, 1)
    bad = make_config("digits", "bayesbinn", seed=7, out=str(tmp_path / "bad"), epochs=EPOCHS)
    bad = bad.changed(options={"ess": 1.0, "odd": 1.0})
    with pytest.raises((TypeError, ValueError), match="odd"):
        run_several([*good, bad], jobs=2, note=lambda line: None)
    (summary,) = run_several(good, note=lambda line: None)  # begun or not
    assert summary.epochs_done == EPOCHS


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="jobs must be at least 1, got 0"):
        run_several(configs(tmp_path), jobs=0)
    with pytest.raises(ValueError, match=r"two runs would share the folder .*seed0"):
        run_several([*configs(tmp_path), *configs(tmp_path)])
    with pytest.raises(ValueError, match="seeds must be at least 1, got 0"):
        configs(tmp_path, 0)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "digits", "--rule", "bayesbinn", "--epochs", str(EPOCHS), "--seed", "4", "--out", str(tmp_path)]
    assert cli.main([*words, "--seeds", "2", "--jobs", "2"]) == 0
    shown = capsys.readouterr().out
    assert "bayesbinn:straight-through" in shown.replace("\n", "") and "2 runs" in shown and "±" in shown
    found = [json.loads((tmp_path / f"seed{seed}" / "summary.json").read_text()) for seed in (4, 5)]
    assert [summary["seed"] for summary in found] == [4, 5]
    assert cli.main([*words, "--seeds", "2", "--tensorboard"]) == 2
    assert "leave out --seeds" in capsys.readouterr().err


def test_refusals_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "digits", "--rule", "ste", "--epochs", "1", "--out", str(tmp_path / "run")]
    assert cli.main([*words, "--jobs", "2"]) == 2 and "set their number with --seeds" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main([*words, "--seeds", "2"]) == 2 and "leave out torchrun" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_process_keeps_the_data_of_its_last_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(several, "_OF_PROCESS", several._Data())
    monkeypatch.setattr(several, "load_data", lambda config: loaded.append(config.recipe) or load_data(config))
    for recipe, seed in (("digits", 1), ("digits", 2), ("digits-plain", 1)):
        config = make_config(recipe, "ste", epochs=1, seed=seed, out=str(tmp_path / f"{recipe}{seed}"))
        several._run(config, 1, None)
    assert loaded == ["digits", "digits-plain"]


def test_float_networks_are_trained_first_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules, folders = ("ste", "bop", "full-precision"), [str(tmp_path / "float")] * 3
    configs = [
        make_config("digits", rule, epochs=1, pretrain_epochs=None if rule == "full-precision" else 1, seed=1)
        for rule in rules
    ]
    configs = [config.changed(out=str(tmp_path / rule)) for rule, config in zip(rules, configs, strict=True)]
    trained: list[list[str]] = []
    run = several.run_several
    monkeypatch.setattr(
        several, "run_several", lambda found, **how: trained.append([each.out for each in found]) or run(found, **how)
    )
    ready = with_float_networks(configs, folders, note=lambda line: None)
    assert trained == [folders[:1]]
    assert [config.pretrained for config in ready] == [*folders[:2], None]
    run(ready, note=lambda line: None)
    assert with_float_networks(configs, folders, note=lambda line: None) == configs  # all are finished
    assert len(trained) == 1
