"""Displacements as the Learn2Reg challenge evaluates them: voxels of the moving image, on the fixed image's grid."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import nibabel
import numpy as np
import torch
from scipy.ndimage import zoom
from torch import Tensor

from medtrace.checks import check_choice, check_finite
from medtrace.fields import identity_grid
from medtrace.guard.declared_size import check_declared
from medtrace.io.nifti import affine_array, read_nifti
from medtrace.storage.encoders import write_arrays, write_nifti
from medtrace.trace import Trace
from medtrace.trace.geometry import pulled_points, transform

_EVALUATION_ORDER = 2
_ROUNDING = 1e-9


def write_learn2reg(path: Path | str, trace: Trace) -> None:
    """Write `disp_FIXED_MOVING` as Learn2Reg reads it: the source is moving, the image's grid is fixed.

    The displacement is in voxels, component a along array axis a, and leads from a fixed voxel to the moving voxel
    (resampling): `map_coordinates(moving, identity + displacement)` is the warped image. Where the two grids differ,
    the difference is in the displacement, and the formula holds.

    Args:
        path: ends in .nii.gz or .nii (full resolution, (H, W, D, 3) float32, the fixed image's affine; challenges
            since 2022), or .npz (`arr_0`, (3, H/2, W/2, D/2) float16, which the evaluation of 2020 and 2021 doubles
            by `zoom(., 2, order=2)`; the grid must be even along every axis, and the values are rounded).
        trace: 3D, or 2D for NIfTI, which becomes one slice.

    Raises:
        ValueError: if the ending is unknown, or .npz cannot hold this grid.
        FileNotFoundError: if the folder does not exist.
    """
    path = Path(path)
    if not path.name.endswith((".nii", ".nii.gz", ".npz")):
        raise ValueError(f"path: expected a name ending in .nii, .nii.gz or .npz, received {path.name!r}")
    vectors = moving_voxels(trace).numpy()
    if path.name.endswith(".npz"):
        odd = [size for size in vectors.shape[1:] if size % 2 or size < 4]
        if odd:
            raise ValueError(
                f"path: expected an even grid of 4 voxels or more along each axis for .npz, which holds half the"
                f" resolution, received {tuple(vectors.shape[1:])}; write .nii.gz"
            )
        # zoom's own mode reads 0 where rounding takes the last voxel outside.
        half = np.stack([zoom(component, 0.5, order=_EVALUATION_ORDER, mode="nearest") for component in vectors])
        write_arrays(path, {"arr_0": half.astype(np.float16)}, compressed=True)
        return
    field = nibabel.Nifti1Image(np.moveaxis(vectors, 0, -1).astype(np.float32), affine_array("affine", trace.affine))
    write_nifti(path, field)


def read_learn2reg(
    path: Path | str, affine: Tensor, source_affine: Tensor | None = None, spatial_dims: int = 3
) -> Tensor:
    """Read a displacement in Learn2Reg's convention.

    Args:
        path: .nii, .nii.gz or .npz (doubled as the evaluation does).
        affine: (4, 4) voxel to RAS mm of the fixed image's grid.
        source_affine: affine of the moving image's; None is `affine`, as in the challenge.
        spatial_dims: 3, or 2 for a field of one slice whose through-plane part is dropped.

    Returns:
        ddf, (spatial_dims, *spatial) float32, in voxels of the fixed grid: what `Trace.build` takes.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it has another shape or is not finite.
    """
    path = Path(path)
    check_choice("spatial_dims", spatial_dims, (2, 3))
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; check the path")
    vectors = torch.from_numpy(_read_npz(path) if path.name.endswith(".npz") else _read_nifti(path))
    check_finite(str(path), vectors)
    fixed = torch.from_numpy(affine_array("affine", affine))
    moving = fixed if source_affine is None else torch.from_numpy(affine_array("source_affine", source_affine))
    grid = identity_grid(vectors.shape[1:], dtype=torch.float64)
    # Between equal grids this is exact: no product of a matrix and its inverse.
    to_fixed = torch.eye(4, dtype=torch.float64) if torch.equal(fixed, moving) else torch.linalg.solve(fixed, moving)
    ddf = (transform(to_fixed, grid + vectors) - grid).float()
    if spatial_dims == 3:
        return ddf
    if ddf.shape[-1] != 1:
        raise ValueError(f"{path}: expected one slice for spatial_dims=2, received {ddf.shape[-1]}")
    return ddf[:2, ..., 0]


def moving_voxels(trace: Trace) -> Tensor:
    """(3, H, W, D) float64: from each fixed voxel to the moving voxel it is read at; a 2D trace is one slice."""
    to_source = None if trace.same_grid else torch.linalg.solve(trace.source_affine, trace.affine)
    ddf = trace.ddf.detach().cpu().double()
    points = pulled_points(ddf, None if to_source is None else to_source.cpu())[0]
    vectors = points - identity_grid(ddf.shape[1:], dtype=torch.float64)
    # The evaluation reads 0 a rounding error outside of the image, so that a single slice would be lost.
    vectors[vectors.abs() < _ROUNDING] = 0.0
    if trace.spatial_dims == 3:
        return vectors
    return torch.cat([vectors, torch.zeros_like(vectors[:1])])[..., None]


def _read_nifti(path: Path) -> np.ndarray:
    data, _, _ = read_nifti(path)
    if data.ndim != 4 or data.shape[3] != 3:
        raise ValueError(f"{path}: expected a displacement (H, W, D, 3), received shape {data.shape}")
    return np.moveaxis(data, -1, 0).astype(np.float64)


def _read_npz(path: Path) -> np.ndarray:
    try:
        _check_member(path, "arr_0.npy")
        with np.load(path, allow_pickle=False) as archive:
            half = archive["arr_0"]
    except (OSError, ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: expected an array 'arr_0' in .npz, received something else ({error})") from error
    if half.ndim != 4 or half.shape[0] != 3:
        raise ValueError(f"{path}: expected a displacement (3, H/2, W/2, D/2), received shape {half.shape}")
    if half.dtype.kind not in "fiu":
        raise ValueError(f"{path}: expected real numbers, received {half.dtype}")
    return np.stack([zoom(component.astype(np.float64), 2, order=_EVALUATION_ORDER) for component in half])


def _check_member(path: Path, name: str) -> None:
    """Check that an array in an archive is as large as its header claims, before NumPy allocates it."""
    with zipfile.ZipFile(path) as archive, archive.open(name) as member:
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(member)
        check_declared(path, shape, dtype.itemsize, archive.getinfo(name).file_size, packed=False)
        check_declared(path, shape, dtype.itemsize, path.stat().st_size, packed=True)
