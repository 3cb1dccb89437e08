"""Self-similarity descriptors, and their squared difference as a loss across contrasts."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.loss import _Loss

from medtrace.checks import check_batched, check_choice, check_finite, check_same_shape, check_whole
from medtrace.losses.masking import mask_weights

Offset = tuple[int, ...]
VARIANCE_RANGE = (1e-3, 1e3)
"""Fraction of an image's mean variance within which the local one is kept (as in the authors' later code)."""


def mind_ssc(image: Tensor, radius: int = 1, dilation: int = 1) -> Tensor:
    """Self-similarity context of every voxel (MIND-SSC; Heinrich et al., MICCAI 2013).

    For each pair of the six-neighborhood's voxels that lie at a right angle about the center (12 in 3D, 4 of the
    four-neighborhood in 2D), the distance D of the patches about the two: S = exp(−D / V), V being the mean of the
    distances. Structures that two contrasts show similarly have similar descriptors.

    Args:
        image: (B, 1, H, W) or (B, 1, H, W, D), finite, any range.
        radius: radius of the patches, box windows of 2·radius + 1 voxels.
        dilation: voxels from the middle to the neighbors.

    Returns:
        (B, 4, H, W) or (B, 12, H, W, D) in [0, 1], the largest entry of a voxel 1; float32, or float64 for float64.
        Beyond the border the border's voxels are repeated.

    Raises:
        TypeError: if the image is not a floating tensor.
        ValueError: if its shape or a number is wrong.

    Equation: S(x, i, j) = exp(−(D_ij − min D) / V), D_ij the mean squared difference of the patches at x + i and x + j,
    V the mean of D_ij − min D, kept within 0.001 and 1000 of its mean over the image. Deviation: the paper estimates V
    in the same neighborhood without subtracting the minimum distance; the authors' code for later work does.

    Example:
        >>> mind_ssc(torch.rand(1, 1, 16, 16)).shape, mind_ssc(torch.rand(1, 1, 8, 8, 8)).shape
        (torch.Size([1, 4, 16, 16]), torch.Size([1, 12, 8, 8, 8]))
    """
    dims = check_batched("image", image, channels=1)
    check_whole("radius", radius, 1)
    check_whole("dilation", dilation, 1)
    check_finite("image", image)
    values = image.as_subclass(Tensor)
    values = values if values.dtype == torch.float64 else values.float()
    with torch.autocast(values.device.type, enabled=False):
        padded = F.pad(values, (dilation,) * (2 * dims), mode="replicate")
        pool = F.avg_pool2d if dims == 2 else F.avg_pool3d
        distances = []
        for first, second in _pairs(dims):
            difference = _moved(padded, first, dilation) - _moved(padded, second, dilation)
            rim = F.pad(difference.square(), (radius,) * (2 * dims), mode="replicate")
            distances.append(pool(rim, 2 * radius + 1, 1))
        stacked = torch.cat(distances, 1)
        stacked = stacked - stacked.amin(1, keepdim=True)
        variance = stacked.mean(1, keepdim=True)
        mean = variance.flatten(1).mean(1).reshape(-1, *[1] * (dims + 1)).detach()
        low, high = (fraction * mean for fraction in VARIANCE_RANGE)
        variance = torch.minimum(torch.maximum(variance, low), high).clamp_min(torch.finfo(values.dtype).tiny)
        return torch.exp(-stacked / variance)


def _pairs(dims: int) -> list[tuple[Offset, Offset]]:
    """Pairs of neighbors on different axes."""
    neighbors = [tuple(side if axis == own else 0 for axis in range(dims)) for own in range(dims) for side in (-1, 1)]
    return [
        (first, second)
        for first, second in itertools.combinations(neighbors, 2)
        if all(a == 0 or b == 0 for a, b in zip(first, second))
    ]


def _moved(padded: Tensor, offset: Offset, dilation: int) -> Tensor:
    """The image at x + dilation · offset, from the image padded by `dilation`."""
    for axis, step in enumerate(offset, start=2):
        padded = padded.narrow(axis, dilation * (1 + step), padded.shape[axis] - 2 * dilation)
    return padded


class MINDLoss(_Loss):
    """Mean squared difference of the images' self-similarity contexts, see `mind_ssc`.

    Args:
        radius: radius of the patches.
        dilation: voxels from the middle to the neighbors.
        reduction: "mean" or "sum" over the batch, or "none" for one value per item (B,).

    Example:
        >>> image = torch.rand(1, 1, 16, 16)
        >>> round(float(MINDLoss()(1 - image, image)), 4)  # edges alone count, not which side is bright
        0.0
    """

    def __init__(
        self, radius: int = 1, dilation: int = 1, reduction: Literal["mean", "sum", "none"] | str = "mean"
    ) -> None:
        check_choice("reduction", reduction, ["mean", "sum", "none"])
        check_whole("radius", radius, 1)
        check_whole("dilation", dilation, 1)
        super().__init__(reduction=reduction)
        self.radius = radius
        self.dilation = dilation

    def forward(self, pred: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """Distance of two images (B, 1, H, W[, D]) within the optional mask of their shape."""
        check_batched("target", target)
        check_same_shape("pred", pred, "target", target)
        contexts = (mind_ssc(image, self.radius, self.dilation) for image in (pred, target))
        difference = (next(contexts) - next(contexts)).square().mean(1, keepdim=True)
        weight = torch.ones_like(difference) if mask is None else mask_weights(mask, difference)
        values = (difference * weight).flatten(1).sum(1) / weight.flatten(1).sum(1)
        if self.reduction == "none":
            return values
        return values.mean() if self.reduction == "mean" else values.sum()

    if TYPE_CHECKING:
        __call__ = forward

    def extra_repr(self) -> str:
        return f"radius={self.radius}, dilation={self.dilation}"
