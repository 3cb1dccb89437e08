"""Region masks as weights of voxels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from medtrace.checks import check_batched


def mask_weights(mask: Any, image: Tensor) -> Tensor:
    """The mask as weights of the image's voxels.

    Args:
        mask: (B, 1, H, W[, D]), bool or finite weights >= 0.
        image: (B, C, H, W[, D]) that it belongs to.

    Returns:
        (B, 1, H, W[, D]) on the image's device and in its type, without gradient.

    Raises:
        TypeError: if the mask is not a tensor, or the image is not a floating tensor.
        ValueError: if its shape is wrong, a weight is negative or not finite, or a batch item has no voxel.

    Example:
        >>> mask_weights(torch.tensor([[[[True, False]]]]), torch.zeros(1, 3, 1, 2)).shape
        torch.Size([1, 1, 1, 2])
    """
    if not isinstance(mask, Tensor):
        raise TypeError(f"mask: expected a torch tensor, received {type(mask).__name__}; convert it first")
    check_batched("image", image)
    expected = (image.shape[0], 1, *image.shape[2:])
    if tuple(mask.shape) != expected:
        raise ValueError(
            f"mask: expected shape {expected}, one channel on the images' grid, received {tuple(mask.shape)}"
        )
    weights = mask.detach().as_subclass(Tensor).to(image.device, image.dtype)
    if not bool(((weights >= 0) & torch.isfinite(weights)).all()):
        raise ValueError("mask: expected finite weights of at least 0, received negative numbers, NaN or infinity")
    empty = (weights.flatten(1).sum(1) == 0).nonzero().flatten().tolist()
    if empty:
        raise ValueError(
            f"mask: expected voxels in every batch item, received an empty mask in item(s) {empty};"
            " leave these cases out or pass no mask"
        )
    return weights
