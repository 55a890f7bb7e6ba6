"""Skipped tests: one place names what they need, and the end of a run says in one line what was left out."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import needs

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = """
import needs
import pytest

@needs.CUDA.unless(False)
@pytest.mark.parametrize("number", [1, 2])
def test_on_a_gpu(number): ...

def test_with_a_package():
    needs.IVON.module("a_package_that_nobody_has")

@needs.IVON.unless_installed("numpy")
def test_that_runs(): ...
"""


def test_the_end_of_a_run_says_what_was_left_out(tmp_path: Path) -> None:
    for file in (ROOT / "conftest.py", ROOT / "tests" / "needs.py"):
        shutil.copy(file, tmp_path)
    (tmp_path / "test_example.py").write_text(EXAMPLE)
    words = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", ".", "test_example.py"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    *_, line, summary = done.stdout.splitlines()
    assert line == (
        "3 skipped: 2 need a CUDA device; 1 needs IVON (pip install ivon-opt). "
        "Run `make tools` for what a command can bring."
    )
    assert summary.startswith("1 passed, 3 skipped")


def test_without_a_command_none_is_named() -> None:
    skipped = runpy.run_path(str(ROOT / "conftest.py"))["skipped"]
    assert skipped(Counter({str(needs.CUDA): 1})) == "1 skipped: 1 needs a CUDA device."
    assert skipped(Counter({"a reason of its own": 2})) == "2 skipped: 2: a reason of its own."


def test_every_reason_is_in_one_place() -> None:
    own = re.compile(r"pytest\.(skip\(|importorskip|mark\.skip)")
    files = [
        path for path in sorted((ROOT / "tests").glob("*.py")) if path.name not in ("needs.py", Path(__file__).name)
    ]
    assert [path.name for path in files if own.search(path.read_text(encoding="utf-8"))] == []


def test_tools_bring_what_the_needs_name() -> None:
    """Each command of a need is one that `make tools` runs, or a make target of its own."""
    tools, packages = (ROOT / ".ci" / "tools").read_text(), (ROOT / ".ci" / "requirements.txt").read_text()
    every = [value for value in vars(needs).values() if isinstance(value, needs.Need) and value.how]
    assert len(every) > 8
    for need in every:
        command, *names = re.split(r" install ", need.how)
        for name in " ".join(names).split():
            brought = packages if command == "pip" else tools
            assert name in brought or name in ("gcc", "git"), need  # which every machine for builds has
