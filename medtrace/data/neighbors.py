"""Neighboring slices of one scan beside each slice of a prepared data set, for 2D networks that read both (2.5D)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform
from torch import Tensor

from medtrace.data.around import Around
from medtrace.data.nifti import read_nifti
from medtrace.geometry.volume import read_volume_grid
from medtrace.methods.base import NEIGHBORS
from medtrace.trace.validation import as_tensor
from medtrace.transforms.source_dropout import MISSING

APART = 0.1
"""Fraction of the distance of slices by which a neighbor may lie elsewhere than it should."""


def offsets(count: int) -> tuple[int, ...]:
    """Offsets of the neighbors that a slice is read with, nearest first.

    Example:
        >>> offsets(2)
        (-1, 1, -2, 2)
    """
    return tuple(side * distance for distance in range(1, count + 1) for side in (-1, 1))


def neighbors_in(volume: Tensor, chosen: Sequence[int], count: int, stride: int = 1) -> Tensor:
    """The neighbors of slices of a volume; beyond its ends its last slice is repeated.

    Args:
        volume: (S, C, H, W), slices first.
        chosen: numbers of slices, B of them.
        count: number of neighbors on either side.
        stride: slices from one neighbor to the next.

    Returns:
        (B, 2 · count · C, H, W), in the order of `offsets`.

    Example:
        >>> volume = torch.arange(4.0).reshape(4, 1, 1, 1)
        >>> neighbors_in(volume, [0, 2], 1).flatten(1).tolist()
        [[0.0, 1.0], [1.0, 3.0]]
    """
    last = len(volume) - 1
    places = [[min(max(k + stride * offset, 0), last) for k in chosen] for offset in offsets(count)]
    return torch.cat([volume[place] for place in places], dim=1)


def with_neighbors(items: Sequence[Mapping[str, Any]], count: int) -> list[dict[str, Any]]:
    """Items that name the files of their source's neighbors too.

    Neighbors are adjacent slices of the same scan (`volume`, or the part of an item's name before its number); where
    there is none, at the ends of the available part of a scan, the last slice is repeated.

    Args:
        items: with the file "source" of a slice, and "case".
        count: number of neighbors on either side; 0 adds none.

    Raises:
        ValueError: if no two slices are neighbors.
    """
    if not count:
        return [dict(item) for item in items]
    stacks = _stacks(items)
    if items and all(len(stack) < 2 for stack in stacks.values()):
        raise ValueError(
            f"data.neighbors: expected 0, since no two slices of one scan are neighbors ({len(items)} items), received"
            f" {count}; prepare with --slices 3 or more"
        )
    result = [dict(item) for item in items]
    for stack in stacks.values():
        for place, number in stack.items():
            files = [str(items[stack[_nearest(stack, place, offset)]]["source"]) for offset in offsets(count)]
            result[number][NEIGHBORS] = files
    return result


def ends_of(items: Sequence[Mapping[str, Any]], count: int) -> int:
    """Number of items that must repeat a slice because they are at an end."""
    stacks = _stacks(items)
    ways = offsets(count)
    return sum(any(place + way not in stack for way in ways) for stack in stacks.values() for place in stack)


def _stacks(items: Sequence[Mapping[str, Any]]) -> dict[Any, dict[int, int]]:
    """For each scan: position of an item along its axis, in slices → the item's number."""
    scans: dict[Any, list[tuple[float, int]]] = defaultdict(list)
    for number, item in enumerate(items):
        shape, affine = read_volume_grid(Path(item["source"]))
        normal, origin = np.asarray(affine)[:3, 2], np.asarray(affine)[:3, 3]
        name = item.get("volume") or re.sub(r"_\d+$", "", str(item["case"]))
        scans[name, shape[:2]].append((float(normal @ origin / (normal @ normal)), number))
    result: dict[Any, dict[int, int]] = {}
    for scan, members in scans.items():
        first = min(members)[0]
        places = {round(place - first): number for place, number in members}
        regular = all(abs(place - first - round(place - first)) <= APART for place, _ in members)
        if len(places) == len(members) and regular:
            result[scan] = places
        else:
            result |= {(scan, number): {0: number} for _, number in members}
    return result


def _nearest(stack: Mapping[int, int], place: int, offset: int) -> int:
    """The place at an offset, or the last one before a gap on the way there."""
    step = 1 if offset > 0 else -1
    for _ in range(abs(offset)):
        if place + step not in stack:
            break
        place += step
    return place


class ReadNeighborsd(MapTransform):
    """Read the slices that an item names as neighbors, each (C, H, W, 1), as channels of one image."""

    def __init__(self) -> None:
        super().__init__([NEIGHBORS], allow_missing_keys=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Apply to a dict."""
        items = dict(data)
        for key in self.key_iterator(items):
            slices = [read_nifti(file) for file in items[key]]
            items[key] = MetaTensor(torch.cat([as_tensor(one) for one in slices]), affine=items["source"].affine)
        return items


class TogetherWithNeighborsd(Around):
    """Change a source and its neighbors by one draw of a transform of the source.

    Args:
        around: the transform.
    """

    def __init__(self, around: Any) -> None:
        super().__init__(["source"], Compose([around]))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Apply to a case."""
        items = dict(data)
        beside = items.pop(NEIGHBORS, None)
        if beside is None:
            unchanged: dict[Hashable, Any] = self.around(items)
            return unchanged
        channels = len(items["source"])
        items["source"] = torch.cat([items["source"], beside])
        changed: dict[Hashable, Any] = self.around(items)
        both = changed["source"]
        return {**changed, "source": both[:channels], NEIGHBORS: both[channels:]}


class DropNeighborsd(MapTransform):
    """Remove from a source's neighbors the contrasts that the source lacks (`source_present`)."""

    def __init__(self) -> None:
        super().__init__([NEIGHBORS], allow_missing_keys=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Apply to a case."""
        items = dict(data)
        for key in self.key_iterator(items):
            gone = ~items["source_present"]
            if bool(gone.any()):
                items[key] = items[key].clone()
                items[key][gone.repeat(len(items[key]) // len(gone))] = MISSING
        return items
