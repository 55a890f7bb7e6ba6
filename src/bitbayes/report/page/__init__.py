"""One page that shows runs: `read_folders` makes records of their folders, `write_page` makes a page of the records."""

from bitbayes.report.page.records import Folders, Run, Stream, Trust, read_folders
from bitbayes.report.page.write import write_page

__all__ = ["Folders", "Run", "Stream", "Trust", "read_folders", "write_page"]
