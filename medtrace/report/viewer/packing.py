"""Arrays in few bytes: whole numbers with a scale, differences of neighbours, deflate, base64."""

from __future__ import annotations

import base64
import zlib
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


@dataclass(frozen=True)
class Packed:
    """An array as the page holds it.

    Attributes:
        header: for JSON: "dtype", "shape" (4 numbers, channel first), "scale" and "offset" (value = number · scale +
            offset; of a field one scale per component), "error" (largest, in the value's units).
        payload: base64 of the compressed bytes.
    """

    header: dict[str, Any]
    payload: str


def pack_image(image: Tensor) -> Packed:
    """Store intensities; whole numbers that fit into 16 bits exactly.

    Args:
        image: (C, *spatial), any range.

    Returns:
        As 16-bit numbers. Others than whole numbers are rounded to 1/65535 of their range, above a million voxels
        to 1/4095.
    """
    values = image.detach().cpu().double().numpy()
    low, high = float(values.min()), float(values.max())
    if high - low <= FINE_LEVELS and np.array_equal(values, np.rint(values)):
        step = 1.0
    else:
        levels = COARSE_LEVELS if values[0].size > LARGE else FINE_LEVELS
        step = (high - low) / levels or 1.0
    numbers = np.rint((values - low) / step).astype(np.uint16)
    error = float(np.abs(numbers * step + low - values).max())
    return _packed(numbers, {"scale": step, "offset": low, "error": error})


def pack_mask(mask: Tensor) -> Packed:
    """Store (1, *spatial) in [0, 1] in steps of 1/255."""
    numbers = np.rint(mask.detach().cpu().numpy() * 255.0).astype(np.uint8)
    return _packed(numbers, {"scale": 1 / 255, "offset": 0.0, "error": 0.5 / 255})


def pack_labels(labels: Tensor) -> Packed:
    """Store whole numbers from 0 to 65535, (1, *spatial).

    Raises:
        ValueError: if a label is none of these.
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
    step = max(FIELD_STEP, float(values.abs().max()) / 32767)
    spatial = tuple(values.shape[1:])
    halves = tuple(-(-size // 2) if size > 32 else size for size in spatial)
    kept, error = values, float("inf")
    if halves != spatial:
        kept = _rounded(_resampled(values, halves), step)
        error = _largest_distance(_resampled(kept, spatial), values)
    if error > FIELD_TOLERANCE:
        kept = _rounded(values, step)
        error = _largest_distance(kept, values)
    numbers = torch.round(kept / step).to(torch.int16).numpy()
    if len(spatial) == 2:
        numbers = np.concatenate([numbers, np.zeros_like(numbers[:1])])
    return _packed(numbers, {"scale": step, "offset": 0.0, "error": error})


def _rounded(values: Tensor, step: float) -> Tensor:
    return torch.round(values / step) * step


def _resampled(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    mode = "bilinear" if len(shape) == 2 else "trilinear"
    return F.interpolate(values[None], size=shape, mode=mode, align_corners=True)[0]


def _largest_distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).square_().sum(0).max().sqrt())


def _packed(numbers: np.ndarray, header: dict[str, Any]) -> Packed:
    """Differences along the last axis, low and high bytes apart, deflated."""
    if numbers.ndim == 3:
        numbers = numbers[..., None]
    shape = list(numbers.shape)
    dtype = numbers.dtype.name
    unsigned = numbers.reshape(-1).view(np.dtype(dtype.lstrip("u").join(("u", "")))).copy()
    unsigned[1:] -= unsigned[:-1].copy()
    planes = unsigned.view(np.uint8).reshape(-1, unsigned.itemsize).T
    data = zlib.compress(np.ascontiguousarray(planes).tobytes(), _COMPRESSION)
    return Packed({"dtype": dtype, "shape": shape, **header}, base64.b64encode(data).decode("ascii"))
