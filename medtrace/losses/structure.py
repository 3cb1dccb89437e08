"""Structural dissimilarity, 1 − SSIM: what L1 alone gives up where a source does not determine its target.

MONAI's `SSIMLoss` on images in [-1, 1] (Wang et al. 2004; as a loss beside L1: Zhao et al. 2017, doi
10.1109/TCI.2016.2644865). L1 leads to the median of all targets that a patch may have, which has no texture.
"""

from __future__ import annotations

from monai.losses import SSIMLoss
from torch import Tensor, nn

from medtrace.checks import check_batched, check_same_shape

WINDOW = {2: 11, 3: 7}
"""Edge of the Gaussian window in voxels at most, by the number of dimensions."""
SIGMA = 1.5


def structural_dissimilarity(image: Tensor, target: Tensor) -> Tensor:
    """Mean of 1 − SSIM of images in [-1, 1], a scalar in [0, 2].

    Intensities are shifted so that -1 is 0, as SSIM's definition has it. The window is 11 voxels wide in 2D and 7 in
    3D, less where the grid is smaller.

    Args:
        image: (B, C, *spatial).
        target: the same shape.

    Raises:
        TypeError: if they are not floating tensors.
        ValueError: if their shapes differ.

    Example:
        >>> import torch
        >>> image = torch.rand(1, 1, 16, 16) * 2 - 1
        >>> bool(structural_dissimilarity(image, image) < 1e-6 < structural_dissimilarity(-image, image))
        True
    """
    check_batched("image", image)
    check_same_shape("image", image, "target", target)
    dims = image.ndim - 2
    edge = min(WINDOW[dims], *image.shape[2:])
    loss = SSIMLoss(dims, data_range=2.0, win_size=edge - 1 + edge % 2, kernel_sigma=SIGMA)
    value: Tensor = loss(image.float() + 1, target.float() + 1)
    return value


class StructuralDissimilarityLoss(nn.Module):
    """`structural_dissimilarity` as a module."""

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """See `structural_dissimilarity`."""
        return structural_dissimilarity(image, target)
