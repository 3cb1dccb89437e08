"""The inside of a mask, whether drawn, resampled or labeled."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

ON_GRID = 0.02
"""Maximum offset of a mask or label map with a header rounded by another program, as a fraction of the smallest voxel
edge."""
FEW = 16
"""Maximum number of distinct integers of a mask that is always a label map."""
FULL_SCALES = (100.0, 255.0, 1000.0, 4095.0, 32767.0, 65535.0)
"""Maximum values with which a mask of a few integers may be one of scaled fractions."""
DUST = 1e-3
"""Largest value below which a mask contains only rounding errors."""
_RESTING, _EQUAL = 0.5, 0.6
"""Of the voxels below the largest value: those without a higher neighbor, and pairs of neighbors that are equal. Label
maps of up to 9 mm voxels have .72 and .97, resampled masks at most .15 and .42."""


class Inside(NamedTuple):
    """The inside of a mask, and the rule that determined it."""

    inside: Tensor
    """Boolean, of the shape of the values."""
    rule: str | None
    """In words; None where a mask has one positive value and the rest is 0."""


def inside_of(values: Tensor) -> Inside:
    """The voxels inside a mask.

    NaN and negative values are outside. With one positive value, that is inside. With several:

    - fractions (a probability map, a resampled mask): values below half of the largest value are outside;
    - up to 16 whole numbers (such as 1, 2, 4): a label map, of which every positive label is inside;
    - more of them, or 100, 255 or another full scale as the largest: a label map if at least half of the voxels below
      the largest value have no higher neighbor, or (of many) 60 % of these voxels' neighbors are equal, as in regions
      of an anatomical segmentation; else a resampled mask, whose rim rises from voxel to voxel.

    Args:
        values: (1, *spatial), or two or three axes alone.

    Returns:
        The voxels and the rule.

    Raises:
        ValueError: if a value is infinite, or no value reaches 0.001.

    Example:
        >>> inside_of(torch.tensor([[0.0, 0.1, 0.5, 1.0, float("nan")]])).inside.tolist()
        [[False, False, True, True, False]]
        >>> inside_of(torch.tensor([[0, 1, 2, 4]])).inside.tolist()
        [[False, True, True, True]]
    """
    numbers = values.detach().as_subclass(Tensor)
    if bool(torch.isposinf(numbers).any()) if numbers.is_floating_point() else False:
        raise ValueError("the mask holds infinity, which is neither inside nor outside; make it 0 and 1")
    positive = numbers > 0
    apart = " (NaN and negative values are outside)" if bool((~(numbers >= 0)).any()) else ""
    result = torch.unique(numbers[positive])
    if not len(result):
        return Inside(positive, f"a mask{apart}" if apart else None)
    largest = float(result[-1])
    if largest < DUST:
        raise ValueError(
            f"the mask's largest value is {largest:g}, as left by rounding in an empty mask; mark the foreground with"
            " 1, or leave it out"
        )
    if len(result) == 1:
        return Inside(positive, f"a mask of {largest:g}{apart}" if apart else None)
    if bool((result == result.round()).all()) and _is_label_map(numbers, positive, result):
        text = (
            f"a label map of {len(result)} labels ({float(result[0]):g} to {largest:g}) as a mask: every positive label"
        )
        return Inside(positive, f"{text} is inside{apart}")
    text = f"a mask of {len(result)} positive values: those below half of the largest, {largest / 2:g}, are outside"
    return Inside(numbers >= largest / 2, f"{text}{apart}")


def _is_label_map(numbers: Tensor, positive: Tensor, result: Tensor) -> bool:
    """Whether several whole numbers are labels: a few, or such as do not rise towards the largest as a rim does."""
    largest = float(result[-1])
    if len(result) <= FEW and largest not in FULL_SCALES:
        return True
    volume = numbers.float().reshape((*numbers.shape, 1, 1)[:4])
    lower = (positive & (numbers < largest)).reshape(volume.shape)
    highest_around = F.max_pool3d(volume[None], 3, stride=1, padding=1)[0]
    if int(((highest_around == volume) & lower).sum()) >= _RESTING * int(lower.sum()):
        return True
    return len(result) > FEW and _equal_neighbors(volume, lower) >= _EQUAL


def _equal_neighbors(volume: Tensor, region: Tensor) -> float:
    """Fraction of the pairs of neighbors in a region, both (1, X, Y, Z), whose values are equal."""
    pairs = equal = 0
    for axis in range(1, volume.ndim):
        count = volume.shape[axis] - 1
        both = region.narrow(axis, 0, count) & region.narrow(axis, 1, count)
        pairs += int(both.sum())
        equal += int((both & (volume.narrow(axis, 0, count) == volume.narrow(axis, 1, count))).sum())
    return equal / max(pairs, 1)
