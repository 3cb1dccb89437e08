"""NIfTI files in few bytes: values on a step, packed, written slab by slab."""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import nibabel
import numpy as np
from torch import Tensor

from medtrace.checks import check_field, check_finite
from medtrace.io.nifti import LPS, affine_array, check_orthogonal
from medtrace.storage.files import atomic_write

FIELD_ERROR = 1 / 2048
"""Largest error of a rounded field, in voxels, of each component."""
MASK_STEP = 2.0**-14
"""Step of a mask, whose values lie in [0, 1]."""
_LEVELS = 65535
_LEAST_POWER = -120
"""Of two, that a slope in float32 holds."""
_SLAB = 1 << 20
_LEVEL, _EXACT_LEVEL = 4, 1
"""Of gzip, for rounded values and for all bits. A field of a 1 mm head, rounded, takes 41.0 MB at level 1 (1.6 s), 38.3
at 4 (2.7 s), 36.7 at 5 (4.8 s) and 35.4 at 6 (9 s); with all its bits 78 MB, at any level."""
_DOUBLED = b"one slice, written twice"


def intensity_step(image: Tensor) -> float:
    """The step on which an image is stored: a power of two, of which its range holds up to 65534.

    Args:
        image: (C, *spatial), any range.

    Returns:
        1/65534 to 1/32767 of the range. Whole numbers up to 2^24 are kept: where the image holds nothing else, the step
        is at most 1. A few voxels far outside of the others' range (16 times that of 998 in 1000) count no more than
        16 times that.
    """
    values = image.detach().reshape(-1)
    low, high = float(values.min()), float(values.max())
    largest = max(abs(low), abs(high))
    some = values[:: max(1, len(values) // _SLAB)].cpu().numpy()
    usual = float(np.subtract(*np.percentile(some, (99.9, 0.1))))
    span = min(high - low, 16 * usual) if usual > 0 else high - low
    if span == 0:
        return math.ldexp(1.0, max(_LEAST_POWER, math.frexp(largest)[1] - 24)) if largest else 1.0
    step = 2.0 ** max(_LEAST_POWER, math.ceil(math.log2(span / (_LEVELS - 1))))
    return 1.0 if step > 1 and largest <= 1 << 24 and bool((values == values.round()).all()) else step


def write_compact_image(path: Path, image: Tensor, affine: Tensor, step: float | None) -> None:
    """Write (C, *spatial) float32 as `medtrace.io.write_image` does: a 2D image as one slice, channels as fourth axis.

    Args:
        path: ends in .nii.gz.
        image: finite.
        affine: (4, 4) voxel to RAS mm, at right angles.
        step: round to its multiples, which are stored as 16-bit integers with that slope where they span no more than
            65536 of them, and otherwise as float32; None stores float32 as it is.
    """
    values = image.detach().cpu().numpy()
    values = values[..., None] if values.ndim == 3 else values
    kind, scaling, middle = "float32", (1.0, 0.0), 0
    if step is not None:
        low, high = (round(float(value) / step) for value in (values.min(), values.max()))
        if high - low <= _LEVELS:
            middle = 0 if low > -_LEVELS / 2 - 1 and high < _LEVELS / 2 else (low + high + 1) // 2
            if float(np.float32(middle * step)) == middle * step:  # the header holds it in 32 bits
                kind, scaling = "int16", (step, middle * step)

    def slabs() -> Iterator[np.ndarray]:
        for channel in values:
            for part in _parts(channel.shape):
                slab = channel[..., part]
                if step is not None:
                    numbers = np.rint(slab.astype(np.float64) / step)
                    slab = numbers * step if kind == "float32" else numbers - middle
                yield slab

    shape = values.shape[1:] if values.shape[0] == 1 else (*values.shape[1:], values.shape[0])
    _write(path, shape, kind, affine_array("affine", affine), slabs(), step is not None, scaling=scaling)


def write_compact_field(path: Path, ddf: Tensor, affine: Tensor, error: float | None) -> None:
    """Write a displacement in voxels as the vector image of ITK and ANTs: (H, W, D, 1, 3), LPS mm.

    Numbers are stored as they are and not as integers with a slope: ITK 5.4 writes past its buffer when it reads a
    vector image with one. A single slice is written twice (see `medtrace.io.nifti`).

    Args:
        path: ends in .nii.gz.
        ddf: (2, H, W) or (3, H, W, D), in voxels, finite.
        affine: (4, 4) voxel to RAS mm, at right angles.
        error: store float32 on steps of a power of two of a mm, so that no component is off by more than this many
            voxels; None stores float64.
    """
    check_field("ddf", ddf[None])
    check_finite("ddf", ddf)
    matrix = affine_array("affine", affine)
    values = ddf.detach().cpu().numpy()
    values = values[..., None] if values.ndim == 3 else values
    to_lps = (LPS @ matrix[:3, :3])[:, : values.shape[0]]
    steps = None if error is None else field_steps(matrix, error)
    single = values.shape[-1] == 1

    def slabs() -> Iterator[np.ndarray]:
        for row in range(3):
            for part in _parts(values.shape[1:]):
                slab = np.einsum("i,i...->...", to_lps[row], values[..., part].astype(np.float64))
                if steps is not None:
                    slab = np.rint(slab / steps[row]) * steps[row]
                yield from (slab, slab) if single else (slab,)

    shape = (*values.shape[1:3], 2 if single else values.shape[3], 1, 3)
    kind = "float64" if steps is None else "float32"
    _write(path, shape, kind, matrix, slabs(), steps is not None, _DOUBLED if single else b"")


def field_steps(affine: np.ndarray, error: float) -> list[float]:
    """Steps of the three components of a displacement in mm that keep it to an error in voxels.

    Component j of a displacement in mm, off by half a step s_j at most, moves component k of that in voxels by
    |A⁻¹_kj| s_j / 2; the steps are as long as their sum over j may be, in proportion to the voxel's extent along j.

    Args:
        affine: (4, 4) voxel to mm.
        error: in voxels, of each component.

    Returns:
        Powers of two, in mm.
    """
    weights = np.abs(np.linalg.inv(affine[:3, :3]))
    extents = 1 / weights.max(axis=0)
    scale = 2 * error / (weights @ extents).max()
    return [float(2.0 ** np.floor(np.log2(scale * extent * (1 + 1e-6)))) for extent in extents]


def _parts(shape: Sequence[int]) -> Iterator[slice]:
    """Ranges of the last of three axes, of about a million voxels each."""
    count = max(1, _SLAB // (shape[0] * shape[1]))
    for first in range(0, shape[2], count):
        yield slice(first, min(first + count, shape[2]))


def _write(
    path: Path,
    shape: Sequence[int],
    kind: str,
    affine: np.ndarray,
    slabs: Iterator[np.ndarray],
    rounded: bool,
    description: bytes = b"",
    scaling: tuple[float, float] = (1.0, 0.0),
) -> None:
    """Write the header, and the voxels as they come: no second volume is ever in memory."""
    check_orthogonal("affine", affine)
    header = nibabel.Nifti1Header()
    header.set_data_shape(tuple(shape))
    header.set_data_dtype(kind)
    header.set_sform(affine, code=1)
    header.set_qform(affine, code=1)
    header.set_xyzt_units("mm")
    header.set_slope_inter(*scaling)
    header["descrip"] = description
    if len(shape) == 5:
        header.set_intent("vector")
    stored = np.dtype(kind).newbyteorder("<")
    level = _LEVEL if rounded else _EXACT_LEVEL

    def pack(file: BinaryIO) -> None:
        with gzip.GzipFile("", "wb", level, file, mtime=0) as packed:
            header.write_to(packed)
            for slab in slabs:
                packed.write(np.ascontiguousarray(slab.T).astype(stored, copy=False).data)

    atomic_write(path, pack)
