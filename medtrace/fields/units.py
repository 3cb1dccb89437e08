"""Displacements between voxels and millimeters."""

from __future__ import annotations

import torch
from torch import Tensor

from medtrace.checks import check_batched, check_field, check_finite, check_floating
from medtrace.geometry.grid import check_invertible


def voxel_to_mm(ddf: Tensor, affine: Tensor) -> Tensor:
    """Displacement vectors from voxels to RAS millimeters.

    Args:
        ddf: (B, 2, H, W) or (B, 3, H, W, D), in voxels, array-axis order.
        affine: (4, 4) or (B, 4, 4) voxel to RAS mm; its translation has no effect.

    Returns:
        (B, 3, ...) in mm, right, anterior, superior; also in 2D, whose two axes are the affine's first two
        columns.

    Raises:
        TypeError: if an argument is not a floating tensor.
        ValueError: if a shape is wrong or the affine is singular.

    Example:
        >>> affine = torch.diag(torch.tensor([2.0, 2.0, 5.0, 1.0], dtype=torch.float64))
        >>> voxel_to_mm(torch.ones(1, 3, 1, 1, 1), affine).flatten()
        tensor([2., 2., 5.])
    """
    spatial_dims = check_field("ddf", ddf)
    matrix = _linear_part(affine, ddf.shape[0])[:, :, :spatial_dims]
    return _apply(matrix, ddf)


def mm_to_voxel(ddf_mm: Tensor, affine: Tensor) -> Tensor:
    """Displacement vectors from RAS millimeters to voxels.

    Args:
        ddf_mm: (B, 3, H, W) or (B, 3, H, W, D), in mm, right, anterior, superior.
        affine: (4, 4) or (B, 4, 4) voxel to RAS mm.

    Returns:
        (B, 2, H, W) or (B, 3, H, W, D) in voxels. In 2D the in-plane displacement is the least-squares one: the
        out-of-plane component is dropped.

    Raises:
        TypeError: if an argument is not a floating tensor.
        ValueError: if a shape is wrong or the affine is singular.

    Example:
        >>> affine = torch.diag(torch.tensor([2.0, 2.0, 5.0, 1.0], dtype=torch.float64))
        >>> mm_to_voxel(torch.full((1, 3, 1, 1, 1), 10.0), affine).flatten()
        tensor([5., 5., 2.])
    """
    spatial_dims = check_batched("ddf_mm", ddf_mm, channels=3)
    matrix = _linear_part(affine, ddf_mm.shape[0])[:, :, :spatial_dims]
    return _apply(torch.linalg.pinv(matrix), ddf_mm)


def _linear_part(affine: Tensor, batch: int) -> Tensor:
    check_floating("affine", affine)
    if affine.shape not in ((4, 4), (batch, 4, 4)):
        raise ValueError(f"affine: expected shape (4, 4) or ({batch}, 4, 4), received {tuple(affine.shape)}")
    linear = affine[..., :3, :3].to(torch.float64)
    check_finite("affine", linear, "check the image's header")
    check_invertible("affine", linear)
    return linear.expand(batch, 3, 3)


def _apply(matrix: Tensor, vectors: Tensor) -> Tensor:
    with torch.autocast(vectors.device.type, enabled=False):
        vectors = vectors if vectors.dtype == torch.float64 else vectors.float()
        matrix = matrix.to(device=vectors.device, dtype=vectors.dtype)
        return torch.einsum("bij,bj...->bi...", matrix, vectors)
