"""The runs of `bitbayes demo`: three rules on the 8×8 digits."""

from __future__ import annotations

from bitbayes.lab.recipes import make_config
from bitbayes.lab.studies.several import run_several
from bitbayes.lab.studies.tables import TableRow
from bitbayes.lab.train import Progress

DEMO_EPOCHS = 60


def digits_study(out: str, seeds: int, *, progress: Progress | None = None) -> list[TableRow]:
    """Train three rules on the digits with several seeds, in folders of `out`; each row is a rule."""
    rows = []
    for rule in ("bayesbinn", "ste", "full-precision"):
        configs = [
            make_config("digits", rule, seed=seed, epochs=DEMO_EPOCHS, out=f"{out}/{rule}-seed{seed}")
            for seed in range(seeds)
        ]
        rows.append(TableRow(rule, run_several(configs, progress=progress, note=lambda line: None)))
    return rows
