"""DICOM pixels as modality values: stored values from ITK, each slice scaled by its own slope and intercept."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import itk
import numpy as np

from medtrace.data.dicom.frames import Frame, frame_count
from medtrace.guard.declared_size import memory_limit
from medtrace.guard.dicom_headers import read_dicom

if TYPE_CHECKING:
    import pydicom
    import pydicom.pixels
    from pydicom.dataset import Dataset
    from pydicom.uid import UID
else:
    from medtrace.guard.extras import PYDICOM as pydicom

GRAY = ("MONOCHROME1", "MONOCHROME2")
_UNITS = ("RescaleType", "Units")
_FLOATS = ("FloatPixelData", "DoubleFloatPixelData")
_VALUE_BYTES = 12
"""Memory of a voxel while its file is read: stored in float64, kept in float32."""


def read_pixels(frames: Sequence[Frame]) -> np.ndarray:
    """Modality values (HU, SUV, ...) of slices.

    ITK scales everything it reads by the first slice's slope and chooses the data type by it, too. Each file is
    therefore read by itself in float64, its stored values recovered, and each slice scaled by its own header.
    MONOCHROME1 says how to show an image and changes no value.

    Args:
        frames: frames of one size, in the order wanted.

    Returns:
        (columns, rows, slices) float32, the first axis fastest.

    Raises:
        ValueError: if they are not gray values, their scales contradict each other, or a file cannot be decoded; the
            message names file and encoding.
    """
    _check_scales(frames)
    columns, rows = int(frames[0].header.Columns), int(frames[0].header.Rows)
    _check_size(frames, columns * rows)
    values = np.empty((len(frames), rows, columns), np.float32)
    slices: dict[Path, list[int]] = {}
    for k, frame in enumerate(frames):
        slices.setdefault(frame.path, []).append(k)
    for path, members in slices.items():
        stored = _stored(path, frames[members[0]].header)
        for k in members:
            values[k] = _scaled(frames[k], stored[frames[k].index])
    return values.T


def _check_scales(frames: Sequence[Frame]) -> None:
    """Check that all slices are scaled to one unit, or none is."""
    scale = ("RescaleSlope", "RescaleIntercept")
    lacking = [(frame, keyword) for frame in frames for keyword in scale if frame.get(keyword) is None]
    if 0 < len(lacking) < len(scale) * len(frames):
        frame, keyword = lacking[0]
        raise ValueError(
            f"{frame.path}: {frame.name} lacks {keyword}, though the volume is scaled, so its values are unknown;"
            " export the series again"
        )
    for keyword in _UNITS:
        units = sorted({str(value) for frame in frames if (value := frame.get(keyword)) is not None})
        if len(units) > 1:
            raise ValueError(
                f"{frames[0].path.parent}: {keyword} differs between slices of one volume ({', '.join(units)}); export"
                " the series again in one unit"
            )
    for frame in frames:
        slope = frame.numbers("RescaleSlope", 1)
        frame.numbers("RescaleIntercept", 1)
        if slope is not None and slope[0] == 0:
            raise ValueError(
                f"{frame.path}: RescaleSlope is 0 in {frame.name}, which makes all values equal; export it again"
            )


def _check_size(frames: Sequence[Frame], pixels: int) -> None:
    most = max(frame_count(frame.header) for frame in frames)
    needed = pixels * (4 * len(frames) + _VALUE_BYTES * most)
    if needed > memory_limit():
        raise ValueError(
            f"{frames[0].path}: {len(frames)} slices of {pixels} pixels need {needed / 2**30:.3g} GiB to be read;"
            f" expected at most {memory_limit() / 2**30:g} GiB. If that is right, set MEDTRACE_MAX_GIB"
        )


def _scaled(frame: Frame, stored: np.ndarray) -> np.ndarray:
    if frame.header.get("ModalityLUTSequence"):
        return np.asarray(pydicom.pixels.apply_modality_lut(stored.astype(np.int64), frame.header), np.float64)
    slope, intercept = frame.numbers("RescaleSlope", 1), frame.numbers("RescaleIntercept", 1)
    return stored if slope is None or intercept is None else stored * slope[0] + intercept[0]


def _stored(path: Path, header: Dataset) -> np.ndarray:
    """Stored values of a file, (frames, rows, columns) float64."""
    _check_gray(path, header)
    syntax = pydicom.uid.UID(str(header.file_meta.TransferSyntaxUID))
    dataset = read_dicom(path)
    if dataset is None:
        raise ValueError(f"{path}: is no longer a DICOM file; read it again")
    if not syntax.is_compressed:
        _check_length(path, dataset)
    stored = _decoded(path, dataset, syntax)
    expected = (frame_count(header), int(header.Rows), int(header.Columns))
    if stored.shape != expected:
        raise ValueError(
            f"{path}: its header claims {expected} frames, rows and columns, but {stored.shape} were decoded; export"
            " it again"
        )
    return stored


def _decoded(path: Path, dataset: Dataset, syntax: UID) -> np.ndarray:
    """Stored values by ITK, or by pydicom where ITK is known to be wrong or stops."""
    failures = []
    for read in (_by_itk, _by_pydicom) if _itk_reads(dataset, syntax) else (_by_pydicom,):
        try:
            with _quiet():
                return read(path, dataset)
        except Exception as error:  # readers in C++ and Python may raise any error on a broken file
            failures.append(error)
    remedy = " without compression (gdcmconv --raw)" if syntax.is_compressed else ""
    raise ValueError(
        f"{path}: its pixels, encoded as {syntax.name}, cannot be decoded ({_first_line(failures[0])}); export it"
        f" again{remedy}"
    ) from failures[0]


def _check_gray(path: Path, header: Dataset) -> None:
    photometric, samples = str(header.get("PhotometricInterpretation", "")), int(header.get("SamplesPerPixel") or 1)
    if samples != 1 or photometric not in GRAY:
        raise ValueError(
            f"{path}: expected gray values (MONOCHROME2), received {photometric or 'no PhotometricInterpretation'} with"
            f" {samples} sample(s) per pixel; export a color image as PNG, or the scan in gray"
        )
    bits, high = header.get("BitsStored"), header.get("HighBit")
    if bits is not None and high is not None and int(high) != int(bits) - 1:
        raise ValueError(f"{path}: HighBit: expected {int(bits) - 1}, received {high}; export it again")


def _check_length(path: Path, dataset: Dataset) -> None:
    """ITK reads on behind pixels that are cut short."""
    shape = (frame_count(dataset), int(dataset.Rows), int(dataset.Columns))
    name = next((name for name in (*_FLOATS, "PixelData") if name in dataset), None)
    if name is None:
        raise ValueError(f"{path}: holds no pixels; export it again")
    bits = {"FloatPixelData": 32, "DoubleFloatPixelData": 64}.get(name) or int(dataset.BitsAllocated)
    expected, received = (int(np.prod(shape)) * bits + 7) // 8, len(dataset[name].value or b"")
    if received < expected:
        raise ValueError(
            f"{path}: expected {expected} bytes of pixels for {shape} frames, rows and columns, received {received};"
            " it is damaged or cut short, take an intact copy"
        )


def _itk_reads(dataset: Dataset, syntax: UID) -> bool:
    """Whether ITK's GDCM gives the stored values.

    It inverts MONOCHROME1, supports neither private classes nor float pixels, misreads 32-bit pixels that are partly
    used or big-endian, and fails on 8-bit pixels that are partly used (ITK 5.4.7).
    """
    if dataset.get("PhotometricInterpretation") == "MONOCHROME1" or any(name in dataset for name in _FLOATS):
        return False
    if dataset.get("SOPClassUID") not in pydicom.uid.UID_dictionary:
        return False
    allocated, used = int(dataset.BitsAllocated), int(dataset.BitsStored)
    if allocated == 16:
        return True
    return (
        allocated in (8, 32)
        and used == allocated
        and not (allocated == 32 and syntax == pydicom.uid.ExplicitVRBigEndian)
    )


def _by_itk(path: Path, _: Dataset) -> np.ndarray:
    scaled = itk.GDCMImageIO.New()
    reader = itk.ImageFileReader[itk.Image[itk.D, 3]].New(FileName=str(path), ImageIO=scaled)
    reader.Update()
    values = itk.array_from_image(reader.GetOutput())
    return np.rint((values - scaled.GetRescaleIntercept()) / scaled.GetRescaleSlope())


def _by_pydicom(path: Path, dataset: Dataset) -> np.ndarray:  # noqa: ARG001 - a reader's signature
    values = np.asarray(dataset.pixel_array, np.float64)
    return values[None] if values.ndim == 2 else values


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the readers say themselves; the checks here make errors of it.

    Codec libraries write directly to the process's stderr, bypassing Python.
    """
    try:
        kept = os.dup(2)
    except OSError:  # there is no stderr
        with _no_warnings():
            yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        with _no_warnings():
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextmanager
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # before ITK is loaded, which ends the process if a warning is an error
        shown = itk.ProcessObject.GetGlobalWarningDisplay()
        itk.ProcessObject.SetGlobalWarningDisplay(False)
        try:
            yield
        finally:
            itk.ProcessObject.SetGlobalWarningDisplay(shown)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines()]
    lines = [line for line in lines if line and not line.endswith(":")]  # ITK's own source lines
    return (lines[0] if lines else type(error).__name__)[:160]
