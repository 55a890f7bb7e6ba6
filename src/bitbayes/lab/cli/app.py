"""The command line: parsing, errors in one line, exit codes. Each group of commands has its own file."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from typing import Any

from bitbayes import __version__

try:
    from bitbayes.lab.cli import generate, new, packed, reproduce, studies, train
    from bitbayes.lab.cli.complaints import one_line, unknown_command
    from bitbayes.lab.cli.output import encodable, folded
    from bitbayes.lab.cli.shared import REGISTRY, Command, readable, tyro
except ImportError as missing:
    raise SystemExit(f"bitbayes: {missing}") from None

_ABOUT = (
    "Train, evaluate and pack binary neural networks, and reproduce published results. `bitbayes COMMAND --help` "
    "explains a command. `bitbayes --version` prints the version. --debug, at any place, shows tracebacks of errors."
)
_KINDS = (
    *(train.Recipes, train.Train, new.New, train.Evaluate, generate.Generate),
    *(reproduce.Reproduce, studies.Demo, studies.Continual),
    *(packed.Pack, packed.Run, packed.Bench, packed.Summary, packed.Export, packed.Zoo, reproduce.Report, studies.Tune),
)
_COMMANDS = {kind.__name__.lower(): readable(kind) for kind in _KINDS}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Words of the command line; None reads those of this process. `--debug`, at any place, shows the
            tracebacks of errors.

    Returns:
        The exit code: 0 for success, 1 for failure, 2 for wrong usage.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    with encodable():
        return _main(words, debug)


def _main(words: list[str], debug: bool) -> int:
    command = None
    try:
        if words == ["--version"]:
            print(f"bitbayes {__version__}")
            return 0
        command = _parse(words)
        if isinstance(command, int):
            return command
        command.run()
    except KeyboardInterrupt as stop:
        return _fail(_interrupted(command, stop), 1)
    except BrokenPipeError:  # `bitbayes recipes | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        advice = command.advice(saved=True) if isinstance(command, Command) else Command.again
        if advice != Command.again:  # it was in the middle of work
            return _fail(f"interrupted, because what read the output has ended; {advice}", 1)
        return 1
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _fail(_told(error), 2 if isinstance(error, ValueError) else 1)
    return 0


def _told(error: Exception) -> str:
    """Return what an error says, in one line; the system's own errors begin with the file."""
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def _fail(line: str, code: int) -> int:
    print(f"bitbayes: {line}", file=sys.stderr)
    return code


def _interrupted(command: Any, stop: KeyboardInterrupt) -> str:
    """Return where a command was interrupted and how to continue it."""
    what = str(stop) or "interrupted"
    # A run raises its own message; see `bitbayes.lab.train.Interrupted`.
    advice = getattr(command, "advice", lambda saved: "give the same command again")
    return f"{what}; {advice(getattr(stop, 'saved', False))}"


def _parse(words: list[str]) -> Any:
    """Return the command, or an exit code after printing help or one line about wrong usage."""
    if words and not words[0].startswith("-") and words[0] not in _COMMANDS:
        return _fail(unknown_command(words[0], _COMMANDS), 2)
    long = ("--output" if word == "-o" else word for word in words)
    options = [word.partition("=")[0] for word in long if word.startswith("--")]
    twice = next((name for name in options if options.count(name) > 1), None)
    if twice is not None:  # the last one would silently win
        return _fail(f"{twice} was given twice; give it once, with all of its values", 2)
    complaint, name = io.StringIO(), words[0] if words and words[0] in _COMMANDS else None
    try:
        with contextlib.redirect_stderr(complaint), folded():
            command = tyro.extras.subcommand_cli_from_dict(
                _COMMANDS, prog="bitbayes", args=words, description=_ABOUT, registry=REGISTRY
            )
    except SystemExit as stop:
        if stop.code in (None, 0):
            print("" if name is None else _COMMANDS[name].epilog, end="")
            return 0
        return _fail(one_line(complaint.getvalue(), name, _COMMANDS), 2)
    # An option of several values may have none, and would silently do nothing.
    given = {name: value for part in (command, *vars(command).values()) for name, value in _fields(part)}
    empty = next((option for option in options if given.get(option[2:].replace("-", "_")) == ()), None)
    return command if empty is None else _fail(f"{empty} was given without a value; give one, or leave it out", 2)


def _fields(part: Any) -> Iterable[tuple[str, Any]]:
    return vars(part).items() if dataclasses.is_dataclass(part) else ()
