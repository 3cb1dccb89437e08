"""DICOM series as they come: every case of the generators, the choice of a volume, and pydicom as a second reader."""

import json
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from typer.testing import CliRunner

from medtrace.cli import app
from medtrace.data.dicom import list_volumes
from medtrace.data.dicom.frames import find_frames
from medtrace.data.dicom.pixels import read_pixels
from medtrace.data.lists.layouts import read_pair_list
from medtrace.data.reading import read_image
from medtrace.guard.notices import Notice
from medtrace.io import read_source_series
from medtrace.workflows.prepare import prepare
from tests.cases import dicom_series, dicom_variants
from tests.cases.common import CASES, RAMP, grid_points, ramp_at, write

MADE = {**CASES[dicom_series.__name__], **CASES[dicom_variants.__name__]}
READ_THOUGH_REFUSABLE = {  # both are right by the generator; this is what is promised
    "slice_thickness_differs",
    "sequence_name_differs",
    "series_number_differs",
    "enhanced_shuffled",
    "monochrome1",
}
SAYS = {
    "rows_differ": "Rows",
    "gantry_tilt": "20 degrees .* add --resample-tilt",
    "sideways_slices": "received positions up to 1[0-9.]* mm off it",
    "enhanced_two_echoes": "EffectiveEchoTime; choose one with --series: 1 = .*; 2 = ",
    "no_position": "lacks ImagePositionPatient",
}


def is_read(expected):
    return expected["accept"] == ["read"] or expected["case"] in READ_THOUGH_REFUSABLE


@pytest.mark.parametrize("name", MADE)
def test_every_case_is_read_rightly_or_refused(tmp_path, capfd, name):
    expected = write(MADE[name], tmp_path / name)
    place, options = tmp_path / name / expected["input"], expected.get("options", {})
    if not is_read(expected):
        with pytest.raises(ValueError, match=SAYS.get(name) or expected["says"]) as refusal:
            read_image(place, **options)
        assert str(refusal.value).startswith(str(place))
        assert "\n" not in str(refusal.value)
        assert ";" in str(refusal.value)  # what to do
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", Notice)
            image = read_image(place, **options)
        check_volume(image, expected)
    assert capfd.readouterr() == ("", ""), "a reader wrote to the terminal"


def check_volume(image, expected):
    values, affine = image[0].numpy(), image.affine.numpy()
    assert list(values.shape) == expected["shape"]
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    np.testing.assert_allclose(spacing, expected["spacing"], atol=0.01)
    if expected["ramp"]:
        apart = np.abs(values - ramp_at(grid_points(values.shape, affine), expected["ramp"]))
        if expected.get("outside") == "lowest":
            outside = values == values.min()
            assert 0 < outside.mean() < 0.4
            apart = apart[~outside]
        assert apart.max() <= expected["ramp"]["tolerance"]
    for *place, value in expected.get("probes", ()):
        index = np.linalg.solve(affine[:3, :3], np.array(place) - affine[:3, 3])
        np.testing.assert_allclose(index, index.round(), atol=1e-3)
        assert abs(values[tuple(index.round().astype(int))] - value) <= expected["tolerance"]


@pytest.mark.parametrize("name", ["rows_differ", "enhanced_two_echoes", "gantry_tilt", "sideways_slices"])
def test_a_command_refuses_in_one_line_and_writes_nothing(tmp_path, name):
    write(MADE[name], tmp_path / name)
    arguments = ["register", str(tmp_path / name / "series"), str(tmp_path / name / "series"), "--refine", "1"]
    done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "trace")])
    assert done.exit_code == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"medtrace: error: {tmp_path / name / 'series'}: ")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_register_reads_what_is_chosen_and_says_what_it_resampled(tmp_path):
    write(MADE["enhanced_two_echoes"], tmp_path / "echoes")
    write(MADE["gantry_tilt"], tmp_path / "tilt")
    arguments = ["register", str(tmp_path / "echoes" / "series"), str(tmp_path / "tilt" / "series")]
    arguments += ["--source-series", "2", "--target-series", "1", "--resample-tilt", "--refine", "1", "--no-report"]
    arguments += ["--align", "none"]
    done = CliRunner().invoke(app, [*arguments, "--device", "cpu", "--out", str(tmp_path / "trace")])
    assert done.exit_code == 0, done.output
    assert f"medtrace: note: {tmp_path / 'tilt' / 'series'}: resampled from slices tilted by 20 degrees" in done.stderr
    source = nibabel.load(tmp_path / "trace" / "source.nii.gz").get_fdata().squeeze()
    chosen = read_image(tmp_path / "echoes" / "series", 2)
    np.testing.assert_array_equal(source, chosen[0].numpy())
    assert source.max() < 0.6 * read_image(tmp_path / "echoes" / "series", 1).max()


@pytest.mark.parametrize(
    ("given", "result"),
    [
        ("1", "soft"), (2, "bone"), ("list:1", "soft"), ("4", "soft"), ("7", "bone"), ("bone kernel", "bone"),
    ],
)  # fmt: skip
def test_a_volume_is_chosen_by_any_of_its_names(tmp_path, given, result):
    write(MADE["series_of_two_kernels"], tmp_path / "case")
    level = float(read_image(tmp_path / "case" / "series", given).mean())
    assert level == pytest.approx(RAMP["offset"] * {"soft": 1, "bone": 0.5}[result], rel=0.15)


def test_a_number_that_may_mean_two_volumes_is_refused(tmp_path):
    """The second in the list is series 3, and the first is series 2."""
    (tmp_path / "case").mkdir()
    dicom_variants.add_series(tmp_path / "case", "one", 2, "one")
    dicom_variants.add_series(tmp_path / "case", "two", 3, "two")
    folder = tmp_path / "case" / "series"
    with pytest.raises(ValueError, match=r"series: '2' matches 2 volumes; choose one with --series list:NUMBER: 1 = "):
        read_image(folder, "2")
    assert [volume.description for volume in list_volumes(folder)] == ["one", "two"]
    np.testing.assert_array_equal(read_image(folder, "list:2"), read_image(folder, "3"))


def test_a_series_of_what_holds_none_is_refused(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.arange(24, dtype=np.float32).reshape(2, 3, 4), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(ValueError, match="series: expected none, received '1'; only a DICOM folder or a file"):
        read_image(tmp_path / "a.nii", "1")


def test_volumes_are_listed(tmp_path):
    write(MADE["localizer_in_series"], tmp_path / "case")
    told = [str(volume) for volume in list_volumes(tmp_path / "case" / "series")]
    assert told == [
        "CT series 1, 8 slices of 24 x 20, ImageOrientationPatient 1 0 0 0 1 0",
        "CT series 1, 1 slice of 24 x 20, ImageOrientationPatient 0 1 0 0 0 -1",
    ]
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        list_volumes(tmp_path / "none")


def test_the_export_takes_the_order_and_the_grid_of_the_reader(tmp_path):
    for name in ("oblique", "times_and_numbers_differ", "positions_rounded"):
        write(MADE[name], tmp_path / name)
        source, image = read_source_series(tmp_path / name / "series"), read_image(tmp_path / name / "series")
        assert source.shape == tuple(image.shape[1:])
        np.testing.assert_array_equal(source.affine, image.affine)
    write(MADE["gantry_tilt"], tmp_path / "tilt")
    with pytest.raises(ValueError, match="tilted by 20 degrees"):
        read_source_series(tmp_path / "tilt" / "series")
    write(MADE["series_of_two_kernels"], tmp_path / "two")
    assert read_source_series(tmp_path / "two" / "series", 2).headers[0].SeriesDescription == "bone kernel"


def test_a_pair_list_names_the_volumes_of_its_folders(tmp_path):
    write(MADE["series_of_two_kernels"], tmp_path / "two")
    columns = "subject,source,target,source_series,target_series"
    (tmp_path / "pairs.csv").write_text(f"{columns}\ns0,two/series,two/series,soft kernel,2\n")
    (pair,) = read_pair_list(tmp_path / "pairs.csv")
    assert (pair.source_series, pair.target_series) == ("soft kernel", "2")
    options = {"slices": 3, "crop": None, "align": False, "fractions": (1, 0, 0), "standardize": False}
    prepare(tmp_path / "pairs.csv", tmp_path / "data", **options)
    index = json.loads((tmp_path / "data" / "dataset.json").read_text())
    assert len(index["training"]) == 3
    (tmp_path / "once.csv").write_text(f"{columns}\ns0,two/series,two/series,2,2\n")
    with pytest.raises(ValueError, match="source and target are the same image"):
        prepare(tmp_path / "once.csv", tmp_path / "other", **options)
    (tmp_path / "open.csv").write_text("subject,source,target\ns0,two/series,two/series\n")
    with pytest.raises(ValueError, match="expected one DICOM series, received 2"):
        prepare(tmp_path / "open.csv", tmp_path / "other", **options)


def by_pydicom(folder):
    """A single-frame series as pydicom alone gives it: (columns, rows, slices) and its LPS matrix."""
    images = [pydicom.dcmread(path) for path in folder.iterdir()]
    axes = np.array(images[0].ImageOrientationPatient, float).reshape(2, 3)
    images.sort(key=lambda image: float(np.cross(*axes) @ np.array(image.ImagePositionPatient, float)))
    values = [
        image.pixel_array.astype(float) * float(image.get("RescaleSlope", 1)) + float(image.get("RescaleIntercept", 0))
        for image in images
    ]
    first, last = (np.array(image.ImagePositionPatient, float) for image in (images[0], images[-1]))
    matrix = np.eye(4)
    row_spacing, column_spacing = images[0].PixelSpacing
    step = (last - first) / (len(images) - 1)
    matrix[:3] = np.stack([axes[0] * column_spacing, axes[1] * row_spacing, step, first], axis=1)
    return np.stack(values, axis=-1).swapaxes(0, 1), matrix


@pytest.mark.parametrize("name", ["pet_slope_per_slice", "mr_slope_per_slice", "signed_twelve_bits", "monochrome1"])
def test_voxels_are_those_of_pydicom(tmp_path, name):
    write(MADE[name], tmp_path / name)
    values, matrix = by_pydicom(tmp_path / name / "series")
    image = read_image(tmp_path / name / "series")
    np.testing.assert_array_equal(image[0].numpy(), values.astype(np.float32))
    np.testing.assert_allclose(np.diag([-1, -1, 1, 1]) @ image.affine.numpy(), matrix, atol=1e-6)


@pytest.mark.real_data
def test_a_real_series_is_that_of_pydicom(real_data):
    values, matrix = by_pydicom(real_data / "dicom_t1")
    image = read_image(real_data / "dicom_t1")
    assert image.shape == (1, *values.shape)
    np.testing.assert_array_equal(image[0].numpy(), values.astype(np.float32))
    np.testing.assert_allclose(np.diag([-1, -1, 1, 1]) @ image.affine.numpy(), matrix, atol=1e-3)


@pytest.mark.parametrize(
    "name",
    [
        "MR_small.dcm", "MR_small_bigendian.dcm", "MR_small_RLE.dcm", "MR_small_padded.dcm", "CT_small.dcm",
        "examples_overlay.dcm", "693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm", "image_dfl.dcm",
    ],
)  # fmt: skip
def test_files_of_other_programs_are_those_of_pydicom(name):

    path = Path(get_testdata_file(name, download=False))
    image = pydicom.dcmread(path)
    values = image.pixel_array.astype(float) * float(image.get("RescaleSlope", 1))
    values += float(image.get("RescaleIntercept", 0))
    np.testing.assert_array_equal(read_pixels(find_frames(path))[:, :, 0], values.T.astype(np.float32))


def test_a_header_of_unknown_representation_is_refused(tmp_path):
    """Found by the mutations: an element of the file's meta group that pydicom converts only when asked."""
    write(MADE["one_slice"], tmp_path / "one")
    path = tmp_path / "one" / "series" / "0000.dcm"
    content = path.read_bytes()
    assert content.count(b"\x02\x00\x02\x00UI") == 1
    path.write_bytes(content.replace(b"\x02\x00\x02\x00UI", b"\x02\x00\x02\x00U2"))
    with pytest.raises(ValueError, match=r"0000\.dcm: cannot be read as DICOM"):
        read_image(path)


def test_certify_and_report_read_the_volume_that_was_translated(tmp_path):
    """A trace of the second echo: certified with it, refused with the first; its target chosen likewise."""
    write(MADE["enhanced_two_echoes"], tmp_path / "echoes")
    series, trace = tmp_path / "echoes" / "series", tmp_path / "trace"
    runner = CliRunner()
    arguments = ["register", str(series), str(series), "--source-series", "2", "--target-series", "2", "--refine", "1"]
    done = runner.invoke(app, [*arguments, "--no-report", "--device", "cpu", "--out", str(trace)])
    assert done.exit_code == 0, done.output
    for chosen, told in (("2", "SKIPPED"), ("1", "FAIL")):
        out = tmp_path / f"certificate_{chosen}.json"
        runner.invoke(app, ["certify", str(trace), "--input", str(series), "--series", chosen, "--out", str(out)])
        checks = {check["name"]: check["status"] for check in json.loads(out.read_text())["checks"]}
        assert checks["provenance"] == told
    page = ["report", str(trace), "--target", str(series), "--out", str(tmp_path / "page.html")]
    assert "expected one volume, received 2" in runner.invoke(app, page).stderr
    assert runner.invoke(app, [*page, "--target-series", "2"]).exit_code == 0
    moved = ["export", str(trace), "--format", "itk", "--source", str(series), "--out", str(tmp_path / "itk")]
    assert "expected one volume, received 2" in runner.invoke(app, moved).stderr
    assert runner.invoke(app, [*moved, "--series", "2"]).exit_code == 0
