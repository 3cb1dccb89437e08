"""The second pass of a preparation: normalize every pair by the learned values, and write its items."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from medtrace.data.landmarks.points import write_landmarks
from medtrace.data.lists.pair_list import SIDES, Pair
from medtrace.data.preparation.case import Case, Member, PreparationSettings, in_plane_first, naming, read_case
from medtrace.data.preparation.learning import known_motions
from medtrace.data.preparation.rules import Preparation
from medtrace.geometry.resampling import center_window, resize_labels, resized_affine, shifted_affine, spacing_of
from medtrace.geometry.resampling import resize as resize_volume
from medtrace.io import write_image
from medtrace.io.transforms import write_itk
from medtrace.storage.cases import atomic_case, case_key, compute_threads, is_finished
from medtrace.storage.files import atomic_write, make_directory

WRITTEN = "written"
NATURAL_IMAGE_SIZE = 256
_FILE = "items.json"


class Item(NamedTuple):
    """One item of a data set, and its grid."""

    entry: dict[str, Any]
    shape: tuple[int, ...]
    """(C, *spatial), a slice with an axis of length 1."""
    spacing: tuple[float, ...]
    """Voxel size in mm."""
    clipped: int = 0
    """Pixels of a pair of natural images outside of the value range."""


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
            case = read_case(pair, settings, preparation.natural_image, known_motions(pair, folder), columns)
            volumes = {side: _stacked(preparation, case, side) for side in SIDES if case.of(side)}
            extras = _write_extras(case, temporary)
            items = list(_write_images(case, volumes, settings, preparation.natural_image, extras, temporary))
            items[0] = items[0]._replace(clipped=sum(_clipped(preparation, member) for member in case.members))
            atomic_write(temporary / _FILE, json.dumps([item._asdict() for item in items]))
    return [
        Item(item["entry"], tuple(item["shape"]), tuple(item["spacing"]), item["clipped"])
        for item in json.loads((place / _FILE).read_text(encoding="utf-8"))
    ]


def _stacked(preparation: Preparation, case: Case, side: str) -> Tensor:
    """The images of a side in their channels, with background and missing contrasts at 0."""
    there = {member.image.channel: _normalized(preparation, member) for member in case.of(side)}
    if side == "target" or not case.pair.sources:
        return torch.cat([there[channel] for channel in sorted(there)])
    empty = torch.zeros_like(next(iter(there.values())))
    return torch.cat([there.get(channel, empty) for channel in range(len(case.pair.sources))])


def _normalized(preparation: Preparation, member: Member) -> Tensor:
    with naming(member.image.path):
        normalized, _ = preparation.normalize(member.values, member.image.contrast, member.foreground)
    return (torch.where(member.foreground, normalized, -1.0) + 1) / 2


def _clipped(preparation: Preparation, member: Member) -> int:
    return preparation.count_outside(member.values, member.foreground)


def _write_images(
    case: Case,
    volumes: Mapping[str, Tensor],
    settings: PreparationSettings,
    natural_image: bool,
    extras: Mapping[str, str],
    folder: Path,
) -> Iterator[Item]:
    affine, written = case.affine, {**volumes, **case.maps}
    shape = case.shape
    if settings.crop is not None and not natural_image:
        slice_axis = settings.axis.index if settings.spatial_dims == 2 else None
        size = in_plane_first(settings.crop, slice_axis)
        windows = {kind: center_window(volume, size, settings.pad) for kind, volume in written.items()}
        written = {kind: window for kind, (window, _) in windows.items()}
        first = next(iter(written))
        shape, affine = tuple(written[first].shape[1:]), shifted_affine(affine, windows[first][1])
    edge = settings.resize if settings.resize is not None else NATURAL_IMAGE_SIZE if natural_image else 0
    if edge:
        new = (edge, edge, shape[2])
        affine, shape = resized_affine(affine, shape, new), new
        written = {
            kind: resize_labels(volume, new) if kind in case.maps else resize_volume(volume, new)
            for kind, volume in written.items()
        }
    make_directory(folder / "images")
    common: dict[str, Any] = {
        "subject": case.pair.subject,
        "volume": case.pair.name,
        "contrast": case.pair.first.contrast,
    }
    if case.pair.sources:
        common["source_present"] = [image is not None for image in case.pair.sources]
    for name, start, stop in _parts(case.pair, shape[2], settings, natural_image):
        entry: dict[str, Any] = {**common, "case": name, **extras}
        here = shifted_affine(affine, (0, 0, start))
        for kind, volume in written.items():
            part = volume[..., start:stop]
            entry[kind] = f"images/{name}_{kind}.nii.gz"
            if kind in case.maps:
                part = part.to(torch.int32)
            write_image(folder / entry[kind], part, here)
        yield Item(entry, tuple(part.shape), tuple(map(float, spacing_of(here))))


def _parts(
    pair: Pair, depth: int, settings: PreparationSettings, natural_image: bool
) -> Iterable[tuple[str, int, int]]:
    if settings.spatial_dims == 3:
        return [(pair.name, 0, depth)]
    if natural_image:
        return [(pair.name, 0, 1)]
    first = (depth - settings.slices) // 2
    return [(f"{pair.name}_{k:03d}", k, k + 1) for k in range(first, first + settings.slices)]


def _write_extras(case: Case, folder: Path) -> dict[str, str]:
    """The rigid transforms, and landmarks of both dates in the source's frame."""
    entries: dict[str, str] = {}
    pair = case.pair
    for key, motion in case.motions.items():
        make_directory(folder / "rigid")
        path = f"rigid/{pair.name}.tfm" if key == "target" else f"rigid/{pair.name}_{key}.tfm"
        write_itk(folder / path, motion.to_itk())
        entries |= {"rigid": path} if key == "target" else {}
    back = torch.linalg.inv(case.motions["target"].matrix) if "target" in case.motions else None
    for kind, (names, points) in case.landmarks.items():
        if back is not None and kind == "target_landmarks":
            points = points @ back[:3, :3].T + back[:3, 3]
        make_directory(folder / "landmarks")
        entries[kind] = f"landmarks/{pair.name}_{kind.removesuffix('_landmarks')}.csv"
        write_landmarks(folder / entries[kind], names, points)
    return entries
