"""The scores of an evaluation as a table for the terminal: one line a measure, one column a row of the study."""

from __future__ import annotations

import math
from collections.abc import Mapping

from medtrace.metrics import CaseTable, Summary
from medtrace.report.tables import markdown_table

_MISSING = "–"


def score_lines(tables: Mapping[str, CaseTable]) -> str:
    """Means ± SD over the cases, side by side, as Markdown.

    Args:
        tables: heading → scores by case.

    Returns:
        The table; measures in the order of the first table. A cell says how many cases it counts where others lack
        the value.

    Example:
        >>> table = CaseTable()
        >>> for case, value in [("a", 0.25), ("b", 0.75)]:
        ...     table.add(case, {"mae": value})
        >>> print(score_lines({"run": table}).splitlines()[2])
        | mae | 0.5 ± 0.35 |
    """
    summaries = {heading: table.summary() for heading, table in tables.items()}
    cases = max((len(table.rows) for table in tables.values()), default=0)
    measures = list(dict.fromkeys(name for summary in summaries.values() for name in summary))
    if not measures:
        return "no cases, no scores\n"
    rows = [
        {"measure": name, **{heading: _cell(summary.get(name), cases) for heading, summary in summaries.items()}}
        for name in measures
    ]
    return f"{markdown_table(rows)}\nMean ± SD over {cases} case{'s' if cases != 1 else ''}.\n"


def _cell(summary: Summary | None, cases: int) -> str:
    if summary is None or math.isnan(summary.mean):
        return _MISSING
    spread = "" if math.isnan(summary.sd) else f" ± {summary.sd:.2g}"
    counted = summary.n - summary.infinite - summary.undefined
    return f"{summary.mean:.4g}{spread}" + (f" (n = {counted})" if counted != cases else "")
