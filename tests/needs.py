"""What some tests need that a machine may lack: the reason of a skip, and the command that brings what is missing.

Each need is here once. The summary at the end of a run (`conftest.py`) counts the skipped tests of each.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest

from bitbayes.kernels import build


@dataclass(frozen=True)
class Need:
    """Something that a test needs, and how to get it if a command can bring it."""

    what: str
    how: str = ""

    def __str__(self) -> str:
        return f"needs {self.what}" + f" ({self.how})" * bool(self.how)

    def unless(self, there: object) -> pytest.MarkDecorator:
        """Return the mark of a test that is skipped where something is not there."""
        return pytest.mark.skipif(not there, reason=str(self))

    def unless_installed(self, name: str) -> pytest.MarkDecorator:
        """Return the same mark for a module; unlike `module`, it leaves a file's tests in the count of skipped ones."""
        return self.unless(importlib.util.find_spec(name))

    def skip(self) -> NoReturn:
        """Skip the test, or the whole file where it is called outside a test."""
        pytest.skip(str(self), allow_module_level=True)

    def module(self, name: str) -> Any:
        """Return an imported module; skip the test where it is not installed."""
        return pytest.importorskip(name, reason=str(self))


# Debian's packages.
BROWSER = Need("Chromium", "apt-get install chromium")
ARM = Need("a compiler and an emulator for ARM", "apt-get install gcc-aarch64-linux-gnu qemu-user")
COMPILER = Need("a C compiler", "apt-get install gcc")
GIT = Need("git", "apt-get install git")

# Python packages that no extra brings.
IVON = Need("IVON", "pip install ivon-opt")
TRITON = Need("Triton", "make gpu-code")
YAML = Need("PyYAML", "make setup")
SITE = Need("the extra docs", "make setup")
TRANSFORMERS = Need("Transformers", "make setup")

# Python packages of the extras, which `make setup` installs.
GGUF = Need("the extra gguf", "make setup")
DIAGNOSTICS = Need("the extra diagnostics", "make setup")
HUB = Need("the extra hub", "make setup")
LIGHTNING = Need("the extra lightning", "make setup")
EXPERIMENTS = Need("the extra train", "make setup")
ONNX = Need("the extra onnx", "make setup")
QONNX = Need("the extra qonnx", "make setup")
OPENVINO = Need("OpenVINO", "make setup")
OPTUNA = Need("Optuna", "make setup")
PLAYWRIGHT = Need("Playwright", "make setup")

# What no command brings.
CUDA = Need("a CUDA device")
NO_CUDA = Need("a machine without a GPU")
DATA = Need("data sets that are no part of the repository")
LINUX = Need("Linux")
UNIX = Need("Linux or macOS")
HLS4ML = Need("hls4ml, which docs/qonnx.md installs")
LLAMA_CPP = Need("llama-cpp-python, which docs/gguf.md installs")
GLIBC = Need("glibc with its own settings of malloc")
OPENMP = Need("a torch that uses OpenMP")
VARIANTS = Need("a processor that the kernels have variants for")
SHARDS = Need("torch 2.10 or newer for fully_shard on a CPU", "make setup")
NO_ROOT = Need("a user other than root")
NO_AMX = Need("a processor without AMX")


def processor(path: str) -> Need:
    """Return the need of a test that runs one path of the kernels, such as "avx512"."""
    return Need(f"a processor with {path}")


def kernels(name: str = "kernels") -> pytest.MarkDecorator:
    """Return the mark of tests that need a compiled library of kernels."""
    return COMPILER.unless(build.library(name) is not None)


def browser() -> str:
    """Return the path of a Chromium, which may be that of `$CHROMIUM`; skip the test where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    return found if found is not None and Path(found).exists() else BROWSER.skip()
