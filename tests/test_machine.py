"""Threads and memory of a process while a recipe trains."""

import contextlib
import os
import subprocess
import sys

import pytest
import torch

import needs
from bitbayes.lab.train import machine
from bitbayes.lab.train.machine import kept_memory, tuned_for

_FAULTS = """
import resource, sys, torch
from bitbayes.lab.train.machine import kept_memory
def faults():
    torch.empty(12 << 20).fill_(1)  # 48 MB: what glibc would always give back
    begin = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.empty(12 << 20).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begin
before = faults()
with kept_memory() as kept:
    during = faults()
print(kept, before, during, faults())
"""


def _run(**environment: str) -> tuple[bool, int, int, int]:
    others = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", _FAULTS]
    done = subprocess.run(command, env=others | environment, capture_output=True, text=True, check=True)
    kept, *faults = done.stdout.split()
    before, during, after = map(int, faults)
    return kept == "True", before, during, after


@needs.GLIBC.unless(machine._glibc() is not None)
def test_freed_memory_is_kept_while_a_run_lasts():
    kept, before, during, after = _run()
    assert kept
    assert during < min(before, after) / 10, (before, during, after)


def test_settings_of_the_user_are_left_alone():
    kept, before, during, _ = _run(MALLOC_ARENA_TEST="8")
    assert not kept
    assert during > before / 2 or before < 10, (before, during)  # an allocator of another kind may have none at all


def test_elsewhere_than_with_glibc_nothing_happens(monkeypatch: pytest.MonkeyPatch):
    for missing in (TypeError("Windows"), OSError("no such library")):
        monkeypatch.setattr(machine.ctypes, "CDLL", lambda name, error=missing: _raise(error))
        with kept_memory() as kept:
            assert not kept


def _raise(error: Exception):
    raise error


def test_wide_networks_alone_keep_memory(monkeypatch: pytest.MonkeyPatch):
    asked = []
    monkeypatch.setattr(machine, "kept_memory", lambda: asked.append("kept") or contextlib.nullcontext())
    with tuned_for(wide=False):
        assert asked == []
    with tuned_for(wide=True):
        assert asked == ["kept"]


def test_small_networks_train_on_one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with tuned_for(wide=False):
            assert torch.get_num_threads() == 1
        with tuned_for(wide=True):
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
