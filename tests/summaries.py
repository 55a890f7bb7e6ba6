"""Summaries of runs that nobody has trained, for the tests of tables."""

from __future__ import annotations

from typing import Any

from bitbayes.lab.train import Summary


def summary(**changes: Any) -> Summary:
    """Return a summary of ten epochs, with other entries where they are given."""
    about = {"recipe": "mnist", "rule": "ste", "seed": 0, "epochs": 10, "epochs_done": 10, "best_epoch": 9}
    sizes = {"weights": 9, "binary_weights": 8, "bytes_32_bit": 36, "bytes_1_bit": 5, "seconds_per_epoch": 1.0}
    return Summary(**(about | sizes | changes))
