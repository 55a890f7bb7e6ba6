"""Turn the error messages that tyro draws, in boxes or plain, into one line that says what was wrong."""

from __future__ import annotations

import contextlib
import io
import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any

from bitbayes.errors import closest
from bitbayes.lab.cli.shared import REGISTRY, tyro

_RULED = re.compile(r"\s*[─-]{5,}\s*")
_OPTION = re.compile(r"^[│ ] +(?:-\w(?: [A-Z]+)?, )?(--[\w-]+)", re.MULTILINE)


def unknown_command(word: str, commands: Iterable[str]) -> str:
    """Return the line for a command that does not exist.

    Example:
        >>> unknown_command("trian", ["train", "tune"])
        "there is no command 'trian'; did you mean 'train'? Choose from: train, tune; see bitbayes --help"
    """
    known = list(commands)
    alike = closest(word.lower(), known, 0.4)
    hint = "choose from" if alike is None else f"did you mean {alike!r}? Choose from"
    return f"there is no command {word!r}; {hint}: {', '.join(known)}; see bitbayes --help"


def one_line(box: str, command: str | None, commands: Mapping[str, Any]) -> str:
    """Return the message inside tyro's box as one line.

    Args:
        box: Text that tyro has drawn.
        command: Name of the command; None if the words contain no command.
        commands: All commands by name.
    """
    lines = [line.strip("│").rstrip() for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    lines = list(filter(None, lines))
    if not box.startswith("╭"):  # the title and a line below it
        lines = lines[2:]
    lines = list(itertools.takewhile(lambda line: not _RULED.fullmatch(line), lines))
    text = " ".join(map(str.strip, lines)) or "the command was not understood"
    if command is None:
        if text.startswith("Expected one of"):
            return f"no command was given; choose from: {', '.join(commands)}; see bitbayes --help"
        word = text.removeprefix("Unrecognized options: ").split(", ")[0]
        alike = closest(word, ("--version", "--help", "--debug"), 0.7)
        hint = ";" if alike is None else f"; did you mean {alike}?"
        return f"{_lowered(text)}{hint} see bitbayes --help"
    told = (
        _missing(lines, command)
        or _unrecognised(text, command, commands)
        or _no_choice(text)
        or _no_value(text)
        or _lowered(text)
    )
    return f"{told}{'' if told.endswith('?') else ';'} see bitbayes {command} --help"


def _lowered(text: str) -> str:
    text = text.rstrip(".")
    return text[:1].lower() + text[1:]


def _missing(lines: list[str], command: str) -> str | None:
    """Return which required words are missing: tyro lists each below a heading and indents its help text further."""
    if not lines or not lines[0].strip().startswith("Missing from"):
        return None
    indent = len(lines[1]) - len(lines[1].lstrip())
    wanted: list[tuple[str, list[str]]] = []
    for line in lines[1:]:
        if len(line) - len(line.lstrip()) == indent:
            wanted.append((line.strip(), []))
        else:
            wanted[-1][1].append(line.strip())
    wanted = [(name.rpartition(", ")[2], help) for name, help in wanted]  # of "-o STR, --output STR"
    what = "; ".join(f"{name}: {' '.join(help).removesuffix('(required)').strip(' .')}" for name, help in wanted)
    return f"{command} needs {what}; usage: bitbayes {command} {' '.join(name for name, _ in wanted)}"


def _unrecognised(text: str, command: str, commands: Mapping[str, Any]) -> str | None:
    # The second form is that of a word that another command has.
    match = re.match(r"Unrecognized (?:options: |or misplaced options:\s*)(.*)", text)
    if match is None:
        return None
    words = re.findall(r"(\S+) \(applied to", match[1]) or match[1].split(", ")
    wrong = next((word for word in words if word.startswith("-")), None)
    if wrong is None:
        return f"{command} takes no further argument, got {words[0]!r}"
    name = wrong.partition("=")[0]
    with contextlib.redirect_stdout(io.StringIO()) as help, contextlib.suppress(SystemExit):
        tyro.extras.subcommand_cli_from_dict(dict(commands), args=[command, "--help"], registry=REGISTRY)
    known = _OPTION.findall(help.getvalue())
    alike = closest(name, known, 0.7)
    hint = "" if alike is None else f"; did you mean {alike}?"
    return f"{command} has no option {name}{hint}"


def _no_choice(text: str) -> str | None:
    match = re.match(r"invalid choice '(.*?)' for argument '(.*?)'\. Expected one of \((.*?),?\)", text, re.IGNORECASE)
    if match is None:
        return None
    choices = re.findall(r"'(.*?)'", match[3])
    near = closest(match[1], choices, 0.4)
    hint = "" if near is None else f"; the nearest is {near}"
    return f"{match[2]} must be one of {', '.join(choices)}, got {match[1]!r}{hint}"


def _no_value(text: str) -> str | None:
    match = re.match(r"Missing value for argument '(.*?)'", text)
    if match is not None:
        return f"{match[1]} needs a value"
    match = re.match(r"Error parsing (\S+): (.*)", text)
    return None if match is None else f"{match[1]}: {match[2].rstrip('.')}"
