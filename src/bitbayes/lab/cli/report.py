"""The command for the page of charts, as a dataclass for tyro: report."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

from bitbayes.errors import require
from bitbayes.lab.cli.shared import Output, tyro

Names = Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="RUN...")]


@dataclass
class Report:
    """Writes one page of charts and tables about runs; it works offline.

    Args:
        runs: Folders of runs or of streams of tasks, finished or not; a folder of runs stands for all of them.
        output: The HTML file to write.
        published: JSON file with the published curves.
        title: Of the page.
    """

    runs: Names
    output: Output = "report.html"
    published: str | None = None
    title: str = "bitbayes report"

    def run(self) -> None:
        """Write the page, say where, and name on stderr what was left out."""
        from bitbayes.lab.report.page import read_folders, write_page

        require("bokeh", "report")
        require("jinja2", "report")  # before reading gigabytes of posteriors
        found = read_folders(self.runs)
        path = write_page(found, self.output, published=self.published, title=self.title)
        for note in found.notes:
            print(f"bitbayes: left out: {note}", file=sys.stderr)
        print(f"written: {path}")
