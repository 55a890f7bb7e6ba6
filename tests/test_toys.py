"""The toy problems as the results page has them; slow. Other seeds, and other processors, give other figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitbayes.lab.studies.toys import moons_study, snelson_study

DATA = Path(__file__).parents[2] / "shared" / "data" / "snelson"
pytestmark = pytest.mark.slow


def test_two_moons(tmp_path: Path) -> None:
    figures = moons_study(str(tmp_path)).figures
    assert figures.points == 1000
    assert min(figures.mode_accuracy, figures.mean_accuracy) >= 0.98
    assert figures.entropy_ratio >= 2


@pytest.mark.skipif(not DATA.is_dir(), reason="Snelson's data beside the project are missing")
def test_snelson(tmp_path: Path) -> None:
    figures = snelson_study(str(tmp_path), data=str(DATA)).figures
    mean = figures.mean_of_splits
    assert len(figures.splits) == 5
    assert mean.mean_error <= mean.ste_error
    assert 90 <= mean.inside_two_std <= 99
