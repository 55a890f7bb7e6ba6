"""Distillation: what the teacher's outputs change, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from bitbayes.lab import cli
from bitbayes.lab.data import load_digits
from bitbayes.lab.recipes import find_recipe, make_config, make_experiment, run_recipe
from bitbayes.lab.recipes.finished import load_teacher
from bitbayes.lab.studies.load import load_run
from bitbayes.lab.train import RunConfig, SilentProgress, train
from bitbayes.lab.train.loop import training_step
from bitbayes.lab.train.teacher import Teacher


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float network that has learnt the digits."""
    out = tmp_path_factory.mktemp("teacher") / "float"
    run_recipe(make_config("digits", "full-precision", epochs=20, out=str(out)), progress=SilentProgress())
    return out


def test_the_loss_is_the_divergence_from_the_teacher() -> None:
    torch.manual_seed(0)
    output, theirs = torch.randn(6, 4), torch.randn(6, 4)
    labels = F.cross_entropy(output, torch.tensor([0, 1, 2, 3, 0, 1]))
    p, q = theirs.softmax(1), output.softmax(1)
    divergence = (p * (p / q).log()).sum(1).mean()
    mixed = Teacher(torch.nn.Identity(), share=0.3).mixed(labels, output, theirs)
    torch.testing.assert_close(mixed, 0.7 * labels + 0.3 * divergence)
    by_position = Teacher(torch.nn.Identity(), share=0.3).mixed(labels, output.view(2, 3, 4), theirs.view(2, 3, 4))
    torch.testing.assert_close(by_position, mixed)


def test_a_step_is_taught_by_the_best_epoch_of_the_run(master: Path) -> None:
    """The gradient with a share of 1 is that of the divergence alone, whatever the labels say."""
    config = make_config("digits", "ste", teacher=str(master), teacher_share=1.0, epochs=1, out="-", dropout=0.0)
    experiment = make_experiment(config)
    x = experiment.data.train.inputs(torch.arange(20))
    model = load_run(master).experiment.model.eval()
    with torch.no_grad():
        expected = model(x)
    before = torch.get_rng_state()
    teacher = load_teacher(config, find_recipe("digits"), experiment.data)
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(teacher.logits(x), expected)
    torch.testing.assert_close(teacher.logits(x, parts=3), expected)
    found = []
    for y in (torch.zeros(20, dtype=torch.long), torch.ones(20, dtype=torch.long)):
        again = make_experiment(config)
        again.teacher = teacher
        again.model.train()
        loss, _ = training_step(config, again, x, y)
        found.append(loss)
    assert found[0] == found[1] and found[0] > 0
    with pytest.raises(ValueError, match="but its experiment has none"):
        train(config, experiment, progress=SilentProgress())


def test_a_teacher_sees_a_batch_once_for_all_draws(master: Path) -> None:
    seen = []

    def outputs(x: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        return x[:, :10]

    config = make_config("digits", epochs=1, out="-", samples=2, accumulate=3)
    experiment = make_experiment(config)
    experiment.teacher = Teacher(outputs, 0.5)
    x = experiment.data.train.inputs(torch.arange(21))
    training_step(config, experiment, x, experiment.data.train.y[:21])
    assert seen == [7, 7, 7]


def test_a_taught_run_is_recorded_and_goes_on(master: Path, tmp_path: Path) -> None:
    def run(out: str, **settings: object) -> None:
        place = {"teacher": str(master), "epochs": 4, "out": str(tmp_path / out), "accumulate": 2}
        run_recipe(make_config("digits", **place, **settings), resume=True, progress=SilentProgress())

    run("whole")
    config = RunConfig.load(tmp_path / "whole")
    assert (config.teacher, config.teacher_share) == (str(master), 0.5) and config.teacher_sha256
    run("parts", stop_after=2)
    run("parts")
    rows = [(tmp_path / out / "metrics.jsonl").read_text().splitlines() for out in ("whole", "parts")]
    losses = [[json.loads(row)["train_loss"] for row in part] for part in rows]
    assert len(losses[0]) == 4 and losses[0] == losses[1]
    alone = make_config("digits", epochs=4, out=str(tmp_path / "whole"))
    with pytest.raises(ValueError, match="teacher"):
        run_recipe(alone, resume=True, progress=SilentProgress())


def test_a_taught_network_needs_its_teacher_no_more(master: Path, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(master, teacher)
    config = make_config("digits", teacher=str(teacher), epochs=1, out=str(tmp_path / "student"))
    run_recipe(config, progress=SilentProgress())
    teacher.rename(tmp_path / "elsewhere")
    assert load_run(tmp_path / "student").config.teacher == str(teacher)


def test_teachers_that_cannot_teach(master: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*words: str, recipe: str = "digits", teacher: Path = master, out: str = "run") -> str:
        place = ["--epochs", "50", "--out", str(tmp_path / out), "--teacher", str(teacher)]
        assert cli.main(["train", recipe, *place, *words]) == 2
        return capsys.readouterr().err

    assert "is not a run" in refused(teacher=tmp_path)
    assert "teacher_share must be in (0, 1], got 0" in refused("--teacher-share", "0")
    assert "a teacher needs the loss cross_entropy or next_byte, not binary" in refused(recipe="moons", out="moons")
    unfinished = tmp_path / "unfinished"
    shutil.copytree(master, unfinished)
    (unfinished / "summary.json").unlink()
    assert f"teacher {unfinished} is not finished" in refused(teacher=unfinished)
    copy = tmp_path / "copy"
    shutil.copytree(master, copy)
    assert "a run cannot build on itself" in refused(teacher=copy, out="copy")
    with pytest.raises(ValueError, match="teacher_share has no effect without teacher"):
        make_config("digits", teacher_share=0.5)
    config = make_config("digits", teacher=str(copy), out="-")
    data, recipe = load_digits(), find_recipe("digits")
    with pytest.raises(ValueError, match="does not suit the data of digits"):
        load_teacher(config, dataclasses.replace(recipe, network=lambda: torch.nn.Linear(64, 10)), data)
    with pytest.raises(ValueError, match="has 10 outputs, but the data has 7 classes"):
        load_teacher(config, recipe, dataclasses.replace(data, classes=7))
    with pytest.raises(ValueError, match=r"has data_seed 0, not 3: it may have learnt the validation data"):
        load_teacher(config.changed(data_seed=3), recipe, data)
    (copy / "model.safetensors").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"the weights of teacher .* have changed since the run began"):
        load_teacher(config, recipe, data)
