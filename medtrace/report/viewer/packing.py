"""Arrays in few bytes: whole numbers with a scale, differences of neighbors, deflate, base64."""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

FIELD_STEP = 1 / 64
"""Step of a stored field in voxels, while its largest displacement allows it."""
FIELD_TOLERANCE = 0.25
"""Largest error in voxels, over the whole grid, at which a field is stored at half resolution."""
FINE_LEVELS, COARSE_LEVELS = 65535, 4095
"""Steps over the range of intensities: of pictures and slices, and of volumes."""
LARGE = 1 << 20
"""Voxels above which an image counts as a volume to be stored coarsely."""
_COMPRESSION = 6
_PART = 1 << 20
"""Numbers that are worked on together, so that a large volume takes little memory beside itself."""


@dataclass(frozen=True)
class Packed:
    """An array as the page holds it.

    Attributes:
        header: for JSON: "dtype", "shape" (4 numbers, channel first), "scale" and "offset" (value = number · scale +
            offset; of a field one scale per component), "error" (largest, in the value's units); of an image's preview
            "full", the size of its grid.
        payload: base64 of the compressed bytes.
    """

    header: dict[str, Any]
    payload: str


def pack_image(image: Tensor) -> Packed:
    """Store intensities; whole numbers that fit into 16 bits exactly.

    Args:
        image: (C, *spatial), any range.

    Returns:
        As 16-bit numbers. Numbers that are not whole are rounded to 1/65535 of their range, or above a million voxels
        to 1/4095.
    """
    values = image.detach().cpu().reshape(-1)
    low, high = float(values.min()), float(values.max())
    if high - low <= FINE_LEVELS and all(bool((part == part.round()).all()) for part in values.split(_PART)):
        step = 1.0
    else:
        levels = COARSE_LEVELS if image[0].numel() > LARGE else FINE_LEVELS
        step = (high - low) / levels or 1.0
    numbers = np.empty(image.shape, dtype=np.uint16)
    error = 0.0
    for part, into in _parts(values, numbers):
        exact = part.double().numpy()
        into[:] = np.rint((exact - low) / step)
        error = max(error, float(np.abs(into * step + low - exact).max()))
    return _packed(numbers, {"scale": step, "offset": low, "error": error})


def pack_mask(mask: Tensor) -> Packed:
    """Store (1, *spatial), boolean or in [0, 1], in steps of 1/255."""
    numbers = np.empty(mask.shape, dtype=np.uint8)
    values = mask.detach().as_subclass(Tensor).cpu().reshape(-1)
    for part, into in _parts(values, numbers):
        into[:] = np.rint(part.numpy() * 255.0)
    return _packed(numbers, {"scale": 1 / 255, "offset": 0.0, "error": 0.5 / 255})


def pack_labels(labels: Tensor) -> Packed:
    """Store whole numbers from 0 to 65535, (1, *spatial).

    Raises:
        ValueError: if a label is not one of these.
    """
    values = labels.detach().cpu().double().numpy()
    if not np.array_equal(values, np.rint(values)) or values.min() < 0 or values.max() > FINE_LEVELS:
        raise ValueError(
            f"labels: expected whole numbers from 0 to {FINE_LEVELS}, received {values.min():g} to {values.max():g};"
            " save the segmentation as integers"
        )
    return _packed(values.astype(np.uint16), {"scale": 1.0, "offset": 0.0, "error": 0.0})


def pack_field(field: Tensor) -> Packed:
    """Store a field in voxels; at half resolution where that loses less than a quarter of a voxel.

    Args:
        field: (spatial_dims, *spatial), in voxels.

    Returns:
        As 16-bit numbers of three components. `error` is the largest distance in voxels between the field and what
        the page reads, linearly, corners on corners.
    """
    values = field.detach().cpu().float()
    step = max(FIELD_STEP, max(float(values.max()), -float(values.min())) / 32767)
    spatial = tuple(values.shape[1:])
    halves = tuple(-(-size // 2) if size > 32 else size for size in spatial)
    kept, error = values, float("inf")
    if halves != spatial:
        kept = torch.stack([_rounded(_resampled(one[None], halves)[0], step) for one in values])
        error = _largest_distance(lambda first, last: _planes(kept, spatial, first, last), values)
    if error > FIELD_TOLERANCE:
        kept = values
        error = _largest_distance(lambda first, last: _rounded(values[:, first:last], step), values)
    return _packed_field(kept, step, error)


def preview_image(image: Tensor) -> Packed:
    """Every second number along every axis, which the page reads linearly; to be seen before the image is read.

    Args:
        image: (C, *spatial), any range.
    """
    packed = pack_image(image[(slice(None), *[slice(None, None, 2)] * (image.ndim - 1))])
    return Packed({**packed.header, "full": [*image.shape[1:], 1][:3]}, packed.payload)


def preview_field(field: Tensor) -> Packed:
    """A quarter of a field's resolution, to be read before the field.

    Args:
        field: (spatial_dims, *spatial), in voxels.
    """
    values = field.detach().cpu().float()
    coarse = tuple(-(-size // 4) if size > 8 else size for size in values.shape[1:])
    kept = torch.stack([_resampled(one[None], coarse)[0] for one in values])
    step = max(FIELD_STEP, float(kept.abs().max()) / 32767)
    return _packed_field(kept, step, step / 2)


def _packed_field(kept: Tensor, step: float, error: float) -> Packed:
    numbers = np.zeros((3, *kept.shape[1:]), dtype=np.int16)
    for component, stored in zip(kept, numbers):
        for part, into in _parts(component.reshape(-1), stored):
            into[:] = torch.round(part / step).numpy()
    return _packed(numbers, {"scale": step, "offset": 0.0, "error": error})


def _parts(values: Tensor, numbers: np.ndarray) -> Iterator[tuple[Tensor, np.ndarray]]:
    """Values in a line, and where their numbers go, some at a time."""
    return zip(values.split(_PART), np.split(numbers.reshape(-1), range(_PART, len(values), _PART)))


def _rounded(values: Tensor, step: float) -> Tensor:
    return (values / step).round_().mul_(step)


def _resampled(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(shape)]
    return F.interpolate(values[None], size=shape, mode=mode, align_corners=True)[0]


def _planes(values: Tensor, shape: tuple[int, ...], first: int, last: int) -> Tensor:
    """Planes first to last - 1 along the first axis of `_resampled(values, shape)`."""
    size = values.shape[1]
    places = torch.arange(first, last, dtype=torch.float64) * ((size - 1) / max(shape[0] - 1, 1))
    low = places.long().clamp(max=max(size - 2, 0))
    upper = (places - low).to(values).reshape(1, -1, *[1] * (values.ndim - 2))
    planes = torch.lerp(values[:, low], values[:, (low + 1).clamp(max=size - 1)], upper)
    return _resampled(planes.flatten(0, 1), shape[1:]).reshape(len(values), -1, *shape[1:])


def _largest_distance(planes: Callable[[int, int], Tensor], other: Tensor) -> float:
    """Largest distance between two fields, of which one comes some planes at a time, so that it is never all there."""
    count = max(1, _PART // math.prod(other.shape[2:]))
    largest = 0.0
    for first in range(0, other.shape[1], count):
        last = min(first + count, other.shape[1])
        largest = max(largest, float((planes(first, last) - other[:, first:last]).square_().sum(0).max()))
    return math.sqrt(largest)


def _packed(numbers: np.ndarray, header: dict[str, Any]) -> Packed:
    """Differences along the last axis, low and high bytes apart, deflated."""
    if numbers.ndim == 3:
        numbers = numbers[..., None]
    dtype = numbers.dtype.name
    flat = numbers.reshape(-1)
    unsigned = flat.view(np.dtype(dtype.lstrip("u").join(("u", ""))))
    packer = zlib.compressobj(_COMPRESSION)
    pieces = []
    for plane in range(unsigned.itemsize):
        for first in range(0, len(unsigned), _PART):
            part = unsigned[first : first + _PART].copy()
            part[1:] -= unsigned[first : first + len(part) - 1]
            if first:
                part[:1] -= unsigned[first - 1 : first]  # as an array, which wraps around without a warning
            pieces.append(packer.compress(part.view(np.uint8)[plane :: unsigned.itemsize].tobytes()))
    pieces.append(packer.flush())
    payload = base64.b64encode(b"".join(pieces)).decode("ascii")
    return Packed({"dtype": dtype, "shape": list(numbers.shape), **header}, payload)
