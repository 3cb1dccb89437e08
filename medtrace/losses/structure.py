"""Structural similarity as a map, and 1 − SSIM as a loss beside L1 (Zhao et al. 2017, doi 10.1109/TCI.2016.2644865).

L1 alone leads to the median of all possible targets of a patch, which has no texture.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor, nn

from medtrace.checks import check_batched, check_same_shape

K1, K2 = 0.01, 0.03
WINDOW = {2: 11, 3: 7}
"""Maximum edge of the loss's Gaussian window in voxels, by the number of dimensions."""
SIGMA = 1.5
WIDTH = 2.0
"""Width of the range [-1, 1]."""


def structural_dissimilarity(image: Tensor, target: Tensor) -> Tensor:
    """Mean of 1 − SSIM (Wang et al. 2004) of images in [-1, 1], a scalar in [0, 2].

    Intensities are shifted so that -1 becomes 0, as SSIM's definition requires. The Gaussian window is 11 voxels wide
    in 2D and 7 in 3D, less where the grid is smaller; the mean is over voxels whose window is on the grid.

    Args:
        image: (B, C, *spatial).
        target: the same shape.

    Raises:
        TypeError: if an image is not a floating tensor.
        ValueError: if their shapes differ.

    Example:
        >>> import torch
        >>> image = torch.rand(1, 1, 16, 16) * 2 - 1
        >>> bool(structural_dissimilarity(image, image) < 1e-6 < structural_dissimilarity(-image, image))
        True
    """
    check_batched("image", image)
    check_same_shape("image", image, "target", target)
    edge = min(WINDOW[image.ndim - 2], *image.shape[2:])
    x, y = (values.as_subclass(Tensor).float() + 1 for values in (image, target))
    return 1 - similarity_map(x, y, WIDTH, gaussian_taps(edge - 1 + edge % 2, SIGMA)).mean()


class StructuralDissimilarityLoss(nn.Module):
    """`structural_dissimilarity` as a module.

    Example:
        >>> import torch
        >>> image = torch.rand(1, 1, 16, 16)
        >>> abs(StructuralDissimilarityLoss()(image, image).item()) < 1e-6
        True
    """

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """See `structural_dissimilarity`."""
        return structural_dissimilarity(image, target)

    if TYPE_CHECKING:
        __call__ = forward


def gaussian_taps(window: int, sigma: float) -> list[float]:
    """Weights of a Gaussian window along one axis, which add up to 1."""
    heights = [math.exp(-0.5 * ((tap - window // 2) / sigma) ** 2) for tap in range(window)]
    return [height / sum(heights) for height in heights]


def _window_mean(values: Tensor, taps: list[float]) -> Tensor:
    """Weighted mean around every voxel whose window is on the grid, along one axis after the other."""
    for axis in range(2, values.ndim):
        size = values.shape[axis] - len(taps) + 1
        total = values.narrow(axis, 0, size) * taps[0]
        for start, weight in enumerate(taps[1:], start=1):
            total.add_(values.narrow(axis, start, size), alpha=weight)
        values = total
    return values


def similarity_map(x: Tensor, y: Tensor, width: float, taps: list[float]) -> Tensor:
    """SSIM about every voxel whose window is on the grid; see `similarity_maps`."""
    luminance, structure = similarity_maps(x, y, width, taps)
    return luminance * structure


def similarity_maps(x: Tensor, y: Tensor, width: float, taps: list[float]) -> tuple[Tensor, Tensor]:
    """The two factors of SSIM, luminance and structure, about every voxel whose window is on the grid.

    Args:
        x: (B, C, *spatial), in [0, width].
        y: the same shape.
        width: width of the range of intensities.
        taps: number of taps of the window along each axis.
    """
    c1, c2 = (K1 * width) ** 2, (K2 * width) ** 2
    mean_x, mean_y = _window_mean(x, taps), _window_mean(y, taps)
    both, squares = mean_x * mean_y, mean_x.square() + mean_y.square()
    covariance = _window_mean(x * y, taps) - both
    variances = _window_mean(x.square() + y.square(), taps) - squares
    return (2 * both + c1) / (squares + c1), (2 * covariance + c2) / (variances + c2)
