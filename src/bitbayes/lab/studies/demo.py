"""`bitbayes demo`: three rules on real scans, and the two synthetic figures, in a minute or two."""

from __future__ import annotations

import sys
from pathlib import Path

from bitbayes.lab.recipes import find_recipe
from bitbayes.lab.recipes.configure import load_data, make_config, run_recipe
from bitbayes.lab.report.figures import moons_figure, snelson_figure
from bitbayes.lab.report.tables import show
from bitbayes.lab.report.toys import digits_table, moons_table, snelson_table
from bitbayes.lab.studies.tables import TableRow
from bitbayes.lab.studies.toys import moons_study, snelson_study
from bitbayes.lab.train import BarProgress, Progress, SilentProgress

__all__ = ["demo"]

_RULES = ("bayesbinn", "ste", "full-precision")
_EPOCHS = 60


def demo(out: str, seeds: int) -> None:
    """Trains, prints the table, and draws.

    Args:
        out: Folder of the pictures and of the runs.
        seeds: Runs of every rule.

    Raises:
        ValueError: If `seeds` is less than 1.
    """
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {seeds}")
    _digits(out, seeds)
    show("two moons: STE and BayesBiNN ...")
    moons = moons_study(f"{out}/moons", note=_quiet, progress=_progress())
    pictures = [moons_figure(moons, Path(out, "moons.png"))]
    show(moons_table(moons.figures), "regression with a gap: STE and BayesBiNN ...")
    snelson = snelson_study(f"{out}/snelson", splits=1, note=_quiet, progress=_progress())
    pictures.append(snelson_figure(snelson, Path(out, "snelson.png")))
    show(snelson_table(snelson.figures))
    show("pictures: " + ", ".join(str(picture) for picture in pictures))


def _digits(out: str, seeds: int) -> None:
    recipe = find_recipe("digits")
    data = load_data(make_config(recipe))
    show(f"8x8 digits: three rules, {seeds} seeds each, {_EPOCHS} epochs ...")
    rows = []
    for rule in _RULES:
        summaries = []
        for seed in range(seeds):
            folder = f"{out}/digits/{rule}-seed{seed}"
            config = make_config(recipe, rule, seed=seed, epochs=_EPOCHS, out=folder)
            result = run_recipe(config, resume=True, data=data, progress=_progress())
            assert result.summary is not None
            summaries.append(result.summary)
        rows.append(TableRow(rule, summaries))
    show(digits_table(rows, len(data.train)))


def _quiet(text: str) -> None:
    """The demo says what it does by itself."""


def _progress() -> Progress:
    return BarProgress() if sys.stdout.isatty() else SilentProgress()
