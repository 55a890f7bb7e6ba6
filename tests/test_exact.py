"""The study of posteriors beside the exact one: what is compared, what is written, and what is not sampled twice."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch

import bitbayes as bb
import needs
from bitbayes.gibbs import Gibbs
from bitbayes.lab import cli
from bitbayes.lab.report.results import truth_table
from bitbayes.lab.studies.toys import EXACT_MOONS, RING
from bitbayes.lab.studies.truth import RADII, Sampling, compared, log_probabilities, truth_study
from bitbayes.lab.train import RunConfig

DOCS = Path(__file__).parents[1] / "docs"
needs_compiler = needs.kernels("gibbs")  # torch would take minutes for the weights of two moons


def test_log_probabilities_are_those_of_the_mean_and_stay_finite() -> None:
    generator = torch.Generator().manual_seed(0)
    for width in (1, 3):
        outputs = torch.randn(250, 4, width, generator=generator)
        found, wanted = log_probabilities(outputs).exp(), bb.Prediction(outputs.double()).probs
        torch.testing.assert_close(found[:, -width:], wanted)
        torch.testing.assert_close(found.sum(1), torch.ones(4, dtype=torch.float64))
    sure = log_probabilities(torch.tensor([[[300.0]]]))
    assert sure[0].tolist() == pytest.approx([-300, 0])


def test_the_constants_of_two_moons_are_those_of_the_stored_file() -> None:
    stored = json.loads((DOCS / "results" / "exact.json").read_text(encoding="utf-8"))["truth"]
    (exact,) = (figures["rows"][0] for figures in stored if figures["problem"] == "moons")
    regions = {name: region["entropy"]["mean"] for name, region in exact["regions"].items()}
    figures = exact["accuracy"]["mean"], exact["nll"]["mean"], regions["data"], regions[f"ring {RING:g}"]
    assert tuple(round(figure, 3) for figure in figures) == dataclasses.astuple(EXACT_MOONS)


def test_comparisons_by_hand() -> None:
    exact = torch.tensor([[0.5, 0.5], [0.2, 0.8]], dtype=torch.float64).log()
    ours = torch.tensor([[0.9, 0.1], [0.4, 0.6]], dtype=torch.float64).log()
    found = compared(ours, exact)
    first = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    second = 0.2 * math.log(0.2 / 0.4) + 0.8 * math.log(0.8 / 0.6)
    assert found["kl"] == pytest.approx((first + second) / 2)
    assert found["total_variation"] == pytest.approx((0.4 + 0.2) / 2)
    assert found["agreement"] == 1  # of equal probabilities, the first class counts
    assert compared(exact, exact) == pytest.approx(
        {"kl": 0, "total_variation": 0, "agreement": 1, "entropy": (math.log(2) + 0.5004024) / 2}
    )
    assert compared(ours.flip(1), exact)["agreement"] == 0


@needs_compiler
def test_the_study_compares_and_samples_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    how = {"problems": ("moons",), "rules": ("ste", "bayesbinn:straight-through"), "epochs": 2, "note": said.append}
    sampling = Sampling(chains=4, sweeps=10, thin=2)
    (figures,) = truth_study(str(tmp_path), sampling=sampling, **how)
    assert any("4 chains of 10 sweeps (kernel)" in line for line in said)
    exact, half, gibbs, ste, bayes = figures.rows
    assert (gibbs.title, gibbs.networks) == ("Gibbs, 4 chains of 10 sweeps", 16)
    assert (exact.title, half.networks, exact.networks, ste.networks) == ("exact posterior", 8, 16, 1)
    assert (ste.title, bayes.title, bayes.networks) == ("STE, Adam", "BayesBiNN, ess = 10·N", 200)
    assert list(exact.regions) == ["data", *(f"ring {radius:g}" for radius in RADII)]
    assert all(region.kl.mean == pytest.approx(0, abs=1e-12) for region in exact.regions.values())
    assert all(region.kl.mean > 1e-4 for row in (half, gibbs, ste, bayes) for region in row.regions.values())
    assert (figures.weights, figures.points, figures.burn_in) == (4417, 200, 2)
    # The exact row is what the saved networks predict, and its loss is theirs.
    posterior = bb.load_posterior(tmp_path / "moons" / "exact" / "posterior.safetensors")
    assert isinstance(posterior, bb.SamplePosterior) and len(posterior) == 16
    written = json.loads((tmp_path / "truth.json").read_text())["truth"]
    assert written == json.loads(json.dumps([figures.to_dict()]))
    spec = RunConfig.load(tmp_path / "moons" / "bayesbinn-straight-through-10N-seed0").spec
    assert (spec.lr, spec.options["ess_scale"]) == (1e-2, 10.0)

    monkeypatch.setattr(Gibbs, "run", None)  # neither training nor sampling happens again
    (again,) = truth_study(str(tmp_path), sampling=sampling, **how)
    assert again == figures and "moons: the sampled networks are already in" in said[-1]
    with pytest.raises(TypeError):
        truth_study(str(tmp_path), sampling=Sampling(chains=4, sweeps=10, thin=1), **how)
    table = truth_table(figures)
    assert [row[0] for row in table.rows] == [row.title for row in figures.rows]
    assert table.heads[6:8] == ["KL(exact ‖ ours)", "KL, ring 4"] and "2 sweeps" not in table.title
    assert "4 chains of 8 sweeps after 2" in table.caption


@needs_compiler
def test_seeds_with_networks_of_their_own_have_their_own_truth(tmp_path: Path) -> None:
    how = {"rules": ("bayesbinn:default",), "epochs": 2, "seeds": 2, "note": lambda line: None}
    (figures,) = truth_study(str(tmp_path), problems=("moons-sizes",), sampling=Sampling(2, 20, 4), **how)
    folders = [tmp_path / "moons-sizes" / f"exact-seed{seed}" / "posterior.safetensors" for seed in (0, 1)]
    one, two = (bb.load_posterior(folder).scale["1.weight"] for folder in folders)
    assert one.shape == (64, 2) and not torch.equal(one, two)
    rule = bb.load_posterior(tmp_path / "moons-sizes" / "bayesbinn-default-seed1" / "posterior.safetensors")
    assert torch.equal(rule.scale["1.weight"], two) and (rule.scale["3.weight"] == 1).all()
    exact = figures.rows[0]
    assert all(value == pytest.approx(0, abs=1e-12) for value in exact.regions["ring 4"].kl.values)
    assert len(exact.nll.values) == 2 and exact.nll.values[0] != exact.nll.values[1]
    rings = [[exact.regions[f"ring {radius:g}"].entropy.values[seed] for radius in RADII] for seed in (0, 1)]
    assert exact.rising == sum(each == sorted(set(each)) for each in rings)
    assert truth_table(figures).rows[0][-1] == f"{exact.rising} of 2"


@needs_compiler
def test_reproduce_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["reproduce", "truth", "--dataset", "moons", "--rules", "ste", "--epochs", "1"]
    assert cli.main([*words, "--chains", "1", "--sweeps", "20"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "too short to tell: give more --sweeps" in shown
    assert "moons: posteriors beside the exact one" in shown and "written: runs/truth/truth.json" in shown
    (found,) = json.loads((tmp_path / "runs/truth/truth.json").read_text())["truth"]
    assert [row["title"] for row in found["rows"]] == ["exact posterior", "Gibbs, 1 chain of 20 sweeps", "STE, Adam"]
    assert (found["chains"], found["sweeps"]) == (1, 20)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"problems": ("mons",)}, "no problem of truth is called 'mons'; did you mean 'moons'"),
        ({"rules": ("bop",)}, "no rule of truth is called 'bop'"),
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"chains": 0}, "chains must be at least 1, got 0"),
        ({"sweeps": 10}, "10 sweeps leave 8 after burn-in, expected at least 10"),
    ],
)
def test_wrong_choices_are_refused_before_anything_is_trained(options: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        options = dict(options)
        sampling = Sampling(**{name: options.pop(name) for name in ("chains", "sweeps") if name in options})
        truth_study(str(tmp_path), sampling=sampling, **options)
    assert not list(tmp_path.iterdir())
