"""Errors that several parts of the package raise, and the hints that they give."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import TypeVar

T = TypeVar("T")


def require(module: str, extra: str) -> ModuleType:
    """Import an optional dependency, or say which extra brings it.

    Args:
        module: Dotted module name.
        extra: Extra of this package that installs the module.

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
        raise ImportError(f"{module} is not installed; run: pip install 'bitbayes[{extra}]'") from error


def closest(name: str, known: Iterable[str], cutoff: float = 0.0) -> str | None:
    """Return the known name that is most like the given one, or None if none is alike enough.

    Args:
        name: Name that does not exist.
        known: Names that exist.
        cutoff: Least similarity, from 0 (anything) to 1 (equal).

    Example:
        >>> closest("bayesbin", ["ste", "bayesbinn"])
        'bayesbinn'
    """
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)), None)


def nearest(kind: str, name: str, known: Iterable[str]) -> ValueError:
    """Return the error for a name that does not exist, with the closest name that does.

    Args:
        kind: Word for what has the name, such as "rule".
        name: Name that does not exist.
        known: Names that exist.

    Example:
        >>> print(nearest("rule", "bayesbin", ["ste", "bayesbinn"]))
        no rule is called 'bayesbin'; did you mean 'bayesbinn'? There are: ste, bayesbinn
    """
    names = list(known)
    alike = closest(name.lower(), names, 0.4)
    hint = "" if alike is None else f"did you mean {alike!r}? "
    return ValueError(f"no {kind} is called {name!r}; {hint}There are: {', '.join(names)}")


def chosen(option: str, name: str, table: Mapping[str, T]) -> T:
    """Look up the value of an option.

    Args:
        option: Argument whose value is the name.
        name: Name to look up.
        table: Values by name.

    Returns:
        The entry of the table.

    Raises:
        ValueError: If the table has no such name; the message has the closest one.

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
