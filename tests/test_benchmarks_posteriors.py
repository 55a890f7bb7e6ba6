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


@pytest.fixture
def seeds(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent.parent / "benchmarks"))
    return importlib.import_module("seeds")


def test_stacked_networks_of_seeds_py_are_the_network_of_the_recipe(seeds: Any) -> None:
    models = [snelson_network() for _ in range(3)]
    stacked = seeds.Stacked(models[0], 3)
    linear = [[layer for layer in model if isinstance(layer, torch.nn.Linear)] for model in models]
    for layer, of_models in zip(stacked.layers, zip(*linear, strict=True), strict=True):
        for name, parameter in layer.named_parameters():
            parameter.data = torch.cat([each.get_parameter(name).detach() for each in of_models])
    x = torch.randn(20, 3, 1)
    wanted = torch.cat([model(x[:, place]) for place, model in enumerate(models)], 1)
    torch.testing.assert_close(stacked(x), wanted)


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
    assert set(shares) == {1, 2, 8}  # each network has the gradient of its own mean loss
    splits = [load_snelson(split=split).train.x for split in (3, 4)]
    for count, (first, last) in zip(shares, networks, strict=True):  # members stand side by side
        pairs = [splits] if count > 1 else [[split, split] for split in splits]  # VISPA's networks train alone
        assert any(torch.equal(first, one) and torch.equal(last, other) for one, other in pairs)
    (figures,) = json.loads((tmp_path / "snelson" / "truth.json").read_text())["truth"]
    trained = {row["title"]: row for row in figures["rows"][3:]}
    assert set(trained) == set(seeds.PROBLEMS["snelson"].ways)
    assert [row["networks"] for row in trained.values()] == [1, *[200] * (len(trained) - 1)]
    assert all(len(set(row["nll"]["values"])) == 2 for row in figures["rows"])
    assert "BayesBiNN, ess = 10⁴·N, 4 members" in capsys.readouterr().out


def test_rules_of_seeds_py(seeds: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    measured = Mock(side_effect=KeyboardInterrupt)
    monkeypatch.setattr(seeds, "measured", measured)
    with pytest.raises(KeyboardInterrupt):
        seeds.main(["moons", "--rules", "vispa", "ste", "--seeds", "2", "--epochs", "1", "--out", str(tmp_path)])
    predictors = measured.call_args.args[2]
    assert set(predictors) == {"STE, Adam", "VISPA, K = 4"}
    one, other = (predict(torch.randn(5, 2, generator=torch.Generator())) for predict in predictors["VISPA, K = 4"])
    assert one.outputs.shape == (200, 5, 1) and not torch.equal(one.outputs, other.outputs)


@pytest.fixture
def nested(seeds: Any) -> Any:
    return importlib.import_module("nested")


def test_a_setting_is_chosen_without_the_test_points_of_its_split(
    nested: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each split takes its best trial, which has seen 120 of the training points, and trains it again on all 150."""
    trained, splits = [], {split: load_snelson(split=split) for split in (3, 4)}
    wanted = {3: {0.1: 2.0, 0.2: 1.0}, 4: {0.1: 0.5, 0.2: 1.5}}  # means on validation points; targets are near 0
    seen = {}

    def predicted(problem: Any, way: Any, runs: Any, epochs: int | None) -> list[Any]:
        trained.append((way.settings["lr"], [(run.config.seed, run.experiment.data) for run in runs]))
        return [lambda x, run=run: result(way.settings["lr"], run.config.seed, x) for run in runs]

    def result(lr: float, seed: int, x: torch.Tensor) -> Any:
        seen[seed, lr] = x
        return bb.Prediction(torch.full((1, len(x), 1), wanted[seed][lr]))

    monkeypatch.setattr(nested, "trained", predicted)
    ways = {str(lr): nested.Way("bayesbinn:default", {"lr": lr}) for lr in (0.1, 0.2)}
    monkeypatch.setattr(nested, "TRIALS", {"rule": ways, "fixed": {"": ways["0.1"]}})
    measured = Mock(side_effect=KeyboardInterrupt)
    monkeypatch.setattr(nested, "measured", measured)
    with pytest.raises(KeyboardInterrupt):
        nested.main(["--first-seed", "3", "--seeds", "2", "--out", str(tmp_path)])
    for lr, shown in trained[:2]:
        for seed, data in shown:
            assert torch.equal(torch.cat([data.train.x, data.validation.x]), splits[seed].train.x)
            assert torch.equal(seen[seed, lr], data.validation.x) and len(data.train) == 120 and data.test is None
    for _, shown in trained[2:]:
        assert all(torch.equal(data.train.x, splits[seed].train.x) for seed, data in shown)
    assert [(lr, [seed for seed, _ in shown]) for lr, shown in trained] == [
        *((0.1, [3, 4]), (0.2, [3, 4]), (0.2, [3]), (0.1, [4])),
        (0.1, [3, 4]),  # without a choice
    ]
    again = measured.call_args.args[2]["rule"]
    assert [float(predict(torch.zeros(1, 1)).outputs) for predict in again] == [1.0, 0.5]  # in the order of the splits
    found = json.loads((tmp_path / "trials.json").read_text())
    assert found["splits"] == [3, 4] and [each["setting"] for each in found["validation"]] == ["0.1", "0.2"]
    for trial in found["validation"]:
        for seed, nll in zip((3, 4), trial["nll"], strict=True):
            squared = (splits[seed].train.y[120:] - wanted[seed][float(trial["setting"])]).square().mean() / 0.35**2
            assert nll == pytest.approx(float(squared + math.log(2 * math.pi * 0.35**2)) / 2, rel=0.01)


@needs.kernels("gibbs")
def test_the_files_of_nested_py(nested: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(nested, "TRIALS", {title: nested.TRIALS[title] for title in ("STE, chosen rate",)})
    nested.main(["--seeds", "1", "--epochs", "2", "--chains", "2", "--sweeps", "14", "--out", str(tmp_path)])
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
