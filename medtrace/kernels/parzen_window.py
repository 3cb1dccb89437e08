"""Parzen windows: how intensities meet the bins of a histogram."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import NamedTuple

from torch import Tensor


class ParzenKernel(StrEnum):
    """The Parzen window: a cubic B-spline (Thévenaz & Unser 2000) or a truncated Gaussian."""

    CUBIC = "cubic"
    GAUSSIAN = "gaussian"


CUBIC_POWERS = (
    (1 / 48, -1 / 8, 1 / 4, -1 / 6),
    (23 / 48, -5 / 8, -1 / 4, 1 / 2),
    (23 / 48, 5 / 8, -1 / 4, -1 / 2),
    (1 / 48, 1 / 8, 1 / 4, 1 / 6),
)
"""The cubic window as polynomials: weight i at the fractional position f is Σ_a CUBIC_POWERS[i][a] · (f − ½)^a.

Powers around the middle of a cell lose least to round-off."""


class ParzenWindow(NamedTuple):
    """Assignment of intensities to bins.

    Bin k has its center at position k. `value_range` maps linearly to the positions [radius − 1, num_bins − radius],
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
        position = (values - self.value_range[0]).mul_(self.scale).clamp_(0, self.cells)
        cell = position.long().clamp_(0, self.cells - 1)  # NaN, whose whole number is any, stays in a table too
        return cell, position.sub_(cell)

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
