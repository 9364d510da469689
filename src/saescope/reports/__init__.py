"""Reports: `metrics.json` and self-contained pages, from what evaluation and features found."""

from saescope.reports.frontier import write_frontier
from saescope.reports.page import report_page
from saescope.reports.write import METRICS_FILE, REPORT_FILE, claim, write_report

__all__ = ["METRICS_FILE", "REPORT_FILE", "claim", "report_page", "write_frontier", "write_report"]
