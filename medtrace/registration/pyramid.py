"""The resolutions of a registration: block means of images, and fields resampled from one to the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

LEAST_SIZE = 12
"""Voxels that the longest axis keeps at the coarsest resolution."""


class Step(NamedTuple):
    """One resolution."""

    factor: tuple[int, ...]
    """Full-resolution voxels per voxel of this resolution, per axis; powers of 2."""
    iterations: int


def pyramid(shape: Sequence[int], spacing: Sequence[float], iterations: Sequence[int]) -> list[Step]:
    """Resolutions from coarse to fine; the last is the full one.

    Args:
        shape: spatial shape of the full resolution.
        spacing: mm per axis; axes with large voxels are halved later than those with small ones, and short axes less
            often.
        iterations: per resolution, coarse to fine; coarse ones that the shape is too small for are left out.

    Example:
        >>> [step.factor for step in pyramid((64, 64), (1.0, 1.0), (100, 50, 25))]
        [(4, 4), (2, 2), (1, 1)]
    """
    steps: list[Step] = []
    for halvings, count in enumerate(reversed(iterations)):
        edge = min(spacing) * 2**halvings
        factor = tuple(_halved(size, length, edge) for size, length in zip(shape, spacing))
        if halvings and (max(-(-size // own) for size, own in zip(shape, factor)) < LEAST_SIZE):
            break
        if steps and factor == steps[-1].factor:
            break
        steps.append(Step(factor, count))
    return steps[::-1]


def _halved(size: int, length: float, edge: float) -> int:
    factor = 1
    while length * factor * 1.5 < edge and size >= 4 * factor:
        factor *= 2
    return factor


def shrink(image: Tensor, factor: Sequence[int]) -> Tensor:
    """Means of blocks of an image (C, *spatial), repeating the border where a block is incomplete."""
    if max(factor) == 1:
        return image
    pads: list[int] = []
    for size, own in reversed(list(zip(image.shape[1:], factor))):
        pads += [0, -size % own]
    padded = F.pad(image[None], pads, mode="replicate") if any(pads) else image[None]
    pool = F.avg_pool2d if len(factor) == 2 else F.avg_pool3d
    return pool(padded, tuple(factor))[0]


def enlarge(field: Tensor, factor: Sequence[int], finer: Sequence[int], shape: Sequence[int]) -> Tensor:
    """A displacement (D, *spatial) of one resolution, interpolated linearly on a finer one, in its voxels.

    Args:
        field: in voxels of its resolution.
        factor: of its resolution.
        finer: of the other.
        shape: shape of the full resolution.
    """
    ratio = [old // new for old, new in zip(factor, finer)]
    mode = "bilinear" if len(ratio) == 2 else "trilinear"
    wide = F.interpolate(field[None], scale_factor=[float(r) for r in ratio], mode=mode, align_corners=False)[0]
    for axis, (size, own) in enumerate(zip(shape, finer), start=1):
        wide = wide.narrow(axis, 0, -(-size // own))
    return wide * torch.tensor(ratio, dtype=field.dtype, device=field.device).reshape(-1, *[1] * len(ratio))
