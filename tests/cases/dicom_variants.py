"""More DICOM series of every kind in `dicom_series`, and of kinds beside them.

    python -m tests.cases.dicom_variants OUT [--only CASE]

`options` in `expected.json` are arguments of the reader (`series`, `resample_tilt`); `says` is a word of a refusal.
"""

import shutil

import numpy as np
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    HTJ2K,
    BasicTextSRStorage,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
    ParametricMapStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from tests.cases.common import RAMP, case, main, ramp_at
from tests.cases.dicom_series import (
    COLUMN_SPACING,
    COLUMNS,
    GAP,
    ORIGIN,
    ROW_SPACING,
    ROWS,
    SLICES,
    dataset,
    first_five,
    ras_of_slice,
    right,
    write_enhanced,
    write_series,
)

FAINT = {"offset": 150.0, "gradient": [0.75, 0.5, 1.25]}
"""A ramp that fits eight bits."""


def refused(says, **options):
    return {"entry": "read_image", "input": "series", "accept": ["refuse"], "says": says, "options": options}


def read(tolerance=0.51, ramp=RAMP, **more):
    return right(["read"], ramp={**ramp, "tolerance": tolerance}, **more)


def removing(keyword):
    return lambda image, k: delattr(image, keyword)


def setting(**values):
    """Set attributes; a function gives the value of slice k."""

    def change(image, k):
        for keyword, value in values.items():
            setattr(image, keyword, value(k) if callable(value) else value)

    return change


def write_oriented(folder, orientation, order=range(SLICES)):
    """Slices along the normal of any orientation, numbered and named in `order`."""
    axes = np.asarray(orientation, float).reshape(2, 3)
    normal = np.cross(*axes)
    (folder / "series").mkdir()
    for number, k in enumerate(order):
        image = dataset(MRImageStorage, "MR", folder.name, number)
        position = ORIGIN + GAP * k * normal
        image.PixelSpacing, image.SliceThickness = [ROW_SPACING, COLUMN_SPACING], GAP
        image.ImagePositionPatient = [f"{value:.9f}"[:16] for value in position]
        image.ImageOrientationPatient = [f"{value:.12f}"[:16] for value in axes.ravel()]
        image.PixelData = np.round(ramp_at(ras_of_slice(position, orientation))).astype("<i2").tobytes()
        image.save_as(folder / "series" / f"{number:04d}.dcm", enforce_file_format=True)


def encoded(bits, used=None, signed=False, ramp=RAMP, syntax=None):
    """Store a ramp in another encoding: a change for `write_series`."""
    used = used or bits

    def change(image, k):
        values = np.round(ramp_at(ras_of_slice(np.array(image.ImagePositionPatient, float)), ramp)).astype(np.int64)
        order = ">" if syntax == ExplicitVRBigEndian else "<"
        image.BitsAllocated, image.BitsStored, image.HighBit = bits, used, used - 1
        image.PixelRepresentation = int(signed)
        image.PixelData = (values & (2**used - 1)).astype(f"{order}u{bits // 8}").tobytes()
        image["PixelData"].VR = "OW" if bits > 8 else "OB"
        if syntax is not None:
            image.file_meta.TransferSyntaxUID = syntax

    return change


# Details that differ, and matter to no volume.


@case
def times_and_numbers_differ(folder):
    """Every slice has its own AcquisitionTime, ContentTime and AcquisitionNumber, and InstanceNumbers are shuffled.
    Right: 8 slices with the ramp
    """
    change = setting(
        AcquisitionTime=lambda k: f"1200{k:02d}.5",
        ContentTime=lambda k: f"1300{7 - k:02d}",
        AcquisitionNumber=lambda k: k + 1,
        InstanceNumber=lambda k: (k * 5) % 8,
    )
    write_series(folder, change=change)
    return read()


@case
def echo_time_rounded(folder):
    """EchoTime is 4.6 in five slices and 4.6001 in three.
    Right: 8 slices with the ramp
    """
    write_series(folder, sop_class=MRImageStorage, modality="MR", change=first_five("EchoTime", 4.6, 4.6001))
    return read()


@case
def positions_rounded(folder):
    """Positions are rounded to a tenth of a mm, 1.25 mm apart.
    Right: 8 slices, spacing 1.25 mm, the ramp as exact as the positions are
    """
    true = [ORIGIN + [0, 0, 1.25 * k] for k in range(SLICES)]
    write_series(folder, positions=true, change=setting(ImagePositionPatient=lambda k: np.round(true[k], 1).tolist()))
    return read(0.51 + 5 * 0.06, spacing=[COLUMN_SPACING, ROW_SPACING, 1.25])


# Slices that make no volume.


@case
def columns_differ(folder):
    """Two more slices on top have 12 instead of 24 columns.
    Right: refused, with the tag Columns
    """

    def narrow(image, k):
        if k >= SLICES:
            image.Columns, image.PixelData = 12, image.PixelData[: 12 * ROWS * 2]

    write_series(folder, change=narrow, count=SLICES + 2)
    return refused("Columns")


@case
def spacing_differs(folder):
    """PixelSpacing is 1.5, 1.2 in five slices and 1.5, 1.3 in three.
    Right: refused, with the tag PixelSpacing
    """
    write_series(folder, change=first_five("PixelSpacing", [1.5, 1.2], [1.5, 1.3]))
    return refused("PixelSpacing")


@case
def one_slice_turned(folder):
    """The last slice is turned by 10 degrees about its normal.
    Right: refused, with the tag ImageOrientationPatient
    """
    c, s = np.cos(np.radians(10)), np.sin(np.radians(10))
    turned = [c, s, 0, -s, c, 0]
    change = setting(ImageOrientationPatient=lambda k: [1, 0, 0, 0, 1, 0] if k < 7 else turned)
    write_series(folder, change=change)
    return refused("ImageOrientationPatient")


# Its own scale for each slice.


@case
def last_slope_fractional(folder):
    """CT whose last slice alone has a fractional RescaleSlope and intercept.
    Right: the ramp, every slice by its own scale
    """

    def change(image, k):
        if k == SLICES - 1:
            values = ramp_at(ras_of_slice(np.array(image.ImagePositionPatient, float)))
            image.RescaleSlope, image.RescaleIntercept = "0.05", "-1024.25"
            image.PixelData = np.round((values + 1024.25) / 0.05).astype("<i4").astype("<u2").tobytes()
            image.PixelRepresentation = 0

    write_series(folder, change=change)
    return read()


@case
def enhanced_slope_per_frame(folder):
    """Enhanced MR whose slope is 0.25, 0.5, ... and whose intercept is -10, -9, ... from frame to frame, shuffled.
    Right: the ramp to half of the largest slope
    """
    write_enhanced(folder, [0, 4, 1, 5, 2, 6, 3, 7])
    image = opened(folder / "series" / "enhanced.dcm")
    pixels = []
    for number, frame in enumerate(image.PerFrameFunctionalGroupsSequence):
        slope, intercept = 0.25 * (number + 1), number - 10.0
        scale = frame.PixelValueTransformationSequence[0]
        scale.RescaleSlope, scale.RescaleIntercept = slope, intercept
        position = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        pixels.append(np.round((ramp_at(ras_of_slice(position)) - intercept) / slope).astype("<i2").tobytes())
    image.PixelData = b"".join(pixels)
    image.save_as(folder / "series" / "enhanced.dcm", enforce_file_format=True)
    return read(1.01)


@case
def real_world_map_beside_slope(folder):
    """MR with RescaleSlope 2, and a Real World Value Mapping (slope 3) beside it, which ITK takes instead.
    Right: the modality's values, as pydicom has them
    """

    def change(image, k):
        item, unit = Dataset(), Dataset()
        unit.CodeValue, unit.CodingSchemeDesignator, unit.CodeMeaning = "1", "UCUM", "no units"
        item.RealWorldValueSlope, item.RealWorldValueIntercept, item.LUTLabel = 3.0, 1.0, "map"
        item.RealWorldValueFirstValueMapped, item.RealWorldValueLastValueMapped = 0, 4095
        item.MeasurementUnitsCodeSequence = [unit]
        image.RealWorldValueMappingSequence = [item]

    write_series(folder, sop_class=MRImageStorage, modality="MR", slope=lambda k: 2.0, change=change)
    return read(1.01)


@case
def scale_in_some_slices(folder):
    """RescaleSlope and RescaleIntercept are absent from three of eight slices whose slope is 2.
    Right: refused: the values of three slices are unknown
    """

    def change(image, k):
        if k > 4:
            del image.RescaleSlope, image.RescaleIntercept

    write_series(folder, slope=lambda k: 2.0, change=change)
    return refused("RescaleSlope")


@case
def slope_of_zero(folder):
    """RescaleSlope is 0 in one slice.
    Right: refused, with the tag RescaleSlope (ITK takes it for 1)
    """
    write_series(folder, change=setting(RescaleSlope=lambda k: "0" if k == 3 else "1"))
    return refused("RescaleSlope")


# Tilt.


def tilted(folder, degrees, axis):
    shift = GAP * np.tan(np.radians(degrees))
    offset = np.eye(3)[axis] * shift
    write_series(folder, positions=[ORIGIN + [0, 0, GAP * k] + k * offset for k in range(SLICES)])


@case
def tilt_resampled(folder):
    """CT with the gantry tilted by 20 degrees, to be resampled.
    Right: at right angles, spacing kept, the ramp inside the scan and its lowest value outside
    """
    tilted(folder, 20, 1)
    return read(shape=[COLUMNS, ROWS + 6, SLICES], options={"resample_tilt": True}, outside="lowest")


@case
def tilt_backwards_resampled(folder):
    """The same by -12 degrees, along the rows.
    Right: as before
    """
    tilted(folder, -12, 0)
    return read(shape=[COLUMNS + 4, ROWS, SLICES], options={"resample_tilt": True}, outside="lowest")


@case
def tilt_of_two_degrees(folder):
    """CT with the gantry tilted by 2 degrees.
    Right: refused with the remedy
    """
    tilted(folder, 2, 1)
    return refused("--resample-tilt")


# Positions that make no grid.


@case
def missing_slice(folder):
    """The fourth of nine slices is missing.
    Right: refused with the gaps, 3 and 6 mm
    """
    write_series(folder, positions=[ORIGIN + [0, 0, GAP * k] for k in range(9) if k != 3])
    return refused("3 to 6 mm")


@case
def doubled_slice(folder):
    """A ninth slice, with a UID of its own, lies where the fifth is.
    Right: refused, naming the two files
    """
    write_series(folder, positions=[ORIGIN + [0, 0, GAP * k] for k in (*range(SLICES), 4)])
    return refused("0004.dcm and 0008.dcm")


@case
def copied_slice(folder):
    """The file of the fifth slice is there twice.
    Right: refused, naming the two files
    """
    write_series(folder)
    shutil.copy(folder / "series" / "0004.dcm", folder / "series" / "copy of 0004.dcm")
    return refused("copies of one image")


@case
def spacing_changes(folder):
    """Slices lie 3 mm apart in the lower half and 3.4 mm in the upper.
    Right: refused with the gaps
    """
    write_series(folder, positions=[ORIGIN + [0, 0, GAP * k + 0.4 * max(k - 3, 0)] for k in range(SLICES)])
    return refused("3 to 3.4 mm")


@case
def one_slice_beside(folder):
    """One slice of eight is shifted by 5 mm along y.
    Right: refused, naming it
    """
    write_series(folder, positions=[ORIGIN + [0, 5.0 * (k == 5), GAP * k] for k in range(SLICES)])
    return refused("0005.dcm")


# Frames of one file.


@case
def enhanced_second_echo(folder):
    """Enhanced MR with two echoes, of which the second (half the values) is chosen.
    Right: 8 slices with half the ramp
    """
    write_enhanced(folder, range(SLICES), echoes=2)
    half = {"offset": RAMP["offset"] / 2, "gradient": [value / 2 for value in RAMP["gradient"]]}
    return read(1.01, half, options={"series": 2})


@case
def enhanced_two_stacks(folder):
    """Enhanced MR of two stacks, one above the other with a gap of 20 mm; the second is chosen.
    Right: 4 slices with the ramp
    """
    write_enhanced(folder, range(SLICES))
    image = opened(folder / "series" / "enhanced.dcm")
    pixels = np.frombuffer(image.PixelData, "<i2").reshape(SLICES, -1).copy()
    for number, frame in enumerate(image.PerFrameFunctionalGroupsSequence):
        if number >= 4:
            frame.FrameContentSequence[0].StackID = "2"
            position = frame.PlanePositionSequence[0]
            position.ImagePositionPatient = (np.array(position.ImagePositionPatient, float) + [0, 0, 20]).tolist()
            pixels[number] += 50  # 20 mm at 5 per mm, by a slope of 2
    image.PixelData = pixels.tobytes()
    image.save_as(folder / "series" / "enhanced.dcm", enforce_file_format=True)
    return read(1.01, shape=[COLUMNS, ROWS, 4], options={"series": "list:2"})


def interleaved_times(folder):
    """Two time points, whose frames alternate slice by slice; the second has half the values."""
    write_enhanced(folder, range(SLICES), echoes=2)
    image = opened(folder / "series" / "enhanced.dcm")
    frames, pixels = list(image.PerFrameFunctionalGroupsSequence), np.frombuffer(image.PixelData, "<i2")
    pixels = pixels.reshape(2 * SLICES, -1)
    for number, frame in enumerate(frames):
        frame.MREchoSequence[0].EffectiveEchoTime = 2.0
        frame.FrameContentSequence[0].TemporalPositionIndex = 1 + number // SLICES
    order = [k + SLICES * time for k in range(SLICES) for time in (0, 1)]
    image.PerFrameFunctionalGroupsSequence = [frames[k] for k in order]
    image.PixelData = pixels[order].tobytes()
    image.save_as(folder / "series" / "enhanced.dcm", enforce_file_format=True)


@case
def enhanced_times(folder):
    """Enhanced MR of two interleaved time points.
    Right: refused with TemporalPositionIndex
    """
    interleaved_times(folder)
    return refused("TemporalPositionIndex")


@case
def enhanced_first_time(folder):
    """The same, the first time point chosen.
    Right: 8 slices with the ramp
    """
    interleaved_times(folder)
    return read(1.01, options={"series": "1"})


@case
def enhanced_without_positions(folder):
    """Enhanced MR without PlanePositionSequence, though the file has one ImagePositionPatient.
    Right: refused: the place of the frames is unknown
    """
    write_enhanced(folder, range(SLICES))
    image = opened(folder / "series" / "enhanced.dcm")
    for frame in image.PerFrameFunctionalGroupsSequence:
        del frame.PlanePositionSequence
    image.ImagePositionPatient = ORIGIN.tolist()
    image.save_as(folder / "series" / "enhanced.dcm", enforce_file_format=True)
    return refused("ImagePositionPatient")


# What is absent.


@case
def no_orientation(folder):
    """ImageOrientationPatient is absent from every slice.
    Right: refused
    """
    write_series(folder, change=removing("ImageOrientationPatient"))
    return refused("ImageOrientationPatient")


@case
def no_position_in_one(folder):
    """ImagePositionPatient is absent from one slice of eight.
    Right: refused, naming the file
    """
    write_series(folder, change=lambda image, k: delattr(image, "ImagePositionPatient") if k == 3 else None)
    return refused("0003.dcm")


@case
def detector_spacing(folder):
    """A radiograph: ImagerPixelSpacing of the detector, no PixelSpacing.
    Right: refused, with the reason
    """

    def change(image, k):
        del image.PixelSpacing
        image.ImagerPixelSpacing = [0.14, 0.14]

    write_series(folder, sop_class=DigitalXRayImageStorageForPresentation, modality="DX", count=1, change=change)
    return refused("ImagerPixelSpacing")


@case
def screenshot(folder):
    """A secondary capture without geometry.
    Right: refused, naming its kind
    """

    def change(image, k):
        del image.PixelSpacing, image.ImagePositionPatient, image.ImageOrientationPatient

    write_series(folder, sop_class=SecondaryCaptureImageStorage, modality="OT", count=1, change=change)
    return refused("Secondary Capture")


# A single slice.


@case
def one_slice_alone(folder):
    """One file of a series of eight, given by itself.
    Right: 3 mm thick
    """
    write_series(folder)
    return read(shape=[COLUMNS, ROWS, 1], input="series/0003.dcm")


@case
def one_slice_with_gap(folder):
    """One slice, SliceThickness 3 and SpacingBetweenSlices 4.
    Right: 3 mm thick
    """
    write_series(folder, count=1, change=setting(SpacingBetweenSlices=4))
    return read(shape=[COLUMNS, ROWS, 1])


@case
def one_slice_without_thickness(folder):
    """One slice whose SliceThickness is empty.
    Right: refused
    """
    write_series(folder, count=1, change=setting(SliceThickness=None))
    return refused("SliceThickness")


@case
def one_slice_without_ending(folder):
    """One slice whose file is called IM0001, given by itself.
    Right: 3 mm thick
    """
    write_series(folder, count=1)
    (folder / "series" / "0000.dcm").rename(folder / "series" / "IM0001")
    return read(shape=[COLUMNS, ROWS, 1], input="series/IM0001")


# Encodings.


@case
def monochrome1_twelve_bits(folder):
    """MONOCHROME1 in 12 of 16 unsigned bits.
    Right: the ramp
    """
    twelve = encoded(16, 12)

    def change(image, k):
        twelve(image, k)
        image.PhotometricInterpretation = "MONOCHROME1"

    write_series(folder, change=change)
    return read()


@case
def monochrome1_signed_twelve_bits(folder):
    """MONOCHROME1 in 12 of 16 signed bits, at which ITK stops.
    Right: the ramp
    """
    twelve = encoded(16, 12, signed=True)

    def change(image, k):
        twelve(image, k)
        image.PhotometricInterpretation = "MONOCHROME1"

    write_series(folder, change=change)
    return read()


@case
def eight_bits(folder):
    """Eight unsigned bits, slope 1.
    Right: the fainter ramp
    """
    write_series(folder, change=encoded(8, ramp=FAINT))
    return read(ramp=FAINT)


@case
def twenty_of_32_bits(folder):
    """20 of 32 bits, which ITK misreads.
    Right: the ramp
    """
    write_series(folder, change=encoded(32, 20, signed=True))
    return read()


@case
def signed_twelve_bits(folder):
    """Signed values in 12 of 16 bits, negative ones among them, without their sign in the upper bits.
    Right: a ramp about 0
    """
    low = {"offset": -20.0, "gradient": RAMP["gradient"]}
    write_series(folder, change=encoded(16, 12, signed=True, ramp=low))
    return read(ramp=low)


@case
def big_endian(folder):
    """Explicit VR Big Endian.
    Right: the ramp
    """
    write_series(folder, change=encoded(16, signed=True, syntax=ExplicitVRBigEndian))
    return read()


@case
def big_endian_32_bits(folder):
    """Explicit VR Big Endian with 32 bits, which ITK misreads.
    Right: the ramp
    """
    write_series(folder, change=encoded(32, signed=True, syntax=ExplicitVRBigEndian))
    return read()


@case
def implicit(folder):
    """Implicit VR Little Endian.
    Right: the ramp
    """
    write_series(folder, change=encoded(16, signed=True, syntax=ImplicitVRLittleEndian))
    return read()


@case
def deflated(folder):
    """Deflated Explicit VR Little Endian.
    Right: the ramp
    """
    write_series(folder, change=encoded(16, signed=True, syntax=DeflatedExplicitVRLittleEndian))
    return read()


@case
def run_lengths(folder):
    """RLE Lossless.
    Right: the ramp
    """

    def change(image, k):
        image.compress(RLELossless)

    write_series(folder, change=change)
    return read()


@case
def float_pixels(folder):
    """A parametric map in 32-bit float, single slices.
    Right: the ramp, to 1e-3
    """

    def change(image, k):
        values = ramp_at(ras_of_slice(np.array(image.ImagePositionPatient, float)))
        del image.PixelData, image.BitsStored, image.HighBit, image.PixelRepresentation
        image.BitsAllocated, image.FloatPixelData = 32, values.astype("<f4").tobytes()

    write_series(folder, sop_class=ParametricMapStorage, modality="MR", change=change)
    return read(1e-3)


@case
def unknown_encoding(folder):
    """Pixels that claim to be High-Throughput JPEG 2000.
    Right: refused, naming the encoding
    """

    def change(image, k):
        image.file_meta.TransferSyntaxUID = HTJ2K
        image.PixelData = encapsulate([bytes(range(256)) * 4])
        image["PixelData"].is_undefined_length = True

    write_series(folder, change=change)
    return refused("High-Throughput JPEG 2000")


@case
def cut_short(folder):
    """The pixels of one slice are 100 bytes short, which ITK fills with what lies behind.
    Right: refused, naming the file
    """

    def change(image, k):
        if k == 2:
            image.PixelData = image.PixelData[:-100]

    write_series(folder, change=change)
    return refused("0002.dcm")


@case
def color(folder):
    """RGB slices.
    Right: refused, with the remedy
    """

    def change(image, k):
        image.SamplesPerPixel, image.PhotometricInterpretation, image.PlanarConfiguration = 3, "RGB", 0
        image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 8, 8, 7, 0
        image.PixelData = bytes(3 * ROWS * COLUMNS)

    write_series(folder, change=change)
    return refused("RGB")


@case
def palette(folder):
    """Slices of PALETTE COLOR.
    Right: refused, with the remedy
    """
    write_series(folder, change=setting(PhotometricInterpretation="PALETTE COLOR"))
    return refused("PALETTE COLOR")


# Folders.


def add_series(folder, name, number, description, values=ramp_at, count=SLICES, **more):
    """One more series, written in its own folder and moved into `series`."""
    other = folder / name
    other.mkdir()
    change = setting(SeriesNumber=number, SeriesDescription=description)
    write_series(other, values=values, count=count, change=change, **more)
    (folder / "series").mkdir(exist_ok=True)
    for path in (other / "series").iterdir():
        path.rename(folder / "series" / f"{name}_{path.name}")
    shutil.rmtree(other)


def two_series(folder):
    add_series(folder, "bone", 7, "bone kernel", values=lambda points: ramp_at(points) / 2)
    add_series(folder, "soft", 4, "soft kernel")


@case
def series_of_two_kernels(folder):
    """Two series of one scan in one folder.
    Right: refused, with both descriptions
    """
    two_series(folder)
    return refused("soft kernel")


@case
def series_by_number(folder):
    """The same, chosen by its place in the list.
    Right: 8 slices with the ramp
    """
    two_series(folder)
    return read(options={"series": "1"})


@case
def series_by_description(folder):
    """The same, chosen by SeriesDescription.
    Right: 8 slices with the ramp
    """
    two_series(folder)
    return read(options={"series": "soft kernel"})


@case
def series_by_uid(folder):
    """The same, chosen by SeriesInstanceUID.
    Right: 8 slices with the ramp
    """
    two_series(folder)
    return read(options={"series": str(generate_uid(entropy_srcs=["soft", "series"]))})


@case
def series_by_series_number(folder):
    """The same, chosen by SeriesNumber.
    Right: 8 slices with the ramp
    """
    two_series(folder)
    return read(options={"series": 4})


@case
def series_of_none(folder):
    """The same, a description chosen that neither has.
    Right: refused, with both descriptions
    """
    two_series(folder)
    return refused("bone kernel", series="brain")


@case
def localizer_in_series(folder):
    """A sagittal localizer under the SeriesInstanceUID of the scan; the scan is chosen.
    Right: 8 slices with the ramp
    """

    def change(image, k):
        if k == SLICES:
            image.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
            image.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
        else:
            image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]

    write_series(folder, count=SLICES + 1, change=change)
    return read(options={"series": 1})


@case
def time_series(folder):
    """Two time points at the same positions under one SeriesInstanceUID, distinguished by AcquisitionTime alone.
    Right: refused with AcquisitionTime
    """
    write_times(folder)
    return refused("AcquisitionTime")


@case
def time_series_second(folder):
    """The same, the second time point chosen, which has half the values.
    Right: 8 slices with half the ramp
    """
    write_times(folder)
    half = {"offset": RAMP["offset"] / 2, "gradient": [value / 2 for value in RAMP["gradient"]]}
    return read(ramp=half, options={"series": 2})


def write_times(folder):
    def change(image, k):
        image.AcquisitionTime = f"1200{k:02d}"
        if k >= SLICES:
            values = ramp_at(ras_of_slice(np.array(image.ImagePositionPatient, float))) / 2
            image.PixelData = np.round(values).astype("<i2").tobytes()

    write_series(folder, positions=[ORIGIN + [0, 0, GAP * (k % SLICES)] for k in range(2 * SLICES)], change=change)


@case
def diffusion(folder):
    """Diffusion weightings 0 and 1000 at the same positions; the first is chosen.
    Right: 8 slices with the ramp
    """
    write_series(
        folder,
        sop_class=MRImageStorage,
        modality="MR",
        positions=[ORIGIN + [0, 0, GAP * (k // 2)] for k in range(2 * SLICES)],
        change=setting(DiffusionBValue=lambda k: 1000.0 * (k % 2)),
    )
    return read(options={"series": 1})


@case
def mosaic(folder):
    """Siemens' MOSAIC: the slices of a volume as one natural image.
    Right: refused, naming it
    """
    write_series(
        folder,
        sop_class=MRImageStorage,
        modality="MR",
        change=setting(ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]),
    )
    return refused("MOSAIC")


@case
def other_files_in_folder(folder):
    """Slices in random order without an ending, beside DICOMDIR, a report, a private object and a text.
    Right: 8 slices with the ramp
    """
    write_series(folder)
    series = folder / "series"
    for k in range(SLICES):
        (series / f"{k:04d}.dcm").rename(series / f"IM{k * 5 % SLICES:06d}")
    (series / "README.txt").write_text("This is not DICOM.")
    (series / "._IM000001").write_bytes(b"\x00\x05\x16\x07")
    report = dataset(BasicTextSRStorage, "SR", folder.name, 99)
    private = dataset("1.3.12.2.1107.5.9.1", "MR", folder.name, 98)
    for name, other in (("REPORT", report), ("CSA.dcm", private)):
        for keyword in (
            "Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
            "PhotometricInterpretation",
        ):  # fmt: skip
            delattr(other, keyword)
        other.save_as(series / name, enforce_file_format=True)
    directory = dataset("1.2.840.10008.1.3.10", "", folder.name, 97)
    for keyword in [element.keyword for element in directory if element.keyword != "SOPClassUID"]:
        delattr(directory, keyword)
    directory.SOPInstanceUID = generate_uid(entropy_srcs=[folder.name, "directory"])
    directory.save_as(series / "DICOMDIR", enforce_file_format=True)
    return read()


@case
def sagittal(folder):
    """A sagittal series, numbered from left to right.
    Right: the ramp
    """
    write_oriented(folder, [0, 1, 0, 0, 0, -1], order=[0, 5, 2, 7, 4, 1, 6, 3])
    return read(1.01)


@case
def coronal(folder):
    """A coronal series, numbered backwards.
    Right: the ramp
    """
    write_oriented(folder, [1, 0, 0, 0, 0, -1], order=range(SLICES - 1, -1, -1))
    return read(1.01)


@case
def oblique(folder):
    """A series turned about all axes.
    Right: the ramp
    """
    a, b = np.radians([25, -40])
    rows = np.array([np.cos(a), np.sin(a), 0])
    columns = np.array([-np.sin(a) * np.cos(b), np.cos(a) * np.cos(b), np.sin(b)])
    write_oriented(folder, [*rows, *columns])
    return read(1.01)


def opened(path):
    from pydicom import dcmread

    image: FileDataset = dcmread(path)
    return image


if __name__ == "__main__":
    main(__doc__)
