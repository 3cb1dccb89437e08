"""Shift, scaling, rotation and shear of an entire translated image relative to its clean target."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from medtrace.checks import check_finite, check_floating
from medtrace.fields import affine_displacement, warp
from medtrace.geometry.grid import check_invertible
from medtrace.metrics.translation import translation_drift, without_trend

SMOOTHING = (3.0, 1.5, 0.75)
"""Standard deviations, in voxels, at which the map is successively estimated."""
STEPS = 15
"""Gauss-Newton steps at each."""
LEAST_STEP = 1e-3
"""Voxels: a step that moves no voxel farther is the last of its smoothing."""


def affine_drift(image: Tensor, target: Tensor, affine: Tensor) -> Tensor:
    """The affine map by which an entire image deviates from its clean target, in mm.

    A generator and the registration network of its training may agree on a common scale, rotation or shear of all
    images as well as on a common shift, and `translation_drift` sees only the shift. Starting from that, the
    least-squares map is estimated by Gauss-Newton steps (Lucas and Kanade, 1981) on images without their slow trend,
    smoothed less and less. The mean map over cases distinguishes a common drift from chance; see `drift_parts`.

    Args:
        image: (B, 1, H, W) or (B, 1, H, W, D), the translated image.
        target: the clean target, of the same shape and contrast.
        affine: (4, 4) or (B, 4, 4) voxel to RAS mm; a pixel (i, j) is voxel (i, j, 0).

    Returns:
        (B, 4, 4) float64, from RAS mm about the grid's center where the target shows a point to those where the image
        shows it; for slices the third axis is unchanged. NaN where an image is constant.

    Raises:
        TypeError, ValueError: as for `translation_drift`.

    Example:
        >>> from medtrace.fields import rigid_scale_matrix
        >>> first, second = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
        >>> target = (first / 2).sin() * (second / 2).cos() * torch.exp(-((first - 24)**2 + (second - 24)**2) / 200)
        >>> pull = affine_displacement(rigid_scale_matrix(0.0, (0.0, 0.0), 1 / 1.04, (48, 48)), (48, 48))
        >>> image = warp(target[None, None], pull[None])  # shows everything 4 % larger
        >>> (drift,) = affine_drift(image, target[None, None], torch.eye(4, dtype=torch.float64))
        >>> round(float(drift_parts(drift)["scale_percent"]))
        4
    """
    shift = translation_drift(image, target, affine)
    dims, shape = image.ndim - 2, image.shape[2:]
    linear = affine.detach().as_subclass(Tensor).cpu().double()[..., :3, :3].expand(len(image), 3, 3)
    result = torch.full((len(image), 4, 4), torch.nan, dtype=torch.float64)
    for item in range(len(image)):
        if shift[item].isnan().any():
            continue
        start = torch.eye(dims + 1, dtype=torch.float64)
        start[:dims, dims] = torch.linalg.solve(linear[item], shift[item])[:dims]
        found = _register(image[item, 0], target[item, 0], start)
        center = (torch.tensor(shape, dtype=torch.float64) - 1) / 2
        whole = torch.eye(4, dtype=torch.float64)
        whole[:dims, :dims] = found[:dims, :dims]
        whole[:dims, 3] = found[:dims, dims] + found[:dims, :dims] @ center - center
        whole[:3, :3] = linear[item] @ whole[:3, :3] @ torch.linalg.inv(linear[item])
        whole[:3, 3] = linear[item] @ whole[:3, 3]
        result[item] = whole
    return result


def drift_parts(matrix: Tensor) -> dict[str, Tensor]:
    """An affine drift in numbers.

    Args:
        matrix: (..., 4, 4) floating, as of `affine_drift`, or a mean of several.

    Returns:
        "shift_mm", the length of the shift; "scale_percent", how much larger lengths are (the mean over the axes that
        scale); "degrees", the angle of the turn; "shear_percent", by how much the stretches of single directions
        differ: each (...) float64.

    Raises:
        TypeError, ValueError: if it is not such a matrix, has numbers that are not finite, or is singular.

    Example:
        >>> parts = drift_parts(torch.diag(torch.tensor([1.02, 1.02, 1.0, 1.0], dtype=torch.float64)))
        >>> round(float(parts["scale_percent"]), 2), float(parts["degrees"])
        (2.0, 0.0)
    """
    check_floating("matrix", matrix)
    if matrix.shape[-2:] != (4, 4):
        raise ValueError(
            f"matrix: expected shape (..., 4, 4), received {tuple(matrix.shape)}; pass a result of affine_drift"
        )
    check_finite("matrix", matrix)
    linear = matrix[..., :3, :3].double()
    check_invertible("matrix", linear, "give a drift that collapses no direction")
    left, stretch, right = torch.linalg.svd(linear)
    turn = left @ right
    flat = ((linear[..., 2, :] - torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)).abs() < 1e-9).all(-1)
    axes = torch.where(flat, 2.0, 3.0)
    ratio = torch.linalg.det(linear).abs() ** (1 / axes)
    cosine = ((turn.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2).clamp(-1, 1)
    sign = torch.where(flat & (turn[..., 1, 0] < 0), -1.0, 1.0)
    # The third axis of a slice does not stretch; the mean of the others takes its place.
    unit = (stretch - 1).abs().argmin(-1, keepdim=True)
    own = torch.where(flat[..., None], stretch.scatter(-1, unit, ratio[..., None]), stretch)
    return {
        "shift_mm": matrix[..., :3, 3].double().norm(dim=-1),
        "scale_percent": 100 * (ratio - 1),
        "degrees": sign * torch.rad2deg(torch.arccos(cosine)),
        "shear_percent": 100 * (own.amax(-1) / own.amin(-1) - 1),
    }


def _register(image: Tensor, target: Tensor, matrix: Tensor) -> Tensor:
    """The voxel to voxel map of least squares, from a start."""
    pair = [without_trend(one) for one in (image, target)]
    shape, dims = target.shape, target.ndim
    points = np.stack(np.meshgrid(*(np.arange(size, dtype=float) for size in shape), indexing="ij"))
    about = points - (np.array(shape, dtype=float).reshape(-1, *(1,) * dims) - 1) / 2
    for sigma in SMOOTHING:
        moving, fixed = (ndimage.gaussian_filter(one, sigma) for one in pair)
        for _ in range(STEPS):
            field = affine_displacement(matrix, shape, dtype=torch.float64)
            warped = warp(torch.from_numpy(moving)[None, None], field[None])[0, 0].numpy()
            # From the derivative of the warped image, so that a step is a map before the current one.
            slopes = np.stack(np.gradient(warped))
            columns = np.concatenate([slopes[:, None] * about[None], slopes[:, None]], axis=1).reshape(
                -1, points[0].size
            )
            step, *_ = np.linalg.lstsq(columns @ columns.T, columns @ (fixed - warped).ravel(), rcond=None)
            inner = torch.eye(dims + 1, dtype=torch.float64)
            rows = torch.from_numpy(step.reshape(dims, dims + 1))
            center = (torch.tensor(shape, dtype=torch.float64) - 1) / 2
            inner[:dims, :dims] += rows[:, :dims]
            inner[:dims, dims] = rows[:, dims] - rows[:, :dims] @ center
            matrix = matrix @ inner
            if float((rows[:, :dims].abs() @ center + rows[:, dims].abs()).max()) < LEAST_STEP:
                break
    return matrix
