"""Helpers of all commands: types for tyro, groups of options, and functions that read their values."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, get_type_hints

from bitbayes.errors import require
from bitbayes.lab.choices import Overrides

tyro = require("tyro", "train")

Name = tyro.conf.Positional[str]
Names = Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="RUN...")]
Flag = tyro.conf.FlagCreatePairsOff[bool]
Output = Annotated[str, tyro.conf.arg(aliases=["-o"])]


def options_of(kind: type, *names: str, defaults: Mapping[str, Any] | None = None, **texts: str) -> object:
    """Let tyro read a dataclass of choices as options of a command.

    Args:
        kind: The dataclass; a command takes each of its fields as one option without a prefix.
        *names: Fields that the command takes; others keep their defaults. Without names it takes all but mappings.
        defaults: Defaults of this command, if not those of the dataclass.
        **texts: Further fields that the command takes, with help texts of its own.

    Returns:
        What stands behind the dataclass in `Annotated`.
    """
    hints, changed, parameters = get_type_hints(kind), {"device": "auto", **(defaults or {})}, []
    wanted = {*names, *texts} or {
        item.name for item in dataclasses.fields(kind) if item.default is not dataclasses.MISSING
    }
    for item in dataclasses.fields(kind):
        if item.name not in wanted:
            continue
        hint = Flag if hints[item.name] is bool and not item.default else hints[item.name]
        if item.name in texts:
            hint = Annotated[hint, tyro.conf.arg(help=texts[item.name])]
        own = {"default": changed.get(item.name, item.default), "annotation": hint}
        parameters.append(inspect.Parameter(item.name, inspect.Parameter.KEYWORD_ONLY, **own))

    def made(**values: Any) -> Any:
        return kind(**values)

    # In one line each, for tyro keeps the lines of a function's texts.
    made.__doc__ = re.sub(r"\n {8}", " ", inspect.cleandoc(kind.__doc__ or ""))
    made.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    made.__annotations__ = {each.name: each.annotation for each in parameters}
    return tyro.conf.arg(name="", constructor=made)


def chosen_device(name: str) -> str:
    """Return the device that `--device` stands for."""
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def placed(given: Overrides, **changes: Any) -> Overrides:
    """Return choices with the device that they stand for, and other changes."""
    return dataclasses.replace(given, device=chosen_device(given.device), **changes)


def parsed_options(pairs: Sequence[str], flag: str = "--set") -> dict[str, Any]:
    """Return NAME=VALUE words by name; values are JSON, or text if they are not."""
    options: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ValueError(f"{flag} takes NAME=VALUE, got {pair!r}")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options
