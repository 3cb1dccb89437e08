"""The grid of DICOM slices: their order and spacing, from position vectors checked against the slices' normal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medtrace.data.dicom.frames import Frame
from medtrace.data.dicom.volumes import DicomVolume
from medtrace.geometry.grid import check_invertible

if TYPE_CHECKING:
    import pydicom
else:
    from medtrace.guard.extras import PYDICOM as pydicom

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
EVEN = 0.02
"""Largest departure of a slice from even spacing and from a straight line, as a fraction of the spacing."""
ROUNDED_MM, ROUNDED = 0.06, 0.1
"""Departure that a position rounded to a tenth of a mm may have: in mm, and at most this fraction of the spacing."""
UPRIGHT = 5e-4
"""Largest slope of the line of slices against their normal that rounding of its direction explains."""
RIGHT_ANGLES = 1e-3
"""Largest error of the length and the right angle of the direction cosines."""


@dataclass(frozen=True, eq=False)
class Stack:
    """Slices in the order of their positions, and their grid.

    Attributes:
        frames: sorted along the normal.
        affine: (4, 4) float64, voxel (column, row, slice) to RAS mm, its axes at right angles.
        slide: mm that each slice lies further along rows and columns than `affine` says of the one before; 0, 0 unless
            the stack is tilted.
    """

    frames: tuple[Frame, ...]
    affine: np.ndarray
    slide: tuple[float, float] = (0.0, 0.0)

    @property
    def modality(self) -> str | None:
        """DICOM modality, such as "CT", where the headers say it."""
        value = self.frames[0].header.get("Modality")
        return str(value) if value else None

    @property
    def tilted(self) -> bool:
        return any(self.slide)

    @property
    def tilt(self) -> float:
        """Angle between the line of the slices and their normal, in degrees."""
        return float(np.degrees(np.arctan2(np.hypot(*self.slide), np.linalg.norm(self.affine[:3, 2]))))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Columns, rows, slices."""
        first = self.frames[0].header
        return int(first.Columns), int(first.Rows), len(self.frames)


def stack(path: Path, volume: DicomVolume) -> Stack:
    """Sort the slices of a volume and check that they make a grid.

    Args:
        path: where it is, for messages.
        volume: with slices of one size, spacing and direction.

    Raises:
        ValueError: if a position is unknown, or slices are missing, duplicated or shifted sideways; the message says
            how far.
    """
    frames = volume.frames
    _check_known(path, frames)
    rows, columns = _axes(path, frames[0])
    row_spacing, column_spacing = _spacing(path, frames[0])
    normal = np.cross(rows, columns)
    positions = np.array([frame.numbers("ImagePositionPatient", 3) for frame in frames])
    order = np.argsort(positions @ normal, kind="stable")
    frames, positions = tuple(frames[k] for k in order), positions[order]
    axes, origin = np.stack([rows, columns, normal], axis=1), positions[0]
    if len(frames) == 1:
        step, slide = _thickness(path, frames[0]), (0.0, 0.0)
    else:
        line = _line(path, frames, (positions - origin) @ axes)
        origin = origin + axes @ line[0]
        step, slide = float(line[1, 2]), (float(line[1, 0]), float(line[1, 1]))
    lps = np.eye(4)
    lps[:3, :3] = axes * [column_spacing, row_spacing, step]
    lps[:3, 3] = origin
    affine = LPS_TO_RAS @ lps
    check_invertible(f"{path}: positions, directions and spacings", affine, "export the series again")
    return Stack(frames, affine, slide)


def _check_known(path: Path, frames: Sequence[Frame]) -> None:
    """Check that every slice states its position, and no frame is a mosaic of slices."""
    for frame in frames:
        if "MOSAIC" in [str(word).upper() for word in np.atleast_1d(frame.header.get("ImageType") or [])]:
            raise ValueError(
                f"{frame.path}: is a MOSAIC, a volume of slices laid out as one image; convert the series to NIfTI"
                " (dcm2niix), or export it as single slices"
            )
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        lacking = [frame for frame in frames if frame.get(keyword) is None]
        if not lacking:
            continue
        if lacking[0].of_several:
            raise ValueError(
                f"{lacking[0].path}: a frame lacks {keyword} in its functional groups, so its position is unknown;"
                " export it as an enhanced object or as single slices"
            )
        detector = keyword == "PixelSpacing" and lacking[0].get("ImagerPixelSpacing") is not None
        why = " (ImagerPixelSpacing is that of the detector, not of the patient)" if detector else ""
        kind = pydicom.uid.UID(str(lacking[0].header.get("SOPClassUID", ""))).name
        raise ValueError(
            f"{path}: an image lacks {keyword}, so its position is unknown{why}: {lacking[0].name}, {kind}; export"
            " the series again with its geometry, or a projection or screenshot as PNG"
        )


def _axes(path: Path, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors along a row and down a column, LPS, at right angles."""
    given = np.asarray(frame.numbers("ImageOrientationPatient", 6))
    axes = given.reshape(2, 3)
    if np.abs(axes @ axes.T - np.eye(2)).max() > RIGHT_ANGLES:
        raise ValueError(
            f"{path}: ImageOrientationPatient: expected two unit vectors at right angles, received"
            f" {given.round(4).tolist()} in {frame.name}; export it again"
        )
    left, _, right = np.linalg.svd(axes, full_matrices=False)  # the nearest axes exactly at right angles
    rows, columns = left @ right
    return rows, columns


def _spacing(path: Path, frame: Frame) -> np.ndarray:
    """Millimetres from row to row and from column to column."""
    spacing = frame.numbers("PixelSpacing", 2)
    if spacing is None or (spacing <= 0).any():
        raise ValueError(f"{path}: PixelSpacing: expected two positive numbers, received {spacing}; export it again")
    return spacing


def _thickness(path: Path, frame: Frame) -> float:
    """Extent of a single slice along its normal, in mm."""
    for keyword in ("SliceThickness", "SpacingBetweenSlices"):
        value = frame.numbers(keyword, 1)
        if value is not None and value[0] > 0:
            return float(value[0])
    raise ValueError(
        f"{path}: is a single slice without SliceThickness, so its third voxel size is unknown; export it again,"
        " or convert it to NIfTI with the thickness"
    )


def _line(path: Path, frames: Sequence[Frame], offsets: np.ndarray) -> np.ndarray:
    """The straight line on which slices lie evenly: (2, 3) offset of its first point and step, in mm.

    Args:
        path: for messages.
        frames: sorted.
        offsets: (N, 3) of the slices from the first along rows, columns and normal, in mm.

    Returns:
        The least-squares line, which rounding of single positions hardly affects. The step is along the normal alone
        unless the slices are tilted.
    """
    index = np.arange(len(frames))
    step, first = np.polyfit(index, offsets, 1)
    allowed = max(EVEN * step[2], min(ROUNDED_MM, ROUNDED * step[2]))
    gaps = np.diff(offsets[:, 2])
    uneven = f"expected evenly spaced slices, received gaps of {gaps.min():.3g} to {gaps.max():.3g} mm"
    doubled = np.flatnonzero(gaps <= min(allowed, 0.5 * step[2]))
    if len(doubled):
        one, two = frames[doubled[0]], frames[doubled[0] + 1]
        copies = one.header.get("SOPInstanceUID") == two.header.get("SOPInstanceUID") and one.path != two.path
        why = "are copies of one image" if copies else f"lie {gaps[doubled[0]]:.3g} mm apart"
        raise ValueError(f"{path}: {uneven}; look for duplicate slices: {one.name} and {two.name} {why}")
    departure = offsets - first - index[:, None] * step
    if np.abs(departure[:, 2]).max() > allowed:
        raise ValueError(f"{path}: {uneven}; look for missing or duplicate slices")
    beside = np.linalg.norm(departure[:, :2], axis=1)
    if beside.max() > allowed:
        apart = np.linalg.norm(offsets[:, :2] - np.median(offsets[:, :2], axis=0), axis=1)
        if (apart <= allowed).sum() > len(frames) / 2:  # most are exactly in line: the others are outliers
            beside = apart
        raise ValueError(
            f"{path}: expected slices on one line, received positions up to {beside.max():.3g} mm off it (at"
            f" {frames[int(beside.argmax())].name}), which do not form a grid; export the series again"
        )
    if np.hypot(*step[:2]) * index[-1] <= max(allowed, UPRIGHT * offsets[-1, 2]):
        step[:2] = 0.0
    return np.stack([first, step])
