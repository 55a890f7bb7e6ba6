"""How the C files beside it are compiled, and which of the libraries in a wheel a processor can run.

A wheel is built on one machine and runs on another. It holds each file several times, from what every processor of a
family can run to what recent ones can, and a process loads the fastest that fits. `hatch_build.py` in the source tree
reads this file before anything is installed, so the file imports nothing but the standard library.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

# IEEE arithmetic as written, on every machine; the last two allow to vectorise roots and choices, and change no value.
FLAGS = ("-std=gnu11", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")


class Variant(NamedTuple):
    """One way to compile a file for a family of processors.

    Attributes:
        name: Name that `status` prints; of x86-64, that of the level in its psABI.
        flags: Options of GCC and Clang.
        features: Features that a processor must have, as Linux names them in `/proc/cpuinfo`.
        files: Stems of the files that are compiled so; of the others the next variant is as fast. Empty: all.
    """

    name: str
    flags: tuple[str, ...] = ()
    features: frozenset[str] = frozenset()
    files: tuple[str, ...] = ()


_V3_FLAGS = ("-mavx2", "-mbmi", "-mbmi2", "-mf16c", "-mfma", "-mlzcnt", "-mmovbe")
_V3 = frozenset({"avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"})
_V4_FLAGS = (*_V3_FLAGS, "-mavx512f", "-mavx512bw", "-mavx512cd", "-mavx512dq", "-mavx512vl")
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
_X86_64 = (
    Variant("x86-64-v4+vpopcntdq", (*_V4_FLAGS, "-mavx512vpopcntdq"), _V4 | {"avx512_vpopcntdq"}, files=("inference",)),
    Variant("x86-64-v4", _V4_FLAGS, _V4),
    Variant("x86-64-v3", _V3_FLAGS, _V3),
    Variant("x86-64"),
)
# Names of `platform.machine()`; every list begins with the fastest and ends with what all of the family run.
FAMILIES: dict[str, tuple[Variant, ...]] = {
    "x86_64": _X86_64,
    "aarch64": (Variant("armv8-a", ("-march=armv8-a",)),),
    "arm64": (Variant("arm64"),),  # as macOS says: what Clang takes for Apple's processors
}


def compiler() -> list[str]:
    """Return the command of `$CC`, which may have options, or `cc`; its first word is a file that exists.

    Raises:
        OSError: If there is no such program.
    """
    program, *options = shlex.split(os.environ.get("CC") or "cc")
    found = shutil.which(program)
    if found is None:
        raise OSError(f"no C compiler: {program} is not on the path; set CC to one")
    return [found, *options]


def command(compiler: list[str], flags: list[str], source: Path, target: Path) -> list[str]:
    """Return the words that compile a file to a library."""
    return [*compiler, *FLAGS, *flags, str(source), "-o", str(target), "-lm"]


def processor() -> str:
    """Return what code for this machine may use: the line of Linux that lists it, or nothing elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def fitting(name: str) -> list[Variant]:
    """Return the variants of a file that this processor can run, the fastest first."""
    features = set(processor().partition(":")[2].split())
    variants = FAMILIES.get(platform.machine(), ())
    return [each for each in variants if each.features <= features and (not each.files or name in each.files)]


def digest(content: bytes) -> str:
    """Return what stands in a file name for its content."""
    return hashlib.sha256(content).hexdigest()[:16]


def shipped_name(name: str, variant: str, content: bytes) -> str:
    """Return the file name of a library in a wheel; a library whose content does not fit its name is not loaded."""
    return f"{name}.{variant}.{digest(content)}.so"
