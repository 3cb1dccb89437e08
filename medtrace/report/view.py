"""Planes of an image as a radiologist expects them on a screen or on paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import nibabel
import numpy as np
import torch
from torch import Tensor

from medtrace.checks import check_choice

PlaneName = Literal["axial", "coronal", "sagittal"]
_NORMAL: dict[str, int] = {"sagittal": 0, "coronal": 1, "axial": 2}
_TOWARDS = ("R", "A", "S")
_AWAY = ("L", "P", "I")


@dataclass(frozen=True)
class View:
    """The layout of a grid's plane on the page, in radiological convention.

    The patient's right is on the left of the page (axial and coronal planes), the front on the left (sagittal); the
    front (axial) or the head (coronal, sagittal) is at the top. On oblique grids every array axis counts as the body
    axis that it runs along most. With the affine diag(-1, -1, 1, 1) of a photograph the first array axis runs to the
    right and the second down, as in the file.

    Attributes:
        horizontal: array axis that runs along the rows of the page.
        vertical: array axis that runs down the page.
        flip_horizontal: whether the page runs against the array axis.
        flip_vertical: the same, downwards.
        normal: array axis that is cut, or None for a 2D image.
        index: where it is cut.
        aspect: height of a pixel over its width, from the voxel size.
        letters: body directions at the left, right, top and bottom of the page.
        pixel_width: in mm.
        photograph: whether the grid is a natural image's, which has pixels and no body directions.
    """

    horizontal: int
    vertical: int
    flip_horizontal: bool
    flip_vertical: bool
    normal: int | None
    index: int
    aspect: float
    letters: tuple[str, str, str, str]
    pixel_width: float = 1.0
    photograph: bool = False

    def page(self, image: Tensor) -> np.ndarray:
        """Cut and turn (C, *spatial) into (rows, columns, C)."""
        plane = image.detach().cpu()
        horizontal, vertical = self.horizontal, self.vertical
        if self.normal is not None:
            plane = plane.select(1 + self.normal, self.index)
            horizontal -= horizontal > self.normal
            vertical -= vertical > self.normal
        turned = plane.permute(1 + vertical, 1 + horizontal, 0)
        axes = [axis for axis, flip in enumerate((self.flip_vertical, self.flip_horizontal)) if flip]
        return turned.flip(axes).numpy() if axes else turned.numpy()


def view_of(
    affine: Tensor,
    shape: tuple[int, ...] | torch.Size,
    plane: PlaneName = "axial",
    index: int | None = None,
    voxel_weight: Tensor | None = None,
) -> View:
    """Choose and orient a plane.

    Args:
        affine: (4, 4) voxel to RAS mm.
        shape: spatial shape, 2 or 3 numbers; a 2D image is its own plane, whatever `plane` says.
        plane: which plane of a volume.
        index: slice along the array axis that the plane cuts; None takes the slice where `voxel_weight` has its
            largest mean, or the middle one where it is None or zero.
        voxel_weight: (*shape), at least 0.

    Returns:
        The view.

    Raises:
        ValueError: if the plane is unknown or the index lies outside the volume.
    """
    check_choice("plane", plane, get_args(PlaneName))
    orientation = nibabel.io_orientation(affine.detach().cpu().double().numpy())
    body_axis = [int(axis) for axis in orientation[:, 0]]
    normal = None if len(shape) == 2 else body_axis.index(_NORMAL[plane])
    position = 0 if normal is None else _slice_index(normal, shape, index, voxel_weight)
    shown = sorted((axis for axis in range(len(shape)) if axis != normal), key=lambda axis: body_axis[axis])
    horizontal, vertical = shown
    spacing = torch.linalg.vector_norm(affine[:3, :3].double(), dim=0)
    across, down = body_axis[horizontal], body_axis[vertical]
    return View(
        horizontal=horizontal,
        vertical=vertical,
        flip_horizontal=orientation[horizontal, 1] > 0,
        flip_vertical=orientation[vertical, 1] > 0,
        normal=normal,
        index=position,
        aspect=float(spacing[vertical] / spacing[horizontal]),
        letters=(_TOWARDS[across], _AWAY[across], _TOWARDS[down], _AWAY[down]),
        pixel_width=float(spacing[horizontal]),
        photograph=len(shape) == 2 and is_natural(affine),
    )


def is_natural(affine: Tensor) -> bool:
    """Whether an affine is the one that natural images are read with, diag(-1, -1, 1, 1)."""
    return affine.detach().cpu().double().tolist() == [[-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


def _slice_index(normal: int, shape: tuple[int, ...], index: int | None, weight: Tensor | None) -> int:
    size = shape[normal]
    if index is not None:
        if not 0 <= index < size:
            raise ValueError(f"index: expected a slice from 0 to {size - 1}, received {index}")
        return index
    if weight is not None:
        mean = weight.double().movedim(normal, 0).flatten(1).mean(1)
        if float(mean.max()) > 0:
            return int(mean.argmax())
    return size // 2
