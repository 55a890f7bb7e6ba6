"""Every example runs, as a reader would run it but shorter, and says what it should."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from generated import write

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
def cells(request: pytest.FixtureRequest) -> list[dict]:
    """Of a notebook, as the format's version 4 stores them: JSON."""
    notebook = json.loads((EXAMPLES / request.param).read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4 and notebook["metadata"]["kernelspec"]["language"] == "python"
    return notebook["cells"]


@pytest.mark.parametrize("cells", NOTEBOOKS, indirect=True)
def test_notebook_stores_no_results(cells: list[dict]) -> None:
    assert len({cell["id"] for cell in cells}) == len(cells)
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code and all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


@pytest.mark.parametrize("cells", NOTEBOOKS, indirect=True)
def test_notebook(
    cells: list[dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Its cells are plain Python, so no kernel is needed to run them from top to bottom."""
    plt.switch_backend("Agg")  # no window, wherever the tests run
    monkeypatch.chdir(tmp_path)
    namespace: dict = {"__name__": "__main__"}
    for number, cell in enumerate(cells, 1):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), namespace)
    drawn = len(plt.get_fignums())
    plt.close("all")
    printed = capsys.readouterr().out
    assert drawn == 5 and not list(tmp_path.iterdir())
    assert namespace["accuracy"] > 0.93 and namespace["apart"] > 0.9
    shares = [float(share) for share in re.findall(r"bytes, ([\d.]+)% right", printed)]
    assert len(shares) == 2 and min(shares) > 90
    sizes = [int(size.replace(",", "")) for size in re.findall(r"([\d,]+) bytes", printed)]
    assert sizes[0] < sizes[1] < sizes[2]
