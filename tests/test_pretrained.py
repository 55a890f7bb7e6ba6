"""Runs that begin with the weights of a finished run."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from bitbayes.lab import cli
from bitbayes.lab.choices import Overrides, TableChoice
from bitbayes.lab.data import load_digits
from bitbayes.lab.recipes import find_recipe, make_config, run_recipe
from bitbayes.lab.recipes.finished import load_pretrained
from bitbayes.lab.report.groups import grouped
from bitbayes.lab.report.page import read_folders
from bitbayes.lab.studies.load import load_run
from bitbayes.lab.studies.several import finished
from bitbayes.lab.studies.tables import run_table
from bitbayes.lab.studies.tune import tune
from bitbayes.lab.train import RunConfig, RunResult, SilentProgress


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float network that has learnt the digits."""
    out = tmp_path_factory.mktemp("pretrained") / "float"
    run_recipe(make_config("digits", "full-precision", epochs=20, out=str(out)), progress=SilentProgress())
    return out


def begin(first: Path, out: Path, rule: str = "ste", **settings: object) -> RunResult:
    config = make_config("digits", rule, **{"epochs": 1, "pretrained": str(first), "out": str(out), **settings})
    return run_recipe(config, resume=True, progress=SilentProgress())


@pytest.mark.parametrize("rule", ["ste", "bop", "bayesbinn", "vispa"])
def test_a_binary_run_begins_with_the_signs_of_the_float_run(rule: str, first: Path, tmp_path: Path) -> None:
    """After steps of no size, the mode is the sign of the float weights, and the real parameters are theirs."""
    begin(first, tmp_path / "run", rule, lr=1e-12, real_lr=1e-12)
    theirs, run = load_run(first).experiment.model.state_dict(), load_run(tmp_path / "run")
    assert run.experiment.optimizer is not None
    binary = dict(run.experiment.optimizer.named_mode())
    assert len(binary) == 3
    for name, tensor in run.experiment.model.state_dict().items():
        if name in binary:
            assert torch.equal(tensor.sign(), torch.where(theirs[name] >= 0, 1.0, -1.0)), name
        elif not name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            torch.testing.assert_close(tensor, theirs[name])


def test_sizes_are_read_too(first: Path, tmp_path: Path) -> None:
    """Weights that the float network has made large are held more firmly."""
    begin(first, tmp_path / "run", "bayesbinn", lr=1e-12)
    theirs, posterior = load_run(first).experiment.model.state_dict(), load_run(tmp_path / "run").posterior
    assert posterior is not None
    for name, natural in posterior.natural.items():
        torch.testing.assert_close(natural / natural.abs().mean(), theirs[name] / theirs[name].abs().mean())


def test_a_float_run_goes_on_from_the_best_epoch(first: Path, tmp_path: Path) -> None:
    begin(first, tmp_path / "run", "full-precision", lr=1e-12)
    theirs, ours = (load_run(folder).experiment.model.state_dict() for folder in (first, tmp_path / "run"))
    weights = [name for name in theirs if name.endswith("weight")]
    assert weights
    for name in weights:
        torch.testing.assert_close(ours[name], theirs[name])


def test_the_beginning_is_recorded_and_needed_no_more_afterwards(first: Path, tmp_path: Path) -> None:
    copy = tmp_path / "float"
    shutil.copytree(first, copy)
    begin(copy, tmp_path / "whole", epochs=4)
    begin(copy, tmp_path / "parts", epochs=4, stop_after=2)
    begin(copy, tmp_path / "parts", epochs=4)
    rows = [(tmp_path / out / "metrics.jsonl").read_text().splitlines() for out in ("whole", "parts")]
    losses = [[json.loads(row)["train_loss"] for row in part] for part in rows]
    assert len(losses[0]) == 4 and losses[0] == losses[1]
    alone = make_config("digits", "ste", epochs=4, out=str(tmp_path / "whole"))
    with pytest.raises(ValueError, match="pretrained"):
        run_recipe(alone, resume=True, progress=SilentProgress())
    copy.rename(tmp_path / "elsewhere")
    config = load_run(tmp_path / "whole").config
    assert config.pretrained == str(copy) and config.pretrained_sha256 and config.spec.options["init"] == "weights"


def test_beginnings_that_do_not_fit(first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(first, copy)
    assert cli.main(["train", "digits", "--pretrained", str(tmp_path), "--out", str(tmp_path / "run")]) == 2
    assert "is not a run" in capsys.readouterr().err
    with pytest.raises(ValueError, match="pretrained and out are both"):
        make_config("digits", pretrained=str(copy), out=str(copy))
    config = make_config("digits", "ste", pretrained=str(copy), out="-")
    model = find_recipe("digits").builder(load_run(first).experiment.data)()
    with pytest.raises(ValueError, match=r"has data_seed 0, not 3: it may have learnt the validation data"):
        load_pretrained(config.changed(data_seed=3), model)
    with pytest.raises(ValueError, match=r"pretrained .* does not suit the network of digits: model.safetensors does"):
        load_pretrained(config, torch.nn.Linear(64, 10))
    begin(first, tmp_path / "binary")
    assert cli.main(["train", "digits", "--pretrained", str(tmp_path / "binary"), "--out", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is a run of ste, whose binary weights have no sizes to begin with; give a finished run of" in line
    assert not (tmp_path / "run").exists()
    (copy / "summary.json").unlink()
    with pytest.raises(ValueError, match=r"pretrained .* is not finished"):
        make_config("digits", "ste", pretrained=str(copy), out="-")
    (copy / "model.safetensors").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"the weights of pretrained .* have changed since the run began"):
        load_pretrained(config, model)


def test_a_float_network_is_trained_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As two runs by hand, and once: the same command goes on after an interruption, and a finished run is finished."""
    words = ["train", "digits", "--rule", "ste", "--epochs", "3", "--pretrain-epochs", "2"]
    assert cli.main([*words, "--stop-after", "1", "--out", str(tmp_path / "run")]) == 0
    first = tmp_path / "run-pretrained"
    written = (first / "metrics.jsonl").stat().st_mtime_ns
    assert len((first / "metrics.jsonl").read_text().splitlines()) == 2
    assert cli.main([*words, "--resume", "--out", str(tmp_path / "run")]) == 0
    assert (first / "metrics.jsonl").stat().st_mtime_ns == written
    begin(first, tmp_path / "by-hand", epochs=3)
    models = [load_run(tmp_path / name).experiment.model.state_dict() for name in ("run", "by-hand")]
    assert all(torch.equal(tensor, models[1][name]) for name, tensor in models[0].items())
    config = make_config("digits", "ste", epochs=3, pretrain_epochs=2, out=str(tmp_path / "run"))
    assert finished(config) is not None
    assert finished(config.changed(pretrain_epochs=3)) is None


def test_pretraining_that_has_no_effect(first: Path) -> None:
    with pytest.raises(ValueError, match="pretrain_epochs has no effect, because pretrained names a network"):
        make_config("digits", "ste", pretrain_epochs=2, pretrained=str(first))
    with pytest.raises(ValueError, match="because the network is a float network itself"):
        make_config("digits", "full-precision", pretrain_epochs=2)
    with pytest.raises(ValueError, match="pretrain_epochs must be at least 0, got -1"):
        make_config("digits", "ste", pretrain_epochs=-1)


def test_rules_of_a_table_share_the_float_network(tmp_path: Path) -> None:
    recipe = dataclasses.replace(find_recipe("digits"), pretrain_epochs=2)
    assert make_config(recipe, "full-precision").epochs == recipe.epochs + 2
    given = Overrides(out=str(tmp_path), epochs=1, pretrain_epochs=2)
    run_table("default", TableChoice(dataset="digits", seeds=1, rules=("ste", "bop")), given, note=lambda line: None)
    names = {path.parent.name for path in tmp_path.glob("*/config.json")}
    assert names == {"pretrained-seed0", "ste-seed0", "bop-seed0"}
    shared = {RunConfig.load(tmp_path / f"{rule}-seed0").pretrained for rule in ("ste", "bop")}
    assert shared == {str(tmp_path / "pretrained-seed0")}


def test_trials_of_a_search_share_the_float_network(tmp_path: Path) -> None:
    given = Overrides(out=str(tmp_path), epochs=1, pretrain_epochs=1)
    for trials in (1, 2):
        rows = tune("digits", "ste", given, trials=trials, progress=SilentProgress(), note=lambda line: None)
    assert len(rows) == 2
    assert {RunConfig.load(tmp_path / row["folder"]).pretrained for row in rows} == {str(tmp_path / "pretrained")}


def test_a_float_network_of_other_data_is_not_used(tmp_path: Path) -> None:
    config = make_config("digits", "ste", epochs=1, pretrain_epochs=1, out=str(tmp_path / "run"))
    data = load_digits()
    run_recipe(config, data=data, progress=SilentProgress())
    other = dataclasses.replace(data, train=dataclasses.replace(data.train, y=data.train.y.flip(0)))
    with pytest.raises(ValueError, match=r"run-pretrained was trained on other data"):
        run_recipe(config, resume=True, data=other, progress=SilentProgress())


def test_an_interrupted_float_network_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As Ctrl-C leaves it: a checkpoint of the float network, and nothing of the run."""
    words = "train digits --rule ste --epochs 1 --pretrain-epochs 3 --resume --out".split()
    first = make_config("digits", "full-precision", epochs=3, stop_after=1, out=str(tmp_path / "a-pretrained"))
    run_recipe(first, progress=SilentProgress())
    (tmp_path / "a-pretrained" / "summary.json").unlink()
    assert cli.main([*words, str(tmp_path / "a")]) == 0, capsys.readouterr().err
    rows = (tmp_path / "a-pretrained" / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == 3 and (tmp_path / "a" / "summary.json").is_file()


def test_runs_of_several_seeds_are_one_group(tmp_path: Path) -> None:
    for seed in (0, 1):
        config = make_config("digits", "ste", epochs=1, pretrain_epochs=1, seed=seed, out=str(tmp_path / f"run{seed}"))
        run_recipe(config, progress=SilentProgress())
    (groups,) = grouped(read_folders([str(tmp_path / f"run{seed}") for seed in (0, 1)]).runs).values()
    assert [len(group.runs) for group in groups] == [2]


def test_a_float_network_that_was_trained_first_is_no_run_of_its_own(tmp_path: Path) -> None:
    """The report omits it beside a run that begins with it, also after both have moved, unless it is named itself."""
    runs = tmp_path / "runs"
    config = make_config("digits", "ste", epochs=1, pretrain_epochs=1, out=str(runs / "ste"))
    run_recipe(config, progress=SilentProgress())
    begin(runs / "ste-pretrained", runs / "by-hand")
    assert RunConfig.load(runs / "by-hand").pretrained == str(runs / "ste-pretrained")
    runs.rename(tmp_path / "moved")
    moved = tmp_path / "moved"
    for paths in ([moved], [moved, moved / "ste"]):
        found = read_folders(paths)
        assert {run.name for run in found.runs} == {"by-hand", "ste"}
        assert found.notes == [
            "ste-pretrained: trained first for other runs, which begin there; to see it, name its own folder"
        ]
    for paths in (sorted(moved.iterdir()), [moved, moved / "ste-pretrained"]):
        named = read_folders(paths)
        assert {run.name for run in named.runs} == {"by-hand", "ste", "ste-pretrained"} and named.notes == []
