"""The operations of a registration on one grid, and the common parts of its two implementations."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor

BINS = 32
"""Bins per image of a joint histogram."""


class Windows(NamedTuple):
    """Window sums of an image that stays: of the weights, of the image and of its square."""

    count: Any
    first: Any
    square: Any


class Slopes(NamedTuple):
    """A similarity and its derivatives by the two images' voxels; `by_y` is None where it was not asked for."""

    value: float
    by_x: Any
    by_y: Any


class Operations(Protocol):
    """The operations of a registration on one grid.

    Arrays are whatever `volume` and `field` return. A result may be overwritten by the next call of the same operation:
    copy it with `tensor` to keep it.
    """

    def volume(self, values: Tensor) -> Any:
        """An image (*spatial), on any grid, as an array of the operations."""

    def field(self, values: Tensor) -> Any:
        """A displacement (D, *spatial), in voxels, as an array."""

    def tensor(self, array: Any) -> Tensor:
        """A copy of an array as a tensor (*spatial) or (D, *spatial)."""

    def warp(self, image: Any, field: Any) -> tuple[Any, Any]:
        """image(p + field(p)) at the voxels p of the field, and the derivative of the interpolated image there."""

    def slopes(self, image: Any) -> Any:
        """Central differences of an image, one-sided at the border."""

    def windows(self, image: Any, weight: Any, radius: int) -> Windows:
        """Window sums of an image, for `lncc`."""

    def difference(self, x: Any, y: Any, weight: Any) -> Slopes:
        """−½·Σ w·(y − x)², and its derivatives."""

    def lncc(
        self, x: Any, y: Any, weight: Any, centers: Any, windows: Windows, radius: int, floor: float, both: bool
    ) -> Slopes:
        """Σ v·LNCC², v being the centers' weights, and its derivatives."""

    def information(self, x: Any, y: Any, weight: Any, normalized: bool, both: bool) -> Slopes:
        """Mutual information of images in [0, 1], times the sum of weights, and its derivatives."""

    def force(self, slopes: Slopes, by_space: Any, fixed_by_space: Any, alpha: float, to: Any = None) -> Any:
        """(1 − α)·dE/dm·∇m − α·dE/df·∇f, added to the force `to` of other channels."""

    def smooth(self, field: Any, sigmas: Sequence[float]) -> tuple[Any, float]:
        """A field or volume filtered by Gaussians, in place where that can be, and the length of its longest vector."""

    def scale(self, field: Any, factor: float) -> Any:
        """A field times a number, in place where that can be."""

    def compose(self, field: Any, update: Any) -> Any:
        """update(p) + field(p + update(p)); the memory of `field` is taken for the next result."""

    def affine(self, matrix: Any) -> Any:
        """Displacement of an affine map, (D + 1, D + 1) float64 from voxels to voxels."""

    def folded(self, field: Any) -> tuple[Any, int]:
        """Weights 1 at voxels where the displaced grid folds, else 0, and their number."""


def inner_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """The three axes on which a grid is worked on: (H, 1, W) for (H, W), so that threads share the lines."""
    if len(shape) == 2:
        return shape[0], 1, shape[1]
    height, width, depth = shape
    return height, width, depth


def gaussian(sigma: float) -> list[float]:
    """Half of a symmetric kernel, from its middle on: the Gaussian's integral over voxels, cut at 3σ, of sum 1."""
    if sigma <= 0:
        return [1.0]
    reach = max(1, math.ceil(3 * sigma))
    edges = [0.5 * (1 + math.erf((k - 0.5) / (sigma * math.sqrt(2)))) for k in range(reach + 2)]
    weights = [high - low for low, high in itertools.pairwise(edges)]
    total = weights[0] + 2 * sum(weights[1:])
    return [weight / total for weight in weights]
