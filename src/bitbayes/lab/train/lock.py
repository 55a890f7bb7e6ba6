"""Locks on folders: one process at a time writes into a folder, and a killed process releases its lock."""

from __future__ import annotations

import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no flock, so users must keep two processes apart
    fcntl = None

_held: set[int] = set()


def acquire(folder: Path) -> int | None:
    """Lock a folder for this process, and return a handle for `release`, or None if the system has no such locks.

    The lock (`flock`) is on the folder itself. It needs no file, stays with the folder if it is renamed, and ends with
    the process at the latest.

    Raises:
        BlockingIOError: If another process, or another part of this one, holds the lock. `strerror` names the process
            if the system tells.
        OSError: If there is no such folder, or it cannot be opened.
    """
    if fcntl is None:
        return None
    while True:
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _holder(handle) if isinstance(error, BlockingIOError) else None
            os.close(handle)
            if isinstance(error, BlockingIOError):
                raise BlockingIOError(error.errno, holder or "another process") from None
            return None  # a network file system without locks on folders
        if leads(folder, handle):
            _held.add(handle)
            return handle
        os.close(handle)  # renamed between opening and locking: another folder has its name now


def release(handle: int | None) -> None:
    """End a lock from `acquire`."""
    if handle in _held:  # a forked child has closed its copy
        _held.remove(handle)
        os.close(handle)


def locked(folder: Path) -> str | None:
    """Return which process holds the lock of a folder; None if none does or the system does not tell."""
    try:
        release(acquire(folder))
    except BlockingIOError as error:
        return error.strerror
    except OSError:
        return None
    return None


def leads(folder: Path, handle: int | None) -> bool:
    """Return whether a path still leads to the locked folder."""
    if handle is None:
        return True
    try:
        return os.path.samestat(os.stat(folder), os.fstat(handle))
    except FileNotFoundError:
        return False


def _holder(handle: int) -> str | None:
    """Return which process locks a folder, from Linux's table of locks; None if there is no such table."""
    # The device in the table may differ from that of stat (btrfs, overlays), so only the inode is compared.
    number = str(os.fstat(handle).st_ino)
    try:
        rows = [line.split() for line in Path("/proc/locks").read_text(encoding="ascii").splitlines()]
    except (OSError, ValueError):
        return None
    found = {row[4] for row in rows if row[1:2] == ["FLOCK"] and row[5].rpartition(":")[2] == number}
    if len(found) != 1 or not (process := int(found.pop())) > 0:  # 0 or -1 for a process in another container
        return None
    return "this process" if process == os.getpid() else f"process {process}"


def _forget() -> None:
    """Close copies in a forked child, which would otherwise keep the locks of a killed parent."""
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
