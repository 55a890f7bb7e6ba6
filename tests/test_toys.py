"""The toy problems as the results page has them; the runs are slow. Other seeds and processors give other figures."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

import bitbayes as bb
import needs
from bitbayes.lab.studies.load import load_run
from bitbayes.lab.studies.several import run_several
from bitbayes.lab.studies.toys import DRAWN, EXACT_MOONS, MoonsRow, moons_row, moons_study, snelson_study
from bitbayes.lab.studies.ways import MOONS_BEST, TEN

DATA = Path(__file__).parents[2] / "shared" / "data" / "snelson"
SEEDS = 3


def quiet(line: str) -> None:
    """No note of each run."""


def means(rows: list[MoonsRow]) -> tuple[float, float]:
    """Mean entropies over seeds, on the data and on the ring, in units of the exact posterior's."""
    on_data, on_ring = ([getattr(row, name) for row in rows] for name in ("entropy_on_data", "entropy_on_ring"))
    exact = EXACT_MOONS
    return statistics.mean(on_data) / exact.entropy_on_data, statistics.mean(on_ring) / exact.entropy_on_ring


def test_two_moons_are_measured_at_every_seed(tmp_path: Path) -> None:
    kernels = not bb.kernels.status("gibbs").startswith("not in use")
    study = moons_study(str(tmp_path), epochs=50, first_seed=7, seeds=2, note=quiet)
    rows = study.figures.runs
    assert [(row.title, row.seed) for row in rows] == [(title, seed) for title in DRAWN for seed in (7, 8)]
    released = study.runs["BayesBiNN, published"][0][0].config
    assert (released.spec.options["tau"], released.spec.options["ess_scale"], released.spec.samples) == (1.0, 1.0, 5)
    assert [row.networks for row in rows[::2]] == [1, 100, 100, 100]
    members = study.runs[MOONS_BEST][1]
    assert [run.config.epochs for run in members] == [12] * 4 and len({run.config.seed for run in members}) == 4
    assert (tmp_path / "moons.json").is_file()
    exact = list(study.exact.values())
    assert [len(each.chains.posterior) for each in exact] == ([400, 400] if kernels else [])
    assert all(0.02 < float(each.chains.kept_losses.mean()) / 200 < 0.04 for each in exact)  # 5.6 nats in all


def test_two_moons_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bb.kernels, "status", lambda name: f"not in use: no {name}")
    said: list[str] = []
    assert moons_study(str(tmp_path), epochs=4, note=said.append).exact == {}
    assert said[-1] == "the exact posterior is left out, because there is no C compiler"


@pytest.mark.slow
def test_two_moons(tmp_path: Path) -> None:
    """Entropies against those of the exact posterior. A colder posterior than the recommended one fails."""
    study = moons_study(str(tmp_path / "study"), seeds=SEEDS, note=quiet)
    rows = study.figures.runs
    assert study.figures.points == 1000
    # Independent Bernoullis cannot be the exact posterior, which knows that weights belong together. The published
    # setting is the warm side: its fit is worse, so that it doubts the data more than it should.
    on_data, on_ring = means([row for row in rows if row.title == "BayesBiNN, published"])
    assert 1 < on_data < 4
    assert 0.5 < on_ring < 2
    # The recommended setting is the cold side, by `ess` = 300·N: between a quarter of the exact doubt and all of it.
    recommended = [row for row in rows if row.title == "BayesBiNN, recommended"]
    on_data, on_ring = means(recommended)
    assert 0.25 < on_data < 1
    assert 0.1 < on_ring < 1
    assert min(row.mode_accuracy for row in recommended) > 0.97
    # One network doubts as much as its margin says, which is next to nothing.
    ste = [row for row in rows if row.title == "STE, Adam"]
    on_data, on_ring = means(ste)
    assert on_data < 0.25 and on_ring < 0.25


@pytest.mark.slow
def test_two_moons_near_the_exact_posterior(tmp_path: Path) -> None:
    """At `ess` = 10·N the entropies of independent Bernoullis come within a factor of two of the exact ones."""
    configs = [TEN.configs("moons", seed, str(tmp_path)) for seed in range(SEEDS)]
    run_several([config for (config,) in configs], note=quiet)
    rows = [moons_row("", seed, [load_run(config.out)]) for seed, (config,) in enumerate(configs)]
    on_data, on_ring = means(rows)
    assert 0.5 < on_data < 2
    assert 0.5 < on_ring < 2
    assert statistics.mean(row.nll for row in rows) < 4 * EXACT_MOONS.nll


@pytest.mark.slow
@needs.DATA.unless(DATA.is_dir())
def test_snelson(tmp_path: Path) -> None:
    """With settings chosen on validation points, STE and the mean of BayesBiNN are both useful; BayesBiNN has bands."""
    figures = snelson_study(str(tmp_path), data=str(DATA)).figures
    mean = figures.mean_of_splits
    assert len(figures.splits) == 5
    assert mean.ste_error < 0.2
    assert mean.mean_error < 0.2
    assert max(split.ste_error for split in figures.splits) < 0.3  # at a constant rate of 0.1 it was 0.398
    assert 90 <= mean.inside_two_std <= 99
