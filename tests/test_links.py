"""Links of everything that is read on its own, checked offline: files exist, anchors are headings, tests have the name.

mkdocs checks links between pages of the site when it is built, those to generated API entries included.
"""

import json
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").glob("*.ipynb")),
]
LINK = re.compile(
    r"\[[^\[\]]*\]\(\s*<?([^()\s<>]+)>?(?:\s+\"[^\"]*\")?\s*\)|^\[[^\[\]]+\]:\s+(\S+)|\b(?:href|src)=\"([^\"]+)\"", re.M
)
HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.M)
FENCE = re.compile(r"^(```|~~~).*?^\1", re.M | re.S)


def text_of(page):
    """Without code, which may hold brackets and number signs of its own."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        cells = (cell["source"] for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown")
        text = "\n\n".join("".join(source) for source in cells)
    return FENCE.sub("", text)


def links(page):
    text = re.sub(r"`[^`]*`", "", text_of(page))
    return [next(filter(None, groups)) for groups in LINK.findall(text)]


def anchors(page):
    """Of the headings, as mkdocs and as GitHub make them; the latter keeps letters of every alphabet."""
    found = set()
    for heading in HEADING.findall(text_of(page)):
        words = re.sub(r"\[([^\[\]]*)\]\([^()]*\)", r"\1", heading).replace("`", "").lower()
        found.add(re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", words, flags=re.ASCII).strip()))
        found.add(re.sub(r"[^\w\s-]", "", words).strip().replace(" ", "-"))
    return found


def broken(page):
    """One line for every link that leads nowhere."""
    found = []
    for link in links(page):
        parts = urlsplit(link)
        if parts.scheme in ("http", "https", "mailto"):
            if parts.scheme != "mailto" and "." not in parts.netloc:
                found.append(f"{link}: no host")
            continue
        target = page if not parts.path else (page.parent / unquote(parts.path)).resolve()
        if parts.scheme or parts.netloc or link.startswith("/"):
            found.append(f"{link}: neither relative nor of the web")
        elif not target.exists():
            found.append(f"{link}: there is no such file")
        elif parts.fragment and target.suffix == ".md" and parts.fragment not in anchors(target):
            found.append(f"{link}: there is no such heading")
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    assert broken(page) == []


def test_there_are_links_to_check():
    assert sum(len(links(page)) for page in PAGES) > 50
    assert len(links(ROOT / "README.md")) > 15


def test_broken_links_are_found(tmp_path):
    """The checker itself."""
    (tmp_path / "other.md").write_text("# What τ = 1e-10 does\n\n```sh\n# no heading\n```\n\n## Two  words, `code`\n")
    good = ["other.md", "other.md#two-words-code", "#here", "https://example.org/a", "<other.md>", 'other.md "title"']
    good += ["other.md#what-1e-10-does", "other.md#what-τ--1e-10-does"]
    page = tmp_path / "page.md"
    page.write_text(
        "# Here\n\n" + "\n".join(f"[a b]({link})" for link in good) + "\n`[x](code.md)`\n\n[ref]: other.md\n"
    )
    assert len(links(page)) == len(good) + 1
    assert broken(page) == []
    bad = ["absent.md", "other.md#no-heading", "#there", "/work", "http://nowhere", "../x/", "file:///etc"]
    page.write_text("\n".join(f"![a]({link})" for link in bad) + '\n<img src="absent.png">\n')
    assert len(broken(page)) == len(bad) + 1


def test_tests_that_pages_name_exist():
    """A claim names the test that computes it."""
    known = {
        name
        for path in sorted((ROOT / "tests").glob("test_*.py"))
        for name in (path.name, *re.findall(r"def (test_\w+)", path.read_text(encoding="utf-8")))
    }
    named = {page.name: set(re.findall(r"`(?:tests/)?(test_\w+(?:\.py)?)`", page.read_text("utf-8"))) for page in PAGES}
    assert len(named["theory.md"]) > 8
    assert {name for names in named.values() for name in names} <= known


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_pages_that_most_users_need_are_linked_from_the_front(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert all(f"{name}.md)" in text for name in ("quickstart", "binarise", "which-rule", "draw"))
