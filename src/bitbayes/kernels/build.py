"""Compiles the C files beside it once a machine, with the C compiler that is there, and loads them.

A library is kept in the user's cache under a name that hashes the source, the compiler, the processor, and its own
content; one that is damaged, or that others could have written, is not loaded. Where the cache cannot be written, each
process compiles a library of its own, and removes the file. Nothing here raises: without a compiler there are no
kernels, and `status` says why.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

# IEEE arithmetic as written, on every machine; the last two allow to vectorise roots and choices, and change no value.
_FLAGS = ["-std=gnu11", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC"]
_PROCESS = os.getpid()  # that imported this module


def _compiler() -> list[str]:
    """Return the command of `$CC`, which may have options, or `cc`; its first word is a file that exists."""
    program, *options = shlex.split(os.environ.get("CC") or "cc")
    found = shutil.which(program)
    if found is None:
        raise OSError(f"no C compiler: {program} is not on the path; set CC to one")
    return [found, *options]


def _processor() -> str:
    """Return what code for this machine may use: a home directory may be shared by machines that differ."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _cache() -> Path:
    """Return the folder of compiled libraries; a relative XDG_CACHE_HOME is ignored, as its specification says."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or "")
    return (base if base.is_absolute() else Path.home() / ".cache") / "bitbayes"


def _check_owner(path: Path) -> None:
    """Refuse a folder or file that another user owns or may write to: a library in it would be executed."""
    if hasattr(os, "getuid"):
        about = path.lstat()
        if about.st_uid != os.getuid() or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or stat.S_ISLNK(about.st_mode):
            raise OSError(f"{path} is not yours alone; remove it, or set XDG_CACHE_HOME to a folder of your own")


def _cached(folder: Path, stem: str) -> Path | None:
    """Return the library of a name whose content is as long and as whole as when it was written."""
    for found in sorted(folder.glob(f"{stem}-*.so")):
        _check_owner(found)
        if found.name == f"{stem}-{_digest(found.read_bytes())}.so":
            return found
    return None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _compile(source: Path, compiler: list[str], processor: str, folder: Path, stem: str) -> Path:
    """Write the library at once or not at all, so that several processes may do the same; return its path.

    The end of its name is a digest of its content, by which a damaged library is known.
    """
    native = ["-march=native"] if processor else []
    with tempfile.TemporaryDirectory(dir=folder) as room:
        made = Path(room) / "made.so"
        failure = ""
        # Some compilers have no OpenMP: then one thread. Some do not know their machine: then its family's code.
        for more in ([*native, "-fopenmp"], native, []):
            command = [*compiler, *_FLAGS, *more, str(source), "-o", str(made), "-lm"]
            run = subprocess.run(command, capture_output=True, text=True, timeout=120)
            if run.returncode == 0:
                made.chmod(0o700)
                with open(made, "rb") as file:
                    os.fsync(file.fileno())
                target = folder / f"{stem}-{_digest(made.read_bytes())}.so"
                os.replace(made, target)
                return target
            failure = (run.stderr.strip().splitlines() or [f"exit status {run.returncode}"])[-1]
    raise OSError(f"{compiler[0]} failed: {failure}")


@functools.cache
def _outcome(name: str = "kernels") -> tuple[ctypes.CDLL | None, str]:
    """Return the library, or None; and where it is, or why there is none."""
    try:
        source = Path(__file__).with_name(f"{name}.c")
        compiler, processor = _compiler(), _processor()
        program = Path(compiler[0]).stat()
        about = [*compiler, *_FLAGS, program.st_size, program.st_mtime_ns, platform.machine(), processor]
        stem = f"{name}-{_digest(repr([*about, source.read_bytes()]).encode())}"
        try:
            folder = _cache()
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            _check_owner(folder)
            target = _cached(folder, stem) or _compile(source, compiler, processor, folder, stem)
        except (OSError, RuntimeError) as error:
            if isinstance(error, OSError) and error.errno is None:
                raise  # one of ours: the folder belongs to others, or the compiler fails
            with tempfile.TemporaryDirectory(prefix="bitbayes-") as room:
                target = _compile(source, compiler, processor, Path(room), stem)
                return ctypes.CDLL(str(target)), f"compiled by {compiler[0]} for this process alone: {error}"
        return ctypes.CDLL(str(target)), f"compiled by {compiler[0]}, kept at {target}"
    except (OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:
        return None, f"not in use: {error}"


def threads(wanted: int) -> int:
    """Return how many threads a kernel may use: one in a forked process, where the threads of its parent are gone."""
    return wanted if os.getpid() == _PROCESS else 1


def library(name: str = "kernels") -> ctypes.CDLL | None:
    """Return the compiled kernels, or None. The first call on a machine takes about a second."""
    return _outcome(name)[0]


def status(name: str = "kernels") -> str:
    """Say whether the compiled kernels are in use, and if not, why; compiles them if that was not tried yet.

    Args:
        name: Which: "kernels" of the learning rules, "finite" that reads their gradients, "signs" that packs
            weights, "inference" of packed networks, or "real" of their convolutions with real weights.

    Returns:
        One line.

    Example:
        >>> bb.kernels.status().split()[0] in ("compiled", "not")
        True
    """
    return _outcome(name)[1]
