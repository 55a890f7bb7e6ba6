"""The command line: parsing, errors in one line, exit codes. Each group of commands has its own file."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

try:
    from bitbayes.lab.cli import packed, reproduce, studies, train
    from bitbayes.lab.cli.shared import tyro
except ImportError as missing:
    raise SystemExit(f"bitbayes: {missing}") from None

_ABOUT = "Trains, evaluates and reproduces experiments with binary neural networks."
_KINDS = (
    *(train.Recipes, train.Train, train.Evaluate, reproduce.Reproduce, studies.Demo, studies.Continual),
    *(packed.Pack, packed.Run, packed.Bench, packed.Summary, packed.Export, reproduce.Report, studies.Tune),
)
_COMMANDS = {kind.__name__.lower(): kind for kind in _KINDS}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Words of the command line; None for those of this process. `--debug` anywhere shows tracebacks.

    Returns:
        The exit code: 0 done, 1 failed, 2 bad usage.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        command = _parse(words)
        if isinstance(command, int):
            return command
        command.run()
    except KeyboardInterrupt as stop:
        return _fail(str(stop) or "interrupted", 1)
    except BrokenPipeError:  # `bitbayes recipes | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _fail(" ".join(str(error).split()) or type(error).__name__, 2 if isinstance(error, ValueError) else 1)
    return 0


def _fail(line: str, code: int) -> int:
    print(f"bitbayes: {line}", file=sys.stderr)
    return code


def _parse(words: list[str]) -> Any:
    """Return the command, or the exit code after help or a wrong word, which becomes one line."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.extras.subcommand_cli_from_dict(_COMMANDS, prog="bitbayes", args=words, description=_ABOUT)
    except SystemExit as stop:
        if stop.code in (None, 0):
            return 0
        return _fail(_unboxed(complaint.getvalue()), 2)


def _unboxed(box: str) -> str:
    """Return the message inside the box that tyro draws."""
    lines = [line.strip("│ ").strip() for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    words = itertools.takewhile(lambda line: not line.startswith("─"), filter(None, lines))
    text = " ".join(words) or "the command is not understood"
    return f"{text.rstrip('.')}; see bitbayes --help"
