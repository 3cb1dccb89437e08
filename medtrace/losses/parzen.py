"""Joint histograms of image pairs with Parzen windows, exactly differentiable in both images."""

from __future__ import annotations

import torch
from torch import Tensor

from medtrace.kernels import parzen
from medtrace.kernels.parzen_window import ParzenKernel, ParzenWindow

__all__ = ["ParzenKernel", "ParzenWindow", "joint_histogram"]


def joint_histogram(x: Tensor, y: Tensor, window: ParzenWindow, mask: Tensor | None = None) -> Tensor:
    """Joint probability of the intensities of two images, one table per row.

    Args:
        x: first image, (rows, voxels), float32 or float64, within `window.value_range`.
        y: second image, the same shape and type.
        window: bins and kernel.
        mask: weights >= 0 of the voxels, (rows, voxels), each row with a positive sum; constants of the gradient.

    Returns:
        (rows, num_bins, num_bins) in float64: x along the first, y along the second bin axis; each table sums to 1.
        The same input gives the same bytes on one device, whatever the number of threads, also on CUDA; and the
        device is never waited for. `medtrace.kernels.use` chooses between compiled loops and plain torch.

    Raises:
        RuntimeError: from torch, when a second derivative is asked for (there is none).
    """
    weights = None if mask is None else mask.detach().to(x.dtype)
    counts = parzen.counts(x, y, weights, window)
    if weights is None:
        return counts / x.shape[1]
    return counts / weights.sum(1, dtype=torch.float64)[:, None, None]
