"""From records to one file of HTML that asks nobody for anything."""

from __future__ import annotations

import datetime
import re
from html import escape
from importlib import resources
from pathlib import Path

from bitbayes.lab.report.page.charts import embedded
from bitbayes.lab.report.page.parts import Chart, Section, Sign, Table
from bitbayes.lab.report.page.records import Folders
from bitbayes.lab.report.page.sections import make_sections
from bitbayes.lab.train import RunFolder

__all__ = ["write_page"]

# The browser itself refuses any request: everything that the page needs is in it.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:"
)
_NUMBER = re.compile(r"[-−]?[\d.,]*( ± [\d.,]+)?$")
_SHAPES = {
    "circle": '<circle cx="14" cy="8" r="4"/>',
    "square": '<path d="M10 4h8v8h-8z"/>',
    "triangle": '<path d="M14 3l5 9H9z"/>',
    "diamond": '<path d="M14 2l4 6-4 6-4-6z"/>',
    "inverted_triangle": '<path d="M14 13L9 4h10z"/>',
    "hex": '<path d="M9 8l2.5-4.3h5L19 8l-2.5 4.3h-5z"/>',
    "star": '<path d="M14 2l1.8 4 4.2.4-3.2 2.9 1 4.2L14 11.3l-3.8 2.2 1-4.2L8 6.4l4.2-.4z"/>',
}


def write_page(
    folders: Folders, out: str | Path, *, published: str | Path | None = None, title: str = "bitbayes report"
) -> Path:
    """Writes the page: charts, tables, configuration; one file that works offline.

    Args:
        folders: From `read_folders`.
        out: Where to write the HTML.
        published: JSON file of published curves, see `bitbayes.lab.report.figures.published_curves`.
        title: Of the page.

    Returns:
        The path.

    Raises:
        ValueError: If `published` has no curves of any recipe here.
        RunError: If the file cannot be written.

    Example:
        >>> import tempfile
        >>> from bitbayes.lab.recipes import make_config, run_recipe
        >>> from bitbayes.lab.report.page import read_folders
        >>> from bitbayes.lab.train import SilentProgress
        >>> folder = Path(tempfile.mkdtemp())
        >>> config = make_config("digits", "ste", epochs=1, out=str(folder / "ste"))
        >>> _ = run_recipe(config, progress=SilentProgress())
        >>> page = write_page(read_folders([folder]), folder / "report.html")
        >>> page.stat().st_size < 5e6
        True
    """
    sections = make_sections(folders, published)
    figures, texts = {}, []
    for number, section in enumerate(sections):
        places = []
        for index, chart in enumerate(section.charts):
            places.append(f"c{number}-{index}")
            figures[places[-1]] = chart.figure
        texts.append(_section(section, f"part{number}", places))
    script, divs, library = embedded(figures) if figures else ("", {}, "")
    body = "\n".join(texts)
    for place, div in divs.items():
        body = body.replace(f"<!--{place}-->", div)
    code = [library, script, _asset("page.js")] if figures else [_asset("page.js")]
    text = "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>",
            f"<style>\n{_asset('page.css')}</style>\n</head>\n<body>",
            _head(folders, sections, title),
            f'<main id="main">\n{body}\n</main>',
            *(f"<script>\n{one}\n</script>" for one in code),
            "</body>\n</html>\n",
        ]
    )
    path = Path(out)
    RunFolder(path.parent).write_text(path.name, text)
    return path


def _asset(name: str) -> str:
    return resources.files("bitbayes.lab.report.page").joinpath(name).read_text(encoding="utf-8")


def _head(folders: Folders, sections: list[Section], title: str) -> str:
    """Title, what there is, where it is, and what was left out."""
    going = sum(run.state == "going" for run in folders.runs)
    stopped = sum(run.state == "stopped" for run in folders.runs)
    counts = [(len(folders.runs), "run"), (len(folders.streams), "stream")]
    parts = [f"{count} {word}{'' if count == 1 else 's'}" for count, word in counts if count]
    parts += [f"{going} still going"] if going else []
    parts += [f"{stopped} stopped before the end"] if stopped else []
    made = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    links = "".join(f'<li><a href="#part{i}">{escape(section.title)}</a></li>' for i, section in enumerate(sections))
    notes = "".join(f"<li>{escape(note)}</li>" for note in folders.notes)
    return "\n".join(
        [
            '<a class="skip" href="#main">To the content</a>',
            f"<header><div><h1>{escape(title)}</h1>",
            f'<p class="quiet">{", ".join(parts)}. Written {made}.</p></div>',
            '<button id="theme" type="button" hidden>Dark page</button></header>',
            f'<nav aria-label="Parts of the page"><ul>{links}</ul></nav>',
            f'<div class="notes" role="note"><h3>Left out</h3><ul>{notes}</ul></div>' if notes else "",
            "<noscript><p>The charts need JavaScript; every table is here without it.</p></noscript>",
        ]
    )


def _section(section: Section, anchor: str, places: list[str]) -> str:
    parts = [f'<section id="{anchor}" aria-labelledby="{anchor}-title">']
    parts.append(f'<h2 id="{anchor}-title">{escape(section.title)}</h2>')
    parts += [f"<p>{escape(section.about)}</p>"] if section.about else []
    if section.legend and section.charts:
        signs = "".join(map(_sign, section.legend))
        parts.append(f"<fieldset><legend>Lines of the charts</legend>{signs}</fieldset>")
    if section.charts:
        charts = "\n".join(_chart(chart, place) for chart, place in zip(section.charts, places, strict=True))
        parts.append(f'<div class="charts">\n{charts}\n</div>')
    parts += [f'<div class="table">{_table(table)}</div>' for table in section.tables]
    parts += [
        f'<details class="table"><summary>{escape(table.title)}</summary>{_table(table, texts=True)}</details>'
        for table in section.folded
    ]
    return "\n".join([*parts, "</section>"])


def _sign(sign: Sign) -> str:
    """A box to tick, and the line and marker that it stands for."""
    dash = "" if sign.marker else ' stroke-dasharray="5 3"'
    line = f'<path d="M0 8h28" stroke="{sign.colour}" stroke-width="2"{dash}/>'
    picture = (
        f'<svg viewBox="0 0 28 16" fill="{sign.colour}" aria-hidden="true">{line}{_SHAPES.get(sign.marker, "")}</svg>'
    )
    box = f'<input type="checkbox" checked data-tag="{escape(sign.tag)}">' if sign.tag else ""
    return f"<label>{box}{picture}{escape(sign.label)}</label>"


def _chart(chart: Chart, place: str) -> str:
    title = escape(chart.title)
    return (
        f'<figure aria-labelledby="{place}-title" aria-describedby="{place}-about">'
        f'<h3 id="{place}-title">{title}</h3>'
        f'<div class="plot" role="group" aria-label="{title}, a chart; its numbers follow"><!--{place}--></div>'
        f'<figcaption class="quiet" id="{place}-about">{escape(chart.about)}</figcaption>'
        f"<details><summary>The same in numbers</summary>{_table(chart.table)}</details></figure>"
    )


def _table(table: Table, texts: bool = False) -> str:
    """A table that scrolls sideways by itself, also with the keyboard; columns of numbers are set to the right."""
    columns = zip(*table.rows, strict=True) if table.rows else ([""] for _ in table.heads)
    marks = [" class=n" if all(_NUMBER.match(cell) for cell in column) else "" for column in columns]
    heads = "".join(f'<th scope="col"{m}>{escape(head)}</th>' for head, m in zip(table.heads, marks, strict=True))
    rows = "".join(
        f'<tr><th scope="row"{marks[0]}>{escape(row[0])}</th>'
        + "".join(f"<td{m}>{escape(cell)}</td>" for cell, m in zip(row[1:], marks[1:], strict=True))
        + "</tr>"
        for row in table.rows
    )
    about = f'<p class="quiet">{escape(table.about)}</p>' if table.about else ""
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{escape(table.title)}, a table">'
        f"<table{' class=texts' if texts else ''}><caption>{escape(table.title)}</caption>"
        f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>{about}"
    )
