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
from medtrace.io.nifti import StorageType, read_image, write_image
from medtrace.io.transforms import read_transform, write_transform
from medtrace.storage.directories import atomic_directory
from medtrace.storage.files import atomic_write
from medtrace.storage.places import check_room
from medtrace.storage.reservations import Contents, Reservation, reserve_folder
from medtrace.trace import Trace

FORMAT, VERSION = "medtrace trace", 1
INDEX = "trace.json"
BESIDE = ("report.html", "certificate.json")
"""What is told of a trace and is in its folder, where nothing can be put beside that (see `stands_alone`)."""
_IMAGES = ("source", "image", "warped", "appearance", "mask")
_FIELDS = ("ddf", "inverse_ddf", "velocity")
_ON_SOURCE_GRID = ("source", "inverse_ddf")
_NOTES = {
    "images": "NIfTI, affine to RAS mm; 2D images are one slice; several channels are the fourth axis",
    "ddf": "ITK displacement field, LPS mm, on the target grid: resamples the source into warped, moves points from"
    " target to source",
    "inverse_ddf": "ITK displacement field, LPS mm, on the source grid: moves points from source to target",
    "affine": "voxel to RAS mm of the target grid",
    "source_affine": "voxel to RAS mm of the source grid",
}


def save_trace(
    trace: Trace,
    folder: Path | str,
    *,
    dtype: StorageType = "float32",
    method: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a trace.

    `source`, `image`, `warped`, `appearance` and `mask` become NIfTI images; `ddf` and `inverse_ddf` become
    ITK displacement fields, each as `.nii.gz` and as `.h5` (see `write_transform`); `velocity` becomes a
    vector NIfTI; `trace.json` tells shapes, exact affines, units, method and version.

    Args:
        trace: what to write.
        folder: a new or empty folder, also a mount point or a symbolic link to a folder; its parent must exist. It
            appears complete or not at all (see `medtrace.storage.directories`).
        dtype: how intensities are stored (see `write_image`); the mask and the fields are float32 in any
            case.
        method: name of what made it.
        metadata: more that JSON can hold, kept in `trace.json`.
        overwrite: replace an earlier trace there.

    Returns:
        The folder.

    Raises:
        TypeError: if it is no Trace, or metadata is not for JSON.
        FileExistsError: if the folder holds a trace and overwrite is False, or holds other files.
        FileNotFoundError: if its parent does not exist.
        ValueError: if an affine is sheared, which ITK files cannot hold.
    """
    if not isinstance(trace, Trace):
        raise TypeError(f"trace: expected a Trace, received {type(trace).__name__}; see Trace.build")
    with atomic_directory(folder, trace_contents(overwrite), last=(INDEX,)) as temporary:
        files = _write_members(trace, temporary, dtype)
        index = _index(trace, files, method, metadata)
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
        ValueError: if a file is corrupt or of another format or version.
    """
    folder = Path(folder)
    index = _read_index(folder / INDEX)
    spatial_dims = index["spatial_dims"]
    members: dict[str, Tensor | None] = dict.fromkeys((*_IMAGES, *_FIELDS))
    for name, file in index["files"].items():
        path = folder / file
        if name in _FIELDS:
            members[name] = read_transform(path, spatial_dims).ddf
        else:
            image, _ = read_image(path)
            if spatial_dims == 2 and image.shape[-1] != 1:
                raise ValueError(f"{path}: expected one slice of a 2D trace, received {image.shape[-1]}")
            members[name] = image[..., 0] if spatial_dims == 2 else image
    try:
        affines = {name: torch.tensor(index[name], dtype=torch.float64) for name in ("affine", "source_affine")}
        return Trace(**members, **affines)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{folder}: its files do not make a trace ({error}); save it again") from error


def _write_members(trace: Trace, folder: Path, dtype: StorageType) -> dict[str, str]:
    files = {}
    for name in (*_IMAGES, *_FIELDS):
        value = getattr(trace, name)
        if value is None:
            continue
        affine = trace.source_affine if name in _ON_SOURCE_GRID else trace.affine
        files[name] = f"{name}.nii.gz"
        if name in _IMAGES:
            write_image(folder / files[name], value, affine, "float32" if name == "mask" else dtype)
            continue
        write_transform(folder / files[name], value, affine)
        if name != "velocity":
            write_transform(folder / f"{name}.h5", value, affine)
    return files


def _index(
    trace: Trace, files: dict[str, str], method: str | None, metadata: Mapping[str, Any] | None
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
        "files": files,
        "transforms": {"ddf": "ddf.h5", "inverse_ddf": "inverse_ddf.h5"},
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
    if not isinstance(index, dict) or (index.get("format"), index.get("version")) != (FORMAT, VERSION):
        found = index.get("version") if isinstance(index, dict) else type(index).__name__
        raise ValueError(f"{path}: expected a trace of version {VERSION}, received {found}; save the trace again")
    for key in ("spatial_dims", "files", "affine", "source_affine"):
        if key not in index:
            raise ValueError(f"{path}: expected the entry {key!r}, received none; save the trace again")
    check_choice(f"{path}: spatial_dims", index["spatial_dims"], (2, 3))
    if not isinstance(index["files"], dict) or not index["files"].keys() <= {*_IMAGES, *_FIELDS}:
        raise ValueError(f"{path}: files: expected names among {', '.join((*_IMAGES, *_FIELDS))}; save the trace again")
    for name, file in index["files"].items():
        if file != f"{name}.nii.gz":
            raise ValueError(f"{path}: files: expected {name}.nii.gz, received {file!r}; save the trace again")
    return index


def reserve_trace(
    folder: str | os.PathLike, overwrite: bool = False, *, make_parents: bool = False
) -> AbstractContextManager[Reservation]:
    """Have the place of a trace's folder, from before the work until `save_trace` (see `reserve_folder`)."""
    return reserve_folder(folder, trace_contents(overwrite), make_parents=make_parents)


def check_trace_room(folder: str | os.PathLike, source: Sequence[int], image: Sequence[int]) -> None:
    """Check that there is room for a trace before it is made: for its files without compression, which is the most.

    Args:
        folder: of the trace.
        source: shape (C, *spatial) of the source.
        image: likewise of the image.

    Raises:
        OSError: if there is less; the message tells both numbers.
    """
    channels, voxels, source_voxels = image[0], math.prod(image[1:]), math.prod(source[1:])
    per_voxel = 4 * (3 * channels + 1) + 36 + 12  # images and mask, the field (float32 and float64), the velocity
    check_room(folder, voxels * per_voxel + source_voxels * (4 * source[0] + 36), "a trace of this size")


def trace_contents(overwrite: bool) -> Contents:
    """What a trace may replace: nothing, or with `overwrite` another trace and what is told of it."""

    def check(folder: str | os.PathLike, names: Sequence[str]) -> None:
        known = {INDEX, "ddf.h5", "inverse_ddf.h5", *(f"{name}.nii.gz" for name in (*_IMAGES, *_FIELDS)), *BESIDE}
        if foreign := sorted(set(names) - known):
            raise FileExistsError(
                f"{folder}: is in use: expected nothing but a trace, received {foreign[0]!r}; choose another folder"
            )
        if names and not overwrite:
            raise FileExistsError(
                f"{folder}: is in use: already holds a trace; pass overwrite=True (--overwrite) or choose another"
            )

    return check
