"""Rows of an evaluation compared with one another, subject by subject."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

import numpy as np

from medtrace.metrics import CONVENTIONS, CaseTable
from medtrace.metrics.paired import PairedComparison, compare_paired
from medtrace.storage.files import atomic_write

COMPARISON = "comparison.csv"
Comparisons = Mapping[tuple[str, str, str], PairedComparison]
"""(column, first row, second row) → the comparison of the first with the second."""
LARGER_IS_BETTER: Mapping[str, bool] = {
    "mae": False,
    "psnr": True,
    "ssim": True,
    "nmi": True,
    "cw_ssim": True,
    "landmark_mm": False,
    "epe_mm": False,
    "epe_deformed_mm": False,
    "delivered_mae": False,
    "delivered_psnr": True,
    "delivered_ssim": True,
    "synthrad_mae_hu": False,
    "synthrad_psnr": True,
    "synthrad_ms_ssim": True,
    "label_dice": True,
    "label_hd95_mm": False,
    "delivered_label_dice": True,
    "delivered_label_hd95_mm": False,
}
"""Columns that are compared; of measures under a convention see `larger_is_better`. Edge columns are not: of a row that
moves nothing they are void."""

OF_SCANS = (
    "delivered_mae",
    "delivered_psnr",
    "delivered_ssim",
    "synthrad_mae_hu",
    "synthrad_psnr",
    "synthrad_ms_ssim",
)
"""Columns of delivered scans that are in the units of what these show."""


def of_contrast(column: str, contrast: str) -> str:
    """Name of a column of `OF_SCANS` if a run makes several contrasts, whose units must not be averaged."""
    return f"{column}_{contrast}"


def without_contrast(column: str) -> tuple[str, str]:
    """A column and the contrast that `of_contrast` gave it; an empty one where it gave none.

    Example:
        >>> without_contrast("delivered_mae_PET"), without_contrast("mae")
        (('delivered_mae', 'PET'), ('mae', ''))
    """
    whole = next((name for name in OF_SCANS if column.startswith(f"{name}_")), column)
    return whole, column[len(whole) + 1 :]


def larger_is_better(column: str) -> bool | None:
    """Whether a column's better end is the upper one; None where it has no better end.

    Example:
        >>> larger_is_better("mae"), larger_is_better("psnr_unit_foreground"), larger_is_better("edge_dice")
        (False, True, None)
    """
    column, _ = without_contrast(column)
    if column in LARGER_IS_BETTER:
        return LARGER_IS_BETTER[column]
    measure, _, convention = column.partition("_")
    known = {"nmae": False, "psnr": True, "ssim": True}
    return known[measure] if measure in known and convention.replace("_", "-") in CONVENTIONS else None


def compare_rows(
    tables: Mapping[str, CaseTable], subjects: Mapping[str, str]
) -> dict[tuple[str, str, str], PairedComparison]:
    """Compare every two rows of an evaluation in every column that has a better end.

    Args:
        tables: row → its cases, the same of all.
        subjects: case → subject. Slices of one subject are not independent: a subject counts once, by the mean of its
            cases. A case without a subject is one by itself.

    Returns:
        (column, first row, second row) → the comparison of the first with the second.
    """
    result = {}
    for column in dict.fromkeys(name for table in tables.values() for name in table.columns):
        larger = larger_is_better(column)
        if larger is None:
            continue
        known = {row: _by_subject(table, column, subjects) for row, table in tables.items() if column in table.columns}
        for first, second in combinations(known, 2):
            shared = [subject for subject in known[first] if subject in known[second]]
            result[column, first, second] = compare_paired(
                [known[first][subject] for subject in shared],
                [known[second][subject] for subject in shared],
                larger_is_better=larger,
            )
    return result


def write_comparison(folder: Path, result: Comparisons) -> None:
    """Write comparisons as `comparison.csv`: n counts subjects."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["column", "first", "second", *PairedComparison._fields])
    for names, values in result.items():
        writer.writerow([*names, *("" if value != value else f"{value:.10g}" for value in values)])
    atomic_write(folder / COMPARISON, text.getvalue(), make_parents=True)


def _by_subject(table: CaseTable, column: str, subjects: Mapping[str, str]) -> dict[str, float]:
    values: dict[str, list[float]] = defaultdict(list)
    for case, row in table.rows.items():
        values[subjects.get(case, case)].append(row.get(column, float("nan")))
    return {
        subject: float(np.mean([one for one in several if np.isfinite(one)] or [float("nan")]))
        for subject, several in values.items()
    }
