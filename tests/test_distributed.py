"""Data-parallel runs: two gloo ranks are one process, and a killed rank costs nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import needs
import parallel_refusals
from nested import equal
from parallel_run import run
from test_robustness import environment, saved_epoch

HERE = Path(__file__).parent


def torchrun(*words: str, restarts: int = 0) -> subprocess.Popen:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", f"--max-restarts={restarts}"]
    paths = os.pathsep.join([str(HERE), environment()["PYTHONPATH"]])
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", *launcher, *words],
        env={**environment(), "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def history(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("rule", "parts"), [("bayesbinn", 1), ("full-precision", 1), ("bayesbinn", 3)])
def test_two_ranks_are_one_process(rule: str, parts: int, tmp_path: Path) -> None:
    """To rounding: gradients are summed in another order. Without batch statistics, of which each rank has its own."""
    process = torchrun(str(HERE / "parallel_run.py"), str(tmp_path / "two"), rule, str(parts))
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    run(str(tmp_path / "one"), rule)
    one, two = (torch.load(tmp_path / n / "checkpoint.pt", weights_only=True) for n in ("one", "two"))
    assert one["epoch"] == two["epoch"] == 3
    # Adam divides a gradient near zero by its own size, so that rounding may move a bias by a share of its rate.
    assert equal(one["parts"], two["parts"], tolerance=1e-3 if parts > 1 else 1e-6)
    for a, b in zip(history(tmp_path / "one"), history(tmp_path / "two"), strict=True):
        del a["seconds"], b["seconds"]
        assert equal(a, b, tolerance=1e-4 if parts > 1 else 1e-6)


def test_what_ranks_cannot_do_together(tmp_path: Path) -> None:
    """Every rank hears of it in one line, so that none waits for another; an unusual restart is told by how many."""
    process = torchrun(str(HERE / "parallel_refusals.py"), str(tmp_path))
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    same = "give all processes the same command"
    expected = {
        "seed": f"process 1 has seed 1, but process 0 has 0; {same}",
        "epochs": f"process 1 has stop_after 2, but process 0 has 1; {same}",
        "batch": "a batch of 1 examples cannot be split between 2 processes; raise --batch-size",
        "resume": f"process 1 has resume False, but process 0 has True; {same}",
        "busy": f"{tmp_path / 'busy'} is in use by this process",
    }
    for name, line in expected.items():
        for rank in (0, 1):
            assert (tmp_path / f"{name}-{rank}").read_text().startswith(line), name
    assert not (tmp_path / "none").exists() and not (tmp_path / "busy").exists()
    with pytest.raises(ValueError, match=r"two was trained by 2 processes, not 1; resume it with torchrun for 2"):
        parallel_refusals.run(parallel_refusals.config(str(tmp_path / "two")), resume=True)
    parallel_refusals.run(parallel_refusals.config(str(tmp_path / "one"), stop_after=1))
    state = torch.load(tmp_path / "one" / "checkpoint.pt", weights_only=True)
    assert state["run"]["ranks"] == 1 and "seed" in state["run"]["config"]
    assert len(history(tmp_path / "new")) == 2


def children(process: subprocess.Popen) -> list[int]:
    """Process numbers of the ranks."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == process.pid and b"bitbayes" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except (OSError, ValueError):
            continue
    return sorted(found)


@needs.LINUX.unless(Path("/proc/self/stat").exists())
def test_a_killed_rank_costs_nothing(tmp_path: Path) -> None:
    words = ["-m", "bitbayes", "train", "digits", "--epochs", "8", "--seed", "3"]
    whole = torchrun(*words, "--out", str(tmp_path / "whole"))
    output, _ = whole.communicate(timeout=180)
    assert whole.returncode == 0, output
    killed = torchrun(*words, "--out", str(tmp_path / "killed"), restarts=2)
    end = time.monotonic() + 120
    while saved_epoch(tmp_path / "killed") < 2:
        assert killed.poll() is None and time.monotonic() < end, "the run does not get there"
        time.sleep(0.02)
    at = saved_epoch(tmp_path / "killed")
    os.kill(children(killed)[-1], signal.SIGKILL)
    output, _ = killed.communicate(timeout=180)
    assert killed.returncode == 0, output
    assert at < 8, "the kill came too late to test anything"
    states = [torch.load(tmp_path / n / "checkpoint.pt", weights_only=True) for n in ("whole", "killed")]
    for state in states:
        for row in state["history"]:
            row.pop("seconds")
    assert equal(*states)
    assert (tmp_path / "killed" / "summary.json").exists()


def test_ranks_share_the_float_network_that_is_trained_first(tmp_path: Path) -> None:
    """The second process waits until the first has written its weights."""
    words = "-m bitbayes train digits --rule ste --pretrain-epochs 1 --epochs 1 --device cpu --out".split()
    process = torchrun(*words, str(tmp_path / "run"))
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert (tmp_path / "run-pretrained" / "summary.json").is_file()
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["pretrained"] == str(tmp_path / "run-pretrained") and len(config["pretrained_sha256"]) == 64
