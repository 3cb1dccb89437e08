"""Validation of a caller's mask against its image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..checks import check_finite
from .naming import detached


def as_mask(label: str, mask: Any, image: Tensor, *, one_channel: bool = False) -> Tensor:
    """The mask as booleans on the image's device.

    Args:
        label: the image's name in messages.
        mask: array or tensor, (1, *spatial) or the image's shape, above 0 inside.
        image: (C, *spatial).
        one_channel: whether the mask must have a single channel.

    Returns:
        Boolean mask, (1, *spatial) or the image's shape, with at least one voxel inside.

    Raises:
        TypeError: if it is not an array.
        ValueError: if it is on another grid, not finite or empty.
    """
    if not isinstance(mask, Tensor) and not hasattr(mask, "__array__"):
        raise TypeError(f"mask of {label}: expected a tensor or array, received {type(mask).__name__}; load it first")
    inside = detached(torch.as_tensor(mask)).to(image.device)
    if inside.is_floating_point():
        check_finite(f"mask of {label}", inside, "make the mask 0 and 1")
    inside = inside > 0
    allowed = {(1, *image.shape[1:])} if one_channel else {(1, *image.shape[1:]), tuple(image.shape)}
    if tuple(inside.shape) not in allowed:
        raise ValueError(
            f"mask of {label}: expected shape {(1, *image.shape[1:])}, received {tuple(inside.shape)}; bring the"
            " mask onto the image's grid"
        )
    if not bool(inside.any()):
        raise ValueError(f"mask of {label}: expected voxels above 0, received an empty mask; fill it or leave it out")
    return inside
