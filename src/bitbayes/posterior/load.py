"""Posteriors of any kind from their files."""

from __future__ import annotations

from pathlib import Path

from bitbayes.posterior import files
from bitbayes.posterior.base import Posterior
from bitbayes.posterior.bernoulli import BernoulliPosterior
from bitbayes.posterior.lowrank import LowRankGaussianPosterior

__all__ = ["load_posterior"]

_KINDS: list[type[Posterior]] = [BernoulliPosterior, LowRankGaussianPosterior]


def load_posterior(path: str | Path) -> Posterior:
    """Reads a posterior of any kind that its `save` wrote, onto the CPU.

    Args:
        path: The file.

    Returns:
        The same posterior, bit for bit.

    Raises:
        ValueError: If the file is not a posterior of this library.
        FileNotFoundError: If it does not exist.

    Example:
        >>> load_posterior("absent.safetensors")
        Traceback (most recent call last):
        ...
        FileNotFoundError: no posterior at absent.safetensors
    """
    about, _ = files.read(path)
    for kind in _KINDS:
        if kind.FORMAT == about.get("format"):
            return kind.load(path)
    known = ", ".join(kind.FORMAT for kind in _KINDS)
    raise ValueError(f"{path} is not a saved posterior: its format is {about.get('format')!r}, expected one of {known}")
