"""Exact percentiles of large images, and the piecewise-linear map between two sets of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..kernels import threads
from .histogram_kernels import bend, count_buckets, take_buckets

_SIGN = 1 << 15  # the sign among a float32's leading 16 bits
_SAMPLE = 64  # voxels


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
    result = dict(zip(ranks, _order_statistics(flat, ranks)))
    return [
        result[low] + (position - low) * (result[min(low + 1, flat.numel() - 1)] - result[low])
        for position, low in zip(positions, floors)
    ]


def piecewise_linear(values: Tensor, knots: Sequence[float], images: Sequence[float]) -> Tensor:
    """Map `values` by the line through the points (knots, images), the end pieces continuing beyond the ends.

    Args:
        values: any shape, float32 or float64.
        knots: strictly increasing, at least two.
        images: value of each knot.

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


def _bucketed_order_statistics(array: np.ndarray, ranks: np.ndarray) -> list[float]:
    """Order statistics of float32 numbers: count the leading 16 bits, sort only the buckets that hold a rank.

    Sorting a few percent of the voxels is many times faster than sorting all. Voxels with one frequent value, often
    half of the image, are only counted.
    """
    frequent = _frequent(array)
    bits, common = array.view(np.uint32), frequent.view(np.uint32)
    counts, ties = _count(bits, common)
    order, sizes = _ascending(counts.sum(axis=0))
    ends = np.cumsum(sizes)
    own = order == common >> 16  # the frequent value's bucket, whose others may be on either side of it
    below = int(sizes[_places(order) < _places(common >> 16)].sum())
    unmoved, moved = ranks[ranks < below + sizes[own].sum()], ranks[ranks - ties >= below] - ties
    kept = own.copy()
    kept[np.searchsorted(ends, np.concatenate([unmoved, moved]), side="right")] = True
    inside = _take(bits, common, counts, order[kept])
    starts = np.cumsum(np.where(kept, sizes, 0)) - sizes  # of each kept bucket in `inside`
    if own.any():
        first = int(starts[own][0])
        below += int(np.count_nonzero(inside[first : first + int(sizes[own][0])] < frequent))
    result = np.full(ranks.size, frequent)
    for chosen, others in ((ranks < below, ranks), (ranks >= below + ties, ranks - ties)):
        buckets = np.searchsorted(ends, others[chosen], side="right")
        result[chosen] = inside[others[chosen] - (ends - sizes)[buckets] + starts[buckets]]
    return [float(value) for value in result]


def _frequent(array: np.ndarray) -> np.float32:
    """The most frequent value among some voxels, that of the background if there is one."""
    values, times = np.unique(array[:: max(1, array.size // _SAMPLE)], return_counts=True)
    return np.float32(values[np.argmax(times)])


def _count(bits: np.ndarray, common: np.uint32) -> tuple[np.ndarray, int]:
    """How often each leading 16 bits occur among numbers other than `common`, (threads, 65536); how many are that."""
    ranges = threads.pieces(bits.size, bits.size)
    counts = np.zeros((len(ranges), 2 * _SIGN), np.int64)
    ties: list[int] = []

    def count(begin: int, end: int) -> None:
        ties.append(count_buckets(bits, common, counts[ranges.index((begin, end))], begin, end))

    threads.run(count, ranges)
    return counts, sum(ties)


def _take(bits: np.ndarray, common: np.uint32, counts: np.ndarray, buckets: np.ndarray) -> np.ndarray:
    """The numbers of some buckets but for `common`, sorted; `counts` is of the same threads."""
    ranges = threads.pieces(bits.size, bits.size)
    wanted = np.zeros(2 * _SIGN, bool)
    wanted[buckets] = True
    parts: list[np.ndarray] = []

    def take(begin: int, end: int) -> None:
        taken = np.empty(int(counts[ranges.index((begin, end))][buckets].sum()), np.uint32)
        take_buckets(bits, common, wanted, taken, begin, end)
        parts.append(taken)

    threads.run(take, ranges)
    inside: np.ndarray = np.concatenate(parts).view(np.float32)
    inside.sort()
    return inside


def _ascending(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The leading 16 bits that occur, in the order of the numbers, and how often each does."""
    used = np.flatnonzero(counts)
    order = used[np.argsort(_places(used))]
    return order, counts[order]


def _places(leading: Any) -> Any:
    """Where leading 16 bits stand in the order of the numbers: the bits of negative ones fall as these rise."""
    return np.where(leading < _SIGN, leading + _SIGN, 2 * _SIGN - 1 - leading)
