"""What a page is made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Chart", "Section", "Sign", "Table"]


@dataclass(frozen=True)
class Table:
    """Texts in rows.

    Args:
        title: Above it.
        heads: Of the columns; the first one names the rows.
        rows: One text a column.
        about: Below it.
    """

    title: str
    heads: list[str]
    rows: list[list[str]]
    about: str = ""

    @classmethod
    def of(cls, title: str, heads: Sequence[str], rows: Iterable[Sequence[str]], about: str = "") -> Table:
        """A table without the columns that have nothing to say.

        Args:
            title: Above it.
            heads: Of the columns.
            rows: Texts; "-" and "" say nothing.
            about: Below it.

        Returns:
            The table.

        Example:
            >>> Table.of("t", ["rule", "test", "bits"], [["ste", "98", "-"]]).heads
            ['rule', 'test']
        """
        lines = [list(row) for row in rows]
        kept = [i for i in range(len(heads)) if i == 0 or any(line[i] not in ("-", "") for line in lines)]
        return cls(title, [heads[i] for i in kept], [[line[i] for i in kept] for line in lines], about)


@dataclass(frozen=True)
class Chart:
    """A chart, and the same in numbers.

    Args:
        title: Above it.
        about: Below it.
        figure: Of bokeh.
        table: The numbers.
    """

    title: str
    about: str
    figure: Any
    table: Table


@dataclass(frozen=True)
class Sign:
    """One entry of a legend.

    Args:
        label: What it stands for.
        tag: Of the lines that it shows and hides; empty for one that stays.
        colour: Of the lines.
        marker: Of their points; empty for a dashed line without.
    """

    label: str
    tag: str
    colour: str
    marker: str


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Args:
        title: Its heading.
        about: A sentence or two.
        legend: Of all its charts.
        charts: Side by side where there is room.
        tables: Below them.
        folded: Tables that open on demand, by their title.
    """

    title: str
    about: str = ""
    legend: list[Sign] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    folded: list[Table] = field(default_factory=list)
