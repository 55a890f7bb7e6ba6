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
from bitbayes.lab.recipes import find_recipe
from bitbayes.lab.report.figures import bands_figure
from bitbayes.lab.report.results import truth_table
from bitbayes.lab.studies.evaluate import evaluation_inputs
from bitbayes.lab.studies.exact import Sampling
from bitbayes.lab.studies.load import load_run
from bitbayes.lab.studies.predictive import BIN, BINS, band, compared, figures_of, log_probabilities
from bitbayes.lab.studies.problems import PROBLEMS, RADII
from bitbayes.lab.studies.toys import EXACT_MOONS, RING
from bitbayes.lab.studies.truth import truth_study
from bitbayes.lab.studies.ways import MOONS_BEST
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


def normal(z: torch.Tensor) -> torch.Tensor:
    """Distribution function of a standard normal number."""
    return torch.special.ndtr(z)


def test_predictive_densities_against_normal_distributions() -> None:
    """One network is a normal distribution, and the mean of two is their mixture, at every input."""
    noise, means = 0.35, torch.tensor([-4.0, 0.013, 0.4, 3.0], dtype=torch.float64)
    one = log_probabilities(means.view(1, 4, 1), noise)
    torch.testing.assert_close(one.exp().sum(1), torch.ones(4, dtype=torch.float64))
    low, high = band(one)
    torch.testing.assert_close(low, means - 1.95996 * noise, rtol=0, atol=2e-3)
    torch.testing.assert_close(high, means + 1.95996 * noise, rtol=0, atol=2e-3)
    exact = log_probabilities(means.flip(0).view(1, 4, 1), noise)
    found = compared(one, exact, real=True)
    apart = (means - means.flip(0)).abs() / noise
    assert found["kl"] == pytest.approx(float((apart.square() / 2).mean()), rel=1e-6)
    assert found["total_variation"] == pytest.approx(float((2 * normal(apart / 2) - 1).mean()), abs=1e-3)
    assert found["entropy"] == pytest.approx(0.5 * math.log(2 * math.pi * math.e * noise**2), abs=1e-6)
    assert found["width"] == pytest.approx(2 * 1.95996 * noise, abs=4e-3)
    held = normal(apart + 1.95996) - normal(apart - 1.95996)
    assert found["coverage"] == pytest.approx(100 * float(held.mean()), abs=0.1)
    assert "agreement" not in found

    both = log_probabilities(torch.tensor([-1.0, 3.0]).view(2, 1, 1), noise)
    low, high = band(both)
    assert float(low) == pytest.approx(-1 - 1.64485 * noise, abs=2e-3)  # beyond it, 5% of the left one
    assert float(high) == pytest.approx(3 + 1.64485 * noise, abs=2e-3)
    y = torch.tensor([[-1.1]])
    found = figures_of(both, y, real=True)
    density = torch.distributions.Normal(torch.tensor([-1.0, 3.0]), noise).log_prob(y).exp().mean()
    assert found["nll"] == pytest.approx(-float(density.log()), abs=BIN)
    assert (found["error"], found["inside"]) == (pytest.approx(2.1**2, rel=1e-5), 100)
    assert figures_of(both, torch.tensor([9.0]), real=True)["inside"] == 0
    assert float(BINS.diff().max()) < noise / 8  # so that sums over bins are integrals


@needs_compiler
def test_a_short_run_of_the_sampler_is_near_the_exact_posterior(tmp_path: Path) -> None:
    """On moons and on Snelson's data, where a rule after two steps is not: the comparison tells them apart."""
    how = {"rules": ("bayesbinn:default",), "epochs": 4, "sampling": Sampling(4, 100, 5), "note": lambda line: None}
    for problem, near in (("moons", 0.01), ("snelson", 0.03)):
        (figures,) = truth_study(str(tmp_path), problems=(problem,), **how)
        exact, _, gibbs, *rules = figures.rows
        data, far = gibbs.regions["data"], list(gibbs.regions.values())[-1]
        assert data.kl.mean < near and far.kl.mean < 2 * near
        assert data.total_variation.mean < 0.06
        assert all(rule.regions["data"].kl.mean > 10 * near for rule in rules)
        assert gibbs.nll.mean == pytest.approx(exact.nll.mean, abs=0.03)
        if problem == "moons":  # as the stored run says, which a temperature of 0.7 or 1.4 misses
            assert exact.accuracy is not None and exact.accuracy.mean == pytest.approx(EXACT_MOONS.accuracy, abs=0.003)
            assert exact.nll.mean == pytest.approx(EXACT_MOONS.nll, abs=0.004)
            found = [exact.regions[place].entropy.mean for place in ("data", f"ring {RING:g}")]
            assert found[0] == pytest.approx(EXACT_MOONS.entropy_on_data, rel=0.12)
            assert found[1] == pytest.approx(EXACT_MOONS.entropy_on_ring, rel=0.2)
    # Snelson's noise is that of the problem, so that a good fit covers as it should.
    assert exact.inside is not None and 85 <= exact.inside.mean <= 100
    assert exact.error is not None and exact.error.mean < 0.15


def test_the_stored_short_runs_are_as_near_to_the_exact_posterior_as_the_page_says() -> None:
    stored = json.loads((DOCS / "results" / "truth-ten.json").read_text(encoding="utf-8"))["truth"]
    (moons,) = (figures["rows"] for figures in stored if figures["problem"] == "moons")
    (gibbs,) = (row for row in moons if row["title"].startswith("Gibbs"))
    assert len(gibbs["nll"]["values"]) == 10
    assert min(gibbs["accuracy"]["values"]) >= 0.99 and max(gibbs["nll"]["values"]) <= 0.04
    for place, exact, divergence in (
        ("data", EXACT_MOONS.entropy_on_data, 0.01),
        ("ring 4", EXACT_MOONS.entropy_on_ring, 0.02),
    ):
        region = gibbs["regions"][place]
        assert all(exact / 2 <= entropy <= 2 * exact for entropy in region["entropy"]["values"])
        assert max(region["kl"]["values"]) <= divergence


@needs_compiler
def test_members_share_the_epochs_of_a_run_and_predict_together(tmp_path: Path) -> None:
    how = {"problems": ("moons",), "rules": ("bayesbinn:straight-through",), "epochs": 8, "note": lambda line: None}
    (figures,) = truth_study(str(tmp_path), sampling=Sampling(1, 20, 4), first_seed=5, seeds=2, **how)
    *_, single, members = figures.rows
    assert (single.title, members.title) == ("BayesBiNN, ess = 10·N", MOONS_BEST)
    assert single.networks == members.networks == 200
    folder = tmp_path / "moons" / "bayesbinn-straight-through-lr0.01-10N-members4-seed6"
    runs = [load_run(folder / f"member{number}") for number in (1, 2, 3, 4)]
    assert [run.config.epochs for run in runs] == [2] * 4 and len({run.config.seed for run in runs}) == 4
    x, y = evaluation_inputs(runs[0]).test
    outputs = torch.cat([run.predict(x, 50).outputs for run in runs])
    assert members.nll.values[1] == pytest.approx(figures_of(log_probabilities(outputs), y, real=False)["nll"])
    # The seeds of the runs are also those of the short runs of the sampler.
    settings = [json.loads((tmp_path / "moons" / f"gibbs-seed{seed}" / "exact.json").read_text()) for seed in (5, 6)]
    assert [each["settings"]["seed"] for each in settings] == [6, 7]


@needs_compiler
def test_snelsons_data_have_bands_and_every_split_its_own_truth(tmp_path: Path) -> None:
    how = {"problems": ("snelson",), "rules": ("ste", "bayesbinn:straight-through"), "epochs": 2, "seeds": 2}
    (figures,) = truth_study(str(tmp_path), sampling=Sampling(2, 20, 4), note=lambda line: None, **how)
    assert [row.title for row in figures.rows[3:]] == ["STE, Adam", "BayesBiNN, searched"]
    exact = figures.rows[0]
    assert list(exact.regions) == ["data", "outside"] and exact.accuracy is None
    for region in exact.regions.values():
        assert region.agreement is None and region.kl.values == pytest.approx([0, 0], abs=1e-12)
        assert region.coverage is not None and region.coverage.mean == pytest.approx(95, abs=0.1)
    assert exact.nll.values[0] != exact.nll.values[1]
    one, two = (RunConfig.load(tmp_path / "snelson" / f"ste-seed{seed}") for seed in (0, 1))
    assert (one.data_seed, two.data_seed, one.seed, two.seed) == (0, 1, 0, 1)
    files = (tmp_path / "snelson" / f"exact-seed{seed}" / "exact.json" for seed in (0, 1))
    first, second = (json.loads(file.read_text())["settings"] for file in files)
    assert first["data"] != second["data"] and first["noise"] == 0.35
    # The curve is that of seed 0, and STE's band has the width of the noise.
    axis, (*_, ste, _) = figures.axis, figures.rows
    assert axis is not None and ste.curve is not None and (len(axis.train), len(axis.test)) == (150, 50)
    widths = [high - low for low, high in zip(ste.curve.low, ste.curve.high, strict=True)]
    assert min(widths) == pytest.approx(2 * 1.95996 * 0.35, abs=4e-3) and max(widths) - min(widths) < 4e-3
    assert all(low < mean < high for mean, low, high in zip(*vars(ste.curve).values(), strict=True))
    assert bands_figure(figures, tmp_path / "bands.png").stat().st_size > 30_000
    heads = truth_table(figures).heads
    assert heads[2:6] == ["squared error", "NLL", "in the band, %", "total variation"]
    assert heads[-6:] == [
        "entropy",
        "entropy, outside",
        "width",
        "width, outside",
        "coverage, %",
        "coverage, %, outside",
    ]


@needs_compiler
def test_learned_sizes_have_a_truth_for_each_rule(tmp_path: Path) -> None:
    """The exact posterior of the signs belongs to the sizes that a run has learned."""
    how = {"problems": ("moons-learned",), "rules": ("ste", "bayesbinn:default"), "epochs": 3}
    found = truth_study(str(tmp_path), sampling=Sampling(2, 20, 4), note=lambda line: None, **how)
    assert [each.problem for each in found] == ["moons-learned, STE, Adam", "moons-learned, BayesBiNN, recommended"]
    assert [[row.title for row in each.rows[3:]] for each in found] == [["STE, Adam"], ["BayesBiNN, recommended"]]
    sizes = []
    for rule in ("ste", "bayesbinn-default"):
        sampled = bb.load_posterior(tmp_path / "moons-learned" / f"exact-{rule}-seed0" / "posterior.safetensors")
        sizes.append(sampled.scale["1.weight"])
        assert (sampled.scale["3.weight"] == 1).all()
    run = bb.load_posterior(tmp_path / "moons-learned" / "bayesbinn-default-seed0" / "posterior.safetensors")
    torch.testing.assert_close(sizes[1], run.scale["1.weight"])
    assert not torch.equal(*sizes)


@needs_compiler
@pytest.mark.parametrize(("problem", "places"), [("digits", ["rotated", "noise"]), ("breast-cancer", ["noise"])])
def test_classes_are_compared_off_the_data(problem: str, places: list[str], tmp_path: Path) -> None:
    how = {"problems": (problem,), "rules": ("bayesbinn:default",), "epochs": 2, "note": lambda line: None}
    (figures,) = truth_study(str(tmp_path), sampling=Sampling(1, 10, 1), **how)
    assert list(figures.rows[0].regions) == ["data", *places] and figures.rows[0].rising is None
    assert figures.axis is None and figures.rows[0].curve is None
    with pytest.raises(ValueError, match="has no bands to draw"):
        bands_figure(figures, tmp_path / "bands.png")
    settings = json.loads((tmp_path / problem / "exact-seed0" / "exact.json").read_text())["settings"]
    assert settings["start_temperature"] == 20
    model = find_recipe(PROBLEMS[problem].recipe).network()
    assert figures.weights == sum(parameter.numel() for parameter in model.parameters())


@needs_compiler
def test_the_study_compares_and_samples_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    how = {"problems": ("moons",), "rules": ("ste", "bayesbinn:straight-through"), "epochs": 4, "note": said.append}
    sampling = Sampling(chains=4, sweeps=10, thin=2)
    (figures,) = truth_study(str(tmp_path), sampling=sampling, **how)
    assert any("4 chains of 10 sweeps (kernel)" in line for line in said)
    exact, half, gibbs, ste, bayes, _ = figures.rows
    assert (gibbs.title, gibbs.networks) == ("Gibbs, 4 chains of 5 sweeps", 8)
    assert (exact.title, half.networks, exact.networks, ste.networks) == ("exact posterior", 8, 16, 1)
    assert (ste.title, bayes.title, bayes.networks) == ("STE, Adam", "BayesBiNN, ess = 10·N", 200)
    assert list(exact.regions) == ["data", *(f"ring {radius:g}" for radius in RADII)]
    assert all(region.kl.mean == pytest.approx(0, abs=1e-12) for region in exact.regions.values())
    assert all(region.kl.mean > 1e-4 for row in (half, gibbs, ste, bayes) for region in row.regions.values())
    assert (figures.weights, figures.points, figures.burn_in) == (4417, 200, 2)
    # The exact row is what the saved networks predict, and its loss is theirs.
    posterior = bb.load_posterior(tmp_path / "moons" / "exact-seed0" / "posterior.safetensors")
    assert isinstance(posterior, bb.SamplePosterior) and len(posterior) == 16
    written = json.loads((tmp_path / "truth.json").read_text())["truth"]
    assert written == json.loads(json.dumps([figures.to_dict()]))
    spec = RunConfig.load(tmp_path / "moons" / "bayesbinn-straight-through-lr0.01-10N-seed0").spec
    assert (spec.lr, spec.options["ess_scale"]) == (1e-2, 10.0)

    monkeypatch.setattr(Gibbs, "run", None)  # neither training nor sampling happens again
    (again,) = truth_study(str(tmp_path), sampling=sampling, **how)
    assert again == figures and "moons: the sampled networks are already in" in said[-1]
    with pytest.raises(TypeError):
        truth_study(str(tmp_path), sampling=Sampling(chains=4, sweeps=10, thin=1), **how)
    table = truth_table(figures)
    assert [row[0] for row in table.rows] == [row.title for row in figures.rows]
    assert table.heads[6:10] == ["KL(exact ‖ ours)", "KL(exact ‖ ours), ring 4", "entropy", "entropy, ring 2"]
    assert table.heads[10:] == ["entropy, ring 3", "entropy, ring 4", "entropy, ring 6", "entropy rises outwards"]
    assert table.rows[3][7] == f"{ste.regions['ring 4'].kl.mean:.3f}" and "2 sweeps" not in table.title
    assert "4 chains of 8 sweeps after 2" in table.caption


@needs_compiler
def test_problems_without_runs_of_the_rules_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("digits", "moons")
    monkeypatch.setattr("bitbayes.lab.studies.truth.PROBLEMS", {name: PROBLEMS[name] for name in names})
    notes: list[str] = []
    how = {"rules": ("bayesbinn:released",), "epochs": 1, "note": notes.append}
    (figures,) = truth_study(str(tmp_path), sampling=Sampling(1, 20, 4), **how)
    assert figures.problem == "moons" and not (tmp_path / "digits").exists()
    assert notes[0] == "digits is left out, because none of its runs has the rule bayesbinn:released"


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
    assert "has 1 chain of 16 sweeps after 4" in shown and "One chain cannot tell whether chains agree" in shown
    assert "moons: posteriors beside the exact one" in shown and "written: runs/truth/truth.json" in shown
    (found,) = json.loads((tmp_path / "runs/truth/truth.json").read_text())["truth"]
    assert [row["title"] for row in found["rows"]] == ["exact posterior", "Gibbs, 1 chain of 10 sweeps", "STE, Adam"]
    assert (found["chains"], found["sweeps"]) == (1, 20)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"problems": ("mons",)}, "no problem of truth is called 'mons'; did you mean 'moons'"),
        ({"rules": ("bop",)}, "no rule of truth is called 'bop'"),
        (
            {"problems": ("digits",), "rules": ("bayesbinn:released",)},
            "no rule of truth is called 'bayesbinn:released'",
        ),
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"problems": ("moons",), "data": "x"}, "data x has no effect: only snelson, snelson-learned read a folder"),
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
