"""Programs that this account has run: a list of their SHA-256, so that nobody else's runs by mistake."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def store() -> Path:
    """Return the file that holds the list."""
    state = os.environ.get("XDG_STATE_HOME") or os.environ.get("LOCALAPPDATA")
    return Path(state or Path.home() / ".local" / "state", "bitbayes", "recipes.sha256")


def remember(sha256: str, text: str) -> None:
    """Add a program that the user has named; where the list cannot be written, it will be asked about again."""
    if known(sha256):
        return
    with contextlib.suppress(OSError, RuntimeError):
        path = store()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        shown = "".join(letter if letter.isprintable() else "?" for letter in text)
        with open(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "a", encoding="utf-8") as file:
            file.write(f"{sha256}  {shown}\n")  # one write, as several processes may append


def known(sha256: str) -> bool:
    """Return whether the user has run a program before."""
    try:
        lines = store().read_text(encoding="utf-8", errors="replace").splitlines()
    except (OSError, RuntimeError):  # no list, or no home
        return False
    return any(line.split("  ")[0] == sha256 for line in lines)
