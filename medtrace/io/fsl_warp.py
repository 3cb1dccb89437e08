"""Displacements as FSL's relative warps, in FSL's own millimeters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import torch
from torch import Tensor

from medtrace.checks import check_choice, check_field, check_finite
from medtrace.fields import identity_grid
from medtrace.io.nifti import affine_array, check_orthogonal, read_nifti
from medtrace.storage.encoders import write_nifti
from medtrace.trace.geometry import transform

FNIRT_DISPLACEMENT = 2006
"""NIfTI intent by which FSL's programs know a field of displacements."""


def fsl_matrix(affine: Tensor, shape: Sequence[int]) -> Tensor:
    """From voxels to FSL's coordinates: scaled by the voxel size, the first axis reversed on right-handed grids.

    Args:
        affine: (4, 4) voxel to RAS mm. A positive determinant ("neurological") reverses the first axis.
        shape: (H, W, D), or (H, W).

    Returns:
        (4, 4) float64.
    """
    linear = affine[:3, :3].double()
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = torch.diag(linear.norm(dim=0))
    if float(torch.linalg.det(linear)) > 0:
        matrix[0, 3] = (shape[0] - 1) * matrix[0, 0]
        matrix[0, 0] = -matrix[0, 0]
    return matrix


def write_fsl_warp(
    path: Path | str, ddf: Tensor, affine: Tensor, source_affine: Tensor, source_shape: Sequence[int]
) -> None:
    """Write a pull displacement as a relative warp of FSL (as FNIRT's `--fout`), for `applywarp --rel`.

    At every voxel of the reference (the grid of `ddf`) it holds where to read the input minus the voxel's own position,
    each in its own image's FSL coordinates: unlike in other formats the numbers depend on both images' headers and
    shapes, and contain the step between the two frames. A field of `trace.ddf` resamples the source (`--in`) onto the
    image (`--ref`).

    Args:
        path: ends in .nii or .nii.gz.
        ddf: (2, H, W), written as one slice, or (3, H, W, D), in voxels of the reference.
        affine: (4, 4) voxel to RAS mm of the reference.
        source_affine: affine of the image that the field resamples.
        source_shape: spatial shape of that image.

    Raises:
        TypeError: if an argument is not a tensor.
        ValueError: if a shape is wrong, a number is not finite, the ending is unknown or an affine is sheared.
        FileNotFoundError: if the folder does not exist.
    """
    path = Path(path)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise ValueError(f"path: expected a name ending in .nii or .nii.gz, received {path.name!r}")
    if not isinstance(ddf, Tensor):
        raise TypeError(f"ddf: expected a torch tensor, received {type(ddf).__name__}; convert it first")
    spatial_dims = check_field("ddf", ddf[None])
    check_finite("ddf", ddf)
    field = ddf.detach().cpu().double()
    if spatial_dims == 2:
        field = torch.cat([field, torch.zeros_like(field[:1])])[..., None]
    reference, to_source_mm, matrix = _frames(affine, field.shape[1:], source_affine, source_shape)
    grid = identity_grid(field.shape[1:], dtype=torch.float64)
    warp = transform(to_source_mm, grid + field) - transform(reference, grid)
    image = nibabel.Nifti1Image(warp.movedim(0, -1).float().numpy(), matrix)
    image.set_sform(matrix, code=1)
    image.set_qform(matrix, code=1)
    image.header.set_xyzt_units("mm")
    image.header["intent_code"] = FNIRT_DISPLACEMENT
    write_nifti(path, image)


def read_fsl_warp(
    path: Path | str, source_affine: Tensor, source_shape: Sequence[int], spatial_dims: int = 3, absolute: bool = False
) -> tuple[Tensor, Tensor]:
    """Read a warp field of FSL (not its spline coefficients).

    Args:
        path: the field on the grid of its reference.
        source_affine: (4, 4) voxel to RAS mm of the image that it resamples.
        source_shape: spatial shape of that image.
        spatial_dims: 3, or 2 for a field of one slice whose through-plane part is dropped.
        absolute: whether it holds coordinates (`--absout`) and not displacements; the file does not say.

    Returns:
        ddf, (spatial_dims, *spatial) float32 in voxels, and its affine, (4, 4) float64.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a field (H, W, D, 3), or holds spline coefficients.
    """
    path = Path(path)
    check_choice("spatial_dims", spatial_dims, (2, 3))
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; check the path")
    data, matrix, header = read_nifti(path)
    intent = int(header["intent_code"])
    if intent in range(2007, 2020):
        raise ValueError(
            f"{path}: holds spline coefficients (intent {intent}); turn them into a field by"
            " fnirtfileutils --in=COEFFICIENTS --ref=REFERENCE --out=FIELD"
        )
    if data.ndim != 4 or data.shape[3] != 3:
        raise ValueError(f"{path}: expected a field (H, W, D, 3), received shape {data.shape}")
    warp = torch.from_numpy(np.moveaxis(data, -1, 0).astype(np.float64))
    check_finite(str(path), warp)
    affine = torch.from_numpy(matrix)
    reference, to_source_mm, _ = _frames(affine, warp.shape[1:], source_affine, source_shape)
    grid = identity_grid(warp.shape[1:], dtype=torch.float64)
    where = warp if absolute else warp + transform(reference, grid)
    ddf = (transform(torch.linalg.inv(to_source_mm), where) - grid).float()
    if spatial_dims == 3:
        return ddf, affine
    if ddf.shape[-1] != 1:
        raise ValueError(f"{path}: expected one slice for spatial_dims=2, received {ddf.shape[-1]}")
    return ddf[:2, ..., 0], affine


def _frames(
    affine: Tensor, shape: Sequence[int], source_affine: Tensor, source_shape: Sequence[int]
) -> tuple[Tensor, Tensor, np.ndarray]:
    """Reference voxel to its FSL mm, reference voxel to the source's FSL mm (by the headers), and the affine."""
    matrices = []
    for name, value in (("affine", affine), ("source_affine", source_affine)):
        matrices.append(affine_array(name, value))
        check_orthogonal(name, matrices[-1])
    own, other = (torch.from_numpy(matrix) for matrix in matrices)
    to_source_mm = fsl_matrix(other, source_shape) @ torch.linalg.solve(other, own)
    return fsl_matrix(own, shape), to_source_mm, matrices[0]
