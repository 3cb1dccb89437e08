"""A displacement field as a DICOM Deformable Spatial Registration (PS3.3, A.39.2 and C.20.3).

The object leads from the *Registered* reference coordinate system (RCS), whose frame of reference it names as its own,
to the *Source* RCS of its item: source = M_post · (M_pre · x + D(x)), D read at the centers of a grid in the
Registered RCS, everything in LPS mm. That is medtrace's pull convention: `ddf` is on the image's grid, so the image
is Registered and the scan is Source; of `inverse_ddf` it is the other way round.
"""

from __future__ import annotations

import math
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from medtrace.fields import mm_to_voxel
from medtrace.guard.dicom_headers import read_dicom
from medtrace.io.dicom import SourceSeries, code, decimals, derived, new_uid, reference, save, series_reference
from medtrace.io.nifti import LPS
from medtrace.io.transforms import DisplacementFile, check_grid, displacement_lps

if TYPE_CHECKING:
    import pydicom
    from pydicom.dataset import Dataset
else:
    from medtrace.guard.extras import PYDICOM as pydicom

REGISTRATION = "1.2.840.10008.5.1.4.1.1.66.3"
"""Deformable Spatial Registration Storage."""

UNDEFINED = "holds {} undefined vectors (NaN), where nothing is known of the correspondence"


def write_dicom_registration(
    path: Path | str,
    ddf: Tensor,
    affine: Tensor,
    study: SourceSeries,
    *,
    registered: tuple[Dataset, ...],
    source: tuple[Dataset, ...],
    label: str = "DDF",
    description: str = "Displacement by medtrace",
    series_number: int = 1,
    now: datetime | None = None,
) -> None:
    """Write a pull displacement as a Deformable Spatial Registration.

    The object has two items: one of the registered images, which stay where they are, and one of the source images,
    with the grid and identity matrices before and after it.

    Args:
        path: the file to write.
        ddf: (2, H, W), written as one slice, or (3, H, W, D), in voxels of its grid.
        affine: (4, 4) voxel to RAS mm of that grid, at right angles. A left-handed grid is written with its last axis
            reversed, since the standard takes the third axis as the cross product of the first two.
        study: the series whose patient and study the object belongs to.
        registered: headers of the images that are on the field's grid (UIDs and frame of reference).
        source: headers of the images that it pulls from.
        label: Content Label, at most 16 characters of A-Z, 0-9, _ and space.
        description: Content Description, at most 64 characters.
        series_number: number of the separate series that holds the object.
        now: date and time of the object; None is the clock's.

    Raises:
        TypeError: if ddf or affine is not a tensor.
        ValueError: if a shape is wrong, a number is not finite or the affine is sheared.
    """
    vectors, matrix = displacement_lps(ddf, affine)
    dataset = derived(study, REGISTRATION, "REG", now or datetime.now())
    dataset.SeriesInstanceUID = new_uid()
    dataset.SeriesNumber = series_number
    dataset.SeriesDescription = description[:64]
    dataset.InstanceNumber = 1
    dataset.ContentLabel, dataset.ContentDescription, dataset.ContentCreatorName = label, description[:64], ""
    dataset.FrameOfReferenceUID = registered[0].FrameOfReferenceUID
    dataset.PositionReferenceIndicator = registered[0].get("PositionReferenceIndicator", "")
    still, moved = _item(registered), _item(source)
    for name in ("PreDeformationMatrixRegistrationSequence", "PostDeformationMatrixRegistrationSequence"):
        setattr(moved, name, [_identity()])
    moved.DeformableRegistrationGridSequence = [_grid(vectors, matrix)]
    dataset.DeformableRegistrationSequence = [still, moved]
    dataset.ReferencedSeriesSequence = _referenced(registered, source)
    save(dataset, Path(path))


def read_dicom_registration(path: Path | str, spatial_dims: int = 3) -> DisplacementFile:
    """Read a Deformable Spatial Registration with one deformation grid, of any program.

    Args:
        path: the file.
        spatial_dims: 3, or 2 for a grid of one slice whose through-plane part is dropped.

    Returns:
        The displacement on the object's grid, matrices before and after the deformation included, and that grid's
        affine. As a `ddf`, it resamples the Source images onto the grid.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not such an object, has no grid or several, or has undefined vectors.
    """
    path = Path(path)
    if spatial_dims not in (2, 3):
        raise ValueError(f"spatial_dims: expected one of 2, 3, received {spatial_dims!r}")
    try:
        return _field(path, _dataset(path), spatial_dims)
    except (AttributeError, IndexError, TypeError, OverflowError) as error:
        raise ValueError(f"{path}: lacks a part of a Deformable Spatial Registration ({error})") from error


def _field(path: Path, dataset: Dataset, spatial_dims: int) -> DisplacementFile:
    item = _item_with_grid(path, dataset)
    grid = item.DeformableRegistrationGridSequence[0]
    size, spacing = [int(value) for value in grid.GridDimensions], np.array(grid.GridResolution, dtype=float)
    data = np.frombuffer(grid.VectorGridData, dtype="<f4")
    if len(size) != 3 or min(size) < 1 or data.size != 3 * math.prod(size):
        raise ValueError(f"{path}: expected the numbers of a grid of {size}, received {data.size}")
    if not np.isfinite(data).all():
        raise ValueError(f"{path}: {UNDEFINED.format(int((~np.isfinite(data)).sum()) // 3)}; export it without them")
    vectors = np.moveaxis(data.reshape(*size[::-1], 3).astype(np.float64), -1, 0).transpose(0, 3, 2, 1)
    axes = np.array(grid.ImageOrientationPatient, dtype=float).reshape(2, 3)
    lps = np.eye(4)
    lps[:3, :3] = np.stack([*axes, np.cross(*axes)], axis=1) * spacing
    lps[:3, 3] = np.array(grid.ImagePositionPatient, dtype=float)
    before, after = (_matrix(item, f"{name}DeformationMatrixRegistrationSequence") for name in ("Pre", "Post"))
    points = np.einsum("ij,j...->i...", lps[:3, :3], np.indices(size)) + lps[:3, 3].reshape(3, 1, 1, 1)
    moved = _applied(after, _applied(before, points) + vectors) - points
    affine = torch.from_numpy(np.concatenate([LPS @ lps[:3], lps[3:]]))
    check_grid(path, affine.numpy())
    ddf = mm_to_voxel(torch.from_numpy(np.einsum("ij,j...->i...", LPS, moved))[None], affine)[0].float()
    if not bool(torch.isfinite(ddf).all()):
        raise ValueError(f"{path}: its displacements are not finite or too large to express in voxels; export it again")
    if spatial_dims == 2:
        if size[2] != 1:
            raise ValueError(f"{path}: expected one slice for spatial_dims=2, received {size[2]}; read it in 3D")
        ddf = ddf[:2, ..., 0]
    return DisplacementFile(ddf, affine)


def _item(headers: tuple[Dataset, ...]) -> Dataset:
    item = pydicom.dataset.Dataset()
    item.SourceFrameOfReferenceUID = headers[0].FrameOfReferenceUID
    item.ReferencedImageSequence = [reference(header) for header in headers]
    item.RegistrationTypeCodeSequence = [code("125024", "DCM", "Image Content-based Alignment")]
    return item


def _grid(vectors: np.ndarray, affine: np.ndarray) -> Dataset:
    linear, origin = LPS @ affine[:3, :3], LPS @ affine[:3, 3]
    if np.linalg.det(linear) < 0:
        origin = origin + linear[:, 2] * (vectors.shape[3] - 1)
        linear = linear * np.array([1.0, 1.0, -1.0])
        vectors = vectors[..., ::-1]
    spacing = np.linalg.norm(linear, axis=0)
    grid = pydicom.dataset.Dataset()
    grid.ImagePositionPatient = decimals(origin)
    grid.ImageOrientationPatient = decimals((linear / spacing)[:, :2].T)
    grid.GridDimensions = list(vectors.shape[1:])
    grid.GridResolution = spacing.tolist()
    # x runs fastest, then y, then z; the three components of a vector lie together
    grid.VectorGridData = np.ascontiguousarray(vectors.transpose(3, 2, 1, 0), dtype="<f4").tobytes()
    return grid


def _identity() -> Dataset:
    item = pydicom.dataset.Dataset()
    item.FrameOfReferenceTransformationMatrixType = "RIGID"
    item.FrameOfReferenceTransformationMatrix = decimals(np.eye(4))
    return item


def _referenced(registered: tuple[Dataset, ...], source: tuple[Dataset, ...]) -> list[Dataset]:
    series = {headers[0].SeriesInstanceUID: headers for headers in (registered, source)}
    return [series_reference(headers) for headers in series.values()]


def _dataset(path: Path) -> Dataset:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; check the path")
    dataset = read_dicom(path)
    if dataset is None:
        raise ValueError(f"{path}: is not a DICOM file; give a Deformable Spatial Registration")
    if dataset.get("SOPClassUID") != REGISTRATION:
        name = pydicom.uid.UID(dataset.get("SOPClassUID", "")).name
        raise ValueError(f"{path}: expected a Deformable Spatial Registration, received {name or 'no SOP class'}")
    return dataset


def _item_with_grid(path: Path, dataset: Dataset) -> Dataset:
    items = [item for item in dataset.DeformableRegistrationSequence if item.get("DeformableRegistrationGridSequence")]
    if len(items) != 1:
        raise ValueError(f"{path}: expected one deformation grid, received {len(items)}; split the object")
    return items[0]


def _matrix(item: Dataset, name: str) -> np.ndarray:
    sequence = item.get(name)
    if not sequence:
        return np.eye(4)
    return np.array(sequence[0].FrameOfReferenceTransformationMatrix, dtype=float).reshape(4, 4)


def _applied(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return np.einsum("ij,j...->i...", matrix[:3, :3], points) + matrix[:3, 3].reshape(3, 1, 1, 1)
