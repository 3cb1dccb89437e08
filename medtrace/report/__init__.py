"""Tables and figures of what was measured. Nothing here runs a network."""

import sys

from medtrace.report.certificate import certificate_html
from medtrace.report.charts import curve_figure, method_figure, sensitivity_figure
from medtrace.report.crossed import crossed_table, print_crossed_table
from medtrace.report.display import enable_display
from medtrace.report.fields import field_figure, grid_figure, jacobian_figure, ledger_figure, row_figure
from medtrace.report.figures import comparison_figure, save_figure, trace_figure
from medtrace.report.registration import metamorphosis_figure, overlay_figure
from medtrace.report.tables import markdown_table, print_table, read_rows, read_summary
from medtrace.report.view import View, view_of
from medtrace.report.viewer import ReportCase, write_report

__all__ = [
    "ReportCase",
    "View",
    "certificate_html",
    "comparison_figure",
    "crossed_table",
    "curve_figure",
    "enable_display",
    "field_figure",
    "grid_figure",
    "jacobian_figure",
    "ledger_figure",
    "markdown_table",
    "metamorphosis_figure",
    "method_figure",
    "overlay_figure",
    "print_crossed_table",
    "print_table",
    "read_rows",
    "read_summary",
    "row_figure",
    "save_figure",
    "sensitivity_figure",
    "trace_figure",
    "view_of",
    "write_report",
]

if "IPython" in sys.modules:  # a notebook: traces show themselves
    enable_display()
