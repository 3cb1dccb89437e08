"""The Haar wavelet: an image on half of its grid in 2^d channels a channel, and back without loss."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from medtrace.checks import check_batched


def haar(image: Tensor) -> Tensor:
    """One level of the orthonormal Haar transform: along every axis (a, b) → ((a + b)/√2, (a − b)/√2).

    Sums of squares are preserved, and white noise stays white noise of the same variance, so that a diffusion may run
    on either side of it.

    Args:
        image: (B, C, *spatial) with even extents.

    Returns:
        (B, 2^d · C, *half): the low-pass of every channel first, then the others; channels of one band together.

    Raises:
        ValueError: if an extent is odd.

    Example:
        >>> haar(torch.ones(1, 1, 4, 4))[0, :, 0, 0]
        tensor([2.0000, 0.0000, 0.0000, 0.0000])
    """
    check_batched("image", image)
    if any(extent % 2 for extent in image.shape[2:]):
        raise ValueError(f"image: expected even extents, received {tuple(image.shape[2:])}; pad it")
    for axis in range(2, image.ndim):
        image = _along(image, axis)
    return image


def _along(image: Tensor, axis: int) -> Tensor:
    shape = list(image.shape)
    halves = image.reshape(*shape[:axis], shape[axis] // 2, 2, *shape[axis + 1 :])
    first, second = halves.select(axis + 1, 0), halves.select(axis + 1, 1)
    return torch.cat([first + second, first - second], dim=1) * math.sqrt(0.5)


def inverse_haar(bands: Tensor) -> Tensor:
    """The image of its Haar bands.

    Args:
        bands: (B, 2^d · C, *half) as `haar` gives them.

    Returns:
        (B, C, *spatial).

    Raises:
        ValueError: if 2^d does not divide the channels.

    Example:
        >>> image = torch.rand(1, 2, 4, 6, 8)
        >>> bool(torch.allclose(inverse_haar(haar(image)), image, atol=1e-6))
        True
    """
    dims = check_batched("bands", bands)
    if bands.shape[1] % 2**dims:
        raise ValueError(f"bands: expected a multiple of {2**dims} channels, received {bands.shape[1]}")
    for axis in range(bands.ndim - 1, 1, -1):
        low, high = bands.chunk(2, dim=1)
        pair = torch.stack([low + high, low - high], dim=axis + 1) * 0.5**0.5
        bands = pair.flatten(axis, axis + 1)
    return bands


def on_half_grid(network: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    """Run a network between Haar bands: it takes and gives 2^d times the channels of images, on half of their grid."""
    return inverse_haar(network(haar(image)))
