"""The grid of an image: its affine as a checked 4x4 matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
from monai.data.meta_tensor import MetaTensor
from monai.data.utils import to_affine_nd

from medtrace.geometry.grid import is_singular

from .naming import named

Array = np.ndarray[Any, np.dtype[np.float64]]


def affine_of(name: str, image: Any) -> Array:
    """The affine of an image, voxel to RAS mm, as a 4x4 float64 matrix.

    Args:
        name: the argument's name, for messages.
        image: a MetaTensor, or a plain tensor, whose affine is the identity.

    Returns:
        (4, 4). A 3x3 matrix of a 2D image is lifted: its pixel (i, j) is voxel (i, j, 0).

    Raises:
        ValueError: if the affine is not finite, has no inverse or is of another shape.
    """
    if not isinstance(image, MetaTensor):
        return np.eye(4)
    affine = np.asarray(image.affine.detach().cpu().numpy(), dtype=np.float64)
    if affine.shape == (3, 3):
        affine = np.asarray(to_affine_nd(3, affine))
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or is_singular(affine):
        raise ValueError(
            f"affine of {named(name, image)}: expected an invertible 4x4 matrix from voxel to RAS mm, received"
            f" {affine.tolist()}; set the affine of the image"
        )
    return affine
