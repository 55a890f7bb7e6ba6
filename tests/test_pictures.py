"""The pictures of the documentation: each is made by a file of its own and is readable in both schemes."""

import importlib
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
IMAGES = sorted((ROOT / "docs" / "images").glob("*.svg"))


@pytest.fixture
def style(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "pictures"))
    return importlib.import_module("style")


@pytest.mark.parametrize("image", IMAGES, ids=lambda path: path.name)
def test_pictures_follow_the_scheme_of_the_reader(image, style):
    text = image.read_text(encoding="utf-8")
    assert style.scheme() in text and (ROOT / "docs" / "pictures" / f"{image.stem}.py").exists()
    drawn = re.sub(r"<style[^>]*>.*?</style>|base64,[^\"]*|\"#\w+\"|url\(#\w+\)", "", text, flags=re.DOTALL)
    assert not re.findall(r"#[0-9a-fA-F]{6}\b", drawn), "a colour that style.py does not name"
    assert len(text) < 150_000


def test_colours_of_a_figure_become_names(style):
    figure, axes = style.new_figure()
    axes[0, 0].plot([0, 1], [0, 1], color=style.ORANGE)
    text = style.svg(figure)
    assert "stroke: var(--orange)" in text and style.ORANGE not in text.replace(style.scheme(), "")
    assert style.svg(figure) == text


@pytest.mark.usefixtures("style")
def test_unknown_pictures_are_refused(capsys):
    names = runpy.run_path(str(ROOT / "docs" / "pictures" / "__main__.py"))
    assert names["main"](["nonsense"]) == 2
    assert "nonsense" in capsys.readouterr().err and {"belief", "moons"} <= set(names["NAMES"])
