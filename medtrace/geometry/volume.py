"""NIfTI and FreeSurfer volumes as numbers and an affine: the one reading of their headers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medtrace.geometry.grid import is_singular
from medtrace.geometry.header_affine import header_affine
from medtrace.guard.notices import notify
from medtrace.guard.volume_files import VolumeFile, open_volume


class Volume(NamedTuple):
    """The content of a volume's file."""

    values: np.ndarray
    """Real numbers on the file's axes, scaled as the header says; whole numbers without a slope stay whole."""
    affine: np.ndarray
    """(4, 4) float64, voxel to RAS mm."""
    header: Any
    """nibabel's header."""


class VolumeGrid(NamedTuple):
    """Shape and affine of a file, of which no voxel was read."""

    shape: tuple[int, ...]
    affine: np.ndarray


def read_volume(path: Path) -> Volume:
    """Read a NIfTI file (`.nii`, a pair `.hdr` and `.img`, each also in gzip) or a FreeSurfer volume (`.mgz`).

    Args:
        path: the file; of a pair either.

    Returns:
        Numbers, affine and header. What the header leaves open is reported by `guard.notices`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, has no usable geometry, or holds colors or complex numbers.
    """
    with open_volume(path) as (image, file):
        header: Any = image.header
        values = np.asanyarray(image.dataobj)
    if values.dtype.kind not in "fiu":
        kind = "colors" if values.dtype.fields else str(values.dtype)
        raise ValueError(f"{path}: expected real numbers, received {kind}; split it into channels, one file each")
    _tell_intercept(path, file)
    return Volume(values, _affine(path, file, header), header)


def read_volume_grid(path: Path) -> VolumeGrid:
    """Shape and affine of a file as `read_volume` gives them, from its header alone."""
    with open_volume(path) as (image, file):
        header: Any = image.header
        shape = tuple(int(size) for size in image.shape)
    return VolumeGrid(shape, _affine(path, file, header))


def channels_first(path: Path, values: np.ndarray) -> np.ndarray:
    """The numbers of a file as (C, X, Y, Z); a fourth axis counts channels, and axes of length 1 beyond it do not.

    Raises:
        ValueError: if there are fewer than two or more than four axes.
    """
    kept = values.reshape(*values.shape[:3], *(size for size in values.shape[3:] if size != 1))
    kept = kept[..., None] if kept.ndim == 2 else kept
    if kept.ndim not in (3, 4) or kept.size == 0:
        raise ValueError(f"{path}: expected a 2D or 3D image, received shape {values.shape}; give one volume")
    return kept[None] if kept.ndim == 3 else np.moveaxis(kept, -1, 0)


def _affine(path: Path, file: VolumeFile, header: Any) -> np.ndarray:
    if file.stored is None:
        if not file.has_orientation:
            raise ValueError(
                f"{path}: its header says neither voxel sizes nor axes (goodRASFlag is 0), which programs guess in"
                " different ways; set them with mri_convert"
            )
        affine = np.asarray(header.get_affine(), dtype=np.float64)
        if not np.isfinite(affine).all() or is_singular(affine):
            raise ValueError(f"{path}: its header gives no usable geometry (singular affine); set voxel sizes and axes")
        return affine
    try:
        affine, notes = header_affine(file.stored)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    for note in notes:
        notify(path, note)
    return affine


def _tell_intercept(path: Path, file: VolumeFile) -> None:
    if file.stored is None:
        return
    slope, intercept = (float(file.stored[name]) for name in ("scl_slope", "scl_inter"))
    if (slope == 0 or not np.isfinite(slope)) and np.isfinite(intercept) and intercept != 0:
        notify(path, f"its intercept {intercept:g} is not applied, since its slope is {slope:g} (ITK applies it)")
