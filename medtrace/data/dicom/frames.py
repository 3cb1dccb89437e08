"""DICOM slices on disk: a file of one, or a frame of a multi-frame file, with what its headers say of it."""

from __future__ import annotations

from collections.abc import Mapping, MutableSequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medtrace.guard.declared_size import check_dicom
from medtrace.guard.dicom_headers import image_header

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

PLACE = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
"""Attributes that say where a slice lies; in a file of several frames they count in the functional groups alone."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One slice.

    Attributes:
        path: the file.
        index: index of the frame in the file, 0 in a file of one.
        header: the file's attributes without its pixels, shared by its frames.
        groups: keyword → value of the frame's functional groups (enhanced objects), the shared ones among them.
    """

    path: Path
    index: int
    header: Dataset
    groups: Mapping[str, Any]

    @property
    def name(self) -> str:
        """File and frame, for messages."""
        return f"{self.path.name} frame {self.index + 1}" if self.of_several else self.path.name

    @property
    def of_several(self) -> bool:
        """Whether the file holds other frames too."""
        return frame_count(self.header) > 1

    def get(self, keyword: str) -> Any:
        """An attribute of the frame, or of its file; None where it is absent or empty."""
        value = self.groups.get(keyword)
        if value is None and not (self.of_several and keyword in PLACE):
            value = self.header.get(keyword)
        return (
            None if value is None or value == "" or (isinstance(value, MutableSequence) and not len(value)) else value
        )

    def numbers(self, keyword: str, count: int) -> np.ndarray | None:
        """An attribute of `count` finite numbers; None where it is absent.

        Raises:
            ValueError: if it holds anything else; the message names the file.
        """
        value = self.get(keyword)
        if value is None:
            return None
        try:
            numbers = np.array([float(item) for item in np.atleast_1d(value)])
        except (TypeError, ValueError):
            numbers = np.array([np.nan])
        if numbers.shape != (count,) or not np.isfinite(numbers).all():
            raise ValueError(
                f"{self.path}: {keyword}: expected {count} finite number(s), received {str(value)[:60]!r}; export it"
                " again"
            )
        return numbers


def find_frames(path: Path) -> list[Frame]:
    """All slices of a DICOM file, or of the DICOM images in a folder (not in its sub-folders).

    Other files and DICOM objects that are not images (DICOMDIR, reports, presentation states) are skipped.

    Raises:
        ValueError: if a file is a damaged image, or claims more than it can hold; the message names it.
    """
    files = [path]
    if path.is_dir():
        # "._" files hold macOS metadata about a file, not the file itself.
        files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("._"))
    result = []
    for file in files:
        header = image_header(file)
        if header is not None:
            check_dicom(file, header)
            result += _frames(file, header)
    if not result and not path.is_dir():
        raise ValueError(f"{path}: is not a DICOM image; give a DICOM image, or the folder of a series")
    return result


def frame_count(header: Dataset) -> int:
    """Number of frames of a file."""
    return int(header.get("NumberOfFrames") or 1)


def _frames(file: Path, header: Dataset) -> list[Frame]:
    count = frame_count(header)
    each = header.get("PerFrameFunctionalGroupsSequence") or []
    if each and len(each) != count:
        raise ValueError(
            f"{file}: expected {count} functional group(s), one for each frame, received {len(each)}; export it again"
        )
    shared: dict[str, Any] = {}
    for item in header.get("SharedFunctionalGroupsSequence") or []:
        shared |= _leaves(item)
    return [Frame(file, index, header, shared | _leaves(each[index]) if each else shared) for index in range(count)]


def _leaves(dataset: Dataset) -> dict[str, Any]:
    """Keyword → value of all attributes, those of sequences (of their first items) too."""
    result: dict[str, Any] = {}
    for element in dataset:
        if element.VR == "SQ":
            if element.keyword and element.value:
                result = _leaves(element.value[0]) | result
        elif element.keyword:
            result[element.keyword] = element.value
    return result
