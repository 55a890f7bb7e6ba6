"""Every python block of the README and of the docs runs, in order, as a reader would paste it."""

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page):
    text = page.read_text(encoding="utf-8")
    return [(text[: m.start(1)].count("\n"), m.group(1)) for m in BLOCK.finditer(text)]


PAGES_WITH_CODE = [page for page in PAGES if blocks(page)]


@pytest.mark.parametrize("page", PAGES_WITH_CODE, ids=lambda p: str(p.relative_to(ROOT)))
def test_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    namespace = {"__name__": "__docs__"}
    try:
        for line, source in blocks(page):
            # Blank lines in front, so that a traceback shows the line of the page.
            exec(compile("\n" * line + source, str(page), "exec"), namespace)
    finally:
        torch.set_num_threads(threads)


def test_there_is_code_to_run():
    names = {page.name for page in PAGES_WITH_CODE}
    assert {"README.md", "quickstart.md", "numerics.md", "add-a-rule.md"} <= names


def test_fences_are_closed():
    for page in PAGES:
        fences = re.findall(r"^```", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert len(fences) % 2 == 0, f"{page.name}: a code fence is open"
