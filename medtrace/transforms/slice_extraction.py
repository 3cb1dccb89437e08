"""Two-dimensional slices of a volume along an anatomical axis, each with its own affine."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from copy import deepcopy
from typing import Any, Literal

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data.meta_tensor import MetaTensor
from monai.transforms.inverse import InvertibleTransform
from monai.transforms.transform import MapTransform
from monai.utils.enums import TransformBackends
from monai.utils.type_conversion import convert_to_tensor
from nibabel.orientations import io_orientation
from torch import Tensor

from ..checks import check_choice
from ..geometry.grid import Grid
from .geometry import Array, affine_of
from .masks import as_mask
from .naming import as_item, detached, named

PLANES = {"axial": "S", "coronal": "A", "sagittal": "R"}
_AXES = ("LR", "PA", "IS")
_CENTERS = ("volume", "foreground")


class SliceExtraction(InvertibleTransform):
    """Take 2D slices of a 3D volume along an anatomical axis, each with its own correct affine.

    The axis is found from the affine (the array axis closest to the anatomical one), so storage order, flips
    and oblique grids do not matter: slices are counted from the side opposite to the axis code, e.g. from
    inferior to superior for "S" (and from superior to inferior for "I").

    In the plane, `canonical=True` orders the axes as in RAS and directs them to right, anterior and superior: an
    axial slice is (C, R, A), a coronal one (C, R, S), a sagittal one (C, A, S), whatever the storage.
    `canonical=False` keeps the array's own order and directions of the two remaining axes. No value is
    interpolated in either case.

    Slices are MetaTensors (C, H, W) whose 4x4 affine takes the pixel (i, j), that is voxel (i, j, 0), to RAS mm;
    its third column is the step to the next slice along the axis code. `inverse` of a slice gives the volume's grid
    with the slice at its position and 0 elsewhere, so that the volume's operations, which slices also record, can be
    undone.

    Args:
        axis: "axial", "coronal", "sagittal" (counted towards S, A, R) or one of the letters R, L, A, P, S, I.
        count: take this many consecutive slices around the center; if the window would leave the volume, the
            slices of the volume nearest to the center. With `indices` None and `count` None: every slice.
        indices: take these slices, counted along the axis code from 0; negative ones count from the end.
        center: "volume", or "foreground": the center of mass of the mask that is passed, else of the non-zero
            voxels.
        canonical: whether the in-plane axes follow RAS.

    Raises:
        TypeError: if count or indices have the wrong type.
        ValueError: if the axis or center is unknown, count is not positive, or count and indices are both given.

    Example:
        >>> slices = SliceExtraction(axis="axial", count=3)(torch.rand(1, 8, 9, 10))
        >>> len(slices), slices[0].shape
        (3, torch.Size([1, 8, 9]))
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012 (MONAI's contract)

    def __init__(
        self,
        axis: str = "axial",
        count: int | None = None,
        indices: Sequence[int] | None = None,
        center: Literal["volume", "foreground"] = "volume",
        canonical: bool = True,
    ) -> None:
        check_choice("axis", axis, (*PLANES, *"RLAPSI"))
        check_choice("center", center, _CENTERS)
        if count is not None and indices is not None:
            raise ValueError(f"count, indices: expected one of them, received {count} and {indices}; leave one out")
        if count is not None:
            _check_integer("count", count)
            if count < 1:
                raise ValueError(f"count: expected at least 1 slice, received {count}")
        if indices is not None:
            if not isinstance(indices, Sequence) or isinstance(indices, str):
                raise TypeError(f"indices: expected a list of whole numbers, received {indices!r}")
            if not indices:
                raise ValueError("indices: expected at least one slice, received none; leave it out for all slices")
            for index in indices:
                _check_integer("indices", index)
        self.axis, self.code = axis, PLANES.get(axis, axis)
        self.count, self.indices, self.center, self.canonical = count, indices, center, canonical

    def __call__(self, img: Any, mask: Any = None, name: str = "img") -> list[Tensor]:
        """Slices of one volume.

        Args:
            img: (C, H, W, D); the affine of a MetaTensor, voxel to RAS mm, else the identity.
            mask: (C, H, W, D), above 0 where the center is sought; needs `center="foreground"`.
            name: the image's name in messages.

        Returns:
            The slices, (C, H, W) each, in the order of `indices` or along the axis code. Their metadata hold the
            `slice_axis` (code), `slice_index` (along the code) and `slice_array_axis` and `slice_array_index`.

        Raises:
            ValueError: if the image is not a volume, has fewer slices than requested, or the foreground is empty.
        """
        volume = _volume(name, img)
        affine = affine_of(name, img)
        chosen = self.choose(volume, affine, mask, named(name, img))
        return self.extract(volume, affine, chosen)

    def choose(self, volume: Tensor, affine: Array, mask: Any = None, label: str = "img") -> list[int]:
        """Indices of the slices to take, along the axis code."""
        array_axis, sign = _array_axis(affine, self.code)
        size = volume.shape[1 + array_axis]
        if mask is not None and self.center != "foreground":
            raise ValueError(
                f"mask of {label}: expected none with center={self.center!r}, received one; set center='foreground'"
            )
        if self.indices is not None:
            outside = [index for index in self.indices if not -size <= index < size]
            if outside:
                raise ValueError(
                    f"indices: expected slices of {label} in [0, {size - 1}] along {self.code}, received {outside};"
                    " choose others"
                )
            return [index % size for index in self.indices]
        count = size if self.count is None else self.count
        if count > size:
            raise ValueError(
                f"count: expected at most {size} slices, all that {label} has along {self.code}, received {count};"
                " ask for fewer"
            )
        # Work along R, A or S, so that opposite codes choose the same slices.
        forward = sign > 0 if self.code in "RAS" else sign < 0
        center = (size - 1) / 2
        if self.center == "foreground":
            region = volume != 0 if mask is None else as_mask(label, mask, volume)
            center = _center_of_mass(label, region, array_axis)
            center = center if forward else size - 1 - center
        start = int(np.clip(np.floor(center - (count - 1) / 2 + 1e-9), 0, size - count))
        window = list(range(start, start + count))
        return window if self.code in "RAS" else [size - 1 - index for index in reversed(window)]

    def extract(self, volume: Tensor, affine: Array, chosen: Sequence[int]) -> list[Tensor]:
        """The slices at indices along the axis code."""
        array_axis, sign = _array_axis(affine, self.code)
        size = volume.shape[1 + array_axis]
        order, signs = self._plane(affine, array_axis)
        values = volume.as_tensor() if isinstance(volume, MetaTensor) else volume
        meta = dict(volume.meta) if isinstance(volume, MetaTensor) else {}
        slices: list[Tensor] = []
        for index in chosen:
            position = index if sign > 0 else size - 1 - index
            pixels = values.select(1 + array_axis, position)
            if order[0] > order[1]:
                pixels = pixels.transpose(1, 2)
            flipped = [1 + axis for axis in range(2) if signs[axis] < 0]
            pixels = pixels.flip(flipped) if flipped else pixels.clone()
            own_meta = deepcopy(meta)
            own_meta.update(
                slice_axis=self.code,
                slice_index=index,
                slice_array_axis=array_axis,
                slice_array_index=position,
            )
            own = _slice_affine(affine, volume.shape[1:], (*order, array_axis), (*signs, sign), position)
            before = deepcopy(volume.applied_operations) if isinstance(volume, MetaTensor) else []
            one = MetaTensor(pixels.contiguous(), torch.from_numpy(own), own_meta, applied_operations=before)
            info = {
                "shape": list(volume.shape[1:]),
                "affine": affine.tolist(),
                "place": [array_axis, position],
                "turned": bool(order[0] > order[1]),
                "flipped": flipped,
            }
            self.push_transform(one, extra_info=info)
            slices.append(one)
        return slices

    def inverse(self, data: Tensor) -> Tensor:
        """The volume's grid with a slice at its position, 0 elsewhere.

        Args:
            data: a slice (C, H, W), unchanged or with changed values.
        """
        info = self.pop_transform(data)["extra_info"]
        pixels = detached(data)
        pixels = pixels.flip(info["flipped"]) if info["flipped"] else pixels
        pixels = pixels.transpose(1, 2) if info["turned"] else pixels
        volume: Tensor = pixels.new_zeros((pixels.shape[0], *info["shape"]))
        array_axis, position = info["place"]
        volume.select(1 + array_axis, position).copy_(pixels)
        if not isinstance(data, MetaTensor):
            return volume
        affine = torch.tensor(info["affine"], dtype=torch.float64)
        own = ("slice_axis", "slice_index", "slice_array_axis", "slice_array_index")
        meta = {key: value for key, value in data.meta.items() if key not in own}
        result: Tensor = MetaTensor(volume, affine, meta, applied_operations=data.applied_operations)
        return result

    def _plane(self, affine: Array, array_axis: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Array axes and directions that become rows and columns."""
        first, second = (axis for axis in range(3) if axis != array_axis)
        if not self.canonical:
            return (first, second), (1, 1)
        world, direction = io_orientation(affine).T
        rows, columns = sorted((first, second), key=lambda axis: world[axis])
        return (rows, columns), (int(direction[rows]), int(direction[columns]))


class SliceExtractiond(MapTransform, InvertibleTransform):
    """Dictionary form of `SliceExtraction`: one item becomes a list of items, one per slice.

    All keys are sliced at the same positions and must share one grid. Like MONAI's cropping of several samples, the
    list is mapped over by the following transforms of a `Compose` and flattened by `list_data_collate`. What is not
    in `keys` is copied into every item.

    Args:
        keys: the volumes.
        axis: as in `SliceExtraction`, as are count, indices, center and canonical.
        mask_key: key of the mask whose center is used by `center="foreground"`; it must be on the same grid.
            Without one, the non-zero voxels of the first key present.
        allow_missing_keys: skip keys that are absent.

    Example:
        >>> pair = {name: torch.rand(1, 8, 9, 10) for name in ("source", "target")}
        >>> items = SliceExtractiond(["source", "target"], indices=[4])(pair)
        >>> len(items), items[0]["target"].shape
        (1, torch.Size([1, 8, 9]))
    """

    backend = SliceExtraction.backend

    def __init__(
        self,
        keys: KeysCollection,
        axis: str = "axial",
        count: int | None = None,
        indices: Sequence[int] | None = None,
        center: Literal["volume", "foreground"] = "volume",
        canonical: bool = True,
        mask_key: str | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if mask_key is not None and center != "foreground":
            raise ValueError(f"mask_key: expected none with center={center!r}, received {mask_key!r}; set center")
        self.mask_key = mask_key
        self.slicer = SliceExtraction(axis, count, indices, center, canonical)

    def __call__(self, data: Mapping[Hashable, Any]) -> list[dict[Hashable, Any]]:
        """Items with one slice of every key.

        Raises:
            ValueError: if the keys' grids differ, or as `SliceExtraction.__call__`.
        """
        present = list(self.key_iterator(as_item(data)))
        if not present:
            raise ValueError(f"keys: expected one of {self.keys} in the item, received {list(data)}; add a volume")
        volumes = {key: _volume(str(key), data[key]) for key in present}
        affines = {key: affine_of(str(key), data[key]) for key in present}
        first = present[0]
        if self.mask_key is not None and self.mask_key not in data:
            raise ValueError(f"mask_key: expected {self.mask_key!r} in the item, received {list(data)}; add it")
        mask = None if self.mask_key is None else data[self.mask_key]
        for key in present[1:]:
            _check_one_grid(first, volumes[first], affines[first], key, volumes[key], affines[key])
        if mask is not None:
            region, grid = _volume(str(self.mask_key), mask), affine_of(str(self.mask_key), mask)
            grid = grid if isinstance(mask, MetaTensor) else affines[first]
            _check_one_grid(first, volumes[first], affines[first], self.mask_key, region, grid)
        chosen = self.slicer.choose(volumes[first], affines[first], mask, named(str(first), data[first]))
        sliced = {key: self.slicer.extract(volumes[key], affines[key], chosen) for key in present}
        others = {key: value for key, value in data.items() if key not in present}
        return [{**deepcopy(others), **{key: sliced[key][number] for key in present}} for number in range(len(chosen))]

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """An item of one slice with its keys back on the volume's grid; see `SliceExtraction.inverse`."""
        item = as_item(data)
        for key in self.key_iterator(item):
            item[key] = self.slicer.inverse(item[key])
        return item


def _volume(name: str, img: Any) -> Tensor:
    """The image as a tensor (C, H, W, D)."""
    label = named(name, img)
    if not isinstance(img, Tensor) and not hasattr(img, "__array__"):
        raise TypeError(f"{label}: expected a tensor or array, received {type(img).__name__}; load it first")
    volume: Tensor = convert_to_tensor(img, track_meta=isinstance(img, MetaTensor))
    if volume.ndim != 4 or volume.numel() == 0:
        raise ValueError(
            f"{label}: expected a volume (C, H, W, D), received shape {tuple(volume.shape)}; slices are taken from"
            " channel-first 3D images"
        )
    return volume


def _array_axis(affine: Array, code: str) -> tuple[int, int]:
    """The array axis closest to an anatomical one, and +1 or -1: whether its index rises towards the code."""
    world = next(axis for axis, pair in enumerate(_AXES) if code in pair)
    wanted = 1 if code == _AXES[world][1] else -1
    orientation = io_orientation(affine)
    array_axis = int(np.flatnonzero(orientation[:, 0] == world)[0])
    return array_axis, int(orientation[array_axis, 1] * wanted)


def _slice_affine(
    affine: Array,
    shape: Sequence[int],
    axes: tuple[int, int, int],
    signs: tuple[int, int, int],
    position: int,
) -> Array:
    """The affine of a slice whose rows, columns and normal are these array axes, directed by the signs."""
    origin = np.zeros(4)
    origin[3] = 1
    step = np.zeros((4, 4))
    for column, (axis, sign) in enumerate(zip(axes, signs)):
        step[axis, column] = sign
        origin[axis] = position if column == 2 else (0 if sign > 0 else shape[axis] - 1)
    step[:, 3] = origin
    return np.asarray(affine @ step)


def _center_of_mass(label: str, region: Tensor, array_axis: int) -> float:
    """Mean index of the region's voxels along an array axis."""
    counts = detached(region).sum([axis for axis in range(4) if axis != 1 + array_axis], dtype=torch.float64)
    if not float(counts.sum()) > 0:
        raise ValueError(f"{label}: expected foreground voxels, received an empty mask or image; use center='volume'")
    places = torch.arange(len(counts), dtype=torch.float64, device=counts.device)
    return float((counts * places).sum() / counts.sum())


def _check_one_grid(
    first: Hashable, volume: Tensor, affine: Array, key: Hashable, other: Tensor, other_affine: Array
) -> None:
    if not Grid.of(volume, affine).coincides(Grid.of(other, other_affine)):
        raise ValueError(
            f"{key}: expected the grid of {first!r}, {tuple(volume.shape[1:])} with affine {affine.tolist()}, received"
            f" {tuple(other.shape[1:])} with {other_affine.tolist()}; resample one onto the other first"
        )


def _check_integer(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name}: expected a whole number, received {value!r}")


SliceExtractionD = SliceExtractionDict = SliceExtractiond
