"""Print tables and texts of commands unchanged, in whatever encoding the terminal has."""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import io
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

from bitbayes.errors import require
from bitbayes.table import Table

_PLAIN = {"±": "+-", "×": "x", "–": "-", "—": "-", "−": "-", "…": "...", "•": "*", "λ": "lambda", "τ": "tau"}
_PLAIN |= dict.fromkeys("╭╮╰╯┌┐└┘├┤┬┴┼┏┓┗┛┣┫┳┻╋╇╈┡┩", "+") | dict.fromkeys("─━", "-") | dict.fromkeys("│┃", "|")
_NAME = "bitbayes.plain"
_ESCAPES, _CHOICES = re.compile(r"\x1b\[[\d;]*m"), re.compile(r"\{[^{}\s]{60,}\}")
_OPTION = re.compile(r"\[--?\w[^\[\]]*(?:\[[^\[\]]*(?:\[[^\[\]]*\])?\])?\]")  # [--threads [INT [INT ...]]]


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Return similar characters for those that an encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(_PLAIN.get(character, "?") for character in missing), error.end


codecs.register_error(_NAME, _plain)


@contextlib.contextmanager
def encodable() -> Iterator[None]:
    """Print similar characters in place of those that stdout or stderr cannot encode.

    Example:
        >>> with encodable():
        ...     print("98.86 ± 0.05".encode("ascii", "bitbayes.plain").decode())
        98.86 +- 0.05
    """
    strict = [
        stream
        for stream in (sys.stdout, sys.stderr)
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape", "backslashreplace")
    ]
    before = [stream.errors for stream in strict]
    for stream in strict:
        stream.reconfigure(errors=_NAME)
    try:
        yield
    finally:
        for stream, errors in zip(strict, before, strict=True):
            if not stream.closed:
                stream.reconfigure(errors=errors)


@contextlib.contextmanager
def folded() -> Iterator[None]:
    """Wrap lines that are printed inside the block and are wider than the terminal.

    A long list of choices in braces becomes the word COMMAND.

    Example:
        >>> with folded():
        ...     print("usage: bitbayes {" + ",".join(["train"] * 20) + "}")
        usage: bitbayes COMMAND
    """
    taken, width = _Taken(sys.stdout), shutil.get_terminal_size().columns
    try:
        with contextlib.redirect_stdout(taken):
            yield
    finally:
        for line in taken.getvalue().splitlines(keepends=True):
            sys.stdout.write(_fold(line, width))


class _Taken(io.StringIO):
    """Text buffer with the encoding and terminal properties of the stream that it replaces."""

    def __init__(self, stream: Any) -> None:
        super().__init__()
        self._stream = stream

    @property
    def encoding(self) -> str | None:  # type: ignore[override]
        return getattr(self._stream, "encoding", None)

    def isatty(self) -> bool:
        return self._stream.isatty()


def _fold(line: str, width: int) -> str:
    text, end = line.rstrip("\n"), "\n" if line.endswith("\n") else ""
    if len(_ESCAPES.sub("", text)) <= width:
        return line
    text = _OPTION.sub(lambda match: match[0].replace(" ", "\xa0"), _CHOICES.sub("COMMAND", text))
    filled = textwrap.fill(text, width, subsequent_indent="  " * text.startswith("usage"), break_on_hyphens=False)
    return filled.replace("\xa0", " ") + end


def show(*parts: Table | str) -> None:
    """Print tables and texts unchanged: brackets and colons in names and paths are not markup.

    On a terminal, texts in tables are wrapped. A table whose names and numbers need more columns than the terminal has
    is printed wider, so that no cell is cut off.
    """
    rich = require("rich.console", "train")
    console = rich.Console(file=sys.stdout, width=None if sys.stdout.isatty() else 180, markup=False, emoji=False)
    usual = console.width
    for part in parts:
        if isinstance(part, Table):
            table = _printable(part).rich(usual)
            console.width = max(usual, table.width)
            console.print(table)
            console.width = usual
        else:
            console.print(part, soft_wrap=not sys.stdout.isatty(), highlight=False)


def _printable(table: Table) -> Table:
    """Return the table in characters that stdout can encode, so that replacements do not shift its columns."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"

    def text(cell: str) -> str:
        return cell.encode(encoding, _NAME).decode(encoding)

    rows = [[text(cell) for cell in row] for row in table.rows]
    heads = [text(head) for head in table.heads]
    return dataclasses.replace(table, title=text(table.title), heads=heads, rows=rows, caption=text(table.caption))
