"""Helpers that all commands share: types for tyro, groups of options, and functions that read values."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import types
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from bitbayes.errors import require
from bitbayes.lab.choices import Overrides

tyro = require("tyro", "train")

Name = tyro.conf.Positional[str]
Names = Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="RUN...", help_behavior_hint="")]
Flag = tyro.conf.FlagCreatePairsOff[bool]
Output = Annotated[str, tyro.conf.arg(aliases=["-o"])]

_PARSED: dict[Any, tuple[str, Callable[[str], Any], str]] = {
    int: ("INT", int, "a whole number"),
    float: ("FLOAT", float, "a number"),
    str: ("STR", str, "text"),
}  # by type: name in help, parser, and description of the expected value
REGISTRY = tyro.constructors.ConstructorRegistry()
"""Parsers of values for tyro: an option of type `X | None` may be left out and never reads the word "None"."""


@REGISTRY.primitive_rule
def _number_or_text(info: Any) -> Any:
    """Read a number or a text, which may be optional; leave other types to tyro."""
    kinds = set(get_args(info.type)) if get_origin(info.type) in (Union, types.UnionType) else {info.type}
    (kind, *more) = kinds - {type(None)} or {None}
    if more or (kind is str and len(kinds) == 1):
        return None
    if get_origin(kind) is Literal:
        words = get_args(kind)
        if len(kinds) == 1 or not all(isinstance(word, str) for word in words):
            return None
        shown, read, expected = "{" + ",".join(words) + "}", str, ""
    elif kind in _PARSED:
        words, (shown, read, expected) = None, _PARSED[kind]
    else:
        return None

    def value(given: list[str]) -> Any:
        try:
            return read(given[0])
        except ValueError:
            raise ValueError(f"expected {expected}, got {given[0]!r}") from None

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=shown,
        instance_from_str=value,
        is_instance=lambda given: given is None or isinstance(given, (int, float) if kind is float else kind or str),
        str_from_instance=lambda given: [str(given)],
        choices=words,
    )


def readable(kind: type) -> type:
    """Return a command whose help names its positional arguments and omits defaults that say nothing."""
    hints = get_type_hints(kind, include_extras=True)
    for item in dataclasses.fields(kind):
        hint = hints[item.name]
        extra = {} if item.name not in _POSITIONAL else {"metavar": _POSITIONAL[item.name]}
        kind.__annotations__[item.name] = _shown(hint, item.default, **extra)
    return kind


_POSITIONAL = {name: name.upper() for name in ("recipe", "target", "stream", "network", "file")} | {"folder": "RUN"}


def _shown(hint: Any, default: Any, **extra: Any) -> Any:
    """Return a type for which tyro prints no default if it is None, False or empty."""
    silent = default is None or default is False or default == ()
    extra |= {"help_behavior_hint": ""} if silent else {}
    return Annotated[hint, tyro.conf.arg(**extra)] if extra else hint


class Command(ABC):
    """A command of the command line. Subclasses are dataclasses whose fields are the options."""

    again: ClassVar[str] = "give the same command again"
    """Advice after Ctrl-C."""
    epilog: ClassVar[str] = ""
    """Notes and examples that `--help` prints below the options, in lines of at most 80 characters."""

    @abstractmethod
    def run(self) -> None:
        """Run the command."""

    def advice(self, saved: bool) -> str:
        """Return advice after Ctrl-C; `saved` says whether the interrupted run has a checkpoint."""
        return self.again


CONTINUES = "give the same command again to continue"


def rule_names() -> str:
    """Return the learning rules as a help text."""
    try:
        from bitbayes.lab.train.rules import RULES
    except ImportError:  # packed networks run where torch is not installed
        return "see the documentation"
    return ", ".join(RULES)


def options_of(kind: type, *names: str, defaults: Mapping[str, Any] | None = None, **texts: str) -> object:
    """Return an annotation that makes tyro read the fields of a dataclass as options of a command.

    Args:
        kind: The dataclass. Each of its fields becomes one option without a prefix.
        *names: Fields that the command takes; the others keep their defaults. Without names, the command takes all
            fields but mappings.
        defaults: Defaults that differ from those of the dataclass.
        **texts: Further fields that the command takes, with the command's own help texts.

    Returns:
        The second argument of `Annotated`, after the dataclass.
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
        default = changed.get(item.name, item.default)
        own = {"default": default, "annotation": _shown(hint, default)}
        parameters.append(inspect.Parameter(item.name, inspect.Parameter.KEYWORD_ONLY, **own))

    def made(**values: Any) -> Any:
        return kind(**values)

    # Join each text into one line, because tyro keeps the line breaks of a function's docstring.
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
    """Return the choices with `device="auto"` resolved and other changes applied."""
    return dataclasses.replace(given, device=chosen_device(given.device), **changes)


_RECORDS = {
    *("config.json", "environment.json", "summary.json", "evaluation.json", "failure.json", "ensemble.json"),
    *("metrics.jsonl", "curves.jsonl", "checkpoint.pt"),
    *("model.safetensors", "posterior.safetensors", "gaussian.safetensors"),
}  # files of runs, of streams of tasks, and of ensembles


def check_output(path: str | None, *read: str) -> None:
    """Check where a file will be written, before the work begins.

    Args:
        path: The file; None for none.
        *read: Files and folders that the command reads.

    Raises:
        ValueError: If its folder is missing, if it is a folder, a device or a pipe, or if it would replace a file that
            is read, or a record of a run.
    """
    if path is None:
        return
    target = Path(path)
    if not target.parent.is_dir():
        raise ValueError(f"there is no folder {target.parent} to write {target.name} to; create it first")
    if target.exists() and not target.is_file():
        raise ValueError(f"{path} is {'a folder' if target.is_dir() else 'not a regular file'}; write to another file")
    if any(Path(each).exists() and target.resolve() == Path(each).resolve() for each in read):
        raise ValueError(f"{path} is what the command reads; write to another file")
    if target.name in _RECORDS and _holds_run(target.parent):
        raise ValueError(f"{path} is a record of the run in {target.parent}; write to another file")
    if target.name in _RECORDS and any(target.parent.resolve() == Path(each).resolve() for each in read):
        raise ValueError(f"{path} is a file of the folder that the command reads; write to another file")


def _holds_run(folder: Path) -> bool:
    """Return whether a folder is that of a run, a stream of tasks or an ensemble; others also have a config.json."""
    if any((folder / name).is_file() for name in ("ensemble.json", "task1/config.json")):
        return True
    from bitbayes.lab.train import RunConfig

    try:
        return bool(RunConfig.load(folder))
    except ValueError:
        return False


def parsed_options(pairs: Sequence[str], flag: str = "--set") -> dict[str, Any]:
    """Return the values of NAME=VALUE words by name. A value that is not JSON stays text."""
    options: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ValueError(f"{flag} expects NAME=VALUE, got {pair!r}")
        if name in options:
            raise ValueError(f"{flag} has {name} twice; give it once")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options
