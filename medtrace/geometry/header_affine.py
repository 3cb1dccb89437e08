"""The affine that a NIfTI header means: which of its forms, in which unit, and what is to be said about it."""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

import numpy as np

from medtrace.geometry.grid import is_singular

UNITS = {1: ("meters", 1e3), 2: ("mm", 1.0), 3: ("micrometers", 1e-3)}
"""Code of xyzt_units → name, and millimeters."""
_SIZE_TOLERANCE = 1e-3
"""Relative difference of two voxel sizes that is reported."""
_FORM_TOLERANCE = 0.1
"""Distance of two forms, in the smallest voxel edge, that is reported."""


class HeaderAffine(NamedTuple):
    """The affine of a NIfTI file, from its header."""

    affine: np.ndarray
    """(4, 4) float64, voxel to RAS mm."""
    notes: tuple[str, ...]
    """What the header leaves open, and the choice made."""


def header_affine(header: Any) -> HeaderAffine:
    """The affine of a NIfTI header as it is stored, before anything repaired it.

    The sform, where its code is above 0; else the qform likewise; with neither code ITK's grid, whose axes run to the
    left, back and head from the origin. The voxel sizes of `pixdim` count only where the sform does not, and all is in
    the header's unit, as ITK takes it (unknown is mm). If the sform has no inverse, the qform is used.

    Args:
        header: nibabel's, of NIfTI 1 or 2, made with `check=False`.

    Returns:
        The affine, and a note for each choice: a unit other than mm, codes of 0, sizes or forms that disagree.

    Raises:
        ValueError: if there is no usable form; the message lacks the file's name.
    """
    shape = _shape(header)
    notes: list[str] = []
    name, scale = _unit(header, notes)
    coded_sform, coded_qform = int(header["sform_code"]) > 0, int(header["qform_code"]) > 0
    if coded_sform and not np.isfinite(header.get_sform()).all():
        raise ValueError("its sform holds numbers that are not finite; correct the header, or set sform_code to 0")
    if coded_sform and (not is_singular(header.get_sform()) or not coded_qform):
        affine = header.get_sform()
        if is_singular(affine):
            raise ValueError("its header gives no usable geometry (singular affine); set voxel sizes and axes")
        _compare_sizes(header, affine, shape, scale, notes)
        if coded_qform:
            _compare_forms(header, affine, shape, scale, notes)
    elif coded_qform:
        if coded_sform:
            notes.append("its sform is singular: the qform is used")
        affine = _qform(header, _sizes(header, shape, notes))
    else:
        affine = np.diag([*(_sizes(header, shape, notes) * (-1, -1, 1)), 1.0])
        notes.append(
            "its header says neither position nor axes (qform and sform codes are 0): taken as ITK does, axes to the"
            " left, back and head from the origin"
        )
    affine = affine.astype(np.float64)
    affine[:3] *= scale
    if not np.isfinite(affine).all() or is_singular(affine):
        raise ValueError("its header gives no usable geometry (singular affine); set voxel sizes and axes")
    if name != "mm":
        notes.insert(0, f"its header is in {name}: voxels of {_shown(np.linalg.norm(affine[:3, :3], axis=0))} mm")
    return HeaderAffine(affine, tuple(notes))


def _shape(header: Any) -> tuple[int, ...]:
    dims = [int(size) for size in header["dim"]]
    return tuple((*dims[1 : 1 + dims[0]], 1, 1)[:3])


def _unit(header: Any, notes: list[str]) -> tuple[str, float]:
    code = int(header["xyzt_units"]) & 7
    if code not in (0, *UNITS):
        notes.append(f"its header is in an unknown unit (code {code}): taken as mm")
    return UNITS.get(code, UNITS[2])


def _sizes(header: Any, shape: tuple[int, ...], notes: list[str]) -> np.ndarray:
    """Voxel sizes of pixdim, which must be there: programs repair other numbers in different ways."""
    sizes = np.array(header["pixdim"][1:4], dtype=np.float64)
    for axis, (size, count) in enumerate(zip(sizes, shape)):
        if size == 0 and count == 1:
            sizes[axis] = 1.0
            if axis < int(header["dim"][0]):
                notes.append(f"its header gives no voxel size along axis {axis}, of one voxel: taken as 1")
        elif not np.isfinite(size) or size <= 0:
            raise ValueError(
                f"its header gives the voxel size {size:g} along axis {axis} (pixdim), which programs repair in"
                " different ways; set a positive one"
            )
    return sizes


def _qform(header: Any, sizes: np.ndarray) -> np.ndarray:
    turned = header.copy()
    direction = float(header["pixdim"][0])
    if direction not in (-1.0, 0.0, 1.0):
        raise ValueError(
            f"its header gives the direction {direction:g} (pixdim[0], qfac); expected 1 or -1; correct it"
        )
    turned["pixdim"][0] = direction or 1.0  # NIfTI defines 0 as 1
    turned["pixdim"][1:4] = sizes
    try:
        affine: np.ndarray = turned.get_qform()
    except ValueError as error:
        raise ValueError(f"its qform is not a rotation ({error}); correct the header") from error
    if not np.isfinite(affine).all():
        raise ValueError("its qform holds numbers that are not finite; correct the header, or set qform_code to 0")
    return affine


def _compare_sizes(header: Any, affine: np.ndarray, shape: tuple[int, ...], scale: float, notes: list[str]) -> None:
    ours, theirs = np.linalg.norm(affine[:3, :3], axis=0), np.array(header["pixdim"][1:4], dtype=np.float64)
    counted = [axis for axis in range(3) if shape[axis] > 1]
    with np.errstate(invalid="ignore"):
        close = np.abs(theirs - ours) <= _SIZE_TOLERANCE * ours
    if not close[counted].all():
        notes.append(
            f"its voxel sizes contradict each other: {_shown(theirs * scale)} mm by pixdim, {_shown(ours * scale)} mm"
            " by the sform, which is used; ITK uses the former: make them agree"
        )


def _compare_forms(header: Any, affine: np.ndarray, shape: tuple[int, ...], scale: float, notes: list[str]) -> None:
    try:
        other = _qform(header, _sizes(header, shape, []))
    except ValueError:
        return  # a qform that means nothing contradicts nothing
    corners = np.array([(*corner, 1) for corner in product(*((0, size - 1) for size in shape))], dtype=np.float64)
    distance = float(np.linalg.norm(corners @ (affine - other).T, axis=1).max())
    if distance > _FORM_TOLERANCE * float(np.linalg.norm(affine[:3, :3], axis=0).min()):
        notes.append(
            f"its sform and qform put its voxels up to {distance * scale:.3g} mm apart: the sform is used, where some"
            " programs use the qform; make them agree"
        )


def _shown(sizes: np.ndarray) -> str:
    return " x ".join(f"{size:.4g}" for size in sizes)
