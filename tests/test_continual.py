"""Continual learning: streams of tasks, the matrix, the prior that goes on, and streams that are interrupted."""

from __future__ import annotations

import json
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn

import bitbayes as bb
from bitbayes.continual import advance_prior
from bitbayes.lab.choices import Overrides, StreamChoice
from bitbayes.lab.cli.output import show
from bitbayes.lab.continual import (
    AccuracyMatrix,
    StreamResult,
    StreamSettings,
    permuted_tasks,
    run,
    run_stream,
    split_tasks,
)
from bitbayes.lab.data import DataBundle, load_digits
from bitbayes.lab.recipes import make_config
from bitbayes.lab.report.figures import matrix_figure
from bitbayes.lab.report.tables import stream_table
from bitbayes.lab.studies.streams import _default_ess_decay, run_continual
from bitbayes.lab.train import CROSS_ENTROPY, PAIRED, RunConfig, SilentProgress
from generated import write
from nested import equal
from streams import bundle, config, network, stream


class TestMatrix:
    def test_figures(self) -> None:
        matrix = AccuracyMatrix([[90.0], [70.0, 95.0], [75.0, 85.0, 99.0]])
        assert matrix.average == [90.0, 82.5, pytest.approx(259 / 3)]
        assert matrix.backward_transfer == pytest.approx(((75 - 90) + (85 - 95)) / 2)
        assert matrix.forgetting == pytest.approx(((90 - 75) + (95 - 85)) / 2)

    def test_the_best_before_the_end_counts_for_forgetting(self) -> None:
        matrix = AccuracyMatrix([[80.0], [90.0, 50.0], [70.0, 60.0, 50.0]])
        assert matrix.forgetting == pytest.approx(((90 - 70) + (50 - 60)) / 2)

    def test_both_ends_of_a_long_stream(self) -> None:
        rows = [[50.0] * t for t in range(1, 12)] + [[float(i) for i in range(12)]]
        assert AccuracyMatrix(rows).first_and_last == (2.0, 9.0)
        assert AccuracyMatrix(rows[:9]).first_and_last is None and AccuracyMatrix(rows[:10]).first_and_last is not None
        assert AccuracyMatrix(rows).figures()["last_five"] == 9.0

    def test_one_task_has_no_transfer(self) -> None:
        matrix = AccuracyMatrix([[90.0]])
        assert matrix.backward_transfer is None and matrix.forgetting is None

    def test_rows_of_the_wrong_length(self) -> None:
        with pytest.raises(ValueError, match="after task 2 there are 2 tasks, got 1 accuracies"):
            AccuracyMatrix([[90.0], [80.0]])


class TestTasks:
    def test_permutations_are_of_all_pixels_and_the_same_for_train_and_test(self) -> None:
        data = bundle()
        tasks = list(permuted_tasks(data, 3, seed=5))
        for task in tasks:
            order = [int((data.train.x == task.data.train.x[:, [j]]).all(0).nonzero()[0]) for j in range(12)]
            assert sorted(order) == list(range(12))
            assert torch.equal(task.data.test.x, data.test.x[:, order])
            assert torch.equal(task.data.train.y, data.train.y)
        assert not torch.equal(tasks[0].data.train.x, tasks[1].data.train.x)
        again = next(permuted_tasks(data, 1, seed=5))
        assert torch.equal(again.data.train.x, tasks[0].data.train.x)
        for task in tasks:
            assert task.test_again is not None and torch.equal(task.test_again().x, task.data.test.x)

    @pytest.mark.parametrize(("scenario", "outputs"), [("task", 4), ("domain", 2), ("class", 4)])
    def test_scenarios(self, scenario: str, outputs: int) -> None:
        tasks = list(split_tasks(bundle(), scenario))
        assert len(tasks) == 2 and [len(task.data.train) for task in tasks] == [120, 120]
        assert {task.data.classes for task in tasks} == {outputs}
        assert sorted(tasks[1].data.train.y.unique().tolist()) == ([0, 1] if scenario == "domain" else [2, 3])
        assert tasks[1].classes == ((2, 3) if scenario == "task" else None)

    def test_refusals(self) -> None:
        with pytest.raises(ValueError, match="at least one task"):
            next(permuted_tasks(bundle(), 0))
        with pytest.raises(ValueError, match="scenario must be task, domain or class"):
            next(split_tasks(bundle(), "tasks"))
        with pytest.raises(ValueError, match="4 classes cannot be split into tasks of 3"):
            next(split_tasks(bundle(), "class", each=3))


class TestPrior:
    def test_the_posterior_becomes_the_prior(self) -> None:
        layer = nn.Linear(3, 2, bias=False)
        optimizer = bb.BayesBiNN([("w", layer.weight)], lr=0.1, ess=50, seed=0)
        layer(torch.ones(4, 3)).square().mean().backward()
        optimizer.step()
        before = optimizer.posterior()
        prior = advance_prior(optimizer, decay=0.25)
        torch.testing.assert_close(prior.natural["w"], 0.25 * before.natural["w"])
        # Without a gradient a step goes towards the prior: λ − α (λ − λ₀).
        layer.weight.grad = torch.zeros_like(layer.weight)
        optimizer.step()
        expected = before.natural["w"] - 0.1 * (before.natural["w"] - prior.natural["w"])
        torch.testing.assert_close(optimizer.posterior().natural["w"], expected)

    def test_of_a_joint_optimizer(self) -> None:
        layer = nn.Linear(3, 2)
        binary = bb.BayesBiNN([("weight", layer.weight)], ess=50, seed=0)
        joint = bb.JointOptimizer(binary, torch.optim.SGD([layer.bias], lr=0.1))
        assert equal(advance_prior(joint).natural, binary.posterior().natural)

    def test_refusals(self) -> None:
        layer = nn.Linear(3, 2, bias=False)
        with pytest.raises(TypeError, match="STE has no prior"):
            advance_prior(bb.STE([layer.weight], seed=0))
        with pytest.raises(ValueError, match=r"decay must be in \[0, 1\]"):
            advance_prior(bb.BayesBiNN([layer.weight], ess=1, seed=0), decay=1.5)


def test_the_prior_keeps_old_tasks(tmp_path: Path) -> None:
    kept = stream(tmp_path / "with", epochs=16)
    lost = stream(tmp_path / "without", epochs=16, prior=False)
    assert len(kept.matrix) == 3 and all(row[-1] > 80 for row in kept.matrix.rows)
    assert kept.matrix.average[-1] > lost.matrix.average[-1] + 10
    summary = json.loads((tmp_path / "with" / "summary.json").read_text())
    assert summary["matrix"] == kept.matrix.rows and summary["average_accuracy"] == kept.matrix.average
    assert summary["backward_transfer"] == kept.matrix.backward_transfer and summary["prior"] is True


@pytest.mark.parametrize("statistics", ["task", "shared"])
def test_an_interrupted_stream_goes_on_as_if_nothing_had_happened(tmp_path: Path, statistics: str) -> None:
    whole = stream(tmp_path / "whole", statistics=statistics)

    class Stop(Exception):
        pass

    class Interrupting(SilentProgress):
        """Stops within the second task."""

        count = 0

        def epoch(self, row) -> None:
            Interrupting.count += 1
            if Interrupting.count == 6:
                raise Stop

    with pytest.raises(Stop):
        stream(tmp_path / "cut", statistics=statistics, progress=Interrupting())
    cut = stream(tmp_path / "cut", statistics=statistics)
    assert cut.matrix.rows == whole.matrix.rows
    states = [torch.load(tmp_path / n / "task3" / "checkpoint.pt", weights_only=True) for n in ("whole", "cut")]
    assert equal(*(state["parts"] for state in states))
    with pytest.raises(ValueError, match=r"holds a stream with decay 1\.0, not 0\.5"):
        stream(tmp_path / "cut", statistics=statistics, decay=0.5)


def test_statistics_of_the_task_are_not_those_of_the_newest(tmp_path: Path) -> None:
    own, newest = (stream(tmp_path / kind, tasks=2, statistics=kind).matrix.rows for kind in ("task", "shared"))
    assert own[0] == newest[0] and own[1][1] == newest[1][1]
    assert own[1][0] != newest[1][0]


@pytest.mark.parametrize("rule", ["ste", "full-precision"])
def test_rules_without_a_prior(tmp_path: Path, rule: str) -> None:
    found = stream(tmp_path / "run", rule, tasks=2)
    assert len(found.matrix) == 2 and found.matrix.rows[1][1] > 60
    with pytest.raises(TypeError, match=f"only bayesbinn has a prior, got rule {rule}"):
        stream(tmp_path / "refused", rule, prior=True)


def test_the_command(tmp_path: Path, capsys) -> None:
    from bitbayes.lab.cli import main

    data = write(tmp_path / "data", "mnist", train=60, test=20)
    words = ["continual", "split-mnist", "--scenario", "task", "--epochs", "1", "--samples", "2", "--data", str(data)]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    shown = capsys.readouterr().out
    assert "with prior" in shown and "Backward transfer" in shown
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert [len(row) for row in summary["matrix"]] == [1, 2, 3, 4, 5]
    assert (tmp_path / "run" / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert main(["continual", "split-mnits", "--data", str(data)]) == 2
    assert "did you mean 'split-mnist'" in capsys.readouterr().err


def test_later_tasks_may_count_less(tmp_path: Path) -> None:
    stream(tmp_path / "less", ess_decay=0.5)
    for task, share in ((1, 1.0), (2, 0.5), (3, 0.25)):
        folder = tmp_path / "less" / f"task{task}"
        assert RunConfig.load(folder).spec.options["ess_scale"] == share
        group = torch.load(folder / "checkpoint.pt", weights_only=True)["parts"]["optimizer"]["param_groups"][0]
        assert group["ess"] == share * 240
    with pytest.raises(ValueError, match="ess_decay must be positive, got 0"):
        stream(tmp_path / "other", ess_decay=0)
    with pytest.raises(ValueError, match=r"holds a stream with ess_decay 0\.5, not 1\.0"):
        stream(tmp_path / "less")


def test_a_long_stream_keeps_no_data_of_old_tasks(tmp_path: Path) -> None:
    seen: list[weakref.ref] = []

    def tasks():
        for task in permuted_tasks(bundle(), 4):
            assert not any(data() is not None for data in seen[:-2])  # of the newest both are still there
            seen.extend(weakref.ref(part.x) for part in (task.data.train, task.data.test))
            yield task

    how = {"progress": SilentProgress(), "note": lambda line: None}
    found = run_stream(config(tmp_path, epochs=1), tasks(), network, StreamSettings(curve_examples=20), **how)
    assert len(found.matrix) == 4 and len(seen) == 8


def test_notes_say_how_long_the_rest_takes(tmp_path: Path) -> None:
    assert run._to_go(2, 5, learning=60.0, measuring=40.0) == "; about 7 min left"  # 3 · 60 + 20 · (3 + 4 + 5) seconds
    assert run._to_go(5, 5, learning=60.0, measuring=40.0) == ""
    lines: list[str] = []
    stream(tmp_path, epochs=1, note=lines.append, count=3)
    assert ["min left" in line for line in lines] == [True, True, False]


def test_later_tasks_of_a_long_stream_are_still_learned() -> None:
    def last(tasks: int) -> float:
        return _default_ess_decay(tasks, True, 1.0) ** (tasks - 1)

    assert _default_ess_decay(5, True, 1.0) == _default_ess_decay(2, True, 1.0) == 0.55
    assert last(50) == pytest.approx(last(5)) == pytest.approx(0.55**4)
    assert _default_ess_decay(50, True, 0.9) == _default_ess_decay(50, False, 1.0) == 1.0


def test_scenarios_in_which_the_task_is_unknown_share_their_statistics(tmp_path: Path) -> None:
    data = write(tmp_path / "data", "mnist", train=60, test=20)
    how = {"samples": 1, "progress": SilentProgress(), "note": lambda line: None}

    def learned(scenario: str, out: Path) -> StreamResult:
        choice = StreamChoice(scenario=scenario, curve_examples=0)
        return run_continual("split-mnist", "ste", choice, Overrides(epochs=1, data=str(data), out=str(out)), **how)

    for scenario, statistics in (("task", "task"), ("domain", "shared"), ("class", "shared")):
        found = learned(scenario, tmp_path / scenario)
        assert found.summary["statistics"] == statistics and found.summary["scenario"] == scenario
    with pytest.raises(ValueError, match="scenario domain, not class"):
        learned("class", tmp_path / "domain")
    choice = StreamChoice(scenario="class", statistics="task")
    with pytest.raises(
        ValueError, match=r'statistics="task" needs the task of every test input, .* scenario class; use "shared"'
    ):
        run_continual("split-mnist", "ste", choice, Overrides(data=str(data), out=str(tmp_path / "known")))


@pytest.mark.parametrize(
    ("stream", "rule", "choice", "given", "ending"),
    [
        ("permuted-mnist", "bayesbinn", {}, {}, "permuted-mnist-bayesbinn-straight-through-seed1"),
        ("permuted-mnist", "bayesbinn", {"prior": False, "tasks": 50}, {}, "seed1-no-prior-50-tasks"),
        ("permuted-mnist", "bayesbinn", {"prior_decay": 0.9, "method": "coreset"}, {}, "seed1-coreset-decay0.9"),
        ("permuted-mnist", "ste", {"prior": False}, {}, "permuted-mnist-ste-seed1"),
        ("split-mnist", "bayesbinn", {"scenario": "class"}, {"seed": 2}, "seed2-class"),
        ("split-mnist", "bayesbinn", {"prior": False}, {"out": "mine"}, "mine"),
    ],
)
def test_streams_that_differ_have_folders_of_their_own(
    tmp_path, monkeypatch, stream, rule, choice, given, ending
) -> None:
    data = write(tmp_path / "data", "mnist", train=60, test=20)
    seen = []
    monkeypatch.setattr("bitbayes.lab.continual.run_stream", lambda config, *rest, **options: seen.append(config))
    run_continual(stream, rule, StreamChoice(**choice), Overrides(data=str(data), **given))
    assert seen[0].out.endswith(ending)


@pytest.mark.parametrize("wrong", [{"decay": 2.0}, {"statistics": "tsk"}, {"ess_decay": 0.0}, {"curve_examples": -1}])
def test_settings_are_refused_before_anything_is_trained(tmp_path: Path, wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        stream(tmp_path, **wrong)
    assert not list(tmp_path.iterdir())


def test_the_table_of_a_long_stream_shows_both_ends(capsys) -> None:
    matrix = AccuracyMatrix([[float(i) for i in range(t)] for t in range(1, 13)])
    summary = {"recipe": "r", "rule": "ste", "prior": False, "method": "none"} | matrix.figures()
    show(stream_table(summary))
    shown = capsys.readouterr().out
    assert "first five tasks 2.00, on the last five 9.00" in " ".join(shown.split())
    heads = next(line for line in shown.splitlines() if "after task" in line).replace("┃", " ").split()
    assert heads == ["after", "task", *"12345", "8", "9", "10", "11", "12", "mean"]


def test_the_figure_of_a_long_stream(tmp_path: Path) -> None:
    matrix = AccuracyMatrix([[50.0] * t for t in range(1, 26)])
    summary = {"recipe": "r", "rule": "ste", "prior": False, "method": "none"} | matrix.figures()
    assert matrix_figure(summary, tmp_path / "accuracy.png").stat().st_size > 10_000


def test_a_task_that_is_known_leaves_the_other_heads_alone() -> None:
    output = torch.tensor([[3.0, 1.0, 9.0, 0.0], [0.0, 5.0, 1.0, 2.0]], requires_grad=True)
    target = torch.tensor([0, 3])
    loss = PAIRED.mean(output, target)
    pairs = torch.stack([output[0, :2], output[1, 2:]])
    assert torch.allclose(loss, torch.nn.functional.cross_entropy(pairs, torch.tensor([0, 1])))
    loss.backward()
    assert output.grad is not None and output.grad[0, 2:].tolist() == [0, 0] and output.grad[1, :2].tolist() == [0, 0]
    assert int(PAIRED.hit_count(output, target)) == 2 and int(CROSS_ENTROPY.hit_count(output, target)) == 0


def test_a_stream_of_data_without_a_test_part_has_none() -> None:
    part = bundle().train
    data = DataBundle("toy", part, None, None, int(part.y.max()) + 1, "here")
    assert all(task.data.test is None for task in split_tasks(data, "task"))


def test_streams_have_no_float_network_and_no_cycles(tmp_path: Path) -> None:
    for settings in ({"pretrain_epochs": 2}, {"epochs": 4, "cycles": 2}):
        wrong = make_config("digits", "ste", out=str(tmp_path), **settings)
        with pytest.raises(ValueError, match="a stream has no float network that is trained first and no cycles"):
            run_stream(wrong, permuted_tasks(load_digits(), 2), lambda: bb.nn.mlp(64, [8], 10), StreamSettings())
