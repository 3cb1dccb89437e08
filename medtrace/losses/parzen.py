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
        The same input gives the same bytes on one device, whatever the number of threads, also on CUDA; and the call
        never waits for the device. `medtrace.kernels.use` chooses between compiled loops and plain torch.

    Raises:
        TypeError: if an image is not a tensor of float32 or float64, the window not a `ParzenWindow` or the mask not a
            tensor.
        ValueError: if a shape is wrong, or the window has no room for its kernel.
        RuntimeError: from torch, when a second derivative is requested (there is none).

    Example:
        >>> from medtrace.losses import ParzenKernel
        >>> window = ParzenWindow(8, (-1.0, 1.0), ParzenKernel.CUBIC, 0.5)
        >>> joint = joint_histogram(torch.zeros(1, 5), torch.full((1, 5), 0.5), window)
        >>> joint.shape, round(float(joint.sum()), 5)
        (torch.Size([1, 8, 8]), 1.0)
    """
    _check_rows(x, y, window, mask)
    weights = None if mask is None else mask.detach().to(x.dtype)
    counts = parzen.counts(x, y, weights, window)
    if weights is None:
        return counts / x.shape[1]
    return counts / weights.sum(1, dtype=torch.float64)[:, None, None]


def _check_rows(x: Tensor, y: Tensor, window: ParzenWindow, mask: Tensor | None) -> None:
    """Check types and shapes: the compiled loops rely on them."""
    for name, value in (("x", x), ("y", y)):
        if not isinstance(value, Tensor) or value.dtype not in (torch.float32, torch.float64):
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"{name}: expected a tensor of float32 or float64, received {kind}; convert it first")
        if value.ndim != 2 or value.numel() == 0:
            raise ValueError(f"{name}: expected (rows, voxels), received shape {tuple(value.shape)}; flatten it")
    if (x.shape, x.dtype) != (y.shape, y.dtype):
        raise ValueError(f"y: expected {x.dtype} {tuple(x.shape)} as x, received {y.dtype} {tuple(y.shape)}")
    if not isinstance(window, ParzenWindow):
        raise TypeError(f"window: expected a ParzenWindow, received {type(window).__name__}")
    if window.cells < 1 or not window.value_range[0] < window.value_range[1]:
        raise ValueError(f"window: expected bins for its kernel and an increasing range, received {window}")
    if mask is not None and not isinstance(mask, Tensor):
        raise TypeError(f"mask: expected a torch tensor, received {type(mask).__name__}; convert it first")
    if mask is not None and mask.shape != x.shape:
        raise ValueError(f"mask: expected the shape of x {tuple(x.shape)}, received {tuple(mask.shape)}")
