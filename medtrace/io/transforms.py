"""Displacement fields as ITK transforms: HDF5 and NIfTI, LPS millimeters."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from medtrace.checks import check_choice, check_field, check_finite
from medtrace.fields import mm_to_voxel, voxel_to_mm
from medtrace.geometry.grid import is_singular
from medtrace.guard.probe import probe
from medtrace.io.nifti import LPS, affine_array, check_orthogonal, read_vectors, write_vectors
from medtrace.storage.files import atomic_file
from medtrace.trace.geometry import layers

_TAIL = 4096
SUFFIXES = (".h5", ".hdf5", ".nii", ".nii.gz")
_LEVEL_MM = 0.4  # ITK gives a slice without a third axis 1 mm


class DisplacementFile(NamedTuple):
    """A displacement read from a file."""

    ddf: Tensor
    """(spatial_dims, ...) float32, in voxels, array-axis order, pull."""
    affine: Tensor
    """(4, 4) float64, voxel to RAS mm."""


def write_transform(path: Path | str, ddf: Tensor, affine: Tensor) -> None:
    """Write a pull displacement as an ITK displacement-field transform.

    ITK maps a physical point x of the target grid to x + d(x) in the source, so resampling the source onto
    the target grid with this file gives `warped` (and as a *point* transform it leads from target to source,
    as `Trace.origin`). d is in LPS mm and does not depend on the source's grid.

    Args:
        path: ends in .h5 (float64; `SimpleITK.ReadTransform` reads it) or .nii.gz (float32; the vector image
            that ITK and ANTs use). Written under another name first, so no half-written file is ever left.
        ddf: (2, H, W), written as one slice, or (3, H, W, D), in voxels.
        affine: (4, 4) voxel to RAS mm of the grid that `ddf` is on.

    Raises:
        TypeError: if ddf or affine is not a tensor.
        ValueError: if a shape is wrong, a number is not finite, the ending is unknown, or the affine is
            sheared (ITK cannot hold that).
        FileNotFoundError: if the folder does not exist.
    """
    path = Path(path)
    _check_suffix(path)
    vectors, matrix = displacement_lps(ddf, affine)
    if path.name.endswith((".h5", ".hdf5")):
        write_itk(path, itk_transform(vectors, matrix))
    else:
        write_vectors(path, vectors, torch.from_numpy(matrix))


def write_itk(path: Path | str, transform: sitk.Transform) -> None:
    """Write any ITK transform: .h5, .tfm or .txt; a linear one also as .mat.

    Raises:
        FileNotFoundError: if the folder does not exist.
        OSError: if it cannot be written, even where ITK does not notice.
    """
    with atomic_file(path) as temporary, _silent_libraries():
        sitk.WriteTransform(transform, str(temporary))
        if temporary.name.endswith(".mat"):
            _check_linear(temporary, transform)
        elif not temporary.name.endswith((".h5", ".hdf5")):
            _check_whole(temporary, transform)


def _check_linear(path: Path, transform: sitk.Transform) -> None:
    """Check a small binary file by reading it again."""
    try:
        intact = sitk.ReadTransform(str(path)).GetParameters() == transform.GetParameters()
    except RuntimeError:
        intact = False
    if not intact:
        raise OSError(f"cut off after {path.stat().st_size} bytes")


def _check_whole(path: Path, transform: sitk.Transform) -> None:
    """Check the end of a text file, which ITK cuts off on a full disk without an error."""
    last = transform
    if transform.GetTransformEnum() == sitk.sitkComposite:
        composite = sitk.CompositeTransform(transform)
        last = composite.GetNthTransform(composite.GetNumberOfTransforms() - 1)
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        tail = file.read().decode("ascii", errors="replace")
    words = tail.rpartition("FixedParameters:")[2]
    if not tail.endswith("\n") or not np.array_equal(np.array(words.split(), float), last.GetFixedParameters()):
        raise OSError(f"cut off after {path.stat().st_size} bytes")


@contextmanager
def _silent_libraries() -> Iterator[None]:
    """Keep what HDF5 prints about an error off the terminal, which gets one line."""
    try:
        kept = os.dup(2)
    except OSError:  # there is no stderr
        yield
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def write_planar(path: Path | str, ddf: Tensor, affine: Tensor) -> None:
    """Write a 2D displacement that ANTs takes for images in 2D: NIfTI (H, W, 1, 1, 3), LPS mm, float32.

    ANTs crashes when a field of volumes meets 2D images. It accepts this one for both, but for volumes it lies at 0 mm
    along the body's axis (`is_level`), whatever its header says.

    Args:
        path: ends in .nii or .nii.gz.
        ddf: (2, H, W), in voxels.
        affine: (4, 4) voxel to RAS mm, whose first two axes lie in an axial plane.

    Raises:
        TypeError: if ddf or affine is not a tensor.
        ValueError: if a shape is wrong, a number is not finite, the ending is unknown, or the plane is not axial.
        FileNotFoundError: if the folder does not exist.
    """
    path = Path(path)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise ValueError(f"path: expected a name ending in .nii or .nii.gz, received {path.name!r}")
    vectors, matrix = displacement_lps(ddf, affine)
    if ddf.ndim != 3 or not is_axial(affine):
        raise ValueError(
            f"ddf: expected (2, H, W) in an axial plane, received {tuple(ddf.shape)}"
            f"{'' if ddf.ndim != 3 else ' in another plane'}; use write_transform"
        )
    with atomic_file(path) as temporary:
        write_vectors(temporary, vectors, torch.from_numpy(matrix), planar=True)


def is_axial(affine: Tensor) -> bool:
    """Whether the first two axes of a grid have no part along the body's axis, so that ITK can hold it in 2D."""
    axes = affine[:3, :2].double() / affine[:3, :2].double().norm(dim=0)
    return float(axes[2].abs().max()) <= 1e-4


def is_level(affine: Tensor) -> bool:
    """Whether a slice lies in the axial plane at 0 mm, where ITK and ANTs put what they read in 2D."""
    return is_axial(affine) and abs(float(affine[2, 3])) < _LEVEL_MM


def read_transform(path: Path | str, spatial_dims: int = 3) -> DisplacementFile:
    """Read an ITK displacement-field transform back into voxels.

    Args:
        path: .h5 or .nii.gz, written by `write_transform`, ITK, ANTs (a warp) or others of that convention.
        spatial_dims: 3, or 2 for a field of one slice whose through-plane part is dropped.

    Returns:
        The displacement on its own grid, and that grid's affine.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a displacement field, or spatial_dims is 2 and it has several slices.
    """
    path = Path(path)
    _check_suffix(path)
    check_choice("spatial_dims", spatial_dims, (2, 3))
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; check the path")
    vectors, matrix = _read_itk(path) if path.name.endswith((".h5", ".hdf5")) else read_vectors(path)
    return displacement_file(path, vectors, matrix, spatial_dims)


def displacement_file(path: Path, vectors: np.ndarray, matrix: np.ndarray, spatial_dims: int) -> DisplacementFile:
    """(3, H, W, D) LPS mm vectors on the grid of a RAS affine, in voxels; `path` names the file in messages."""
    check_grid(path, matrix)
    if spatial_dims == 2 and vectors.shape[-1] != 1:
        raise ValueError(
            f"{path}: expected one slice for spatial_dims=2, received {vectors.shape[-1]}; read it with spatial_dims=3"
        )
    affine = torch.from_numpy(matrix)
    ddf = torch.empty(spatial_dims, *vectors.shape[1 : 1 + spatial_dims])
    for part in layers(vectors.shape[1:]):
        layer = vectors[:, part].astype(np.float64)
        if not np.isfinite(layer).all():
            raise ValueError(f"{path}: expected finite displacements, received NaN or infinity; write it again")
        vectors_mm = torch.from_numpy(np.einsum("ij,j...->i...", LPS, layer))
        voxels = mm_to_voxel((vectors_mm if spatial_dims == 3 else vectors_mm[..., 0])[None], affine)[0].float()
        if not bool(torch.isfinite(voxels).all()):
            raise ValueError(f"{path}: its displacements are too large to express in voxels; write it again")
        ddf[:, part] = voxels
    return DisplacementFile(ddf, affine)


def check_grid(path: Path, matrix: np.ndarray) -> None:
    """Check that a file's grid, voxel to mm (4, 4), is finite and has three axes."""
    if not np.isfinite(matrix).all() or is_singular(matrix):
        raise ValueError(f"{path}: its header gives no usable geometry (singular affine); set voxel sizes and axes")


def displacement_lps(ddf: Tensor, affine: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """A displacement in voxels as (3, H, W, D) float64 LPS mm, and its affine (4, 4), both checked."""
    if not isinstance(ddf, Tensor):
        raise TypeError(f"ddf: expected a torch tensor, received {type(ddf).__name__}; convert it first")
    if ddf.ndim not in (3, 4):
        raise ValueError(f"ddf: expected (2, H, W) or (3, H, W, D), unbatched, received {tuple(ddf.shape)}")
    spatial_dims = check_field("ddf", ddf[None])
    check_finite("ddf", ddf)
    matrix = affine_array("affine", affine)
    check_orthogonal("affine", matrix)
    vectors = voxel_to_mm(ddf.detach().cpu().double()[None], torch.from_numpy(matrix))[0].numpy()
    if spatial_dims == 2:
        vectors = vectors[..., None]
    return np.einsum("ij,j...->i...", LPS, vectors), matrix


def itk_transform(vectors_lps: np.ndarray, affine: np.ndarray) -> sitk.DisplacementFieldTransform:
    """SimpleITK's transform of (3, H, W, D) LPS mm vectors on the grid of `affine` (RAS)."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(vectors_lps.T), isVector=True)
    linear = LPS @ affine[:3, :3]
    spacing = np.linalg.norm(linear, axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((linear / spacing).ravel().tolist())
    image.SetOrigin((LPS @ affine[:3, 3]).tolist())
    return sitk.DisplacementFieldTransform(image)


def itk_transform_of(path: Path) -> sitk.Transform:
    """Any transform that SimpleITK reads, from a file on which its reader does not crash."""
    probe(sitk.ReadTransform, path, "an ITK transform")
    try:
        return sitk.ReadTransform(str(path))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ValueError(f"{path}: cannot be read as an ITK transform ({reason}); write it again") from error


def _read_itk(path: Path) -> tuple[np.ndarray, np.ndarray]:
    transform = itk_transform_of(path)
    if transform.GetTransformEnum() != sitk.sitkDisplacementField or transform.GetDimension() not in (2, 3):
        raise ValueError(
            f"{path}: expected a displacement field in 2-D or 3-D, received {transform.GetName()} in"
            f" {transform.GetDimension()}-D; turn it into one with SimpleITK.TransformToDisplacementField"
        )
    image = sitk.DisplacementFieldTransform(transform).GetDisplacementField()
    vectors = sitk.GetArrayFromImage(image).T.copy()
    if image.GetDimension() == 2:  # a slice: nothing moves through its plane
        vectors = np.concatenate([vectors, np.zeros_like(vectors[:1])])[..., None]
    return vectors, image_affine(image)


def image_affine(image: sitk.Image) -> np.ndarray:
    """Voxel to RAS mm (4, 4) of a SimpleITK image in 2-D (the slice at 0 mm) or 3-D."""
    dims = image.GetDimension()
    affine = np.eye(4)
    affine[:dims, :dims] = np.reshape(image.GetDirection(), (dims, dims)) * np.asarray(image.GetSpacing())
    affine[:dims, 3] = np.asarray(image.GetOrigin())
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def _check_suffix(path: Path) -> None:
    if not path.name.endswith(SUFFIXES):
        raise ValueError(f"path: expected a name ending in {', '.join(SUFFIXES)}, received {path.name!r}")
