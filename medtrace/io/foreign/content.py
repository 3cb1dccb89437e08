"""Recognition of a transform file by its content."""

from __future__ import annotations

import gzip
import re
import zlib
from enum import StrEnum
from pathlib import Path

TEXT_BYTES = 256 << 20
"""Longest text that is read as a transform."""
_HEAD = 1 << 16


class Kind(StrEnum):
    """Kinds of file that can be distinguished by their content."""

    ITK = "an ITK transform"
    X5 = "an X5 file of nitransforms"
    NRRD = "NRRD"
    NIFTI = "NIfTI"
    ARCHIVE = "a NumPy archive"
    ELASTIX = "elastix's transform parameters"
    LTA = "FreeSurfer's LTA"
    MATRIX = "a matrix of 4 x 4 numbers as text"
    AFNI = "AFNI's matrix of 3 x 4 numbers as text"


_REFUSED = {
    b"MNI Transform File": "a MINC .xfm file; convert it by `lta_convert --inmni FILE --outlta OUT.lta`",
    b"# Markups fiducial": "a list of landmarks of 3D Slicer, not a transform",
    b"\x89PNG": "a natural image, not a transform",
    b"# IO: ": "a transform of DIPY or another program that cannot be read; convert it to ITK's format",
}


def read_text(path: Path) -> str:
    """The text of a file that is to be text.

    Raises:
        ValueError: if it is longer than a transform can be, or is not UTF-8.
    """
    if path.stat().st_size > TEXT_BYTES:
        raise ValueError(
            f"{path}: has {path.stat().st_size} bytes; expected a text of at most {TEXT_BYTES}; check the file"
        )
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: cannot be read as text ({error.reason}); write it again") from error


def kind_of(path: Path) -> Kind:
    """The format of a file, regardless of its name.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is none of these types.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; check the path")
    head = _head(path)
    for mark, what in _REFUSED.items():
        if head.startswith(mark):
            raise ValueError(f"{path}: is {what}")
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return Kind.ITK if b"ITKVersion" in _content(path) else Kind.X5
    if head.startswith(b"NRRD000"):
        return Kind.NRRD
    if head.startswith(b"PK\x03\x04"):
        return Kind.ARCHIVE
    if _is_nifti(head):
        return Kind.NIFTI
    if _is_matlab(head) or head.lstrip().startswith(b"#Insight Transform File"):
        return Kind.ITK
    result = None if b"\0" in head else _kind_of_text(path)
    if result is None:
        raise ValueError(
            f"{path}: is not a transform that can be read; expected a file of ITK, ANTs, elastix, FreeSurfer (LTA),"
            f" FSL,"
            " SPM, AFNI, NiftyReg, Learn2Reg, nitransforms or 3D Slicer"
        )
    return result


def _kind_of_text(path: Path) -> Kind | None:
    text = read_text(path)
    if re.search(r"(?m)^[ \t]*(\(Transform[ \t]+\"|Transform[ \t]*=[ \t]*[\"\[])", text):
        return Kind.ELASTIX
    if re.search(r"(?m)^[ \t]*nxforms[ \t]*=", text):
        return Kind.LTA
    rows = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    try:
        counts = [len([float(word) for word in row.replace(",", " ").split()]) for row in rows[:64]]
    except ValueError:
        return None
    if counts == [4, 4, 4, 4]:
        return Kind.MATRIX
    if counts in ([12], [4, 4, 4]) or (len(counts) > 1 and set(counts) == {12}):
        return Kind.AFNI
    return None


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if not head.startswith(b"\x1f\x8b"):
        return head
    try:
        with gzip.open(path) as packed:
            return packed.read(1024)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be unpacked ({error}); copy or export it again") from error


def _content(path: Path) -> bytes:
    """The beginning and the end of a file, where HDF5 has names."""
    with path.open("rb") as file:
        first = file.read(1 << 20)
        file.seek(max(0, path.stat().st_size - (1 << 20)))
        return first + file.read()


def _is_nifti(head: bytes) -> bool:
    sizes = (int.from_bytes(head[:4], order) for order in ("little", "big"))
    return any(
        (size == 348 and head[344:348] in (b"n+1\0", b"ni1\0")) or (size == 540 and head[4:8] in (b"n+2\0", b"ni2\0"))
        for size in sizes
    )


def _is_matlab(head: bytes) -> bool:
    """Matlab's version 4, in which ITK and ANTs write the parameters of linear transforms."""
    kind, rows, columns, imaginary, length = (
        int.from_bytes(head[place : place + 4].ljust(4, b"\xff"), "little") for place in range(0, 20, 4)
    )
    return kind in (0, 10) and 1 <= rows < 1 << 20 and columns == 1 and imaginary == 0 and 1 <= length <= 64
