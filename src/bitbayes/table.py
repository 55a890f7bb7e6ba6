"""A table of text that can be rendered for a terminal, as Markdown, and as HTML."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bitbayes.errors import require

_LETTER = re.compile(r"[^\W\d_]")
_HTML = """\
{%- macro cell(tag, index, text) -%}
<{{ tag }}{% if sides[index] == "r" %} class="n"{% endif %}>{{ text }}</{{ tag.split()[0] }}>
{%- endmacro -%}
<div class="wide" role="region" tabindex="0" aria-label="{{ table.title }}, a table">
<table><caption>{{ table.title }}</caption>
<thead><tr>
{%- for head in table.heads %}{{ cell("th scope=col", loop.index0, head) }}{% endfor -%}
</tr></thead>
<tbody>
{%- for row in table.rows %}
<tr>{% for text in row %}{{ cell("th scope=row" if loop.first else "td", loop.index0, text) }}{% endfor %}</tr>
{%- endfor %}
</tbody></table></div>
{%- if table.caption %}
<p class="quiet">{{ table.caption }}</p>
{%- endif %}
"""


@dataclass(frozen=True)
class Table:
    """Rows of text below column headings; the first column names the rows.

    Args:
        title: Text above the table.
        heads: Heading of each column; empty for a table without headings, which only `text` can render.
        rows: Rows with one text per column.
        caption: Text below the table.
        align: One letter per column, "l" or "r". By default, columns of numbers, which contain no letters, are aligned
            to the right. The first column and all others are aligned to the left.

    Example:
        >>> print(Table("Digits", ["rule", "test", "kind"], [["ste", "98.4", "mode"]]).text())
        Digits
        rule  test  kind
        ste   98.4  mode
    """

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    align: str = ""

    def without_empty_columns(self) -> Table:
        """Return the table without columns whose cells are all "-" or empty; the first column always stays.

        Example:
            >>> Table("", ["rule", "test", "bits"], [["ste", "98", "-"]]).without_empty_columns().heads
            ['rule', 'test']
        """
        kept = [i for i in range(len(self.heads)) if i == 0 or any(row[i] not in ("-", "") for row in self.rows)]
        heads, *rows = ([row[i] for i in kept] for row in (self.heads, *self.rows))
        return dataclasses.replace(self, heads=heads, rows=rows, align="".join(self.align[i : i + 1] for i in kept))

    def text(self) -> str:
        """Return the table as plain text, with two spaces between columns."""
        lines = [self.heads, *self.rows] if self.heads else self.rows
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        sides = self._sides(len(widths))
        formats = [f"{'>' if side == 'r' else '<'}{width}" for side, width in zip(sides, widths, strict=bool(lines))]
        aligned = ["  ".join(map(format, line, formats)).rstrip() for line in lines]
        return "\n".join([*filter(None, [self.title]), *aligned, *filter(None, [self.caption])])

    def markdown(self) -> str:
        """Return headings and rows as a Markdown table, without title and caption.

        Example:
            >>> print(Table("", ["rule", "test"], [["ste", "98.4"]]).markdown())
            | rule | test |
            | --- | ---: |
            | ste | 98.4 |
        """
        marks = ["---:" if side == "r" else "---" for side in self._sides(len(self.heads))]
        lines = [[cell.replace("|", r"\|") for cell in line] for line in (self.heads, *self.rows)]
        return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], marks, *lines[1:]))

    def rich(self, width: int | None = None) -> Any:
        """Return a `rich.table.Table` for the terminal that reads no text as markup.

        Rules separate rows that are several lines high.

        Args:
            width: Width of the terminal in characters; None for a table as wide as its texts. A narrow table wraps
                texts between words. Names in the first column and single words are never cut or broken, so the table
                can become wider than the terminal. Its attribute `width` says how wide it is.
        """
        rich, text = require("rich.table", "train"), require("rich.text", "train").Text
        sides, widths = self._sides(len(self.heads)), self._widths(width)
        table = rich.Table(
            title=text(self.title) if self.title else None,
            caption=text(self.caption) if self.caption else None,
            title_justify="left",
            caption_justify="left",
            show_lines=any("\n" in cell for row in self.rows for cell in row),
            width=_framed(widths),
        )
        for head, side, columns in zip(self.heads, sides, widths, strict=True):
            table.add_column(text(head), justify="right" if side == "r" else "left", width=columns)
        for row in self.rows:
            table.add_row(*map(text, row))
        return table

    def _widths(self, limit: int | None) -> list[int]:
        """Return the width of each column in characters, without its frame."""
        least, widths = [], []
        for index, head in enumerate(self.heads):
            lines = [line for row in self.rows for line in row[index].split("\n")]
            words = [word for line in (*lines, head) for word in line.split()]
            heads = head.split("\n")
            least.append(max(map(len, [*words, *(lines if index == 0 else ())]), default=1))
            widths.append(max(map(len, [*lines, *heads]), default=1))
        while limit is not None and _framed(widths) > limit:
            slack = [(width, index) for index, width in enumerate(widths) if width > least[index]]
            if not slack:
                break
            widths[max(slack)[1]] -= 1
        return widths

    def html(self) -> str:
        """Return the table as HTML in which every text is escaped, for a page that defines the classes.

        The table scrolls sideways on its own, also with the keyboard (class "wide"). Columns that are aligned to the
        right have the class "n", and the caption has the class "quiet". The result is marked as safe for jinja2
        templates.
        """
        text = _template().render(table=self, sides=self._sides(len(self.heads)))
        return require("markupsafe", "report").Markup(text)

    def _sides(self, columns: int) -> str:
        """Return the alignment of every column."""
        if self.align:
            return self.align
        cells = [[row[i] for row in self.rows] for i in range(columns)]
        return "".join("l" if i == 0 or any(map(_LETTER.search, column)) else "r" for i, column in enumerate(cells))


def _framed(widths: Sequence[int]) -> int:
    """Return the width of a table in characters, including its frame."""
    return sum(widths) + 3 * len(widths) + 1


@functools.cache
def _template() -> Any:
    return require("jinja2", "report").Environment(autoescape=True).from_string(_HTML)


def number(value: float | None, digits: int = 2, missing: str = "-") -> str:
    """Return a number with fixed decimals and commas between thousands, or `missing` for None.

    Example:
        >>> number(98.856), number(None), number(10014720, 0), number(-1e-6)
        ('98.86', '-', '10,014,720', '0.00')
    """
    if value is None:
        return missing
    text = f"{value:,.{digits}f}"
    return text if text.strip("-0.") else text.lstrip("-")  # of a small negative number, no minus is left


def brief(value: object, digits: int = 3) -> str:
    """Return a setting as a short label: numbers with many digits are rounded to a few significant ones.

    Args:
        value: Number, text, or any other object, which is shown as `str(value)`.
        digits: Number of significant digits. A number with at most two more digits is not rounded.

    Example:
        >>> brief(0.00375619614449984), brief(0.9995), brief(360000.0), brief(1e-10), brief(12, 3), brief("adam")
        ('0.00376', '0.9995', '360000', '1e-10', '12', 'adam')
    """
    if not isinstance(value, float) or not math.isfinite(value):
        return str(value)
    if float(f"{value:.{digits + 2}g}") != value:
        value = float(f"{value:.{digits}g}")
    return f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else str(value)


def spread(values: Iterable[float | None], digits: int = 2, missing: str = "-") -> str:
    """Return mean and sample standard deviation of the values that are not None, or `missing` if all are None.

    Example:
        >>> spread([98.0, 99.0, None]), spread([98.0]), spread([])
        ('98.50 ± 0.71', '98.00', '-')
    """
    import statistics  # imported here, because it takes a while to load and `import bitbayes` does not need it

    known = [value for value in values if value is not None]
    if not known:
        return missing
    mean = f"{statistics.mean(known):.{digits}f}"
    return f"{mean} ± {statistics.stdev(known):.{digits}f}" if len(known) > 1 else mean
