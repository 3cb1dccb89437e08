"""A dead zone of fields: what is short is taken for no motion."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from medtrace.checks import check_field, check_whole


def dead_zone(field: Tensor, lower: float, upper: float, reach: int = 0) -> Tensor:
    """Set vectors shorter than `lower` to zero, leave those longer than `upper`, and shrink those between.

    In the manner of firm shrinkage (Gao and Bruce 1997), of a vector by its length: v · clamp((|v| − lower) /
    (upper − lower), 0, 1), whose length rises continuously from 0 at `lower` to |v| at `upper`, so that a smooth field
    stays continuous. The gradient passes through unchanged (straight-through), so that a vector within the zone
    continues to learn.

    With `reach` r above 0 the length that counts is the largest within r voxels along every axis: |v| in the factor is
    its maximum over a window of 2r + 1 voxels. Where a field ends, its short vectors beside long ones stay as they are,
    whereas as short a vector far from any long one goes, so that the zone may be wider.

    Args:
        field: (B, 2, H, W) or (B, 3, H, W, D), displacement or velocity in voxels.
        lower: end of the zone, in voxels, at least 0.
        upper: length from which on vectors are unchanged, in voxels; with 0 the field is returned as it is.
        reach: r, in voxels, at least 0.

    Returns:
        Of the same shape and type.

    Raises:
        TypeError, ValueError: if `field` is not a field, `lower` and `upper` do not satisfy 0 <= lower < upper, or
            `reach` is not a whole number from 0.

    Example:
        >>> import torch
        >>> short, between, long = torch.tensor([0.1, 0.3, 2.0])
        >>> field = torch.stack([short, between, long]).view(1, 1, 1, 3).expand(1, 2, 1, 3) * 0.5**0.5
        >>> dead_zone(field, 0.2, 0.4).norm(dim=1).flatten()
        tensor([0.0000, 0.1500, 2.0000])
        >>> dead_zone(field, 0.2, 0.4, reach=1).norm(dim=1).flatten()
        tensor([0.0500, 0.3000, 2.0000])
    """
    check_field("field", field)
    check_dead_zone((lower, upper))
    check_whole("reach", reach, minimum=0)
    if upper == 0:
        return field
    length = _largest(field.detach().norm(dim=1, keepdim=True), reach)
    kept = ((length - lower) / (upper - lower)).clamp(0, 1)
    result: Tensor = field + (field * (kept - 1)).detach()
    return result


def _largest(length: Tensor, reach: int) -> Tensor:
    """The maximum of (B, 1, *spatial) over 2·reach + 1 voxels along every axis, one axis after the other."""
    if reach == 0:
        return length
    axes = length.ndim - 2
    pool = F.max_pool2d if axes == 2 else F.max_pool3d
    for axis in range(axes):
        window, border = [1] * axes, [0] * axes
        window[axis], border[axis] = 2 * reach + 1, reach
        length = pool(length, window, stride=1, padding=border)
    return length


def check_dead_zone(zone: tuple[float, float]) -> None:
    """Check the ends of a dead zone.

    Raises:
        ValueError: unless 0 <= lower < upper, or both are 0.
    """
    lower, upper = zone
    if not (0 <= lower < upper < float("inf") or lower == upper == 0):
        raise ValueError(
            f"dead_zone: expected 0 <= lower < upper in voxels, or (0, 0) for none, received {tuple(zone)!r}"
        )
