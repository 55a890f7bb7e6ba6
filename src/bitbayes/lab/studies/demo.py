"""The runs of `bitbayes demo`: three rules on the 8×8 digits."""

from __future__ import annotations

from collections.abc import Callable

from bitbayes.lab.recipes import make_config
from bitbayes.lab.studies.several import already_there, finished, run_several
from bitbayes.lab.studies.tables import TableRow
from bitbayes.lab.train import Progress

DEMO_EPOCHS = 60


def digits_study(
    out: str, seeds: int, *, progress: Progress | None = None, note: Callable[[str], None] = print
) -> list[TableRow]:
    """Train three rules on the digits with several seeds, in folders of `out`; each row is a rule.

    Args:
        out: Folder of the runs.
        seeds: Runs of every rule.
        progress: Display of each run.
        note: Told of runs that are finished already, which are read.
    """
    rules = ("bayesbinn", "ste", "full-precision")
    configs = [
        make_config("digits", rule, seed=seed, epochs=DEMO_EPOCHS, out=f"{out}/{rule}-seed{seed}")
        for rule in rules
        for seed in range(seeds)
    ]
    done = sum(finished(config) is not None for config in configs)
    if done:
        note(already_there(done, len(configs)))
    summaries = iter(run_several(configs, progress=progress, note=lambda line: None))
    return [TableRow(rule, [next(summaries) for _ in range(seeds)]) for rule in rules]
