"""A whole trace as DICOM: the image as a series, its fields as registrations."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from medtrace.data.reading import read_image
from medtrace.io.dicom import SourceSeries, read_source_series
from medtrace.io.dicom_registration import write_dicom_registration
from medtrace.io.dicom_series import write_dicom_series
from medtrace.io.trace_folder import INDEX, load_trace
from medtrace.storage.directories import atomic_directory
from medtrace.storage.files import make_directory
from medtrace.storage.places import check_room
from medtrace.storage.reservations import reserve_folder
from medtrace.trace import Contrast, Trace

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

GRID_TOLERANCE_MM = 0.01
VALUE_TOLERANCE = 1e-4
"""Largest difference between a trace's source and the series that it is said to be of, as a fraction of the range."""


def save_dicom(
    trace: Trace,
    folder: Path | str,
    series: Path | str,
    *,
    target_series: Path | str | None = None,
    volume: str | int | None = None,
    target_volume: str | int | None = None,
    method: str | None = None,
    warped: bool = False,
) -> Path:
    """Write a trace as DICOM objects of the study that its source belongs to.

    `image/` becomes the derived series (`write_dicom_series`), `warped/` likewise if requested; `ddf.dcm` and
    `inverse_ddf.dcm` become Deformable Spatial Registrations (`write_dicom_registration`) that refer to both series:
    the first leads from the image to the source, for resampling the source onto the image, the second back. Image and
    source share the source's frame of reference, unless a target series has another.

    Args:
        trace: trace of a scan of one channel, such as `translate` makes of a DICOM folder: the source in the scan's own
            units, the image in those of `trace.contrasts`, which make it a CT or an MR.
        folder: a new or empty folder; its parent must exist. It appears complete or not at all.
        series: folder of the DICOM series that is `trace.source`.
        target_series: folder of the series on whose grid `trace.image` is, for a trace of a registration.
        volume, target_volume: which volume of `series` and `target_series`, where a folder holds several (see
            `medtrace.data.reading.read_image`).
        method: what made the trace, for descriptions.
        warped: write `trace.warped` too.

    Returns:
        The folder.

    Raises:
        TypeError: if it is not a Trace.
        FileExistsError: if the folder is in use.
        FileNotFoundError: if its parent or a series does not exist.
        ValueError: if the series is not the trace's source, or image and source are on two grids and no target
            series is given.
    """
    if not isinstance(trace, Trace):
        raise TypeError(f"trace: expected a Trace, received {type(trace).__name__}; see Trace.build")
    with reserve_folder(folder):
        source = read_source_series(series, volume)
        target = None if target_series is None else read_source_series(target_series, target_volume)
        return _save_dicom(trace, Path(folder), source, target, method, warped)


def _save_dicom(
    trace: Trace,
    folder: Path,
    source: SourceSeries,
    target: SourceSeries | None,
    method: str | None,
    warped: bool,
) -> Path:
    _check_is_source(trace, source)
    if target is not None:
        _check_grid("target_series", target, trace.image, trace.affine)
    elif not trace.same_grid:
        raise ValueError(
            "target_series: expected the DICOM series of the image's grid, received None; image and source of this"
            " trace are on two grids"
        )
    voxels, images = trace.ddf[0].numel(), 2 if warped else 1
    check_room(folder, voxels * (2 * images + 12) + 12 * trace.inverse_ddf[0].numel(), "DICOM of a trace of this size")
    with atomic_directory(folder) as temporary:
        _write(trace, temporary, source, target, method or "medtrace", warped)
    return folder.absolute()


def export_dicom(
    trace_folder: Path | str,
    folder: Path | str,
    series: Path | str,
    *,
    target_series: Path | str | None = None,
    volume: str | int | None = None,
    target_volume: str | int | None = None,
    warped: bool = False,
) -> Path:
    """`save_dicom` of a saved trace, with the method that its folder names."""
    with reserve_folder(folder):
        trace = load_trace(trace_folder)
        method = json.loads((Path(trace_folder) / INDEX).read_text(encoding="utf-8")).get("method")
        return save_dicom(
            trace,
            folder,
            series,
            target_series=target_series,
            volume=volume,
            target_volume=target_volume,
            method=method,
            warped=warped,
        )


def _write(
    trace: Trace, folder: Path, source: SourceSeries, target: SourceSeries | None, method: str, warped: bool
) -> None:
    now = datetime.now()
    first_number = int(source.headers[0].get("SeriesNumber") or 0) + 1000
    frame = target or source

    def series(
        name: str, image: Tensor, number: int, description: str, derivation: str, contrast: Contrast | None = None
    ) -> tuple[Dataset, ...]:
        make_directory(folder / name)
        return write_dicom_series(
            folder / name,
            image,
            trace.affine,
            source,
            frame=frame,
            description=description,
            derivation=derivation,
            series_number=number,
            now=now,
            contrast=contrast,
        )

    contrast = None if trace.contrasts is None else trace.contrasts[0]
    derivation = f"Image synthesized by {method} (medtrace) from the source images; not acquired"
    image = series("image", trace.image, first_number, f"{method} translation (synthetic)", derivation, contrast)
    if warped:
        derivation = f"Source images resampled by the displacement of {method} (medtrace)"
        series("warped", trace.warped, first_number + 1, f"{method} warped source", derivation)
    fields = (
        ("ddf", trace.ddf, trace.affine, image, source.headers, "image to source"),
        ("inverse_ddf", trace.inverse_ddf, trace.source_affine, source.headers, image, "source to image"),
    )
    for number, (name, ddf, affine, registered, moved, words) in enumerate(fields, start=first_number + 2):
        write_dicom_registration(
            folder / f"{name}.dcm",
            ddf,
            affine,
            source,
            registered=registered,
            source=moved,
            label=name.upper(),
            description=f"{method} displacement, {words}",
            series_number=number,
            now=now,
        )


def _check_is_source(trace: Trace, source: SourceSeries) -> None:
    """The objects carry the series' patient: it must be the scan that was translated."""
    _check_grid("series", source, trace.source, trace.source_affine)
    pixels = read_image(source.folder, source.series).as_tensor().reshape(trace.source.shape)
    span = float(pixels.max() - pixels.min())
    apart = float((pixels - trace.source.cpu()).abs().max())
    if apart > VALUE_TOLERANCE * span:
        raise ValueError(
            f"series: {source.folder} differs from the trace's source by up to {apart:.4g} (its range is {span:.4g});"
            " give the series that was translated, or translate this one"
        )


def _check_grid(name: str, series: SourceSeries, image: Tensor, affine: Tensor) -> None:
    shape = (*image.shape[1:], 1)[:3]
    remedy = "give the series that the trace was made of; a converted copy may have other axes"
    if shape != series.shape or image.shape[0] != 1:
        raise ValueError(
            f"{name}: expected the trace's grid {tuple(image.shape)}, received {(1, *series.shape)} of"
            f" {series.folder}; {remedy}"
        )
    corners = torch.tensor([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)], dtype=torch.float64)
    corners[:, :3] *= torch.tensor(shape, dtype=torch.float64) - 1
    apart = float(((corners @ affine.cpu().double().T) - (corners @ series.affine.T)).abs().max())
    if apart > GRID_TOLERANCE_MM:
        raise ValueError(f"{name}: {series.folder} lies {apart:.3g} mm off the trace's grid; {remedy}")
