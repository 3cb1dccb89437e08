"""A trace on disk: one folder of files that ITK, nibabel and other programs read."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medtrace import __version__
from medtrace.checks import check_choice
from medtrace.io.nifti import StorageType, read_nifti_image, read_vectors
from medtrace.io.trace_members import (
    FIELDS,
    IMAGES,
    ON_SOURCE_GRID,
    REQUIRED,
    TRANSFORM_FILES,
    check_member,
    check_shapes,
    check_transform_formats,
    write_members,
)
from medtrace.io.transforms import displacement_file
from medtrace.storage.directories import atomic_directory
from medtrace.storage.files import atomic_write
from medtrace.storage.places import check_room
from medtrace.storage.reservations import Contents, Reservation, is_replacing, reserve_folder
from medtrace.trace import Contrast, Trace
from medtrace.trace.validation import check_affine

FORMAT, VERSION = "medtrace trace", 3
READ_VERSIONS = (1, 2, 3)
"""Version 1 has no digests, 2 no contrasts: its units are unknown, and source and image count as of one."""
INDEX = "trace.json"
BESIDE = ("report.html", "certificate.json")
"""What is reported of a trace and is in its folder, where nothing can be put beside that (see `stands_alone`)."""
_NOTHING = 1e-12
"""Displacement in voxels that counts as none: an exact 0 comes back so from mm on oblique axes."""
_NOTES = {
    "images": "NIfTI, affine to RAS mm; 2D images are one slice; several channels are the fourth axis",
    "ddf": "ITK displacement field, LPS mm, on the target grid: resamples the source into warped, moves points from"
    " target to source",
    "inverse_ddf": "ITK displacement field, LPS mm, on the source grid: moves points from source to target",
    "affine": "voxel to RAS mm of the target grid",
    "source_affine": "voxel to RAS mm of the source grid",
    "contrasts": "name, unit and intensity rule of each channel of source and image; where the units differ, appearance"
    " is the expected image, and image = appearance + residual",
}
CONTRASTS = {"source_contrasts": "source", "contrasts": "image"}
"""Member of a trace → its name in the index's entry `contrasts`."""


def save_trace(
    trace: Trace,
    folder: Path | str,
    *,
    precise: bool = False,
    transforms: Sequence[str] = (),
    dtype: StorageType | None = None,
    method: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a trace.

    `source`, `image`, `warped`, `appearance`, `mask`, `interval` and `unexplained` become NIfTI images; `ddf`,
    `inverse_ddf` and `velocity` become ITK displacement fields (`.nii.gz`, LPS mm); `trace.json` reports shapes, exact
    affines, units, digests, method and version. Each member is written once.

    Unless `precise`, numbers are rounded so that files stay small: components of fields to 1/1024 voxel or finer (they
    are off by 1/2048 voxel at most) and, above four million voxels, each image to 16 bits over its range (off by
    1/65534 of it at most; whole numbers are kept) and masks to 2^-14. Smaller images keep every bit. In the trace
    that is read back, image = warped + appearance + residual still holds, with a residual that differs by no more than
    the roundings of the three together; `trace.json` reports all of them.

    Args:
        trace: what to write.
        folder: a new or empty folder, also a mount point or a symbolic link to a folder; its parent must exist. It
            appears complete or not at all (see `medtrace.storage.directories`).
        precise: keep every bit: images and masks as float32, fields as float64 mm (from which each float32 voxel
            value is recovered exactly; below 1e-6 voxel on oblique axes, to 1e-12).
        transforms: formats in which to write `ddf` and `inverse_ddf` once more, for programs that read no vector
            image: "h5" (ITK transform, float64) and "nrrd" (3D Slicer). `medtrace.io.export_trace` writes more.
        dtype: how intensities are stored instead (see `write_image`).
        method: name of what made it.
        metadata: further entries that JSON can hold, kept in `trace.json`.
        overwrite: replace an earlier trace there.

    Returns:
        The folder.

    Raises:
        TypeError: if it is not a Trace, or JSON cannot hold the metadata.
        FileExistsError: if the folder holds a trace and overwrite is False, or holds other files.
        FileNotFoundError: if its parent does not exist.
        ValueError: if an affine is sheared, which ITK files cannot hold, or a format is unknown.
    """
    if not isinstance(trace, Trace):
        raise TypeError(f"trace: expected a Trace, received {type(trace).__name__}; see Trace.build")
    check_transform_formats(transforms)
    with atomic_directory(folder, trace_contents(overwrite), last=(INDEX,)) as temporary:
        members = write_members(trace, temporary, precise, dtype, transforms)
        index = _index(trace, members, method, metadata)
        atomic_write(temporary / INDEX, json.dumps(index, indent=2, allow_nan=False) + "\n")
    return Path(folder).absolute()


def load_trace(folder: Path | str) -> Trace:
    """Read a trace that `save_trace` wrote.

    Args:
        folder: the folder.

    Returns:
        The trace, float32 on the CPU, with the exact affines.

    Raises:
        FileNotFoundError: if the folder or one of its files is missing.
        ValueError: if a file is corrupt or of another format or version, or is not the one that `trace.json`
            describes: another shape, affine, unit or content, or one that it does not name.
    """
    folder = Path(folder)
    index = _read_index(folder / INDEX)
    spatial_dims, shapes = index["spatial_dims"], check_shapes(folder / INDEX, index)
    affines = _affines(folder / INDEX, index)
    for name, file in index["files"].items():
        affine = affines["source_affine" if name in ON_SOURCE_GRID else "affine"]
        check_member(folder / file, name, shapes[name], affine, index["sha256"].get(name))
    members: dict[str, Tensor | None] = dict.fromkeys((*IMAGES, *FIELDS))
    for name in sorted(index["files"], key=lambda name: name not in FIELDS):  # fields take the most memory to read
        path = folder / index["files"][name]
        if name in FIELDS:
            exact = affines["source_affine" if name in ON_SOURCE_GRID else "affine"].numpy()
            ddf = displacement_file(path, read_vectors(path)[0], exact, spatial_dims).ddf
            members[name] = ddf.masked_fill_(ddf.abs() < _NOTHING, 0.0)
        else:
            members[name] = read_nifti_image(path)[0].reshape(shapes[name])
    try:
        return Trace(**members, **affines, **_contrasts(folder / INDEX, index))  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{folder}: its files do not form a trace ({error}); save it again") from error


def _affines(path: Path, index: Mapping[str, Any]) -> dict[str, Tensor]:
    affines = {}
    for name in ("affine", "source_affine"):
        try:
            affines[name] = check_affine(name, torch.tensor(index[name], dtype=torch.float64))
        except (TypeError, ValueError, OverflowError, RuntimeError) as error:
            raise ValueError(f"{path}: {name}: holds no affine ({error}); save the trace again") from error
    return affines


def _contrasts(path: Path, index: Mapping[str, Any]) -> dict[str, tuple[Contrast, ...] | None]:
    """The contrasts of the channels of source and image; not stored by earlier versions."""
    if index["version"] < 3:
        return dict.fromkeys(CONTRASTS)
    entries = index.get("contrasts")
    if not isinstance(entries, dict) or entries.keys() != set(CONTRASTS.values()):
        raise ValueError(
            f"{path}: contrasts: expected those of source and image, received others; save the trace again"
        )
    result: dict[str, tuple[Contrast, ...] | None] = {}
    for member, name in CONTRASTS.items():
        values = entries[name]
        if values is not None and not isinstance(values, list):
            raise ValueError(f"{path}: contrasts: {name}: expected a list or null; save the trace again")
        try:
            result[member] = None if values is None else tuple(Contrast.from_dict(value) for value in values)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: contrasts: {name}: {error}; save the trace again") from error
    return result


def _contrast_entries(trace: Trace) -> dict[str, Any]:
    entries = {}
    for member, name in CONTRASTS.items():
        contrasts: tuple[Contrast, ...] | None = getattr(trace, member)
        entries[name] = None if contrasts is None else [contrast.as_dict() for contrast in contrasts]
    return entries


def _index(
    trace: Trace, members: Mapping[str, Any], method: str | None, metadata: Mapping[str, Any] | None
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "medtrace": __version__,
        "method": method,
        "spatial_dims": trace.spatial_dims,
        "shape": list(trace.image.shape),
        "source_shape": list(trace.source.shape),
        "affine": trace.affine.tolist(),
        "source_affine": trace.source_affine.tolist(),
        "contrasts": _contrast_entries(trace),
        **members,
        "conventions": _NOTES,
        "metadata": dict(metadata or {}),
    }


def _read_index(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a folder written by save_trace")
    try:
        index = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: cannot be read as JSON ({error}); save the trace again") from error
    if not isinstance(index, dict) or index.get("format") != FORMAT or index.get("version") not in READ_VERSIONS:
        result = index.get("version") if isinstance(index, dict) else type(index).__name__
        raise ValueError(
            f"{path}: expected a trace of version {' or '.join(map(str, READ_VERSIONS))}, received {result}; save the"
            " trace again"
        )
    index.setdefault("sha256", {})
    for key in ("spatial_dims", "shape", "source_shape", "files", "affine", "source_affine"):
        if key not in index:
            raise ValueError(f"{path}: expected the entry {key!r}, received none; save the trace again")
    check_choice(f"{path}: spatial_dims", index["spatial_dims"], (2, 3))
    _check_files(path, index)
    return index


def _check_files(path: Path, index: Mapping[str, Any]) -> None:
    """Check that the index names files of a trace, all that a trace needs and all that lie there."""
    files, digests = index["files"], index["sha256"]
    if not isinstance(files, dict) or not files.keys() <= {*IMAGES, *FIELDS}:
        raise ValueError(f"{path}: files: expected names among {', '.join((*IMAGES, *FIELDS))}; save the trace again")
    for name, file in files.items():
        if file != f"{name}.nii.gz":
            raise ValueError(f"{path}: files: expected {name}.nii.gz, received {file!r}; save the trace again")
    for name in REQUIRED:
        if name not in files:
            raise ValueError(f"{path}: files: expected {name}.nii.gz, received none; save the trace again")
    if not isinstance(digests, dict) or (index["version"] > 1 and digests.keys() != files.keys()):
        raise ValueError(f"{path}: sha256: expected a digest of each file, received others; save the trace again")
    if not all(isinstance(digest, str) for digest in digests.values()):
        raise ValueError(f"{path}: sha256: expected text, received something else; save the trace again")
    for name in (*IMAGES, *FIELDS):
        if name not in files and (path.parent / f"{name}.nii.gz").exists():
            raise ValueError(
                f"{path.parent / name}.nii.gz: lies in the folder, but trace.json names no {name}; move it elsewhere,"
                " or save the trace again"
            )


def reserve_trace(
    folder: str | os.PathLike, overwrite: bool = False, *, make_parents: bool = False
) -> AbstractContextManager[Reservation]:
    """Have the place of a trace's folder, from before the work until `save_trace` (see `reserve_folder`)."""
    return reserve_folder(folder, trace_contents(overwrite), make_parents=make_parents)


def check_trace_room(folder: str | os.PathLike, source: Sequence[int], image: Sequence[int]) -> None:
    """Check that the disk has room for a trace before it is made: for its files without compression, which is the most.

    Args:
        folder: folder of the trace.
        source: shape (C, *spatial) of the source.
        image: likewise of the image.

    Raises:
        OSError: if there is less; the message states both numbers.
    """
    check_room(folder, trace_room(source, image), "a trace of this size")


def trace_room(source: Sequence[int], image: Sequence[int]) -> int:
    """Bytes of a trace's files without compression, which is the most that they take; see `check_trace_room`."""
    channels, voxels, source_voxels = image[0], math.prod(image[1:]), math.prod(source[1:])
    per_voxel = 4 * (4 * channels + 2) + 36 + 12  # images and mask, the field (float32 and float64), the velocity
    return voxels * per_voxel + source_voxels * (4 * source[0] + 36)


def trace_contents(overwrite: bool) -> Contents:
    """Check what a trace may replace: nothing, or with `overwrite` another trace and its reports."""

    def check(folder: str | os.PathLike, names: Sequence[str]) -> None:
        known = {INDEX, *TRANSFORM_FILES, *(f"{name}.nii.gz" for name in (*IMAGES, *FIELDS)), *BESIDE}
        if foreign := sorted(set(names) - known):
            raise FileExistsError(
                f"{folder}: is in use: expected nothing but a trace, received {foreign[0]!r}; choose another folder"
            )
        if names and not (overwrite or is_replacing()):
            raise FileExistsError(f"{folder}: is in use: already holds a trace; pass overwrite=True or choose another")

    return check
