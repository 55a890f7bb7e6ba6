"""One rank of data-parallel runs that are refused, and of one that stops early; torchrun starts it in the tests."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn

from bitbayes.lab.train import (
    CROSS_ENTROPY,
    Ranks,
    RuleSpec,
    RunConfig,
    RunError,
    RunFolder,
    SilentProgress,
    build_experiment,
    joined,
    train,
)
from parallel_run import bundle


def config(out: str, **changes: object) -> RunConfig:
    return RunConfig("blobs", "ste", out, RuleSpec(0.05), epochs=2, batch_size=31, precision="fp32").changed(**changes)


def run(mine: RunConfig, *, resume: bool = False) -> None:
    experiment = build_experiment(mine, lambda: nn.Linear(8, 3), bundle(), CROSS_ENTROPY)
    train(mine, experiment, resume=resume, progress=SilentProgress())


def refused(folder: Path, name: str, mine: RunConfig, **how: bool) -> None:
    """Write the error of this rank into a file of its own."""
    try:
        run(mine, **how)
        line = "nothing was refused"
    except (RunError, ValueError) as error:
        line = str(error)
    (folder / f"{name}-{Ranks.here().rank}").write_text(line)


if __name__ == "__main__":
    torch.set_num_threads(1)
    place = Path(sys.argv[1])
    with joined("cpu"):
        rank = Ranks.here().rank
        refused(place, "seed", config(str(place / "none"), seed=rank))
        refused(place, "epochs", config(str(place / "none"), stop_after=1 + rank))
        refused(place, "batch", config(str(place / "none"), batch_size=1))
        refused(place, "resume", config(str(place / "none")), resume=rank == 0)
        with RunFolder(place / "busy", writes=rank == 0).held():
            refused(place, "busy", config(str(place / "busy")))
        run(config(str(place / "two"), stop_after=1))
        run(config(str(place / "whole")))
        run(config(str(place / "new")), resume=True)  # of nothing: the ranks begin together
