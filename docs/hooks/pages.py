"""Fails the docs build on a page that is too wide, too long, or holds a dead link.

mkdocs checks the links between pages of the site. This hook checks those that mkdocs never sees, in the README and the
other files that are read on their own, and the form of all pages.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from mkdocs.exceptions import PluginError

ROOT = Path(__file__).resolve().parent.parent.parent
ALONE = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "CODE_OF_CONDUCT.md")),
    *sorted((ROOT / ".github").rglob("*.md")),
    *sorted((ROOT / "examples").glob("*.ipynb")),
]
PAGES = [*(page for page in ALONE if page.exists()), *sorted((ROOT / "docs").rglob("*.md"))]

WIDTH, CODE_WIDTH = 100, 80  # characters of a line of prose, and of code, which must fit into the column of the site
LONGEST = {"README.md": 120}  # lines of a file
PAGE = 200  # lines of any other page of the site
RECORDS = ("docs/log.md", "docs/results", "docs/api", "docs/decisions")  # they are as long as they need to be

_OF_GITHUB = "../../"  # leads from a file of the repository to another page about it, such as its advisories

_FENCE = re.compile(r"^ *(```|~~~).*?^ *\1", re.M | re.S)
_LINK = re.compile(
    r"\[[^\[\]]*\]\(\s*<?([^()\s<>]+)>?(?:\s+\"[^\"]*\")?\s*\)|^\[[^\[\]]+\]:\s+(\S+)|\b(?:href|src)=\"([^\"]+)\"", re.M
)
_HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.M)
_ITEM = re.compile(r" {0,3}([-*+]|\d+[.)]|:::) ")  # of a list, or the heading of a part of the API with its options
_UNBREAKABLE = re.compile(r"^\s*(\||!\[|\[[^\]]+\]:|<|\S+$)")  # a table, an image, a link's target, HTML, one long word


def prose(page: Path) -> str:
    """Return the text of a page without its blocks of code, which may hold brackets and number signs of their own."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        cells = (cell["source"] for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown")
        text = "\n\n".join("".join(source) for source in cells)
    return _FENCE.sub("", text)


def links(page: Path) -> list[str]:
    """Return the targets of all links and images of a page."""
    text = re.sub(r"`[^`]*`", "", prose(page))
    return [next(filter(None, groups)) for groups in _LINK.findall(text)]


def anchors(page: Path) -> set[str]:
    """Return the anchors that a page names, and those of its headings as mkdocs and as GitHub make them.

    GitHub keeps letters of every alphabet.
    """
    found = set(re.findall(r'<a id="([^"]+)"', prose(page)))
    for heading in _HEADING.findall(prose(page)):
        words = re.sub(r"\[([^\[\]]*)\]\([^()]*\)", r"\1", heading).replace("`", "").lower()
        found.add(re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", words, flags=re.ASCII).strip()))
        found.add(re.sub(r"[^\w\s-]", "", words).strip().replace(" ", "-"))
    return found


def broken_links(page: Path) -> list[str]:
    """Return one line for every link that leads nowhere."""
    found = []
    for link in links(page):
        parts = urlsplit(link)
        if link.startswith(_OF_GITHUB):
            continue
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


def wide_lines(page: Path) -> Iterator[str]:
    """Yield one line for every line of a Markdown page that is wider than prose or code may be."""
    fenced = listed = False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
            continue
        indented = line.startswith("    ")
        if line and not indented:
            listed = bool(_ITEM.match(line))  # what follows an item and is indented belongs to it
        code = fenced or (indented and not listed)
        if code and not fenced and re.match(r"    #+ [A-Z]", line):
            yield f"line {number}: a heading that is indented is shown as code"
        length = len(line) - 4 * (code and not fenced)  # the indentation is not shown
        width = CODE_WIDTH if code else WIDTH
        if length > width and (code or not _UNBREAKABLE.match(line)):
            found = "code" if code else "prose"
            yield f"line {number}: {length} characters; {found} has at most {width}"


def too_long(page: Path) -> Iterator[str]:
    """Yield a line if a page has more lines than a reader should have to scroll through."""
    name = page.relative_to(ROOT).as_posix()
    if page.suffix == ".md" and (name in LONGEST or name.startswith("docs/")) and not name.startswith(RECORDS):
        lines, most = len(page.read_text(encoding="utf-8").splitlines()), LONGEST.get(name, PAGE)
        if lines > most:
            yield f"{lines} lines; it may have at most {most}"


def complaints(page: Path) -> list[str]:
    """Return what is wrong with a page, one line each; dead links only where mkdocs does not look for them."""
    found = list(too_long(page)) + (broken_links(page) if page in ALONE else [])
    return found + (list(wide_lines(page)) if page.suffix == ".md" else [])


def on_pre_build(config: Any) -> None:
    """Fail the build with everything at once."""
    found = [f"{page.relative_to(ROOT)}: {complaint}" for page in PAGES for complaint in complaints(page)]
    if found:
        raise PluginError("pages to mend:\n  " + "\n  ".join(found))
