"""Overview of many cases, and each case's entry in it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from medtrace.report.certificate import certificate_of
from medtrace.report.overview import ORDER, OverviewCase, overview, worst_first
from medtrace.report.thumbnail import SHOWN, thumbnail
from medtrace.storage.files import atomic_write, write_json
from medtrace.trace import Trace

TRACE = "trace"
SUMMARY, THUMBNAIL, OVERVIEW = "summary.json", "thumbnail.png", "index.html"
UNASSESSED = "not certified"


def write_summary(
    folder: Path,
    trace: Trace,
    verdict: str,
    reason: str,
    numbers: Mapping[str, float | None],
    target: Tensor | None = None,
) -> None:
    """Write a line for the overview, and a thumbnail, into the folder of a case.

    Args:
        folder: folder of the case, beside its trace.
        trace: trace of the case.
        verdict: one of `medtrace.report.overview.ORDER`.
        reason: the reasons against it.
        numbers: heading of a column, with unit → number.
        target: the target of a registration, on the image's grid, to show instead of the image.
    """
    write_json(folder / SUMMARY, {"verdict": verdict, "reason": reason, "numbers": dict(numbers)})
    atomic_write(folder / THUMBNAIL, thumbnail(trace, target))


def registration_numbers(figures: Mapping[str, float]) -> dict[str, float | None]:
    """Columns of the figures of a registration's verdict."""
    covered = figures.get("covered_share")
    return {
        "covered, %": None if covered is None else 100 * covered,
        "likeness aligned": figures.get("correlation_aligned"),
        "likeness after": figures.get("correlation_after"),
        "smallest Jacobian": figures.get("smallest_jacobian"),
        "moved, mm": figures.get("displacement_mm"),
    }


def finished_case(out: Path, name: str) -> OverviewCase:
    """The line of a case with a trace; a certificate made later also counts, if it is worse.

    Args:
        out: folder of all cases.
        name: name of this one's.
    """
    folder = out / name
    known = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    verdict, reason = str(known["verdict"]), str(known["reason"])
    certificate = certificate_of(folder / TRACE)
    if certificate is not None and not certificate["stale"]:
        own = str(certificate["verdict"])
        against = [
            f"{check['name']}: {check['reason']}"
            for check in certificate["checks"]
            if check["status"] in ("FAIL", "WARN")
        ]
        if verdict == UNASSESSED or ORDER.index(own) < ORDER.index(verdict):
            verdict, reason = own, reason_of(against)
    page = f"{name}/{TRACE}.html" if (folder / f"{TRACE}.html").is_file() else None
    return OverviewCase(name, verdict, reason, known["numbers"], page, f"{name}/{THUMBNAIL}")


def reason_of(against: Iterable[str]) -> str:
    """The reasons against a case, in one line."""
    return "; ".join(against) or "nothing speaks against it"


def write_overview(out: Path, cases: Sequence[OverviewCase], title: str) -> Path:
    """Write `out/index.html`, the worst verdict first."""
    return atomic_write(out / OVERVIEW, overview(cases, title, SHOWN))


def write_table(path: Path, cases: Sequence[OverviewCase]) -> None:
    """Write cases as CSV, the worst verdict first: case, status, reason, and a column for each number."""
    columns = list(dict.fromkeys(name for case in cases for name in case.numbers))
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["case", "status", "reason", *columns])
    for case in worst_first(cases):
        writer.writerow([case.name, case.verdict, case.reason, *(case.numbers.get(name) for name in columns)])
    atomic_write(path, text.getvalue())
