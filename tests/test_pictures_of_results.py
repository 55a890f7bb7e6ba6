"""The pictures of docs/pictures that show result files and tables of pages: every number is drawn."""

import importlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def picture(monkeypatch):
    """Return a function that imports a module of docs/pictures."""
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "pictures"))
    return importlib.import_module


def drawn(axis, size):
    """Return the x coordinates of all markers of this size."""
    lines = [line for line in axis.lines if line.get_marker() == "o" and line.get_markersize() == size]
    return sorted(float(x) for line in lines for x in line.get_xdata())


def test_every_seed_of_a_result_file_has_a_dot(picture):
    (axis,) = picture("results_mnist").draw().axes
    rows = json.loads((ROOT / "docs" / "results" / "mnist-quick.json").read_text())["rows"]
    assert drawn(axis, 4) == sorted(value for row in rows for value in row["test"]["values"])
    assert drawn(axis, 8) == pytest.approx(sorted(row["test"]["mean"] for row in rows), abs=1e-4)
    assert len(axis.get_yticklabels()) == len(rows)


def test_differences_from_ste_are_those_of_the_table(picture):
    mode, mean = picture("results_one_setting").draw().axes
    assert min(drawn(mode, 8)) == pytest.approx(76.54 - 78.02, abs=0.01)
    assert max(drawn(mean, 8)) == pytest.approx(80.53 - 79.60, abs=0.01)


def test_tables_of_a_page_are_read_without_their_headings(picture):
    (rows,) = picture("parts.pages").tables("estimators/tempered.md")
    assert rows[0][:2] == ["1", "straight-through"] and len(rows) == 27
    shares, ratios, biases = picture("parts.pages").tables("estimators/mnist.md")
    assert shares[-1][:3] == ["1000", "98", "0"]
    assert (len(shares), len(ratios), len(biases)) == (4, 16, 12)


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "pictures").glob("results_*.py")), ids=lambda path: path.stem)
def test_a_committed_picture_shows_the_result_files_as_they_are(picture, path):
    fresh = picture("style").svg(picture(path.stem).draw())
    committed = (ROOT / "docs" / "images" / f"{path.stem}.svg").read_text(encoding="utf-8")
    assert fresh == committed, f"run: python docs/pictures {path.stem}"
