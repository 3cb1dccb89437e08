"""Read DICOM objects whose elements may claim any length."""

from __future__ import annotations

import mmap
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError


def read_dicom(path: Path, stop_before_pixels: bool = False) -> Dataset | None:
    """Read a DICOM file, or None if it is none.

    The file is mapped into memory, so that an element that claims four gigabytes gets what is there and no room for
    more. All values are converted, so that what cannot be is found here.

    Args:
        path: the file.
        stop_before_pixels: leave the pixels out.

    Raises:
        ValueError: if it begins as DICOM and cannot be read; the message names the file.
    """
    if path.stat().st_size == 0:
        return None
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            dataset = pydicom.dcmread(mapped, stop_before_pixels=stop_before_pixels)  # type: ignore[arg-type]
            for _ in dataset.iterall():  # converts the values
                pass
            return dataset
    except InvalidDicomError:
        return None
    except Exception as error:  # pydicom raises what it likes on a broken file
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise ValueError(f"{path}: cannot be read as DICOM ({reason}); export it again") from error
