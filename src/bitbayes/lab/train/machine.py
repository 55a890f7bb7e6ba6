"""Threads and memory of a process while a network trains."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator

import torch

# Parameters of glibc's mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_KEEP = {_TRIM_THRESHOLD: -1, _MMAP_MAX: 0}
# glibc's own thresholds grow with freed blocks until they are set, so they are restored to where large tensors leave
# them.
_AFTERWARDS = {_TRIM_THRESHOLD: 64 << 20, _MMAP_THRESHOLD: 32 << 20, _MMAP_MAX: 65536}


def tuned_for(*, wide: bool) -> contextlib.AbstractContextManager[object]:
    """Return a context that suits the size of a network while it trains.

    Small networks get one thread, because more threads cost time on small tensors, especially on a busy machine. Wide
    networks keep the memory that a step frees for the next step.
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
    """Keep freed memory in the process if its C library is glibc; yield whether memory is kept.

    Otherwise, the memory of freed large tensors returns to the system, and the next step gets it again page by page,
    each cleared first. `benchmarks/memory.py` measures the cost. After the block, the memory of large tensors returns
    to the system again, immediately if it is free by then. Settings of the user in environment variables take
    precedence.
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
    """Return glibc of this process, or None for another C library or if the user has set its variables."""
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return None
    try:
        libc = ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows does not accept None
        return None
    return libc if hasattr(libc, "gnu_get_libc_version") else None
