"""Every example runs, as a reader would run it but shorter, and says what it should."""

from __future__ import annotations

import base64
import importlib
import json
import re
import runpy
import struct
import sys
from pathlib import Path
from types import ModuleType

import matplotlib.pyplot as plt
import pytest

from generated import write
from outputs import agree

EXAMPLES = Path(__file__).parents[1] / "examples"
SHORT = {
    "two_moons.py": ["--steps", "300", "--out", "{tmp}/picture.png"],
    "mnist.py": ["{data}", "--epochs", "1", "--width", "16"],
    "own_network.py": ["--epochs", "8"],
    "continual.py": ["--epochs", "5"],
}


NOTEBOOKS = ["uncertainty.ipynb"]


def test_none_is_forgotten() -> None:
    assert {*SHORT, *NOTEBOOKS} == {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")}


@pytest.mark.parametrize("name", SHORT)
def test_example(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    data = write(tmp_path / "mnist", "mnist", train=60, test=20) if name == "mnist.py" else ""
    words = [word.format(tmp=tmp_path, data=data) for word in SHORT[name]]
    monkeypatch.setattr(sys, "argv", [name, *words])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    printed = capsys.readouterr().out
    if name == "two_moons.py":
        assert float(re.search(r"networks: ([\d.]+)", printed)[1]) > 0.9
        assert (tmp_path / "picture.png").stat().st_size > 10_000
    elif name == "mnist.py":
        assert "mean of 16: accuracy" in printed and "NLL" in printed  # the images are noise
    elif name == "own_network.py":
        assert all(float(share) > 85 for share in re.findall(r": ([\d.]+)% right", printed))
    else:
        with_prior, without = (float(value) for value in re.findall(r"mean ([\d.]+)", printed))
        assert with_prior > without + 10


@pytest.fixture
def execute(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLES.parent / "docs"))
    return importlib.import_module("notebook")


def texts(cell: dict) -> str:
    return "".join(line for output in cell["outputs"] for line in output.get("text", []))


def pictures(cell: dict) -> list[tuple[int, int]]:
    """Sizes of the pictures, which are in the first bytes of a PNG."""
    found = [output["data"]["image/png"] for output in cell["outputs"] if "data" in output]
    return [struct.unpack(">II", base64.b64decode(png)[16:24]) for png in found]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_shows_what_its_cells_give(
    name: str, execute: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run `make notebook` after a change of a cell."""
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    stored = json.loads(text)
    assert stored["nbformat"] == 4 and stored["metadata"]["kernelspec"]["language"] == "python"
    assert len({cell["id"] for cell in stored["cells"]}) == len(stored["cells"])
    assert len(text) < 200_000 and not re.search(r"/(home|root|tmp|work|Users)/", text)
    plt.switch_backend("Agg")  # no window, wherever the tests run
    monkeypatch.chdir(tmp_path)
    ran = execute.executed(stored)
    assert not list(tmp_path.iterdir())
    code = [(one, other) for one, other in zip(stored["cells"], ran["cells"], strict=True) if "outputs" in one]
    for number, (one, other) in enumerate(code, 1):
        assert one["execution_count"] == other["execution_count"] == number
        assert agree(texts(one), texts(other)), texts(other)
        assert pictures(one) == pictures(other)
    assert all(one["outputs"] for one, _ in code[1:])  # the first imports
    assert sum(len(pictures(one)) for one, _ in code) == 5
    printed = "".join(texts(other) for _, other in code)
    shares = [float(share) for share in re.findall(r"([\d.]+)% (?:right|of the known)", printed)]
    assert len(shares) == 3 and min(shares) > 90
    assert float(re.search(r"AUROC ([\d.]+)", printed)[1]) > 0.9
    sizes = [int(size.replace(",", "")) for size in re.findall(r"([\d,]+) bytes", printed)]
    assert sizes[0] < sizes[1] < sizes[2]
