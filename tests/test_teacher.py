"""Distillation: what the teacher's outputs change, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from bitbayes.lab import cli
from bitbayes.lab.data import load_digits
from bitbayes.lab.recipes import make_config, make_experiment, run_recipe
from bitbayes.lab.studies.load import load_run
from bitbayes.lab.train import RunConfig, SilentProgress
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


def test_a_step_is_taught_by_the_best_epoch_of_the_run(master: Path) -> None:
    """The gradient with a share of 1 is that of the divergence alone, whatever the labels say."""
    config = make_config("digits", "ste", teacher=str(master), teacher_share=1.0, epochs=1, out="-", dropout=0.0)
    experiment = make_experiment(config)
    x = experiment.data.train.inputs(torch.arange(20))
    model = load_run(master).experiment.model.eval()
    with torch.no_grad():
        expected = model(x)
    assert experiment.teacher is not None
    torch.testing.assert_close(experiment.teacher.logits(x), expected)
    found = []
    for y in (torch.zeros(20, dtype=torch.long), torch.ones(20, dtype=torch.long)):
        again = make_experiment(config)
        again.model.train()
        loss, _ = training_step(config, again, x, y)
        found.append(loss)
    assert found[0] == found[1] and found[0] > 0


def test_a_taught_run_is_recorded_and_goes_on(master: Path, tmp_path: Path) -> None:
    def run(out: str, **settings: object) -> RunConfig:
        config = make_config("digits", teacher=str(master), epochs=4, out=str(tmp_path / out), accumulate=2, **settings)
        run_recipe(config, resume=True, progress=SilentProgress())
        return config

    whole = run("whole")
    assert RunConfig.load(tmp_path / "whole").teacher == str(master)
    run("parts", stop_after=2)
    run("parts")
    weights = [load_run(tmp_path / out).experiment.model.state_dict() for out in ("whole", "parts")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    alone = make_config("digits", epochs=4, out=str(tmp_path / "whole"))
    with pytest.raises(ValueError, match="teacher"):
        run_recipe(alone, resume=True, progress=SilentProgress())
    assert whole.teacher_share == 0.5


def test_teachers_that_cannot_teach(master: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = ["train", "digits", "--epochs", "1", "--out", str(tmp_path / "run")]
    assert cli.main([*train, "--teacher", str(tmp_path)]) == 2
    assert "is not a run" in capsys.readouterr().err
    assert cli.main([*train, "--teacher", str(master), "--teacher-share", "0"]) == 2
    assert "teacher_share must be in (0, 1], got 0" in capsys.readouterr().err
    moons = ["train", "moons", "--epochs", "50", "--out", str(tmp_path / "moons"), "--teacher", str(master)]
    assert cli.main(moons) != 0
    assert "does not take the inputs of moons" in capsys.readouterr().err
    with pytest.raises(ValueError, match="has 10 outputs, and digits 7 classes"):
        make_experiment(make_config("digits", teacher=str(master)), dataclasses.replace(load_digits(), classes=7))
