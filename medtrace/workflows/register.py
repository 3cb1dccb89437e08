"""Register one scan to another, with or without a trained network, and keep the trace."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from medtrace.checks import check_choice, check_positive, check_whole
from medtrace.fields import jacobian_determinant, non_diffeomorphic_fraction
from medtrace.guard.memory import peak_memory
from medtrace.guard.notices import collecting
from medtrace.guard.progress import announce
from medtrace.inference.scan_pair import read_pair
from medtrace.io import save_trace
from medtrace.io.trace_folder import check_trace_room, trace_room
from medtrace.io.trace_members import check_transform_formats
from medtrace.kernels import threads as pool
from medtrace.methods.common.instance import SMOOTHNESS
from medtrace.registration import Alignment, Line, Verdict, explain
from medtrace.registration.alignment import KINDS
from medtrace.registration.deformable import SIMILARITIES
from medtrace.report import overlay_figure, save_figure
from medtrace.report.figures import SUFFIXES
from medtrace.storage.places import free_disk
from medtrace.storage.reservations import reserving
from medtrace.trace import Trace
from medtrace.workflows.handing_on.hub import local_run
from medtrace.workflows.registration.greedy import MASK_ROLES, PRESETS, Greedy, memory_of, register_greedy, seconds_of
from medtrace.workflows.registration.pair import PairRegistration
from medtrace.workflows.registration.trained import Descent, register_trained
from medtrace.workflows.report import report_beside, reserve_outputs
from medtrace.workflows.unseen.images import TrainingMemory, tell_seen

ENGINES = ("greedy", "instance")
TARGET_NOTE = "target in the source's units"


class Registered(NamedTuple):
    """The result of registering a pair.

    `folds` counts the target's voxels whose Jacobian determinant is negative; `ssd_before` and `ssd_after` are the mean
    squared differences of source and target, and of the final image and the target, of intensities in [0, 1], or None
    between two contrasts, whose difference is meaningless.
    """

    trace: Trace
    seconds: float
    peak_gib: float
    folds: int
    folded_fraction: float
    ssd_before: float | None
    ssd_after: float | None
    verdict: Verdict
    alignment: Alignment
    lines: tuple[Line, ...]
    """The verdict in words, topic by topic."""
    similarity: str | None
    """The similarity that the deformation followed, and why; None for a trained network alone."""
    target: Tensor | None = None
    """The registration's target, on the trace's grid, in its own units."""


@reserving(lambda out, report, overwrite, figure: reserve_outputs(out, report, overwrite, figure))
def register(
    source: str | os.PathLike,
    target: str | os.PathLike,
    out: str | os.PathLike,
    *,
    mask: str | os.PathLike | None = None,
    source_mask: str | os.PathLike | None = None,
    run: str | os.PathLike | None = None,
    refine: int | None = None,
    engine: str | None = None,
    align: str = "auto",
    same_person: bool = False,
    similarity: str = "auto",
    preset: str | None = None,
    update_smoothing: float | None = None,
    field_smoothing: float | None = None,
    mask_role: str = "both",
    threads: int | None = None,
    spacing: float | None = None,
    smoothness: float = SMOOTHNESS,
    match: bool | None = None,
    contrast: str | None = None,
    labels: str | os.PathLike | None = None,
    figure: str | os.PathLike | None = None,
    device: str | None = None,
    progress: bool = True,
    overwrite: bool = False,
    report: bool = True,
    keep_metadata: bool = False,
    source_series: str | int | None = None,
    target_series: str | int | None = None,
    resample_tilt: bool = False,
    precise: bool = False,
    transforms: Sequence[str] = (),
) -> Registered:
    """Register a source to a target and save the trace, with a page for viewing it next to its folder (OUT.html).

    Both may be volumes, single slices or natural images, on their own grids and of any contrasts. They are aligned
    first
    (`medtrace.registration.align`), then deformed by the engine of `medtrace.registration` or by a trained network; the
    trace holds both in one field, so that its warped image is interpolated once, and keeps the source as it was, with
    its own affine. A verdict says how far to trust it: in the result, in `trace.json` and on the page.

    The trace's images are in the source's units. Within a mask the image is the target, converted to these units by
    matched percentiles or, where contrasts differ, as the mean intensity of the warped source at such voxels of the
    target; a network reports the change itself. Without masks the image is the warped source.

    Args:
        source: a file or DICOM folder (see `medtrace.data.reading`).
        target: likewise, with as many channels.
        out: folder of the trace (see `medtrace.io.save_trace`); it appears complete or not at all.
        mask: pathology of the target on its grid (see `data.masks`): where intensity may change.
        source_mask: pathology of the source on its grid; it moves with the source.
        run: folder left by `medtrace train metaregnet`, its model folder, or `hf://owner/name`; None registers
            without a trained network. If its training scans were bias-corrected, so are source and target first, and
            the trace keeps them corrected.
        refine: gradient steps on this pair's own flows, after a run (by default none) or, without a run, by the engine
            "instance" (100), which a number selects.
        engine: without a run, "greedy" (`medtrace.registration`; the default, unless `refine` is given) or "instance"
            (gradient steps alone). After a run, "greedy" continues the network's field by `preset`; by default, the
            network's field is the result.
        align: "auto", "none", "rigid" or "affine" (see `medtrace.registration.align`).
        same_person: whether both scans are of one person, whose alignment is rigid.
        similarity: of the engine "greedy": "auto", or one of `medtrace.registration.deformable.SIMILARITIES`.
        preset: of the engine "greedy": "standard", "thorough" or "weak-likeness"; None for what suits the pair,
            and after a run "standard".
        update_smoothing, field_smoothing: likewise, mm of the Gaussians on updates and on the field.
        mask_role: likewise, whether the masks' voxels are left out of the similarity ("exclude"), may change in
            intensity ("appearance"), or both.
        threads: threads of the engine; None for as many as torch may use.
        spacing: voxel size in mm to register at; by default the run's, or the target's own.
        smoothness: weight of the displacement's smoothness in gradient steps.
        match: map the source's percentiles to the target's, for scans from different machines; by default only without
            a run.
        contrast: contrast of both images, if the run was trained on several.
        labels: of the source on its grid, for the figure: contours of what is warped.
        figure: a .png, .pdf or .svg of the registration.
        device: such as "cuda:0"; by default CUDA if available.
        progress: show a bar on stderr.
        overwrite: replace an earlier trace in `out`.
        keep_metadata: write the names of both files into the trace and the figure's title; file names often identify
            patients.
        report: write the page. It shows the target in the source's units, through the intensity maps of both.
        source_series, target_series: which volume of a DICOM folder that holds several, see
            `medtrace.data.reading.read_image`.
        resample_tilt: resample DICOM series of a tilted gantry onto grids at right angles.
        precise: store the trace losslessly (see `medtrace.io.save_trace`).
        transforms: further formats to write the fields in: "h5", "nrrd".

    Returns:
        The trace, 3D for volumes and 2D otherwise, on the CPU, what it cost, and its verdict.

    Raises:
        FileNotFoundError: if the run or a file is missing.
        FileExistsError: if `out` is in use.
        ValueError: if a file cannot be used, the run does not fit, nothing would register, or, by their headers, the
            scans do not overlap where no alignment is sought or are farther apart than their size.

    Example:
        >>> found = register("healthy.nii.gz", "patient.nii.gz", "trace", mask="lesion.nii.gz")  # doctest: +SKIP
        >>> found.verdict.grade  # doctest: +SKIP
        'PASS'
    """
    out, run = Path(out), None if run is None else local_run(run)
    continued = (preset or "standard") if run is not None and engine == "greedy" else None
    descent = Descent(run, refine, smoothness, contrast, device, continued)
    greedy = Greedy(similarity, preset, update_smoothing, field_smoothing, mask_role)
    by_greedy = _check_request(descent, greedy, engine, spacing, figure)
    check_choice("align", align, KINDS)
    if same_person and align not in ("auto", "rigid"):
        raise ValueError(f"same_person: expected with the alignment rigid, received {align!r}; leave one out")
    kind = "rigid" if same_person else align
    check_transform_formats(transforms)
    if threads is not None:
        check_whole("threads", threads, 1)
    with collecting() as notices:
        pair = read_pair(
            Path(source),
            Path(target),
            _path(mask),
            _path(source_mask),
            _path(labels),
            source_series=source_series,
            target_series=target_series,
            resample_tilt=resample_tilt,
        )
        if run is not None:
            tell_seen(TrainingMemory.of(run), {Path(source): pair.source, Path(target): pair.target})
    check_trace_room(out, pair.source.shape, pair.target.shape)
    sizes = [" x ".join(map(str, image.shape[1:])) for image in (pair.source, pair.target)]
    announce(
        f"registering {sizes[0]} voxels to {sizes[1]}",
        takes=seconds_of(pair, spacing) if by_greedy else None,
        memory=memory_of(pair, spacing, similarity) if by_greedy else None,
        room=trace_room(pair.source.shape, pair.target.shape),
        disk=free_disk(out),
        out=out.name,
    )
    started = time.perf_counter()
    if by_greedy:
        with pool.own_pool(threads):
            made = register_greedy(pair, greedy, alignment=kind, spacing=spacing, match=match)
    else:
        with Progress(console=Console(stderr=True), disable=not progress) as bar:
            made = register_trained(pair, descent, alignment=kind, spacing=spacing, match=match, bar=bar)
    result = _registered(made, time.perf_counter() - started)._replace(target=pair.target)
    names = {"source": Path(source).name, "target": Path(target).name} if keep_metadata else {}
    notes = {"notices": [notice.text for notice in notices]} if notices else {}
    stored: dict[str, Any] = {"precise": precise, "transforms": transforms, "overwrite": overwrite}
    save_trace(made.trace, out, method=made.method, metadata={**names, **notes, **_record(made, result)}, **stored)
    if figure is not None:
        transferred = None if pair.source_labels is None else made.trace.transfer(pair.source_labels)
        title = " to ".join(names.values()) or None
        save_figure(overlay_figure(made.trace, pair.target, transferred, title=title), figure)
    if report:
        shown = _in_source_units(pair.target, made)
        report_beside(
            made.trace,
            out,
            made.method,
            shown,
            notes=(TARGET_NOTE,),
            certificate=verdict_table(result),
            registration=True,
        )
    return result


def _registered(made: PairRegistration, seconds: float) -> Registered:
    ddf = made.trace.ddf[None]
    reason = made.record.get("similarity_reason")
    return Registered(
        trace=made.trace,
        seconds=seconds,
        peak_gib=peak_memory(made.device),
        folds=int((jacobian_determinant(ddf) < 0).sum()),
        folded_fraction=float(non_diffeomorphic_fraction(ddf)),
        ssd_before=None if made.ssd is None else made.ssd[0],
        ssd_after=None if made.ssd is None else made.ssd[1],
        verdict=made.verdict,
        alignment=made.alignment,
        lines=explain(made.verdict, made.alignment),
        similarity=None if reason is None else f"{made.record['similarity']}: {reason}",
    )


def _record(made: PairRegistration, result: Registered) -> dict[str, Any]:
    """The entries of `trace.json` about a registration."""
    alignment = made.alignment
    numbers = ("seconds", "peak_gib", "folds", "folded_fraction", "ssd_before", "ssd_after")
    return {
        **made.record,
        **{name: getattr(result, name) for name in numbers},
        "alignment": {
            "kind": alignment.kind,
            "reason": alignment.reason,
            "matrix_fixed_to_moving_ras_mm": alignment.matrix.tolist(),
            "plausibility": alignment.plausibility._asdict(),
        },
        "verdict": verdict_table(result),
    }


def verdict_table(result: Registered) -> dict[str, Any]:
    """The verdict as a page shows it: a row for each topic."""
    return {
        "title": "Registration",
        "case": "this pair",
        "verdict": result.verdict.grade,
        "checks": [
            {
                "name": line.topic,
                "status": line.grade,
                "reason": line.text,
                "figures": {name: value if math.isfinite(value) else None for name, value in line.figures.items()},
                "limits": {},
            }
            for line in result.lines
        ],
    }


def _in_source_units(target: Tensor, made: PairRegistration) -> Tensor:
    """The target in the source's intensities, for the error column."""
    if made.target is not None:
        return made.target
    return made.maps[0].inverse(made.maps[1].forward(target), made.maps[1].foreground)


def _path(path: str | os.PathLike | None) -> Path | None:
    return None if path is None else Path(path)


def _check_request(
    descent: Descent, greedy: Greedy, engine: str | None, spacing: float | None, figure: str | os.PathLike | None
) -> bool:
    """Check the options; returns whether the engine "greedy" is to be used."""
    run, refine = descent.run, descent.refine
    if refine is not None and refine < 0:
        raise ValueError(f"refine: expected 0 or more gradient steps, received {refine}")
    if engine is not None:
        check_choice("engine", engine, ENGINES)
        if run is not None and engine != "greedy":
            raise ValueError(
                f"engine: expected none or greedy, which continues its field, with a run, received {engine!r}; for"
                " gradient steps, give refine"
            )
    if run is None and refine == 0:
        raise ValueError("refine: expected 1 or more gradient steps without a run, received 0; or name a run")
    if engine == "greedy" and refine is not None:
        raise ValueError(
            f"refine: expected none with the engine greedy, which takes no gradient steps, received {refine}"
        )
    by_greedy = run is None and refine is None and engine != "instance"
    if not by_greedy and greedy != (Greedy(preset=greedy.preset) if engine == "greedy" else Greedy()):
        raise ValueError(
            "similarity, preset, smoothing in mm and mask_role: expected with the engine greedy alone, received with a"
            " run or the engine instance, which have their own; leave them out (with a run, the engine greedy, which"
            " continues its field, takes a preset)"
        )
    check_choice("similarity", greedy.similarity, ("auto", *SIMILARITIES))
    check_choice("mask_role", greedy.mask_role, MASK_ROLES)
    if greedy.preset is not None:
        check_choice("preset", greedy.preset, tuple(PRESETS))
    if spacing is not None:
        check_positive("spacing", spacing)
    if figure is not None and Path(figure).suffix not in SUFFIXES:
        raise ValueError(f"figure: expected a name ending in {', '.join(SUFFIXES)}, received {figure}")
    return by_greedy
