"""The code that a GPU would run for an update, run on the CPU.

It takes Triton, which is no part of `make setup`: `make gpu-code` fetches it and runs these tests.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import needs
from bitbayes.kernels import run
from bitbayes.rules import engine
from laws import HARD, every_rule, pair, snapshot, steps

if importlib.util.find_spec("triton") is None:
    needs.TRITON.skip()
from gpu_code import GpuCode  # before Triton, which it tells to interpret

STEPS = 4
KERNELS = {"vispa": 3, "vispa-projected": 5}  # what the weights share is drawn first, and draws sum over the rows


pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of torch and Triton


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GpuCode]:
    """What torch.compile is meanwhile, with updates as on a GPU."""
    torch.compiler.reset()
    engine.compiled_update.cache_clear()
    code = GpuCode(tmp_path)
    monkeypatch.setattr(torch, "compile", code.compile)
    monkeypatch.setattr(engine, "ALONE", set[str]())
    monkeypatch.setattr(run, "_address", lambda name: None)  # no kernels in C
    yield code
    engine.compiled_update.cache_clear()


def trained(rule: str, dtype: torch.dtype, *, compile: bool) -> dict[str, torch.Tensor]:
    """A network and its beliefs after some steps, with binary weights of a type."""
    model, optimizer = pair(rule, compile=compile)
    for _, parameter in optimizer.named_binary():
        parameter.data = parameter.data.to(dtype)
    if compile:
        optimizer._accept = lambda: torch.tensor(True)  # what a GPU has instead of an error
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        steps(model, optimizer, STEPS)
    return snapshot(model, optimizer)


@every_rule
def test_all_tensors_of_a_step_are_one_kernel(rule: str, gpu: GpuCode) -> None:
    found = trained(rule, torch.float32, compile=True)
    for name, value in trained(rule, torch.float32, compile=False).items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4)
    assert len(gpu.launches) <= KERNELS.get(rule, 1) * STEPS


@pytest.mark.parametrize("rule", sorted(HARD))
def test_weights_held_in_two_bytes(rule: str, gpu: GpuCode) -> None:
    found = trained(rule, torch.bfloat16, compile=True)
    for name, value in trained(rule, torch.bfloat16, compile=False).items():
        assert found[name].dtype == value.dtype
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4)
    assert len(gpu.launches) <= KERNELS.get(rule, 1) * STEPS
