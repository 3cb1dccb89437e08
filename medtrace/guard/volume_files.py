"""NIfTI and FreeSurfer files: what their headers claim, checked, before nibabel opens them."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import nibabel
from nibabel.filebasedimages import ImageFileError
from nibabel.fileholders import FileHolder
from nibabel.spatialimages import HeaderDataError, SpatialImage

from medtrace.guard.declared_size import check_declared

NIFTI = (".nii", ".nii.gz")
PAIRS = (".hdr", ".img", ".hdr.gz", ".img.gz")
"""Of NIfTI in two files, the header and the voxels; either names both."""
FREESURFER = (".mgh", ".mgz", ".mgh.gz")
VOLUMES = (*NIFTI, *PAIRS, *FREESURFER)
"""Endings of the files that `open_volume` opens."""
_BYTES = {2: 1, 4: 2, 8: 4, 16: 4, 32: 8, 64: 8, 128: 3, 256: 1, 512: 2, 768: 4, 1024: 8, 1280: 8, 1536: 16}
_BYTES |= {1792: 16, 2048: 32, 2304: 4}
_MGH_BYTES = {0: 1, 1: 4, 3: 4, 4: 2, 10: 2}
_CIFTI = range(3000, 3100)
_MOST_OFFSET = 256 << 20
_HEAD = 540
_PACKED = b"\x1f\x8b"
_MAGIC = {b"n+1\0": (1, True), b"ni1\0": (1, False), b"n+2\0": (2, True), b"ni2\0": (2, False)}
_DAMAGE = (ImageFileError, HeaderDataError, OSError, EOFError, zlib.error, ValueError, struct.error)
"""The errors that nibabel and its unpackers raise for a damaged file."""


class VolumeFile(NamedTuple):
    """A file that was checked: where its header and voxels lie, and the header as it is stored."""

    kind: str
    """"NIfTI" or "FreeSurfer"."""
    header: Path
    voxels: Path
    stored: Any
    """nibabel's header of the stored bytes, before nibabel repairs any; None of a FreeSurfer file."""
    has_orientation: bool
    """Whether a FreeSurfer header says where its axes lead; NIfTI has codes for it."""
    image_class: type[SpatialImage]


def check_volume(path: Path) -> VolumeFile:
    """Check a NIfTI or FreeSurfer file by its ending and its header.

    Whether bytes are compressed is reported by the bytes: a gzip stream may be called `.nii`, and a plain one
    `.nii.gz`.

    Args:
        path: with an ending of `VOLUMES`; of a pair either file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not such file, its other half is missing, or its header claims what cannot be.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; check the path")
    if path.name.lower().endswith(FREESURFER):
        return _check_freesurfer(path)
    return _check_nifti(path)


@contextmanager
def open_volume(path: Path) -> Iterator[tuple[SpatialImage, VolumeFile]]:
    """Open a checked file with nibabel; its voxels can be read within the block.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, also while voxels are read in the block; the message names it.
    """
    file = check_volume(path)
    opened: list[IO[bytes]] = []

    def holder(part: Path) -> FileHolder:
        if _is_packed(part) == part.name.lower().endswith((".gz", ".mgz")):
            return FileHolder(str(part))
        opened.append(_open(part))
        return FileHolder(fileobj=opened[-1])

    try:
        parts = {"image": holder(file.voxels)}
        if file.header != file.voxels:
            parts["header"] = holder(file.header)
        yield file.image_class.from_file_map(parts), file
    except _DAMAGE as error:
        raise ValueError(f"{path}: cannot be read as {file.kind} ({error}); copy or export it again") from error
    finally:
        for stream in opened:
            stream.close()


def _is_packed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == _PACKED


def _open(path: Path) -> Any:
    return gzip.open(path) if _is_packed(path) else path.open("rb")


def _head(path: Path, what: str) -> bytes:
    try:
        with _open(path) as file:
            head: bytes = file.read(_HEAD)
            return head
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read as {what} ({error}); copy or export it again") from error


def _check_nifti(path: Path) -> VolumeFile:
    header, voxels = _halves(path)
    head = _head(header, "NIfTI")
    order, version, single = _nifti_kind(path, head)
    if single != (header == voxels):
        raise ValueError(
            f"{path}: its header is that of {'one file' if single else 'a pair of files'}; name it"
            f" {'.nii' if single else '.hdr, beside its .img,'} or export it again"
        )
    header_class, size = ((nibabel.Nifti1Header, 348), (nibabel.Nifti2Header, 540))[version - 1]
    stored = header_class(head[:size], endianness=order, check=False)
    dims = [int(size) for size in stored["dim"]]
    datatype, intent, offset = int(stored["datatype"]), int(stored["intent_code"]), float(stored["vox_offset"])
    if not 1 <= dims[0] <= 7 or datatype not in _BYTES or intent in _CIFTI:
        raise ValueError(
            f"{path}: its header claims {dims[0]} axes of data type {datatype}, intent {intent}; expected a NIfTI image"
        )
    first = size + 4 if single else 0
    if offset != 0 and not first <= offset <= _MOST_OFFSET:
        raise ValueError(
            f"{path}: its header puts the voxels at byte {offset:g}; expected {first} to {_MOST_OFFSET}, or 0"
        )
    if single:
        _check_extensions(path, order, first, int(offset))
    check_declared(path, dims[1 : 1 + dims[0]], _BYTES[datatype], voxels.stat().st_size, _is_packed(voxels))
    kinds: dict[tuple[int, bool], type[SpatialImage]] = {
        (1, True): nibabel.Nifti1Image,
        (1, False): nibabel.Nifti1Pair,
        (2, True): nibabel.Nifti2Image,
        (2, False): nibabel.Nifti2Pair,
    }
    return VolumeFile("NIfTI", header, voxels, stored, True, kinds[version, single])


def _halves(path: Path) -> tuple[Path, Path]:
    """The files of header and voxels: one file, or the two of a pair, whichever of them is named."""
    ending = next((ending for ending in sorted(PAIRS, key=len)[::-1] if path.name.lower().endswith(ending)), None)
    if ending is None:
        return path, path
    stem = path.name[: -len(ending)]
    wanted = ".img" if ending.startswith(".hdr") else ".hdr"
    names = [stem + variant for name in (wanted, f"{wanted}.gz") for variant in (name, name.upper())]
    other = next((path.with_name(name) for name in names if path.with_name(name).is_file()), None)
    if other is None:
        raise ValueError(
            f"{path}: is half of a pair of files, whose other half {stem}{wanted} is missing; copy it as well"
        )
    return (path, other) if ending.startswith(".hdr") else (other, path)


def _nifti_kind(path: Path, head: bytes) -> tuple[str, int, bool]:
    """Byte order, version and whether the voxels follow in the same file."""
    for order in "<>":
        size = struct.unpack_from(f"{order}i", head)[0] if len(head) >= 348 else 0
        magic = {348: head[344:348], 540: head[4:8]}.get(size, b"")
        if magic in _MAGIC and {348: 1, 540: 2}[size] == _MAGIC[magic][0] and len(head) >= size:
            return (order, *_MAGIC[magic])
        if size == 348 and path.name.lower().endswith(PAIRS):
            raise ValueError(
                f"{path}: is ANALYZE 7.5, whose header does not tell left from right; convert it to NIfTI with the"
                " program that made it, which knows"
            )
    raise ValueError(f"{path}: cannot be read as NIfTI (no NIfTI header); copy or export it again")


def _check_freesurfer(path: Path) -> VolumeFile:
    head = _head(path, "FreeSurfer volume")
    if len(head) < 284 or struct.unpack_from(">i", head)[0] != 1:
        raise ValueError(f"{path}: cannot be read as FreeSurfer volume (no MGH header); copy or export it again")
    *dims, kind = struct.unpack_from(">5i", head, 4)
    if kind not in _MGH_BYTES:
        raise ValueError(
            f"{path}: its header claims data type {kind}; expected {', '.join(map(str, _MGH_BYTES))}; convert it with"
            " mri_convert"
        )
    check_declared(path, dims, _MGH_BYTES[kind], path.stat().st_size, _is_packed(path))
    good = struct.unpack_from(">h", head, 28)[0]
    return VolumeFile("FreeSurfer volume", path, path, None, good > 0, nibabel.MGHImage)


def _check_extensions(path: Path, order: str, first: int, offset: int) -> None:
    """Check that the extensions between header and voxels, each with its length, fill that room and no more."""
    try:
        with _open(path) as file:
            file.seek(first - 4)
            flag = file.read(4)
            place = first
            while flag[:1] not in (b"", b"\0") and place + 16 <= offset:
                file.seek(place)
                size = struct.unpack(f"{order}i", file.read(4).ljust(4, b"\0"))[0]
                if size < 8 or place + size > offset:
                    raise ValueError(
                        f"{path}: an extension of its header claims {size} bytes at {place}, but the voxels begin at"
                        f" {offset}; copy or export it again"
                    )
                place += size
            if flag[:1] not in (b"", b"\0") and offset == 0:
                raise ValueError(f"{path}: its header has extensions but no place for the voxels; export it again")
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read as NIfTI ({error}); copy or export it again") from error
