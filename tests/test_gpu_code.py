"""The code that a GPU would run for an update, run on the CPU.

It takes Triton, which is no part of `make setup`: `pip install triton`, then `pytest -m slow tests/test_gpu_code.py`.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from bitbayes.kernels import run
from bitbayes.rules import fused
from laws import every_rule, pair, snapshot, steps

if importlib.util.find_spec("triton") is None:
    pytest.skip("needs Triton and its interpreter: pip install triton", allow_module_level=True)
from gpu_code import GpuCode  # before Triton, which it tells to interpret

STEPS = 4
KERNELS = {"vispa": 3, "vispa-projected": 5}  # what the weights share is drawn first, and draws sum over the rows


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch and Triton
@every_rule
def test_what_a_gpu_would_run(rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All tensors of a step are one kernel, whose numbers are those of the rule's own words."""
    torch.compiler.reset()
    fused._compiled.cache_clear()
    gpu = GpuCode(tmp_path)
    monkeypatch.setattr(torch, "compile", gpu.compile)
    monkeypatch.setattr(fused, "_ALONE", set[str]())
    monkeypatch.setattr(run, "_address", lambda name: None)  # no kernels in C
    model, optimizer = pair(rule, compile=True)
    monkeypatch.setattr(optimizer, "_accept", lambda: torch.tensor(True))  # what a GPU has instead of an error
    steps(model, optimizer, STEPS)
    monkeypatch.undo()
    plain = pair(rule)
    steps(*plain, STEPS)
    for name, value in snapshot(*plain).items():
        torch.testing.assert_close(snapshot(model, optimizer)[name], value, rtol=1e-3, atol=1e-4)
    assert len(gpu.launches) <= KERNELS.get(rule, 1) * STEPS
