"""Lesions and labels of a pair, which go where its images go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from monai.data import MetaTensor
from torch import Tensor

from medtrace.data.lists.layouts import LESIONS, Pair
from medtrace.data.masks import read_labels, read_mask
from medtrace.data.structures import is_structures, read_liver_labels, read_tumors

ENTRIES = {
    "source_lesion": "source_mask",
    "target_lesion": "mask",
    "source_labels": "source_labels",
    "target_labels": "target_labels",
}
"""Column of a pair list → entry of a prepared item, as registration reads it."""


def columns_in(pairs: Sequence[Pair]) -> tuple[str, ...]:
    """The columns that at least one pair fills."""
    return tuple(column for column in ENTRIES if any(getattr(pair, column) is not None for pair in pairs))


def read_maps(
    pair: Pair, columns: Sequence[str], sides: Mapping[str, tuple[MetaTensor, Path] | None]
) -> dict[str, MetaTensor]:
    """Read the lesions and labels of a pair, each on the grid of its own image.

    Args:
        pair: where they are.
        columns: which the data set has; a pair without a lesion gets an empty one, so that items fit into a batch.
        sides: "source" and "target" → (C, *spatial) and the file that it came from, None where the pair has none.

    Returns:
        Column → (1, *spatial), of a lesion boolean, of labels int32.

    Raises:
        FileNotFoundError, ValueError: if a file cannot be used; the message names it.
    """
    maps = {}
    for column in columns:
        first = sides[column.partition("_")[0]]
        if first is None:
            continue
        image, image_path = first
        path = getattr(pair, column)
        if path is None:
            values = torch.zeros_like(image.as_tensor()[:1], dtype=torch.bool)
        elif column in LESIONS:
            values = (
                read_tumors(path, image, image_path)
                if is_structures(path)
                else read_mask(path, image, image_path, allow_empty=True)
            )
        else:
            values = read_label_map(path, image, image_path)
        maps[column] = MetaTensor(values, affine=image.affine)
    return maps


def read_label_map(path: Path, image: Tensor, image_path: Path) -> Tensor:
    """Read labels from a file, or a folder of structures, on the grid of an image; see `medtrace.data.masks`."""
    return (read_liver_labels if is_structures(path) else read_labels)(path, image, image_path)


def entries_of(maps: dict[str, Tensor]) -> dict[str, Tensor]:
    """The maps under the names of a prepared item."""
    return {ENTRIES[column]: values for column, values in maps.items()}
