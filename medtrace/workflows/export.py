"""Write the fields of a trace for another program, on its own grids or those of the original scans."""

from __future__ import annotations

import os
from pathlib import Path

from monai.data import MetaTensor
from torch import Tensor

from medtrace.data.reading import read_image
from medtrace.io import load_trace, read_motion, save_trace
from medtrace.io.export import COMPOSITES, EXPORT_FORMATS, export_trace
from medtrace.io.original_scan import to_original
from medtrace.storage.reservations import reserve_folder, reserving
from medtrace.trace import Trace
from medtrace.trace.validation import as_tensor

TRACE = "trace"
"""The format that is a trace folder, for a trace resampled to other scans."""


@reserving(lambda out: reserve_folder(out))
def export(
    trace: str | os.PathLike,
    out: str | os.PathLike,
    format: str,
    *,
    source: str | os.PathLike | None = None,
    source_transform: str | os.PathLike | None = None,
    target: str | os.PathLike | None = None,
    target_transform: str | os.PathLike | None = None,
    source_series: str | int | None = None,
    target_series: str | int | None = None,
    resample_tilt: bool = False,
) -> list[Path]:
    """Export a trace's fields, after resampling them to the original scans if these are named.

    A composite takes the transforms as they are, exactly and without a scan; the other formats are fields, which are
    resampled on the scans' grids.

    Args:
        trace: folder of a trace.
        out: a new or empty folder; it appears complete or not at all.
        format: a name of `medtrace.io.export_trace`, or "trace" for a trace folder.
        source: the original source scan, if the trace was made on a cropped, resampled, sliced or aligned copy (see
            `medtrace.io.to_original`); not for composites.
        source_transform: ITK transform from the trace's source frame to that scan's.
        target: the target scan, whose grid the result then uses.
        target_transform: ITK transform from the trace's target frame to that scan's, such as `rigid/*.tfm` of a
            prepared dataset.
        source_series, target_series: which volume of a DICOM folder that holds several, see
            `medtrace.data.reading.read_image`.
        resample_tilt: resample DICOM series of a tilted gantry onto grids at right angles.

    Returns:
        The files, sorted.

    Raises:
        FileNotFoundError: if a file is missing.
        FileExistsError: if `out` is in use.
        ValueError: if the format is unknown, a file cannot be used, or a transform is named without the source scan.
    """
    if format not in (*EXPORT_FORMATS, TRACE):
        raise ValueError(f"format: expected one of {', '.join((*EXPORT_FORMATS, TRACE))}, received {format!r}")
    loaded = load_trace(Path(trace))
    if format in COMPOSITES:
        if source is not None or target is not None:
            raise ValueError(
                f"source: expected none with {format}, which stores the motions themselves and needs no scan; leave it"
                " out"
            )
        motions = {"source_transform": _motion(source_transform), "target_transform": _motion(target_transform)}
        return export_trace(loaded, Path(out), format, **motions)
    if source is not None:
        scan = read_image(Path(source), source_series, resample_tilt=resample_tilt)
        fixed = None if target is None else read_image(Path(target), target_series, resample_tilt=resample_tilt)
        loaded = _to_scans(loaded, scan, source_transform, fixed, target_transform)
    elif any(path is not None for path in (source_transform, target, target_transform)):
        raise ValueError("source: expected the source scan with a motion or a target scan, received none; name it")
    if format == TRACE:
        save_trace(loaded, Path(out), metadata={"original of": str(Path(trace).name)})
        return sorted(Path(out).iterdir())
    return export_trace(loaded, Path(out), format)


def _to_scans(
    trace: Trace,
    scan: MetaTensor,
    source_transform: str | os.PathLike | None,
    fixed: MetaTensor | None,
    target_transform: str | os.PathLike | None,
) -> Trace:
    return to_original(
        trace,
        as_tensor(scan),
        scan.affine,
        source_transform=_motion(source_transform),
        target_shape=None if fixed is None else tuple(fixed.shape[1:]),
        target_affine=None if fixed is None else fixed.affine,
        target_transform=_motion(target_transform),
    )


def _motion(path: str | os.PathLike | None) -> Tensor | None:
    return None if path is None else read_motion(Path(path))
