"""Loops of histogram standardization, compiled: counting the voxels of an image, and mapping them."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..kernels.compiling import compiled

_BLOCK = 1024  # voxels that stay in the first-level cache
_FEW = 8  # voxels compared at once
_LOW = np.uint32(16)  # bits of a float32 below its bucket


@compiled
def count_buckets(bits: Any, common: Any, counts: Any, begin: int, end: int) -> int:
    """Count voxels begin … end − 1 by bucket, their leading 16 bits, those equal to `common` apart.

    Args:
        bits: (N,) uint32, float32 numbers as they are stored.
        common: uint32, bits of a number that many voxels have, such as the background's.
        counts: (65536,) int64, added to.
        begin, end: which voxels.

    Returns:
        How many voxels have the common number.
    """
    ties = 0
    whole = begin + (end - begin) // _FEW * _FEW
    for first in range(begin, whole, _FEW):
        different = np.uint32(0)
        for i in range(_FEW):
            different = np.uint32(different | (bits[first + i] ^ common))
        if different == 0:  # most of a background
            ties += _FEW
            continue
        for i in range(_FEW):
            one = bits[first + i]
            if one == common:
                ties += 1
            else:
                counts[one >> _LOW] += 1
    for voxel in range(whole, end):
        one = bits[voxel]
        if one == common:
            ties += 1
        else:
            counts[one >> _LOW] += 1
    return ties


@compiled
def take_buckets(bits: Any, common: Any, wanted: Any, taken: Any, begin: int, end: int) -> int:
    """Copy the voxels of the wanted buckets, those equal to `common` left out; how many there are.

    Args:
        bits, common, begin, end: as in `count_buckets`.
        wanted: (65536,) bool.
        taken: (M,) uint32, long enough; written from the start.
    """
    count = 0
    for voxel in range(begin, end):
        one = bits[voxel]
        if one != common and wanted[one >> _LOW]:
            taken[count] = one
            count += 1
    return count


@compiled
def bend(source: Any, mapped: Any, knots: Any, bends: Any, base: float, rate: float, begin: int, end: int) -> None:
    """Write base + rate · x + Σ_k bends_k · max(x − knots_k, 0) of the voxels begin … end − 1, in float64.

    A piecewise-linear map as a sum of hinges has no branches, so several voxels are processed at once.
    """
    values, results = np.empty(_BLOCK), np.empty(_BLOCK)
    for first in range(begin, end, _BLOCK):
        count = min(_BLOCK, end - first)
        for i in range(count):
            values[i] = source[first + i]
            results[i] = base + rate * values[i]
        for k in range(knots.size):
            knot, slope = knots[k], bends[k]
            for i in range(count):
                beyond = values[i] - knot
                results[i] += slope * (beyond if beyond > 0 else 0.0)
        for i in range(count):
            mapped[first + i] = results[i]
