"""Traces as BIDS derivatives: names and sidecars by the published schema, transforms that say the same."""

import json
import re

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
    rules = pytest.importorskip("bidsschematools.rules")
    schema = schemas.load_schema()
    allowed = [one["regex"] for one in rules.regexify_filename_rules(schema.rules.files.deriv.imaging, schema, level=1)]
    paths = [str(path.relative_to(derivatives)) for path in derivatives.rglob("*/*") if path.is_file()]
    names = [name for name in paths if "_xfm." not in name]
    assert len(names) == 2 * 6
    for name in names:
        assert any(re.fullmatch(regex, name) for regex in allowed), name
    assert not any(re.fullmatch(regex, names[0].replace("_space", "_spaces")) for regex in allowed)
    top = {"dataset_description.json", "README.md"}
    assert top <= {one for rule in schema.rules.files.common.core.values() for one in _names_of(rule)}
    described = json.loads((derivatives / "dataset_description.json").read_text())
    assert described["DatasetType"] in schema.objects.metadata.DatasetType["enum"]
    assert [one["Name"] for one in described["GeneratedBy"]] == ["medtrace"]
    assert described["DatasetLinks"] == {"raw": "../raw"}


def _names_of(rule):
    """Files at the top of a data set that a rule of the schema allows."""
    endings = rule.get("extensions", [""])
    return [rule["path"]] if "path" in rule else [f"{rule['stem']}{ending}" for ending in endings]


def test_sidecars_have_what_the_schema_requires(derivatives):
    schemas = pytest.importorskip("bidsschematools.schema", reason="needs bidsschematools")
    rules = schemas.load_schema().rules.sidecars.derivatives.common_derivatives
    required = {
        "ImageDerivatives": ("_T1w.json", "_T2w.json"),
        "SpatialReferenceNonStandard": ("_T1w.json", "_T2w.json", "_mask.json"),
    }
    for rule, endings in required.items():
        fields = [name for name, level in rules[rule]["fields"].items() if level == "required"]
        assert fields
        sidecars = [path for path in derivatives.rglob("*.json") if path.name.endswith(endings)]
        assert len(sidecars) == 2 * len(endings)
        for path in sidecars:
            assert set(fields) <= set(json.loads(path.read_text()))


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
    with pytest.raises(FileExistsError, match="already exists"):
        bids_derivatives([tmp_path / "1", tmp_path / "2"], tmp_path / "out", sources=["sub-1_T1w"] * 2)
    assert not (tmp_path / "out").exists()


def test_command_measures_and_says_so(trace, tmp_path):
    save_trace(trace, tmp_path / "t")
    arguments = ["bids", str(tmp_path / "t"), "--source", "sub-1_T1w", "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "10 files of 1 traces" in done.stdout
    assert "SkullStripped in the sidecars is measured" in done.stderr
