"""What derived DICOM objects take over from a source series, and what they say of themselves."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pydicom
import torch
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    PYDICOM_IMPLEMENTATION_UID,
    UID,
    CTImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)
from pydicom.valuerep import DSfloat
from torch import Tensor

from medtrace import __version__
from medtrace.geometry.grid import is_singular
from medtrace.guard.dicom_headers import image_header
from medtrace.io.dicom_attributes import MAY_BE_EMPTY, PATIENT, SERIES, STUDY, TEXT
from medtrace.io.nifti import LPS
from medtrace.storage.files import atomic_file

SUPPORTED = {MRImageStorage: "MR", CTImageStorage: "CT"}
"""SOP classes of single-frame series that a derived series can be made of."""
POSITION_TOLERANCE = 0.02
"""Largest departure of a slice from even spacing, as a share of the spacing."""


@dataclass(frozen=True)
class SourceSeries:
    """The headers of one series, in the order of their positions, without pixels."""

    folder: Path
    headers: tuple[Dataset, ...]
    affine: Tensor
    """(4, 4) float64, voxel (column, row, slice) to RAS mm."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Columns, rows, slices."""
        first = self.headers[0]
        return int(first.Columns), int(first.Rows), len(self.headers)

    @property
    def frame_of_reference(self) -> UID:
        """UID of the series' frame of reference."""
        return UID(self.headers[0].FrameOfReferenceUID)


def read_source_series(folder: Path | str) -> SourceSeries:
    """Read the headers of a DICOM series.

    Args:
        folder: of one series of single-frame MR or CT images.

    Returns:
        The headers, sorted along the normal of the slices, and the grid.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it holds no series or several, frames of another kind, or slices that are missing, doubled or
            not parallel; the message names the folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; expected the folder of a DICOM series")
    headers = [header for path in sorted(folder.iterdir()) if (header := _header(path)) is not None]
    if not headers:
        raise ValueError(f"{folder}: holds no DICOM images; give the folder of the .dcm files")
    try:
        return _series(folder, headers)
    except (AttributeError, KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"{folder}: a header holds what makes no series ({error}); export it again") from error


def _series(folder: Path, headers: list[Dataset]) -> SourceSeries:
    _check_one_series(folder, headers)
    first = headers[0]
    axes = np.array(first.ImageOrientationPatient, dtype=float).reshape(2, 3)
    normal = np.cross(*axes)
    headers.sort(key=lambda header: float(normal @ np.array(header.ImagePositionPatient, dtype=float)))
    positions = np.array([header.ImagePositionPatient for header in headers], dtype=float)
    step = _step(folder, headers[0], positions, normal)
    lps = np.eye(4)
    row_spacing, column_spacing = (float(value) for value in first.PixelSpacing)
    lps[:3, :3] = np.stack([axes[0] * column_spacing, axes[1] * row_spacing, step], axis=1)
    lps[:3, 3] = positions[0]
    affine = lps.copy()
    affine[:3] = LPS @ lps[:3]
    if not np.isfinite(affine).all() or is_singular(affine):
        raise ValueError(f"{folder}: its positions, axes and spacings make no grid; export it again")
    return SourceSeries(folder, tuple(headers), torch.from_numpy(affine))


def derived(source: SourceSeries, sop_class: UID, modality: str, now: datetime) -> Dataset:
    """A new object of the source's patient and study, made by medtrace, in no series yet."""
    first = source.headers[0]
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    dataset.file_meta.MediaStorageSOPClassUID = sop_class
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
    return generate_uid(prefix=None)


def reference(header: Dataset) -> Dataset:
    """An item that names an image."""
    item = Dataset()
    item.ReferencedSOPClassUID = header.SOPClassUID
    item.ReferencedSOPInstanceUID = header.SOPInstanceUID
    return item


def series_reference(headers: tuple[Dataset, ...]) -> Dataset:
    """An item that names a series and all its images."""
    item = Dataset()
    item.SeriesInstanceUID = headers[0].SeriesInstanceUID
    item.ReferencedInstanceSequence = [reference(header) for header in headers]
    return item


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """A coded concept."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def decimals(values: np.ndarray) -> list[DSfloat]:
    """Numbers as decimal strings of at most 16 characters, as exact as those hold."""
    return [decimal(value) for value in np.asarray(values, dtype=float).ravel()]


def decimal(value: float) -> DSfloat:
    """A number as a decimal string of at most 16 characters."""
    return DSfloat(float(value) + 0.0, auto_format=True)  # + 0.0: no negative zero


def _header(path: Path) -> Dataset | None:
    if not path.is_file():
        return None
    return image_header(path)


def _check_one_series(folder: Path, headers: list[Dataset]) -> None:
    series = {header.get("SeriesInstanceUID") for header in headers}
    if len(series) > 1:
        raise ValueError(
            f"{folder}: expected one DICOM series, received {len(series)}; put one series into a folder of its own"
        )
    first = headers[0]
    if first.get("SOPClassUID") not in SUPPORTED or int(first.get("NumberOfFrames") or 1) != 1:
        name = UID(first.get("SOPClassUID", "")).name
        raise ValueError(
            f"{folder}: expected single-frame MR or CT images, received {name}; export the scan in that form"
        )
    if int(first.get("SamplesPerPixel", 1)) != 1:
        raise ValueError(f"{folder}: expected grey images, received {first.SamplesPerPixel} samples per pixel")
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "FrameOfReferenceUID"):
        if any(not header.get(keyword) for header in headers):
            raise ValueError(f"{folder}: an image lacks {keyword}, so that its place is unknown; export it again")
    for keyword in ("Rows", "Columns", "PixelSpacing", "ImageOrientationPatient", "FrameOfReferenceUID", "SOPClassUID"):
        if any(not _same(header.get(keyword), first.get(keyword)) for header in headers):
            raise ValueError(
                f"{folder}: {keyword} differs between images of the series, which make no volume; split the series"
            )


def _same(value: object, other: object) -> bool:
    if isinstance(value, (list, pydicom.multival.MultiValue)):
        return bool(np.allclose(np.array(value, float), np.array(other, float), rtol=0, atol=1e-4))
    return value == other


def _step(folder: Path, first: Dataset, positions: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """From one slice to the next, LPS mm; checked to be even."""
    if len(positions) == 1:
        return normal * float(first.get("SpacingBetweenSlices") or first.get("SliceThickness") or 1.0)
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    length = float(np.linalg.norm(step))
    expected = positions[0] + step * np.arange(len(positions))[:, None]
    apart = np.linalg.norm(positions - expected, axis=1)
    if length == 0 or apart.max() > POSITION_TOLERANCE * length:
        gaps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
        raise ValueError(
            f"{folder}: expected evenly spaced slices, received gaps of {gaps.min():.3g} to {gaps.max():.3g} mm; look"
            " for missing or doubled slices"
        )
    return step


def _acquisition_equipment(first: Dataset) -> Dataset:
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [code("109101", "DCM", "Acquisition Equipment")]
    item.Manufacturer = first.get("Manufacturer", "")
    carry(
        first,
        item,
        ["InstitutionName", "StationName", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions"],
    )
    return item
