"""DICOM images as arrays with their grid: one reader, whose checks decide what is read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor
from scipy import ndimage

from medtrace.data.dicom.frames import find_frames
from medtrace.data.dicom.geometry import Stack, stack
from medtrace.data.dicom.pixels import read_pixels
from medtrace.data.dicom.volumes import choose, group
from medtrace.guard.notices import notify

MODALITY = "modality"
"""Key of the DICOM modality in an image's metadata."""


def read_dicom_image(path: str | Path, series: str | int | None = None, resample_tilt: bool = False) -> MetaTensor:
    """Read a DICOM file, or one volume of a folder.

    Slices are grouped by series and by what distinguishes volumes (size, direction, echo, time, ...), sorted by
    their positions along their normal, and each scaled by its own slope and intercept.

    Args:
        path: a DICOM file, or a folder of DICOM files.
        series: which volume, where there are several (see `volumes.choose`).
        resample_tilt: resample a tilted series (CT with a tilted gantry) linearly onto a grid at right angles, which
            covers all of it; voxels outside the slices get their lowest value.

    Returns:
        (1, columns, rows, slices) float32 in the modality's units, with its affine to RAS mm in float64.

    Raises:
        ValueError: if the slices do not form a grid or cannot be read; the message names the file or folder.

    Warns:
        Notice: if it was resampled, with the angle and the value outside.
    """
    path = Path(path)
    with _headers_of(path):
        return _read(path, series, resample_tilt)


def find_stack(path: Path, series: str | int | None = None) -> Stack:
    """The slices of the one volume, or of that which `series` names, in order and with their grid.

    Raises:
        ValueError: if there is none, or several and none is named, or the slices do not form a grid.
    """
    with _headers_of(path):
        frames = find_frames(path)
        if not frames:
            raise ValueError(
                f"{path}: holds no DICOM series; give the folder of the .dcm files, or an image file (it holds no DICOM"
                " images itself, and sub-folders are not searched)"
            )
        return stack(path, choose(path, group(frames), series))


@contextmanager
def _headers_of(path: Path) -> Iterator[None]:
    """Refuse headers whose attributes are of a kind that nobody expects."""
    try:
        yield
    except (AttributeError, KeyError, IndexError, TypeError, OverflowError) as error:
        raise ValueError(f"{path}: a header holds values that no series can have ({error}); export it again") from error


def _read(path: Path, series: str | int | None, resample_tilt: bool) -> MetaTensor:
    result = find_stack(path, series)
    if result.tilted and not resample_tilt:
        raise ValueError(
            f"{path}: its slices are tilted by {result.tilt:.3g} degrees (each is shifted by"
            f" {np.hypot(*result.slide):.3g} mm from the one before, as with a tilted CT gantry); add --resample-tilt"
            " (resample_tilt=True) to resample them onto a grid at right angles"
        )
    values, affine = read_pixels(result.frames), result.affine
    if result.tilted:
        values, affine = _upright(path, values, result)
    image = MetaTensor(torch.from_numpy(values)[None].contiguous(), affine=torch.from_numpy(affine))
    image.meta[MODALITY] = result.modality
    return image


def _upright(path: Path, values: np.ndarray, tilted: Stack) -> tuple[np.ndarray, np.ndarray]:
    """A tilted stack on a grid at right angles: every slice moved within its plane, none mixed with another."""
    spacing = np.linalg.norm(tilted.affine[:3, :2], axis=0)
    slide = np.array(tilted.slide) / spacing
    total = slide * (values.shape[2] - 1)
    first, last = np.floor(np.minimum(total, 0)).astype(int), np.ceil(np.maximum(total, 0)).astype(int)
    shape = tuple(int(size) for size in np.array(values.shape[:2]) + last - first)
    fill = float(values.min())
    moved = np.empty((*shape, values.shape[2]), np.float32)
    for k in range(values.shape[2]):
        ndimage.affine_transform(
            values[:, :, k],
            np.eye(2),
            offset=np.round(first - k * slide, 9),
            output_shape=shape,
            output=moved[:, :, k],
            order=1,
            mode="constant",
            cval=fill,
        )
    affine = tilted.affine.copy()
    affine[:3, 3] += affine[:3, :2] @ first
    notify(
        path,
        f"resampled from slices tilted by {tilted.tilt:.3g} degrees onto a grid at right angles of"
        f" {' x '.join(map(str, moved.shape))} voxels; voxels outside the slices are {fill:g}",
    )
    return moved, affine
