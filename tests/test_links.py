"""Links lead somewhere and lines fit, on every page that is read; `make docs` checks the same."""

import re
import sys
from pathlib import Path

import pytest

import needs

needs.SITE.module("mkdocs")

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs" / "hooks"))
import pages  # noqa: E402

MARKDOWN = [page for page in pages.PAGES if page.suffix == ".md"]
NAMES = {"ids": lambda page: str(page.relative_to(ROOT))}


@pytest.mark.parametrize("page", pages.PAGES, **NAMES)
def test_pages_have_no_dead_link(page):
    assert pages.broken_links(page) == []


@pytest.mark.parametrize("page", MARKDOWN, **NAMES)
def test_pages_are_neither_wide_nor_long(page):
    assert pages.complaints(page) == []


def test_wide_and_long_pages_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    monkeypatch.setattr(pages, "ALONE", [])
    (tmp_path / "docs").mkdir()
    guide = tmp_path / "docs" / "guide.md"
    good = ["# Title", "word " * 20, "| a table | " + "x" * 200 + " |", "https://example.org/" + "x" * 200]
    good += [
        "```text",
        "c" * 80,
        "```",
        "    " + "c" * 80,
        "1. item",
        "",
        "    " + "word " * 18,
        "![a picture](images/" + "x" * 100 + ".svg)",
    ]
    guide.write_text("\n".join(good) + "\n")
    assert pages.complaints(guide) == []
    guide.write_text("word " * 21 + "\n```python\n" + "c" * 81 + "\n```\n    " + "c" * 81 + "\n" + "\n" * 200)
    found = [complaint.split(";")[0] for complaint in pages.complaints(guide)]
    assert found == ["205 lines", "line 1: 105 characters", "line 3: 81 characters", "line 5: 81 characters"]
    record = tmp_path / "docs" / "log.md"
    record.write_text("\n" * 300)
    assert pages.complaints(record) == []


def test_there_are_links_to_check():
    assert sum(len(pages.links(page)) for page in pages.PAGES) > 50
    assert len(pages.links(ROOT / "README.md")) > 15


def test_broken_links_are_found(tmp_path):
    """The checker itself."""
    other = "# What τ = 1e-10 does\n\n```sh\n# no heading\n```\n\n## Two  words, `code`\n"
    (tmp_path / "other.md").write_text(other + '\n<a id="named"></a>\n')
    good = ["other.md", "other.md#two-words-code", "#here", "https://example.org/a", "<other.md>", 'other.md "title"']
    good += ["other.md#named", "other.md#what-1e-10-does", "other.md#what-τ--1e-10-does"]
    page = tmp_path / "page.md"
    page.write_text(
        "# Here\n\n" + "\n".join(f"[a b]({link})" for link in good) + "\n`[x](code.md)`\n\n[ref]: other.md\n"
    )
    assert len(pages.links(page)) == len(good) + 1
    assert pages.broken_links(page) == []
    bad = ["absent.md", "other.md#no-heading", "#there", "/work", "http://nowhere", "../x/", "file:///etc"]
    page.write_text("\n".join(f"![a]({link})" for link in bad) + '\n<img src="absent.png">\n')
    assert len(pages.broken_links(page)) == len(bad) + 1


def test_tests_that_pages_name_exist():
    """A claim names the test that computes it."""
    known = {
        name
        for path in sorted((ROOT / "tests").glob("test_*.py"))
        for name in (path.name, *re.findall(r"def (test_\w+)", path.read_text(encoding="utf-8")))
    }
    name = re.compile(r"`(?:tests/)?(test_\w+(?:\.py)?)`")
    named = {page.name: set(name.findall(page.read_text("utf-8"))) for page in MARKDOWN}
    assert len(named["theory.md"]) > 8
    assert {name for names in named.values() for name in names} <= known


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_pages_that_most_users_need_are_linked_from_the_front(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert all(f"{name}.md)" in text for name in ("quickstart", "binarise", "which-rule", "draw"))
