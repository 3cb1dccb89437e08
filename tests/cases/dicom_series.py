"""DICOM series that are read wrongly, or lose slices, without a word.

    python -m tests.cases.dicom_series OUT [--only CASE]

Every case is OUT/CASE/series (a folder of one volume, unless its docstring says otherwise). `ramp` in
`expected.json` is the intensity at any RAS mm position (see `common.departure`); `probes` are [x, y, z, value] in RAS mm
at centers of voxels. `accept` reports whether reading rightly, refusing, or both are right.
"""

import copy

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    generate_uid,
)

from tests.cases.common import RAMP, case, main, ramp_at

COLUMNS, ROWS, SLICES = 24, 20, 8
COLUMN_SPACING, ROW_SPACING, GAP = 1.2, 1.5, 3.0
ORIGIN = np.array([-10.0, -20.0, 5.0])  # LPS mm of the first voxel
RIGHT_SHAPE = [COLUMNS, ROWS, SLICES]


def ras_of_slice(position, orientation=(1, 0, 0, 0, 1, 0), rows=ROWS):
    """RAS mm of the pixels of a slice, (rows, COLUMNS, 3)."""
    row, column = np.mgrid[:rows, :COLUMNS]
    axes = np.asarray(orientation, float).reshape(2, 3)
    lps = np.asarray(position) + column[..., None] * COLUMN_SPACING * axes[0] + row[..., None] * ROW_SPACING * axes[1]
    return lps * [-1, -1, 1]


def dataset(sop_class, modality, name, number):
    """An object without geometry and pixels; UIDs depend on the case's name alone."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[name, "image", str(number)])
    image = Dataset()
    image.file_meta = meta
    image.SOPClassUID, image.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    image.StudyInstanceUID = generate_uid(entropy_srcs=[name, "study"])
    image.SeriesInstanceUID = generate_uid(entropy_srcs=[name, "series"])
    image.FrameOfReferenceUID = generate_uid(entropy_srcs=[name, "frame"])
    image.Modality, image.PatientName, image.PatientID = modality, "Case^Made", "made"
    image.PatientBirthDate, image.PatientSex, image.StudyID, image.AccessionNumber = "", "O", "1", ""
    image.StudyDate, image.StudyTime, image.ReferringPhysicianName = "20200101", "120000", ""
    image.SeriesNumber, image.InstanceNumber = 1, number + 1
    image.Rows, image.Columns, image.SamplesPerPixel = ROWS, COLUMNS, 1
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit, image.PixelRepresentation, image.PhotometricInterpretation = 15, 1, "MONOCHROME2"
    return image


def write_series(
    folder,
    *,
    sop_class=CTImageStorage,
    modality="CT",
    positions=None,
    slope=lambda k: 1.0,
    change=None,
    values=None,
    count=SLICES,
):
    """Single-frame slices of the ramp (or of `values`, a function of RAS points); returns their positions."""
    (folder / "series").mkdir()
    positions = [ORIGIN + [0, 0, GAP * k] for k in range(count)] if positions is None else positions
    for k, position in enumerate(positions):
        image = dataset(sop_class, modality, folder.name, k)
        image.PixelSpacing, image.SliceThickness = [ROW_SPACING, COLUMN_SPACING], GAP
        image.ImagePositionPatient = [float(f"{value:.6f}") for value in position]
        image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        image.RescaleSlope, image.RescaleIntercept = f"{slope(k):.10f}"[:16], "0"
        true = (values or ramp_at)(ras_of_slice(position))
        image.PixelData = np.round(true / float(image.RescaleSlope)).astype("<i2").tobytes()
        if change:
            change(image, k)
        image.save_as(folder / "series" / f"{k:04d}.dcm", enforce_file_format=True)
    return positions


def right(accept, **more):
    """What is right of a volume that holds the ramp."""
    result = {"entry": "read_image", "input": "series", "accept": accept}
    if "read" in accept:
        result |= {
            "shape": RIGHT_SHAPE,
            "spacing": [COLUMN_SPACING, ROW_SPACING, GAP],
            "ramp": {**RAMP, "tolerance": 0.51},
        }
    return result | more


def first_five(keyword, one, other):
    """Set a keyword to one value in the first five slices and to another in the last three."""
    return lambda image, k: setattr(image, keyword, one if k < 5 else other)


@case
def plain(folder):
    """A plain CT series, the control.
    Reports: none
    Before: read rightly
    Right: shape 24 x 20 x 8, spacing 1.2, 1.5, 3.0 mm, and the ramp at every voxel
    """
    write_series(folder)
    return right(["read"])


@case
def slice_thickness_differs(folder):
    """One SeriesInstanceUID; SliceThickness is 3 in five slices and 3.0001 in three; positions are even.
    Reports: InsightSoftwareConsortium/ITK#4677
    Before: 3 of the 8 slices are read, exit code 0, nothing said (the check counts series by UID, the reader splits by details)
    Right: all 8 slices (shape 24 x 20 x 8) with the ramp; a refusal that names the tag is tolerable
    """
    write_series(folder, change=first_five("SliceThickness", 3, 3.0001))
    return right(["read", "refuse"])


@case
def sequence_name_differs(folder):
    """As before, but SequenceName differs (MR).
    Reports: InsightSoftwareConsortium/ITK#4677
    Before: 3 of the 8 slices are read in silence
    Right: 8 slices with the ramp, or a refusal
    """
    write_series(
        folder, sop_class=MRImageStorage, modality="MR", change=first_five("SequenceName", "*tfl3d", "*tfl3d1")
    )
    return right(["read", "refuse"])


@case
def series_number_differs(folder):
    """As before, but SeriesNumber differs under one SeriesInstanceUID.
    Reports: InsightSoftwareConsortium/ITK#4677
    Before: 5 of the 8 slices are read in silence
    Right: 8 slices with the ramp, or a refusal
    """
    write_series(folder, change=first_five("SeriesNumber", 1, 2))
    return right(["read", "refuse"])


@case
def rows_differ(folder):
    """One SeriesInstanceUID; two more slices on top have 10 instead of 20 rows.
    Reports: InsightSoftwareConsortium/ITK#4677
    Before: the two small slices alone are read (24 x 10 x 2) in silence
    Right: refused, with the tag Rows in the message: these slices make no volume
    """

    def shorten(image, k):
        if k >= SLICES:
            image.Rows, image.PixelData = 10, image.PixelData[: 10 * COLUMNS * 2]

    write_series(folder, change=shorten, count=SLICES + 2)
    return right(["refuse"])


@case
def pet_slope_per_slice(folder):
    """PET in SUV (0 to 8): RescaleSlope is 1 in the first slice and 8/32767 in the others.
    Reports: SimpleITK/SimpleITK#1636, SimpleITK/SimpleITK#1640, rordenlab/dcm2niix#978
    Before: the pixel type comes from the first slice, so SUV are rounded to whole numbers (off by 0.4 on average at the probes, 0.9 at worst)
    Right: the probes, to 1e-3: every slice by its own slope, as a real number
    """

    def suv(points):
        return np.clip(4 + 0.09 * points[..., 0] + 0.05 * points[..., 1] + 0.02 * points[..., 2], 0, 8)

    def first_whole(points):
        return np.round(suv(points)) if points[0, 0, 2] == ORIGIN[2] else suv(points)

    positions = write_series(
        folder,
        sop_class=PositronEmissionTomographyImageStorage,
        modality="PT",
        values=first_whole,
        slope=lambda k: 1.0 if k == 0 else 8 / 32767,
    )
    points = [ras_of_slice(positions[k])[r, c] for k in (1, 4, 7) for r, c in ((3, 5), (10, 12), (16, 20))]
    probes = [[*map(float, point), round(float(suv(point)), 4)] for point in points]
    return right(["read"], ramp=None, probes=probes, tolerance=1e-3)


@case
def mr_slope_per_slice(folder):
    """MR whose RescaleSlope is 1, 1.5, 2, ... from slice to slice.
    Reports: SimpleITK/SimpleITK#1636
    Before: values of slices with a fractional slope are rounded to whole numbers (up to 0.5 off)
    Right: the probes, to 1e-3 (odd multiples of half a unit among them)
    """
    slopes = [1 + 0.5 * k for k in range(SLICES)]
    positions = write_series(folder, sop_class=MRImageStorage, modality="MR", slope=lambda k: slopes[k])
    probes = []
    for k in (1, 3, 5):
        points = ras_of_slice(positions[k])
        stored = np.round(ramp_at(points) / slopes[k])
        odd = np.argwhere((stored * slopes[k]) % 1 == 0.5)[:3]
        probes += [[*map(float, points[r, c]), float(stored[r, c] * slopes[k])] for r, c in odd]
    return right(["read"], ramp=None, probes=probes, tolerance=1e-3)


@case
def gantry_tilt(folder):
    """CT with the gantry tilted by 20 degrees: every slice lies 1.09 mm further along y than the one below.
    Reports: SimpleITK/SimpleITK#1128, Slicer/Slicer#4409, rordenlab/dcm2niix#253, rordenlab/dcm2niix#697
    Before: read as an orthogonal grid of 3.193 mm spacing; the last slice lies 7.8 mm off
    Right: the sheared grid is kept (column 3 of the affine is 0, -1.092, 3 RAS mm), or it is resampled onto an orthogonal grid that
    still holds the ramp inside the scan, or it is refused with the remedy
    """
    shift = GAP * np.tan(np.radians(20))
    write_series(folder, positions=[ORIGIN + [0, shift * k, GAP * k] for k in range(SLICES)])
    return right(["read", "refuse"], shape=None, spacing=None, tilted_column=[0.0, -round(shift, 4), GAP])


@case
def sideways_slices(folder):
    """Every other slice is shifted by 20 mm along x; the distances between neighbors are all equal.
    Reports: cornerstonejs/cornerstone3D#227
    Before: accepted with 4.143 mm spacing where it is 3 mm (ITK prints its own warning)
    Right: refused: these positions make no grid
    """
    write_series(folder, positions=[ORIGIN + [20.0 * (k % 2), 0, GAP * k] for k in range(SLICES)])
    return right(["refuse"])


def write_enhanced(folder, order, echoes=1):
    """One enhanced MR object; frames lie in `order`, once for each echo (the second has half the values)."""
    (folder / "series").mkdir()
    image = dataset(EnhancedMRImageStorage, "MR", folder.name, 0)
    image.NumberOfFrames = len(order) * echoes
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness, measures.SpacingBetweenSlices = (
        [ROW_SPACING, COLUMN_SPACING],
        GAP,
        GAP,
    )
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    image.SharedFunctionalGroupsSequence = [shared]
    frames, pixels = [], []
    for echo in range(echoes):
        for k in order:
            position, scaling, content, timing, frame = Dataset(), Dataset(), Dataset(), Dataset(), Dataset()
            place = ORIGIN + [0, 0, GAP * k]
            position.ImagePositionPatient = place.tolist()
            scaling.RescaleSlope, scaling.RescaleIntercept, scaling.RescaleType = "2", "-5", "US"
            content.StackID, content.InStackPositionNumber, content.DimensionIndexValues = (
                "1",
                k + 1,
                [1, k + 1, echo + 1],
            )
            timing.EffectiveEchoTime = 2.0 + 2.0 * echo
            frame.PlanePositionSequence, frame.PixelValueTransformationSequence = [position], [scaling]
            frame.FrameContentSequence, frame.MREchoSequence = [content], [timing]
            frames.append(copy.deepcopy(frame))
            pixels.append(np.round((ramp_at(ras_of_slice(place)) / (echo + 1) + 5) / 2).astype("<i2").tobytes())
    image.PerFrameFunctionalGroupsSequence, image.PixelData = frames, b"".join(pixels)
    image.save_as(folder / "series" / "enhanced.dcm", enforce_file_format=True)


@case
def enhanced_reversed(folder):
    """Enhanced multi-frame MR, frames from the top down; a control (so is the order from below).
    Reports: Slicer/Slicer#6773, ivmartel/dwv#2290
    Before: read rightly, the third axis running down
    Right: the ramp at every voxel, tolerance 1.01 (slope 2)
    """
    write_enhanced(folder, range(SLICES - 1, -1, -1))
    return right(["read"], ramp={**RAMP, "tolerance": 1.01})


@case
def enhanced_shuffled(folder):
    """Enhanced multi-frame MR whose frames are interleaved in the file: 0, 4, 1, 5, 2, 6, 3, 7.
    Reports: InsightSoftwareConsortium/ITK#208, InsightSoftwareConsortium/ITKPythonPackage#105, ivmartel/dwv#2290
    Before: a scrambled volume with spacing 1, 1, 1 mm
    Right: frames sorted by position: the ramp at every voxel, spacing 3 mm; a refusal is tolerable
    """
    write_enhanced(folder, [0, 4, 1, 5, 2, 6, 3, 7])
    return right(["read", "refuse"], ramp={**RAMP, "tolerance": 1.01})


@case
def enhanced_two_echoes(folder):
    """Enhanced multi-frame MR with two echoes of eight slices at the same positions.
    Reports: rordenlab/dcm2niix#416, ivmartel/dwv#2290
    Before: one volume of 16 slices, as if the second echo lay on top of the head
    Right: refused, or one echo chosen by the user: 8 slices with the ramp (echo 1)
    """
    write_enhanced(folder, range(SLICES), echoes=2)
    return right(["read", "refuse"], ramp={**RAMP, "tolerance": 1.01})


@case
def no_position(folder):
    """ImagePositionPatient is absent from every slice; SliceThickness is 3.
    Reports: rordenlab/dcm2niix#341, InsightSoftwareConsortium/ITK#4677
    Before: accepted: spacing 1 mm, origin 0
    Right: refused: the place of the slices is unknown
    """
    write_series(folder, change=lambda image, k: delattr(image, "ImagePositionPatient"))
    return right(["refuse"])


@case
def one_slice(folder):
    """A folder of one slice with SliceThickness 3.
    Reports: Slicer/Slicer#6773
    Before: 1 mm thick
    Right: 3 mm thick: spacing 1.2, 1.5, 3.0; so is the file series/0000.dcm alone
    """
    write_series(folder, count=1)
    return right(["read"], shape=[COLUMNS, ROWS, 1])


@case
def monochrome1(folder):
    """A signed CT whose PhotometricInterpretation is MONOCHROME1 (shown inverted, stored as ever).
    Reports: SimpleITK/SimpleITK#1795, InsightSoftwareConsortium/ITK#3819
    Before: every value v becomes -1 - v
    Right: the stored (modality) values: the ramp; a refusal is tolerable
    """
    write_series(folder, change=lambda image, k: setattr(image, "PhotometricInterpretation", "MONOCHROME1"))
    return right(["read", "refuse"])


if __name__ == "__main__":
    main(__doc__)
