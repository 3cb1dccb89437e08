"""The two images of a transform, and a map from points of the target to points of the source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from medtrace.checks import check_finite
from medtrace.fields import mm_to_voxel
from medtrace.geometry import Grid
from medtrace.io.nifti import LPS
from medtrace.io.transforms import is_axial


class Note(NamedTuple):
    """One line about what was assumed or measured about a file."""

    file: str
    """Name of the file, which may be a patient's."""
    text: str
    """The line, without names of files other than the endings that a program gives them."""

    def __str__(self) -> str:
        return f"{self.file}: {self.text}"


@dataclass(frozen=True)
class Images:
    """The grids between which a transform leads, as volumes (a natural image is one slice).

    Args:
        source: of the moving image.
        target: grid of the fixed image, on which the source is resampled.
        source_pixel: edges of a pixel in mm as ITK reads them from a natural image's resolution; medtrace takes 1 mm.
        target_pixel: likewise.
    """

    source: Grid
    target: Grid
    source_pixel: tuple[float, float] = (1.0, 1.0)
    target_pixel: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        for name, grid in (("source", self.source), ("target", self.target)):
            if grid.spatial_dims != 3:
                raise ValueError(f"{name}: expected a grid of three axes, received {grid.shape}; append an axis of 1")


@dataclass(frozen=True, eq=False)
class PointMap:
    """Where points of the target came from in the source.

    Args:
        transform: on points in LPS mm, in 2D or 3D; it leads from target to source, as ITK resamples.
        images: between which it leads.
        format: format of the file.
        notes: what was assumed, one line each.

    Raises:
        ValueError: if the transform is in 2D and an image is not one axial slice or natural image.
    """

    transform: sitk.Transform
    images: Images
    format: str
    notes: tuple[Note, ...] = ()

    def __post_init__(self) -> None:
        if self.transform.GetDimension() == 3:
            return
        for name, grid in (("source", self.images.source), ("target", self.images.target)):
            if grid.shape[2] != 1 or not is_axial(grid.affine):
                raise ValueError(
                    f"{name}: expected a natural image or one axial slice for a 2D transform, received a grid of"
                    f" {grid.shape}{'' if grid.shape[2] != 1 else ' in another plane'}; give the images that it was"
                    " made for"
                )

    @property
    def dimensions(self) -> int:
        """2 or 3, of the transform."""
        return int(self.transform.GetDimension())

    def origin(self, points_mm: Any) -> Tensor:
        """Points (N, 3) of the source, float64, of points (N, 3) of the target, both in RAS mm."""
        points = torch.as_tensor(points_mm, dtype=torch.float64)
        if points.ndim != 2 or points.shape[1] != 3:
            raise ValueError(f"points_mm: expected shape (N, 3), RAS mm, received {tuple(points.shape)}")
        check_finite("points_mm", points)
        lps = points.numpy() @ LPS
        if self.dimensions == 3:
            moved = [self.transform.TransformPoint(point) for point in lps.tolist()]
            return torch.from_numpy(np.reshape(np.array(moved, dtype=np.float64), (-1, 3)) @ LPS)
        pixel, source_pixel = np.array(self.images.target_pixel), np.array(self.images.source_pixel)
        flat = [self.transform.TransformPoint(point) for point in (lps[:, :2] * pixel).tolist()]
        moved_flat = np.reshape(np.array(flat, dtype=np.float64), (-1, 2)) / source_pixel
        return torch.from_numpy(np.concatenate([moved_flat, lps[:, 2:] + self._between_planes], axis=1) @ LPS)

    def displacement(self, grid: Grid | None = None) -> Tensor:
        """The map as a displacement (3, *shape) float64 in voxels of a grid, by default the target's."""
        grid = self.images.target if grid is None else grid
        vectors = self._vectors_3d(grid) if self.dimensions == 3 else self._vectors_2d(grid)
        return mm_to_voxel(torch.from_numpy(np.einsum("ij,j...->i...", LPS, vectors))[None], grid.affine)[0]

    @property
    def _between_planes(self) -> float:
        """From the target's slice to the source's, in mm upwards."""
        return float(self.images.source.affine[2, 3] - self.images.target.affine[2, 3])

    def _vectors_3d(self, grid: Grid) -> np.ndarray:
        image = sitk.TransformToDisplacementField(
            self.transform, sitk.sitkVectorFloat64, list(grid.shape), *itk_geometry(grid)
        )
        return np.asarray(sitk.GetArrayFromImage(image).T)

    def _vectors_2d(self, grid: Grid) -> np.ndarray:
        origin, spacing, direction = itk_geometry(grid)
        pixel, source_pixel = np.array(self.images.target_pixel), np.array(self.images.source_pixel)
        axes = np.reshape(direction, (3, 3))[:2, :2] * spacing[:2] * pixel[:, None]
        lengths = np.linalg.norm(axes, axis=0)
        image = sitk.TransformToDisplacementField(
            self.transform,
            sitk.sitkVectorFloat64,
            list(grid.shape[:2]),
            (np.array(origin[:2]) * pixel).tolist(),
            lengths.tolist(),
            (axes / lengths).ravel().tolist(),
        )
        flat = sitk.GetArrayFromImage(image).T
        if (pixel != 1).any() or (source_pixel != 1).any():
            where = (
                np.einsum("ij,jhw->ihw", axes, np.indices(grid.shape[:2]))
                + (np.array(origin[:2]) * pixel)[:, None, None]
            )
            flat = (where + flat) / source_pixel[:, None, None] - where / pixel[:, None, None]
        through = np.full((1, *grid.shape[:2]), self._between_planes)
        return np.concatenate([flat, through])[..., None]


def itk_geometry(grid: Grid) -> tuple[list[float], list[float], list[float]]:
    """Origin, spacing and direction, LPS, of a grid of three axes."""
    affine = grid.affine.numpy()
    linear = LPS @ affine[:3, :3]
    spacing = np.linalg.norm(linear, axis=0)
    return (LPS @ affine[:3, 3]).tolist(), spacing.tolist(), (linear / spacing).ravel().tolist()
