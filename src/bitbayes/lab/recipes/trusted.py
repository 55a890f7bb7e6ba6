"""Programs that this account has run: a list of their SHA-256 and paths, so that nobody else's runs by mistake."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from bitbayes.files import check_owner
from bitbayes.lab.recipes.source import RecipeError


def store() -> Path:
    """Return the file that holds the list; a relative XDG_STATE_HOME is ignored, as its specification says."""
    given = (Path(os.environ.get(name) or "") for name in ("XDG_STATE_HOME", "LOCALAPPDATA"))
    state = next((path for path in given if path.is_absolute()), None)
    return (state or Path.home() / ".local" / "state") / "bitbayes" / "recipes.sha256"


def remember(sha256: str, path: Path) -> None:
    """Add a program and its place; where the list cannot be written, the program will be asked about again."""
    with contextlib.suppress(OSError, RuntimeError, RecipeError):
        if _lines().get(sha256) == str(path):
            return
        file = store()
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        line = f"{sha256}  {path}" if str(path).isprintable() else sha256
        with open(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "a", encoding="utf-8") as opened:
            opened.write(f"{line}\n")  # one write, as several processes may append


def known(sha256: str) -> bool:
    """Return whether the user has run a program before.

    Raises:
        RecipeError: If somebody else may have written the list.
    """
    return sha256 in _lines()


def origin(sha256: str) -> Path | None:
    """Return where the program was when the user ran it last, or None if this is not known."""
    with contextlib.suppress(RecipeError):
        path = Path(_lines().get(sha256, ""))
        return path if path.is_absolute() else None
    return None


def _lines() -> dict[str, str]:
    """Return the paths of programs by their SHA-256."""
    try:
        file = store()
        text = file.read_text(encoding="utf-8", errors="replace")
    except (OSError, RuntimeError):  # no list, or no home
        return {}
    try:
        for place in (file.parent, file):
            check_owner(place, "XDG_STATE_HOME")
    except OSError as error:
        raise RecipeError(str(error)) from None
    found = dict[str, str]()
    for line in text.splitlines():
        sha256, _, path = line.partition("  ")
        found[sha256] = path
    return found
