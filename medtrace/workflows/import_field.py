"""A field that another program found, as a trace of the two scans that it was found on."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from medtrace.data.reading import read_image
from medtrace.fields import mm_to_voxel
from medtrace.io import read_fsl_warp, read_learn2reg, read_slicer_nrrd, read_transform, read_x5, save_trace
from medtrace.io.nifti import LPS, check_orthogonal
from medtrace.io.trace_members import check_transform_formats
from medtrace.io.transforms import displacement_lps, itk_transform
from medtrace.objectives.objective import plain
from medtrace.trace import Trace

_VECTOR_FILES = (".nii", ".nii.gz")


def import_field(
    field: str | os.PathLike,
    format: str,
    source: str | os.PathLike,
    target: str | os.PathLike,
    out: str | os.PathLike,
    *,
    overwrite: bool = False,
    keep_metadata: bool = False,
    precise: bool = False,
    transforms: Sequence[str] = (),
) -> Trace:
    """Make a trace of two scans and a field in the resampling direction: from the target to the source.

    | format | field |
    |---|---|
    | itk, ants | any ITK transform (.h5, .tfm, .txt, .mat: also composite, rigid, B-spline) or a warp (.nii.gz) |
    | nrrd | a displacement field of 3D Slicer or ITK, of the type resampling |
    | nitransforms | .x5 with one dense field |
    | learn2reg | `disp_*.nii.gz` or `.npz` |
    | fsl | a relative warp field; coefficients are to be turned into a field first |

    A field on another grid than the target's is read linearly at the target's voxels; ITK, and so this, takes it as 0
    outside of its grid. Warps of Learn2Reg and FSL lie on the target's grid.

    Args:
        field: the file.
        format: of the table.
        source: the scan that the field resamples (moving).
        target: the scan on whose grid it does so (fixed); the trace's image.
        out: folder of the trace.
        overwrite: replace an earlier trace there.
        keep_metadata: write the names of the three files into the trace; names of files often are names of patients.
        precise: keep every bit in the trace (see `medtrace.io.save_trace`).
        transforms: formats in which to write the fields once more: "h5", "nrrd".

    Returns:
        The trace: 3D, a single slice as a volume of one. Its inverse is computed.

    Raises:
        FileNotFoundError: if a file is missing.
        FileExistsError: if `out` is in use.
        ValueError: if the format is unknown, or a file cannot be used or does not fit; the message names it.

    Warns:
        UserWarning: if the field folds, so that its inverse misses.
    """
    if format not in READERS:
        raise ValueError(f"format: expected one of {', '.join(READERS)}, received {format!r}")
    check_transform_formats(transforms)
    moving, fixed = read_image(Path(source)), read_image(Path(target))
    images = {Path(source): moving, Path(target): fixed}
    for path, image in images.items():
        try:
            check_orthogonal("affine", image.affine.numpy())
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    scans = [plain(image if image.ndim == 4 else image[..., None]) for image in (moving, fixed)]
    affines = [image.affine.double().cpu() for image in (moving, fixed)]
    ddf = READERS[format](Path(field), scans[1].shape[1:], affines[1], scans[0].shape[1:], affines[0])
    if ddf.shape[1:] != scans[1].shape[1:]:
        raise ValueError(
            f"{field}: expected a field on the grid {tuple(scans[1].shape[1:])} of {target}, received"
            f" {tuple(ddf.shape[1:])}"
        )
    trace = Trace.build(scans[0], scans[1], ddf, affine=affines[1], source_affine=affines[0])
    files = {"field": field, "source": source, "target": target} if keep_metadata else {}
    metadata = {**{name: Path(file).name for name, file in files.items()}, "format": format}
    stored: dict[str, Any] = {"precise": precise, "transforms": transforms, "overwrite": overwrite}
    save_trace(trace, Path(out), method=f"imported ({format})", metadata=metadata, **stored)
    return trace


def on_grid(transform: sitk.Transform, shape: Sequence[int], affine: Tensor) -> Tensor:
    """Any ITK transform as ddf (3, *shape), in voxels of a grid."""
    linear = LPS @ affine.numpy()[:3, :3]
    spacing = np.linalg.norm(linear, axis=0)
    image = sitk.TransformToDisplacementField(
        transform,
        sitk.sitkVectorFloat64,
        [int(size) for size in shape],
        (LPS @ affine.numpy()[:3, 3]).tolist(),
        spacing.tolist(),
        (linear / spacing).ravel().tolist(),
    )
    vectors = np.einsum("ij,j...->i...", LPS, sitk.GetArrayFromImage(image).T)
    return mm_to_voxel(torch.from_numpy(vectors)[None], affine)[0].float()


def _itk(path: Path, shape: Sequence[int], affine: Tensor, *_: object) -> Tensor:
    if path.name.endswith(_VECTOR_FILES):
        return _moved_to(*read_transform(path), shape, affine)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; check the path")
    try:
        transform = sitk.ReadTransform(str(path))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ValueError(f"{path}: cannot be read as an ITK transform ({reason}); write it again") from error
    if transform.GetDimension() != 3:
        raise ValueError(f"{path}: expected a 3-D transform, received one in {transform.GetDimension()}-D")
    return on_grid(transform, shape, affine)


def _nrrd(path: Path, shape: Sequence[int], affine: Tensor, *_: object) -> Tensor:
    read = read_slicer_nrrd(path)
    if read.field_type != "resampling":
        raise ValueError(
            f"{path}: expected a field of the type resampling, received modeling, which leads from source to target;"
            " import it with source and target exchanged, or invert it in Slicer"
        )
    return _moved_to(read.ddf, read.affine, shape, affine)


def _nitransforms(path: Path, shape: Sequence[int], affine: Tensor, *_: object) -> Tensor:
    return _moved_to(*read_x5(path), shape, affine)


def _learn2reg(path: Path, _: Sequence[int], affine: Tensor, __: Sequence[int], source_affine: Tensor) -> Tensor:
    return read_learn2reg(path, affine, source_affine)


def _fsl(path: Path, _: Sequence[int], __: Tensor, source_shape: Sequence[int], source_affine: Tensor) -> Tensor:
    return read_fsl_warp(path, source_affine, source_shape)[0]


def _moved_to(ddf: Tensor, own: Tensor, shape: Sequence[int], affine: Tensor) -> Tensor:
    """A field on the wanted grid, as it is where the two are one."""
    if tuple(ddf.shape[1:]) == tuple(shape) and torch.allclose(own, affine, rtol=0.0, atol=1e-4):
        return ddf
    return on_grid(itk_transform(*displacement_lps(ddf, own)), shape, affine)


READERS: dict[str, Callable[..., Tensor]] = {
    "itk": _itk,
    "ants": _itk,
    "nrrd": _nrrd,
    "nitransforms": _nitransforms,
    "learn2reg": _learn2reg,
    "fsl": _fsl,
}
