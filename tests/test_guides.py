"""What every guide has: an example with its output, a picture, a table, caveats; and lines that fit a screen."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from test_docs import BLOCK, blocks, shown_output

DOCS = Path(__file__).resolve().parents[1] / "docs"
GUIDES = ["quickstart", "binarise", "which-rule", "trust", "continual", "add-a-rule", "runs"]
PICTURE = re.compile(r"!\[[^\[\]]{20,}\]\((images/[\w-]+\.svg)\)")

guides = pytest.mark.parametrize("name", GUIDES)


def text_of(name: str) -> str:
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


@guides
def test_a_guide_has_an_example_a_picture_a_table_and_caveats(name: str) -> None:
    text = text_of(name)
    assert blocks(DOCS / f"{name}.md") and shown_output(DOCS / f"{name}.md")
    assert PICTURE.search(text)
    assert "\n| --- |" in text
    assert "\n## Caveats\n" in text


@guides
def test_a_guide_fits_a_screen(name: str) -> None:
    """Lines that cannot be broken, such as rows of tables, are not counted."""
    text = text_of(name)
    assert text.count("\n") <= 200
    assert not [line for m in BLOCK.finditer(text) for line in m.group(2).splitlines() if len(line) > 80]
    prose = BLOCK.sub("", text).splitlines()
    assert not [line for line in prose if len(line) > 100 and not line.startswith("|")]


@guides
def test_a_guide_describes_the_present(name: str) -> None:
    assert not re.findall(r"\b20\d\d-\d\d-\d\d\b", text_of(name))


@guides
def test_a_picture_follows_the_scheme_of_the_reader(name: str) -> None:
    """A colour that is no variable would be invisible on one of the two backgrounds."""
    for path in PICTURE.findall(text_of(name)):
        svg = (DOCS / path).read_text(encoding="utf-8")
        assert (
            len(svg) < 150_000
            and "prefers-color-scheme:dark" in svg
            and "fill: var(--paper)" in svg.replace('fill="var(--paper)"', "fill: var(--paper)")
        )
        assert not re.findall(r"#[0-9a-fA-F]{6}\b", re.sub(r"<style>.*?</style>", "", svg, flags=re.DOTALL))
        assert (DOCS / "pictures" / f"{Path(path).stem}.py").is_file()
