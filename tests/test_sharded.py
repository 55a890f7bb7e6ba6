"""`fully_shard` (FSDP2): two gloo processes that share the parameters out are one process, bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.torch_version import TorchVersion

import bitbayes as bb
import needs
from nested import equal
from sharded_worker import OPTIONS, joint, network, steps, trajectory
from test_robustness import environment

HERE = Path(__file__).parent

# With torch 2.8, gloo adds gradients where `fully_shard` asks for their average; older torch stops with an error.
pytestmark = needs.SHARDS.unless(TorchVersion(torch.__version__) >= (2, 10))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What both processes have found, in one pass through all cases."""
    path = tmp_path_factory.mktemp("sharded")
    paths = os.pathsep.join([str(HERE), environment()["PYTHONPATH"]])
    words = [sys.executable, "-W", "ignore", str(HERE / "sharded_worker.py"), str(path)]
    done = subprocess.run(
        words, env={**environment(), "PYTHONPATH": paths}, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return path


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("case", OPTIONS)
def test_two_processes_are_one(case: str, ranks: list[dict[str, Any]]) -> None:
    """Weights, beliefs, modes, outputs and posteriors, from the start to a state that is loaded and goes on."""
    one = trajectory(case)
    assert not equal(one["start weights"], one["trained weights"])
    for rank in ranks:
        found = rank["cases"][case]
        assert found.keys() == one.keys()
        for when, value in one.items():
            assert equal(value, found[when]), when


def test_a_joint_optimizer_is_one_process_too(ranks: list[dict[str, Any]]) -> None:
    """Also the real parameters, whose gradients are means over several draws."""
    one = joint()
    assert not equal(one["draw"], one["mode"])
    for rank in ranks:
        assert rank["joint"].keys() == one.keys()
        for when, value in one.items():
            assert equal(value, rank["joint"][when]), when


def test_other_layouts_are_one_process_too(ranks: list[dict[str, Any]]) -> None:
    for layout, (case, found) in ranks[0]["layouts"].items():
        one = trajectory(case)
        assert all(equal(value, found[when]) for when, value in one.items()), layout


def test_a_state_of_one_process_goes_on_in_two_and_back(folder: Path, ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["moved"] == ranks[1]["moved"] == "the same"
    saved = torch.load(folder / "checkpoint" / "whole.pt", weights_only=True)  # two steps by two processes
    model, alone = network(), network()
    optimizer, other = (
        bb.VISPA(bb.split_parameters(m)[0], lr=0.05, rank=3, scale="channel", seed=3) for m in (model, alone)
    )
    steps(alone, other, 2)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    for _ in range(2):
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, dict(alone.named_parameters())[name]), name
        steps(model, optimizer, 2)
        steps(alone, other, 2)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("not finite", "NotFiniteError: the gradient of '0.weight' is not finite; the step was refused"),
        ("predict", "ValueError: fully_shard has sharded the parameters, but sampling and packing need whole"),
        ("pack", "ValueError: fully_shard has sharded the parameters, but sampling and packing need whole"),
        ("columns", "ValueError: binary parameter 'weight' is a DTensor with placements (Shard(dim=1),); expected"),
        ("transposed", 'ValueError: scale="channel" of a transposed convolution needs the rows of all processes'),
    ],
)
def test_what_cannot_be_is_refused_in_every_process(case: str, message: str, ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert rank["refusals"][case].startswith(message)
        assert "\n" not in rank["refusals"][case]


def test_a_refused_step_leaves_the_weights_of_all_processes(ranks: list[dict[str, Any]]) -> None:
    assert all(rank["refusals"]["not finite, weights"] == "unchanged" for rank in ranks)
