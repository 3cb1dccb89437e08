"""Attributes that derived DICOM objects inherit from a source series, and their own."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from medtrace import __version__
from medtrace.data.dicom import find_stack
from medtrace.io.dicom_attributes import MAY_BE_EMPTY, PATIENT, SERIES, STUDY, TEXT
from medtrace.storage.files import atomic_file

if TYPE_CHECKING:
    import pydicom
    from pydicom.dataset import Dataset
    from pydicom.uid import UID
    from pydicom.valuerep import DSfloat
else:
    from medtrace.guard.extras import PYDICOM as pydicom

MR_IMAGE, CT_IMAGE = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.2"
"""MR Image Storage and CT Image Storage."""
SUPPORTED = {MR_IMAGE: "MR", CT_IMAGE: "CT"}
"""SOP classes of single-frame series that a derived series can be made of."""


@dataclass(frozen=True)
class SourceSeries:
    """The headers of one series, in the order of their positions, without pixels."""

    folder: Path
    headers: tuple[Dataset, ...]
    affine: Tensor
    """(4, 4) float64, voxel (column, row, slice) to RAS mm."""
    series: str | int | None = None
    """Which volume of the folder, if it holds several."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Columns, rows, slices."""
        first = self.headers[0]
        return int(first.Columns), int(first.Rows), len(self.headers)


def read_source_series(folder: Path | str, series: str | int | None = None) -> SourceSeries:
    """Read the headers of a DICOM series, in the order and on the grid in which `read_image` reads it.

    Args:
        folder: folder of single-frame MR or CT images.
        series: which volume, where the folder holds several (see `medtrace.data.reading.read_image`).

    Returns:
        The headers, sorted along the normal of the slices, and the grid.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it holds no series or several, frames of another kind, or slices that are missing, doubled, not
            parallel or tilted; the message names the folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; expected the folder of a DICOM series")
    result = find_stack(folder, series)
    if result.tilted:
        raise ValueError(
            f"{folder}: its slices are tilted by {result.tilt:.3g} degrees, but the objects of a trace are on a grid at"
            " right angles; resample the series with another program, and use the result from the start"
        )
    headers = tuple(frame.header for frame in result.frames)
    _check_supported(folder, headers)
    return SourceSeries(folder, headers, torch.from_numpy(result.affine), series)


def derived(source: SourceSeries, sop_class: str, modality: str, now: datetime) -> Dataset:
    """A new object of the source's patient and study, made by medtrace, in no series yet."""
    first = source.headers[0]
    dataset = pydicom.dataset.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.file_meta.ImplementationClassUID = pydicom.uid.PYDICOM_IMPLEMENTATION_UID
    dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.UID(sop_class)
    carry(first, dataset, [*TEXT, *PATIENT, *STUDY, *SERIES], MAY_BE_EMPTY)
    dataset.SOPClassUID = sop_class
    dataset.Modality = modality
    dataset.SeriesDate = dataset.ContentDate = dataset.InstanceCreationDate = now.strftime("%Y%m%d")
    dataset.SeriesTime = dataset.ContentTime = dataset.InstanceCreationTime = now.strftime("%H%M%S")
    dataset.Manufacturer = "medtrace"
    dataset.ManufacturerModelName = "medtrace"
    dataset.DeviceSerialNumber = "none"
    dataset.SoftwareVersions = __version__
    dataset.ContributingEquipmentSequence = [_acquisition_equipment(first)]
    return dataset


def carry(source: Dataset, dataset: Dataset, keywords: list[str], empty: list[str] | None = None) -> None:
    """Copy what the source has of `keywords`; those in `empty` become empty where it has none."""
    for keyword in keywords:
        if keyword in source:
            dataset[keyword] = copy.deepcopy(source[keyword])
        elif empty and keyword in empty:
            setattr(dataset, keyword, "")


def save(dataset: Dataset, path: Path) -> None:
    """Give the object its own UID, if it has none, and write it as a DICOM file."""
    if "SOPInstanceUID" not in dataset:
        dataset.SOPInstanceUID = new_uid()
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    with atomic_file(path) as temporary:
        dataset.save_as(temporary, enforce_file_format=True)


def new_uid() -> UID:
    """A UID made of a random UUID (root 2.25), which needs no registration."""
    return pydicom.uid.generate_uid(prefix=None)


def reference(header: Dataset) -> Dataset:
    """An item that names an image."""
    item = pydicom.dataset.Dataset()
    item.ReferencedSOPClassUID = header.SOPClassUID
    item.ReferencedSOPInstanceUID = header.SOPInstanceUID
    return item


def series_reference(headers: tuple[Dataset, ...]) -> Dataset:
    """An item that names a series and all its images."""
    item = pydicom.dataset.Dataset()
    item.SeriesInstanceUID = headers[0].SeriesInstanceUID
    item.ReferencedInstanceSequence = [reference(header) for header in headers]
    return item


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """A coded concept."""
    item = pydicom.dataset.Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def decimals(values: np.ndarray) -> list[DSfloat]:
    """Numbers as decimal strings of at most 16 characters, as exact as those hold."""
    return [decimal(value) for value in np.asarray(values, dtype=float).ravel()]


def decimal(value: float) -> DSfloat:
    """A number as a decimal string of at most 16 characters."""
    return pydicom.valuerep.DSfloat(float(value) + 0.0, auto_format=True)  # + 0.0: no negative zero


def _check_supported(folder: Path, headers: tuple[Dataset, ...]) -> None:
    for header in headers:
        if header.get("SOPClassUID") not in SUPPORTED or int(header.get("NumberOfFrames") or 1) != 1:
            name = pydicom.uid.UID(str(header.get("SOPClassUID", ""))).name
            raise ValueError(
                f"{folder}: expected single-frame MR or CT images, received {name}; export the scan in that form"
            )
        if not header.get("FrameOfReferenceUID"):
            raise ValueError(f"{folder}: an image lacks FrameOfReferenceUID, which its objects share; export it again")


def _acquisition_equipment(first: Dataset) -> Dataset:
    item = pydicom.dataset.Dataset()
    item.PurposeOfReferenceCodeSequence = [code("109101", "DCM", "Acquisition Equipment")]
    item.Manufacturer = first.get("Manufacturer", "")
    carry(
        first,
        item,
        ["InstitutionName", "StationName", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions"],
    )
    return item
