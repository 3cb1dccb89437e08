"""Lesions and labels of a pair, which go where its images go."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.data import MetaTensor
from torch import Tensor

from medtrace.data.lists.layouts import LESIONS, Pair
from medtrace.data.masks import read_labels, read_mask

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


def read_maps(pair: Pair, columns: Sequence[str], source: MetaTensor, target: MetaTensor) -> dict[str, MetaTensor]:
    """Read the lesions and labels of a pair, each on the grid of its own image.

    Args:
        pair: where they lie.
        columns: which the data set has; a pair without a lesion gets an empty one, so that items fit into a batch.
        source: (C, *spatial).
        target: likewise.

    Returns:
        Column → (1, *spatial), of a lesion boolean, of labels int32.

    Raises:
        FileNotFoundError, ValueError: if a file cannot be used; the message names it.
    """
    maps = {}
    for column in columns:
        image, image_path = (source, pair.source) if column.startswith("source") else (target, pair.target)
        path = getattr(pair, column)
        if path is None:
            values = torch.zeros_like(image.as_tensor()[:1], dtype=torch.bool)
        elif column in LESIONS:
            values = read_mask(path, image, image_path, allow_empty=True)
        else:
            values = read_labels(path, image, image_path)
        maps[column] = MetaTensor(values, affine=image.affine)
    return maps


def entries_of(maps: dict[str, Tensor]) -> dict[str, Tensor]:
    """The maps under the names of a prepared item."""
    return {ENTRIES[column]: values for column, values in maps.items()}
