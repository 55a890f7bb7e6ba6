"""From records to one file of HTML that asks nobody for anything."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from bitbayes.errors import require
from bitbayes.lab.report.folders import Folders
from bitbayes.lab.report.page.charts import embedded
from bitbayes.lab.report.page.sections import make_sections
from bitbayes.lab.train import RunFolder


def write_page(
    folders: Folders, out: str | Path, *, published: str | Path | None = None, title: str = "bitbayes report"
) -> Path:
    """Write charts, tables and configuration as one page that works offline, and return its path.

    Args:
        folders: Result of `read_folders`.
        out: Where to write the HTML.
        published: JSON file of published curves, see `bitbayes.lab.report.series.published_curves`.
        title: Title of the page.

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
    figures = {
        f"c{number}-{index}": chart.figure
        for number, section in enumerate(sections)
        for index, chart in enumerate(section.charts)
    }
    script, places, library = embedded(figures) if figures else ("", {}, "")
    # What bokeh writes is markup; every other text is escaped by the template.
    markup = require("markupsafe", "report").Markup
    text = _template().render(
        title=title,
        sections=sections,
        notes=folders.notes,
        counts=_counts(folders),
        made=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d at %H:%M UTC"),
        places={place: markup(div) for place, div in places.items()},
        scripts=[markup(code) for code in (library, script) if code],
    )
    text = text.encode(errors="replace").decode()  # names may hold half a character, which no file can
    path = Path(out)
    RunFolder(path.parent).write_text(path.name, text)
    return path


def _template() -> Any:
    jinja2 = require("jinja2", "report")
    loader = jinja2.PackageLoader("bitbayes.lab.report.page", ".")
    strict: dict[str, Any] = {"undefined": jinja2.StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    return jinja2.Environment(loader=loader, autoescape=True, **strict).get_template("page.html")


def _counts(folders: Folders) -> str:
    """Return the number of runs and streams, and of runs that are not finished."""
    counts = [(len(folders.runs), "run"), (len(folders.streams), "stream")]
    parts = [f"{count} {word}{'' if count == 1 else 's'}" for count, word in counts if count]
    for state, text in (("going", "in progress"), ("stopped", "stopped before the end")):
        if count := sum(run.state == state for run in folders.runs):
            parts.append(f"{count} {text}")
    return ", ".join(parts)
