"""The second pass of a preparation: normalize every pair by what was learned, and write its items."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from medtrace.data.landmarks.points import write_landmarks
from medtrace.data.lists.layouts import Pair
from medtrace.data.preparation.case import Case, PreparationSettings, in_plane_first, members, naming, read_case
from medtrace.data.preparation.learning import known_motion
from medtrace.data.preparation.rules import Preparation
from medtrace.geometry.resampling import center_window, resize_labels, resized_affine, shifted_affine, spacing_of
from medtrace.geometry.resampling import resize as resize_volume
from medtrace.io import write_image
from medtrace.io.transforms import write_itk
from medtrace.storage.cases import atomic_case, case_key, compute_threads, is_finished
from medtrace.storage.files import atomic_write, make_directory

WRITTEN = "written"
PICTURE_SIZE = 256
_FILE = "items.json"


class Item(NamedTuple):
    """One item of a data set, and its grid."""

    entry: dict[str, Any]
    shape: tuple[int, ...]
    """(C, *spatial), a slice with an axis of length 1."""
    spacing: tuple[float, ...]
    """Voxel size in mm."""
    clipped: int = 0
    """Pixels of a pair of pictures outside of the value range."""


def write_case(
    pair: Pair,
    settings: PreparationSettings,
    preparation: Preparation,
    columns: Sequence[str],
    learned_key: str,
    folder: Path,
    threads: int | None,
) -> list[Item]:
    """Write the items of a pair below `folder`, unless they are there already.

    Raises:
        FileNotFoundError, ValueError: if a file cannot be used; the message names it.
    """
    key = case_key({}, learned=learned_key, preparation=asdict(preparation), settings=asdict(settings))
    place = folder / WRITTEN / pair.name
    if not is_finished(place, key):
        with compute_threads(threads), atomic_case(place, key) as temporary:
            case = read_case(pair, settings, preparation.picture, known_motion(pair, folder), columns)
            volumes = [_normalized(preparation, *member) for member in members(case)]
            extras = _write_extras(case, temporary)
            items = list(_write_images(case, volumes, settings, preparation.picture, extras, temporary))
            items[0] = items[0]._replace(clipped=sum(_clipped(preparation, *member) for member in members(case)))
            atomic_write(temporary / _FILE, json.dumps([item._asdict() for item in items]))
    return [
        Item(item["entry"], tuple(item["shape"]), tuple(item["spacing"]), item["clipped"])
        for item in json.loads((place / _FILE).read_text(encoding="utf-8"))
    ]


def _normalized(preparation: Preparation, path: Path, image: Tensor, contrast: str, foreground: Tensor) -> Tensor:
    with naming(path):
        normalized, _ = preparation.normalize(image, contrast, foreground)
    return (torch.where(foreground, normalized, -1.0) + 1) / 2


def _clipped(preparation: Preparation, _path: Path, image: Tensor, _contrast: str, foreground: Tensor) -> int:
    return preparation.count_outside(image, foreground)


def _write_images(
    case: Case,
    volumes: Sequence[Tensor],
    settings: PreparationSettings,
    picture: bool,
    extras: Mapping[str, str],
    folder: Path,
) -> Iterator[Item]:
    affine, written = case.affine, {**dict(zip(("source", "target"), volumes)), **case.maps}
    shape = tuple(case.source.shape[1:])
    if settings.crop is not None and not picture:
        slice_axis = settings.axis.index if settings.spatial_dims == 2 else None
        size = in_plane_first(settings.crop, slice_axis)
        windows = {kind: center_window(volume, size, settings.pad) for kind, volume in written.items()}
        written = {kind: window for kind, (window, _) in windows.items()}
        shape, affine = tuple(written["source"].shape[1:]), shifted_affine(affine, windows["source"][1])
    edge = settings.resize if settings.resize is not None else PICTURE_SIZE if picture else 0
    if edge:
        new = (edge, edge, shape[2])
        affine, shape = resized_affine(affine, shape, new), new
        written = {
            kind: resize_labels(volume, new) if kind in case.maps else resize_volume(volume, new)
            for kind, volume in written.items()
        }
    make_directory(folder / "images")
    common = {"subject": case.pair.subject, "volume": case.pair.name, "contrast": case.pair.contrast}
    for name, start, stop in _parts(case.pair, shape[2], settings, picture):
        entry: dict[str, Any] = {**common, "case": name, **extras}
        here = shifted_affine(affine, (0, 0, start))
        for kind, volume in written.items():
            part = volume[..., start:stop]
            entry[kind] = f"images/{name}_{kind}.nii.gz"
            if kind in case.maps:
                part = part.to(torch.int32)
            write_image(folder / entry[kind], part, here)
        yield Item(entry, tuple(part.shape), tuple(map(float, spacing_of(here))))


def _parts(pair: Pair, depth: int, settings: PreparationSettings, picture: bool) -> Iterable[tuple[str, int, int]]:
    if settings.spatial_dims == 3:
        return [(pair.name, 0, depth)]
    if picture:
        return [(pair.name, 0, 1)]
    first = (depth - settings.slices) // 2
    return [(f"{pair.name}_{k:03d}", k, k + 1) for k in range(first, first + settings.slices)]


def _write_extras(case: Case, folder: Path) -> dict[str, str]:
    """The rigid motion, and landmarks of both dates in the source's frame."""
    entries = {}
    pair = case.pair
    if case.rigid is not None:
        make_directory(folder / "rigid")
        entries["rigid"] = f"rigid/{pair.name}.tfm"
        write_itk(folder / entries["rigid"], case.rigid.to_itk())
    back = None if case.rigid is None else torch.linalg.inv(case.rigid.matrix)
    for kind, (names, points) in case.landmarks.items():
        if back is not None and kind == "target_landmarks":
            points = points @ back[:3, :3].T + back[:3, 3]
        make_directory(folder / "landmarks")
        entries[kind] = f"landmarks/{pair.name}_{kind.removesuffix('_landmarks')}.csv"
        write_landmarks(folder / entries[kind], names, points)
    return entries
