"""An image as a derived DICOM series."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import Tensor

from medtrace.checks import check_finite
from medtrace.io.dicom import (
    CT_IMAGE,
    MR_IMAGE,
    SUPPORTED,
    SourceSeries,
    carry,
    code,
    decimal,
    decimals,
    derived,
    new_uid,
    reference,
    save,
    series_reference,
)
from medtrace.io.dicom_attributes import ACQUISITION, CT, FRAME, MR, MR_MAY_BE_EMPTY
from medtrace.io.nifti import LPS, affine_array, check_orthogonal
from medtrace.trace.contrast import HU, HU_WINDOW, Contrast

if TYPE_CHECKING:
    import pydicom
    from pydicom.dataset import Dataset
else:
    from medtrace.guard.extras import PYDICOM as pydicom

_IMAGE_TYPE = {MR_IMAGE: ["DERIVED", "SECONDARY", "OTHER"], CT_IMAGE: ["DERIVED", "SECONDARY", "AXIAL"]}


class StoredValues(NamedTuple):
    """Intensities as 16-bit integers: value = slope · stored + intercept."""

    stored: np.ndarray
    """uint16 or int16, of the image's shape."""
    slope: float
    intercept: float


def store(values: np.ndarray) -> StoredValues:
    """Intensities as 16-bit integers.

    Args:
        values: any shape, finite.

    Returns:
        Integers that fit 16 bits as they are; anything else with the slope that spreads the range over 65536 steps,
        so that a value is recovered to half a slope. Slope and intercept are ones that 16 characters can hold.
    """
    low, high = float(values.min()), float(values.max())
    if low >= -32768 and high <= 65535 and not (low < 0 and high > 32767) and bool((values == np.rint(values)).all()):
        return StoredValues(values.astype(np.int16 if low < 0 else np.uint16), 1.0, 0.0)
    intercept = float(decimal(low))
    slope = float(decimal((high - low) / 65535 or 1.0))
    stored = np.clip(np.rint((values - intercept) / slope), 0, 65535)  # rounding of the slope: less than half a step
    return StoredValues(stored.astype(np.uint16), slope, intercept)


def store_hounsfield(values: np.ndarray) -> StoredValues:
    """HU as a CT holds them: whole numbers, slope 1, the intercept -1024 or lower."""
    whole = np.rint(values)
    intercept = min(HU_WINDOW[0], float(whole.min()))
    return StoredValues(np.clip(whole - intercept, 0, 65535).astype(np.uint16), 1.0, intercept)


def write_dicom_series(
    folder: Path | str,
    image: Tensor,
    affine: Tensor,
    source: SourceSeries,
    *,
    frame: SourceSeries | None = None,
    description: str = "medtrace translation",
    derivation: str = "Image synthesized by medtrace; not acquired",
    series_number: int | None = None,
    now: datetime | None = None,
    contrast: Contrast | None = None,
) -> tuple[Dataset, ...]:
    """Write an image as a derived series of the source's patient and study.

    The objects are MR or CT Image Storage, by the contrast's unit or else the source, with new UIDs, Image Type
    DERIVED\\SECONDARY, the source's images in the Source Image Sequence (of each slice that of the same position, else
    all) and in the Referenced Series Sequence, the scanner as contributing equipment and medtrace as the equipment that
    made them. Intensities are stored as `store` does, with one slope for the series; HU of another modality's series as
    whole numbers.

    Args:
        folder: an existing, empty folder; files are called 0001.dcm and so on.
        image: (1, C, R) or (1, C, R, S): columns, rows and slices, in the units of `contrast`.
        affine: (4, 4) voxel to RAS mm of the image, at right angles.
        source: the series that the image was made of.
        frame: the series whose frame of reference the image lies in; None is `source`.
        description: Series Description.
        derivation: Derivation Description.
        series_number: None is the source's plus 1000.
        now: date and time of the series; None is the clock's.
        contrast: what the image's numbers mean; None is the source's.

    Returns:
        The headers of what was written, in the order of the slices.

    Raises:
        TypeError: if image or affine is not a tensor.
        ValueError: if the image has several channels, a number is not finite or the affine is sheared.
    """
    folder, frame = Path(folder), frame or source
    volume = _volume(image)
    matrix = affine_array("affine", affine)
    check_orthogonal("affine", matrix)
    sop_class = str(source.headers[0].SOPClassUID)
    if contrast is not None and (contrast.unit == HU) != (sop_class == CT_IMAGE):
        sop_class = CT_IMAGE if contrast.unit == HU else MR_IMAGE
    other = sop_class != source.headers[0].SOPClassUID
    values = store_hounsfield(volume) if other and sop_class == CT_IMAGE else store(volume)
    template = derived(source, sop_class, SUPPORTED[sop_class], now or datetime.now())
    template.SeriesInstanceUID = new_uid()
    number = source.headers[0].get("SeriesNumber")
    template.SeriesNumber = int(number or 0) + 1000 if series_number is None else series_number
    template.SeriesDescription = description[:64]
    template.DerivationDescription = derivation[:1024]
    template.ReferencedSeriesSequence = [series_reference(source.headers)]
    _describe(template, source, frame)
    _describe_pixels(template, values, volume, source)
    written = []
    for index in range(volume.shape[2]):
        dataset = _slice(template, values.stored[:, :, index], matrix, index, source, same_frame=frame is source)
        save(dataset, folder / f"{index + 1:04d}.dcm")
        del dataset.PixelData
        written.append(dataset)
    return tuple(written)


def _volume(image: Tensor) -> np.ndarray:
    if not isinstance(image, Tensor):
        raise TypeError(f"image: expected a torch tensor, received {type(image).__name__}; convert it first")
    if image.ndim not in (3, 4) or image.shape[0] != 1 or image.numel() == 0:
        raise ValueError(
            f"image: expected one channel, (1, columns, rows[, slices]), received {tuple(image.shape)}; write"
            " channels one by one"
        )
    check_finite("image", image)
    volume = image.detach().cpu().double().numpy()[0]
    return volume[..., None] if volume.ndim == 2 else volume


def _describe(template: Dataset, source: SourceSeries, frame: SourceSeries) -> None:
    """Series, frame of reference and acquisition."""
    first = source.headers[0]
    carry(first, template, ["ProtocolName", "PatientPosition"], ["PatientPosition"])
    carry(frame.headers[0], template, FRAME, ["PositionReferenceIndicator"])
    carry(first, template, ACQUISITION)
    template.ImageType = _IMAGE_TYPE[template.SOPClassUID]
    own = template.SOPClassUID == first.SOPClassUID  # another modality's acquisition is not this image's
    if template.SOPClassUID == CT_IMAGE:
        carry(first if own else pydicom.dataset.Dataset(), template, CT, ["KVP"])
        carry(first, template, ["AcquisitionNumber"], ["AcquisitionNumber"])
        return
    carry(first if own else pydicom.dataset.Dataset(), template, MR, MR_MAY_BE_EMPTY)
    if not template.get("ScanningSequence"):
        template.ScanningSequence = "RM"  # research mode: the source does not specify it
    if not template.get("SequenceVariant"):
        template.SequenceVariant = "NONE"


def _describe_pixels(template: Dataset, values: StoredValues, volume: np.ndarray, source: SourceSeries) -> None:
    template.SamplesPerPixel = 1
    template.PhotometricInterpretation = "MONOCHROME2"
    template.Columns, template.Rows = volume.shape[:2]
    template.BitsAllocated = template.BitsStored = 16
    template.HighBit = 15
    template.PixelRepresentation = int(values.stored.dtype == np.int16)
    template.RescaleSlope, template.RescaleIntercept = decimal(values.slope), decimal(values.intercept)
    own = template.SOPClassUID == source.headers[0].SOPClassUID
    template.RescaleType = "HU" if template.Modality == "CT" else "US"
    if own and source.headers[0].get("RescaleType"):
        template.RescaleType = source.headers[0].RescaleType
    low, high = (float(value) for value in np.percentile(volume, (0.5, 99.5)))
    template.WindowCenter, template.WindowWidth = decimal((low + high) / 2), decimal(max(high - low, 1e-3))


def _slice(
    template: Dataset, stored: np.ndarray, affine: np.ndarray, index: int, source: SourceSeries, same_frame: bool
) -> Dataset:
    dataset = pydicom.dataset.Dataset()
    dataset.file_meta = template.file_meta
    dataset.update(template)
    linear = LPS @ affine[:3, :3]
    spacing = np.linalg.norm(linear, axis=0)
    position = LPS @ (affine[:3] @ np.array([0.0, 0.0, index, 1.0]))
    dataset.SOPInstanceUID = new_uid()
    dataset.InstanceNumber = index + 1
    dataset.ImagePositionPatient = decimals(position)
    dataset.ImageOrientationPatient = decimals((linear / spacing)[:, :2].T)
    dataset.PixelSpacing = decimals(spacing[[1, 0]])
    dataset.SliceThickness = dataset.SpacingBetweenSlices = decimal(spacing[2])
    near = _at(position, float(spacing[2]), source) if same_frame else source.headers
    dataset.SourceImageSequence = [_source_item(header) for header in near]
    dataset.PixelData = np.ascontiguousarray(stored.T).astype(stored.dtype.newbyteorder("<")).tobytes()
    dataset["PixelData"].VR = "OW"
    return dataset


def _at(position: np.ndarray, spacing: float, source: SourceSeries) -> tuple[Dataset, ...]:
    """The source image at a position, or all of them where there is none."""
    apart = [np.linalg.norm(np.array(h.ImagePositionPatient, float) - position) for h in source.headers]
    nearest = int(np.argmin(apart))
    return (source.headers[nearest],) if apart[nearest] < 0.1 * spacing else source.headers


def _source_item(header: Dataset) -> Dataset:
    item = reference(header)
    item.PurposeOfReferenceCodeSequence = [code("121322", "DCM", "Source image for image processing operation")]
    return item
