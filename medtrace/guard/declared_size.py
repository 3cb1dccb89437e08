"""Check of an image header's claimed size against its file, before anything is allocated or read.

A header of a few bytes can claim an image of terabytes, name a file elsewhere on the disk as its data, or make a
reader guess another format. Readers are written in C and C++ and believe headers, so the claims are checked first.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

from medtrace.guard.memory import memory_limit

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

MOST_PACKED = 1032
"""Bytes that one byte of a deflated stream can become, at most."""
_SLACK = 1 << 20
_HEADER_BYTES = 1 << 20
_FAR = 1e9
"""Largest number of a geometry, in mm: a thousand kilometers."""
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


def check_nrrd(path: Path) -> None:
    """Check the header of a `.nrrd` or `.nhdr` file.

    Raises:
        ValueError: if it is not an NRRD header, claims what cannot be, or names data outside of its folder.
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
        each = 1  # a number takes at least a digit and a separator
    named = fields.get("data file", fields.get("datafile"))
    stored = path.stat().st_size - length if named is None else _detached(path, named, text)
    check_declared(path, shape, each, stored, encoding in ("gzip", "gz"))


def check_metaimage(path: Path) -> None:
    """Check the header of a `.mha` or `.mhd` file.

    Raises:
        ValueError: if it is not a MetaImage header, claims what cannot be, or names data outside of its folder.
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


def check_dicom(path: Path, header: Dataset) -> None:
    """Check the header of a DICOM image (see `dicom_headers.image_header`).

    Raises:
        ValueError: if it claims more pixels than its file can hold, or a geometry that cannot be.
    """
    try:
        shape = [int(header.get(name) or 1) for name in ("Columns", "Rows", "NumberOfFrames", "SamplesPerPixel")]
        for name in ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing"):
            value = header.get(name)
            _check_numbers(path, name, [] if value in (None, "") else value)
        bits, syntax = int(header.get("BitsAllocated") or 8), header.file_meta.TransferSyntaxUID
        packed = syntax.is_compressed or syntax.is_deflated
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read as DICOM ({error}); export it again") from error
    if bits == 1:  # eight pixels per byte, in a segmentation
        check_declared(path, [-(-math.prod(shape) // 8)], 1, path.stat().st_size, packed)
    else:
        check_declared(path, shape, max(1, bits // 8), path.stat().st_size, packed)


def inside(folder: Path, name: object, what: str) -> Path:
    """The path of a file that a list or header names relative to its folder.

    Args:
        folder: folder of the list.
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


def _text_header(path: Path, end: re.Pattern[bytes]) -> tuple[str, int]:
    """The text before the data, and its length in bytes."""
    with path.open("rb") as file:
        head = file.read(_HEADER_BYTES)
    result = end.search(head)
    if result is None and len(head) == _HEADER_BYTES:
        raise ValueError(f"{path}: its header does not end within {_HEADER_BYTES} bytes; copy or export it again")
    length = len(head) if result is None else result.end()
    return head[:length].decode("latin-1").replace("\r\n", "\n"), length


def _integers(text: str) -> list[int] | None:
    words = text.split()
    if not words or len(words) > 16 or not all(re.fullmatch(r"\d{1,12}", word) for word in words):
        return None
    return [int(word) for word in words]


def _check_numbers(path: Path, name: str, words: Sequence[object]) -> None:
    """Check that a geometry is made of numbers that can be millimeters; ITK loops for ever over some that cannot."""
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
    unpacker, result = zlib.decompressobj(), 0
    try:
        with data.open("rb") as file:
            file.seek(start)
            while rest > 0 and not unpacker.eof and (piece := file.read(min(rest, _SLACK))):
                rest -= len(piece)
                result += len(unpacker.decompress(piece, claimed + 1))
                while unpacker.unconsumed_tail and result <= claimed:
                    result += len(unpacker.decompress(unpacker.unconsumed_tail, claimed + 1))
                if result > claimed:
                    break
    except zlib.error as error:
        raise ValueError(f"{path}: its compressed voxels are damaged ({error}); copy or export it again") from error
    if result != claimed or not unpacker.eof:
        raise ValueError(
            f"{path}: its header claims {claimed} bytes of voxels, but {result}{' or more' if result > claimed else ''}"
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
