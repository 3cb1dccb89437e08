"""The members of a trace on disk: how each is written, and whether a file is the one that the index lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from torch import Tensor

from medtrace.checks import check_choice
from medtrace.geometry.grid import Grid
from medtrace.io.compact import FIELD_ERROR, MASK_STEP, intensity_step, write_compact_field, write_compact_image
from medtrace.io.digest import sha256
from medtrace.io.nifti import SHEAR_TOLERANCE, StorageType, write_image
from medtrace.io.slicer_nrrd import write_slicer_nrrd
from medtrace.io.transforms import write_transform
from medtrace.trace import Trace

IMAGES = ("source", "image", "warped", "appearance", "mask", "interval", "unexplained")
MASKS = ("mask", "unexplained")
FIELDS = ("ddf", "inverse_ddf", "velocity")
REQUIRED = ("source", "image", "warped", "ddf", "inverse_ddf")
ON_SOURCE_GRID = ("source", "inverse_ddf")
LARGE = 1 << 22
"""Voxels above which images are rounded where not asked to keep every bit: a 1 mm head has seven million."""
TRANSFORM_FORMATS = ("h5", "nrrd")
"""Formats in which `save_trace` writes the displacements once more, where asked."""
TRANSFORM_FILES = tuple(f"{name}.{ending}" for name in ("ddf", "inverse_ddf") for ending in TRANSFORM_FORMATS)


def write_members(
    trace: Trace, folder: Path, precise: bool = False, dtype: StorageType | None = None, transforms: Sequence[str] = ()
) -> dict[str, Any]:
    """Write every member of a trace, each once, and the displacements in further formats.

    Args:
        trace: what to write.
        folder: where.
        precise: keep every bit.
        dtype: dtype of images, see `write_image`; None is float32 or, of images above `LARGE` unless precise, 16 bits.
        transforms: some of `TRANSFORM_FORMATS`.

    Returns:
        The entries of the index that describe the files.
    """
    files: dict[str, str] = {}
    steps: dict[str, float | None] = {}
    for name in (*IMAGES, *FIELDS):
        value = getattr(trace, name)
        if value is None:
            continue
        affine = trace.source_affine if name in ON_SOURCE_GRID else trace.affine
        path = folder / f"{name}.nii.gz"
        files[name] = path.name
        if name in FIELDS:
            write_compact_field(path, value, affine, None if precise else FIELD_ERROR)
        elif dtype is not None and name not in MASKS:
            write_image(path, value, affine, dtype)
        else:
            rounded = not precise and value[0].numel() > LARGE
            steps[name] = None if not rounded else MASK_STEP if name in MASKS else intensity_step(value)
            write_compact_image(path, value, affine, steps[name])
    also = {name: [f"{name}.{ending}" for ending in transforms] for name in ("ddf", "inverse_ddf")}
    if "h5" in transforms:
        write_transform(folder / "ddf.h5", trace.ddf, trace.affine)
        write_transform(folder / "inverse_ddf.h5", trace.inverse_ddf, trace.source_affine)
    if "nrrd" in transforms:
        write_slicer_nrrd(folder / "ddf.nrrd", trace.ddf, trace.affine, "resampling")
        write_slicer_nrrd(folder / "inverse_ddf.nrrd", trace.inverse_ddf, trace.source_affine, "modeling")
    return {
        "files": files,
        "sha256": {name: sha256(folder / file) for name, file in files.items()},
        "transforms": also if transforms else {},
        "precision": {"field_error_voxels": 0.0 if precise else FIELD_ERROR, "intensity_steps": steps},
    }


def check_transform_formats(transforms: Sequence[str]) -> None:
    """Check that every name is one of `TRANSFORM_FORMATS`.

    Raises:
        ValueError: if not.
    """
    for ending in transforms:
        check_choice("transforms", ending, TRANSFORM_FORMATS)


def expected_shapes(spatial_dims: int, shape: Sequence[int], source_shape: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Shape (channel, *spatial) of each member, from those of image and source."""
    image, source = tuple(shape), tuple(source_shape)
    return {
        "source": source,
        "image": image,
        "warped": (source[0], *image[1:]),
        "appearance": image,
        "mask": (1, *image[1:]),
        "interval": image,
        "unexplained": (1, *image[1:]),
        "ddf": (spatial_dims, *image[1:]),
        "inverse_ddf": (spatial_dims, *source[1:]),
        "velocity": (spatial_dims, *image[1:]),
    }


def check_member(path: Path, name: str, shape: Sequence[int], affine: Tensor, digest: str | None) -> None:
    """Check that a file's header, and its bytes where they are on record, are those that the index lists.

    Args:
        path: the member's file.
        name: the member's.
        shape: (channel, *spatial) by the index.
        affine: (4, 4) of its grid by the index.
        digest: SHA-256 by the index; None for traces of format 1.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if it differs; the message names the file, what the index says and what the file says.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file, though trace.json names it; copy the whole folder again")
    try:
        header = nibabel.load(path).header
    except (ImageFileError, HeaderDataError, OSError, EOFError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read as NIfTI ({error}); write or copy it again") from error
    if not isinstance(header, nibabel.Nifti1Header):
        raise ValueError(f"{path}: cannot be read as NIfTI (it is {type(header).__name__}); write or copy it again")
    stored, wanted = header.get_data_shape(), _stored_shapes(name, tuple(shape))
    if stored not in wanted:
        _refuse(path, f"the shape {wanted[0]}", f"{stored}")
    units = header.get_xyzt_units()[0]
    if units != "mm":
        _refuse(path, "the unit mm", units)
    _check_affine(path, header, tuple(wanted[0][:3]), affine)
    if digest is not None and (result := sha256(path)) != digest:
        _refuse(path, f"the file of SHA-256 {digest[:16]}...", f"another one, {result[:16]}...")


def check_shapes(path: Path, index: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The members' shapes by the index at `path`, whose entries are checked."""
    spatial_dims = index["spatial_dims"]
    for key in ("shape", "source_shape"):
        value = index[key]
        whole = isinstance(value, list) and all(type(size) is int and size > 0 for size in value)
        if not whole or len(value) != spatial_dims + 1:
            raise ValueError(
                f"{path}: {key}: expected {spatial_dims + 1} positive whole numbers, received {str(value)[:80]}; save"
                " the trace again"
            )
    return expected_shapes(spatial_dims, index["shape"], index["source_shape"])


def _stored_shapes(name: str, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """As NIfTI holds them: a 2D image is one slice, and a field of one slice may be written twice."""
    channels, spatial = shape[0], (*shape[1:], 1)[:3]
    if name not in FIELDS:
        return [spatial if channels == 1 else (*spatial, channels)]
    doubled = (*spatial[:2], 2, 1, 3)
    return [doubled, (*spatial, 1, 3)] if spatial[2] == 1 else [(*spatial, 1, 3)]


def _check_affine(path: Path, header: nibabel.Nifti1Header, shape: tuple[int, ...], affine: Tensor) -> None:
    """Check sform and qform, in either of which a program may believe, to what float32 and a quaternion hold."""
    grid = Grid(shape, affine)
    extent = float(torch.linalg.vector_norm(grid.corners[-1] - grid.corners[0]))
    rounding = 1e-6 * float(grid.corners.abs().max())
    slack = {
        "sform": rounding + 1e-3 * min(grid.spacing),
        "qform": 10 * rounding + SHEAR_TOLERANCE * extent + 1e-3 * min(grid.spacing),
    }
    for form, allowed in slack.items():
        result, code = getattr(header, f"get_{form}")(coded=True)
        if not code or result is None:
            _refuse(path, f"{form}_code 1 and the affine {_rows(affine)}", f"{form}_code 0")
        try:
            apart = grid.distance(Grid(shape, torch.from_numpy(np.asarray(result, dtype=np.float64))))
        except ValueError:
            apart = float("inf")
        if not apart <= allowed:
            _refuse(path, f"the affine {_rows(affine)} ({form})", f"{_rows(result)}, up to {apart:.3g} mm off")


def _rows(affine: Any) -> str:
    return "[" + "; ".join(" ".join(f"{value:.6g}" for value in row) for row in np.asarray(affine)[:3]) + "]"


def _refuse(path: Path, expected: str, received: str) -> None:
    raise ValueError(f"{path}: expected {expected} of trace.json, received {received}; save or copy the trace again")
