"""Brain anatomy of TraceBench: the ICBM152 template and its tissue maps, and the grids that cases live on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from medtrace.fields import sample

TISSUES = ("csf", "gm", "wm")
"""Healthy tissues of the template, in the order of its maps."""
LABELS = {"background": 0, "csf": 1, "gm": 2, "wm": 3, "pathology": 4}
"""Values of the label maps by tissue."""

_HEAD_MM = (168.0, 206.0, 174.0)  # the template's brain with room for a subject larger than the template
_CSF_WIDENING = 2.0  # the atlas is of young adults, whose ventricles and sulci are narrow
_DEPTH_LIMIT_MM = 40.0  # the depth map is only used near the surface


@dataclass(frozen=True)
class Template:
    """The template's maps on one grid of 1 mm.

    Attributes:
        maps: (5, X, Y, Z) float32: CSF, GM and WM probabilities, T1 detail that the three do not explain (in
            units of the WM-GM difference), and the depth below the brain's surface in mm (negative outside).
        affine: (4, 4) float64, voxel to RAS mm.
    """

    maps: Tensor
    affine: np.ndarray

    def at(self, coordinates_mm: Tensor) -> Tensor:
        """Sample every map linearly.

        Args:
            coordinates_mm: (3, *shape) float64 RAS positions in mm.

        Returns:
            (5, *shape) float32.
        """
        shape = coordinates_mm.shape[1:]
        inverse = torch.from_numpy(np.linalg.inv(self.affine)).to(coordinates_mm)
        voxels = inverse[:3, :3] @ coordinates_mm.reshape(3, -1) + inverse[:3, 3:]
        points = voxels.to(torch.float32).reshape(1, 3, -1, 1, 1)
        return sample(self.maps[None], points)[0].reshape(len(self.maps), *shape)


@lru_cache(maxsize=2)
def load_template(blur_mm: float = 0.0) -> Template:
    """Load the ICBM152 2009a maps that nilearn's package holds (no download), cropped to the brain.

    Args:
        blur_mm: standard deviation of a Gaussian that keeps a coarser grid from aliasing, in mm.

    Returns:
        The template on its 1 mm grid.
    """
    sharp, affine = _sharp_maps()
    maps = sharp.copy()
    if blur_mm > 0:
        for index in range(4):
            maps[index] = ndimage.gaussian_filter(sharp[index], blur_mm, truncate=3.0)
    maps[:3] = _widened_csf(maps[:3])
    return Template(torch.from_numpy(maps), affine)


@lru_cache(maxsize=1)
def _sharp_maps() -> tuple[np.ndarray, np.ndarray]:
    try:
        from nilearn import datasets  # takes two seconds to import
    except ImportError as error:
        raise ModuleNotFoundError(
            "TraceBench: expected nilearn, whose package holds the brain template, received none; pip install"
            " 'medtrace[bench]'"
        ) from error

    image = datasets.load_mni152_template(resolution=1)
    t1 = np.asarray(image.dataobj, dtype=np.float32)
    gm = np.asarray(datasets.load_mni152_gm_template(resolution=1).dataobj, dtype=np.float32)
    wm = np.asarray(datasets.load_mni152_wm_template(resolution=1).dataobj, dtype=np.float32)
    mask = np.asarray(datasets.load_mni152_brain_mask(resolution=1).dataobj) > 0
    mask = ndimage.binary_fill_holes(mask)

    (t1, gm, wm, mask), affine = _cropped([t1, gm, wm, mask], mask, np.array(image.affine, dtype=np.float64))
    gm, wm = gm * mask, wm * mask
    csf = np.clip(mask - gm - wm, 0.0, 1.0).astype(np.float32)
    tissues = np.stack([csf, gm, wm]) / np.maximum(csf + gm + wm, 1.0)
    detail = _unexplained_detail(t1, tissues, mask)
    depth = ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask)
    depth = np.clip(depth, -_DEPTH_LIMIT_MM, _DEPTH_LIMIT_MM)
    return np.stack([*tissues, detail, depth]).astype(np.float32), affine


def _cropped(volumes: list[np.ndarray], mask: np.ndarray, affine: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Cut to the mask with a margin, padding with zeros where it leaves the grid."""
    margin = 16  # more than the widest blur reaches, since samples beyond the grid repeat its border
    inside = np.argwhere(mask)
    low, high = inside.min(0) - margin, inside.max(0) + margin + 1
    before = np.maximum(-low, 0)
    start = np.maximum(low, 0)
    window = tuple(slice(a, b) for a, b in zip(start, high))
    after = np.maximum(high - np.array(mask.shape), 0)
    padding = [(int(first), int(last)) for first, last in zip(before, after)]
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ low
    return [np.pad(volume[window], padding) for volume in volumes], moved


def _widened_csf(tissues: np.ndarray) -> np.ndarray:
    """Raise the odds of CSF against GM and WM, and keep the fraction of brain."""
    brain = tissues.sum(0)
    raised = tissues * np.array([_CSF_WIDENING, 1, 1], dtype=np.float32).reshape(3, 1, 1, 1)
    return raised * (brain / np.maximum(raised.sum(0), 1e-6))


def _unexplained_detail(t1: np.ndarray, tissues: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """T1 minus its least-squares mixture of tissue means, as a fraction of the WM-GM difference."""
    weights = tissues[:, mask].T.astype(np.float64)
    means, *_ = np.linalg.lstsq(weights, t1[mask].astype(np.float64), rcond=None)
    detail = np.zeros_like(t1)
    detail[mask] = (t1[mask] - weights @ means) / (means[2] - means[1])
    return detail


@dataclass(frozen=True)
class BrainGrid:
    """A regular grid in RAS axes.

    Attributes:
        shape: voxels per axis, 2 or 3 numbers.
        spacing: mm per voxel, the same along every axis.
        affine: (4, 4) float64, voxel to RAS mm; pixel (i, j) of a slice is voxel (i, j, 0).
    """

    shape: tuple[int, ...]
    spacing: float
    affine: np.ndarray

    def millimeters(self) -> Tensor:
        """RAS position of every voxel center, (3, *shape) float64."""
        three = (*self.shape, 1)[:3]
        axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in three), indexing="ij")
        index = torch.stack(axes).reshape(3, -1)
        affine = torch.from_numpy(self.affine)
        return (affine[:3, :3] @ index + affine[:3, 3:]).reshape(3, *self.shape)

    def plane_mm(self) -> Tensor:
        """Position along the grid's own axes from its middle, (D, *shape) float64 in mm."""
        axes = [(torch.arange(n, dtype=torch.float64) - (n - 1) / 2) * self.spacing for n in self.shape]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def spacing_for(spatial_shape: tuple[int, ...]) -> float:
    """The smallest isotropic spacing, in mm, at which the whole head fits."""
    return max(extent / size for extent, size in zip(_HEAD_MM, spatial_shape))


def grid_for(spatial_shape: tuple[int, ...], center_mm: tuple[float, float, float]) -> BrainGrid:
    """The grid of a case whose middle lies at `center_mm` (RAS)."""
    spacing = spacing_for(spatial_shape)
    affine = np.diag([spacing, spacing, spacing, 1.0])
    for axis, size in enumerate((*spatial_shape, 1)[:3]):
        affine[axis, 3] = center_mm[axis] - spacing * (size - 1) / 2
    return BrainGrid(tuple(spatial_shape), spacing, affine)


def hard_labels(tissues: Tensor) -> Tensor:
    """The most probable of background, CSF, GM and WM.

    Args:
        tissues: (3, *shape) probabilities of CSF, GM and WM; the rest is background.

    Returns:
        (1, *shape) uint8 labels, as in `LABELS`.
    """
    background = 1 - tissues.sum(0, keepdim=True)
    return torch.cat([background, tissues]).argmax(0, keepdim=True).to(torch.uint8)
