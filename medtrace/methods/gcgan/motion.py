"""The motions f that a translator has to commute with, each with its inverse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from medtrace.fields import exponentiate, warp

MotionName = Literal["quarter_turn", "flip", "deformation"]


class Motion(NamedTuple):
    """A change of where things are."""

    forward: Callable[[Tensor], Tensor]
    """f, of images (B, C, *spatial)."""
    inverse: Callable[[Tensor], Tensor]
    """f⁻¹."""


def quarter_turn() -> Motion:
    """By 90° in the plane of the first two spatial axes, whose sizes change places.

    Example:
        >>> motion = quarter_turn()
        >>> motion.forward(torch.zeros(1, 1, 4, 6)).shape
        torch.Size([1, 1, 6, 4])
    """
    return Motion(lambda image: image.rot90(1, (2, 3)), lambda image: image.rot90(-1, (2, 3)))


def flip() -> Motion:
    """Of the second spatial axis: upside down, as images are shown."""
    return Motion(lambda image: image.flip(3), lambda image: image.flip(3))


def random_deformation(like: Tensor, voxels: float, spacing: float) -> Motion:
    """The flow of a smooth random velocity, another for each item, and its inverse, the flow of minus the velocity.

    Args:
        like: images (B, C, *spatial) whose grid, type and device it takes.
        voxels: standard deviation of the velocity at its control points, per axis.
        spacing: voxels between control points, between which the velocity is linear.

    Example:
        >>> image = torch.rand(2, 1, 16, 16)
        >>> motion = random_deformation(image, voxels=1.0, spacing=8.0)
        >>> motion.inverse(motion.forward(image)).shape
        torch.Size([2, 1, 16, 16])
    """
    shape = like.shape[2:]
    points = [max(2, round(size / spacing) + 1) for size in shape]
    drawn = voxels * torch.randn(len(like), len(shape), *points, device=like.device)
    mode = "bilinear" if len(shape) == 2 else "trilinear"
    velocity = F.interpolate(drawn, size=shape, mode=mode, align_corners=True)
    there, back = exponentiate(velocity), exponentiate(-velocity)
    return Motion(lambda image: warp(image, there), lambda image: warp(image, back))
