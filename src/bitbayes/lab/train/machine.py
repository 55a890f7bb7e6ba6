"""How a process uses the machine while a network trains: its threads and its memory."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator

import torch

# Parameters of glibc's mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_KEEP = {_TRIM_THRESHOLD: -1, _MMAP_MAX: 0}
# Its own thresholds grow with what is freed, until they have been set. So they are left where they end up with tensors.
_AFTERWARDS = {_TRIM_THRESHOLD: 64 << 20, _MMAP_THRESHOLD: 32 << 20, _MMAP_MAX: 65536}


def tuned_for(*, wide: bool) -> contextlib.AbstractContextManager[object]:
    """Return a context that suits the size of a network while it trains.

    Small networks get one thread: more threads cost time on small tensors, most of all on a busy machine. Wide networks
    keep the memory that a step frees for the next step.
    """
    return kept_memory() if wide else _one_thread()


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
    """Keep freed memory in the process, where its C library is glibc; yield whether memory is kept.

    Otherwise the memory of large tensors goes back to the system when they are freed, and the next step gets it anew:
    page by page, each cleared first. `benchmarks/memory.py` measures the cost. Afterwards large tensors go back to the
    system again, at once if they are free by then. Settings of the user in environment variables are left alone.
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
    """Return glibc of this process, or None for another C library or if the user has settings already."""
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return None
    try:
        libc = ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows takes no None
        return None
    return libc if hasattr(libc, "gnu_get_libc_version") else None
