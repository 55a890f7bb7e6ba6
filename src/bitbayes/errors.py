"""Errors that several parts of the package raise, with hints on what to do."""

from __future__ import annotations

import difflib
import importlib
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TypeVar

T = TypeVar("T")


def require(module: str, extra: str) -> ModuleType:
    """Import an optional dependency, or raise an error that names the command that installs it.

    Args:
        module: Dotted name of the module.
        extra: Extra of this package that installs the module, such as "train".

    Returns:
        The imported module.

    Raises:
        ImportError: If the module is not installed.

    Example:
        >>> require("math", "train").floor(2.5)
        2
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{module} is not installed; run: {install_command(extra)}") from error


def install_command(extra: str) -> str:
    """Return the command that adds an extra to this installation of the package.

    The command works in any folder. It names the checkout or the file that the package was installed from. It names
    the package index only if the package came from there.

    Args:
        extra: Extra of this package, such as "train".

    Example:
        >>> install_command("train").startswith("pip install ")
        True
    """
    checkout = _checkout()
    if checkout is not None:
        return f"pip install -e {shlex.quote(f'{checkout}[{extra}]')}"
    return f"pip install {shlex.quote(_source(extra))}"


def _checkout() -> Path | None:
    """Return the root of the source tree that this module was imported from, if it is one."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / "pyproject.toml").is_file() and (root / "src" / "bitbayes").is_dir() else None


def _source(extra: str) -> str:
    """Return the requirement that makes pip install this package with an extra from where it came (PEP 610)."""
    import json  # imported here, because only an error needs these modules and `import bitbayes` should stay quick
    from importlib.metadata import PackageNotFoundError, distribution
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    try:
        record = json.loads(distribution("bitbayes").read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        record = {}
    url = record.get("url", "")
    if "vcs_info" in record:
        return f"bitbayes[{extra}] @ {record['vcs_info']['vcs']}+{url}"
    if url.startswith("file:"):
        path = Path(url2pathname(urlsplit(url).path))
        if path.exists():  # a checkout, or a wheel
            return f"{path}[{extra}]"
    return f"bitbayes[{extra}]"


def closest(name: str, known: Iterable[str], cutoff: float = 0.0) -> str | None:
    """Return the known name that is most similar to the given one, or None if none is similar enough.

    Args:
        name: Name that does not exist.
        known: Names that exist.
        cutoff: Smallest similarity that counts, from 0 (any name) to 1 (equal names).

    Example:
        >>> closest("bayesbin", ["ste", "bayesbinn"])
        'bayesbinn'
    """
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)), None)


def nearest(kind: str, name: str, known: Iterable[str]) -> ValueError:
    """Return the error for a name that does not exist; its message suggests the closest known name.

    Args:
        kind: Kind of thing that the name stands for, such as "rule".
        name: Name that does not exist.
        known: Names that exist.

    Example:
        >>> print(nearest("rule", "bayesbin", ["ste", "bayesbinn"]))
        no rule is called 'bayesbin'; did you mean 'bayesbinn'? Choose from: ste, bayesbinn
    """
    names = list(known)
    alike = closest(name.lower(), names, 0.4)
    hint = "choose from" if alike is None else f"did you mean {alike!r}? Choose from"
    return ValueError(f"no {kind} is called {name!r}; {hint}: {', '.join(names)}")


def chosen(option: str, name: str, table: Mapping[str, T]) -> T:
    """Look up the value that an option selects.

    Args:
        option: Name of the option, for the error message.
        name: Name to look up.
        table: Values by name.

    Returns:
        The entry of the table with that name.

    Raises:
        ValueError: If the table has no such name. The message suggests the closest one.

    Example:
        >>> chosen("backward", "aprox", {"approx": 1, "clipped": 2})
        Traceback (most recent call last):
        ...
        ValueError: backward must be one of 'approx', 'clipped', got 'aprox'; the nearest is 'approx'
    """
    if name in table:
        return table[name]
    known = ", ".join(map(repr, table))
    raise ValueError(f"{option} must be one of {known}, got {name!r}; the nearest is {closest(str(name), table)!r}")
