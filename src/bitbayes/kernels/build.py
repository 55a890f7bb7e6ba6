"""Compiles the C files beside it once a machine, with the C compiler that is there, and loads them.

A library is kept in the user's cache under a name that hashes the source, the compiler and the processor. Nothing
here raises: without a compiler, or with a cache that cannot be written, there are no kernels, and `status` says why.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

# IEEE arithmetic as written, on every machine; the last two allow to vectorise roots and choices, and change no value.
_FLAGS = ["-std=gnu11", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC"]


def _compiler() -> list[str]:
    """The command of `$CC`, which may have options, or `cc`; its first word is a file that exists."""
    program, *options = shlex.split(os.environ.get("CC") or "cc")
    found = shutil.which(program)
    if found is None:
        raise OSError(f"no C compiler: {program} is not on the path; set CC to one")
    return [found, *options]


def _processor() -> str:
    """What code for this machine may use: a home directory may be shared by machines that differ."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bitbayes"


def _compile(source: Path, compiler: list[str], processor: str, target: Path) -> None:
    """Writes the library at once or not at all, so that several processes may do the same."""
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    native = ["-march=native"] if processor else []
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = str(Path(folder) / target.name)
        failure = ""
        # Some compilers have no OpenMP: then one thread. Some do not know their machine: then its family's code.
        for more in ([*native, "-fopenmp"], native, []):
            command = [*compiler, *_FLAGS, *more, str(source), "-o", made, "-lm"]
            run = subprocess.run(command, capture_output=True, text=True, timeout=120)
            if run.returncode == 0:
                os.replace(made, target)
                return
            failure = (run.stderr.strip().splitlines() or [f"exit status {run.returncode}"])[-1]
    raise OSError(f"{compiler[0]} failed: {failure}")


@functools.cache
def _outcome(name: str = "kernels") -> tuple[ctypes.CDLL | None, str]:
    """The library, or None; and where it is, or why there is none."""
    try:
        source = Path(__file__).with_name(f"{name}.c")
        compiler, processor = _compiler(), _processor()
        file = Path(compiler[0]).stat()
        about = [
            *compiler,
            *_FLAGS,
            file.st_size,
            file.st_mtime_ns,
            platform.machine(),
            processor,
            source.read_bytes(),
        ]
        digest = hashlib.sha256(repr(about).encode()).hexdigest()[:16]
        target = _cache() / f"{name}-{digest}.so"
        if not target.exists():
            _compile(source, compiler, processor, target)
        return ctypes.CDLL(str(target)), f"compiled by {compiler[0]}, kept at {target}"
    except (OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:
        return None, f"not in use: {error}"


def library(name: str = "kernels") -> ctypes.CDLL | None:
    """The compiled kernels, or None. The first call on a machine takes about a second."""
    return _outcome(name)[0]


def status(name: str = "kernels") -> str:
    """Says whether the compiled kernels are in use, and if not, why; compiles them if that was not tried yet.

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
