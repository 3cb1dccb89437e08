"""What an image's header claims, against what its file can hold: checked before any of it is allocated or read.

A header of a few bytes can claim an image of terabytes, name a file elsewhere on the disk as its data, or make a
reader guess another format. Readers are written in C and C++ and believe headers, so the claims are checked first.
"""

from __future__ import annotations

import gzip
import math
import os
import re
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from medtrace.guard.dicom_headers import image_header

MAX_GIB = 16.0
"""Largest image in GiB as stored; the environment variable MEDTRACE_MAX_GIB sets another limit."""
MOST_PACKED = 1032
"""Bytes that one byte of a deflated stream can become, at most."""
_SLACK = 1 << 20
_HEADER_BYTES = 1 << 20
_MOST_OFFSET = 256 << 20
_FAR = 1e9
"""Largest number of a geometry, in mm: a thousand kilometres."""
_NIFTI_BYTES = {2: 1, 4: 2, 8: 4, 16: 4, 32: 8, 64: 8, 128: 3, 256: 1, 512: 2, 768: 4, 1024: 8, 1280: 8, 1536: 16}
_NIFTI_BYTES |= {1792: 16, 2048: 32, 2304: 4}
_CIFTI = range(3000, 3100)
_NRRD_BYTES = {
    1: "signed char,int8,int8_t,uchar,unsigned char,uint8,uint8_t",
    2: "short,short int,signed short,signed short int,int16,int16_t,ushort,unsigned short,unsigned short int,uint16,"
    "uint16_t",
    4: "int,signed int,int32,int32_t,uint,unsigned int,uint32,uint32_t,float",
    8: "longlong,long long,long long int,signed long long,signed long long int,int64,int64_t,ulonglong,"
    "unsigned long long,unsigned long long int,uint64,uint64_t,double",
}
_META_BYTES = {
    "CHAR": 1, "UCHAR": 1, "SHORT": 2, "USHORT": 2, "INT": 4, "UINT": 4, "LONG": 4, "ULONG": 4,
    "LONG_LONG": 8, "ULONG_LONG": 8, "FLOAT": 4, "DOUBLE": 8,
}  # fmt: skip


def check_declared(path: Path, shape: Sequence[int], bytes_each: int, stored: int, packed: bool) -> None:
    """Check that an image's claimed size is positive, within the limit, and in the file.

    Args:
        path: for messages.
        shape: as the header claims it.
        bytes_each: of one element with all its components.
        stored: bytes that the file has.
        packed: whether they are compressed, so that each may hold up to 1032.

    Raises:
        ValueError: if not.
    """
    if not shape or any(size < 1 for size in shape):
        raise ValueError(f"{path}: its header claims the shape {tuple(shape)}; expected sizes of 1 or more")
    claimed = math.prod(shape) * bytes_each
    limit = memory_limit()
    if claimed > limit:
        raise ValueError(
            f"{path}: its header claims {claimed / 2**30:.3g} GiB (shape {tuple(shape)}); expected at most"
            f" {limit / 2**30:g} GiB. If that is right, set MEDTRACE_MAX_GIB"
        )
    if claimed > (stored * MOST_PACKED + _SLACK if packed else stored):
        raise ValueError(
            f"{path}: its header claims {claimed} bytes of voxels (shape {tuple(shape)}), but the file has {stored}"
            f"{' compressed' if packed else ''}; it is damaged or cut short, take an intact copy"
        )


def check_nifti(path: Path) -> None:
    """Check the header of a `.nii` or `.nii.gz` file.

    Raises:
        ValueError: if it is no single-file NIfTI header, or claims what cannot be.
    """
    packed = path.name.lower().endswith(".gz")
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            head = file.read(540)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read as NIfTI ({error}); copy or export it again") from error
    order, version = _nifti_kind(head)
    if version == 0:
        raise ValueError(f"{path}: cannot be read as NIfTI (no NIfTI header); copy or export it again")
    if version == 1:
        dims = struct.unpack_from(f"{order}8h", head, 40)
        datatype, offset = struct.unpack_from(f"{order}h", head, 70)[0], struct.unpack_from(f"{order}f", head, 108)[0]
        intent = struct.unpack_from(f"{order}h", head, 68)[0]
    else:
        dims = struct.unpack_from(f"{order}8q", head, 16)
        datatype, offset = struct.unpack_from(f"{order}h", head, 12)[0], struct.unpack_from(f"{order}q", head, 168)[0]
        intent = struct.unpack_from(f"{order}i", head, 504)[0]
    if not 1 <= dims[0] <= 7 or datatype not in _NIFTI_BYTES or intent in _CIFTI:
        raise ValueError(
            f"{path}: its header claims {dims[0]} axes of data type {datatype}, intent {intent}; expected a NIfTI image"
        )
    first = 352 if version == 1 else 544
    if offset != 0 and not first <= offset <= _MOST_OFFSET:
        raise ValueError(
            f"{path}: its header puts the voxels at byte {offset:g}; expected {first} to {_MOST_OFFSET}, or 0"
        )
    _check_extensions(path, packed, order, first, int(offset))
    check_declared(path, dims[1 : 1 + dims[0]], _NIFTI_BYTES[datatype], path.stat().st_size, packed)


def check_nrrd(path: Path) -> None:
    """Check the header of a `.nrrd` or `.nhdr` file.

    Raises:
        ValueError: if it is no NRRD header, claims what cannot be, or names data outside of its folder.
    """
    text, length = _text_header(path, re.compile(rb"\r?\n\r?\n"))
    if not text.startswith("NRRD000"):
        raise ValueError(f"{path}: cannot be read as NRRD (no NRRD header); copy or export it again")
    fields = {
        name.strip().lower(): value.strip() for name, value in re.findall(r"(?m)^([^#:\n]+):(?!=)[ \t]*(.*)$", text)
    }
    each = next((size for size, names in _NRRD_BYTES.items() if fields.get("type") in names.split(",")), None)
    shape = _integers(fields.get("sizes", ""))
    if each is None or shape is None or str(len(shape)) != fields.get("dimension") or len(shape) > 5:
        raise ValueError(
            f"{path}: its header claims type {fields.get('type')!r}, dimension {fields.get('dimension')!r} and sizes"
            f" {fields.get('sizes')!r}, which do not fit together; copy or export it again"
        )
    for name in ("space directions", "space origin", "spacings", "measurement frame"):
        numbers = re.split(r"[\s(),]+", fields.get(name, ""))
        _check_numbers(path, name, [word for word in numbers if word not in ("", "none")])
    encoding = fields.get("encoding", "").lower()
    if encoding not in ("raw", "gzip", "gz", "txt", "text", "ascii", "hex"):
        raise ValueError(f"{path}: expected raw, gzip or text encoding, received {encoding!r}; export it again")
    if encoding in ("txt", "text", "ascii", "hex"):
        each = 1  # a number takes at least a digit and what parts it from the next
    named = fields.get("data file", fields.get("datafile"))
    stored = path.stat().st_size - length if named is None else _detached(path, named, text)
    check_declared(path, shape, each, stored, encoding in ("gzip", "gz"))


def check_metaimage(path: Path) -> None:
    """Check the header of a `.mha` or `.mhd` file.

    Raises:
        ValueError: if it is no MetaImage header, claims what cannot be, or names data outside of its folder.
    """
    text, length = _text_header(path, re.compile(rb"ElementDataFile[ \t]*[=:][^\n]*(\n|$)"))
    fields = {name.strip(): value.strip() for name, value in re.findall(r"(?m)^(\w+)[ \t]*[=:](.*)$", text)}
    kind = fields.get("ElementType", "").removesuffix("_ARRAY").removeprefix("MET_")
    shape, channels = _integers(fields.get("DimSize", "")), _integers(fields.get("ElementNumberOfChannels", "1"))
    if kind not in _META_BYTES or not shape or not channels or str(len(shape)) != fields.get("NDims") or len(shape) > 5:
        raise ValueError(
            f"{path}: its header claims {fields.get('NDims')!r} axes of sizes {fields.get('DimSize')!r} and type"
            f" {fields.get('ElementType')!r}, which do not fit together; copy or export it again"
        )
    for name in ("TransformMatrix", "Rotation", "Orientation", "Offset", "Position", "Origin", "ElementSpacing"):
        _check_numbers(path, name, fields.get(name, "").split())
    packed = fields.get("CompressedData", "False").lower() in ("true", "1", "t")
    named = fields.get("ElementDataFile", "")
    if named.upper().startswith("LIST"):
        text = path.read_bytes()[:_HEADER_BYTES].decode("latin-1")  # the names follow
    stored = path.stat().st_size - length if named == "LOCAL" else _detached(path, named, text)
    ascii_text = fields.get("BinaryData", "True").lower() in ("false", "0", "f")
    check_declared(path, shape, (1 if ascii_text else _META_BYTES[kind]) * channels[0], stored, packed)
    if packed:
        data, start = (path, length) if named == "LOCAL" else (inside(path.parent, named, "data file"), 0)
        claimed = math.prod(shape) * _META_BYTES[kind] * channels[0]
        _check_packed(path, data, start, fields.get("CompressedDataSize"), claimed)


def check_dicom(path: Path) -> list[Path]:
    """Check a DICOM image, or all of a folder that are DICOM images.

    Returns:
        The files that are images.

    Raises:
        ValueError: if a header cannot be read, or claims more pixels than its file can hold.
    """
    images = []
    for file in sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]:
        header = image_header(file)
        if header is None and file == path:
            raise ValueError(f"{file}: is no DICOM image; export it again")
        if header is None:
            continue  # other files and objects may lie in the folder
        images.append(file)
        try:
            shape = [int(header.get(name) or 1) for name in ("Columns", "Rows", "NumberOfFrames", "SamplesPerPixel")]
            for name in ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing"):
                _check_numbers(file, name, header.get(name) or [])
            bits, packed = int(header.get("BitsAllocated") or 8), header.file_meta.TransferSyntaxUID.is_compressed
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"{file}: cannot be read as DICOM ({error}); export it again") from error
        check_declared(file, shape, max(1, bits // 8), file.stat().st_size, packed)
    return images


def inside(folder: Path, name: object, what: str) -> Path:
    """The path of a file that a list or header names relative to its folder.

    Args:
        folder: of the list.
        name: relative, without "..".
        what: the list and the entry, for the message.

    Raises:
        ValueError: if the name leads out of the folder.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise ValueError(f"{what}: expected the name of a file, received {name!r}")
    for kind in (PurePosixPath(name), PureWindowsPath(name)):
        if kind.anchor or ".." in kind.parts:
            raise ValueError(f"{what}: expected a file below {folder}, received {name!r}; put it there")
    return folder / name


def memory_limit() -> float:
    """Bytes that an image, or a configuration's networks, may take."""
    given = os.environ.get("MEDTRACE_MAX_GIB", "")
    try:
        return (float(given) if given else MAX_GIB) * 2**30
    except ValueError:
        raise ValueError(f"MEDTRACE_MAX_GIB: expected a number of GiB, received {given!r}") from None


def _nifti_kind(head: bytes) -> tuple[str, int]:
    """Byte order and version of a NIfTI header, ("<", 0) where it is none."""
    for order in "<>":
        if len(head) >= 348 and struct.unpack_from(f"{order}i", head)[0] == 348 and head[344:348] == b"n+1\0":
            return order, 1
        if len(head) >= 540 and struct.unpack_from(f"{order}i", head)[0] == 540 and head[4:8] == b"n+2\0":
            return order, 2
    return "<", 0


def _check_extensions(path: Path, packed: bool, order: str, first: int, offset: int) -> None:
    """Check that the extensions between header and voxels, each with its length, fill that room and no more."""
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
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


def _text_header(path: Path, end: re.Pattern[bytes]) -> tuple[str, int]:
    """The text before the data, and its length in bytes."""
    with path.open("rb") as file:
        head = file.read(_HEADER_BYTES)
    found = end.search(head)
    if found is None and len(head) == _HEADER_BYTES:
        raise ValueError(f"{path}: its header does not end within {_HEADER_BYTES} bytes; copy or export it again")
    length = len(head) if found is None else found.end()
    return head[:length].decode("latin-1").replace("\r\n", "\n"), length


def _integers(text: str) -> list[int] | None:
    words = text.split()
    if not words or len(words) > 16 or not all(re.fullmatch(r"\d{1,12}", word) for word in words):
        return None
    return [int(word) for word in words]


def _check_numbers(path: Path, name: str, words: Sequence[object]) -> None:
    """Check that a geometry is made of numbers that can be millimetres; ITK loops for ever over some that cannot."""
    for word in words:
        try:
            plausible = abs(float(str(word))) <= _FAR
        except ValueError:
            plausible = False
        if not plausible:
            raise ValueError(f"{path}: {name}: expected numbers up to {_FAR:g}, received {str(word)[:40]!r}")


def _check_packed(path: Path, data: Path, start: int, length: str | None, claimed: int) -> None:
    """Unpack a MetaImage's data without keeping them; ITK's own reader writes past its memory if they are damaged."""
    lengths = _integers(length) if length else None
    rest = data.stat().st_size - start if lengths is None else lengths[0]
    unpacker, found = zlib.decompressobj(), 0
    try:
        with data.open("rb") as file:
            file.seek(start)
            while rest > 0 and not unpacker.eof and (piece := file.read(min(rest, _SLACK))):
                rest -= len(piece)
                found += len(unpacker.decompress(piece, claimed + 1))
                while unpacker.unconsumed_tail and found <= claimed:
                    found += len(unpacker.decompress(unpacker.unconsumed_tail, claimed + 1))
                if found > claimed:
                    break
    except zlib.error as error:
        raise ValueError(f"{path}: its compressed voxels are damaged ({error}); copy or export it again") from error
    if found != claimed or not unpacker.eof:
        raise ValueError(
            f"{path}: its header claims {claimed} bytes of voxels, but {found}{' or more' if found > claimed else ''}"
            " are compressed in it; copy or export it again"
        )


def _detached(path: Path, named: str, text: str) -> int:
    """Bytes in the data files that a header names, which have to lie below its own folder."""
    if named.upper().startswith("LIST"):
        names = [line.strip() for line in text.partition(named)[2].splitlines() if line.strip()]
    elif "%" in named:
        inside(path.parent, named.split()[0], f"{path}: data file")
        return 1 << 62  # a pattern of many files, which the reader opens one by one
    else:
        names = [named]
    files = [inside(path.parent, name, f"{path}: data file") for name in names]
    missing = [file for file in files if not file.is_file()]
    if missing or not files:
        lacking = missing[0] if missing else named
        raise ValueError(f"{path}: names the data file {lacking}, which is missing; copy it as well")
    if any(not file.resolve().is_relative_to(path.parent.resolve()) for file in files):
        raise ValueError(f"{path}: its data file is a link out of {path.parent}; put the file itself there")
    return sum(file.stat().st_size for file in files)
