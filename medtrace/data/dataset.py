"""Read a prepared dataset: what `medtrace prepare` wrote, as MONAI items for training and evaluation."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import CacheDataset, MetaTensor
from monai.transforms import CastToTyped, Compose, InvertibleTransform, MapTransform, ScaleIntensityRanged
from torch import Tensor

from medtrace.data.landmarks.points import read_landmarks
from medtrace.data.lists.layouts import SPLITS
from medtrace.data.neighbors import ReadNeighborsd, with_neighbors
from medtrace.data.nifti import ReadNiftid
from medtrace.geometry.grid import Grid
from medtrace.geometry.volume import read_volume_grid
from medtrace.guard.declared_size import inside
from medtrace.methods.base import NEIGHBORS

INDEX = "dataset.json"
VERSION = 1
IMAGES = ("source", "target")
MASKS = ("mask", "source_mask")
LABELS = ("source_labels", "target_labels")
FILES = ("source_landmarks", "target_landmarks", "rigid")


class DropSliceAxisd(MapTransform, InvertibleTransform):
    """Turn a one-slice volume (C, H, W, 1) into an image (C, H, W) that keeps its 4x4 affine; `inverse` turns it back.

    MONAI's `SqueezeDimd` would reduce the affine to 3x3 and lose the position of the slice.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Apply to a dict."""
        items = dict(data)
        for key in self.key_iterator(items):
            volume = items[key]
            if volume.ndim != 4 or volume.shape[-1] != 1:
                raise ValueError(f"{key}: expected one slice (C, H, W, 1), received shape {tuple(volume.shape)}")
            before = list(volume.applied_operations) if isinstance(volume, MetaTensor) else []
            items[key] = MetaTensor(volume.as_tensor()[..., 0], meta=volume.meta, applied_operations=before)
            self.push_transform(items[key])
        return items

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Give images their third axis back."""
        items = dict(data)
        for key in self.key_iterator(items):
            image = items[key]
            self.pop_transform(image)
            before = image.applied_operations
            items[key] = MetaTensor(image.as_tensor()[..., None], meta=image.meta, applied_operations=before)
        return items


def load_dataset(
    folder: str | os.PathLike,
    split: str = "training",
    transform: Callable | None = None,
    cache_rate: float = 1.0,
    num_workers: int = 0,
    progress: bool = False,
    landmarks: bool = False,
    allow_empty: bool = False,
    neighbors: int = 0,
) -> CacheDataset:
    """Open one split of a prepared dataset.

    Args:
        folder: made by `medtrace prepare`.
        split: "training", "validation" or "test".
        transform: applied to every item after reading, such as an augmentation; random ones run anew each time.
        cache_rate: fraction of the items kept in memory.
        num_workers: threads that fill the cache; 0 is none.
        progress: show a bar while the cache fills.
        landmarks: read the landmarks that a case has at both dates. Their number differs between cases, so such
            items cannot be collated into batches.
        allow_empty: return an empty dataset where the split holds no case, instead of raising an error.
        neighbors: slices of the same scan on either side that a slice is read with (see `medtrace.data.neighbors`).

    Returns:
        Dataset of dicts: "source" and "target" as float32 `MetaTensor`s in [-1, 1], (C, H, W) or (C, H, W, D), with
        the 4x4 affine of their grid; on the same grid, where the pair list has them, "mask" and "source_mask" (bool,
        the lesion of the target and of the source), "source_labels" and "target_labels" (int32); "subject" (who),
        "case" (the item's unique name), "volume" (the pair it was cut from) and "contrast"; of several sources
        "source_present", (C,) bool: which channels of "source" the case has, the others being -1; with `neighbors`
        "source_neighbors", (2 · neighbors · C, H, W), nearest first; the paths
        "source_landmarks_file", "target_landmarks_file" and "rigid_file", empty where there is no such file. With
        `landmarks`, "source_landmarks" and "target_landmarks", (N, 3) float64 in RAS mm; of a slice only those that
        lie in it. The data set's `sizes` are those of the items' grids, by which `CaseLoader` makes batches.

    Raises:
        FileNotFoundError: if the folder holds no dataset, or one of its files is missing.
        ValueError: if the split is unknown or empty, a case's images are on different grids, or neighbors are requested
            where there are none.
    """
    folder = Path(folder)
    index = read_index(folder)
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(map(repr, SPLITS))}, received {split!r}")
    if not index[split] and not allow_empty:
        filled = ", ".join(f"{name} ({len(index[name])})" for name in SPLITS if index[name])
        raise ValueError(
            f"{folder / INDEX}: no case in split {split!r}; use {filled}, or prepare with a fraction for {split}"
        )
    if index.get("unpaired"):
        raise ValueError(
            f"{folder}: holds unpaired domains, in which no source has a target to compare with; evaluate on a"
            " dataset of pairs, or read one side with `load_domain`"
        )
    items = [_item(folder, entry) for entry in index[split]]
    sizes = [_checked_size(item, index["spatial_dims"]) for item in items]
    if landmarks:
        items = [{**item, **_landmarks(item, index["spatial_dims"])} for item in items]
    volumes = (*IMAGES, *_maps_of(folder, items))
    items = with_neighbors(items, neighbors)
    steps = _reading(volumes, index["spatial_dims"], IMAGES, transform, neighbors)
    dataset = CacheDataset(
        items, Compose(steps), cache_rate=cache_rate, num_workers=num_workers or None, progress=progress
    )
    dataset.sizes = sizes  # type: ignore[attr-defined]
    return dataset


def load_domain(
    folder: str | os.PathLike,
    side: str,
    split: str = "training",
    transform: Callable | None = None,
    neighbors: int = 0,
) -> CacheDataset:
    """Open one side of a split of unpaired domains.

    Args:
        folder: made by `medtrace prepare --sources ... --targets ...`.
        side: "source" or "target".
        split: "training", "validation" or "test".
        transform: applied to every item after reading, only once if it is not random.
        neighbors: of sources, see `load_dataset`.

    Returns:
        Dataset of dicts as from `load_dataset`, without the other side.

    Raises:
        FileNotFoundError: if the folder holds no dataset, or one of its files is missing.
        ValueError: if it holds pairs, or no image of that side in the split.
    """
    folder = Path(folder)
    index = read_index(folder)
    if not index.get("unpaired"):
        raise ValueError(f"{folder}: expected unpaired domains, received a dataset of pairs; use `load_dataset`")
    items = [_item(folder, entry, (side,)) for entry in index[split] if side in entry]
    if not items:
        raise ValueError(f"{folder / INDEX}: no {side} in split {split!r}; prepare with a fraction for it")
    volumes = (side, *(name for name in _maps_of(folder, items)))
    dims = index["spatial_dims"]
    count = neighbors if side == "source" else 0
    read = Compose(_reading(volumes, dims, (side,), transform, count))
    dataset = CacheDataset(with_neighbors(items, count), read, progress=False)
    dataset.sizes = [_checked_size(item, dims, side) for item in items]  # type: ignore[attr-defined]
    return dataset


def _reading(
    volumes: Sequence[str], spatial_dims: int, images: Sequence[str], transform: Callable | None, neighbors: int = 0
) -> list[Any]:
    """The steps from files to tensors."""
    # A composed transform is applied in parts, so that the first ones are cached even if later ones are random.
    own = [] if transform is None else transform.transforms if isinstance(transform, Compose) else [transform]
    beside = (NEIGHBORS,) if neighbors else ()
    return [
        ReadNiftid(volumes),
        *([ReadNeighborsd()] if neighbors else []),
        *([DropSliceAxisd((*volumes, *beside))] if spatial_dims == 2 else []),
        ScaleIntensityRanged((*images, *beside), a_min=0.0, a_max=1.0, b_min=-1.0, b_max=1.0, dtype=torch.float32),
        CastToTyped(
            (*MASKS, *LABELS), dtype=[torch.bool] * len(MASKS) + [torch.int32] * len(LABELS), allow_missing_keys=True
        ),
        *own,
    ]


def count_cases(folder: str | os.PathLike) -> dict[str, int]:
    """Number of items in each split of a prepared dataset."""
    index = read_index(Path(folder))
    return {name: len(index[name]) for name in SPLITS}


def read_index(folder: Path) -> dict[str, Any]:
    """Read and check `dataset.json`.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is not an index of this version.
    """
    path = folder / INDEX
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a folder made by `medtrace prepare`")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is not valid JSON ({error}); run `medtrace prepare` again") from error
    version = index.get("version") if isinstance(index, dict) else None
    if version != VERSION or index.get("spatial_dims") not in (2, 3):
        raise ValueError(f"{path}: expected a dataset of version {VERSION}, received {version!r}; prepare it again")
    for name in SPLITS:
        entries = index.setdefault(name, [])
        if not isinstance(entries, Sequence) or not all(isinstance(entry, dict) for entry in entries):
            raise ValueError(f"{path}: {name}: expected a list of cases; run `medtrace prepare` again")
    return index


def _item(folder: Path, entry: Mapping[str, Any], images: Sequence[str] = IMAGES) -> dict[str, Any]:
    item = dict(entry)
    for name in ("subject", "case", *images):
        if name not in item:
            raise ValueError(f"{folder / INDEX}: a case lacks the entry {name!r}; run `medtrace prepare` again")
    if "source_present" in item:
        item["source_present"] = torch.tensor(item["source_present"], dtype=torch.bool)
    # Every item has every key; otherwise a batch of cases with and without landmarks could not be collated.
    item |= {f"{name}_file": "" for name in FILES}
    for name in (*IMAGES, *MASKS, *LABELS, *FILES):
        if name in item:
            file = inside(folder, item.pop(name), f"{folder / INDEX}: {name} of case {item['case']!r}")
            item[f"{name}_file" if name in FILES else name] = str(file)
            if not file.is_file():
                raise FileNotFoundError(
                    f"{file}: no such file, though {folder / INDEX} names it as {name} of case {item['case']!r}; run"
                    " `medtrace prepare` again"
                )
    return item


def _maps_of(folder: Path, items: Sequence[Mapping[str, Any]]) -> list[str]:
    """The masks and labels that the items of a split have: all of them or none."""
    result = []
    for name in (*MASKS, *LABELS):
        without = [item["case"] for item in items if name not in item]
        if without and len(without) < len(items):
            raise ValueError(
                f"{folder / INDEX}: case {without[0]!r} lacks the entry {name!r}, which others have; run"
                " `medtrace prepare` again"
            )
        if items and not without:
            result.append(name)
    return result


def _landmarks(item: Mapping[str, Any], spatial_dims: int) -> dict[str, Tensor]:
    """Points that both dates name, of a slice those within it."""
    if not (item["source_landmarks_file"] and item["target_landmarks_file"]):
        return {}
    before, after = (
        dict(zip(*read_landmarks(item[key], "RAS"))) for key in ("source_landmarks_file", "target_landmarks_file")
    )
    names = [name for name in before if name in after]
    if spatial_dims == 2:
        to_voxel = np.linalg.inv(read_volume_grid(Path(item["source"])).affine)
        names = [name for name in names if abs(float(to_voxel[2, :3] @ before[name].numpy()) + to_voxel[2, 3]) <= 0.5]
    if not names:
        return {}
    return {
        "source_landmarks": torch.stack([before[name] for name in names]),
        "target_landmarks": torch.stack([after[name] for name in names]),
    }


def _checked_size(item: Mapping[str, Any], spatial_dims: int, first: str = "source") -> tuple[int, ...]:
    """Compare the headers of a case's images, masks and labels, which costs no voxel, and take the size from them."""
    grids = {}
    for name in (*IMAGES, *MASKS, *LABELS):
        if name in item:
            try:
                shape, affine = read_volume_grid(Path(item[name]))
                grids[name] = Grid((*shape, 1, 1)[:3], torch.from_numpy(affine))
            except ValueError as error:
                raise ValueError(f"{error}; prepare the dataset again") from error
    source = grids[first]
    for name, grid in grids.items():
        if not grid.coincides(source):
            apart = f", {grid.distance(source):.3g} mm off" if grid.shape == source.shape else ""
            raise ValueError(
                f"{item[name]}: case {item['case']!r}: expected the grid of its {first} {source.shape}, received"
                f" {grid.shape}{apart}; prepare the dataset again"
            )
    return source.shape[:spatial_dims]
