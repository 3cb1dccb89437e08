"""Joint histograms of image pairs with Parzen windows, exactly differentiable in both images.

A window of finite support touches a handful of bins, so a pair of voxels adds `w_i(f_x) · w_j(f_y)` to the few
bins around its position. Summing those products per *cell* (the pair of bins left of the two positions) and
spreading the cells over the bins afterwards gives the joint histogram without ever holding voxels × bins numbers.
The gradient of any function of the histogram is a look-up of the same few bins per voxel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from enum import StrEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 1 << 16
"""Voxel pairs handled at once: small enough for the intermediate numbers to stay in the cache."""


class ParzenKernel(StrEnum):
    """The Parzen window: a cubic B-spline (Thévenaz & Unser 2000) or a truncated Gaussian."""

    CUBIC = "cubic"
    GAUSSIAN = "gaussian"


class ParzenWindow(NamedTuple):
    """How intensities meet bins.

    Bin k has its centre at position k. `value_range` maps linearly to the positions [radius − 1, num_bins − radius],
    so that the `2 · radius` bins under each window exist: radius − 1 bins at either end are padding.
    """

    num_bins: int
    value_range: tuple[float, float]
    kernel: ParzenKernel
    sigma: float

    @property
    def radius(self) -> int:
        """Bins touched on each side of a position: 2 for the cubic kernel, ⌈3σ⌉ for the Gaussian one."""
        return 2 if self.kernel is ParzenKernel.CUBIC else max(1, math.ceil(3 * self.sigma))

    @property
    def cells(self) -> int:
        """Bin intervals that `value_range` covers."""
        return self.num_bins - 2 * self.radius + 1

    @property
    def scale(self) -> float:
        """Bins per unit of intensity."""
        return self.cells / (self.value_range[1] - self.value_range[0])

    def locate(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Cell index (int64) and fractional position in [0, 1] within the cell of each intensity."""
        position = (values - self.value_range[0]).mul_(self.scale)
        cell = position.long().clamp_(0, self.cells - 1)
        return cell, position.sub_(cell).clamp_(0, 1)

    def weights(self, fraction: Tensor) -> list[Tensor]:
        """The `2 · radius` window weights, which sum to 1, at bins cell, cell + 1, ..."""
        if self.kernel is ParzenKernel.CUBIC:
            return _cubic(fraction)
        heights = [_gauss(fraction - offset, self.sigma) for offset in self._offsets()]
        total = sum(heights[1:], heights[0])
        return [height / total for height in heights]

    def slopes(self, fraction: Tensor) -> list[Tensor]:
        """Derivatives of `weights` by the fractional position; they sum to 0."""
        if self.kernel is ParzenKernel.CUBIC:
            return _cubic_slope(fraction)
        # d/df log(height) = -(f - offset)/σ²; subtracting its weighted mean keeps the weights' sum at 1.
        weights = self.weights(fraction)
        logs = [(offset - fraction) / self.sigma**2 for offset in self._offsets()]
        mean = sum((w * g for w, g in zip(weights[1:], logs[1:])), weights[0] * logs[0])
        return [w * (g - mean) for w, g in zip(weights, logs)]

    def _offsets(self) -> range:
        return range(1 - self.radius, self.radius + 1)


def _gauss(distance: Tensor, sigma: float) -> Tensor:
    # exp below e⁻⁴⁰ would become subnormal in float32, which costs time and changes nothing
    return distance.square_().mul_(-0.5 / sigma**2).clamp_(min=-40).exp_()


def _cubic(f: Tensor) -> list[Tensor]:
    g = 1 - f
    f2, g2 = f * f, g * g
    first, last = g2 * g / 6, f2 * f / 6
    second = 2 / 3 - f2 + 3 * last
    third = 2 / 3 - g2 + 3 * first
    return [first, second, third, last]


def _cubic_slope(f: Tensor) -> list[Tensor]:
    g = 1 - f
    f2, g2 = f * f / 2, g * g / 2
    return [-g2, 3 * f2 - 2 * f, 2 * g - 3 * g2, f2]


def _row_groups(rows: int, voxels: int) -> Iterator[slice]:
    """Groups of whole rows of at most CHUNK voxels, or single longer rows."""
    step = max(1, CHUNK // voxels)
    return (slice(row, min(rows, row + step)) for row in range(0, rows, step))


def _column_chunks(voxels: int) -> Iterator[slice]:
    return (slice(column, min(voxels, column + CHUNK)) for column in range(0, voxels, CHUNK))


def _cell_index(cell_x: Tensor, cell_y: Tensor, cells: int) -> Tensor:
    """Index of every voxel's cell in the tables of its group of rows."""
    offset = torch.arange(cell_x.shape[0], device=cell_x.device).mul_(cells * cells)
    return cell_x.mul_(cells).add_(cell_y).add_(offset[:, None]).view(-1)


def _accumulate(x: Tensor, y: Tensor, mask: Tensor | None, window: ParzenWindow) -> Tensor:
    """Unnormalised joint histograms (rows, bins, bins) in float64 of x and y (rows, voxels)."""
    cells = window.cells
    histogram = torch.zeros((x.shape[0], window.num_bins, window.num_bins), dtype=torch.float64, device=x.device)
    for group in _row_groups(*x.shape):
        sums = _cell_sums(x[group], y[group], None if mask is None else mask[group], window)
        for i, row_of_sums in enumerate(sums):
            for j, cell_sums in enumerate(row_of_sums):
                histogram[group, i : i + cells, j : j + cells] += cell_sums.view(-1, cells, cells)
    return histogram


def _cell_sums(x: Tensor, y: Tensor, mask: Tensor | None, window: ParzenWindow) -> Tensor:
    """Sums per cell of every product of two weights, (size, size, rows * cells * cells)."""
    rows, voxels = x.shape
    cells, size = window.cells, 2 * window.radius
    sums = torch.zeros((size, size, rows * cells * cells), dtype=torch.float64, device=x.device)
    for column in _column_chunks(voxels):
        cell_x, fraction_x = window.locate(x[:, column].double())
        cell_y, fraction_y = window.locate(y[:, column].double())
        index = _cell_index(cell_x, cell_y, cells)
        weights_x, weights_y = window.weights(fraction_x), window.weights(fraction_y)
        if mask is not None:
            block = mask[:, column].double()
            weights_x = [weight * block for weight in weights_x]
        product = torch.empty_like(fraction_x)
        for i, weight_x in enumerate(weights_x):
            for j, weight_y in enumerate(weights_y):
                torch.mul(weight_x, weight_y, out=product)
                sums[i, j].scatter_add_(0, index, product.view(-1))
    return sums


def _look_up(
    x: Tensor, y: Tensor, mask: Tensor | None, slope_table: Tensor, window: ParzenWindow, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients by x and y (rows, voxels), given the gradient by the unnormalised histogram (rows, bins, bins)."""
    cells, size = window.cells, 2 * window.radius
    grad_x = torch.empty_like(x) if wanted[0] else None
    grad_y = torch.empty_like(y) if wanted[1] else None
    for group in _row_groups(*x.shape):
        patches = slope_table[group].unfold(1, cells, 1).unfold(2, cells, 1)  # (rows, size, size, cells, cells)
        # the slopes under a window sum to 0, so a constant per patch changes nothing but the round-off
        patches = patches - patches.mean((1, 2), keepdim=True)
        table = patches.to(x.dtype).permute(1, 2, 0, 3, 4).reshape(size, size, -1)
        for column in _column_chunks(x.shape[1]):
            part_x, part_y = _look_up_chunk(x[group, column], y[group, column], table, window, wanted)
            factor: float | Tensor = window.scale
            if mask is not None:
                factor = mask[group, column].to(x.dtype) * window.scale
            if grad_x is not None:
                grad_x[group, column] = part_x.mul_(factor)
            if grad_y is not None:
                grad_y[group, column] = part_y.mul_(factor)
    return grad_x, grad_y


def _look_up_chunk(
    x: Tensor, y: Tensor, table: Tensor, window: ParzenWindow, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    """Sums over the bins under both windows of slope · weight · table entry, for x and for y."""
    cell_x, fraction_x = window.locate(x)
    cell_y, fraction_y = window.locate(y)
    index = _cell_index(cell_x, cell_y, window.cells)
    fraction_x, fraction_y = fraction_x.view(-1), fraction_y.view(-1)
    weights_x, weights_y = window.weights(fraction_x), window.weights(fraction_y)
    slopes_x = window.slopes(fraction_x) if wanted[0] else []
    slopes_y = window.slopes(fraction_y) if wanted[1] else []
    total_x, total_y = torch.zeros_like(fraction_x), torch.zeros_like(fraction_y)
    along_x, along_y = torch.empty_like(fraction_x), torch.empty_like(fraction_y)
    for i, entries in enumerate(table):
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
    return total_x.view(x.shape), total_y.view(y.shape)


class _JointHistogram(torch.autograd.Function):
    """Normalised joint histogram with hand-written gradients by both images."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, mask: Tensor | None, window: ParzenWindow) -> Tensor:
        counts = _accumulate(x, y, mask, window)
        everything = counts.new_full(counts.shape[:1], x.shape[1])
        total = everything if mask is None else mask.sum(1, dtype=torch.float64)
        ctx.save_for_backward(x, y, mask, total)
        ctx.window = window
        return counts / total[:, None, None]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, y, mask, total = ctx.saved_tensors
        wanted = (ctx.needs_input_grad[0], ctx.needs_input_grad[1])
        grad_x, grad_y = _look_up(x, y, mask, grad / total[:, None, None], ctx.window, wanted)
        return grad_x, grad_y, None, None


def joint_histogram(x: Tensor, y: Tensor, window: ParzenWindow, mask: Tensor | None = None) -> Tensor:
    """Joint probability of the intensities of two images, one table per row.

    Args:
        x: first image, (rows, voxels), float32 or float64, within `window.value_range`.
        y: second image, the same shape and type.
        window: bins and kernel.
        mask: weights >= 0 of the voxels, (rows, voxels), each row with a positive sum; constants of the gradient.

    Returns:
        (rows, num_bins, num_bins) in float64: x along the first, y along the second bin axis; each table sums to 1.
        The sums are deterministic on a CPU; on CUDA the order of additions is, unless
        `torch.use_deterministic_algorithms` asks for it, not fixed, and the last digits may vary.

    Raises:
        RuntimeError: from torch, when a second derivative is asked for (there is none).
    """
    table: Tensor = _JointHistogram.apply(x, y, mask, window)
    return table
