"""Turn before/after images into a dataset that training reads (TraceTrans, Datasets)."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import SimpleITK as sitk
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from medtrace.data.dataset import INDEX, VERSION
from medtrace.data.grids import center_window, resize_labels, resized_affine, shifted_affine, spacing_of
from medtrace.data.grids import resize as resize_volume
from medtrace.data.landmarks import read_landmarks, write_landmarks
from medtrace.data.layouts import SPLITS, Pair, read_pairs, split_by_subject, split_of_list
from medtrace.data.preparation import (
    FILE,
    ContrastStandard,
    Intensity,
    Preparation,
    fit_contrast,
    foreground_quantiles,
)
from medtrace.data.reading import is_picture
from medtrace.io import write_image
from medtrace.transforms import RigidMotion
from medtrace.workflows.prepare_case import Case, Settings, checked_settings, in_plane_first, read_case
from medtrace.workflows.prepare_maps import columns_in

PAPER_CROP = (192, 192, 128)
PAPER_FRACTIONS = (0.7, 0.0, 0.3)
PICTURE_SIZE = 256


class PreparationSummary(NamedTuple):
    """What `prepare` made."""

    folder: Path
    counts: dict[str, int]
    """Items (slices or volumes) per split."""
    failures: list[str]
    """One line per case that was left out."""
    split: str = "random"
    """Where the split came from: "random", or "list" for the pair list's own."""


def prepare(
    source: str | os.PathLike,
    out: str | os.PathLike,
    *,
    contrasts: Sequence[str] = ("t1",),
    spatial_dims: int = 2,
    slices: int = 11,
    axis: str = "axial",
    crop: Sequence[int] | None = PAPER_CROP,
    pad: bool = False,
    spacing: Sequence[float] | None = None,
    resize: int | None = None,
    align: bool = True,
    standardize: bool = True,
    fractions: Sequence[float] | Mapping[str, float] | None = None,
    seed: int = 0,
    skip_failed: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> PreparationSummary:
    """Prepare pairs of scans or pictures, split by subject: as the list says, else at random.

    Scans: the target is aligned rigidly to the source and resampled on its grid; both are reoriented to RAS, then
    standardised (Nyul's landmarks and the window of z come from training subjects only), cropped about the centre
    and, with `spatial_dims=2`, cut into central slices. Pictures (PNG, JPEG; the paper's faces) are resized
    and their range mapped to [0, 1]. What is stored lies in [0, 1], background at 0. Lesions and labels go
    along, each voxel from the nearest.

    The folder holds `dataset.json` (one list of items per split, and where the split came from), `preparation.json`
    (how a new source is to be treated), `images/` (NIfTI; a slice is a one-slice volume with its own affine), `rigid/`
    (ITK transforms from source to target points) and `landmarks/` (CSV, RAS mm, both dates in the source's frame).

    Args:
        source: a pair list or a BraTS-Reg folder (see `medtrace.data.layouts`).
        out: the dataset's folder; it appears complete or not at all.
        contrasts: of the BraTS-Reg layout.
        spatial_dims: 2 for slices, 3 for volumes.
        slices: how many central slices of each volume.
        axis: "axial", "coronal" or "sagittal".
        crop: voxels right-left, front-back and up-down to which larger volumes are cut; None keeps all.
        pad: whether smaller volumes are padded to `crop`.
        spacing: voxel size in mm to which sources are resampled first, in the same order.
        resize: edge of square slices; None is 256 for pictures and no resizing for scans, 0 is no resizing.
        align: whether targets are aligned; without it they must lie on the source's grid. Pictures never are.
        standardize: whether Nyul's standardisation comes before the z-score.
        fractions: shares of subjects, see `split_by_subject`; None is 7:3 without validation. A list that has a
            split of its own takes none.
        seed: of the random split.
        skip_failed: leave a failing case out instead of stopping.
        overwrite: replace an earlier dataset.
        progress: show a bar on stderr.

    Returns:
        Counts per split, the cases that were left out, and where the split came from.

    Raises:
        FileNotFoundError: if a file is missing.
        FileExistsError: if `out` is in use.
        ValueError: if a setting or an image cannot be worked with; the message names it.
    """
    settings = checked_settings(spatial_dims, slices, axis, crop, pad, spacing, resize, align, standardize)
    pairs = read_pairs(Path(source), contrasts)
    split, origin = _split(pairs, fractions, seed)
    pictures = _all_pictures(pairs)
    columns = columns_in(pairs)
    with _appearing(Path(out), overwrite) as folder:
        failures = _Failures(skip_failed)
        with Progress(console=Console(stderr=True), disable=not progress) as bar:
            learned, rigid = _learn(split["training"], settings, pictures, failures, bar)
            items = {
                name: list(_export(split[name], settings, learned, rigid, folder, failures, bar, name, columns))
                for name in SPLITS
            }
        written = [grid for name in SPLITS for _, grid in items[name]]
        if not items["training"] and split["training"]:
            raise ValueError(f"no training case could be prepared: {failures.lines[0]}")
        preparation = replace(learned, **_common_grid(written, settings.spatial_dims))
        preparation.save(folder / FILE)
        index = {
            "version": VERSION,
            "spatial_dims": settings.spatial_dims,
            "channels": preparation.channels,
            "split": origin,
            **{name: [entry for entry, _ in items[name]] for name in SPLITS},
        }
        (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    counts = {name: len(items[name]) for name in SPLITS}
    return PreparationSummary(Path(out), counts, failures.lines, origin["from"])


def _split(
    pairs: Sequence[Pair], fractions: Sequence[float] | Mapping[str, float] | None, seed: int
) -> tuple[dict[str, list[Pair]], dict[str, Any]]:
    """The pairs of each split, and where the split came from."""
    published = split_of_list(pairs)
    if published is None:
        shares = PAPER_FRACTIONS if fractions is None else fractions
        dealt = split_by_subject(pairs, shares, seed)
        named = dict(shares) if isinstance(shares, Mapping) else dict(zip(SPLITS, shares))
        return dealt, {"from": "random", "fractions": named, "seed": seed}
    if fractions is not None:
        raise ValueError(
            f"fractions: expected none, because the list has a split of its own, received {fractions!r}; leave them"
            " out, or the list's column split"
        )
    return published, {"from": "list"}


def _all_pictures(pairs: Sequence[Pair]) -> bool:
    kinds = {is_picture(path) for pair in pairs for path in (pair.source, pair.target)}
    if len(kinds) > 1:
        first = is_picture(pairs[0].source)
        odd = next(pair for pair in pairs if (is_picture(pair.source), is_picture(pair.target)) != (first, first))
        raise ValueError(f"{odd.origin}: mixes scans and pictures (PNG, JPEG); prepare them as two datasets")
    return kinds == {True}


class _Failures:
    """Stops at the first failing case, or collects the lines."""

    def __init__(self, skip: bool) -> None:
        self.skip = skip
        self.lines: list[str] = []
        self.cases: set[str] = set()

    @contextmanager
    def catch(self, pair: Pair) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            line = " ".join(f"case {pair.name}: {error}".split())
            if not self.skip:
                raise ValueError(line) from error
            self.lines.append(line)
            self.cases.add(pair.name)


def _learn(
    pairs: Sequence[Pair], settings: Settings, pictures: bool, failures: _Failures, bar: Progress
) -> tuple[Preparation, dict[str, RigidMotion]]:
    """What the training subjects teach, and their rigid motions, which are not sought twice."""
    quantiles: dict[str, list[np.ndarray]] = defaultdict(list)
    rigid: dict[str, RigidMotion] = {}
    highest, channels = 0.0, None
    for pair in bar.track(pairs, description="learning intensities"):
        with failures.catch(pair):
            case = read_case(pair, settings, pictures, None)
            if channels is not None and case.source.shape[0] != channels:
                raise ValueError(
                    f"{pair.source}: expected {channels} channel(s) as the cases before, received"
                    f" {case.source.shape[0]}; prepare images of one kind"
                )
            channels = case.source.shape[0]
            if case.rigid is not None:
                rigid[pair.name] = case.rigid
            if pictures:
                highest = max(highest, float(case.source.max()), float(case.target.max()))
                continue
            for path, image, contrast, foreground in _members(case):
                with _naming(path):
                    quantiles[contrast] += foreground_quantiles(image, foreground)
    common: dict[str, Any] = {"spatial_dims": settings.spatial_dims, "axis": settings.axis, "channels": channels}
    if pictures:
        picture_range = (0.0, 255.0 if 1 < highest <= 255 else 65535.0 if highest > 255 else 1.0)
        return Preparation(intensity=Intensity.RANGE, value_range=picture_range, picture=True, **common), rigid
    standards: dict[str, ContrastStandard] = {
        name: fit_contrast(images, settings.standardize) for name, images in quantiles.items()
    }
    if not standards:
        raise ValueError(f"no training case could be read: {(failures.lines or ['the training split is empty'])[0]}")
    sources = {pair.contrast for pair in pairs}
    return (
        Preparation(
            intensity=Intensity.STANDARDISED,
            contrasts=standards,
            source_contrast=next(iter(sources)) if len(sources) == 1 else None,
            **common,
        ),
        rigid,
    )


def _members(case: Case) -> list[tuple[Path, Tensor, str, Tensor]]:
    """File, image, contrast and foreground of the source and of the target."""
    pair = case.pair
    return [
        (pair.source, case.source, pair.contrast, case.source_foreground),
        (pair.target, case.target, pair.target_contrast, case.target_foreground),
    ]


def _export(
    pairs: Sequence[Pair],
    settings: Settings,
    preparation: Preparation,
    rigid: Mapping[str, RigidMotion],
    folder: Path,
    failures: _Failures,
    bar: Progress,
    split: str,
    columns: Sequence[str],
) -> Iterator[tuple[dict[str, Any], tuple[tuple[int, ...], Tensor]]]:
    """Write every case of a split; yields its items with their grids."""
    for pair in bar.track(pairs, description=f"writing {split}") if pairs else ():
        if pair.name in failures.cases:
            continue
        made: list[Any] = []
        with failures.catch(pair):
            case = read_case(pair, settings, preparation.picture, rigid.get(pair.name), columns)
            volumes = [_normalised(preparation, *member) for member in _members(case)]
            extras = _write_extras(case, folder)
            made = list(_write_images(case, volumes, settings, preparation.picture, extras, folder))
        yield from made


def _normalised(preparation: Preparation, path: Path, image: Tensor, contrast: str, foreground: Tensor) -> Tensor:
    with _naming(path):
        normalised, _ = preparation.normalise(image, contrast, foreground)
    return (torch.where(foreground, normalised, -1.0) + 1) / 2


def _write_images(
    case: Case,
    volumes: Sequence[Tensor],
    settings: Settings,
    picture: bool,
    extras: Mapping[str, str],
    folder: Path,
) -> Iterator[tuple[dict[str, Any], tuple[tuple[int, ...], Tensor]]]:
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
    (folder / "images").mkdir(exist_ok=True)
    common = {"subject": case.pair.subject, "volume": case.pair.name, "contrast": case.pair.contrast}
    for name, start, stop in _parts(case.pair, shape[2], settings, picture):
        entry: dict[str, Any] = {**common, "case": name, **extras}
        here = shifted_affine(affine, (0, 0, start))
        for kind, volume in written.items():
            part = volume[..., start:stop]
            entry[kind] = f"images/{name}_{kind}.nii.gz"
            write_image(folder / entry[kind], part, here, "uint8" if kind in case.maps else "float32")
        yield entry, (tuple(part.shape), here)


def _parts(pair: Pair, depth: int, settings: Settings, picture: bool) -> Iterable[tuple[str, int, int]]:
    if settings.spatial_dims == 3:
        return [(pair.name, 0, depth)]
    if picture:
        return [(pair.name, 0, 1)]
    if depth < settings.slices:
        raise ValueError(
            f"{pair.source}: has {depth} {settings.axis} slice(s), of which {settings.slices} are wanted; ask for fewer"
        )
    first = (depth - settings.slices) // 2
    return [(f"{pair.name}_{k:03d}", k, k + 1) for k in range(first, first + settings.slices)]


def _write_extras(case: Case, folder: Path) -> dict[str, str]:
    """The rigid motion, and landmarks of both dates in the source's frame."""
    entries = {}
    pair = case.pair
    if case.rigid is not None:
        (folder / "rigid").mkdir(exist_ok=True)
        entries["rigid"] = f"rigid/{pair.name}.tfm"
        sitk.WriteTransform(case.rigid.to_itk(), str(folder / entries["rigid"]))
    back = None if case.rigid is None else torch.linalg.inv(case.rigid.matrix)
    for kind, path, moved in (
        ("source_landmarks", pair.source_landmarks, None),
        ("target_landmarks", pair.target_landmarks, back),
    ):
        if path is not None:
            names, points = read_landmarks(path, pair.landmark_space)
            if moved is not None:
                points = points @ moved[:3, :3].T + moved[:3, 3]
            (folder / "landmarks").mkdir(exist_ok=True)
            entries[kind] = f"landmarks/{pair.name}_{kind.removesuffix('_landmarks')}.csv"
            write_landmarks(folder / entries[kind], names, points)
    return entries


def _common_grid(grids: Sequence[tuple[tuple[int, ...], Tensor]], spatial_dims: int) -> dict[str, Any]:
    """Shape and spacing that all written images share, None where they differ."""
    shapes = {shape[1 : 1 + spatial_dims] for shape, _ in grids}
    spacings = np.array([spacing_of(affine) for _, affine in grids])
    middle = np.median(spacings, axis=0)
    alike = bool(np.all(np.abs(spacings / middle - 1) < 0.01))
    return {
        "spatial_shape": next(iter(shapes)) if len(shapes) == 1 else None,
        "spacing": tuple(round(float(value), 6) for value in middle) if alike else None,
    }


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the file into a message about its voxels."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


@contextmanager
def _appearing(out: Path, overwrite: bool) -> Iterator[Path]:
    """A temporary folder that becomes `out` when all went well."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        if not (out / INDEX).is_file():
            raise FileExistsError(f"{out}: is in use by something else; choose another folder")
        if not overwrite:
            raise FileExistsError(f"{out}: holds a dataset already; choose another folder, or overwrite it")
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    temporary = parent / f".{out.name}-{uuid.uuid4().hex}"
    retired = parent / f".{out.name}-{uuid.uuid4().hex}-old"
    temporary.mkdir()
    try:
        yield temporary
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.exists():
            out.rename(retired)
        try:
            temporary.rename(out)
        except OSError:
            if retired.exists():
                retired.rename(out)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(retired, ignore_errors=True)
