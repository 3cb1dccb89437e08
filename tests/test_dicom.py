"""DICOM in and out: read back by other programs' eyes (SimpleITK, pydicom), and valid by the standard's tables."""

import shutil
import subprocess

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import torch
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid
from typer.testing import CliRunner

from medtrace.cli import app
from medtrace.data.reading import read_image
from medtrace.fields import exponentiate, warp
from medtrace.io import (
    load_trace,
    read_dicom_registration,
    read_source_series,
    save_dicom,
    save_trace,
    write_dicom_registration,
    write_image,
)
from medtrace.io.dicom_series import store
from medtrace.trace import Trace
from medtrace.workflows.translate import translate
from tests.standins import shift_run

SHAPE = (14, 12, 9)
NEW = ["SeriesInstanceUID", "SOPInstanceUID"]
SAME = [
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "StudyInstanceUID",
    "StudyDate",
    "AccessionNumber",
    "FrameOfReferenceUID",
]


def rotation(angles):
    turns = [np.eye(3) for _ in angles]
    for axis, angle in enumerate(angles):
        i, j = [k for k in range(3) if k != axis]
        turns[axis][[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
    return turns[0] @ turns[1] @ turns[2]


AXES = rotation((0.3, -0.2, 0.5))
SPACING = np.array([0.9, 1.3, 2.5])  # from column to column, row to row, slice to slice


def write_series(folder, shape=SHAPE, kind=MRImageStorage, slope=0.5, intercept=-20.0, seed=3):
    """A series on an oblique grid, written by pydicom alone; returns its values and LPS matrix."""
    folder.mkdir()
    random = np.random.default_rng(seed)
    stored = random.integers(0, 900, shape).astype(np.uint16)
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = AXES * SPACING, (12.5, -40.25, 31.125)
    study, series, frame = (generate_uid() for _ in range(3))
    for index in range(shape[2]):
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = kind
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.SpecificCharacterSet = "ISO_IR 192"
        dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = "Müller^Zoë", "17", "19700101"
        dataset.PatientSex, dataset.AccessionNumber, dataset.StudyID = "O", "A4", "1"
        dataset.StudyDate, dataset.StudyTime, dataset.ReferringPhysicianName = "20240102", "101112", ""
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = study, series, frame
        dataset.Modality, dataset.SeriesNumber = ("MR" if kind == MRImageStorage else "CT"), 5
        dataset.Manufacturer, dataset.PatientPosition = "ACME", "HFS"
        dataset.LossyImageCompression = "00"
        dataset.PixelSpacing = [str(SPACING[1]), str(SPACING[0])]
        dataset.SliceThickness = str(SPACING[2])
        dataset.ImageOrientationPatient = [f"{value:.13f}" for value in AXES[:, :2].T.ravel()]
        dataset.ImagePositionPatient = [f"{value:.12f}"[:16] for value in (matrix @ [0, 0, index, 1])[:3]]
        dataset.InstanceNumber = shape[2] - index  # numbered against their positions, as some scanners do
        dataset.Columns, dataset.Rows = shape[:2]
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
        dataset.RescaleSlope, dataset.RescaleIntercept = str(slope), str(intercept)
        dataset.PixelData = np.ascontiguousarray(stored[:, :, index].T).tobytes()
        dataset["PixelData"].VR = "OW"
        dataset.save_as(folder / f"{index * 7 % shape[2]:03d}.dcm", enforce_file_format=True)
    return stored.astype(float) * slope + intercept, matrix


def make_trace(folder, scale=0.731, offset=11.7):
    scan = read_image(folder)
    shape = scan.shape[1:]
    coarse = torch.randn(1, 3, 3, 3, 3, generator=torch.Generator().manual_seed(1)) * 2
    velocity = torch.nn.functional.interpolate(coarse, size=shape, mode="trilinear", align_corners=True)
    if shape[2] == 1:
        velocity[:, 2] = 0
    ddf, inverse = exponentiate(torch.cat([velocity, -velocity]))
    source = scan.as_tensor()
    image = warp(source[None], ddf[None])[0] * scale + offset
    return Trace.build(source, image, ddf, inverse_ddf=inverse, affine=scan.affine)


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dicom") / "series"
    write_series(folder)
    return folder


@pytest.fixture(scope="module")
def exported(series, tmp_path_factory):
    """A trace of the series and its DICOM folder; not to be changed."""
    trace = make_trace(series)
    return trace, save_dicom(trace, tmp_path_factory.mktemp("dicom") / "out", series, method="Method", warped=True)


def read_sitk(folder):
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return sitk.Cast(reader.Execute(), sitk.sitkFloat64)


def matrix_of(image):
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    matrix[:3, 3] = image.GetOrigin()
    return matrix


def headers(folder):
    return [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]


def test_series_in(tmp_path):
    values, matrix = write_series(tmp_path / "series", kind=CTImageStorage, slope=1, intercept=-1024)
    image = read_image(tmp_path / "series")
    np.testing.assert_allclose(image[0].numpy(), values)
    np.testing.assert_allclose(np.diag([-1, -1, 1, 1]) @ image.affine.numpy(), matrix, atol=1e-6)
    source = read_source_series(tmp_path / "series")
    assert source.shape == SHAPE
    np.testing.assert_allclose(source.affine, image.affine, atol=1e-6)
    assert [header.InstanceNumber for header in source.headers] == list(range(SHAPE[2], 0, -1))


def test_translated_series_has_the_scans_geometry_and_the_traces_values(exported):
    trace, folder = exported
    for name in ("image", "warped"):
        back = read_sitk(folder / name)
        values = getattr(trace, name)
        half_step = float(values.max() - values.min()) / 65535 / 2
        result = sitk.GetArrayFromImage(back).T
        assert np.abs(result - values[0].double().numpy()).max() < 1.01 * half_step
        np.testing.assert_allclose(np.diag([-1, -1, 1, 1]) @ matrix_of(back), trace.affine, atol=1e-6)


def test_translated_series_is_a_derived_series_of_the_same_study(exported, series):
    _, folder = exported
    source = {header.SOPInstanceUID: header for header in headers(series)}
    written = headers(folder / "image")
    assert len({header.SOPInstanceUID for header in written}) == SHAPE[2]
    for header in written:
        (item,) = header.SourceImageSequence
        original = source[item.ReferencedSOPInstanceUID]
        assert np.allclose(header.ImagePositionPatient, original.ImagePositionPatient, atol=1e-6)
        assert all(header[name].value == original[name].value for name in SAME)
        assert all(header[name].value != original[name].value for name in NEW)
        assert header.ImageType[:2] == ["DERIVED", "SECONDARY"]
        assert "not acquired" in header.DerivationDescription
        assert "Method" in header.SeriesDescription
        assert header.Manufacturer == "medtrace"
        assert header.ContributingEquipmentSequence[0].Manufacturer == "ACME"
        assert header.LossyImageCompression == "00"
        (referenced,) = header.ReferencedSeriesSequence
        assert len(referenced.ReferencedInstanceSequence) == SHAPE[2]
        assert referenced.SeriesInstanceUID == original.SeriesInstanceUID


@pytest.mark.parametrize("name", ["ddf", "inverse_ddf"])
def test_registration_comes_back(exported, name):
    trace, folder = exported
    back = read_dicom_registration(folder / f"{name}.dcm")
    torch.testing.assert_close(back.ddf, getattr(trace, name), atol=1e-5, rtol=0)
    torch.testing.assert_close(back.affine, trace.affine, atol=1e-9, rtol=0)


def test_registration_resamples_the_source_series_into_the_warped_one(exported, series):
    """Registered to Source, in SimpleITK's hands: the grid and its vectors are used as the standard says."""
    _, folder = exported
    item = pydicom.dcmread(folder / "ddf.dcm").DeformableRegistrationSequence[1]
    grid = item.DeformableRegistrationGridSequence[0]
    size = list(grid.GridDimensions)
    vectors = np.frombuffer(grid.VectorGridData, "<f4").reshape(*size[::-1], 3).astype(float)
    field = sitk.GetImageFromArray(vectors, isVector=True)
    axes = np.array(grid.ImageOrientationPatient, float).reshape(2, 3)
    field.SetDirection(np.stack([*axes, np.cross(*axes)], 1).ravel())
    field.SetSpacing(list(grid.GridResolution))
    field.SetOrigin([float(value) for value in grid.ImagePositionPatient])
    moving, fixed = read_sitk(series), read_sitk(folder / "warped")
    resampler = sitk.ResampleImageFilter()
    resampler.SetReferenceImage(fixed)
    resampler.SetTransform(sitk.DisplacementFieldTransform(field))
    resampler.UseNearestNeighborExtrapolatorOn()
    inside = np.s_[2:-2, 2:-2, 2:-2]
    result, expected = (sitk.GetArrayFromImage(image)[inside] for image in (resampler.Execute(moving), fixed))
    assert np.abs(expected - sitk.GetArrayFromImage(moving)[inside]).mean() > 20  # the field does something
    assert np.abs(result - expected).max() < 0.05


def test_registration_names_both_series(exported, series):
    _, folder = exported
    source, image = headers(series), headers(folder / "image")
    for name, still, moved in (("ddf", image, source), ("inverse_ddf", source, image)):
        dataset = pydicom.dcmread(folder / f"{name}.dcm")
        first, second = dataset.DeformableRegistrationSequence
        assert "DeformableRegistrationGridSequence" not in first
        for item, group in ((first, still), (second, moved)):
            uids = {entry.ReferencedSOPInstanceUID for entry in item.ReferencedImageSequence}
            assert uids == {header.SOPInstanceUID for header in group}
        assert dataset.StudyInstanceUID == source[0].StudyInstanceUID
        assert dataset.FrameOfReferenceUID == still[0].FrameOfReferenceUID
        assert {item.SeriesInstanceUID for item in dataset.ReferencedSeriesSequence} == {
            source[0].SeriesInstanceUID,
            image[0].SeriesInstanceUID,
        }


@pytest.mark.parametrize("flip", [(1, 1, 1), (-1, 1, 1), (1, -1, 1), (-1, -1, -1)], ids=str)
@pytest.mark.parametrize("shape", [(5, 4, 3), (5, 4, 1)])
def test_registration_maps_points_as_the_field_does_on_any_grid(series, tmp_path, flip, shape):
    """source = x + D(x) at the center of every deformation voxel, by the standard's formula on the raw file."""
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3] = torch.from_numpy(AXES * SPACING * np.array(flip))
    affine[:3, 3] = torch.tensor([3.0, -7.0, 11.0])
    ddf = torch.randn(3, *shape)
    study = read_source_series(series)
    path = tmp_path / "field.dcm"
    write_dicom_registration(path, ddf, affine, study, registered=study.headers, source=study.headers)
    grid = pydicom.dcmread(path).DeformableRegistrationSequence[1].DeformableRegistrationGridSequence[0]
    row, column = np.array(grid.ImageOrientationPatient, float).reshape(2, 3)
    vectors = np.frombuffer(grid.VectorGridData, "<f4").reshape(-1, 3)
    ras = np.diag([-1.0, -1.0, 1.0])
    moved = {}
    for number, (k, j, i) in enumerate(np.ndindex(*list(grid.GridDimensions)[::-1])):
        x = np.array(grid.ImagePositionPatient, float)
        x = x + (row * i * grid.GridResolution[0] + column * j * grid.GridResolution[1])
        x = x + np.cross(row, column) * k * grid.GridResolution[2]
        moved[tuple(np.round(ras @ x, 4) + 0.0)] = ras @ (x + vectors[number])
    matrix = affine.numpy()
    for index in np.ndindex(*shape):
        start = matrix[:3, :3] @ index + matrix[:3, 3]
        end = matrix[:3, :3] @ (index + ddf[(slice(None), *index)].double().numpy()) + matrix[:3, 3]
        np.testing.assert_allclose(moved[tuple(np.round(start, 4) + 0.0)], end, atol=1e-4)
    back = read_dicom_registration(path)
    expected = ddf if np.prod(flip) > 0 else torch.cat([ddf[:2], -ddf[2:]]).flip(3)
    torch.testing.assert_close(back.ddf, expected, atol=1e-5, rtol=0)


def test_matrices_before_and_after_are_part_of_the_displacement(series, tmp_path):
    study = read_source_series(series)
    path = tmp_path / "field.dcm"
    ddf = torch.randn(3, 4, 3, 2)
    write_dicom_registration(path, ddf, study.affine, study, registered=study.headers, source=study.headers)
    dataset = pydicom.dcmread(path)
    item = dataset.DeformableRegistrationSequence[1]
    before, after = np.eye(4), np.eye(4)
    before[:3, :3], before[:3, 3] = rotation((0.1, 0, 0)), (1, 2, 3)
    after[:3, :3], after[:3, 3] = rotation((0, 0, -0.2)), (-4, 5, 6)
    for name, matrix in (("Pre", before), ("Post", after)):
        sequence = getattr(item, f"{name}DeformationMatrixRegistrationSequence")
        sequence[0].FrameOfReferenceTransformationMatrix = [f"{value:.10f}" for value in matrix.ravel()]
    dataset.save_as(path)
    back = read_dicom_registration(path)
    lps = np.diag([-1, -1, 1, 1]) @ study.affine.numpy()
    for index in ((0, 0, 0), (3, 2, 1), (1, 2, 0)):
        start = lps @ [*index, 1]
        vector = lps[:3, :3] @ ddf[(slice(None), *index)].double().numpy()
        end = after @ (before @ start + [*vector, 0])
        result = lps @ [*(index + back.ddf[(slice(None), *index)].double().numpy()), 1]
        np.testing.assert_allclose(result, end, atol=1e-4)


def test_2d_trace_of_one_slice(tmp_path):
    write_series(tmp_path / "series", shape=(14, 12, 1))
    volume = make_trace(tmp_path / "series")
    flat = Trace.build(volume.source[..., 0], volume.image[..., 0], volume.ddf[:2, ..., 0], affine=volume.affine)
    folder = save_dicom(flat, tmp_path / "out", tmp_path / "series")
    torch.testing.assert_close(
        read_dicom_registration(folder / "ddf.dcm", spatial_dims=2).ddf, flat.ddf, atol=1e-5, rtol=0
    )
    back = read_image(folder / "image").as_tensor()
    torch.testing.assert_close(back[..., 0], flat.image, atol=float(np.ptp(flat.image)) / 65535, rtol=0)


def test_store_keeps_integers_and_spreads_the_rest():
    for integers in (np.array([-1024.0, 0, 3071]), np.array([0.0, 65535])):
        kept = store(integers)
        assert (kept.slope, kept.intercept) == (1.0, 0.0)
        np.testing.assert_array_equal(kept.stored, integers)
    for values in (np.array([0.1, 1e6]), np.array([-40000.0, 40000]), np.array([1e-7, 3e-7]), np.array([0.5, 0.5])):
        kept = store(values)
        back = kept.stored * kept.slope + kept.intercept
        assert np.abs(back - values).max() <= np.ptp(values) / 65535 * 0.51 + 1e-12


def missing_attributes(dataset, module):
    """Attributes of type 1 or 2 of a module that a dataset lacks, by highdicom's copy of the standard's tables."""
    tables = pytest.importorskip("highdicom._standard_utils")
    missing = []
    for entry in tables.get_module_attribute_map()[module]:
        if entry["type"] not in ("1", "2"):
            continue
        items = [dataset]
        for name in entry["path"]:
            items = [child for item in items for child in item.get(name, [])]
        for item in items:
            value = item.get(entry["keyword"])
            if entry["keyword"] not in item or (entry["type"] == "1" and value in (None, "", [])):
                missing.append((module, *entry["path"], entry["keyword"]))
    return missing


@pytest.mark.parametrize("kind", [MRImageStorage, CTImageStorage], ids=["MR", "CT"])
def test_every_attribute_that_the_standard_requires_is_there(tmp_path, kind):
    tables = pytest.importorskip("highdicom._standard_utils")
    write_series(tmp_path / "series", kind=kind)
    folder = save_dicom(make_trace(tmp_path / "series"), tmp_path / "out", tmp_path / "series")
    for path in (folder / "image" / "0001.dcm", folder / "ddf.dcm"):
        dataset = pydicom.dcmread(path)
        iod = tables.get_sop_class_iod_map()[dataset.SOPClassUID]
        modules = [entry["key"] for entry in tables.get_iod_module_map()[iod] if entry["usage"] == "M"]
        assert len(modules) > 8
        assert [problem for module in modules for problem in missing_attributes(dataset, module)] == []


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="no dciodvfy (Debian: dicom3tools)")
@pytest.mark.parametrize("kind", [MRImageStorage, CTImageStorage], ids=["MR", "CT"])
def test_dciodvfy_finds_no_error(tmp_path, kind):
    write_series(tmp_path / "series", kind=kind)
    folder = save_dicom(make_trace(tmp_path / "series"), tmp_path / "out", tmp_path / "series")
    for path in (folder / "image" / "0001.dcm", folder / "ddf.dcm", folder / "inverse_ddf.dcm"):
        told = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True).stderr
        assert [line for line in told.splitlines() if line.startswith("Error")] == []


def test_another_scan_is_refused(exported, series, tmp_path):
    trace, folder = exported
    write_series(tmp_path / "other", seed=4)
    with pytest.raises(ValueError, match="differs from the trace's source by up to"):
        save_dicom(trace, tmp_path / "out", tmp_path / "other")
    write_series(tmp_path / "shorter", shape=(14, 12, 8))
    with pytest.raises(ValueError, match="expected the trace's grid"):
        save_dicom(trace, tmp_path / "out", tmp_path / "shorter")
    assert not (tmp_path / "out").exists()
    with pytest.raises(FileExistsError, match="is in use"):
        save_dicom(trace, folder, series)


def test_two_grids_need_the_target_series(series, tmp_path):
    write_series(tmp_path / "target", shape=(10, 11, 4), seed=5)
    moving, fixed = read_image(series), read_image(tmp_path / "target")
    trace = Trace.build(
        moving.as_tensor(),
        fixed.as_tensor(),
        torch.zeros(3, *fixed.shape[1:]),
        affine=fixed.affine,
        source_affine=moving.affine,
    )
    with pytest.raises(ValueError, match="target_series: expected"):
        save_dicom(trace, tmp_path / "out", series)
    folder = save_dicom(trace, tmp_path / "out", series, target_series=tmp_path / "target")
    (target, source, image) = (headers(path)[0] for path in (tmp_path / "target", series, folder / "image"))
    assert image.FrameOfReferenceUID == target.FrameOfReferenceUID != source.FrameOfReferenceUID
    assert image.StudyInstanceUID == source.StudyInstanceUID
    dataset = pydicom.dcmread(folder / "ddf.dcm")
    assert dataset.FrameOfReferenceUID == target.FrameOfReferenceUID
    assert dataset.DeformableRegistrationSequence[1].SourceFrameOfReferenceUID == source.FrameOfReferenceUID


def _remove_one(folder):
    next(path for path in folder.iterdir() if pydicom.dcmread(path).InstanceNumber == 4).unlink()


def _no_position(folder):
    path = next(iter(folder.iterdir()))
    dataset = pydicom.dcmread(path)
    del dataset.ImagePositionPatient
    dataset.save_as(path)


def _other_class(folder):
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
        dataset.save_as(path)


@pytest.mark.parametrize(
    ("corrupt", "message"),
    [
        (_remove_one, "expected evenly spaced slices, received gaps of 2.5 to 5 mm"),
        (_no_position, "an image lacks ImagePositionPatient"),
        (_other_class, "expected single-frame MR or CT images, received Secondary Capture"),
        (lambda folder: [path.unlink() for path in folder.iterdir()], "holds no DICOM images"),
        (
            lambda folder: write_series(folder / "x") and shutil.move(folder / "x" / "000.dcm", folder / "new.dcm"),
            "received 2",
        ),
    ],
)
def test_series_that_are_no_volume_are_refused(tmp_path, corrupt, message):
    series = tmp_path / "series"
    write_series(series)
    corrupt(series)
    with pytest.raises(ValueError, match=message):
        read_source_series(series)


def test_a_missing_slice_is_no_volume_for_any_command(tmp_path):
    write_series(tmp_path / "series")
    _remove_one(tmp_path / "series")
    with pytest.raises(ValueError, match=r"expected evenly spaced slices, received gaps of 2.5 to 5 mm"):
        read_image(tmp_path / "series")


def test_command(series, exported, tmp_path):
    trace, _ = exported
    save_trace(trace, tmp_path / "trace", method="Named")
    arguments = ["dicom", str(tmp_path / "trace"), str(series), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"image", "ddf.dcm", "inverse_ddf.dcm"}
    assert "Named" in headers(tmp_path / "out" / "image")[0].SeriesDescription
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 1
    assert "is in use" in again.output


@pytest.mark.usefixtures("standin_methods")
def test_translate_writes_dicom_as_well(series, tmp_path):
    run = shift_run(tmp_path / "run", [0.0, 1.0])
    arguments = ["translate", str(run), str(series), "--out", str(tmp_path / "trace"), "--dicom"]
    done = CliRunner().invoke(app, [*arguments, str(tmp_path / "dicom"), "--no-report", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    trace, step = load_trace(tmp_path / "trace"), 2**-16
    result = read_image(tmp_path / "dicom" / "image").as_tensor()
    span = float(trace.image.max() - trace.image.min())
    torch.testing.assert_close(result, trace.image, atol=step * span + 1e-3, rtol=0)
    again = CliRunner().invoke(app, [*arguments, str(tmp_path / "dicom"), "--overwrite"])
    assert again.exit_code == 1
    assert "dicom: is in use" in again.output
    write_image(tmp_path / "scan.nii.gz", trace.source, trace.affine)
    with pytest.raises(FileNotFoundError, match="expected the folder of a DICOM series"):
        translate(run, tmp_path / "scan.nii.gz", tmp_path / "other", dicom=tmp_path / "other_dicom")


def test_files_that_are_no_registration_are_refused(exported, tmp_path):
    _, folder = exported
    with pytest.raises(ValueError, match="expected a Deformable Spatial Registration, received MR Image Storage"):
        read_dicom_registration(folder / "image" / "0001.dcm")
    (tmp_path / "text.dcm").write_text("no")
    with pytest.raises(ValueError, match="is not a DICOM file"):
        read_dicom_registration(tmp_path / "text.dcm")
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_dicom_registration(tmp_path / "none.dcm")
    dataset = pydicom.dcmread(folder / "ddf.dcm")
    grid = dataset.DeformableRegistrationSequence[1].DeformableRegistrationGridSequence[0]
    grid.VectorGridData = np.full(3 * np.prod(SHAPE), np.nan, "<f4").tobytes()
    dataset.save_as(tmp_path / "nan.dcm")
    with pytest.raises(ValueError, match="undefined vectors"):
        read_dicom_registration(tmp_path / "nan.dcm")


@pytest.mark.real_data
def test_real_series(real_data, tmp_path):
    source = real_data / "dicom_t1"
    scan = read_image(source)
    ddf = torch.zeros(3, *scan.shape[1:])
    ddf[1] = 1.5
    trace = Trace.build(scan.as_tensor(), scan.as_tensor() * 0.37, ddf, inverse_ddf=-ddf, affine=scan.affine)
    folder = save_dicom(trace, tmp_path / "out", source)
    original, back = read_sitk(source), read_sitk(folder / "image")
    assert np.allclose(matrix_of(back), matrix_of(original), atol=1e-5)
    step = 0.37 * 179 / 65535
    result = sitk.GetArrayFromImage(back)
    assert np.abs(result - 0.37 * sitk.GetArrayFromImage(original)).max() < 0.51 * step
    torch.testing.assert_close(read_dicom_registration(folder / "ddf.dcm").ddf, ddf, atol=1e-5, rtol=0)
