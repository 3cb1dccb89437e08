"""NIfTI and FreeSurfer headers, masks and label maps of every kind: read rightly, or refused with a reason."""

import warnings

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from typer.testing import CliRunner

from medtrace import io
from medtrace.cli import app
from medtrace.data.masks import read_labels, read_mask
from medtrace.data.reading import read_image
from medtrace.guard.notices import Notice
from medtrace.io.transforms import image_affine
from medtrace.trace import Trace
from medtrace.transforms.mask_rule import inside_of
from medtrace.transforms.naming import load_image as read_for_transforms
from medtrace.transforms.nifti_voxels import nifti_voxels
from tests.cases import common, nifti_headers

CASES = common.CASES[nifti_headers.__name__]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Folder and expectation of a case, written once."""
    folder, done = tmp_path_factory.mktemp("cases"), {}

    def of(name):
        if name not in done:
            done[name] = folder / name, common.write(CASES[name], folder / name)
        return done[name]

    return of


def called(read, *arguments):
    """What a reader returns or its refusal, and the lines that it told."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            result = read(*arguments)
        except (ValueError, FileNotFoundError) as error:
            result = error
    return result, [str(one.message) for one in told if issubclass(one.category, Notice)]


def check_refusal(error, expected, name):
    assert isinstance(error, ValueError), error
    assert "refuse" in expected["accept"]
    assert name in str(error)
    assert "\n" not in str(error)
    for words in expected.get("says", ()):
        assert words in str(error)


def check_image(file, expected):
    image, lines = called(read_image, file)
    if isinstance(image, Exception):
        check_refusal(image, expected, file.name)
        for read in (io.read_nifti_image, lambda path: read_for_transforms("image", path)):
            check_refusal(called(read, file)[0], {**expected, "says": ()}, file.name)
        return
    assert "read" in expected["accept"]
    ramp, affine = expected["ramp"], image.affine.numpy()
    assert list(image.shape) == [1, *expected["shape"]]
    np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), expected["spacing"], rtol=1e-3)
    assert common.departure(image[0].numpy(), affine, ramp) <= ramp["tolerance"]
    for words in expected.get("says", ()):
        assert any(words in line for line in lines), lines
    if expected.get("quiet"):
        assert not lines
    assert all(file.name in line for line in lines)
    # No two readers of the product see different numbers or another place.
    values, own = io.read_nifti_image(file)
    np.testing.assert_array_equal(own.numpy(), affine)
    assert torch.equal(values.float(), image.as_tensor())
    other = read_for_transforms("image", file)
    assert torch.equal(other.as_tensor(), image.as_tensor())
    np.testing.assert_array_equal(other.affine.numpy(), affine)
    quick = nifti_voxels("image", file)
    if quick is not None:
        assert torch.equal(quick.sort().values, image.as_tensor().flatten().sort().values)
    if expected.get("itk"):
        itk = sitk.ReadImage(str(file))
        np.testing.assert_allclose(image_affine(itk), affine, atol=1e-4 * max(expected["spacing"]))
        np.testing.assert_allclose(sitk.GetArrayFromImage(itk).T, image[0].numpy(), rtol=1e-6)


def check_mask(folder, expected):
    image, file = read_image(folder / expected["image"]), folder / expected["input"]
    mask, lines = called(read_mask, file, image, folder / expected["image"])
    if isinstance(mask, Exception):
        check_refusal(mask, expected, file.name)
        return
    assert "read" in expected["accept"]
    assert mask.dtype == torch.bool
    assert int(mask.sum()) == expected["voxels_inside"]
    points = mask[0].nonzero().double() @ image.affine[:3, :3].T + image.affine[:3, 3]
    if expected["voxels_inside"] == nifti_headers.INSIDE_VOXELS or "says" in expected:
        np.testing.assert_allclose(points.mean(0), expected["center_ras"], atol=1e-3)
    for words in expected.get("says", ()):
        assert any(words in line for line in lines), lines


def check_labels(folder, expected, tmp_path):
    image, file = read_image(folder / expected["image"]), folder / expected["input"]
    labels, _ = called(read_labels, file, image, folder / expected["image"])
    if isinstance(labels, Exception):
        check_refusal(labels, expected, file.name)
        return
    assert "read" in expected["accept"]
    assert not labels.is_floating_point()

    def counts(values):
        found, number = np.unique(values, return_counts=True)
        return {str(int(value)): int(count) for value, count in zip(found, number) if value}

    assert counts(labels.numpy()) == expected["counts"]
    io.write_image(tmp_path / "back.nii.gz", labels, image.affine)
    back = nibabel.load(tmp_path / "back.nii.gz")
    assert back.get_data_dtype().kind in "iu"
    assert back.dataobj.slope == 1
    assert counts(np.asarray(back.dataobj)) == expected["counts"]
    assert torch.equal(read_labels(tmp_path / "back.nii.gz", image, "image"), labels)
    if labels.max() < 2**15:
        io.write_image(tmp_path / "short.nii", labels.float(), image.affine, "int16")
        assert torch.equal(read_labels(tmp_path / "short.nii", image, "image"), labels)


def check_register(folder, expected):
    before = sorted(folder.iterdir())
    arguments = [str(folder / "source.nii.gz"), str(folder / "target.nii.gz"), "--out", str(folder / "out")]
    options = ["--labels", str(folder / expected["input"]), "--figure", str(folder / "figure.png"), "--refine", "1"]
    result = CliRunner().invoke(app, ["register", *arguments, *options])
    assert result.exit_code == 1
    (line,) = result.stderr.strip().splitlines()
    assert expected["input"] in line
    for words in expected.get("says", ["mm"]):
        assert words in line
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("name", CASES)
def test_case(name, written, tmp_path):
    folder, expected = written(name)
    if expected["entry"] == "read_image":
        for file in (expected["input"], *expected.get("also", ())):
            check_image(folder / file, expected)
    elif expected["entry"] == "read_mask":
        check_mask(folder, expected)
    elif expected["entry"] == "read_labels":
        check_labels(folder, expected, tmp_path)
    else:
        check_register(folder, expected)


@pytest.mark.parametrize(
    "name", ["unit_micron", "unit_micron_by_qform", "unit_meter", "no_form_codes", "ten_nanometer"]
)
def test_fields_place_itks_image_of_the_same_file(name, written, tmp_path):
    """SimpleITK moves the file itself through the exported field, as the trace's warped image says."""
    folder, expected = written(name)
    image = read_image(folder / expected["input"])
    torch.manual_seed(0)
    ddf = torch.nn.functional.interpolate(torch.randn(1, 3, 3, 3, 3), image.shape[1:], mode="trilinear")[0]
    trace = Trace.build(image.as_tensor(), image.as_tensor(), ddf, inverse_ddf=-ddf, affine=image.affine)
    io.write_transform(tmp_path / "ddf.h5", trace.ddf, trace.affine)
    io.write_transform(tmp_path / "ddf.nii.gz", trace.ddf, trace.affine)
    assert torch.allclose(io.read_transform(tmp_path / "ddf.nii.gz").ddf, ddf, atol=1e-4)
    scan = sitk.Cast(sitk.ReadImage(str(folder / expected["input"])), sitk.sitkFloat32)
    moved = sitk.Resample(scan, scan, sitk.ReadTransform(str(tmp_path / "ddf.h5")), sitk.sitkLinear, -1e6)
    values = sitk.GetArrayFromImage(moved).T
    inside = (values > -1e5) & trace.covered[0].numpy()
    assert inside.mean() > 0.6
    np.testing.assert_allclose(values[inside], trace.warped[0].numpy()[inside], atol=0.05)
    io.save_trace(trace, tmp_path / "trace")
    assert torch.allclose(io.load_trace(tmp_path / "trace").ddf, ddf, atol=1e-3)


def test_a_mask_of_fractions_or_labels_is_told_in_one_line():
    ramp = torch.linspace(0, 1, 11)[None]
    assert inside_of(ramp).inside.tolist() == [[False] * 5 + [True] * 6]
    assert "0.5" in inside_of(ramp).rule
    assert inside_of(torch.tensor([[0, 255]])).rule is None
    assert inside_of(torch.tensor([[False, True]])).inside.tolist() == [[False, True]]
    assert inside_of(torch.tensor([[float("-inf"), 1.0]])).inside.tolist() == [[False, True]]
    assert not inside_of(torch.zeros(1, 4)).inside.any()


def test_the_command_line_tells_what_was_decided_once(written, tmp_path):
    folder, _ = written("mask_of_labels")
    image = str(folder / "image.nii.gz")
    arguments = [image, image, "--out", str(tmp_path / "out"), "--mask", str(folder / "on_it.nii.gz")]
    options = ["--source-mask", str(folder / "on_it.nii.gz"), "--refine", "1", "--no-report"]
    result = CliRunner().invoke(app, ["register", *arguments, *options])
    assert result.exit_code == 0, result.output
    notes = [line for line in result.stderr.splitlines() if line.startswith("medtrace: note:")]
    assert len(notes) == 1
    assert "on_it.nii.gz: a label map of 3 labels (1 to 4) as a mask: every positive label is inside" in notes[0]
    record = (tmp_path / "out" / "trace.json").read_text()
    assert "every positive label is inside" in record
    assert "on_it" not in record


@pytest.mark.parametrize("name", ["mask_elsewhere", "mask_flipped", "mask_of_another_shape"])
def test_register_refuses_a_mask_of_another_grid(name, written, tmp_path):
    folder, _ = written(name)
    image = str(folder / "image.nii.gz")
    for option in ("--mask", "--source-mask"):
        arguments = [image, image, "--out", str(tmp_path / "out"), option, str(folder / "on_it.nii.gz")]
        result = CliRunner().invoke(app, ["register", *arguments])
        assert result.exit_code == 1
        assert "on_it.nii.gz" in result.stderr.strip()
        assert len(result.stderr.strip().splitlines()) == 1
        assert not list(tmp_path.iterdir())


def scans(folder, number):
    """Two images of a subject's own on the grid of `image.nii.gz`, as columns of a pair list."""
    image = nibabel.load(folder / "image.nii.gz")
    names = [f"s{number}_{when}.nii.gz" for when in ("before", "after")]
    for step, name in enumerate(names, 1):
        values = image.get_fdata() + step + 2 * number
        nibabel.save(nibabel.Nifti1Image(values.astype(np.float32), image.affine), folder / name)
    return ",".join(names)


@pytest.mark.parametrize("column", ["mask", "source_lesion", "target_labels"])
@pytest.mark.parametrize("name", ["mask_elsewhere", "mask_flipped"])
def test_prepare_refuses_a_map_of_another_grid(name, column, written, tmp_path):
    folder, _ = written(name)
    rows = [f"s{number},{scans(folder, number)},on_it.nii.gz" for number in range(2)]
    (folder / "pairs.csv").write_text("\n".join([f"subject,source,target,{column}", *rows]))
    options = ["--dims", "3", "--no-crop", "--no-align"]
    result = CliRunner().invoke(app, ["prepare", str(folder / "pairs.csv"), "--out", str(tmp_path / "out"), *options])
    assert result.exit_code == 1
    assert "on_it.nii.gz" in result.stderr
    assert "mm off" in result.stderr
    assert not list(tmp_path.iterdir())


def test_labels_and_masks_of_a_data_set_keep_their_numbers(written, tmp_path):
    from medtrace.data import load_dataset

    folder, expected = written("labels_freesurfer")
    columns = "subject,source,target,source_labels,target_labels,source_lesion,split"
    maps = "on_it.nii.gz,on_it.nii.gz,on_it.nii.gz"
    rows = [f"s{k},{scans(folder, k)},{maps},{split}" for k, split in enumerate(("training", "test"))]
    (folder / "pairs.csv").write_text("\n".join([columns, *rows]) + "\n")
    options = ["--dims", "3", "--no-crop", "--no-align"]
    result = CliRunner().invoke(app, ["prepare", str(folder / "pairs.csv"), "--out", str(tmp_path / "out"), *options])
    assert result.exit_code == 0, result.output
    assert "3 labels (2 to 2035)" in result.stderr
    assert "3 labels (2 to 2035)" in (tmp_path / "out" / "dataset.json").read_text()
    (item,) = load_dataset(tmp_path / "out")
    for key in ("source_labels", "target_labels"):
        assert item[key].dtype == torch.int32
        assert {str(int(v)): int((item[key] == v).sum()) for v in item[key].unique() if v} == expected["counts"]
    assert int(item["source_mask"].sum()) == sum(expected["counts"].values())
    # A label map that somebody moved afterwards is refused by its header.
    (file,) = (tmp_path / "out" / "images").glob("s0*_source_labels.nii.gz")
    moved = nibabel.load(file)
    affine = moved.affine.copy()
    affine[0, 3] += 2
    nibabel.save(nibabel.Nifti1Image(np.asarray(moved.dataobj), affine), file)
    with pytest.raises(ValueError, match=r"source_labels.*2 mm off"):
        load_dataset(tmp_path / "out")


def test_a_trace_refuses_labels_and_masks_that_lie_elsewhere(written):
    from monai.data import MetaTensor

    folder, _ = written("labels_freesurfer")
    image = read_image(folder / "image.nii.gz")
    labels = read_labels(folder / "on_it.nii.gz", image, "image")
    still = torch.zeros(3, *image.shape[1:])
    trace = Trace.build(image.as_tensor(), image.as_tensor(), still, affine=image.affine)
    carried = trace.transfer(MetaTensor(labels, affine=image.affine))
    assert carried.dtype == torch.int32
    assert torch.equal(carried.as_subclass(torch.Tensor), labels)
    elsewhere = image.affine.clone()
    elsewhere[1, 3] += 12
    with pytest.raises(ValueError, match=r"labels: lies up to 12 mm off"):
        trace.transfer(MetaTensor(labels, affine=elsewhere))
    with pytest.raises(ValueError, match=r"mask: lies up to 12 mm off"):
        Trace.build(
            image.as_tensor(),
            image.as_tensor(),
            still,
            affine=image.affine,
            mask=MetaTensor((labels > 0).float(), affine=elsewhere),
        )


def test_pairs_and_freesurfer_volumes_are_listed_once(written, tmp_path):
    from medtrace.data.lists.image_list import list_images
    from medtrace.storage.cases import content_digest

    for case, names in (("pair_hdr_img", ("image.hdr", "image.img")), ("freesurfer_mgz", ("image.mgz",))):
        for name in names:
            content = (written(case)[0] / name).read_bytes()
            (tmp_path / f"{case}{name[5:]}").write_bytes(content)
    assert [image.name for image in list_images([tmp_path])] == ["freesurfer_mgz", "pair_hdr_img"]
    before = content_digest(tmp_path / "pair_hdr_img.hdr")
    assert content_digest(tmp_path / "pair_hdr_img.img") == before
    with (tmp_path / "pair_hdr_img.img").open("r+b") as file:
        file.write(b"\1")
    assert content_digest(tmp_path / "pair_hdr_img.hdr") != before


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["study1_FLAIR", "study1_T1W", "study2_T2W", "brainmask"])
def test_real_oblique_scans_are_where_itk_has_them(name, real_data):
    file = real_data / "open_ms" / "longitudinal" / "patient01" / f"{name}.nii.gz"
    image, lines = called(read_image, file)
    itk = sitk.ReadImage(str(file))
    np.testing.assert_allclose(image_affine(itk), image.affine.numpy(), atol=1e-3)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(itk).T, image[0].numpy())
    assert not lines


def test_masks_of_histogram_training_are_read_as_all_masks(written):
    from medtrace.transforms import HistogramStandardization

    folder, _ = written("mask_probability")
    image = read_image(folder / "image.nii.gz")
    inside = read_mask(folder / "on_it.nii.gz", image, "image")
    by_path = HistogramStandardization.train([folder / "image.nii.gz"], [folder / "on_it.nii.gz"])
    assert by_path.of() == HistogramStandardization.train([image], [inside]).of()
    for name in ("mask_elsewhere", "mask_flipped"):
        folder, _ = written(name)
        with pytest.raises(ValueError, match=r"on_it\.nii\.gz.*mm off"):
            HistogramStandardization.train([folder / "image.nii.gz"], [folder / "on_it.nii.gz"])


def test_reports_and_certificates_refuse_files_that_lie_elsewhere(written, tmp_path):
    folder, _ = written("labels_freesurfer")
    image = read_image(folder / "image.nii.gz")
    values = image.as_tensor()
    trace = Trace.build(values, values, torch.zeros(3, *image.shape[1:]), affine=image.affine)
    io.save_trace(trace, tmp_path / "trace")
    elsewhere = image.affine.clone()
    elsewhere[2, 3] += 3
    io.write_image(tmp_path / "labels.nii.gz", read_labels(folder / "on_it.nii.gz", image, "image"), elsewhere)
    io.write_image(tmp_path / "moved.nii.gz", values, elsewhere)
    before = sorted(tmp_path.iterdir())
    for arguments, name in (
        (["report", "--labels", "labels.nii.gz", "--out", "page.html"], "labels.nii.gz"),
        (["report", "--target", "moved.nii.gz", "--out", "page.html"], "moved.nii.gz"),
        (["certify", "--target", "moved.nii.gz", "--out", "page.json"], "moved.nii.gz"),
    ):
        command, *options = [str(tmp_path / word) if "." in word else word for word in arguments]
        result = CliRunner().invoke(app, [command, str(tmp_path / "trace"), *options])
        assert result.exit_code == 1, result.output
        (line,) = result.stderr.strip().splitlines()
        assert name in line
        assert "3 mm off" in line
        assert sorted(tmp_path.iterdir()) == before
