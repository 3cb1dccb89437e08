"""A run's worst cases, saved as traces next to the tables of an evaluation."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from monai.data import list_data_collate

from medtrace.evaluation.tracers import tracer_of
from medtrace.guard.notices import notify
from medtrace.inference.patched import taking_patches
from medtrace.io.nifti import write_image
from medtrace.io.trace_folder import save_trace
from medtrace.metrics import CaseTable
from medtrace.report.viewer import ReportCase
from medtrace.storage.files import make_directory, remove, write_json
from medtrace.workflows.scoring.rows import EvaluatedRun

FOLDER, INDEX = "worst", "worst.json"
RANKED_BY = "mae"
SHOWN = 4
"""Number of cases of a single run."""
SHOWN_OF_SEVERAL = 2
"""Number of cases of each run, if there are several."""


def worst_of(table: CaseTable, count: int = SHOWN) -> list[str]:
    """The cases with the largest mean absolute error, largest first; a case without an error ranks worst.

    Args:
        table: table of a run.
        count: at most.

    Example:
        >>> table = CaseTable()
        >>> for case, value in [("a", 1.0), ("b", float("nan")), ("c", 2.0)]:
        ...     table.add(case, {"mae": value})
        >>> worst_of(table, 2)
        ['b', 'c']
    """
    errors = {case: row.get(RANKED_BY, math.nan) for case, row in table.rows.items()}
    return sorted(errors, key=lambda case: -math.inf if math.isnan(errors[case]) else -errors[case])[:count]


def save_worst(
    out: Path, runs: Mapping[str, EvaluatedRun], tables: Mapping[str, CaseTable], cases: Any
) -> list[ReportCase]:
    """Trace the worst cases of runs again and save each, with its target, in `out/worst`.

    Args:
        out: folder of the evaluation; worst cases of an earlier one are removed.
        runs: row → run.
        tables: row → its cases, in the order of `cases`.
        cases: the data set.

    Returns:
        The cases for a page, run by run, the worst first.
    """
    remove(out / FOLDER)
    entries: list[dict[str, Any]] = []
    shown: list[ReportCase] = []
    count = SHOWN if len(runs) == 1 else SHOWN_OF_SEVERAL
    for row, run in runs.items():
        places = {case: number for number, case in enumerate(tables[row].rows)}
        tracer = tracer_of(run.method)
        for rank, name in enumerate(worst_of(tables[row], count), 1):
            case = {key: value for key, value in cases[places[name]].items() if "landmarks" not in key}
            with taking_patches(run.method, run.inferer):
                (trace,) = tracer(list_data_collate([case]))
            target = case["target"].as_subclass(torch.Tensor)
            title = run.method.title or type(run.method).__name__
            number = len(entries) + 1
            folder = f"{number:02d}_" + re.sub(r"[^\w.-]+", "_", name)[:80]
            try:
                save_trace(trace, make_directory(out / FOLDER) / folder, method=title)
                write_image(out / FOLDER / f"{folder}.target.nii.gz", target, trace.affine)
            except ValueError as error:  # a grid that the files cannot store
                notify(name, f"its trace is not kept among the worst cases: {error}")
            else:
                entries.append({"row": row, "rank": rank, "case": name, "trace": folder, "pair": _is_pair(run)})
            label = f"{rank}: {name}" if len(runs) == 1 else f"{row}, {rank}: {name}"
            shown.append(ReportCase(label, trace, target=target, method=title))
    if entries:
        write_json(out / FOLDER / INDEX, {"ranked_by": RANKED_BY, "cases": entries})
    return shown


def _is_pair(run: EvaluatedRun) -> bool:
    """Whether a run's images are sources registered to their targets."""
    return run.method.registers and not run.method.translates
