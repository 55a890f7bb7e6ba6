"""Fails the docs build on a public name without a docstring or without an entry in the API pages.

Public is what `__all__` of `bitbayes` and of its packages, at any depth, lists. A name counts as
documented when the built API pages hold an anchor for it: what the reader can really find.
"""

import importlib
import inspect
import pkgutil
import re
from typing import Any

from mkdocs.exceptions import PluginError

PACKAGE = "bitbayes"
ANCHOR = re.compile(r'id="(bitbayes[\w.]*)"')
_anchors: set[str] = set()


def public_names() -> dict[str, Any]:
    """Maps every public dotted path to its object; a class of two paths appears twice."""
    package = importlib.import_module(PACKAGE)
    modules = [package]
    for info in pkgutil.walk_packages(package.__path__, f"{PACKAGE}."):
        if info.ispkg and not info.name.rsplit(".", 1)[1].startswith("_"):
            modules.append(importlib.import_module(info.name))
    return {
        f"{module.__name__}.{name}": getattr(module, name)
        for module in modules
        for name in getattr(module, "__all__", ())
        if not name.startswith("_")
    }


def undocumented(names: dict[str, Any], anchors: set[str]) -> list[str]:
    """Says what is missing, one line a name."""
    # One anchor serves every path of an object: bitbayes.STE is also bitbayes.rules.STE.
    found = {id(value) for path, value in names.items() if path in anchors}
    lines = []
    for path, value in sorted(names.items()):
        if inspect.ismodule(value):
            continue  # its own names are in the table
        describable = inspect.isclass(value) or inspect.isroutine(value)
        # A dataclass without a docstring is given its own signature as one.
        doc = (getattr(value, "__doc__", None) or "").strip() if describable else "data"
        if not doc or (inspect.isclass(value) and doc.startswith(f"{value.__name__}(")):
            lines.append(f"{path}: no docstring")
        home = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"
        if path not in anchors and home not in anchors and id(value) not in found:
            lines.append(f"{path}: add '::: {path}' to a page in docs/api/")
    return lines


def on_pre_build(config: Any) -> None:
    """Starts from nothing: `mkdocs serve` builds many times in one process."""
    _anchors.clear()


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Collects the anchors of the API pages."""
    if page.file.src_uri.startswith("api/"):
        _anchors.update(ANCHOR.findall(output))
    return output


def on_post_build(config: Any) -> None:
    """Fails the build with every missing name at once."""
    missing = undocumented(public_names(), _anchors)
    if missing:
        raise PluginError("undocumented public names:\n  " + "\n  ".join(missing))
