"""Read DICOM objects whose elements may claim any length."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pydicom
    from pydicom.dataset import Dataset
else:
    from medtrace.guard.extras import PYDICOM as pydicom

_STANDARD = "1.2.840.10008."
_PIXELS = ("Columns", "BitsAllocated", "BitsStored", "SamplesPerPixel", "PhotometricInterpretation")


def read_dicom(path: Path, stop_before_pixels: bool = False) -> Dataset | None:
    """Read a DICOM file, or None if it is none.

    The file is mapped into memory, so that an element that claims four gigabytes gets what is there and no memory for
    more. All values are converted, so that what cannot be is found here.

    Args:
        path: the file.
        stop_before_pixels: leave the pixels out.

    Raises:
        ModuleNotFoundError: if pydicom is not installed; the message names the extra.
        ValueError: if it begins as DICOM and cannot be read; the message names the file.
    """
    if path.stat().st_size == 0:
        return None
    read, no_dicom = pydicom.dcmread, pydicom.errors.InvalidDicomError
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            dataset = read(mapped, stop_before_pixels=stop_before_pixels)  # type: ignore[arg-type]
            for part in (dataset.file_meta, dataset):
                for _ in part.iterall():  # converts the values
                    pass
            return dataset
    except no_dicom:
        return None
    except Exception as error:  # pydicom may raise any error on a broken file
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise ValueError(f"{path}: cannot be read as DICOM ({reason}); export it again") from error


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM does, whatever its name."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def image_header(path: Path) -> Dataset | None:
    """The header of a DICOM image; None for other DICOM objects and for files that are not DICOM.

    A slice that cannot be read must not be left out of its series in silence.

    Raises:
        ValueError: if the file is an image without what makes one, or ends in .dcm and is not DICOM.
    """
    header = read_dicom(path, stop_before_pixels=True)
    if header is None:
        if path.suffix.lower() == ".dcm" or _begins_as_dicom(path):
            raise ValueError(f"{path}: cannot be read as DICOM (no DICOM header); export it again, or remove it")
        return None
    if "Rows" in header:
        return header
    kind = pydicom.uid.UID(str(header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID") or ""))
    if kind in pydicom.uid.UID_dictionary and "Image Storage" not in kind.name:
        return None
    if kind and not kind.startswith(_STANDARD) and not any(name in header for name in _PIXELS):
        return None  # a manufacturer's object that is not an image
    raise ValueError(f"{path}: is damaged or cut short (no Rows in its header); export it again, or remove it")


def _begins_as_dicom(path: Path) -> bool:
    """Whether a file without DICOM's preamble begins with an element of its first groups, as old exports do."""
    with path.open("rb") as file:
        head = file.read(8)
    return len(head) == 8 and head[:2] in (b"\x02\x00", b"\x08\x00") and head[3] == 0
