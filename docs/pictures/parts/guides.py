"""Run the code of a guide, so that its picture shows the very network that the guide trains."""

from __future__ import annotations

import contextlib
import io
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import torch

DOCS = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def names_after(page: str, count: int) -> dict[str, Any]:
    """Return the names that the first `count` python blocks of `docs/PAGE.md` leave behind.

    The blocks run in a temporary folder, on one thread, as `tests/test_docs.py` runs them. What they print is dropped.
    """
    blocks = _BLOCK.findall((DOCS / f"{page}.md").read_text(encoding="utf-8"))[:count]
    found: dict[str, Any] = {"__name__": "__docs__"}
    threads, here = torch.get_num_threads(), Path.cwd()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    try:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            os.chdir(folder)
            try:
                for block in blocks:
                    exec(compile(block, page, "exec"), found)
            finally:
                os.chdir(here)
    finally:
        torch.set_num_threads(threads)
    return found
