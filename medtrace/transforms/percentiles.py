"""Exact percentiles of large images, and the piecewise-linear map between two sets of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..kernels import threads
from .histogram_kernels import bend, count_buckets, take_buckets

_SIGN = 1 << 15  # the sign among a float32's leading 16 bits


def percentiles_of(values: Tensor, percents: Sequence[float]) -> list[float]:
    """Percentiles by linear interpolation between order statistics, as `numpy.percentile` defines them.

    Args:
        values: finite numbers, any shape, at least one.
        percents: percentages in [0, 100].

    Returns:
        One number per percentage.
    """
    flat = values.detach().reshape(-1)
    positions = [percent / 100 * (flat.numel() - 1) for percent in percents]
    floors = [int(position) for position in positions]
    ranks = sorted({rank for low in floors for rank in (low, min(low + 1, flat.numel() - 1))})
    found = dict(zip(ranks, _order_statistics(flat, ranks)))
    return [
        found[low] + (position - low) * (found[min(low + 1, flat.numel() - 1)] - found[low])
        for position, low in zip(positions, floors)
    ]


def piecewise_linear(values: Tensor, knots: Sequence[float], images: Sequence[float]) -> Tensor:
    """Map `values` by the line through the points (knots, images), the end pieces going on beyond the ends.

    Args:
        values: any shape, float32 or float64.
        knots: strictly increasing, at least two.
        images: where each knot goes.

    Returns:
        The mapped values, in the shape and dtype of `values`.
    """
    x, y = np.asarray(knots, np.float64), np.asarray(images, np.float64)
    slopes = np.diff(y) / np.diff(x)
    if values.device.type != "cpu":
        tables = (x[1:-1], x[:-1], slopes, y[:-1])
        bounds, firsts, rates, bases = (values.new_tensor(table) for table in tables)
        index = torch.bucketize(values, bounds, right=True)
        return (values - firsts[index]) * rates[index] + bases[index]
    source = values.detach().contiguous().numpy().reshape(-1)
    mapped = np.empty_like(source)
    # Hinges at the inner knots; the first piece's line goes through the first point.
    settings = (source, mapped, x[1:-1], np.diff(slopes), y[0] - slopes[0] * x[0], slopes[0])
    threads.run(partial(bend, *settings), threads.pieces(source.size, source.size))
    return torch.from_numpy(mapped.reshape(values.shape))


def _order_statistics(flat: Tensor, ranks: Sequence[int]) -> list[float]:
    """The elements that would stand at `ranks` (increasing) if `flat` were sorted."""
    if flat.device.type != "cpu":
        return [float(value) for value in flat.sort().values[list(ranks)]]
    array = flat.numpy()
    if array.dtype != np.float32:
        return [float(value) for value in np.partition(array, list(ranks))[list(ranks)]]
    return _bucketed_order_statistics(np.ascontiguousarray(array), np.asarray(ranks))


def _ascending(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The leading 16 bits that occur, in the order of the numbers, negative ones backwards; and how often each does."""
    used = np.flatnonzero(counts)
    order = np.concatenate([used[used >= _SIGN][::-1], used[used < _SIGN]])
    return order, counts[order]


def _bucketed_order_statistics(array: np.ndarray, ranks: np.ndarray) -> list[float]:
    """Order statistics of float32 numbers: count the leading 16 bits, sort only the buckets that hold a rank.

    The bits of a positive float sort like the float itself, those of a negative one the other way round, so the
    buckets are in order whatever the range or the outliers. Sorting a few per cent of the voxels is many times quicker
    than sorting all.
    """
    lowest = array.min()  # a background of one value, often half of the image, needs no sorting
    bits, common = array.view(np.uint32), np.float32(lowest).view(np.uint32)
    ranges = threads.pieces(array.size, array.size)
    counts = np.zeros((len(ranges), 1 << 16), np.int64)
    ties: list[int] = []

    def count(begin: int, end: int) -> None:
        ties.append(count_buckets(bits, common, counts[ranges.index((begin, end))], begin, end))

    threads.run(count, ranges)
    order, sizes = _ascending(counts.sum(axis=0))
    ends, smallest = np.cumsum(sizes), sum(ties)
    above = ranks[ranks >= smallest] - smallest
    buckets = np.searchsorted(ends, above, side="right")
    chosen = np.zeros(sizes.size, bool)
    chosen[buckets] = True
    kept = np.cumsum(np.where(chosen, sizes, 0))
    wanted = np.zeros(1 << 16, bool)
    wanted[order[buckets]] = True
    parts: list[np.ndarray] = []

    def take(begin: int, end: int) -> None:
        own = counts[ranges.index((begin, end))]
        taken = np.empty(int(own[wanted].sum()), np.uint32)
        take_buckets(bits, common, wanted, taken, begin, end)
        parts.append(taken)

    threads.run(take, ranges)
    inside = np.concatenate(parts).view(np.float32)
    inside.sort()
    found = inside[above - (ends[buckets] - kept[buckets])]
    return [float(lowest)] * (len(ranks) - len(above)) + [float(value) for value in found]
