"""How a process uses the machine while a recipe trains: its threads and its memory."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator

import torch

from bitbayes.lab.recipes.base import Recipe
from bitbayes.lab.recipes.registry import find_recipe

__all__ = ["kept_memory", "tuned_for"]

# Parameters of glibc's mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_KEEP = {_TRIM_THRESHOLD: -1, _MMAP_MAX: 0}
# Its own thresholds grow with what is freed, until they have been set. So they are left where they end up with tensors.
_AFTERWARDS = {_TRIM_THRESHOLD: 64 << 20, _MMAP_THRESHOLD: 32 << 20, _MMAP_MAX: 65536}


@contextlib.contextmanager
def tuned_for(recipe: Recipe | str) -> Iterator[None]:
    """What suits the size of a network while it trains.

    Small networks get one thread: more cost time on small tensors, most of all on a busy machine. Wide ones keep the
    memory that a step frees for the next.

    Args:
        recipe: The recipe, or its name.

    Yields:
        Nothing.
    """
    recipe = find_recipe(recipe) if isinstance(recipe, str) else recipe
    with kept_memory() if recipe.wide else _one_thread():
        yield


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def kept_memory() -> Iterator[bool]:
    """Keeps freed memory in the process, where its C library is glibc.

    Else the memory of large tensors goes back to the system as they are freed, and the next step gets it anew: page by
    page, each cleared first. `benchmarks/memory.py` measures what that costs. Afterwards large tensors go back again,
    and at once what is free by then. Settings of the user's own, in variables of the environment, are left alone.

    Yields:
        Whether memory is kept.
    """
    libc = _glibc()
    if libc is None:
        yield False
        return
    for name, value in _KEEP.items():
        libc.mallopt(name, value)
    try:
        yield True
    finally:
        for name, value in _AFTERWARDS.items():
            libc.mallopt(name, value)
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """This process's, unless it is another C library or the user has settings already."""
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return None
    try:
        libc = ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows takes no None
        return None
    return libc if hasattr(libc, "gnu_get_libc_version") else None
