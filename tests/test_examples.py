"""Every example runs, as a reader would run it but shorter, and says what it should."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

from generated import write

EXAMPLES = Path(__file__).parents[1] / "examples"
SHORT = {
    "two_moons.py": ["--steps", "300", "--out", "{tmp}/picture.png"],
    "mnist.py": ["{data}", "--epochs", "1", "--width", "16"],
    "own_network.py": ["--epochs", "8"],
    "continual.py": ["--epochs", "5"],
}


def test_none_is_forgotten() -> None:
    assert set(SHORT) == {path.name for path in EXAMPLES.glob("*.py")}


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
