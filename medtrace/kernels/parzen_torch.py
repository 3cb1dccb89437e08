"""Joint histograms and their gradients in plain torch, on any device.

A window of finite support touches a handful of bins, so a pair of voxels adds `w_i(f_x) · w_j(f_y)` to the few bins
around its position. The cubic window's weights are polynomials of the position t within a *cell* (a pair of bin
intervals), counted from its middle. So it is enough to sum the 16 products of powers `t_x^a · t_y^b` per cell, and to
combine these moments into bins at the end: the sum is the same. Its gradient is a bicubic polynomial per cell, looked
up per voxel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from medtrace.kernels.parzen_window import CUBIC_POWERS, ParzenKernel, ParzenWindow

CHUNK = 1 << 16
"""Voxel pairs handled at once on a CPU, or two per cell: the intermediate numbers are to stay in its cache."""

DEVICE_CHUNK = 1 << 19
"""Voxel pairs handled at once elsewhere: large enough to keep an accelerator busy."""

TABLE = 1 << 17
"""Cells of a group of rows at most, where the group has more than one row."""


def counts(x: Tensor, y: Tensor, mask: Tensor | None, window: ParzenWindow) -> Tensor:
    """Unnormalized joint histograms of x and y.

    Args:
        x: first image, (rows, voxels), float32 or float64, contiguous like all that follows.
        y: second image, the same shape and type.
        mask: weights of the voxels, (rows, voxels), or None.
        window: bins and kernel.

    Returns:
        (rows, bins, bins) in float64. On a CPU products are added in the order of the voxels. Elsewhere they are
        added as whole numbers, for which the order does not matter: the same input gives the same bytes.
    """
    histogram = torch.zeros((x.shape[0], window.num_bins, window.num_bins), dtype=torch.float64, device=x.device)
    spread = _spread_moments if window.kernel is ParzenKernel.CUBIC else _spread_weights
    for group in _row_groups(x, window):
        sums = _cell_sums(x[group], y[group], None if mask is None else mask[group], window)
        spread(sums, histogram[group])
    return histogram


def gradients(
    x: Tensor, y: Tensor, mask: Tensor | None, table: Tensor, window: ParzenWindow, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    """Gradients by x and y, given the gradient by the unnormalized histogram.

    Args:
        x: first image, (rows, voxels), float32 or float64, contiguous like all that follows.
        y: second image, the same shape and type.
        mask: weights of the voxels, (rows, voxels), or None.
        table: the gradient by the histogram, (rows, bins, bins), float64.
        window: bins and kernel.
        wanted: whether the gradients by x and by y are requested.

    Returns:
        Both, (rows, voxels), in the images' type; one that is not wanted has shape (0,).
    """
    results = tuple(x.new_empty(x.shape if wish else (0,)) for wish in wanted)
    cubic = window.kernel is ParzenKernel.CUBIC
    for group in _row_groups(x, window):
        entries = _polynomials(table[group], x.dtype) if cubic else _patches(table[group], window, x.dtype)
        for columns in _column_chunks(x, window):
            a, b = x[group, columns], y[group, columns]
            parts = _cubic_look_up(a, b, entries, window) if cubic else _look_up(a, b, entries, window, wanted)
            factor: float | Tensor = window.scale
            if mask is not None:
                factor = mask[group, columns] * window.scale
            for result, part in zip(results, parts):
                if result.numel():
                    torch.mul(part.view(a.shape), factor, out=result[group, columns])
    return results[0], results[1]


def _chunk(device: torch.device, window: ParzenWindow) -> int:
    return max(CHUNK, 2 * window.cells**2) if device.type == "cpu" else DEVICE_CHUNK


def _row_groups(x: Tensor, window: ParzenWindow) -> Iterator[slice]:
    """Groups of whole rows of at most a chunk of voxels and TABLE cells, or single larger rows."""
    rows, voxels = x.shape
    step = max(1, min(_chunk(x.device, window) // voxels, TABLE // window.cells**2))
    return (slice(row, min(rows, row + step)) for row in range(0, rows, step))


def _column_chunks(x: Tensor, window: ParzenWindow) -> Iterator[slice]:
    voxels, step = x.shape[1], _chunk(x.device, window)
    return (slice(column, min(voxels, column + step)) for column in range(0, voxels, step))


def _cell_index(cell_x: Tensor, cell_y: Tensor, cells: int) -> Tensor:
    """Index of every voxel's cell in the tables of its group of rows."""
    index = cell_x.mul_(cells).add_(cell_y)
    if index.shape[0] > 1:
        index += torch.arange(index.shape[0], device=index.device).mul_(cells * cells)[:, None]
    return index.view(-1)


def _cell_sums(x: Tensor, y: Tensor, mask: Tensor | None, window: ParzenWindow) -> Tensor:
    """Sums per cell of every product of a factor of x with one of y, (size, size, rows, cells, cells) in float64.

    The factors are the powers 0 to 3 of the position in the cell (cubic), or the weights of the bins.
    """
    rows, voxels = x.shape
    cells, size = window.cells, 2 * window.radius
    whole = _adds_whole_numbers(x.device)
    sums = torch.zeros(
        (size, size, rows * cells * cells), dtype=torch.int64 if whole else torch.float64, device=x.device
    )
    unit: Tensor | None = None
    if whole:  # factors are at most 1, so that no sum of `voxels` of their products reaches 2⁶²
        most = x.new_ones(rows, dtype=torch.float64) if mask is None else mask.amax(1).double()
        unit = (2.0 ** (61 - math.ceil(math.log2(voxels))) / most)[:, None]
    for columns in _column_chunks(x, window):
        cell_x, fraction_x = window.locate(x[:, columns].double())
        cell_y, fraction_y = window.locate(y[:, columns].double())
        index = _cell_index(cell_x, cell_y, cells)
        factors_x, factors_y = _factors(fraction_x, window), _factors(fraction_y, window)
        if mask is not None:
            weight = mask[:, columns].double()
            factors_x = [factor.mul_(weight) for factor in factors_x]
        if unit is not None:
            factors_x = [factor.mul_(unit) for factor in factors_x]
        product = torch.empty_like(fraction_x)
        for i, factor_x in enumerate(factors_x):
            for j, factor_y in enumerate(factors_y):
                torch.mul(factor_x, factor_y, out=product)
                sums[i, j].scatter_add_(0, index, (product.round_().long() if whole else product).view(-1))
    sums = sums.view(size, size, rows, cells, cells)
    return sums if unit is None else sums / unit[:, :, None]


def _adds_whole_numbers(device: torch.device) -> bool:
    """Whether sums are made of whole numbers: where threads add in no fixed order, only these repeat to the bit."""
    return device.type != "cpu"


def _factors(fraction: Tensor, window: ParzenWindow) -> list[Tensor]:
    if window.kernel is not ParzenKernel.CUBIC:
        return window.weights(fraction)
    offset = fraction - 0.5
    square = offset * offset
    return [torch.ones_like(offset), offset, square, square * offset]


def _spread_moments(moments: Tensor, histogram: Tensor) -> None:
    """Add what the moments (4, 4, rows, cells, cells) say of each bin, first along x, then along y."""
    cells = moments.shape[-1]
    along_x = moments.new_zeros(4, *histogram.shape[:2], cells)
    for i, powers in enumerate(CUBIC_POWERS):
        for power, factor in enumerate(powers):
            along_x[:, :, i : i + cells].add_(moments[power], alpha=factor)
    for j, powers in enumerate(CUBIC_POWERS):
        for power, factor in enumerate(powers):
            histogram[:, :, j : j + cells].add_(along_x[power], alpha=factor)
    histogram.clamp_(min=0)  # differences of moments leave round-off in empty bins


def _spread_weights(sums: Tensor, histogram: Tensor) -> None:
    """Add the sums of products of weights (size, size, rows, cells, cells) to their bins."""
    cells = sums.shape[-1]
    for i, row_of_sums in enumerate(sums):
        for j, cell_sums in enumerate(row_of_sums):
            histogram[:, i : i + cells, j : j + cells] += cell_sums


def _polynomials(table: Tensor, dtype: torch.dtype) -> Tensor:
    """Per cell, the polynomial Σ_ab p_ab t_x^a t_y^b that the table (rows, bins, bins) makes: (4, 4, rows · cells²)."""
    cells = table.shape[-1] - 3
    along_x = table.new_zeros(4, table.shape[0], cells, table.shape[-1])
    for i, powers in enumerate(CUBIC_POWERS):
        for power, factor in enumerate(powers):
            along_x[power].add_(table[:, i : i + cells], alpha=factor)
    both = table.new_zeros(4, 4, table.shape[0], cells, cells)
    for j, powers in enumerate(CUBIC_POWERS):
        for power, factor in enumerate(powers):
            both[:, power].add_(along_x[..., j : j + cells], alpha=factor)
    return both.to(dtype).view(4, 4, -1)


def _cubic_look_up(x: Tensor, y: Tensor, polynomials: Tensor, window: ParzenWindow) -> tuple[Tensor, Tensor]:
    """Slopes by t_x and t_y of every voxel's polynomial, by Horner's rule for a value and its slope."""
    cell_x, fraction_x = window.locate(x)
    cell_y, fraction_y = window.locate(y)
    index = _cell_index(cell_x, cell_y, window.cells).int()
    f, g = fraction_x.view(-1) - 0.5, fraction_y.view(-1) - 0.5
    value, slope_x, slope_y = None, None, None
    for row in polynomials.flip(0):
        inner, inner_slope = _horner(row, index, g)
        if value is None or slope_y is None:
            value, slope_y = inner, inner_slope
            continue
        slope_x = value.clone() if slope_x is None else torch.addcmul(value, slope_x, f, out=slope_x)
        torch.addcmul(inner, value, f, out=value)
        torch.addcmul(inner_slope, slope_y, f, out=slope_y)
    assert slope_x is not None
    assert slope_y is not None
    return slope_x, slope_y


def _horner(coefficients: Tensor, index: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Value and slope at g of the cubic polynomials (4, entries) that `index` names."""
    constant, first, second, third = (row.index_select(0, index) for row in coefficients)
    value = torch.addcmul(second, third, g)
    slope = torch.addcmul(value, third, g, out=third)
    torch.addcmul(first, value, g, out=value)
    torch.addcmul(value, slope, g, out=slope)
    return torch.addcmul(constant, value, g, out=value), slope


def _patches(table: Tensor, window: ParzenWindow, dtype: torch.dtype) -> Tensor:
    """Per cell, the entries of the table (rows, bins, bins) under its windows: (size, size, rows · cells²)."""
    size = 2 * window.radius
    patches = table.unfold(1, window.cells, 1).unfold(2, window.cells, 1)  # (rows, size, size, cells, cells)
    # the slopes under a window sum to 0, so a constant per patch changes nothing but the round-off
    patches = patches - patches.mean((1, 2), keepdim=True)
    return patches.to(dtype).permute(1, 2, 0, 3, 4).reshape(size, size, -1)


def _look_up(
    x: Tensor, y: Tensor, patches: Tensor, window: ParzenWindow, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    """Sums over the bins under both windows of slope · weight · entry, for x and for y."""
    cell_x, fraction_x = window.locate(x)
    cell_y, fraction_y = window.locate(y)
    index = _cell_index(cell_x, cell_y, window.cells)
    fraction_x, fraction_y = fraction_x.view(-1), fraction_y.view(-1)
    weights_x, weights_y = window.weights(fraction_x), window.weights(fraction_y)
    slopes_x = window.slopes(fraction_x) if wanted[0] else []
    slopes_y = window.slopes(fraction_y) if wanted[1] else []
    total_x, total_y = torch.zeros_like(fraction_x), torch.zeros_like(fraction_y)
    along_x, along_y = torch.empty_like(fraction_x), torch.empty_like(fraction_y)
    for i, entries in enumerate(patches):
        along_x.zero_()
        along_y.zero_()
        for j, column_of_entries in enumerate(entries):
            entry = column_of_entries.index_select(0, index)
            if slopes_x:
                along_x.addcmul_(entry, weights_y[j])
            if slopes_y:
                along_y.addcmul_(entry, slopes_y[j])
        if slopes_x:
            total_x.addcmul_(along_x, slopes_x[i])
        if slopes_y:
            total_y.addcmul_(along_y, weights_x[i])
    return total_x, total_y
