"""Figures of trust: of one network, of a posterior's mean, of ensembles, and against data of another kind."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

import bitbayes as bb
from bitbayes.calibration import area_under_risk_coverage, false_positive_rate, separation
from bitbayes.conformal import ConformalSets
from bitbayes.lab.choices import Overrides, TableChoice
from bitbayes.lab.recipes import RECIPES, make_config, run_recipe
from bitbayes.lab.report.figures import trust_figure
from bitbayes.lab.report.trust import trust_table
from bitbayes.lab.studies.evaluate import Inputs, Predictions, evaluate_run
from bitbayes.lab.studies.load import load_run
from bitbayes.lab.studies.tables import rules_of
from bitbayes.lab.studies.trust import network_bytes, trust_study
from bitbayes.lab.train import RuleName, SilentProgress
from bitbayes.prediction import Prediction
from generated import write

RULES = ("full-precision", "bayesbinn")


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The recipe with a network that trains in no time, and data that suits it."""
    recipe = dataclasses.replace(RECIPES["mnist-trust"], network=lambda: bb.nn.mlp(784, [9], 10))
    monkeypatch.setitem(RECIPES, "mnist-trust", recipe)
    return {
        "data": str(write(tmp_path / "data", "mnist", train=40, test=30)),
        "unlike_data": str(write(tmp_path / "other", "fashion", train=20, test=20)),
        "out": str(tmp_path / "runs"),
    }


def test_study(small, tmp_path):
    notes = []
    choice = TableChoice(rules=RULES, seeds=2)
    given = Overrides(data=small["data"], out=small["out"], epochs=1, precision="fp32", budget="quick")
    how = {"unlike_data": small["unlike_data"], "samples": 4, "note": notes.append}
    study = trust_study(choice, given, **how)
    rows = {(RuleName.parse(row.rule).rule, row.kind): row for row in study.rows}
    assert set(rows) == {
        *[("full-precision", kind) for kind in ("network", "ensemble")],
        *[("bayesbinn", kind) for kind in ("network", "mean", "ensemble")],
    }
    weights = 9 * 784 + 90
    assert rows["full-precision", "network"].bytes == 4 * (weights + 1)
    assert rows["full-precision", "ensemble"].bytes == 2 * 4 * (weights + 1)
    assert rows["bayesbinn", "network"].bytes == 4 + -(-weights // 8)
    assert rows["bayesbinn", "mean"].bytes == 4 + 4 * -(-weights // 8) and rows["bayesbinn", "mean"].networks == 4
    assert rows["bayesbinn", "mean"].entropy_bits > 0 and rows["bayesbinn", "network"].entropy_bits is None
    for row in study.rows:
        figures = row.figures
        assert len(figures["nll"].values) == (1 if row.kind == "ensemble" else 2)
        assert 0 <= figures["auroc_unlike"].mean <= 1 and figures["temperature"].mean > 0
    written = json.loads((study.folder / "trust.json").read_text())
    assert (written["recipe"], written["rows"]) == ("mnist-trust", [row.to_dict() for row in study.rows])
    assert len(trust_table(study).rows) == 5
    assert trust_figure(study, tmp_path / "trust.png").stat().st_size > 10_000
    again = trust_study(choice, given, **how)
    assert again.rows == study.rows and sum(" of 4, in " in note for note in notes) == 4  # nothing is trained twice


def test_figures_against_a_count_by_hand():
    """Two networks that agree on ordinary inputs and contradict each other on strange ones."""
    sure = torch.tensor([[[4.0, 0.0], [0.0, 4.0], [4.0, 0.0]]])
    usual = Prediction(torch.cat([sure, sure]))
    strange = Prediction(torch.cat([sure, -sure]))
    inputs = Inputs((torch.zeros(3, 1), torch.tensor([0, 1, 1])), None, torch.zeros(3, 1))
    figures = Predictions(usual, None, strange).figures(inputs)
    assert figures["auroc_unlike"] == 1 and figures["auroc_unlike_information"] == 1
    assert figures["accuracy"] == pytest.approx(200 / 3, rel=1e-6)
    one = Predictions(Prediction(sure), None, Prediction(sure)).figures(inputs)
    assert one["auroc_unlike"] == 0.5 and "auroc_unlike_information" not in one


def test_scores_of_strange_data_and_conformal_sets():
    """Every score against its definition, and sets that are calibrated on validation data."""
    generator = torch.Generator().manual_seed(0)
    parts = [scale * torch.randn(2, 200, 4, generator=generator) for scale in (3, 3, 1)]
    test, held, unlike = map(Prediction, parts)
    labels = [prediction.probs.argmax(1) for prediction in (test, held)]
    for y in labels:
        y[:40] = 0  # some errors
    x = torch.zeros(200, 1)
    figures = Predictions(test, held, unlike).figures(Inputs((x, labels[0]), (x, labels[1]), x))
    scores = {"": "entropy", "_information": "mutual_information", "_energy": "energy"}
    found = {end: (getattr(test, name), getattr(unlike, name)) for end, name in scores.items()}
    found["_probability"] = (-test.confidence, -unlike.confidence)
    for end, (usual, unusual) in found.items():
        assert figures[f"auroc_unlike{end}"] == separation(usual, unusual)
        assert figures[f"fpr95_unlike{end}"] == false_positive_rate(usual, unusual)
    assert len({figures[f"auroc_unlike{end}"] for end in found}) == 4
    assert figures["auroc_unlike_energy"] > 0.9
    assert figures["aurc"] == area_under_risk_coverage(test.probs, labels[0])
    sets = ConformalSets.fit(held, labels[1], level=0.9)
    assert figures["conformal_coverage"] == 100 * sets.coverage(test, labels[0])
    assert figures["conformal_size"] == pytest.approx(float(sets.sets(test).sum() / 200))
    assert not any(name.startswith("conformal") for name in Predictions(test).figures(Inputs((x, labels[0]))))


def test_conformal_intervals_of_a_regression(tmp_path, monkeypatch):
    """A recipe with validation data measures them; Snelson's has none."""
    recipe = RECIPES["snelson"]

    def load(where, device, seed):
        data = recipe.load(where, device, seed)
        return dataclasses.replace(data, validation=data.test)

    monkeypatch.setitem(RECIPES, "with-validation", dataclasses.replace(recipe, name="with-validation", load=load))
    for name in ("with-validation", "snelson"):
        config = make_config(name, data=None, epochs=2, out=str(tmp_path / name))
        run_recipe(config, progress=SilentProgress())
        found = evaluate_run(tmp_path / name, samples=3)
        assert found.mean is not None
        for figures in (found.mode, found.mean):
            if name == "snelson":
                assert not any("conformal" in key for key in figures)
            else:  # calibrated on the test data themselves: ⌈51 · 0.9⌉ = 46 of 50
                assert figures["conformal_coverage"] == pytest.approx(92) and figures["conformal_width"] > 0


def test_other_data_must_fit(small, tmp_path):
    config = make_config("mnist-trust", "ste", data=small["data"], epochs=1, out=str(tmp_path / "run"))
    run_recipe(config, progress=SilentProgress())
    wrong = str(write(tmp_path / "colour", "cifar10", train=10, test=4))
    with pytest.raises(ValueError, match=r"of cifar10 do not suit the run: expected the shape \(784,\) .*, got \(3,"):
        evaluate_run(tmp_path / "run", unlike="cifar10", unlike_data=wrong)
    found = evaluate_run(tmp_path / "run", unlike="fashion-mnist", unlike_data=small["unlike_data"])
    assert found.unlike == "fashion-mnist" and "auroc_unlike" in found.mode


def test_scales_count_among_the_bytes_of_networks(tmp_path: Path) -> None:
    config = make_config("digits", "ste", epochs=1, first_scale="normal", out=str(tmp_path / "run"))
    run_recipe(config, progress=SilentProgress())
    found = load_run(tmp_path / "run")
    assert network_bytes(found, 1) == found.experiment.bytes()[1] > 4 * 64 * 128
    assert network_bytes(found, 3) - network_bytes(found, 1) == 2 * (found.experiment.binary_weights() // 8)


def test_the_rows_of_the_published_table_are_those_of_the_command() -> None:
    kept = json.loads((Path(__file__).parent.parent / "docs/results/trust.json").read_text())
    assert {str(rule) for rule in rules_of("trust", RECIPES["mnist-trust"])} == {row["rule"] for row in kept["rows"]}
    assert len(rules_of("trust", RECIPES["digits"])) == len(RECIPES["digits"].rules)
