"""A pair of images read at the same random positions between voxels, so that interpolation favors neither."""

from __future__ import annotations

import torch
from torch import Tensor

from medtrace.checks import check_field
from medtrace.fields import warp


def sub_voxel_pair(
    source: Tensor, ddf: Tensor, target: Tensor, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """A warped source and its target, both read at p + s, with one random shift s of each pair.

    Linear interpolation removes noise, most of all halfway between voxels. A similarity of x∘φ and y, with y read at
    its voxels, rewards that: a shift of a tenth of a voxel raises NMI where nothing has moved. Read at p + s, both
    images are interpolated in the same way where φ(p) = p, and on average over s a constant drift scores no better than
    none.

    Args:
        source: x, (B, C, *spatial).
        ddf: u of φ = Id + u, (B, spatial_dims, *spatial) in voxels.
        target: y, (B, C', *spatial).
        generator: generator of the shifts, on the CPU; None is torch's global one.

    Returns:
        x(p + s + u(p + s)) and y(p + s), s uniform in [−½, ½] voxel along each axis.

    Raises:
        TypeError, ValueError: if `ddf` is not a field, or the images are not on its grid.

    Example:
        >>> image = torch.rand(1, 1, 8, 8)
        >>> moving, fixed = sub_voxel_pair(image, torch.zeros(1, 2, 8, 8), image)
        >>> bool(torch.equal(moving, fixed))  # what does not move is interpolated alike
        True
    """
    spatial_dims = check_field("ddf", ddf)
    drawn = torch.rand(len(ddf), spatial_dims, *[1] * spatial_dims, generator=generator) - 0.5
    shift = drawn.to(ddf).expand_as(ddf).contiguous()
    return warp(source, shift + warp(ddf, shift)), warp(target, shift)
