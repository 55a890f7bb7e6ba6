"""Recipes that users write: a Python file with a `Recipe`, and the copy of it in the folder of a run."""

from __future__ import annotations

import dataclasses
import re
import types
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from torch import nn

from bitbayes.errors import nearest
from bitbayes.lab.recipes import trusted
from bitbayes.lab.recipes.base import Recipe
from bitbayes.lab.recipes.source import RecipeError, Source, digest, run_program
from bitbayes.lab.train import RULES, Loss, RuleName, RuleSpec, RunConfig, RunFolder

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_KINDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "name": (str, "text"),
    "title": (str, "text"),
    "source": (str, "text"),
    "epochs": (int, "a whole number"),
    "batch_size": (int, "a whole number"),
    "rules": (Mapping, "a dict of RuleSpec by the names of rules"),
    "quick": (Mapping, "a dict of RuleSpec by the names of rules"),
    "common": (Mapping, "a dict of options of the rules by their names"),
    "loss": (Loss, "a Loss, such as CROSS_ENTROPY of bitbayes.lab.train"),
    "estimator": (str, "text"),
    "quick_epochs": ((int, types.NoneType), "a whole number"),
}

_OPENED: dict[tuple[str, str], Recipe] = {}  # by SHA-256 and variable


def is_file(text: str) -> bool:
    """Return whether the text of a recipe stands for a file: "my_recipe.py", or "my_recipe.py:name".

    Example:
        >>> is_file("my_recipe.py"), is_file("my_recipe.py:small"), is_file("mnist")
        (True, True, False)
    """
    return _parts(text)[0].endswith(".py")


def _parts(text: str) -> tuple[str, str]:
    """Return the path and the variable."""
    path, colon, name = text.rpartition(":")
    return (path, name) if colon and path.endswith(".py") else (text, "recipe")


def open_file(text: str, reserved: Mapping[str, Recipe]) -> Recipe:
    """Run a file that the user has named, and return the recipe that it defines.

    Args:
        text: "my_recipe.py", or "my_recipe.py:name" for another variable than `recipe`.
        reserved: Recipes whose names are taken.

    Raises:
        RecipeError: If there is no such file or recipe, or a line of the file raises an error.
    """
    path, variable = _parts(text)
    if not Path(path).is_file():
        what = "is no file" if Path(path).exists() else "does not exist"
        raise RecipeError(f"{path} {what}; `bitbayes new {path}` writes a recipe to begin with")
    for (_, name), recipe in _OPENED.items():
        if name == variable and recipe.file and recipe.file.text == text and recipe.file.place == Path(path).parent:
            if recipe.file.same_on_disk():
                return recipe
    source, module = run_program(text, Path(path))
    recipe = _opened(source, module, reserved)
    trusted.remember(source.sha256, source.path)
    return recipe


def opened(config: RunConfig) -> Recipe:
    """Return the recipe of a record among those that were opened; a record alone runs no file.

    Raises:
        RecipeError: If there is none.
    """
    text = config.recipe_file or ""
    found = _OPENED.get((config.recipe_sha256 or "", _parts(text)[1]))
    if found is None:
        raise RecipeError(f"{_parts(text)[0]} is not the file that the run was described by: it has changed meanwhile")
    return found


def check_unchanged(config: RunConfig) -> None:
    """Refuse to continue a run by a recipe file that is not the one that it began with.

    Raises:
        RecipeError: If the file has changed; the message names the two ways on.
    """
    files = RunFolder(config.out)
    if not files.has("checkpoint.pt") or not files.has("config.json"):
        return
    recorded = RunConfig.load(config.out)
    if recorded.recipe_sha256 in (None, config.recipe_sha256):
        return
    path, variable = _parts(recorded.recipe_file or "")
    copy = files.programs / PurePosixPath(path.replace("\\", "/")).name
    named = f"{copy}:{variable}" if variable != "recipe" else str(copy)
    raise RecipeError(
        f"{_parts(config.recipe_file or '')[0]} has changed since {config.out} began: continue by the copy, with "
        f"{named} in its place and --out {config.out}, or train anew with another --out"
    )


def open_copy(folder: str | Path, config: RunConfig, reserved: Mapping[str, Recipe], *, trust: bool = False) -> Recipe:
    """Run the copy of a recipe in the folder of a run, and return the recipe.

    Args:
        folder: Folder of the run.
        config: Record of the run.
        reserved: Recipes whose names are taken.
        trust: Run it although this account has not run it before.

    Raises:
        RecipeError: If it is not the program that the run was trained by, or nobody has said that it may be run.
    """
    text = config.recipe_file or ""
    run, (path, variable) = RunFolder(folder), _parts(text)
    main = PurePosixPath(path.replace("\\", "/")).name
    place, files = run.programs, run.read_programs()
    sha256 = digest(main, files)
    if main not in files or sha256 != config.recipe_sha256:
        raise RecipeError(
            f"{place} is not the program that {folder} was trained by (SHA-256 {(config.recipe_sha256 or '')[:12]}, "
            f"found {sha256[:12]}); restore the files"
        )
    found = _OPENED.get((sha256, variable))
    if not (trust or found or trusted.known(sha256)):
        raise RecipeError(
            f"{folder} needs its recipe, {place / main}, a program that this account has not run before; read it, and "
            "give --trust to run it"
        )
    if found is None:
        # The record may come from a stranger, so it does not say where the program is, from which it may read files.
        origin = trusted.origin(sha256)
        source, module = run_program(text, place / main, files, origin)
        found = _opened(source, module, reserved)
        trusted.remember(sha256, origin or source.path)
    return found


def open_source(source: Source, reserved: Mapping[str, Recipe]) -> Recipe:
    """Run a program that another process has opened, from memory, and return its recipe.

    Raises:
        RecipeError: If a line of it raises an error.
    """
    variable = _parts(source.text)[1]
    found = _OPENED.get((source.sha256, variable))
    return found or _opened(*run_program(source.text, source.place / source.main, source.files), reserved)


def _opened(source: Source, module: types.ModuleType, reserved: Mapping[str, Recipe]) -> Recipe:
    path, variable = _parts(source.text)
    found = getattr(module, variable, None)
    if not isinstance(found, Recipe):
        names = [name for name, value in vars(module).items() if isinstance(value, Recipe)]
        if found is not None:
            raise RecipeError(f"{path}: {variable} is a {type(found).__name__}, expected a Recipe")
        advice = f"there are {', '.join(names)}: choose one with {path}:{names[0]}" if names else "add recipe = ..."
        raise RecipeError(f"{path} defines no Recipe called {variable}; {advice}")
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(source.main).stem).strip("-.") or "recipe"
    default = stem if variable == "recipe" else f"{stem}-{variable}"
    recipe = dataclasses.replace(
        found, name=found.name or default, quick_epochs=found.quick_epochs or found.epochs, file=source
    )
    try:
        _check(recipe, reserved)
    except ValueError as error:
        raise RecipeError(f"{path}: {error}") from None
    _OPENED[source.sha256, variable] = recipe
    return recipe


def _check(recipe: Recipe, reserved: Mapping[str, Recipe]) -> None:
    """Refuse fields that cannot be used; those that are settings of a run are checked when there is one."""
    for name, (kind, expected) in _KINDS.items():
        value: Any = getattr(recipe, name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"{name} of the Recipe must be {expected}, got {value!r:.60}")
    if not _NAME.fullmatch(recipe.name):
        raise ValueError(f"name of the Recipe must be letters, digits, '.', '_' and '-', got {recipe.name!r}")
    if recipe.name in reserved:
        raise ValueError(f"the name {recipe.name} is that of a recipe of this package; give the Recipe another name")
    for name in ("network", "load"):
        if not callable(getattr(recipe, name)):
            raise ValueError(f"{name} of the Recipe must be a function, got {getattr(recipe, name)!r:.60}")
    if isinstance(recipe.network, nn.Module):
        raise ValueError("network of the Recipe must be a function that makes the network: every run makes its own")
    for name, spec in {**recipe.rules, **recipe.quick}.items():
        if RuleName.parse(str(name)).rule not in RULES:
            raise nearest("rule", str(name), RULES)
        if not isinstance(spec, RuleSpec):
            raise ValueError(f"rules[{name!r}] of the Recipe must be a RuleSpec, got {spec!r:.60}")
