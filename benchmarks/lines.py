"""Count the lines of code and of docstrings of the package, here and at an earlier commit.

    python benchmarks/lines.py [COMMIT]

A line of code holds a token of Python outside comments and docstrings. The files in C are not counted.
"""

from __future__ import annotations

import ast
import io
import subprocess
import sys
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTHING = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def count(text: str) -> tuple[int, int]:
    """Return the lines of code and of docstrings of one module."""
    described: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            described.update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NOTHING:
            code.update(range(token.start[0], token.end[0] + 1))
    return len(code - described), len(described)


def modules(commit: str | None) -> list[str]:
    """Return the texts of all modules of the package, here or at a commit."""
    if commit is None:
        return [path.read_text(encoding="utf-8") for path in sorted((ROOT / "src").rglob("*.py"))]

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True).stdout

    names = [name for name in git("ls-tree", "-r", "--name-only", commit, "src").split() if name.endswith(".py")]
    return [git("show", f"{commit}:{name}") for name in names]


def main(words: list[str]) -> None:
    """Print a row for each state of the package, and the difference."""
    rows = {}
    for commit in [*words[:1], None]:
        counts = [count(text) for text in modules(commit)]
        code, described = (sum(column) for column in zip(*counts, strict=True))
        rows[commit or "here"] = (len(counts), code, described)
    print(f"{'':12}{'files':>8}{'code':>8}{'docstrings':>12}")
    for name, (files, code, described) in rows.items():
        print(f"{name:12}{files:>8}{code:>8}{described:>12}")
    if len(rows) == 2:
        first, last = rows.values()
        files, code, described = (b - a for a, b in zip(first, last, strict=True))
        print(f"{'difference':12}{files:>8}{code:>8}{described:>12}")


if __name__ == "__main__":
    main(sys.argv[1:])
