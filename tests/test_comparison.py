"""The page that compares: its table is what the picture draws, and every library has a source."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

import needs
from bitbayes.lab.train.rules import RULES

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


def rows(section: str) -> dict[str, list[str]]:
    """The rows of a table by their first column, without the heading."""
    lines = re.findall(r"^\|(.*)\|$", SECTIONS[section], re.MULTILINE)[2:]
    return {first.strip(): [cell.strip() for cell in cells] for first, *cells in (line.split("|") for line in lines)}


def test_the_table_is_what_the_picture_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    needs.EXPERIMENTS.module("matplotlib")
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "pictures"))
    picture = importlib.import_module("comparison")
    assert rows("What each one does") == {name: list(does) for name, does in picture.LIBRARIES.items()}
    assert picture.draw() is not None


def test_every_library_has_a_section_and_a_source() -> None:
    names = [name for name in rows("What each one does") if name != "bitbayes"]
    assert len(names) == 7
    for name in names:
        (title,) = (title for title in SECTIONS if name in title)
        assert "https://github.com/" in SECTIONS[title] and "**Better there.**" in SECTIONS[title]
        links, commit = rows("Sources")[name]
        assert "https://github.com/" in links and re.fullmatch(r"[0-9a-f]{7}, 20\d\d-\d\d-\d\d", commit)


def test_the_number_of_rules_is_that_of_the_library() -> None:
    assert len(RULES) - 1 == 9  # beside full precision
    assert "nine rules" in PAGE and "eight more rules" in PAGE and "Nine learning rules" in PAGE
