"""What commands print: tables and texts as they are, in whatever encoding the terminal has."""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import io
import sys
from collections.abc import Iterator

from bitbayes.errors import require
from bitbayes.table import Table

_PLAIN = {"±": "+-", "×": "x", "–": "-", "—": "-", "−": "-", "…": "...", "•": "*", "λ": "lambda", "τ": "tau"}
_PLAIN |= dict.fromkeys("╭╮╰╯┌┐└┘├┤┬┴┼┏┓┗┛┣┫┳┻╋╇╈┡┩", "+") | dict.fromkeys("─━", "-") | dict.fromkeys("│┃", "|")
_NAME = "bitbayes.plain"


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Return other characters for those that an encoding does not have."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(_PLAIN.get(character, "?") for character in missing), error.end


codecs.register_error(_NAME, _plain)


@contextlib.contextmanager
def encodable() -> Iterator[None]:
    """Print characters that stdout or stderr cannot encode as similar ones, instead of failing at them.

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


def show(*parts: Table | str) -> None:
    """Print tables and texts as they are: brackets and colons in names and paths are no markup.

    On a terminal, texts in tables are folded. A table whose names and numbers need more columns than there are is
    printed wider, so that no cell is cut.
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
    """Return a table of characters that stdout can encode, so that replacements do not move its columns."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"

    def text(cell: str) -> str:
        return cell.encode(encoding, _NAME).decode(encoding)

    rows = [[text(cell) for cell in row] for row in table.rows]
    heads = [text(head) for head in table.heads]
    return dataclasses.replace(table, title=text(table.title), heads=heads, rows=rows, caption=text(table.caption))
