"""Whether a deformation is borne out where it was not sought: in blocks that were left out of the registration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from medtrace.fields import invert, warp
from medtrace.kernels.greedy import operations
from medtrace.kernels.greedy_interface import inner_shape
from medtrace.kernels.similarity_torch import LEAST_WEIGHT, box_sum
from medtrace.registration.deformable import Deformable, Deformation, deform
from medtrace.registration.scaling import scaled
from medtrace.registration.working import Working

EDGE = 14
"""Voxels of a block's edge."""
RADIUS, FLOOR = 3, 1e-3
"""Of the windows of local correlation, and of their variance."""
SMOOTHING = 6.0
"""Standard deviation in voxels of the Gaussian over which two fields are compared."""
STRICTNESS = 2.0
"""How many times the variance between the two fields is taken off their common energy."""
CERTAIN, WEAK = 2.0, 1.0
"""Standard errors by which the gain must exceed 0 to be sure, and for the deformation to be kept at all."""


class Evidence(NamedTuple):
    """What the blocks that were left out say of a deformation."""

    gain: float
    """Mean rise of the squared local correlation in them, by a deformation that did not see them."""
    error: float
    """Its standard error, over blocks."""
    blocks: int
    kept: float
    """Fraction of the deformation's energy that is kept: where two fields, each of one half of the image, differ, it
    is made smaller."""

    @property
    def grade(self) -> str:
        """ "PASS", "WARN" where the gain is within two standard errors, or "NONE" where nothing moves measurably."""
        if not self.gain > WEAK * self.error:
            return "NONE"
        return "PASS" if self.gain > CERTAIN * self.error else "WARN"


def supported(pair: Working, deformation: Deformation, settings: Deformable) -> tuple[Deformation, Evidence]:
    """Keep of a deformation what can be found in either half of the image alone.

    The image is cut into blocks like a chessboard. The deformation is sought twice more, without the white and without
    the black blocks. Each of the two fields is assessed in the blocks that it did not see (`Evidence.gain`); where they
    differ, the deformation shrinks by w = max(0, 1 − k·|u₁ − u₂|² / |u₁ + u₂|²), energies being smoothed. If the gain
    is not above its standard error, nothing is kept.

    Args:
        pair: the images on the working grid.
        deformation: of them.
        settings: that it was found with.

    Returns:
        The deformation that is kept, and what there is for it.
    """
    content = pair.content.float() * (1 - pair.mask)
    blocks, white = _chessboard(pair.fixed.shape[1:], EDGE)
    fields, halves = [], (white, 1 - white)
    for left_out in halves:
        mask = torch.maximum(pair.mask, left_out)
        if not bool(((1 - mask) * content > 0).any()) or not bool((left_out * content > 0).any()):
            return deformation, Evidence(math.inf, 0.0, 0, 1.0)  # too small to be halved
        found = deform(
            pair.moving, pair.fixed, spacing=pair.spacing, mask=mask, moving_mask=pair.moving_mask, settings=settings
        )
        fields.append(found.ddf)
    gain, error, count = _gain(pair, fields, [half * content for half in halves], blocks)
    if not gain > WEAK * error:
        still = torch.zeros_like(deformation.ddf)
        return Deformation(still, still, 0.0, deformation.levels, 0, 0), Evidence(gain, error, count, 0.0)
    ddf = deformation.ddf * _agreement(*fields)
    before = float(deformation.ddf.square().sum())
    kept = float(ddf.square().sum()) / before if before > 0 else 1.0
    inverse = invert(ddf[None], tolerance=1e-3)
    folds = operations(ddf.shape[1:]).folded(operations(ddf.shape[1:]).field(ddf.contiguous()))[1]
    made = Deformation(
        ddf, inverse.ddf[0], float(inverse.residual[0]), deformation.levels, deformation.folds_mended, folds
    )
    return made, Evidence(gain, error, count, kept)


def _chessboard(shape: Sequence[int], edge: int) -> tuple[Tensor, Tensor]:
    """Number of each voxel's block (*shape), and 1 in the white ones (1, *shape)."""
    numbers = torch.zeros(tuple(shape), dtype=torch.long)
    color = torch.zeros(tuple(shape), dtype=torch.long)
    for axis, size in enumerate(shape):
        along = (torch.arange(size) // edge).reshape([-1 if k == axis else 1 for k in range(len(shape))])
        numbers = numbers * (size // edge + 1) + along
        color = color + along
    return numbers, (color % 2 == 0).float()[None]


def _gain(
    pair: Working, fields: Sequence[Tensor], weights: Sequence[Tensor], blocks: Tensor
) -> tuple[float, float, int]:
    """Mean rise of local correlation over blocks that a field did not see, its standard error, and their number."""
    fixed, moving = scaled(pair.fixed), scaled(pair.moving)
    rise, mass = torch.zeros(blocks.shape), torch.zeros(blocks.shape)
    for field, weight in zip(fields, weights):
        after, before = (_local(image, fixed, weight[0]) for image in (warp(moving[None], field[None])[0], moving))
        rise += weight[0] * (after - before)
        mass += weight[0]
    flat, count = blocks.flatten(), int(blocks.max()) + 1
    sums = [torch.bincount(flat, weights=values.flatten().double(), minlength=count) for values in (rise, mass)]
    weight = sums[1]
    used = weight > 0.05 * EDGE ** len(blocks.shape)
    if int(used.sum()) < 2:
        used = weight > 0
    mean, weight = sums[0][used] / weight[used], weight[used] / weight[used].sum()
    gain = float((mean * weight).sum())
    variance = float((weight.square() * (mean - gain).square()).sum())
    number = int(used.sum())
    return gain, math.sqrt(variance * number / max(number - 1, 1)), number


def _local(moving: Tensor, fixed: Tensor, weight: Tensor) -> Tensor:
    """Squared local correlation (*spatial), mean over channels, in windows that see nothing but weighted voxels."""
    part = weight.reshape(inner_shape(weight.shape))
    result = torch.zeros_like(part)
    for x, y in zip(moving, fixed):
        a, b = (image.reshape(part.shape) for image in (x, y))
        n, sa, sb, saa, sbb, sab = box_sum(
            torch.stack([part, a * part, b * part, a * a * part, b * b * part, a * b * part]), RADIUS
        )
        per = 1 / n.clamp_min(LEAST_WEIGHT)
        spread = [
            (square - one * one * per).clamp_min(0) + FLOOR * n.clamp_min(1) for one, square in ((sa, saa), (sb, sbb))
        ]
        result += (sab - sa * sb * per).square() / (spread[0] * spread[1])
    return result.reshape(weight.shape) / len(fixed)


def _agreement(first: Tensor, second: Tensor) -> Tensor:
    """Fraction (1, *spatial) of a displacement that two estimates of it bear out."""
    apart = (first - second).square().sum(0)
    common = (first + second).square().sum(0)
    ops = operations(apart.shape)
    wide = tuple(SMOOTHING if size > 1 else 0.0 for size in apart.shape)

    def smooth(values: Tensor, widths: tuple[float, ...]) -> Tensor:
        return ops.tensor(ops.smooth(ops.volume(values.contiguous()), widths)[0])

    fraction = (1 - STRICTNESS * smooth(apart, wide) / smooth(common, wide).clamp_min(1e-9)).clamp(0, 1)
    return smooth(fraction, tuple(width / 3 for width in wide))[None]
