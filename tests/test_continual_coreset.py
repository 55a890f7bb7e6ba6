"""Coresets: what is set aside, what the copy learns from it, and that the belief which goes on knows nothing of it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

import bitbayes as bb
from bitbayes.lab.continual import Coreset, accuracy, permuted_tasks
from bitbayes.lab.continual.rehearsal import k_center
from bitbayes.lab.data import TensorData
from bitbayes.lab.train import CROSS_ENTROPY, Experiment, build_experiment
from bitbayes.predict import predict
from nested import equal
from streams import bundle, config, network, stream


def began(memory: Coreset, rule: str = "bayesbinn") -> tuple[Experiment, list]:
    """An experiment on the first task, with the coresets of two."""
    tasks = list(permuted_tasks(bundle(), 2))
    run = config(Path("unused"), rule)
    left = [memory.training_data(task, run) for task in tasks]
    return build_experiment(run, network, left[0], CROSS_ENTROPY), tasks


@pytest.mark.parametrize("choice", ["random", "k-center"])
def test_kept_examples_are_not_trained_on(choice: str) -> None:
    memory = Coreset(30, choice=choice)
    tasks, run = list(permuted_tasks(bundle(), 2)), config(Path("unused"))
    for number, task in enumerate(tasks, 1):
        left = memory.training_data(task, run)
        kept, own = memory.kept[-1], task.data.train
        assert len(memory.kept) == number and len(kept) == 30 and len(left.train) == 210
        both = left.train.joined(kept)
        rows = [(*tuple(x.tolist()), int(y)) for x, y in zip(both.x, both.y, strict=True)]
        assert sorted(rows) == sorted((*tuple(x.tolist()), int(y)) for x, y in zip(own.x, own.y, strict=True))
        assert left.test is task.data.test
    again = Coreset(30, choice=choice)
    for task in tasks:
        again.training_data(task, run)
    assert all(torch.equal(a.x, b.x) for a, b in zip(memory.kept, again.kept, strict=True))
    assert memory.bytes() == 2 * 30 * (12 + 8)  # bytes of the pixels, int64 targets


def test_k_center_against_all_pairs() -> None:
    generator = torch.Generator().manual_seed(1)
    data = TensorData(torch.randn(40, 3, generator=generator), torch.zeros(40))
    pairs = torch.cdist(data.x.double(), data.x.double())
    expected = [7]
    for _ in range(9):
        expected.append(int(pairs[:, expected].min(1).values.argmax()))
    assert k_center(data, 10, first=7).tolist() == expected
    same = TensorData(torch.zeros(5, 2), torch.zeros(5))
    assert sorted(k_center(same, 5, first=2).tolist()) == [0, 1, 2, 3, 4]


def test_the_fit_has_the_belief_as_its_prior() -> None:
    """More steps than 1 / lr: with data of no weight λ stays where it was, with data of great weight it leaves."""
    for weight, moves in ((1e-9, False), (5.0, True)):
        experiment, _ = began(memory := Coreset(30, steps=80, weight=weight))
        assert isinstance(experiment.optimizer, bb.BayesBiNN)
        before = experiment.optimizer.posterior().natural
        found = memory.corrected(experiment, config(Path("unused")), mixed=False)
        assert isinstance(found.optimizer, bb.BayesBiNN)
        after = found.optimizer.posterior().natural
        assert found.optimizer.param_groups[0]["ess"] == weight * 60
        far = max(float((after[name] - before[name]).abs().max()) for name in before)
        assert far > 0.5 if moves else far < 1e-5


@pytest.mark.parametrize("rule", ["bayesbinn", "ste", "full-precision"])
@pytest.mark.parametrize("mixed", [True, False])
def test_nothing_that_goes_on_is_changed(rule: str, mixed: bool) -> None:
    experiment, _ = began(memory := Coreset(30, steps=5), rule)
    run = config(Path("unused"), rule)
    before = copy.deepcopy({name: part.state_dict() for name, part in experiment.modules().items()})
    chance = torch.random.get_rng_state()
    found = memory.corrected(experiment, run, mixed=mixed)
    assert equal(before, {name: part.state_dict() for name, part in experiment.modules().items()})
    assert torch.equal(chance, torch.random.get_rng_state())
    states = [part.model.state_dict() for part in (experiment, found)]
    assert not equal(*states)
    again = memory.corrected(experiment, run, mixed=mixed)
    assert equal(again.model.state_dict(), found.model.state_dict())  # the same fit each time
    assert found.data is experiment.data


def test_old_tasks_are_known_better_and_the_belief_goes_on_without(tmp_path: Path) -> None:
    how = {"tasks": 3, "epochs": 8, "prior": False}
    fitted = stream(tmp_path / "fitted", memory=Coreset(40, steps=100), **how)
    hardly = stream(tmp_path / "hardly", memory=Coreset(40, steps=0), **how)
    old = [sum(found.matrix.rows[-1][:2]) / 2 for found in (fitted, hardly)]
    assert old[0] > old[1] + 10
    assert fitted.summary["method"] == "coreset" and fitted.summary["method_bytes"] == 3 * 40 * (12 + 8)
    for task in ("task1", "task2", "task3"):  # the same training data; only the evaluated copies differ
        states = [torch.load(tmp_path / n / task / "checkpoint.pt", weights_only=True) for n in ("fitted", "hardly")]
        assert equal(*(state["parts"] for state in states))


def test_statistics_are_of_what_was_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every network estimates its own from the kept inputs of an old task; the newest has those of its training."""
    experiment, tasks = began(memory := Coreset(30), "ste")
    run, asked = config(Path("unused"), "ste"), []

    def spy(*arguments: Any, batches: list[torch.Tensor] | None, **others: Any) -> Any:
        asked.append(batches)
        return predict(*arguments, batches=batches, **others)

    monkeypatch.setattr(accuracy, "predict", spy)
    seen = [accuracy.Seen.of(task, accuracy.batch_statistics(experiment, run)) for task in tasks[:2]]
    found = accuracy.accuracies(experiment, run, seen, memory.examples_seen(), "task")
    old, newest = asked
    assert len(found) == 2 and newest is None and len(old) == 1
    assert torch.equal(old[0], memory.examples_seen()[0].inputs(torch.arange(30)))


def test_shared_statistics_are_of_all_coresets(tmp_path: Path) -> None:
    rows = [
        stream(tmp_path / kind, tasks=2, memory=Coreset(40, steps=50), statistics=kind).matrix.rows
        for kind in ("task", "shared")
    ]
    assert rows[0] != rows[1]


def test_refusals(tmp_path: Path) -> None:
    for choices, message in (
        ({"examples": 1}, "examples of a coreset must be a whole number of at least 2, got 1"),
        ({"choice": "best"}, "choice of a coreset must be random or k-center, got 'best'"),
        ({"steps": 2.5}, "steps of a coreset must be a whole number of at least 0, got 2.5"),
        ({"steps": -1}, "steps of a coreset must be a whole number of at least 0, got -1"),
        ({"weight": 0.0}, "weight of a coreset must be a positive number, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            Coreset(**choices)
    tiny = next(permuted_tasks(bundle(count=3), 1))
    with pytest.raises(ValueError, match="has 3 training examples, too few for a coreset of two examples"):
        Coreset(2).training_data(tiny, config(tmp_path))
