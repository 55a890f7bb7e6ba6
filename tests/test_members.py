"""Members of an ensemble within one run's budget: independent runs, and cycles of one run."""

from __future__ import annotations

import dataclasses
import json
import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

import bitbayes as bb
from bitbayes.lab import cli
from bitbayes.lab.choices import Overrides, TableChoice
from bitbayes.lab.data import CORRUPTIONS, SEVERITIES, DataBundle, TensorData, corrupted, load_digits, printed_letters
from bitbayes.lab.recipes import make_config, make_experiment, run_recipe
from bitbayes.lab.report.folders import read_folders
from bitbayes.lab.report.groups import grouped
from bitbayes.lab.report.page.sections import make_sections
from bitbayes.lab.report.trust import WAYS, calibration_table, evaluation_table, member_tables, members_table
from bitbayes.lab.studies import several
from bitbayes.lab.studies.budget import Spending, factor_name, next_factors, step_times
from bitbayes.lab.studies.dropout import dropout_layers, dropout_predictor
from bitbayes.lab.studies.entry import predict_packed
from bitbayes.lab.studies.evaluate import Inputs, Predictions, evaluate_run, evaluation_inputs
from bitbayes.lab.studies.gaussian import missing
from bitbayes.lab.studies.load import FinishedRun, joint, load_members, load_run
from bitbayes.lab.studies.members import MembersRow, MembersStudy, members_study
from bitbayes.lab.studies.pack import pack_run
from bitbayes.lab.studies.several import member_configs, run_members
from bitbayes.lab.studies.trust import trust_study
from bitbayes.lab.train import DivergedError, RunConfig, RunError, RunFolder, RunResult, Schedule, SilentProgress
from bitbayes.lab.train.experiment import resolved
from bitbayes.lab.train.measure import whole
from bitbayes.prediction import Prediction
from generated import write
from nested import equal

BAYES = "bayesbinn:straight-through"
PLACES = ("model.safetensors", "posterior.safetensors")


@pytest.fixture(scope="module")
def digits() -> DataBundle:
    """The digits, of which 200 are trained on."""
    data = load_digits()
    train = dataclasses.replace(data.train, x=data.train.x[:200], y=data.train.y[:200])
    return dataclasses.replace(data, train=train)


def config(out: Path, rule: str = "bayesbinn", **settings: Any) -> RunConfig:
    return make_config("digits", rule, out=str(out), **{"epochs": 4, "cycles": 2, **settings})


def run(settings: RunConfig, data: DataBundle, *, resume: bool = False) -> RunResult:
    return run_recipe(settings, data=data, resume=resume, progress=SilentProgress())


@pytest.fixture(scope="module")
def cycles(digits: DataBundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two cycles."""
    out = tmp_path_factory.mktemp("cycles") / "run"
    run(config(out), digits)
    return out


# A relaxed belief. --------------------------------------------------------------------------------------------------


def optimizer_of(rule: type[Any], **options: Any) -> Any:
    optimizer = rule([("w", torch.nn.Parameter(torch.ones(6, 5)))], lr=0.1, seed=3, **options)
    (parameter,) = optimizer.param_groups[0]["params"]
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        parameter.grad = torch.randn(6, 5, generator=generator)
        optimizer.step()
    return optimizer


@pytest.mark.parametrize(
    ("rule", "options", "changed"),
    [(bb.BayesBiNN, {"ess": 10}, "natural"), (bb.STE, {}, "latent"), (bb.VISPA, {"rank": 2}, "latent")],
)
def test_relax_changes_the_belief_and_the_draw_but_not_the_mode(
    rule: type[Any], options: dict[str, Any], changed: str
) -> None:
    one, other = optimizer_of(rule, **options), optimizer_of(rule, **options)
    (mine,), (theirs,) = one.state.values(), other.state.values()
    memory = mine["belief"][changed].data_ptr()
    assert one.relax(0.25) is one and mine["belief"][changed].data_ptr() == memory
    factor = torch.tensor([0.25, 1.0, 1.0])[:, None] if rule is bb.VISPA else 0.25
    assert torch.equal(mine["belief"].pop(changed), factor * theirs["belief"].pop(changed))
    assert equal(mine, theirs)


def test_relax_draws_anew_and_keeps_the_mode() -> None:
    one, other = (optimizer_of(bb.BayesBiNN, ess=100, init_lambda=15.0) for _ in range(2))
    one.relax(0.01)
    drawn, before = (each.param_groups[0]["params"][0].detach().clone() for each in (one, other))
    assert not torch.equal(drawn, before)
    assert torch.equal(one.eval().param_groups[0]["params"][0], other.eval().param_groups[0]["params"][0])
    one.relax(0.5)
    assert torch.equal(one.param_groups[0]["params"][0], other.param_groups[0]["params"][0]), "the mode stays shown"
    again = optimizer_of(bb.BayesBiNN, ess=100, init_lambda=15.0)
    again.load_state_dict(one.train().state_dict())
    assert torch.equal(again.param_groups[0]["params"][0], one.param_groups[0]["params"][0])


def test_relax_moves_towards_the_prior() -> None:
    prior = bb.BernoulliPosterior({"w": torch.full((6, 5), 2.0)})
    one, other = (optimizer_of(bb.BayesBiNN, ess=10, prior=prior) for _ in range(2))
    expected = 2.0 + 0.5 * (other.posterior().natural["w"] - 2.0)
    assert torch.equal(one.relax(0.5).posterior().natural["w"], expected)


def test_relaxed_vispa_keeps_its_second_moment() -> None:
    optimizer = optimizer_of(bb.VISPA, rank=2, project=True).relax(0.3)
    (state,) = optimizer.state.values()
    assert torch.allclose(state["belief"]["latent"].square().sum(0), torch.ones(30))


def test_what_cannot_be_relaxed() -> None:
    with pytest.raises(RuntimeError, match="Bop cannot be relaxed; use BayesBiNN, STE or VISPA"):
        optimizer_of(bb.Bop).relax(0.5)
    for keep in (0, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"keep must be in \(0, 1\], got"):
            optimizer_of(bb.STE).relax(keep)


# Cycles. ------------------------------------------------------------------------------------------------------------


def test_the_schedule_restarts_and_members_are_runs(cycles: Path, digits: DataBundle) -> None:
    rows = [json.loads(line) for line in (cycles / "metrics.jsonl").read_text().splitlines()]
    rates = [row["lr"] for row in rows]
    assert rates[:2] == rates[2:] and rates[1] < rates[0], "a cosine over two epochs, twice"
    assert json.loads((cycles / "ensemble.json").read_text()) == {"members": 2}
    for number in (1, 2):
        member = cycles / f"member{number}"
        found, summary = RunConfig.load(member), json.loads((member / "summary.json").read_text())
        assert (found.stop_after, found.out) == (2 * number, str(member))
        mine = [json.loads(line) for line in (member / "metrics.jsonl").read_text().splitlines()]
        assert mine == rows[2 * number - 2 : 2 * number] and summary["epochs_done"] == 2 * number
        best = max(mine, key=lambda row: row["val_accuracy"])
        assert (summary["best_epoch"], summary["test_accuracy"]) == (best["epoch"], best["test_accuracy"])
        loaded = load_run(member, data=digits)
        x, y = whole(loaded.experiment.data.test)  # type: ignore[arg-type]
        right = 100 * float((loaded.predict(x).probs.argmax(1) == y).double().mean())
        assert right == pytest.approx(best["test_accuracy"])
    summary = json.loads((cycles / "summary.json").read_text())
    assert summary["val_accuracy"] == max(row["val_accuracy"] for row in rows), "the run itself is one too"


def test_the_first_cycle_is_a_run_of_its_epochs(cycles: Path, digits: DataBundle, tmp_path: Path) -> None:
    run(config(tmp_path / "short", epochs=2, cycles=1), digits)
    for name in PLACES:
        states = [RunFolder(folder).read_tensors(name) for folder in (cycles / "member1", tmp_path / "short")]
        assert equal(*states)


def test_relax_decides_the_second_cycle(cycles: Path, digits: DataBundle, tmp_path: Path) -> None:
    run(config(tmp_path / "kept", relax=1.0), digits)
    for number, same in ((1, True), (2, False)):
        states = [
            RunFolder(folder / f"member{number}").read_tensors("posterior.safetensors")
            for folder in (cycles, tmp_path / "kept")
        ]
        assert equal(*states) is same


@pytest.mark.parametrize("stop", [1, 2, 3])
@pytest.mark.parametrize("rule", ["bayesbinn", "ste"])
def test_a_resumed_run_has_the_same_bits(digits: DataBundle, tmp_path: Path, rule: str, stop: int) -> None:
    run(config(tmp_path / "whole", rule), digits)
    out = tmp_path / "parts"
    run(config(out, rule, stop_after=stop), digits)
    assert (out / "ensemble.json").exists() is (stop >= 2)
    run(config(out, rule), digits, resume=True)
    for folder in ("", "member1", "member2"):
        for name in PLACES if rule == "bayesbinn" else PLACES[:1]:
            states = [RunFolder(tmp_path / place / folder).read_tensors(name) for place in ("whole", "parts")]
            assert equal(*states), (folder, name)
    parts = [RunFolder(tmp_path / place).read_checkpoint()["parts"] for place in ("whole", "parts")]
    assert equal(*parts)


def test_the_default_rate_is_that_of_one_cycle() -> None:
    settings = make_config("digits", "bayesbinn:default", epochs=60, cycles=3)
    alone = make_config("digits", "bayesbinn:default", epochs=20)
    assert resolved(settings, 1000).lr == resolved(alone, 1000).lr
    assert settings.out.endswith("-cycles3") and settings.relax == 0.3 and alone.relax == 1.0
    assert RunConfig.from_json(settings.to_json()) == settings
    assert not {"cycles", "relax"} & json.loads(alone.to_json()).keys()


def test_cycles_that_make_no_sense() -> None:
    for rule, settings, message in (
        ("ste", {"epochs": 5, "cycles": 2}, r"epochs \(5\) must be a multiple of cycles \(2\)"),
        ("ste", {"epochs": 4, "cycles": 4}, "cosine does not fall within 1 epoch;"),
        ("ste", {"cycles": 0}, "cycles must be at least 1, got 0"),
        ("ste", {"relax": 0.5}, "relax 0.5 has no effect without cycles"),
        ("ste", {"epochs": 4, "cycles": 2, "relax": 0.0}, r"relax must be in \(0, 1\], got 0.0"),
        ("bop", {"epochs": 4, "cycles": 2}, "rule bop cannot relax .* choose from: ste, bayesbinn, vispa"),
        ("full-precision", {"epochs": 4, "cycles": 2, "relax": 0.5}, "full-precision has cycles with relax 1"),
    ):
        with pytest.raises(ValueError, match=message):
            make_config("digits", rule, **settings)
    assert make_config("digits", "full-precision", epochs=4, cycles=2).relax == 1.0
    assert [Schedule(kind, milestones=(0.5,), every=3, warmup=3).falls(4) for kind in ("constant", "staircase")] == [
        False,
        True,
    ]
    assert not Schedule("warmup-cosine", warmup=4).falls(4) and not Schedule("milestones").falls(4)


# Independent members. -----------------------------------------------------------------------------------------------


def test_members_share_the_epochs_of_a_run(tmp_path: Path) -> None:
    given = Overrides(epochs=7, out=str(tmp_path))
    configs = member_configs("digits", "ste", 3, given)
    assert [config.epochs for config in configs] == [2, 2, 2]
    assert [Path(config.out).name for config in configs] == ["member1", "member2", "member3"]
    others = member_configs("digits", "ste", 3, dataclasses.replace(given, seed=1))
    assert len({config.seed for config in (*configs, *others)}) == 6, "neighbouring seeds have no member in common"
    assert {config.data_seed for config in configs} == {0}, "all have the same validation data"
    speed = member_configs("cifar10-speed", "ste", 2, Overrides(epochs=10, pretrain_epochs=5))
    assert {(config.epochs, config.pretrain_epochs) for config in speed} == {(5, 2)}
    for members, changes, message in (
        (0, {}, "members must be at least 1, got 0"),
        (8, {}, "8 members cannot share 7 epochs"),
        (2, {"cycles": 2}, "members are whole runs, without --cycles"),
        (2, {"stop_after": 1}, "members are whole runs"),
    ):
        with pytest.raises(ValueError, match=message):
            member_configs("digits", "ste", members, dataclasses.replace(given, **changes))


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two members, trained by the command."""
    out = tmp_path_factory.mktemp("members") / "run"
    words = ["train", "digits", "--rule", "bayesbinn", "--epochs", "2", "--members", "2", "--out", str(out)]
    assert cli.main(words) == 0
    return out


def test_the_ensemble_averages_probabilities(members: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = evaluate_run(members, samples=3)
    assert found.members is not None and len(found.members) == 2 and found.mean is not None
    runs = [load_run(members / f"member{number}") for number in (1, 2)]
    x, y = whole(runs[0].experiment.data.test)  # type: ignore[arg-type]
    for kind, samples, together in (("mode", 0, found.mode), ("mean", 3, found.mean)):
        probs = [run.predict(x, samples).probs for run in runs]
        for mine, figures in zip(probs, found.members, strict=True):
            assert figures[kind]["nll"] == pytest.approx(nll(mine, y))
        assert together["nll"] == pytest.approx(nll((probs[0] + probs[1]) / 2, y), rel=1e-5)
        assert together["nll"] < (nll(probs[0], y) + nll(probs[1], y)) / 2
    assert json.loads((members / "evaluation.json").read_text())["members"] == found.members
    alone = evaluate_run(members / "member1", samples=3)
    assert alone.members is None and (alone.mode, alone.mean) == (found.members[0]["mode"], found.members[0]["mean"])
    assert members_table(found).rows[-1][0] == "all" and len(members_table(found).rows) == 3
    assert evaluation_table(found).heads[1:] == ["modes of 2", "mean of 2 x 3"]
    folders = read_folders([members])
    assert len(folders.runs) == 2 and not folders.notes, "the members are runs"
    others = dataclasses.replace(folders.ensembles[0], evaluation={"mode": {"nll": 1.0}, "members": [{}] * 4})
    both = dataclasses.replace(folders, ensembles=[*folders.ensembles, others])
    section = next(each for each in make_sections(both) if each.title == "Recipe digits")
    rows = next(table for table in section.tables if table.title == "Calibration on test data").rows
    assert [row[1] for row in rows[-3:]] == ["modes of 2", "mean of 2 x 3", "modes of 4"], "other numbers, other rows"
    assert {row[0] for row in rows} == {"bayesbinn:straight-through"}, "under the label of the members"
    assert cli.main(["evaluate", str(members), "--samples", "3"]) == 0
    shown = capsys.readouterr().out
    assert "member 2" in shown and "2 x 3" in shown


def nll(probs: torch.Tensor, y: torch.Tensor) -> float:
    return -float(probs.gather(1, y[:, None]).double().log().mean())


@pytest.mark.parametrize("samples", [0, 2])
def test_all_members_in_one_file(members: Path, samples: int) -> None:
    network = pack_run(members, samples=samples, tempered=True)
    runs = load_members(members)
    x, _ = whole(runs[0].experiment.data.test)  # type: ignore[arg-type]
    expected = joint(runs, samples)(x)
    assert len(expected.outputs) == 2 * max(samples, 1)
    temperature = float(network.program.about["temperature"])
    found = predict_packed(network, x)
    assert torch.allclose(found.outputs * temperature, expected.outputs, atol=1e-3)
    scales = [run.experiment.model.state_dict() for run in runs]
    assert any(not torch.equal(a, scales[1][name]) for name, a in scales[0].items() if a.is_floating_point())


def test_members_of_a_regression(tmp_path: Path) -> None:
    given = Overrides(epochs=4, out=str(tmp_path / "run"))
    run_members(member_configs("snelson", "bayesbinn", 2, given), note=lambda line: None)
    found = evaluate_run(tmp_path / "run", samples=2)
    runs = load_members(tmp_path / "run")
    x, y = whole(runs[0].experiment.data.test)  # type: ignore[arg-type]
    mean = torch.stack([run.predict(x).outputs[0] for run in runs]).mean(0)
    assert found.mode["error"] == pytest.approx(float((mean.reshape(-1) - y.reshape(-1)).square().mean()))
    assert found.members is not None and found.members[0]["mode"]["error"] != found.members[1]["mode"]["error"]


def test_cycles_are_evaluated_and_packed_like_members(tmp_path: Path) -> None:
    cycles = tmp_path / "run"
    run(config(cycles), load_digits())
    found = evaluate_run(cycles, samples=2)
    assert found.members is not None and len(found.members) == 2
    assert found.members[0]["mode"] != found.members[1]["mode"]
    x = torch.zeros(1, 64)
    assert len(predict_packed(pack_run(cycles), x).outputs) == 2
    groups = [group for found in grouped(read_folders([cycles]).runs).values() for group in found]
    rows = calibration_table(groups).rows
    assert [row[1] for row in rows] == ["modes of 2", "mean of 2 x 2"], "a page does not call these one network"


def test_unfinished_and_foreign_members(members: Path, tmp_path: Path) -> None:
    given = Overrides(epochs=2, out=str(tmp_path / "run"))
    configs = member_configs("digits", "ste", 2, given)
    run_members(configs, note=lambda line: None)
    (tmp_path / "run" / "member2" / "summary.json").rename(tmp_path / "kept.json")
    with pytest.raises(RunError, match=r"member 2 of 2 in .* is not finished"):
        evaluate_run(tmp_path / "run")
    (tmp_path / "kept.json").rename(tmp_path / "run" / "member2" / "summary.json")
    (tmp_path / "run" / "member2").rename(tmp_path / "old")
    (tmp_path / "run" / "member2").symlink_to(members / "member2")
    with pytest.raises(ValueError, match=r"member2 is no member of .*: it has another recipe, rule"):
        pack_run(tmp_path / "run")
    (tmp_path / "run" / "ensemble.json").write_text('{"members": "two"}')
    with pytest.raises(RunError, match=r"ensemble.json is damaged"):
        evaluate_run(tmp_path / "run")


def test_a_folder_is_of_a_run_or_of_members(cycles: Path, members: Path, digits: DataBundle, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is the folder of a run; choose another --out"):
        run_members(member_configs("digits", "ste", 2, Overrides(epochs=4, out=str(cycles))), note=lambda line: None)
    out = tmp_path / "run"
    run_members(member_configs("digits", "ste", 2, Overrides(epochs=2, out=str(out))), note=lambda line: None)
    single = make_config("digits", "ste", epochs=1, out=str(out))
    with pytest.raises(ValueError, match="holds results without a checkpoint"):
        run(single, digits, resume=True)
    run(single, digits)
    assert not (out / "ensemble.json").exists() and (tmp_path / "run.old-1" / "member2" / "summary.json").exists()


def test_refused_members_leave_an_ensemble_as_it_was(tmp_path: Path) -> None:
    out = tmp_path / "run"
    given = Overrides(epochs=2, out=str(out))
    run_members(member_configs("digits", "ste", 2, given), note=lambda line: None)
    (out / "evaluation.json").write_text("{}")
    with pytest.raises(ValueError, match=r"member1 was started with .*; choose another --out"):
        run_members(member_configs("digits", "bop", 2, given), note=lambda line: None)
    assert (out / "evaluation.json").exists() and json.loads((out / "ensemble.json").read_text()) == {"members": 2}


def test_the_command_refuses(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for words, message in (
        (["--members", "2", "--seeds", "2"], "both set a number of runs"),
        (["--jobs", "2"], "set their number with --seeds or --members"),
        (["--members", "2", "--tensorboard"], "leave out --members or --tensorboard"),
        (["--members", "0"], "members must be at least 1, got 0"),
    ):
        assert cli.main(["train", "digits", "--out", str(tmp_path / "x"), *words]) != 0
        assert message in " ".join(capsys.readouterr().err.split())


# The study. ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> MembersStudy:
    """Two members or cycles; the budget of five epochs is rounded down to four, and Bop's steps take half the time."""
    out = tmp_path_factory.mktemp("study")
    times = {"full-precision": (1.0, 4), "full-precision:swag": (1.0, 4), "bop": (0.5, 8), BAYES: (1.2, 4)}
    spent = [Spending(rule, *each) for rule, each in times.items()]
    RunFolder(out).write_json("spending.json", {"rules": [each.to_dict() for each in spent]})
    choice = TableChoice(dataset="digits", rules=("full-precision", "full-precision:swag", "bop", "bayesbinn"))
    given = Overrides(epochs=5, out=str(out), batch_size=300, budget="quick")
    return members_study(choice, given, members=2, samples=4, unlike="digits", note=lambda line: None)


def test_the_study_has_equal_times(study: MembersStudy) -> None:
    ways = {(row.rule, row.way, row.kind): row for row in study.time}
    assert set(ways) == {
        *(("full-precision", way, "mode") for way in ("members", "single", "cycles")),
        ("full-precision", "dropout", "dropout"),
        *(("full-precision:swag", "single", kind) for kind in ("mode", "mean")),
        *(("bop", way, "mode") for way in ("members", "single")),  # cannot be relaxed
        *((BAYES, way, kind) for way in ("members", "single", "cycles") for kind in ("mode", "mean")),
    }
    assert {(row.rule == "bop", row.epochs) for row in study.time} == {(False, 4), (True, 8)}
    assert {row.rule: row.time for row in study.time if row.rule in ("bop", BAYES)} == {"bop": 1.0, BAYES: 1.2}
    for (_, way, kind), row in ways.items():
        assert row.members == (1 if way in ("single", "dropout") else 2)
        assert row.networks == (4 if kind in ("mean", "dropout") else row.members)
    runs = load_members(study.folder / "bayesbinn-straight-through-seed0-members")
    x, y = whole(runs[0].experiment.data.test)  # type: ignore[arg-type]
    assert ways[BAYES, "members", "mean"].figures["nll"].mean == pytest.approx(nll(joint(runs, 2)(x).probs, y))
    assert ways[BAYES, "single", "mode"].figures["auroc_unlike"].mean == pytest.approx(0.5), "the same data"
    written = json.loads((study.folder / "members.json").read_text())
    assert [MembersRow.from_dict(row).networks for row in written["size"]] == [row.networks for row in study.size]


def test_the_study_fills_equal_bytes(study: MembersStudy) -> None:
    weights = 64 * 128 + 128 * 128 + 128 * 10
    ways = {(row.rule, row.way, row.kind): row for row in study.size}
    run = load_run(study.folder / "bayesbinn-straight-through-seed0")
    real = 4 * (sum(p.numel() for p in run.experiment.model.parameters()) - weights)
    assert study.bytes == 4 * weights + real
    assert not {("full-precision", "members", "mode"), ("full-precision", "cycles", "mode")} & set(ways), "too large"
    assert ways["full-precision", "dropout", "dropout"].bytes == study.bytes
    for way, members in (("single", 1), ("members", 2), ("cycles", 2)):
        row = ways["bayesbinn:straight-through", way, "mean"]
        one = weights // 8
        assert row.bytes == members * real + row.networks * one <= study.bytes < row.bytes + members * one
        assert row.networks > 4
    assert ways["bop", "members", "mode"].bytes == 2 * (real + weights // 8)
    tables = member_tables(study)
    trained = 4 + 1 + 2 + 3  # ways of full precision, one of them for dropout masks, of SWAG, of Bop and of BayesBiNN
    assert [len(table.rows) for table in tables] == [trained, len(study.time), len(study.size), len(study.time)]
    by_time = {(row.rule, row.way, row.kind): row for row in study.time}
    assert by_time["full-precision:swag", "single", "mean"].bytes == 4 * study.bytes, "of samples, or 22 vectors"
    assert ("full-precision:swag", "single", "mean") not in ways
    mine, wider = by_time[BAYES, "members", "mean"], ways[BAYES, "members", "mean"]
    assert mine.networks == 4 < wider.networks and mine.figures["nll"] != wider.figures["nll"]


def test_equal_samples_have_equal_figures(study: MembersStudy) -> None:
    """The table at equal bytes takes its figures from the networks that it says."""
    run = load_run(study.folder / "bayesbinn-straight-through-seed0")
    ways = {(row.rule, row.way, row.kind): row for row in study.size}
    row, inputs = ways[BAYES, "single", "mean"], evaluation_inputs(run, shifted=500)
    found = Predictions.of(run.predictor(row.networks), inputs)
    assert row.figures["nll"].mean == pytest.approx(found.figures(inputs)["nll"], rel=1e-5)
    assert row.figures["nll_shifted"].mean == pytest.approx(found.shift_figures(inputs)["nll_shifted"], rel=1e-5)


def test_corrupted_inputs_have_figures_of_their_own(study: MembersStudy) -> None:
    run = load_run(study.folder / "full-precision-seed0")
    inputs = evaluation_inputs(run, shifted=100)
    figures = Predictions.of(run.predictor(), inputs).shift_figures(inputs)
    test = run.experiment.data.test
    assert isinstance(test, TensorData)
    first = test.chosen(torch.arange(100))
    found = {}
    for kind in CORRUPTIONS:
        for severity in SEVERITIES:
            x, y = whole(dataclasses.replace(first, x=corrupted(first.x, kind, severity)))
            found[kind, severity] = nll(run.predict(x).probs, y)
    assert len(found) == 20
    assert figures["nll_shifted"] == pytest.approx(sum(found.values()) / 20)
    assert figures["nll_noise"] == pytest.approx(sum(found["noise", each] for each in SEVERITIES) / 5)
    assert figures["nll_2"] == pytest.approx(sum(found[kind, 2] for kind in CORRUPTIONS) / 4)
    assert Predictions.of(run.predictor(), Inputs(inputs.test)).shift_figures(Inputs(inputs.test)) == {}


def test_steps_are_timed_in_turns(digits: DataBundle) -> None:
    runs = {samples: make_config("digits", "bayesbinn", samples=samples) for samples in (1, 12)}
    times = step_times({str(n): (run, make_experiment(run, digits)) for n, run in runs.items()})
    assert times["1"] == 1.0 and 4 < times["12"] < 30  # a busy machine disturbs even processor time


def test_the_search_of_each_way_decides_its_rate(tmp_path: Path) -> None:
    choice = TableChoice(dataset="digits", rules=("ste",))
    given = Overrides(epochs=4, out=str(tmp_path), batch_size=300, budget="quick")
    how: dict[str, Any] = {"members": 2, "samples": 2, "trials": 2, "note": lambda line: None}
    study = members_study(choice, given, **how)
    (spent,) = json.loads((tmp_path / "spending.json").read_text())["rules"]
    assert list(spent["searches"]) == ["single", "members", "cycles"]
    for way, slug, number in (("single", "ste", 1), ("members", "ste-members", 2), ("cycles", "ste-cycles", 2)):
        merits = {}
        for factor in ("0.333", "1"):
            runs = load_members(tmp_path / "trials" / slug / factor)
            x, y = whole(runs[0].experiment.data.validation)  # type: ignore[arg-type]
            merits[factor] = nll(joint(runs)(x).probs, y)
            assert len(runs) == number
            assert all(run.config.spec.lr == pytest.approx(float(factor) * 0.01, rel=1e-2) for run in runs)
            if way != "members":  # the seeds of members are hashed
                assert runs[0].config.seed == 1000
        assert spent["searches"][way] == pytest.approx(merits)
        best = min(merits, key=lambda factor: merits[factor])
        assert study.spending[0].factor(way) == pytest.approx(float(best), rel=1e-2)
        name = "ste-seed0" if way == "single" else f"ste-seed0-{way}"
        assert {run.config.spec.lr for run in load_members(tmp_path / name)} == {study.spending[0].factor(way) * 0.01}
        assert [WAYS[way].format(number), "2", best] in [[row[1], *row[4:]] for row in member_tables(study)[0].rows]
    other = tmp_path / "other"
    other.mkdir()
    third = {"0.333": 0.1, "1": 0.2}
    kept = spent | {"searches": {"single": third, "members": {"0.333": 0.2, "1": 0.1}, "cycles": third}}
    RunFolder(other).write_json("spending.json", {"rules": [kept]})
    members_study(choice, dataclasses.replace(given, out=str(other)), **how)
    for name, rate in (("ste-seed0", 1 / 3 * 0.01), ("ste-seed0-members", 0.01), ("ste-seed0-cycles", 1 / 3 * 0.01)):
        assert {run.config.spec.lr for run in load_members(other / name)} == {rate}
    assert not (other / "trials").exists(), "a finished search is not repeated"


def test_a_later_way_is_searched_like_the_first(tmp_path: Path) -> None:
    """The folder keeps the number of trials, so that no way has fewer."""
    choice = TableChoice(dataset="digits", rules=("ste",))
    given = Overrides(epochs=4, out=str(tmp_path), batch_size=600, budget="quick")
    how: dict[str, Any] = {"members": 2, "samples": 2, "note": lambda line: None}
    first = members_study(choice, given, ways=("members",), trials=2, **how)
    assert list(first.spending[0].searches) == ["members"]
    later = members_study(choice, given, ways=("single",), **how)
    assert later.spending[0].searches["members"] == first.spending[0].searches["members"]
    assert list(later.spending[0].searches["single"]) == ["0.333", "1"]


@pytest.mark.parametrize(("lr", "away"), [(1e-2, 1), (1.0, -1)])
def test_a_search_goes_on_beyond_a_best_rate_at_its_edge(tmp_path: Path, lr: float, away: int) -> None:
    choice = TableChoice(dataset="digits", rules=("full-precision",))
    given = Overrides(epochs=4, out=str(tmp_path), batch_size=100, lr=lr, budget="quick")
    how: dict[str, Any] = {"members": 2, "ways": ("single",), "samples": 2, "note": lambda line: None}
    (spent,) = members_study(choice, given, trials=3, **how).spending
    trials = spent.searches["single"]
    assert list(trials)[:3] == ["0.333", "1", "3"] and len(trials) > 4
    assert all(float(factor) ** away > 3 for factor in list(trials)[3:]), "in one direction"
    names = sorted(trials, key=float)
    assert spent.factor("single") == pytest.approx(float(names[-2 if away > 0 else 1]), rel=1e-2)
    (run,) = load_members(tmp_path / "full-precision-seed0")
    assert run.config.spec.lr == pytest.approx(lr * spent.factor("single"))
    for file in (tmp_path / "trials").glob("full-precision/*/summary.json"):
        file.write_text("")  # a finished search does not read it again
    assert members_study(choice, given, **how).spending == [spent]


def test_a_search_does_not_go_beyond_the_rates_of_its_rule(tmp_path: Path) -> None:
    """The rate of BayesBiNN is a share of the step, so that 3 and 9 are refused."""
    choice = TableChoice(dataset="digits", rules=("bayesbinn:straight-through",))
    given = Overrides(epochs=2, out=str(tmp_path), batch_size=600, lr=1.0, budget="quick")
    how: dict[str, Any] = {"members": 2, "ways": ("single",), "samples": 2, "note": lambda line: None}
    (spent,) = members_study(choice, given, trials=3, **how).spending
    trials = spent.searches["single"]
    assert trials["3"] is None and trials["1"] is not None and spent.factor("single") <= 1
    assert not (tmp_path / "trials" / "bayesbinn-straight-through" / "3").exists()


def test_a_search_has_an_end_and_prefers_the_rate_of_the_recipe() -> None:
    trials: dict[str, float | None] = {}
    while wanted := next_factors(trials, 3):
        trials |= {factor_name(factor): -factor for factor in wanted}
    assert list(trials) == ["0.333", "1", "3", "9", "27", "81"]
    assert next_factors({"0.333": 0.1, "1": 0.1, "3": 0.1}, 3) == []
    assert Spending("ste", 1.0, 4, {"single": {"0.333": 0.1, "1": 0.1, "3": 0.1}}).factor("single") == 1.0


def test_trials_side_by_side_decide_as_in_turn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bit for bit: the runs of a study with two processes are those of one process."""
    words = "reproduce members --dataset digits --rules ste --members 2 --epochs 4 --trials 2".split()
    found = []
    for jobs in ("1", "2"):
        out = tmp_path / jobs
        assert cli.main([*words, "--jobs", jobs, "--out", str(out)]) == 0
        assert ("8 runs, 2 at a time" in capsys.readouterr().out) == (jobs == "2")
        found.append([json.loads((out / name).read_text()) for name in ("members.json", "spending.json")])
    assert found[0] == found[1]
    (spent,) = found[1][1]["rules"]
    for trials in spent["searches"].values():
        assert list(trials) == ["0.333", "1"] and trials["0.333"] != trials["1"]


def test_trials_side_by_side_that_all_diverge(tmp_path: Path) -> None:
    """The error of each process ends its trial alone, and the search says that none is left.

    A note tells of the first error. There is a second one if the other trial had not failed by then and is begun again.
    """
    choice = TableChoice(dataset="digits", rules=("full-precision",), jobs=2)
    given = Overrides(epochs=4, out=str(tmp_path), lr=1e37, budget="quick")
    notes: list[str] = []
    spent = Spending("full-precision", 1.0, 4)  # else the timing would diverge first
    RunFolder(tmp_path).write_json("spending.json", {"rules": [spent.to_dict()]})
    with pytest.raises(
        DivergedError, match=r"^every trial of full-precision in the way single diverged; leave out the rule"
    ):
        members_study(choice, given, members=2, ways=("single",), samples=2, trials=2, note=notes.append)
    assert len([line for line in notes if line.startswith("failed: ")]) in (1, 2)
    for factor in ("0.333", "1"):
        folder = tmp_path / "trials" / "full-precision" / factor
        assert RunFolder(folder).read_json("failure.json")["diverged"] and not (folder / "summary.json").exists()


def test_one_trial_that_diverges_is_kept_without_a_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, plain = [], several.run_recipe

    def run_recipe(config: RunConfig, **how: Any) -> RunResult:
        begun.append(Path(config.out).name)
        if config.out.endswith("trials/ste/1"):
            plain(config.changed(stop_after=1), **how)
            about = {"epochs_done": 1, "error": "not finite", "diverged": True}
            RunFolder(config.out).write_json("failure.json", about)
            raise DivergedError("the loss is not finite")
        return plain(config, **how)

    monkeypatch.setattr(several, "run_recipe", run_recipe)
    choice = TableChoice(dataset="digits", rules=("ste",))
    given = Overrides(epochs=4, out=str(tmp_path), batch_size=600, budget="quick")
    how: dict[str, Any] = {"members": 2, "ways": ("single",), "samples": 2, "trials": 3, "note": lambda line: None}
    study = members_study(choice, given, **how)
    (spent,) = json.loads((tmp_path / "spending.json").read_text())["rules"]
    trials = spent["searches"]["single"]
    assert list(trials)[:3] == ["0.333", "1", "3"] and trials["1"] is None
    assert study.spending[0].factor("single") >= 3.0, "the best of the others"
    assert begun[:3] == ["0.333", "1", "3"]
    begun.clear()
    (tmp_path / "spending.json").unlink()
    members_study(choice, given, **how)
    assert begun == [], "a trial that diverged is not repeated"
    for factor in ("0.333", "3"):
        RunFolder(tmp_path / "trials" / "ste" / factor).write_json("failure.json", {"diverged": True})
    (tmp_path / "spending.json").unlink()
    with pytest.raises(DivergedError, match=r"^every trial of ste in the way single diverged; leave out the rule"):
        members_study(choice, given, **how)


@pytest.mark.parametrize(("way", "place"), [("members", "1/member2"), ("cycles", "1")])
def test_a_trial_of_which_one_run_diverges_is_kept_without_a_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Any, place: str
) -> None:
    plain = several.run_recipe

    def run_recipe(config: RunConfig, **how: Any) -> RunResult:
        if config.out.endswith(f"trials/ste-{way}/{place}"):
            plain(config.changed(stop_after=1), **how)
            RunFolder(config.out).write_json("failure.json", {"epochs_done": 1, "error": "", "diverged": True})
            raise DivergedError("the loss is not finite")
        return plain(config, **how)

    monkeypatch.setattr(several, "run_recipe", run_recipe)
    choice = TableChoice(dataset="digits", rules=("ste",))
    given = Overrides(epochs=4, out=str(tmp_path), batch_size=600, budget="quick")
    study = members_study(choice, given, members=2, ways=(way,), samples=2, trials=2, note=lambda line: None)
    trials = study.spending[0].searches[way]
    assert trials["1"] is None and trials["0.333"] is not None and study.spending[0].factor(way) == 1 / 3


def test_the_search_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    """Its members took the rate of single runs."""
    spent = {"rule": "ste", "time": 1.0, "epochs": 4, "factor": 1.0, "trials": {"0.333": 0.2, "1": 0.1}}
    RunFolder(tmp_path).write_json("spending.json", {"trials": 2, "rules": [spent]})
    before = (tmp_path / "spending.json").read_text()
    given = Overrides(epochs=4, out=str(tmp_path), budget="quick")
    with pytest.raises(ValueError, match=r"holds the search of an earlier version, .*; choose another --out"):
        members_study(TableChoice(dataset="digits", rules=("ste",)), given, members=2, note=lambda line: None)
    assert (tmp_path / "spending.json").read_text() == before


def test_a_figure_that_is_not_a_number_loses_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(folder: Path, **settings: Any) -> list[FinishedRun]:
        runs = load_members(folder, **settings)
        if folder.name == "1":
            next(runs[-1].experiment.model.parameters()).data.fill_(float("nan"))
        return runs

    monkeypatch.setattr("bitbayes.lab.studies.members.load_members", damaged)
    choice = TableChoice(dataset="digits", rules=("ste",))
    given = Overrides(epochs=4, out=str(tmp_path), batch_size=600, budget="quick")
    ways = ("single", "members")
    study = members_study(choice, given, members=2, ways=ways, samples=2, trials=2, note=lambda line: None)
    for way in ways:
        assert study.spending[0].searches[way] == {"0.333": pytest.approx(2, abs=1), "1": None}
        assert study.spending[0].factor(way) == pytest.approx(1 / 3)


def test_a_search_without_validation_data_is_refused_before_training(tmp_path: Path) -> None:
    choice = TableChoice(dataset="digits", rules=("ste",))
    given = Overrides(epochs=4, out=str(tmp_path), protocol="test", budget="quick")
    with pytest.raises(
        ValueError, match=r"a search with 2 trials needs validation data .* digits with --protocol test has"
    ):
        members_study(choice, given, members=2, samples=2, trials=2)
    assert not (tmp_path / "trials").exists() and not (tmp_path / "spending.json").exists()


def test_a_folder_keeps_its_reference(tmp_path: Path) -> None:
    given = Overrides(epochs=4, out=str(tmp_path), batch_size=600, budget="quick")
    how: dict[str, Any] = {"members": 2, "samples": 4, "note": lambda line: None}
    file = tmp_path / "spending.json"
    members_study(TableChoice(dataset="digits", rules=("ste", "bop")), given, **how)
    written = file.read_text()
    kept = json.loads(written)
    assert (kept["reference"], kept["epochs"], kept["members"]) == ("ste", 4, 2)
    for rules, more, members, message in (
        (("bop",), {}, 2, "reference ste, not bop"),
        (("ste",), {"epochs": 8}, 2, "epochs 4, not 8"),
        (("ste",), {}, 4, "members 2, not 4"),
    ):
        with pytest.raises(ValueError, match=rf"holds a study with {message}; choose another --out$"):
            choice = TableChoice(dataset="digits", rules=rules)
            members_study(choice, dataclasses.replace(given, **more), **how | {"members": members})
        assert file.read_text() == written
    searched = tmp_path / "searched"
    for trials in (2, 1):  # the second study uses the search of the first
        changed = dataclasses.replace(given, out=str(searched))
        study = members_study(TableChoice(dataset="digits", rules=("ste",)), changed, **how, trials=trials)
        assert {len(found) for found in study.spending[0].searches.values()} == {2}
    with pytest.raises(ValueError, match=r"holds a study with trials 1, not 3; choose another --out$"):
        members_study(TableChoice(dataset="digits", rules=("ste",)), given, **how, trials=3)
    assert file.read_text() == written and not (tmp_path / "trials").exists()


def test_single_runs_alone_do_not_set_the_epochs_of_other_ways(tmp_path: Path) -> None:
    """Their epochs need not be a multiple of the members'."""
    given = Overrides(epochs=4, out=str(tmp_path), batch_size=600, budget="quick")
    choice = TableChoice(dataset="digits", rules=("ste",))
    members_study(choice, given, members=2, samples=2, ways=("single",), note=lambda line: None)
    with pytest.raises(
        ValueError, match=r"holds single runs, whose epochs members cannot share; choose another --out$"
    ):
        members_study(choice, given, members=2, samples=2, note=lambda line: None)
    members_study(choice, given, members=2, samples=2, ways=("single",), note=lambda line: None)


def test_other_data_are_refused_before_the_training(tmp_path: Path) -> None:
    given = Overrides(epochs=4, out=str(tmp_path), batch_size=600, budget="quick")
    choice = TableChoice(dataset="digits", rules=("ste",), seeds=1)
    for study in (partial(members_study, members=2, samples=2), trust_study):
        with pytest.raises(ValueError, match="did you mean 'fashion-mnist'"):
            study(choice, given, unlike="fashion-mist")
        with pytest.raises(ValueError, match="unlike_data X has no effect without unlike"):
            study(choice, given, unlike=None, unlike_data="X")
        assert not list(tmp_path.iterdir())


BARE = """
import dataclasses
from bitbayes.lab.recipes import find_recipe

digits = find_recipe("digits")
recipe = dataclasses.replace(digits, name="bare", load=lambda *a: dataclasses.replace(digits.load(*a), test=None))
"""


def run_on(x: torch.Tensor) -> Any:
    test = TensorData(x, torch.zeros(len(x)), mean=0.5, std=0.5)
    experiment = SimpleNamespace(data=SimpleNamespace(test=test, validation=None), device="cpu")
    return SimpleNamespace(experiment=experiment, config=SimpleNamespace(recipe="mnist"))


def test_letters_beside_images(tmp_path: Path) -> None:
    """They take the shape of the test images, unless these are smaller."""
    pictures = torch.zeros(3, 1, 28, 28, dtype=torch.uint8)
    for x in (pictures, pictures.flatten(1), torch.zeros(3, 3, 32, 32, dtype=torch.uint8)):
        unlike = evaluation_inputs(run_on(x), "letters").unlike
        assert unlike is not None and unlike.shape[1:] == x.shape[1:]
        pixels = ((unlike + 1) * 127.5).round()
        pixels = pixels[:, :, 2:-2, 2:-2] if x.shape[-1] == 32 else pixels.view(-1, 1, 28, 28)
        assert torch.equal(pixels, printed_letters(2000).float().expand(-1, pixels.shape[1], -1, -1))
    with pytest.raises(ValueError, match="the letters are drawn, so unlike_data X has no effect"):
        evaluation_inputs(run_on(pictures), "letters", "X")
    small, bare = torch.zeros(3, 64, dtype=torch.uint8), tmp_path / "bare.py"
    bare.write_text(BARE, encoding="utf-8")
    with pytest.raises(
        ValueError,
        match=r"inputs of letters do not suit the run: expected the shape \(64,\) of type torch.uint8, or grey images "
        r"that are not larger, got \(1, 28, 28\) of type torch.uint8; choose another recipe for unlike",
    ):
        evaluation_inputs(run_on(small), "letters")
    with pytest.raises(ValueError, match=r"bare\.py has no test data; choose another recipe for unlike"):
        evaluation_inputs(run_on(small), str(bare))


def test_ways_can_be_left_out(tmp_path: Path) -> None:
    given = Overrides(epochs=5, batch_size=600, budget="quick")
    notes: list[str] = []

    def study(name: str, ways: Any, *rules: str) -> MembersStudy:
        choice, here = TableChoice(dataset="digits", rules=rules), dataclasses.replace(given, out=str(tmp_path / name))
        return members_study(choice, here, members=2, ways=ways, samples=2, note=notes.append)

    found = study("both", ("cycles", "single", "single"), "full-precision", "bop")
    assert [(row.rule, row.way, row.kind, row.epochs) for row in found.time] == [
        ("full-precision", "single", "mode", 4),
        ("full-precision", "dropout", "dropout", 4),
        ("full-precision", "cycles", "mode", 4),
        ("bop", "single", "mode", found.spending[1].epochs),
    ]
    assert not list(tmp_path.glob("*/*-members")), "no member is trained"
    assert study("one", ("single",), "full-precision").time[0].epochs == 5, "no member shares the epochs"
    found = study("cycles", ("cycles",), "bop", "full-precision")
    assert [(row.rule, row.way) for row in found.time] == [("full-precision", "cycles")]
    assert "bop is left out, because it has none of the ways cycles" in notes
    with pytest.raises(ValueError, match="no rule can be trained in the ways cycles; add the way single"):
        study("none", ("cycles",), "bop", "full-precision:swag")
    with pytest.raises(ValueError, match="no way to train is called 'singel'; did you mean 'single'"):
        study("none", ("singel",), "bop")
    assert not (tmp_path / "none").exists()


def test_rules_whose_package_is_missing_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    notes: list[str] = []
    choice = TableChoice(dataset="digits", rules=("full-precision", "full-precision:ivon"))
    given = Overrides(epochs=4, out=str(tmp_path), batch_size=600, budget="quick")
    study = members_study(choice, given, members=2, samples=2, note=notes.append)
    assert {row.rule for row in study.time} == {"full-precision"}
    assert [line for line in notes if "ivon" in line] == [missing("full-precision:ivon")]


def test_dropout_at_test_time(study: MembersStudy) -> None:
    run = load_run(study.folder / "full-precision-seed0")
    x, _ = whole(run.experiment.data.test)  # type: ignore[arg-type]
    state = torch.get_rng_state()
    one = dropout_predictor(run, 3)(x)
    assert torch.equal(state, torch.get_rng_state()), "training elsewhere is not disturbed"
    assert len(one.outputs) == 3 and not torch.equal(one.outputs[0], one.outputs[1])
    torch.manual_seed(9)
    assert torch.equal(one.outputs, dropout_predictor(run, 3)(x).outputs)
    assert not torch.equal(one.outputs[0], run.predict(x).outputs[0])
    assert torch.equal(run.predict(x).outputs, run.predict(x).outputs), "the run itself drops nothing"
    assert not dropout_layers(torch.nn.Sequential(torch.nn.Dropout(0.0), torch.nn.Linear(2, 2)))


def test_all_views_of_a_pass_have_the_same_masks() -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(9, 2))
    experiment = SimpleNamespace(model=network, device=torch.device("cpu"))
    x = torch.rand(4, 1, 3, 2)
    x = torch.cat([x, x[..., :1]], 3)  # equal to its mirror image
    found = {
        views: dropout_predictor(cast(FinishedRun, SimpleNamespace(config=config, experiment=experiment)), 3)(x).outputs
        for views in ("one", "mirror")
        for config in [SimpleNamespace(seed=0, precision="fp32", views=views)]
    }
    assert torch.allclose(found["one"], found["mirror"], atol=1e-6)
    assert not torch.equal(found["one"][0], found["one"][1])


def test_the_study_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["reproduce", "members", "--dataset", "digits", "--rules", "ste", "--members", "2", "--epochs", "5"]
    out = str(tmp_path)
    assert cli.main([*words, "--out", out]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Ensembles at equal bytes" in shown and "2 runs" in shown and "2 cycles" in shown
    assert cli.main([*words, "--seeds", "2", "--out", out]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "4 of 4 runs are already finished" in shown and "±" in shown
    for more, message in (
        (["--members", "1"], "members must be at least 2, got 1"),
        (["--networks", "3"], "samples must be at least the number of members (4), got 3"),
        (["--trials", "0"], "trials must be at least 1, got 0"),
        (["--dataset", "digits", "--epochs", "3"], "4 members cannot share 3 epochs"),
        (["--seeds", "0"], "seeds must be at least 1, got 0"),
        (["--dataset", "snelson"], "needs a classifier, but snelson is a regression"),
        (["--rules", "ste", "ste"], "rule ste is given twice; give it once"),
        (["--ways", "singel"], "--ways must be one of single, members, cycles, got 'singel'"),
        (["--ways", "--dataset", "digits"], "--ways was given without a value; give one, or leave it out"),
        (["--chains", "3"], "members does not take --chains"),
    ):
        assert cli.main(["reproduce", "members", *more, "--out", out]) == 2
        assert message in " ".join(capsys.readouterr().err.split())
    with pytest.raises(ValueError, match="ways must name at least one way to train: single, members, cycles"):
        members_study(TableChoice(dataset="digits"), Overrides(), ways=[])
    with pytest.raises(ValueError, match=r"samples must be at least the number of members \(4\), got 3"):
        members_study(TableChoice(dataset="digits"), Overrides(), samples=3)


def test_evaluations_take_the_likelihood_from_logits(study: MembersStudy) -> None:
    """A network that is wrong by thousands of nats must not count as wrong by 27.6 or 87."""
    run = load_run(study.folder / "full-precision-seed0")
    inputs = evaluation_inputs(run, shifted=5)
    wrong = Predictions.of(run.predictor(), inputs)
    wrong = Predictions(**{**vars(wrong), "test": Prediction(-3000.0 * torch.eye(10)[inputs.test[1]][None])})
    assert wrong.figures(inputs)["nll"] == pytest.approx(3000 + math.log(9))
    assert wrong.figures(inputs)["nll_tempered"] > 100


def test_predictions_with_dropout_have_a_rate_of_their_own(tmp_path: Path) -> None:
    """The same trials are judged twice; where both choose the same rate, they share the run."""
    choice = TableChoice(dataset="mnist-narrow", rules=("full-precision", "full-precision:no-dropout"))
    data = write(tmp_path / "data", "mnist", train=200, test=60)
    given = Overrides(epochs=1, out=str(tmp_path / "study"), data=str(data), batch_size=50)
    how: dict[str, Any] = {"ways": ["single"], "samples": 4, "note": lambda line: None}
    study = members_study(choice, given, trials=2, members=2, **how)
    kept = json.loads((study.folder / "spending.json").read_text())
    assert [list(each["searches"]) for each in kept["rules"]] == [["single", "dropout"], ["single"]]
    for factor, merit in study.spending[0].searches["dropout"].items():
        run = load_run(study.folder / "trials" / "full-precision" / factor)
        x, y = whole(run.experiment.data.validation)  # type: ignore[arg-type]
        assert merit == pytest.approx(nll(dropout_predictor(run, 8)(x).probs, y), rel=1e-5)
    for best, folder in (({"0.333": 1.0, "1": 2.0}, "-dropout"), ({"0.333": 2.0, "1": 1.0}, "")):
        kept["rules"][0]["searches"] = {"single": {"0.333": 2.0, "1": 1.0}, "dropout": best}
        out = tmp_path / f"again{folder}"
        RunFolder(out).write_json("spending.json", kept)
        again = members_study(choice, dataclasses.replace(given, out=str(out)), members=2, **how)
        assert {path.name for path in out.iterdir() if path.is_dir()} == {
            *("full-precision-seed1", f"full-precision-seed1{folder}", "full-precision-no-dropout-seed1")
        }
        run, row = load_run(out / f"full-precision-seed1{folder}"), again.time[1]
        assert (row.way, row.kind, row.networks) == ("dropout", "dropout", 4)
        inputs = evaluation_inputs(run)
        found = Predictions.of(dropout_predictor(run, 4), inputs).figures(inputs)
        assert row.figures["nll"].mean == pytest.approx(found["nll"], rel=1e-5)
