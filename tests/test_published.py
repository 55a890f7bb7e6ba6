"""Our curve beside the published one; slow, for it trains the full MNIST network (`make slow`)."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

import needs
from bitbayes.lab.recipes import find_recipe
from bitbayes.lab.recipes.configure import make_config, run_recipe

SHARED = Path(__file__).parents[2] / "shared"
CURVES = SHARED / "published" / "bayesbinn_curves.json"
pytestmark = [
    pytest.mark.slow,
    needs.DATA.unless(CURVES.is_file()),
]


def curve(folder: Path, seed: int, epochs: int) -> list[float]:
    """Test accuracy after each of the first epochs of the paper's 500-epoch schedule."""
    config = make_config(
        find_recipe("mnist"),
        "bayesbinn:released",
        seed=seed,
        stop_after=epochs,
        data=str(SHARED / "data" / "mnist"),
        out=str(folder / str(seed)),
    )
    return [row["test_accuracy"] for row in run_recipe(config).history]


def published(epoch: int) -> float:
    runs = json.loads(CURVES.read_text())["curves"]["mnist"]
    return statistics.mean(run["test"][epoch - 1] for run in runs)


def test_the_first_two_epochs(tmp_path: Path) -> None:
    first, second = curve(tmp_path, 1, 2)
    assert abs(first - published(1)) < 0.4
    assert abs(second - published(2)) < 0.4


def test_ten_epochs_over_five_seeds(tmp_path: Path) -> None:
    finals = [curve(tmp_path, seed, 10)[-1] for seed in range(1, 6)]
    assert abs(statistics.mean(finals) - published(10)) < 0.15
