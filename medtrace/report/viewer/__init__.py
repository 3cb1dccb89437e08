"""Traces as one HTML page with linked panes, to be opened from disk."""

from medtrace.report.viewer.page import write_report
from medtrace.report.viewer.scene import ReportCase

__all__ = ["ReportCase", "write_report"]
