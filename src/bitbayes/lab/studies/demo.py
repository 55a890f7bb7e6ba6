"""Runs of `bitbayes demo`: three rules on the 8×8 digits."""

from __future__ import annotations

from collections.abc import Callable

from bitbayes.lab.recipes import make_config
from bitbayes.lab.studies.several import run_several
from bitbayes.lab.studies.tables import TableRow
from bitbayes.lab.train import Progress

DEMO_EPOCHS = 60


def digits_study(
    out: str, seeds: int, *, jobs: int = 1, progress: Progress | None = None, note: Callable[[str], None] = print
) -> list[TableRow]:
    """Train three rules on the digits with several seeds, in subfolders of `out`, and return a row per rule.

    Args:
        out: Folder of the runs.
        seeds: Number of runs per rule.
        jobs: Number of runs at a time.
        progress: Display of each run, with one job.
        note: Function that gets a line about each run; see `run_several`.
    """
    rules = ("bayesbinn", "ste", "full-precision")
    configs = [
        make_config("digits", rule, seed=seed, epochs=DEMO_EPOCHS, out=f"{out}/{rule}-seed{seed}")
        for rule in rules
        for seed in range(seeds)
    ]
    summaries = run_several(configs, jobs=jobs, progress=progress, note=note)
    return [TableRow(rule, summaries[i * seeds : (i + 1) * seeds]) for i, rule in enumerate(rules)]
