"""Resampling of a grid to one orientation and size, and of images and fields back from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import nibabel
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medtrace.guard.memory import check_memory

_TRUNCATED = 4.0
"""Standard deviations at which the smoothing Gaussian ends."""
_FINEST_COUNT = 1 << 31
"""Most voxels of an axis: sizes beyond fit in no file."""
_BLOCK = 16
"""New voxels of an axis that are read together."""


@dataclass(frozen=True)
class Reorientation:
    """Reorder and flip the axes of a volume, so that they run right, anterior, superior as nearly as they can.

    No voxel is interpolated: an oblique grid stays oblique. With a slice axis, the two others come first.

    Attributes:
        order: new axis a is old axis order[a].
        flipped: whether new axis a runs against its old axis.
        shape: the old spatial shape.
    """

    order: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]
    shape: tuple[int, int, int]

    @classmethod
    def to_ras(cls, affine: Tensor, shape: Sequence[int], slice_axis: int | None = None) -> Reorientation:
        """Plan the reorientation of a grid.

        Args:
            affine: (4, 4) voxel to RAS mm.
            shape: spatial shape (X, Y, Z).
            slice_axis: the RAS axis to put last, or None to keep right, anterior, superior.
        """
        directions = nibabel.orientations.io_orientation(affine.cpu().numpy())
        old_of = {int(direction): old for old, (direction, _) in enumerate(directions)}
        new_axes = [axis for axis in range(3) if axis != slice_axis]
        if slice_axis is not None:
            new_axes.append(slice_axis)
        order = tuple(old_of[axis] for axis in new_axes)
        flipped = tuple(bool(directions[old, 1] < 0) for old in order)
        return cls(order, flipped, tuple(int(size) for size in shape))  # type: ignore[arg-type]

    @classmethod
    def none(cls, shape: Sequence[int]) -> Reorientation:
        """The plan that changes nothing."""
        return cls((0, 1, 2), (False, False, False), tuple(int(size) for size in shape))  # type: ignore[arg-type]

    def apply(self, image: Tensor) -> Tensor:
        """Reorient (C, X, Y, Z)."""
        moved = image.permute(0, *(1 + axis for axis in self.order))
        return moved.flip(self._flips).contiguous()

    def undo(self, image: Tensor) -> Tensor:
        """Return (C, H, W, S) to the original axes."""
        return image.flip(self._flips).permute(0, *(1 + axis for axis in self._back)).contiguous()

    def undo_field(self, field: Tensor) -> Tensor:
        """Return a displacement (3, H, W, S) to the original axes: its voxels and its components."""
        turned = torch.empty(3, *self.shape, dtype=field.dtype, device=field.device)
        for old, new in enumerate(self._back):
            turned[old] = self.undo(field[new : new + 1])[0]
            if self.flipped[new]:
                turned[old].neg_()
        return turned

    def affine(self, affine: Tensor) -> Tensor:
        """The affine of the reoriented grid."""
        to_old = torch.zeros(4, 4, dtype=torch.float64)
        to_old[3, 3] = 1.0
        for new, old in enumerate(self.order):
            to_old[old, new] = -1.0 if self.flipped[new] else 1.0
            to_old[old, 3] = self.shape[old] - 1 if self.flipped[new] else 0.0
        return affine.double().cpu() @ to_old

    @property
    def _flips(self) -> list[int]:
        return [1 + axis for axis, flip in enumerate(self.flipped) if flip]

    @property
    def _back(self) -> tuple[int, ...]:
        return tuple(int(axis) for axis in np.argsort(self.order))


def spacing_of(affine: Tensor) -> tuple[float, float, float]:
    """Voxel size in mm along the three array axes."""
    x, y, z = affine[:3, :3].norm(dim=0).tolist()
    return x, y, z


def shape_at_spacing(shape: Sequence[int], spacing: Sequence[float], wanted: Sequence[float]) -> tuple[int, ...]:
    """Number of voxels of a wanted size that cover an extent; axes within 1 % of it keep theirs.

    Raises:
        ValueError: if more voxels would be along an axis than can be counted.
    """
    for size, old, new in zip(shape, spacing, wanted):
        if not 0 < size * old < _FINEST_COUNT * new:
            raise ValueError(
                f"spacing: expected at most {_FINEST_COUNT} voxels along an axis of {size * old:.4g} mm,"
                f" received voxels of {new:g} mm; choose coarser ones (a larger --spacing)"
            )
    return tuple(
        size if abs(old / new - 1) < 0.01 else max(1, round(size * old / new))
        for size, old, new in zip(shape, spacing, wanted)
    )


def resize(image: Tensor, shape: Sequence[int]) -> Tensor:
    """Resample (C, *spatial) linearly to a shape that covers the same extent, smoothed along axes that shrink.

    Axes that keep their size are not touched, so the slices of a volume may be resized together. Along an axis that
    shrinks by a factor f, the image is convolved with a Gaussian of σ = (f - 1) / 2 voxels, integrated over each voxel
    and cut at 4 σ (as MONAI's `Resize` with anti-aliasing, after scikit-image), and read linearly, both in one step;
    nothing is assumed about voxels beyond the border: the weights of the existing ones add up to 1. So a constant stays
    constant, and memory does not grow with f.

    Args:
        image: (C, H, W) or (C, H, W, D).
        shape: the requested spatial shape.

    Returns:
        (C, *shape) float32, a plain tensor; the image itself where it has this shape.

    Raises:
        ValueError: if there is not enough memory; it states how much is needed.

    Example:
        >>> resize(torch.ones(1, 32, 4), (4, 4)).shape
        torch.Size([1, 4, 4])
    """
    shape = tuple(int(size) for size in shape)
    if tuple(image.shape[1:]) == shape:
        return image
    values = image.as_subclass(Tensor)
    values = values if values.dtype == torch.float64 else values.float()
    factors = {axis: old / new for axis, (old, new) in enumerate(zip(values.shape[1:], shape), start=1)}
    shrinking = sorted((axis for axis, factor in factors.items() if factor > 1), key=lambda a: (-factors[a], a))
    _check_resizing(values.shape, shape, shrinking, values.element_size(), values.device)
    for axis in shrinking:
        values = _shrink(values, axis, shape[axis - 1])
    if tuple(values.shape[1:]) != shape:
        mode = {2: "bilinear", 3: "trilinear"}[len(shape)]
        values = F.interpolate(values[None], size=shape, mode=mode, align_corners=False)[0]
    return values.float()


def _check_resizing(
    old: Sequence[int], shape: Sequence[int], shrinking: Sequence[int], bytes_each: int, device: torch.device
) -> None:
    """Check that there is memory for every step from (C, *old), which needs its input and its result."""
    steps = [list(old)]
    for axis in shrinking:
        steps.append([*steps[-1][:axis], shape[axis - 1], *steps[-1][axis + 1 :]])
    steps.append([old[0], *shape])
    counts = [0, *(math.prod(step) for step in steps[1:])]  # the first input is there already
    check_memory(
        f"an image of {'x'.join(map(str, old[1:]))} brought to {'x'.join(map(str, shape))} voxels",
        max(before + after for before, after in pairwise(counts)) * bytes_each,
        "choose a coarser grid (a larger --spacing)",
        device,
    )


def _shrink(image: Tensor, axis: int, size: int) -> Tensor:
    """Smooth and read (C, *spatial) at fewer places along one axis, a block of these at a time."""
    old = image.shape[axis]
    before, after = math.prod(image.shape[:axis]), math.prod(image.shape[axis + 1 :])
    values = image.reshape(before, old, after)
    result = values.new_empty(before, size, after)
    for first in range(0, size, _BLOCK):
        last = min(first + _BLOCK, size)
        start, weights = _shrinking_weights(old, size, first, last)
        weights = weights.to(values)
        part = values[:, start : start + weights.shape[1]]
        if after == 1:
            result[:, first:last, 0] = part[..., 0] @ weights.T
        else:
            result[:, first:last] = torch.matmul(weights, part)
    return result.reshape(*image.shape[:axis], size, *image.shape[axis + 1 :])


def _shrinking_weights(old: int, size: int, first: int, last: int) -> tuple[int, Tensor]:
    """The first voxel that the new voxels first to last - 1 read, and how much of each from there, float64.

    The weights of a new voxel are those of the two smoothed voxels between which its center lies.
    """
    factor = old / size
    sigma = (factor - 1) / 2
    tail = int(max(_TRUNCATED * sigma, 0.5) + 0.5)
    offsets = torch.arange(-tail, tail + 1, dtype=torch.float64)
    slope = math.sqrt(0.5) / sigma
    kernel = 0.5 * (torch.erf(slope * (offsets + 0.5)) - torch.erf(slope * (offsets - 0.5)))
    centers = ((torch.arange(first, last, dtype=torch.float64) + 0.5) * factor - 0.5).clamp(0, old - 1)
    low = centers.floor().clamp(max=max(old - 2, 0))
    upper = (centers - low)[:, None]
    taps = (1 - upper) * F.pad(kernel, (0, 1)) + upper * F.pad(kernel, (1, 0))
    indices = low.long()[:, None] + torch.arange(-tail, tail + 2)
    inside = (indices >= 0) & (indices < old)
    start, end = int(indices[inside].min()), int(indices[inside].max()) + 1
    weights = torch.zeros(last - first, end - start, dtype=torch.float64)
    rows = torch.arange(last - first)[:, None].expand_as(indices)
    weights[rows[inside], indices[inside] - start] = taps[inside]
    return start, weights / weights.sum(dim=1, keepdim=True)


def resize_labels(labels: Tensor, shape: Sequence[int]) -> Tensor:
    """Resample labels (C, *spatial) to a shape that covers the same extent, each voxel from the nearest."""
    if tuple(labels.shape[1:]) == tuple(shape):
        return labels
    _check_resizing(labels.shape, shape, (), 4 + labels.element_size(), labels.device)
    return F.interpolate(labels[None].float(), size=tuple(shape), mode="nearest-exact")[0].to(labels.dtype)


def resized_affine(affine: Tensor, shape: Sequence[int], new_shape: Sequence[int]) -> Tensor:
    """The affine after `resize`: the extent stays, so the first voxel's center moves."""
    to_old = torch.eye(4, dtype=torch.float64)
    for axis, (old, new) in enumerate(zip(shape, new_shape)):
        to_old[axis, axis] = old / new
        to_old[axis, 3] = (old / new - 1) / 2
    return affine.double().cpu() @ to_old


def center_window(image: Tensor, shape: Sequence[int], pad: bool = False) -> tuple[Tensor, tuple[int, ...]]:
    """Cut (C, *spatial) about its center, where it is larger than a shape.

    Args:
        image: the image.
        shape: the requested size along each axis.
        pad: also add zeros about the center where the image is smaller.

    Returns:
        The window and the image voxel at which it begins (negative where it was padded).
    """
    starts = []
    for axis, wanted in enumerate(shape, start=1):
        size = image.shape[axis]
        start = (size - wanted) // 2
        if wanted < size:
            image = image.narrow(axis, start, wanted)
        elif wanted > size and pad:
            before, after = -start, wanted - size + start
            ends = list(image.shape)
            ends[axis] = before
            head = image.new_zeros(ends)
            ends[axis] = after
            image = torch.cat([head, image, image.new_zeros(ends)], dim=axis)
        else:
            start = 0
        starts.append(start)
    return image, tuple(starts)


def shifted_affine(affine: Tensor, start: Sequence[float]) -> Tensor:
    """The affine of a window whose first voxel is `start` of the old grid."""
    to_old = torch.eye(4, dtype=torch.float64)
    to_old[: len(start), 3] = torch.tensor(tuple(map(float, start)), dtype=torch.float64)
    return affine.double().cpu() @ to_old
