"""SIGKILL at random moments of every command that writes folders: each continuation is the run without a kill."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

import needs
from bitbayes.lab.train import RunFolder
from generated import write
from nested import equal
from test_robustness import environment

pytestmark = needs.LINUX.unless(sys.platform == "linux")

COMMANDS = {
    "train": ["train", "digits", "--epochs", "6"],
    "continual": ["continual", "split-mnist", "--scenario", "task", "--epochs", "1", "--samples", "2"],
    "tune": ["tune", "digits", "--rule", "ste", "--trials", "3", "--epochs", "2"],
    "reproduce": ["reproduce", "default", "--dataset", "digits", "--seeds", "1", "--epochs", "2"],
}
TIMES = {"seconds", "seconds_per_epoch", "peak_memory_mib", "out"}
every_command = pytest.mark.parametrize("command", COMMANDS)


@dataclass
class Server:
    """tests/killed.py."""

    process: subprocess.Popen
    log: Path

    def run(self, words: list[str], after: float | None = None) -> dict[str, Any]:
        order = {"words": words, "after": after, "log": str(self.log)}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    words = [sys.executable, "-W", "ignore", str(Path(__file__).parent / "killed.py")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(words, env={**environment(), "MPLBACKEND": "Agg"}, **pipes)
    assert process.stdout.readline() == "ready\n"
    with process:
        yield Server(process, tmp_path_factory.mktemp("server") / "log")


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: timeless(item) for name, item in value.items() if name not in TIMES}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def content(folder: Path) -> dict[str, Any]:
    """All that was written, but for times, places, pictures and tables with times."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        if path.name == "checkpoint.pt":
            found[name] = timeless(RunFolder(path.parent).read_checkpoint())
        elif path.suffix == ".jsonl":
            found[name] = [timeless(json.loads(line)) for line in path.read_text().splitlines()]
        elif path.suffix == ".json":
            found[name] = None if path.name == "environment.json" else timeless(json.loads(path.read_text()))
        elif path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:  # its metadata lie in any order
                found[name] = [file.metadata(), {key: file.get_tensor(key) for key in sorted(file.keys())}]
        else:
            found[name] = None
    return found


def survive(server: Server, command: str, kills: int, where: Path) -> tuple[int, int]:
    """Kill a command so often, at most five times in a folder, and compare what ends; return comparisons and kills."""
    words = list(COMMANDS[command])
    if command == "continual":
        words += ["--data", str(write(where / "data", "mnist", train=60, test=20))]
    moments, killed, compared = random.Random(f"{command} {kills}"), 0, 0

    def begin(out: Path, after: float | None = None) -> dict[str, Any]:
        resume = ["--resume"] if command == "train" and (out / "checkpoint.pt").exists() else []
        return server.run([*words, "--out", str(out), *resume], after)

    whole = begin(where / "whole")
    assert whole["code"] == 0, server.log.read_text()
    expected = content(where / "whole")
    while killed < kills or not compared:
        out = where / f"run{compared}"
        for _ in range(min(5, kills - killed)):
            if (found := begin(out, moments.uniform(0, whole["seconds"])))["code"] == 0:
                break
            assert found["code"] == -9, server.log.read_text()  # it may refuse in one line, but has no reason to
            killed += 1
        else:
            found = begin(out)
        assert found["code"] == 0, server.log.read_text()
        mine = content(out)
        assert mine.keys() == expected.keys()
        for name, value in expected.items():
            assert equal(mine[name], value), name
        compared += 1
    return compared, killed


@every_command
def test_kills_change_nothing(server: Server, command: str, tmp_path: Path) -> None:
    kills = 2 if command in ("train", "tune") else 1  # the others take longer
    assert survive(server, command, kills, tmp_path)[1] == kills


@pytest.mark.slow
@every_command
def test_fifty_kills_change_nothing(server: Server, command: str, tmp_path: Path) -> None:
    compared, killed = survive(server, command, 50, tmp_path)
    print(f"{command}: {killed} kills, {compared} runs compared")
    assert killed == 50
