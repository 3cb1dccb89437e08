"""Conversion between tensors with an affine to RAS mm and SimpleITK images, in 3D and in the plane of a slice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from .geometry import Array

INTERPOLATORS = {
    "bilinear": sitk.sitkLinear,
    "nearest": sitk.sitkNearestNeighbor,
    "bspline": sitk.sitkBSpline,
}
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

# Maximum out-of-plane part of a pixel step, as a fraction of a pixel's edge.
_PARALLEL = 1e-3


def frame_of(affine: Array, spatial_dims: int) -> Array:
    """The coordinates in which SimpleITK works, as a rigid 4x4 matrix from RAS mm.

    In 3D these are LPS mm. For a slice they are mm along its rows, across them in its plane, and along its normal,
    from its first pixel: a rotation in the plane is then one of two dimensions, wherever the plane lies.
    """
    if spatial_dims == 3:
        return LPS
    rows = affine[:3, 0] / np.linalg.norm(affine[:3, 0])
    across = affine[:3, 1] - rows * (rows @ affine[:3, 1])
    across = across / np.linalg.norm(across)
    frame = np.eye(4)
    frame[:3, :3] = np.stack([rows, across, np.cross(rows, across)])
    frame[:3, 3] = -frame[:3, :3] @ affine[:3, 3]
    return frame


def to_itk(values: Tensor, affine: Array, frame: Array, label: str) -> Any:
    """One channel (*spatial) as a SimpleITK image in the frame.

    Raises:
        ValueError: if a slice is not parallel to the frame's plane.
    """
    grid = frame @ affine
    dimension = values.ndim
    steps = grid[:3, :dimension]
    edges = np.linalg.norm(steps, axis=0)
    if dimension == 2 and (np.abs(steps[2]) > _PARALLEL * edges).any():
        raise ValueError(
            f"{label}: expected a slice parallel to the fixed one, received one tilted by"
            f" {np.degrees(np.arcsin(np.abs(steps[2] / edges).max())):.2f} degrees; align the volumes, then slice them"
        )
    image = sitk.GetImageFromArray(np.ascontiguousarray(values.detach().cpu().numpy().T))
    image.SetSpacing(edges.tolist())
    image.SetDirection((steps[:dimension] / edges).ravel().tolist())
    image.SetOrigin(grid[:dimension, 3].tolist())
    return image


def to_transform(matrix: Array, frame: Array, spatial_dims: int) -> Any:
    """A rigid 4x4 matrix of RAS points as a SimpleITK Euler transform of the frame's points."""
    moved = frame @ matrix @ np.linalg.inv(frame)
    transform = sitk.Euler2DTransform() if spatial_dims == 2 else sitk.Euler3DTransform()
    transform.SetMatrix(moved[:spatial_dims, :spatial_dims].ravel().tolist(), 1e-6)
    transform.SetTranslation(moved[:spatial_dims, 3].tolist())
    return transform


def to_matrix(transform: Any, frame: Array, offset: float = 0.0) -> Array:
    """A SimpleITK Euler transform of the frame's points as a rigid 4x4 matrix of RAS points.

    Args:
        transform: 2D or 3D.
        frame: from `frame_of`.
        offset: in 2D, how far the moving plane lies along the normal, in mm.
    """
    dimension = transform.GetDimension()
    moved = np.eye(4)
    moved[:dimension, :dimension] = np.asarray(transform.GetMatrix()).reshape(dimension, dimension)
    moved[:dimension, 3] = transform.TransformPoint([0.0] * dimension)
    if dimension == 2:
        moved[2, 3] = offset
    return np.asarray(np.linalg.inv(frame) @ moved @ frame)


def resample(
    image: Tensor,
    affine: Array,
    shape: Sequence[int],
    onto: Array,
    matrix: Array,
    frame: Array,
    mode: str,
    fill: float,
    label: str,
) -> Tensor:
    """Resample an image on another grid through a rigid transform.

    Args:
        image: (C, *spatial), float32 or float64.
        affine: affine of the image.
        shape: shape of the other grid.
        onto: affine of the other grid.
        matrix: rigid 4x4 matrix from RAS points of the other grid to RAS points of the image.
        frame: from `frame_of`.
        mode: a key of `INTERPOLATORS`.
        fill: the value outside the image.
        label: the image's name in messages.

    Returns:
        (C, *shape), dtype and device of the image.
    """
    reference = to_itk(torch.zeros(tuple(shape), dtype=torch.uint8), onto, frame, "the grid to resample onto")
    transform = to_transform(matrix, frame, len(shape))
    channels = []
    for channel in image:
        source = to_itk(channel, affine, frame, label)
        moved = sitk.Resample(source, reference, transform, INTERPOLATORS[mode], fill, source.GetPixelID())
        channels.append(torch.from_numpy(np.ascontiguousarray(sitk.GetArrayViewFromImage(moved).T)))
    return torch.stack(channels).to(image.device)
