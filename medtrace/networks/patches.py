"""A large volume through a network patch by patch, what the network gives being blended."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, NamedTuple

import torch
from monai.inferers import Inferer
from torch import Tensor

from medtrace.checks import check_batched
from medtrace.networks.blocks import pad_to_multiple

SIGMA_SHARE = 0.125
"""Width of the Gaussian weights as a fraction of the patch, as MONAI's sliding window has it."""
MARGIN_SHARE = 0.25
"""Fraction of the overlap, from a patch's inner face on, that gets no weight."""


class Window(NamedTuple):
    """A patch's extent along one axis."""

    start: int
    weights: Tensor
    """(size,) float32; those of all windows add up to 1 at every voxel of the axis."""


class PatchInferer(Inferer):
    """Run a network on overlapping patches and blend its outputs by Gaussian weights.

    It blends whatever the network returns, so a network should return a *velocity*: a blend of velocities is a
    velocity, whose exponential is one diffeomorphism of the entire volume; a blend of displacements is not.

    The weights are a product of one function per axis that adds up to 1 over the patches. The voxels next to a face
    that a patch does not share with the volume get no weight, as they lack context beyond it: a network that sees no
    further than a quarter of the overlap gives the same output as on the entire volume, up to rounding. Patches start
    at multiples of the network's stride. What a network computes over an entire image (the statistics of an instance or
    group normalization, attention, a mean) it computes over a patch instead; there the outputs differ.

    MONAI's `SlidingWindowInferer` has one weight map for all patches, which either counts the voxels at inner faces or
    leaves the volume's border out, and moves its last patch off the stride.

    Args:
        size: edge of a patch in voxels, or one number per axis; rounded up to a multiple of the network's stride and
            limited to the volume.
        overlap: fraction of the edge that neighbors have in common, in [0, 1).
        progress: called with (patches done, total patches).

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> volume = torch.rand(1, 1, 40, 40)
        >>> (blended,) = PatchInferer(16)(volume, lambda patch: (2 * patch,))
        >>> bool(torch.allclose(blended, 2 * volume, atol=1e-5))
        True
    """

    def __init__(
        self,
        size: int | Sequence[int],
        overlap: float = 0.25,
        progress: Callable[[int, int], Any] | None = None,
    ) -> None:
        super().__init__()
        sizes = (size,) if isinstance(size, int) else tuple(size)
        if not sizes or min(sizes) < 1:
            raise ValueError(f"size: expected 1 voxel or more, received {size!r}")
        if not 0 <= overlap < 1:
            raise ValueError(f"overlap: expected a fraction in [0, 1), received {overlap!r}")
        self.size = sizes
        self.overlap = overlap
        self.progress = progress

    def __call__(
        self, inputs: Tensor, network: Callable[[Tensor], tuple[Tensor, ...]], multiple: int = 1
    ) -> tuple[Tensor, ...]:
        """Give what the network would give for the whole volume.

        Args:
            inputs: (B, C, *spatial).
            network: maps a patch (B, C, *patch) to tensors (B, any, *patch).
            multiple: the network's stride; the volume is padded to a multiple of it with its border values.

        Returns:
            (B, any, *spatial), float32, for each of the network's outputs.

        Raises:
            ValueError: if there are several sizes, but not one per axis.
        """
        check_batched("inputs", inputs)
        padded, crop = pad_to_multiple(inputs, multiple, minimum=2 * multiple if multiple > 1 else 1)
        shape = tuple(padded.shape[2:])
        sizes = self.size * len(shape) if len(self.size) == 1 else self.size
        if len(sizes) != len(shape):
            raise ValueError(f"size: expected 1 or {len(shape)} numbers, received {self.size}")
        axes = [axis_windows(extent, size, self.overlap, multiple) for extent, size in zip(shape, sizes)]
        count = math.prod(map(len, axes))
        totals: list[Tensor] = []
        for number, windows in enumerate(product(*axes), start=1):
            extents = [slice(window.start, window.start + len(window.weights)) for window in windows]
            place: tuple[Any, ...] = (..., *extents)
            outputs = network(padded[place].contiguous())
            if not totals:
                totals = [out.new_zeros(*out.shape[:2], *shape, dtype=torch.float32) for out in outputs]
            for total, out in zip(totals, outputs, strict=True):
                total[place] += _weighted(out, windows)
            if self.progress is not None:
                self.progress(number, count)
        return tuple(crop(total) for total in totals)


def in_patches(estimator: Callable[..., Tensor], inferer: PatchInferer | None, stride: int) -> Callable[..., Tensor]:
    """A noise estimator that sees a volume in patches; the estimator itself without an inferer.

    The blended noise of the patches drives one sampler of the entire volume, whose noise is sampled once.

    Args:
        estimator: (noisy, gamma, condition or None) -> noise, such as a `NoiseEstimator`.
        inferer: how the volume is divided, or None.
        stride: the estimator's.
    """
    if inferer is None:
        return estimator

    def estimate(noisy: Tensor, gamma: Tensor, condition: Tensor | None = None) -> Tensor:
        channels = noisy.shape[1]
        joined = noisy if condition is None else torch.cat([noisy, condition.to(noisy.dtype)], dim=1)

        def network(patch: Tensor) -> tuple[Tensor, ...]:
            return (estimator(patch[:, :channels], gamma, None if condition is None else patch[:, channels:]),)

        return inferer(joined, network, stride)[0]

    return estimate


def axis_windows(extent: int, size: int, overlap: float, multiple: int = 1) -> list[Window]:
    """The windows that cover an axis, with their weights.

    Args:
        extent: voxels of the axis, a multiple of `multiple`.
        size: voxels of a window; rounded up to a multiple of `multiple` (at least two of them) and limited to `extent`.
        overlap: minimum fraction of the window that neighbors have in common.
        multiple: windows start at multiples of it.
    """
    size = min(max(-(-size // multiple), 2 if multiple > 1 else 1) * multiple, extent)
    step = max(math.floor((size - round(overlap * size)) / multiple), 1) * multiple
    starts = [*range(0, extent - size, step), extent - size]
    positions = torch.arange(size, dtype=torch.float64)
    bell = torch.exp(-0.5 * ((positions - (size - 1) / 2) / (SIGMA_SHARE * size)).square())
    total = torch.zeros(extent, dtype=torch.float64)
    raw = []
    margin = int(MARGIN_SHARE * (size - step))
    for start in starts:
        weights = bell.clone()
        if start > 0:
            weights[:margin] = 0
        if start + size < extent:
            weights[size - margin :] = 0
        total[start : start + size] += weights
        raw.append(weights)
    return [Window(start, (w / total[start : start + size]).float()) for start, w in zip(starts, raw)]


def _weighted(out: Tensor, windows: Sequence[Window]) -> Tensor:
    result = out.float()
    for axis, window in enumerate(windows):
        result = result * window.weights.to(out.device).reshape([-1 if a == axis else 1 for a in range(len(windows))])
    return result
