"""A trace of any translated image, whatever program made it, estimated by registering it with its source."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn

from medtrace.checks import check_choice, check_positive
from medtrace.data.contrasts import check_declared, contrasts_of
from medtrace.data.lists.pair_list import Pair
from medtrace.evaluation.certificate.record import Certificate
from medtrace.evaluation.certificate.thresholds import Thresholds
from medtrace.evaluation.tracing import contrasts_by_likeness, lines_of, trace_by_registration, worst_grade
from medtrace.inference.scan_pair import read_pair
from medtrace.io import save_trace
from medtrace.io.trace_folder import check_trace_room
from medtrace.kernels import threads as pool
from medtrace.registration import Line, Verdict, register_images
from medtrace.registration.alignment import KINDS
from medtrace.registration.register import Registration
from medtrace.report.certificate import certificate_beside
from medtrace.storage.reservations import reserving
from medtrace.trace import Contrast, LedgerSummary, Trace
from medtrace.workflows.certify import certify
from medtrace.workflows.registration.greedy import check_room
from medtrace.workflows.report import report_beside, reserve_outputs

NO_RADIUS = "no conformal radius: none was calibrated for traces found by registration; give one with --radius"
STEPS = 6
METHOD = "registration of source and translated image"


class Traced(NamedTuple):
    """The result of tracing a translated image."""

    trace: Trace
    verdict: Verdict
    """Of the registration."""
    lines: tuple[Line, ...]
    certificate: Certificate
    ledger: LedgerSummary
    notes: tuple[str, ...]
    """What was assumed or measured, one line each."""

    @property
    def grade(self) -> str:
        """The worst of the registration's verdict, its lines and the certificate's verdict."""
        return worst_grade(self.verdict, self.lines, self.certificate)


@reserving(lambda out, report, overwrite: reserve_outputs(out, report, overwrite, certificate_beside(out)))
def trace_translation(
    source: str | os.PathLike,
    image: str | os.PathLike,
    out: str | os.PathLike,
    *,
    mask: str | os.PathLike | None = None,
    source_contrast: str | None = None,
    image_contrast: str | None = None,
    align: str | None = None,
    similarity: str = "auto",
    spacing: float | None = None,
    radius: str | os.PathLike | None = None,
    thresholds: Thresholds | str | os.PathLike | None = None,
    threads: int | None = None,
    overwrite: bool = False,
    report: bool = True,
    keep_metadata: bool = False,
    source_series: str | int | None = None,
    target_series: str | int | None = None,
    resample_tilt: bool = False,
    precise: bool = False,
    progress: bool = False,
) -> Traced:
    """Find out where a translated image came from, and certify it.

    The source is registered to the image by the anatomy that both show, whatever their contrasts. The trace keeps
    both as they are; the ledger splits the change into deformation, appearance and a residual, and the certificate and
    the registration's verdict say how far to trust it. Only that part of the deformation is kept which is confirmed on
    held-out parts of the image (`medtrace.registration.held_out`): where nothing moves measurably, the trace says so
    and has no deformation.

    Args:
        source: the image that was translated: a file or DICOM folder.
        image: what it became, on any grid, with as many channels.
        out: folder of the trace; certificate and page are written next to it.
        mask: where the image's intensity may change and the registration may not follow it, such as a lesion, on its
            grid.
        source_contrast: contrast and unit of the source, `NAME[=UNIT[:LOW:HIGH]]`, such as CT=HU; by default what DICOM
            says, or it is measured whether source and image have one contrast.
        image_contrast: likewise of the image.
        align: "none", "rigid", "affine" or "auto" before the deformation; by default none where both are on one grid,
            else auto.
        similarity: see `medtrace.registration.register_images`.
        spacing: voxel size in mm to register at, also independently for the certificate; by default the image's.
        radius: a file of `medtrace calibrate radius` made for such traces.
        thresholds: limits of the certificate, or a YAML file of some.
        threads: threads of the registration.
        overwrite: replace an earlier trace.
        report: write the page.
        keep_metadata: write the names of the files into the trace.
        source_series, target_series: which volumes of DICOM folders.
        resample_tilt: resample DICOM series of a tilted gantry onto grids at right angles.
        precise: keep every bit in the trace.
        progress: tell on stderr what is being done.

    Returns:
        The trace, both verdicts, the ledger and what was assumed.

    Raises:
        FileNotFoundError: if a file is missing.
        FileExistsError: if `out` is in use.
        ValueError: if a file cannot be used, or the two do not overlap.
    """
    out = Path(out)
    if align is not None:
        check_choice("align", align, KINDS)
    series: dict[str, Any] = {"source_series": source_series, "target_series": target_series}
    limits = thresholds if isinstance(thresholds, Thresholds) else Thresholds()
    if thresholds is not None and not isinstance(thresholds, Thresholds):
        limits = Thresholds.load(thresholds)
    if spacing is not None:
        check_positive("spacing", spacing)
        limits = replace(limits, reference_mm=max(limits.reference_mm, spacing))
    with _steps(progress) as step:
        step("reading")
        pair = read_pair(
            Path(source), Path(image), None if mask is None else Path(mask), resample_tilt=resample_tilt, **series
        )
        declared = _declared(Path(source), Path(image), source_contrast, image_contrast, **series)
        for path, values, contrast in zip((Path(source), Path(image)), (pair.source, pair.target), declared):
            check_declared(path, values, contrast)
        check_trace_room(out, pair.source.shape, pair.target.shape)
        check_room(pair, spacing, similarity)
        kind = align or ("none" if pair.to_source is None else "auto")
        step("registering")
        with pool.own_pool(threads):
            result = register_images(
                pair.source,
                pair.target,
                pair.source_affine,
                pair.affine,
                alignment=kind,
                similarity=similarity,
                mask=pair.mask,
                spacing=spacing,
                held_out=True,
            )
        contrasts, notes = _notes(declared, result, None if align else kind, radius)
        step("accounting for intensities")
        trace = trace_by_registration(
            pair.source, pair.target, pair.source_affine, pair.affine, result, pair.mask, contrasts
        )
        names = {"source": Path(source).name, "image": Path(image).name} if keep_metadata else {}
        lines = lines_of(result)
        record = {**names, **_record(result, lines), "assumed": notes}
        step("writing the trace")
        save_trace(trace, out, method=METHOD, metadata=record, precise=precise, overwrite=overwrite)
        step("certifying")
        certificate = certify(
            out, thresholds=limits, radius=radius, out=certificate_beside(out), keep_metadata=keep_metadata
        )
        made = Traced(trace, result.verdict, lines, certificate, trace.ledger().summary, tuple(notes))
        if report:
            step("writing the page")
            report_beside(trace, out, METHOD, notes=tuple(notes), certificate=_table(made))
    return made


@contextmanager
def _steps(progress: bool) -> Iterator[Callable[[str], None]]:
    """A line on stderr that shows which of six steps is being done."""
    with Progress(
        *Progress.get_default_columns()[:2], TimeElapsedColumn(), console=Console(stderr=True), disable=not progress
    ) as bar:
        row = bar.add_task("", total=STEPS)

        def step(what: str) -> None:
            begun = bar.tasks[0].fields.get("begun", -1) + 1
            bar.update(row, description=what, completed=begun, begun=begun)

        yield step


def _notes(
    declared: tuple[Contrast, Contrast], result: Registration, chosen: str | None, radius: str | os.PathLike | None
) -> tuple[tuple[Contrast, Contrast] | None, list[str]]:
    """The contrasts of the trace, and what was assumed or measured; `chosen` is the alignment that was chosen
    automatically."""
    contrasts, note = contrasts_by_likeness(declared, result.verdict)
    notes = [note, f"similarity {result.settings.similarity}: {result.settings_reason}"]
    if chosen is not None:
        notes.append(
            "source and image are on one grid, so no alignment was sought (--align)"
            if chosen == "none"
            else f"alignment {result.alignment.kind}: {result.alignment.reason}"
        )
    if radius is None:
        notes.append(NO_RADIUS)
    return contrasts, notes


def _declared(
    source: Path, image: Path, before: str | None, after: str | None, **series: Any
) -> tuple[Contrast, Contrast]:
    """The known contrasts and units of the two images: as declared, or as DICOM says."""
    pair = Pair("one", "pair", source, image, "source", "image", **series)
    named, known = contrasts_of([_named(pair, before, after)], [before] if before else [], [after] if after else [])
    return known[named[0].contrast], known[named[0].target_contrast]


def _named(pair: Pair, before: str | None, after: str | None) -> Pair:
    """A pair whose contrasts carry the names that were declared for them."""
    return replace(
        pair,
        contrast=Contrast.of(before).name if before else "image",
        target_contrast=Contrast.of(after).name if after else "translated image",
    )


def _record(result: Registration, lines: Sequence[Line]) -> dict[str, Any]:
    alignment = result.alignment
    return {
        "similarity": result.settings.similarity,
        "settings": asdict(result.settings),
        "alignment": {"kind": alignment.kind, "matrix_fixed_to_moving_ras_mm": alignment.matrix.tolist()},
        "verdict": {
            "grade": result.verdict.grade,
            "lines": [f"{line.grade} {line.topic}: {line.text}" for line in lines],
        },
    }


def _table(made: Traced) -> dict[str, Any]:
    """The registration's verdict and then the certificate, as a page shows them."""
    table = made.certificate.as_dict()
    rows = [
        {"name": f"registration: {line.topic}", "status": line.grade, "reason": line.text, "figures": {}, "limits": {}}
        for line in made.lines
    ]
    return {**table, "verdict": made.grade, "checks": [*rows, *table["checks"]]}
