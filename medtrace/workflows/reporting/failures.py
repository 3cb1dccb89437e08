"""Failures of an evaluation, and its worst cases with their images and verdicts."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from medtrace.evaluation.certificate.in_memory import certify_trace
from medtrace.evaluation.paired_rows import OF_SCANS
from medtrace.evaluation.verdicts import JUDGED
from medtrace.io import load_trace
from medtrace.io.nifti import read_nifti_image
from medtrace.metrics import CaseTable
from medtrace.report.certificate import certificate_of
from medtrace.report.display import figure_png
from medtrace.report.document import Block, Grade, Heading, Items, Picture, Text
from medtrace.report.figures import trace_figure
from medtrace.trace import Trace
from medtrace.workflows.reporting.measures import KEY, measure_of
from medtrace.workflows.reporting.reading import Evaluation
from medtrace.workflows.reporting.scores import number_text
from medtrace.workflows.scoring.rows import CHEAP
from medtrace.workflows.scoring.worst import FOLDER, worst_of

NAMED = 6
"""Cases that a line names."""
CERTIFIED = (
    "Verdicts are the certificate's, which needs no ground truth, on the grid and in the units of the network; whether"
    " the method gives the same result again is not checked here (medtrace certify --run does)."
)


def failure_lines(evaluation: Evaluation) -> list[str]:
    """What failed, a line each: cases without scores, cases worse than doing nothing, lost comparisons, doubts."""
    result = []
    identity = evaluation.tables.get(CHEAP[0])
    for run, title in evaluation.runs.items():
        table = evaluation.tables[run]
        empty = [case for case, row in table.rows.items() if not math.isfinite(row.get("mae", math.nan))]
        if empty:
            result.append(f"{title}: {_of(empty, table)} have no finite error: {_names(empty)}.")
        worse = worse_than(table, identity)
        if worse:
            result.append(
                f"{title}: in {_of(worse, table)} the error is larger than that of the unchanged source (identity):"
                f" {_names(worse)}."
            )
        folded = [case for case, row in table.rows.items() if row.get("non_diffeomorphic_fraction", 0) > 0]
        if folded:
            result.append(f"{title}: in {_of(folded, table)} the field folds: {_names(folded)}.")
        record = evaluation.record["runs"][run]
        if record["training_subjects"]:
            seen = list(record["training_subjects"])
            result.append(f"{title}: {_of(seen, table)} are of subjects that it was trained on: {_names(seen)}.")
        result += [f"{title}: {line}." for line in record["cautions"]]
    named = {"run": next(iter(evaluation.runs.values()))} if len(evaluation.runs) == 1 else {}
    for line in evaluation.record.get("verdicts", ()):
        if " does NOT beat " in line or " not surely better " in line:
            first, _, rest = line.partition(" ")
            result.append(f"{named.get(first, first)} {in_words(rest)}.")
    left = evaluation.record["delivered"]["left_out"]
    result += [f"Delivered scans are not scored: {scan}: {reason}." for scan, reason in left.items()]
    return result


def in_words(verdict: str) -> str:
    """A verdict with the labels of its columns.

    Example:
        >>> in_words("beats patch ridge: better in mae, delivered_ssim")
        'beats patch ridge: better in mean absolute error, SSIM of delivered scans'
        >>> in_words("beats patch ridge: better in delivered_mae_PET")
        'beats patch ridge: better in mean absolute error of PET of delivered scans'
    """

    def label(match: re.Match[str]) -> str:
        return measure_of(match[0]).label + (" of delivered scans" if match[0].startswith("delivered") else "")

    names = (name + (r"(?:_[\w.+-]*\w)?" if name in OF_SCANS else "") for name in JUDGED)
    return re.sub(rf"\b(?:{'|'.join(names)})\b", label, verdict)


def worse_than(table: CaseTable, other: CaseTable | None) -> list[str]:
    """Cases whose mean absolute error is larger than another row's."""
    if other is None:
        return []
    return [
        case
        for case, row in table.rows.items()
        if row.get("mae", math.nan) > other.rows.get(case, {}).get("mae", math.inf)
    ]


def _of(cases: list[str], table: CaseTable) -> str:
    return f"{len(cases)} of {len(table.rows)} cases"


def _names(cases: list[str]) -> str:
    more = f" and {len(cases) - NAMED} more" if len(cases) > NAMED else ""
    return ", ".join(cases[:NAMED]) + more


def worst_blocks(evaluation: Evaluation) -> list[Block]:
    """The worst cases: scores, verdict with the checks that failed, and the trace's figure."""
    if not evaluation.worst:
        return [Text("The traces of the worst cases were not kept; evaluate again to get their figures.", "note")]
    blocks: list[Block] = [Text(CERTIFIED, "note")]
    for entry in evaluation.worst:
        run, case = entry["row"], entry["case"]
        title = evaluation.runs[run]
        trace = load_trace(evaluation.folder / FOLDER / entry["trace"])
        target = _target(evaluation, entry, trace)
        table = evaluation.tables[run]
        several = "" if len(evaluation.runs) == 1 else f"{title}: "
        blocks.append(Heading(f"{several}{case}, number {entry['rank']} of {len(table.rows)} by error", 3))
        blocks.append(Text(_scores(table, evaluation.tables.get(CHEAP[0]), case)))
        blocks += _verdict(evaluation, entry, trace, target)
        figure = trace_figure(trace, target, columns=5)
        caption = (
            f"{case}, as the network sees it (intensities from -1 to 1). Error is target minus prediction."
            f" The trace: {FOLDER}/{entry['trace']}."
        )
        blocks.append(Picture(figure_png(figure), caption, f"Source, prediction, target and account of {case}", 0.9))
    return blocks


def _target(evaluation: Evaluation, entry: Mapping[str, Any], trace: Trace) -> Tensor | None:
    path = evaluation.folder / FOLDER / f"{entry['trace']}.target.nii.gz"
    if not path.is_file():
        return None
    image, _ = read_nifti_image(path)
    return image.reshape(trace.image.shape)


def _scores(table: CaseTable, identity: CaseTable | None, case: str) -> str:
    row = table.rows[case]
    parts = []
    for column in KEY:
        if column in row and (row[column] or column != "non_diffeomorphic_fraction"):
            measure = measure_of(column)
            unit = {"": "", "0–255": " of 255"}.get(measure.unit, f" {measure.unit}")
            text = f"{measure.label} {number_text(row[column])}{unit}"
            beside = None if identity is None else identity.rows.get(case, {}).get(column)
            if beside is not None and column in ("mae", "ssim", "psnr"):
                text += f" (identity {number_text(beside)})"
            parts.append(text)
    return "; ".join(parts) + "."


def _verdict(evaluation: Evaluation, entry: Mapping[str, Any], trace: Trace, target: Tensor | None) -> list[Block]:
    folder = evaluation.folder / FOLDER / entry["trace"]
    certificate = certificate_of(folder)
    if certificate is None or certificate["stale"]:
        certificate = certify_trace(trace, case=entry["case"], target=target if entry["pair"] else None).as_dict()
    against = [check for check in certificate["checks"] if check["status"] in ("FAIL", "WARN")]
    passed = sum(check["status"] == "PASS" for check in certificate["checks"])
    skipped = sum(check["status"] == "SKIPPED" for check in certificate["checks"])
    told = f"{passed} checks passed, {len(against)} did not, {skipped} could not be made"
    blocks: list[Block] = [Grade(str(certificate["verdict"]), told)]
    if against:
        blocks.append(Items(tuple(f"{check['status']}, {check['name']}: {check['reason']}" for check in against)))
    return blocks


def worst_order(table: CaseTable) -> list[str]:
    """All cases, the largest error first."""
    return worst_of(table, len(table.rows))
