"""The benchmarks that compare posteriors with the exact one, and conformal sets with their level."""

import importlib
import json
import math
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

import bitbayes as bb
import needs
from bitbayes.lab.data import load_snelson
from bitbayes.lab.recipes import make_config, run_recipe
from bitbayes.lab.recipes.plain import snelson_network
from bitbayes.lab.studies.load import load_run
from bitbayes.lab.train import SilentProgress
from bitbayes.lab.train.measure import whole
from bitbayes.posterior import LowRankGaussianPosterior


@pytest.fixture
def seeds(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent.parent / "benchmarks"))
    return importlib.import_module("seeds")


def test_stacked_networks_of_seeds_py_are_the_network_of_the_recipe(seeds: Any) -> None:
    models = [snelson_network() for _ in range(3)]
    x = torch.randn(20, 3, 1)
    wanted = torch.cat([model(x[:, place]) for place, model in enumerate(models)], 1)
    stacked, apart = seeds.Stacked(models[0], 3), seeds.Stacked(models[0], 3, apart=True)
    linear = [[layer for layer in model if isinstance(layer, torch.nn.Linear)] for model in models]
    for (one,), parts, of_models in zip(stacked.layers, apart.layers, zip(*linear, strict=True), strict=True):
        for name, parameter in one.named_parameters():
            parameter.data = torch.cat([each.get_parameter(name).detach() for each in of_models])
        for part, each in zip(parts, of_models, strict=True):
            part.load_state_dict(each.state_dict())
    for model in (stacked, apart):
        torch.testing.assert_close(model(x), wanted)


@needs.kernels("gibbs")
def test_seeds_and_members_train_together(
    seeds: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shares, networks, step = [], [], seeds.training_step

    def recorded(config: Any, experiment: Any, x: torch.Tensor, y: torch.Tensor, share: float) -> None:
        shares.append(share)
        networks.append((x[:, 0], x[:, -1]))
        step(config, experiment, x, y, share=share)

    monkeypatch.setattr(seeds, "training_step", recorded)
    words = ["--first-seed", "3", "--seeds", "2", "--epochs", "4", "--chains", "2", "--sweeps", "14"]
    seeds.main(["snelson", *words, "--out", str(tmp_path)])
    assert set(shares) == {2, 8}  # each network has the gradient of its own mean loss
    for first, last in networks:  # members stand side by side
        assert torch.equal(first, load_snelson(split=3).train.x) and torch.equal(last, load_snelson(split=4).train.x)
    (figures,) = json.loads((tmp_path / "snelson" / "truth.json").read_text())["truth"]
    trained = {row["title"]: row for row in figures["rows"][3:]}
    assert set(trained) == set(seeds.PROBLEMS["snelson"].ways)
    assert [row["networks"] for row in trained.values()] == [1, *[200] * (len(trained) - 1)]
    assert all(len(set(row["nll"]["values"])) == 2 for row in figures["rows"])
    assert "BayesBiNN, ess = 10⁴·N, 4 members" in capsys.readouterr().out


def test_vispa_in_seeds_py_correlates_the_weights_of_one_network_alone(
    seeds: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found: list[Any] = []
    monkeypatch.setattr(seeds, "predictors", lambda experiment, model, runs: found.append(experiment.optimizer))
    monkeypatch.setattr(seeds, "measured", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        seeds.main(["moons", "--rules", "vispa", "ste", "--seeds", "2", "--epochs", "1", "--out", str(tmp_path)])
    assert [type(optimizer) for optimizer in found] == [bb.STE, bb.VISPA]
    trained = found[1].posterior()
    undecided = {name: torch.zeros_like(center) for name, center in trained.center.items()}  # where noise decides
    posterior = LowRankGaussianPosterior(undecided, trained.factors, shared=trained.shared)
    assert posterior.center["layers.1.0.weight"].shape == posterior.center["layers.1.1.weight"].shape == (64, 64)
    some = list(range(50))
    within = posterior.correlation(("layers.1.0.weight", some), ("layers.1.0.weight", some[::-1])).abs()
    between = posterior.correlation(("layers.1.0.weight", some), ("layers.1.1.weight", some)).abs()
    assert within.max() > 0.1 and between.max() == 0


@pytest.fixture
def chosen(seeds: Any) -> Any:
    return importlib.import_module("chosen_settings")


def test_trials_that_train_together_are_single_runs(chosen: Any) -> None:
    """The first network has the noise of a single run, whose parameters have the same places."""
    runs = [_split(chosen, seed) for seed in (3, 4)]
    ways = [chosen.Way("ste", {"lr": lr}) for lr in (0.1, 0.003)]
    alone = chosen.trained([(ways[0], runs[0])], 5)
    together = chosen.trained([(way, run) for way in ways for run in runs], 5)
    x = torch.linspace(-1, 1, 30)[:, None]
    assert len(together) == 4 and torch.equal(together[0](x).outputs, alone[0](x).outputs)
    mine = chosen.trained([(ways[0], runs[0]), (ways[1], runs[0])], 5)
    assert not torch.equal(mine[0](x).outputs, mine[1](x).outputs)


def test_each_setting_and_split_of_the_search_reaches_the_optimizer(
    chosen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Any] = []
    monkeypatch.setattr(chosen, "train_all", lambda config, experiment: found.append((config, experiment)))
    monkeypatch.setattr(chosen, "predictors", lambda experiment, model, runs: [model.networks, runs])
    runs, ways = [_split(chosen, seed) for seed in (3, 4)], chosen.TRIALS["BayesBiNN, chosen ess, 4 members"].values()
    assert chosen.trained([(way, run) for way in ways for run in runs], 100) == [4, 8]
    ((config, experiment),) = found
    assert config.epochs == 25  # members share the steps
    groups = experiment.optimizer.param_groups
    assert [group["ess"] for group in groups] == [150 * factor for factor in chosen.FACTORS for _ in runs]
    assert {id(each) for group in groups for each in group["params"]} == set(map(id, experiment.model.parameters()))
    assert all(sum(each.numel() for each in group["params"]) == 4 * 4353 for group in groups)
    x, y = experiment.data.train.x, experiment.data.train.y
    for place, run in enumerate([run for _ in ways for run in runs for _ in range(4)]):
        assert torch.equal(x[:, place], run.experiment.data.train.x)
        assert torch.equal(y[:, place], run.experiment.data.train.y.squeeze(1))


def _split(chosen: Any, seed: int) -> Any:
    (run,) = chosen.runs_of(chosen.PROBLEM, [seed], "-", None)
    return run


def test_a_setting_is_chosen_without_the_test_points_of_its_split(
    chosen: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each split takes its best trial, which has seen 120 of the training points, and trains it again on all 150."""
    trained, splits, seen = [], {split: load_snelson(split=split) for split in (3, 4)}, {}
    wanted = {3: {0.1: 2.0, 0.2: 1.0}, 4: {0.1: 0.5, 0.2: 1.5}}  # means on validation points; targets are near 0

    def result(lr: float, seed: int, x: torch.Tensor) -> Any:
        seen[seed, lr] = x
        return bb.Prediction(torch.full((1, len(x), 1), wanted[seed][lr]))

    def predicted(jobs: Any, epochs: int | None) -> list[Any]:
        keys = [(way.settings["lr"], run.config.seed) for way, run in jobs]
        trained.append({key: run.experiment.data for key, (_, run) in zip(keys, jobs, strict=True)})
        return [lambda x, key=key: result(*key, x) for key in keys]

    monkeypatch.setattr(chosen, "trained", predicted)
    ways = {str(lr): chosen.Way("bayesbinn:default", {"lr": lr}) for lr in (0.1, 0.2)}
    monkeypatch.setattr(chosen, "TRIALS", {"rule": ways, "fixed": {"": ways["0.1"]}})
    measured = Mock(side_effect=KeyboardInterrupt)
    monkeypatch.setattr(chosen, "measured", measured)
    with pytest.raises(KeyboardInterrupt):
        chosen.main(["--first-seed", "3", "--seeds", "2", "--out", str(tmp_path)])
    trials, again, fixed = trained
    assert list(trials) == [(0.1, 3), (0.1, 4), (0.2, 3), (0.2, 4)]
    for (lr, seed), data in trials.items():
        assert torch.equal(torch.cat([data.train.x, data.validation.x]), splits[seed].train.x)
        assert torch.equal(seen[seed, lr], data.validation.x) and len(data.train) == 120 and data.test is None
    assert list(again) == [(0.2, 3), (0.1, 4)] and list(fixed) == [(0.1, 3), (0.1, 4)]
    for (_, seed), data in (again | fixed).items():
        assert torch.equal(data.train.x, splits[seed].train.x)
    rows = measured.call_args.args[2]["rule"]
    assert [float(predict(torch.zeros(1, 1)).outputs) for predict in rows] == [1.0, 0.5]
    found = json.loads((tmp_path / "trials.json").read_text())
    assert found["splits"] == [3, 4] and [each["setting"] for each in found["trials"]] == ["0.1", "0.2"]
    for trial in found["trials"]:
        for seed, nll in zip((3, 4), trial["nll"], strict=True):
            squared = (splits[seed].train.y[120:] - wanted[seed][float(trial["setting"])]).square().mean() / 0.35**2
            assert nll == pytest.approx(float(squared + math.log(2 * math.pi * 0.35**2)) / 2, rel=0.01)


@needs.kernels("gibbs")
def test_the_files_of_chosen_settings_py(chosen: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(chosen, "TRIALS", {title: chosen.TRIALS[title] for title in ("STE, chosen rate",)})
    chosen.main(["--seeds", "1", "--epochs", "2", "--chains", "2", "--sweeps", "14", "--out", str(tmp_path)])
    (figures,) = json.loads((tmp_path / "truth.json").read_text())["truth"]
    assert figures["rows"][-1]["title"] == "STE, chosen rate" and (tmp_path / "snelson.png").stat().st_size > 10_000


def test_coverage_of_finished_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent.parent / "benchmarks"))
    conformal = importlib.import_module("conformal")
    place, folders = str(tmp_path / "digits"), [str(tmp_path / "digits" / f"seed{seed}") for seed in (1, 2)]
    with pytest.raises(SystemExit, match=r"digits holds no run, expected config\.json"):
        conformal.main(["--runs", place])
    for seed, folder in enumerate(folders):
        run_recipe(
            make_config("digits", "bayesbinn:default", seed=seed, epochs=1, out=folder), progress=SilentProgress()
        )
    for name in ("seed1-pretrained", "seed1.old-1"):  # folders of other runs, which bitbayes leaves beside the seeds
        run_recipe(
            make_config("digits", "full-precision", epochs=1, out=str(tmp_path / "digits" / name)),
            progress=SilentProgress(),
        )
    out = ["--samples", "2", "--splits", "3", "--out", str(tmp_path)]
    conformal.main(["--runs", place, *out])
    mode, mean = json.loads((tmp_path / "conformal.json").read_text())["coverage"]
    assert (mode["samples"], mean["samples"]) == (0, 2) and mode["validation"] == mode["halves"] == 200
    assert mode["recipe"] == "digits" and mode["seeds"] == 2
    for row in (mode, mean):
        of_validation, of_halves = [], []
        for folder in folders:
            run = load_run(folder)
            (held, classes), (x, y) = whole(run.experiment.data.validation), whole(run.experiment.data.test)
            own = run.predict(held, row["samples"]).probs.gather(1, classes[:, None]).squeeze(1)
            test = run.predict(x, row["samples"]).probs.gather(1, y[:, None]).squeeze(1)
            of_validation.append(100 * float((test >= own.sort(descending=True).values[180]).double().mean()))
            for seed in range(3):
                first, second = torch.randperm(400, generator=torch.Generator().manual_seed(seed)).chunk(2)
                least = test[first].sort(descending=True).values[180]  # the ⌈201 · 0.9⌉ = 181st
                of_halves.append(100 * float((test[second] >= least).double().mean()))
        assert row["levels"]["0.9"]["validation"]["mean"] == pytest.approx(sum(of_validation) / 2)
        assert row["levels"]["0.9"]["halves"]["mean"] == pytest.approx(sum(of_halves) / 6)
        assert row["levels"]["0.9"]["halves"]["std"] == pytest.approx(torch.tensor(of_halves).std().item(), rel=1e-5)
        assert row["levels"]["0.99"]["halves"]["mean"] > row["levels"]["0.9"]["halves"]["mean"]
    conformal.main(["--runs", folders[0], *out])
    (one, _) = json.loads((tmp_path / "conformal.json").read_text())["coverage"]
    assert one["seeds"] == 1 and one["levels"]["0.9"]["validation"]["std"] is None


def test_conformal_py_refuses_runs_of_different_kinds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent.parent / "benchmarks"))
    conformal = importlib.import_module("conformal")
    first = make_config("digits", "ste", epochs=1, out=str(tmp_path / "seed1"))
    others = {
        "rule full-precision, expected ste": make_config("digits", "full-precision", epochs=1),
        "epochs 2, expected 1": make_config("digits", "ste", epochs=2),
        "recipe mnist-small, expected digits": make_config("mnist-small", "ste", epochs=1, data="nowhere"),
    }
    for seed in (1, 2):
        (tmp_path / f"seed{seed}").mkdir()
    (tmp_path / "seed1" / "config.json").write_text(first.to_json())
    for line, other in others.items():
        (tmp_path / "seed2" / "config.json").write_text(other.to_json())
        with pytest.raises(SystemExit) as refusal:
            conformal.main(["--runs", str(tmp_path)])
        assert f"seed2 has the {line} as in " in str(refusal.value) and "\n" not in str(refusal.value)
    alone = make_config("digits", "ste", epochs=1, protocol="test", out=str(tmp_path / "t"))
    run_recipe(alone, progress=SilentProgress())
    with pytest.raises(SystemExit, match=r"t has no validation data, expected a run without --protocol test$"):
        conformal.main(["--runs", str(tmp_path / "t"), "--out", str(tmp_path)])
    with_runs = [["--level", "0.9"], ["--data", "mnist=here"], ["--seeds", "0"]]
    for words in [*(["--runs", "here", *pair] for pair in with_runs), ["--samples", "10"], ["--out", "here"]]:
        with pytest.raises(SystemExit):
            conformal.main(words)
        line = f"{words[-2]} has no effect {'with' if words[0] == '--runs' else 'without'} --runs"
        assert line in capsys.readouterr().err
