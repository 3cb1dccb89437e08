"""Whether a row of an evaluation beats another, in words and in a table, by subject."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from medtrace.evaluation.paired_rows import Comparisons, larger_is_better, without_contrast
from medtrace.metrics.paired import LEVEL, PairedComparison
from medtrace.report.tables import markdown_table

LEAST_SUBJECTS = 6
"""Below these no interval of a bootstrap by subject is believed: Wilcoxon's p cannot fall below 5 % either."""
JUDGED = ("mae", "ssim", "delivered_mae", "delivered_ssim")
"""Columns in which a run must be better than what costs nothing; of several contrasts in each of them."""


def judged(columns: Iterable[str]) -> list[str]:
    """The columns of `JUDGED` among some, in its order.

    Example:
        >>> judged(["psnr", "delivered_mae_PET", "mae", "delivered_mae_T2"])
        ['mae', 'delivered_mae_PET', 'delivered_mae_T2']
    """
    there = list(dict.fromkeys(columns))
    return [column for name in JUDGED for column in there if without_contrast(column)[0] == name]


def ahead(column: str, compared: PairedComparison) -> bool:
    """Whether the first row's mean is the better one."""
    gain = compared.difference if larger_is_better(column) else -compared.difference
    return gain > 0


def sure(compared: PairedComparison) -> bool:
    """Whether the interval leaves 0 out, of subjects enough to believe it."""
    return compared.n >= LEAST_SUBJECTS and (compared.low > 0 or compared.high < 0)


def verdicts(comparisons: Comparisons, rows: Iterable[str], rivals: Iterable[str]) -> list[str]:
    """Whether rows beat what costs nothing, a line for every two.

    Args:
        comparisons: comparisons of `compare_rows`, rows before rivals.
        rows: the rows to be assessed.
        rivals: the rows that cost nothing.

    Example:
        >>> from medtrace.metrics.paired import compare_paired
        >>> worse = compare_paired([3.0] * 6, [1.0, 2.0] * 3, larger_is_better=False)
        >>> print(verdicts({("mae", "run", "patch ridge"): worse}, ["run"], ["patch ridge"])[0])
        run does NOT beat patch ridge: not better in mae
    """
    rivals = list(rivals)
    columns = judged(column for column, *_ in comparisons)
    result = []
    for row in rows:
        for rival in rivals:
            found = {
                column: comparisons[column, row, rival] for column in columns if (column, row, rival) in comparisons
            }
            found = {column: one for column, one in found.items() if one.n}
            if found:
                result.append(_line(row, rival, found))
    return result


def _line(row: str, rival: str, found: Mapping[str, PairedComparison]) -> str:
    worse = [column for column, one in found.items() if not ahead(column, one)]
    unsure = [column for column, one in found.items() if ahead(column, one) and not sure(one)]
    better = [column for column, one in found.items() if ahead(column, one) and sure(one)]
    word = "does NOT beat" if worse else "is ahead of, but not surely better than," if unsure else "beats"
    few = [one.n for one in found.values() if one.n < LEAST_SUBJECTS]
    doubt = f"{min(few)} subject(s) are too few to be sure" if few else "their intervals contain 0"
    parts = [f"not better in {', '.join(worse)}"] if worse else []
    parts += [f"ahead in {', '.join(unsure)}, but {doubt}"] if unsure else []
    parts += [f"better in {', '.join(better)}"] if better else []
    return f"{row} {word} {rival}: {'; '.join(parts)}"


ABOUT = (
    f"By subject (slices of one subject are not independent): mean difference with the {LEVEL:.0%} interval of a paired"
    " bootstrap over subjects, how often the row is better than the one beside it, Cohen's d of paired differences"
    " (above 0: better), Wilcoxon's p."
)
"""The text before a `comparison_table`."""


def comparison_table(
    comparisons: Comparisons, columns: Sequence[str] | None = None, *, counted: str = "subjects"
) -> str:
    """Comparisons as Markdown: difference with its interval, how often the first is better, effect, p.

    Args:
        comparisons: comparisons of `compare_rows`.
        columns: columns to show, in order; None shows all.
        counted: what a comparison counts.
    """
    shown = list(dict.fromkeys(column for column, *_ in comparisons)) if columns is None else columns
    rows: list[dict[str, Any]] = [
        {
            "measure": column,
            "row": first,
            "beside": second,
            f"difference [{LEVEL:.0%}]": f"{one.difference:+.4g}"
            + ("" if math.isnan(one.low) else f" [{one.low:+.4g}, {one.high:+.4g}]"),
            "better in": f"{one.probability:.0%}",
            "effect d": "–" if math.isnan(one.effect) else f"{one.effect:.2f}",
            "p": "–" if math.isnan(one.p) else f"{one.p:.2g}",
            counted: str(one.n),
        }
        for (column, first, second), one in comparisons.items()
        if column in shown and one.n
    ]
    return markdown_table(rows) if rows else ""
