"""One page that shows runs: `read_folders` makes records of their folders, `write_page` makes a page of the records."""

from bitbayes.lab.report.folders import Folders, RunRecord, StreamRecord, TrustRecord, read_folders
from bitbayes.lab.report.page.write import write_page

__all__ = ["Folders", "RunRecord", "StreamRecord", "TrustRecord", "read_folders", "write_page"]
