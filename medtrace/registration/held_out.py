"""Validation of a deformation in blocks held out of the registration."""

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
from medtrace.registration.unfolding import unfold
from medtrace.registration.working import Working

EDGE = 10
"""Voxels of a block's edge."""
RADIUS, FLOOR = 3, 1e-3
"""Radius of the windows of local correlation, and floor of their variance."""
SMOOTHING = 6.0
"""Standard deviation in voxels of the Gaussian over which the gain in similarity is averaged."""
ENOUGH = 0.04
"""Local gain in squared correlation above which a deformation is kept unchanged; below it shrinks, and at 0 it
vanishes. Together with EDGE and SMOOTHING set on TraceBench's validation cases (96²; 8 of `postop` and 8 of
`metamorphic`)."""
CERTAIN = 2.0
"""Standard errors by which the gain must exceed 0 to be sure."""
LITTLE = 0.01
"""Fraction of a deformation's energy below which nothing is kept."""


class Evidence(NamedTuple):
    """The evidence of held-out blocks for a deformation."""

    gain: float
    """Mean gain in squared local correlation in them, by a deformation that did not see them."""
    error: float
    """Its standard error, over blocks."""
    blocks: int
    kept: float
    """Fraction of the deformation's energy that is kept."""

    @property
    def grade(self) -> str:
        """PASS, WARN where the gain is within two standard errors, or NONE where nothing moves measurably."""
        if not (self.gain > 0 and self.kept > 0):
            return "NONE"
        return "PASS" if self.gain > CERTAIN * self.error else "WARN"


def supported(pair: Working, deformation: Deformation, settings: Deformable) -> tuple[Deformation, Evidence]:
    """Keep the part of a deformation that is confirmed in held-out blocks.

    The image is cut into blocks like a chessboard. The deformation is estimated twice more, without the white and
    without the black blocks, and each of the two is assessed in the blocks that it did not see, by the squared local
    correlation in windows limited to them. Where the gain is too small, on a Gaussian average, the deformation shrinks;
    if there is no gain anywhere, or none on average, nothing is kept.

    Args:
        pair: the images on the working grid.
        deformation: deformation of them.
        settings: the settings that it was estimated with.

    Returns:
        The kept deformation, and the evidence for it.
    """
    content = pair.content.float() * (1 - pair.mask)
    blocks, white = _chessboard(pair.fixed.shape[1:], EDGE)
    fields, weights = [], []
    for left_out in (white, 1 - white):
        mask = torch.maximum(pair.mask, left_out)
        if not bool(((1 - mask) * content > 0).any()) or not bool((left_out * content > 0).any()):
            return deformation, Evidence(math.inf, 0.0, 0, 1.0)  # too small to be halved
        found = deform(
            pair.moving, pair.fixed, spacing=pair.spacing, mask=mask, moving_mask=pair.moving_mask, settings=settings
        )
        fields.append(found.ddf)
        weights.append(left_out * content)
    rise, mass = _rise(pair, fields, weights)
    gain, error, count = _over_blocks(rise, mass, blocks)
    local = _smooth(rise, SMOOTHING) / _smooth(mass, SMOOTHING).clamp_min(1e-3)
    ddf = deformation.ddf * _smooth((local / ENOUGH).clamp(0, 1), SMOOTHING / 2)
    before = float(deformation.ddf.square().sum())
    kept = float(ddf.square().sum()) / before if before > 0 else 0.0
    if not (gain > 0 and kept >= LITTLE):
        still = torch.zeros_like(deformation.ddf)
        return Deformation(still, still, 0.0, deformation.levels, 0, 0), Evidence(gain, error, count, 0.0)
    ddf, mended, folds = unfold(ddf, settings.unfolding)
    inverse = invert(ddf[None], tolerance=1e-3)
    made = Deformation(ddf, inverse.ddf[0], float(inverse.residual[0]), deformation.levels, mended, folds)
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


def _rise(pair: Working, fields: Sequence[Tensor], weights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The gain in local correlation by the fields, times each voxel's weight, and that weight."""
    fixed, moving = scaled(pair.fixed), scaled(pair.moving)
    rise, mass = torch.zeros(fixed.shape[1:]), torch.zeros(fixed.shape[1:])
    for field, weight in zip(fields, weights):
        after, before = (_local(image, fixed, weight[0]) for image in (warp(moving[None], field[None])[0], moving))
        rise += weight[0] * (after - before)
        mass += weight[0]
    return rise, mass


def _over_blocks(rise: Tensor, mass: Tensor, blocks: Tensor) -> tuple[float, float, int]:
    """Mean gain over blocks, weighted by their content, its standard error, and their number."""
    flat, count = blocks.flatten(), int(blocks.max()) + 1
    sums, weight = (torch.bincount(flat, weights=values.flatten().double(), minlength=count) for values in (rise, mass))
    used = weight > 0.05 * EDGE ** len(blocks.shape)
    if int(used.sum()) < 2:
        used = weight > 0
    mean, weight = sums[used] / weight[used], weight[used] / weight[used].sum()
    gain, number = float((mean * weight).sum()), int(used.sum())
    variance = float((weight.square() * (mean - gain).square()).sum())
    return gain, math.sqrt(variance * number / max(number - 1, 1)), number


def _smooth(values: Tensor, sigma: float) -> Tensor:
    """A volume (*spatial) filtered by a Gaussian of a width in voxels."""
    ops = operations(values.shape)
    widths = tuple(sigma if size > 1 else 0.0 for size in values.shape)
    return ops.tensor(ops.smooth(ops.volume(values.clone().contiguous()), widths)[0])


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
