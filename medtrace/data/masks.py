"""Masks and label maps on the grid of an image: what is inside, and labels as whole numbers."""

from __future__ import annotations

from pathlib import Path

import torch
from monai.data import MetaTensor
from torch import Tensor

from medtrace.data.reading import read_values
from medtrace.geometry.grid import Grid
from medtrace.guard.notices import notify
from medtrace.transforms.mask_rule import ON_GRID, inside_of

LARGEST_LABEL = 65535


def read_mask(path: str | Path, image: Tensor, image_path: str | Path, *, allow_empty: bool = False) -> Tensor:
    """Read a mask on the grid of an image, by the rules of `inside_of`, which are reported where they matter.

    Args:
        path: the mask's file.
        image: (C, *spatial), the image that it belongs to.
        image_path: where that came from, for messages.
        allow_empty: whether the mask may be empty, as for a lesion that has healed.

    Returns:
        Boolean (1, *spatial).

    Raises:
        FileNotFoundError: if there is nothing at the path.
        ValueError: if it cannot be read, is on another grid, has several channels, holds infinity or, unless allowed,
            is empty; the message names the file.

    Warns:
        Notice: about the rule, and if every voxel is inside.
    """
    mask = read_values(path)
    if mask.shape[0] != 1:
        raise ValueError(f"{path}: expected a mask of one channel, received {mask.shape[0]}; give a single label map")
    check_same_grid(mask, path, image, image_path, ON_GRID)
    try:
        inside, rule = inside_of(mask.as_tensor())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not bool(inside.any()) and not allow_empty:
        raise ValueError(f"{path}: the mask is empty; mark the foreground with positive values, or leave it out")
    if rule is not None:
        notify(path, rule)
    if bool(inside.all()):
        notify(path, "the mask covers the entire image: every voxel is inside")
    return inside


def read_labels(path: str | Path, image: Tensor, image_path: str | Path) -> Tensor:
    """Read a segmentation on the grid of an image.

    Args:
        path: the segmentation's file.
        image: (C, *spatial), the image that it belongs to.
        image_path: where that came from, for messages.

    Returns:
        (1, *spatial) int32.

    Raises:
        FileNotFoundError: if there is nothing at the path.
        ValueError: if it cannot be read, is on another grid, has several channels, or holds anything but whole
            numbers from 0 to 65535; the message names the file and the value.
    """
    labels = read_values(path)
    if labels.shape[0] != 1:
        raise ValueError(f"{path}: expected labels of one channel, received {labels.shape[0]}; give a single label map")
    check_same_grid(labels, path, image, image_path, ON_GRID)
    values = labels.as_tensor()
    odd = ~((values >= 0) & (values <= LARGEST_LABEL) & (values == values.round()))
    if bool(odd.any()):
        raise ValueError(
            f"{path}: expected labels that are whole numbers from 0 to {LARGEST_LABEL}, received"
            f" {float(values[odd][0]):.9g}; renumber them"
        )
    return values.to(torch.int32)


def check_same_grid(
    first: Tensor, first_path: str | Path, second: Tensor, second_path: str | Path, tolerance: float = 1e-3
) -> None:
    """Check that two images share their shape and, where both have one, their affine.

    Args:
        first: (C, *spatial).
        first_path: where it came from.
        second: likewise.
        second_path: likewise.
        tolerance: how far apart the same voxel may lie, in edges of the smaller voxel.

    Raises:
        ValueError: if not; it names both files and the distance.
    """
    if first.shape[1:] != second.shape[1:]:
        raise ValueError(
            f"{first_path}: expected the grid {tuple(second.shape[1:])} of {second_path}, received"
            f" {tuple(first.shape[1:])}; resample one onto the other"
        )
    if not isinstance(first, MetaTensor) or not isinstance(second, MetaTensor):
        return
    ours, theirs = Grid.of(first), Grid.of(second)
    if not ours.coincides(theirs, tolerance):
        raise ValueError(
            f"{first_path}: lies up to {ours.distance(theirs):.3g} mm off {second_path}, whose voxels it should share;"
            " resample one onto the other"
        )
