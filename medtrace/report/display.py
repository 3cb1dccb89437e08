"""Traces and figures as pictures in a notebook."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from matplotlib.figure import Figure

from medtrace.report.figures import trace_figure
from medtrace.trace import Trace

DPI = 110


def figure_png(figure: Figure) -> bytes:
    """The figure as PNG."""
    stream = BytesIO()
    figure.savefig(stream, format="png", dpi=DPI, facecolor="white")
    return stream.getvalue()


def trace_png(trace: Trace) -> bytes:
    """The trace's figure as PNG."""
    return figure_png(trace_figure(trace))


def enable_display(shell: Any = None) -> bool:
    """Show a `Trace`, and any matplotlib `Figure`, as a picture where a notebook's cell ends in one.

    Args:
        shell: the IPython shell; None asks IPython for the running one.

    Returns:
        Whether there is one.
    """
    if shell is None:
        try:
            from IPython import get_ipython
        except ImportError:
            return False
        shell = get_ipython()
    if shell is None:
        return False
    formatter = shell.display_formatter.formatters["image/png"]
    formatter.for_type(Trace, trace_png)
    formatter.for_type(Figure, figure_png)
    return True
