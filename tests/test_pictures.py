"""The pictures of the documentation: made by a file each, readable in both schemes, and shown on every guide."""

import importlib
import re
import runpy
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
IMAGES = sorted((ROOT / "docs" / "images").glob("*.svg"))
IMAGE = re.compile(r"!\[[^\]]+\]\(([^)]+)\)|<img [^>]*src=\"([^\"]+)\"")


@pytest.fixture
def style(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "pictures"))
    return importlib.import_module("style")


def guides():
    navigation = next(line for line in re.split(r"\n(?=\w)", (ROOT / "mkdocs.yml").read_text()) if line[:4] == "nav:")
    entries = {name: value for entry in yaml.safe_load(navigation)["nav"] for name, value in entry.items()}
    return [entries["Home"], *(page for entry in entries["Guides"] for page in entry.values())]


@pytest.mark.parametrize("page", guides())
def test_every_guide_has_a_picture(page):
    found = IMAGE.findall((ROOT / "docs" / page).read_text(encoding="utf-8"))
    assert found and all((ROOT / "docs" / (a or b)).exists() for a, b in found)


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
