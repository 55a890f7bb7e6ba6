"""Loads the compiled C files: those that came with the wheel, else those that this machine has compiled.

A wheel brings a library for every kind of processor of its family, and nothing is compiled then. Without one, as in a
source tree, the C compiler of the machine makes it once. It is kept in the user's cache under a name that hashes the
source, the compiler, the processor, and its own content; one that is damaged, or that others could have written, is not
loaded. Where the cache cannot be written, each process compiles a library of its own, and removes the file. Nothing
here raises: without a library there are no kernels, and `status` says why.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import subprocess
import tempfile
from pathlib import Path

from bitbayes.files import check_owner
from bitbayes.kernels import variants
from bitbayes.kernels.threads import connect

SHIPPED = Path(__file__).with_name("shipped")  # there in a wheel that has libraries
_PROCESS = os.getpid()  # that imported this module


def _cache() -> Path:
    """Return the folder of compiled libraries; a relative XDG_CACHE_HOME is ignored, as its specification says."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or "")
    return (base if base.is_absolute() else Path.home() / ".cache") / "bitbayes"


def _cached(folder: Path, stem: str) -> Path | None:
    """Return the library of a name whose content is as long and as whole as when it was written."""
    for found in sorted(folder.glob(f"{stem}-*.so")):
        check_owner(found, "XDG_CACHE_HOME")
        if found.name == f"{stem}-{variants.digest(found.read_bytes())}.so":
            return found
    return None


def _load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    connect(library)
    return library


def _shipped(name: str) -> tuple[ctypes.CDLL | None, str]:
    """Return the fastest library of the wheel that fits, with its variant; or None, and what is wrong with those."""
    wrong = []
    for variant in variants.fitting(name):
        for path in sorted(SHIPPED.glob(f"{name}.{variant.name}.*.so")):
            try:
                if path.name != variants.shipped_name(name, variant.name, path.read_bytes()):
                    raise OSError("is damaged")
                return _load(path), variant.name
            except OSError as error:
                wrong.append(f"{path.name} {error}")
    return None, "; ".join(wrong)


def _compile(source: Path, compiler: list[str], processor: str, folder: Path, stem: str) -> Path:
    """Write the library at once or not at all, so that several processes may do the same; return its path.

    The end of its name is a digest of its content, by which a damaged library is known.
    """
    with tempfile.TemporaryDirectory(dir=folder) as room:
        made = Path(room) / "made.so"
        failure = ""
        # Some compilers do not know their machine: then its family's code.
        for flags in [["-march=native"]] * bool(processor) + [[]]:
            command = variants.command(compiler, flags, source, made)
            run = subprocess.run(command, capture_output=True, text=True, timeout=120)
            if run.returncode == 0:
                made.chmod(0o700)
                with open(made, "rb") as file:
                    os.fsync(file.fileno())
                target = folder / f"{stem}-{variants.digest(made.read_bytes())}.so"
                os.replace(made, target)
                return target
            failure = (run.stderr.strip().splitlines() or [f"exit status {run.returncode}"])[-1]
    raise OSError(f"{compiler[0]} failed: {failure}")


def _compiled(name: str) -> tuple[ctypes.CDLL, str]:
    """Return the library that this machine has compiled, and where it is; compile it if that was not done."""
    source = Path(__file__).with_name(f"{name}.c")
    compiler, processor = variants.compiler(), variants.processor()
    program = Path(compiler[0]).stat()
    about = [*compiler, *variants.FLAGS, program.st_size, program.st_mtime_ns, platform.machine(), processor]
    text = source.read_bytes() + source.with_name("threads.h").read_bytes()
    stem = f"{name}-{variants.digest(repr([*about, text]).encode())}"
    try:
        folder = _cache()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        check_owner(folder, "XDG_CACHE_HOME")
        target = _cached(folder, stem) or _compile(source, compiler, processor, folder, stem)
    except (OSError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno is None:
            raise  # one of ours: the folder belongs to others, or the compiler fails
        with tempfile.TemporaryDirectory(prefix="bitbayes-") as room:
            target = _compile(source, compiler, processor, Path(room), stem)
            return _load(target), f"compiled by {compiler[0]} for this process alone: {error}"
    return _load(target), f"compiled by {compiler[0]}, kept at {target}"


@functools.cache
def _outcome(name: str = "kernels") -> tuple[ctypes.CDLL | None, str]:
    """Return the library, or None; and where it is from, or why there is none."""
    library, about = _shipped(name)
    if library is not None:
        return library, f"shipped with the wheel, {about}"
    wrong = about and f" (in the wheel {about})"
    try:
        library, about = _compiled(name)
        return library, about + wrong
    except (OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:
        return None, f"not in use: {error}{wrong}"


def threads(wanted: int) -> int:
    """Return how many threads a kernel may use: one in a forked process, where the threads of its parent are gone."""
    return wanted if os.getpid() == _PROCESS else 1


def library(name: str = "kernels") -> ctypes.CDLL | None:
    """Return the compiled kernels, or None. Without a wheel the first call on a machine takes about a second."""
    return _outcome(name)[0]


def status(name: str = "kernels") -> str:
    """Return whether the compiled kernels are in use and where they are from, or why they are not in use.

    A wheel brings compiled kernels, and the line is then "shipped with the wheel" and the kind of processor they are
    for. Otherwise the first call compiles them with `$CC` or `cc`, and the line begins with "compiled by". The line
    begins with "not in use" where neither works.

    Args:
        name: Which: "kernels" of the learning rules, "finite" that reads their gradients, "signs" that packs
            weights, "inference" of packed networks, "real" of their convolutions with real weights, or "gibbs" that
            samples posteriors.

    Returns:
        One line.

    Example:
        >>> bb.kernels.status().split()[0] in ("shipped", "compiled", "not")
        True
    """
    return _outcome(name)[1]
