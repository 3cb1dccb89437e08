"""Traces as BIDS derivatives: names and sidecars by the published schema, transforms that say the same."""

import json

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from typer.testing import CliRunner

from medtrace.cli import app
from medtrace.io import BidsName, save_trace
from medtrace.io.bids import suffix_of
from medtrace.trace import Contrast, Trace
from medtrace.workflows.bids import bids_derivatives


@pytest.fixture(scope="module")
def trace():
    random = torch.Generator().manual_seed(0)
    source = torch.rand(1, 12, 10, 8, generator=random)
    ddf = torch.zeros(3, 12, 10, 8)
    ddf[0] = 1.0
    return Trace.build(
        source=source,
        image=source.roll(-1, 1),
        ddf=ddf,
        mask=(source > 0.9).float(),
        affine=torch.diag(torch.tensor([2.0, 1.0, 1.5, 1.0], dtype=torch.float64)),
        source_contrasts=(Contrast("T1"),),
        contrasts=(Contrast("T2"),),
    )


@pytest.fixture(scope="module")
def derivatives(trace, tmp_path_factory):
    place = tmp_path_factory.mktemp("bids")
    for name in ("sub-01_ses-pre_T1w", "sub-02_acq-a_run-1_T1w"):
        save_trace(trace, place / name, method="TraceTransMethod")
    sources = ["sub-01/ses-pre/anat/sub-01_ses-pre_T1w.nii.gz", "sub-02/anat/sub-02_acq-a_run-1_T1w.nii.gz"]
    folders = [place / "sub-01_ses-pre_T1w", place / "sub-02_acq-a_run-1_T1w"]
    bids_derivatives(folders, place / "out", sources=sources, raw="../raw", skull_stripped=False)
    return place / "out"


def test_files_are_named_after_their_sources(derivatives):
    names = {str(path.relative_to(derivatives)) for path in derivatives.rglob("*") if path.is_file()}
    first = "sub-01/ses-pre/anat/sub-01_ses-pre_"
    endings = {
        "space-predicted_desc-translated_T2w.nii.gz",
        "space-predicted_desc-warped_T1w.nii.gz",
        "space-predicted_desc-appearance_mask.nii.gz",
        "from-orig_to-predicted_mode-image_xfm.h5",
        "from-predicted_to-orig_mode-image_xfm.h5",
    }
    expected = {first + one for one in endings} | {f"{first}{one.split('.')[0]}.json" for one in endings}
    assert {name for name in names if name.startswith("sub-01")} == expected
    assert "sub-02/anat/sub-02_acq-a_run-1_space-predicted_desc-translated_T2w.nii.gz" in names
    assert {name for name in names if "/" not in name} == {"README.md", ".bidsignore", "dataset_description.json"}


def test_names_and_description_follow_the_published_schema(derivatives):
    """All but the transforms, which BIDS does not describe yet and `.bidsignore` names."""
    schemas = pytest.importorskip("bidsschematools.schema", reason="needs bidsschematools")
    validator = pytest.importorskip("bidsschematools.validator")
    files = [path for path in derivatives.rglob("*") if path.is_file() and "_xfm." not in path.name]
    names = [str(path.relative_to(derivatives)) for path in files if not path.name.startswith(".")]
    assert len(names) == 2 + 2 * 6
    result = validator.validate_bids([str(derivatives / name) for name in names], dummy_paths=True)
    assert result["path_tracking"] == []
    described = json.loads((derivatives / "dataset_description.json").read_text())
    assert described["DatasetType"] in schemas.load_schema().objects.metadata.DatasetType["enum"]
    assert [one["Name"] for one in described["GeneratedBy"]] == ["medtrace"]
    assert described["DatasetLinks"] == {"raw": "../raw"}


def test_sidecars_tell_transform_units_method_and_version(derivatives):
    place = derivatives / "sub-01/ses-pre/anat"
    told = json.loads((place / "sub-01_ses-pre_space-predicted_desc-translated_T2w.json").read_text())
    assert told["Units"] == "a.u."
    assert (told["Method"], told["SoftwareName"], told["SkullStripped"]) == ("TraceTransMethod", "medtrace", False)
    assert told["Sources"] == ["bids:raw:sub-01/ses-pre/anat/sub-01_ses-pre_T1w.nii.gz"]
    for key in ("Transform", "SpatialReference"):
        assert (derivatives / told[key].removeprefix("bids::")).is_file()


def test_transform_resamples_the_source_into_the_warped_image(derivatives, trace):
    place = derivatives / "sub-01/ses-pre/anat"
    warped = sitk.ReadImage(str(place / "sub-01_ses-pre_space-predicted_desc-warped_T1w.nii.gz"))
    transform = sitk.ReadTransform(str(place / "sub-01_ses-pre_from-orig_to-predicted_mode-image_xfm.h5"))
    source = sitk.GetImageFromArray(trace.source[0].numpy().T)
    source.CopyInformation(warped)
    moved = sitk.GetArrayFromImage(sitk.Resample(source, warped, transform, sitk.sitkLinear)).T
    np.testing.assert_allclose(moved[:-1], trace.warped[0].numpy()[:-1], atol=1e-5)
    mask = nibabel.load(place / "sub-01_ses-pre_space-predicted_desc-appearance_mask.nii.gz")
    assert np.array_equal(np.asarray(mask.dataobj) > 0, trace.mask[0].numpy() > 0.5)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("scan_trace", "bids: expected a name such as sub-01_ses-pre_T1w"),
        ("ses-1_T1w", "bids: expected a subject"),
        ("sub-0+1_T1w", "bids: sub: expected letters and digits"),
    ],
)
def test_names_that_are_none(name, text):
    with pytest.raises(ValueError, match=text.replace("+", r"\+")):
        BidsName.of(name)


def test_suffix_is_not_guessed():
    with pytest.raises(ValueError, match="suffix: expected one for the contrast 'CT'"):
        suffix_of(Contrast("CT"), Contrast("T1"), "T1w")


def test_two_traces_of_one_name_are_refused(trace, tmp_path):
    for number in "12":
        save_trace(trace, tmp_path / number)
    with pytest.raises(FileExistsError, match="is there already"):
        bids_derivatives([tmp_path / "1", tmp_path / "2"], tmp_path / "out", sources=["sub-1_T1w"] * 2)
    assert not (tmp_path / "out").exists()


def test_command_measures_and_says_so(trace, tmp_path):
    save_trace(trace, tmp_path / "t")
    arguments = ["bids", str(tmp_path / "t"), "--source", "sub-1_T1w", "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "10 files of 1 traces" in done.stdout
    assert "SkullStripped in the sidecars is measured" in done.stderr
