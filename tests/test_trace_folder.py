"""A trace's folder: what the files hold and how exactly, what is refused, and traces of format 1."""

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from medtrace.geometry.grid import Grid
from medtrace.io import compact, load_trace, read_nifti_image, read_transform, save_trace, trace_members
from medtrace.io.compact import FIELD_ERROR, field_steps, intensity_step, write_compact_image
from medtrace.trace import Trace
from tests.test_io import ANISOTROPIC, GRIDS, OBLIQUE, PLAIN, flow, make_trace, smooth

FORMAT_1 = Path(__file__).parent / "data" / "trace_format_1"
SUMS = {
    "volume": {
        "source": 40.40808,
        "image": 25.45646,
        "warped": 13.01549,
        "appearance": 20.27954,
        "ddf": 110.44374,
        "inverse_ddf": 163.78957,
        "velocity": 63.77357,
    },
    "slice": {
        "source": 29.5788,
        "image": 34.71867,
        "warped": 30.44377,
        "appearance": 22.79158,
        "mask": 18.0,
        "ddf": 106.77105,
        "inverse_ddf": 111.39008,
    },
}
"""Sums of the absolute values of the traces in FORMAT_1, noted when they were written."""


@pytest.mark.parametrize("name", SUMS)
def test_format_1_is_read(name):
    trace = load_trace(FORMAT_1 / name)
    for member in ("source", "image", "warped", "appearance", "mask", "ddf", "inverse_ddf", "velocity"):
        value, expected = getattr(trace, member), SUMS[name].get(member)
        assert (value is None) == (expected is None)
        if value is not None:
            assert float(value.double().abs().sum()) == pytest.approx(expected, abs=2e-5), member
    assert trace.affine.dtype == torch.float64
    assert trace.spatial_dims == (3 if name == "volume" else 2)


# ---------------------------------------------------------------------------------------------- what is refused
def changed(folder, file, change):
    """Write a file of the folder anew, with its voxels and its header changed by a function."""
    image = nibabel.load(folder / file)
    data, header = np.asarray(image.dataobj), image.header.copy()
    data = change(data, header)
    new = nibabel.Nifti1Image(data, None, header)
    new.header.set_slope_inter(1, 0)
    nibabel.save(new, folder / file)


def moved(header, form, by):
    affine = getattr(header, f"get_{form}")()
    affine[:3, 3] += by
    getattr(header, f"set_{form}")(affine, code=1)


def shifted(*forms):
    def change(data, header):
        for form in forms:
            moved(header, form, (5.0, 0.0, 0.0))
        return data

    return change


def flipped(data, header):
    for form in ("sform", "qform"):
        affine = getattr(header, f"get_{form}")()
        affine[:3, 0] *= -1
        getattr(header, f"set_{form}")(affine, code=1)
    return data


def unit(name):
    def change(data, header):
        header.set_xyzt_units(name)
        return data

    return change


def no_code(data, header):
    header.set_sform(None, code=0)
    return data


def cut(data, header):
    header.set_data_shape(data[1:].shape)
    return data[1:]


def channels(data, header):
    both = np.stack([data, data], axis=-1)
    header.set_data_shape(both.shape)
    return both


def unit_spacing(data, header):
    for form in ("sform", "qform"):
        getattr(header, f"set_{form}")(np.eye(4), code=1)
    return data


HEADERS = {
    "affine moved": ("image", shifted("sform", "qform"), r"expected the affine .* received .* up to 5 mm off"),
    "sform moved alone": ("warped", shifted("sform"), r"expected the affine .*\(sform\).* up to 5 mm off"),
    "qform moved alone": ("source", shifted("qform"), r"expected the affine .*\(qform\).* up to 5 mm off"),
    "affine flipped": ("appearance", flipped, r"expected the affine .* mm off"),
    "field on a grid of 1 mm at the origin": ("ddf", unit_spacing, r"expected the affine .* mm off"),
    "field moved": ("inverse_ddf", shifted("sform", "qform"), r"expected the affine .* mm off"),
    "no sform": ("image", no_code, r"expected sform_code 1 .* received sform_code 0"),
    "micrometers": ("image", unit("micron"), "expected the unit mm of trace.json, received micron"),
    "meters": ("velocity", unit("meter"), "expected the unit mm of trace.json, received meter"),
    "no unit": ("source", unit("unknown"), "expected the unit mm of trace.json, received unknown"),
    "a row less": ("image", cut, r"expected the shape \(\d+, .*\) of trace.json, received \(\d+, "),
    "field a row less": ("ddf", cut, r"expected the shape .*, 1, 3\) of trace.json, received .*, 1, 3\)"),
    "more channels": ("image", channels, r"expected the shape .* of trace.json, received .*, 2\)"),
    "more channels of the appearance": ("appearance", channels, r"expected the shape .* received .*, 2\)"),
}


@pytest.fixture(params=["format 1", "format 2"])
def folder(request, tmp_path):
    if request.param == "format 1":
        return shutil.copytree(FORMAT_1 / "volume", tmp_path / "trace")
    return save_trace(load_trace(FORMAT_1 / "volume"), tmp_path / "trace")


@pytest.mark.parametrize("case", HEADERS)
def test_a_header_that_contradicts_the_index_is_refused(folder, case):
    name, change, message = HEADERS[case]
    load_trace(folder)
    changed(folder, f"{name}.nii.gz", change)
    with pytest.raises(ValueError, match=rf"trace/{name}\.nii\.gz: {message}") as caught:
        load_trace(folder)
    assert str(caught.value).endswith("; save or copy the trace again")
    assert "\n" not in str(caught.value)


def test_an_index_that_contradicts_the_headers_is_refused(folder):
    index = json.loads((folder / "trace.json").read_text())
    for key, value, message in (
        ("affine", np.diag([1.0, 1, 1, 1]).tolist(), r"image\.nii\.gz: expected the affine \[1 0 0 0; .*received"),
        ("source_affine", np.diag([2.0, 1, 1, 1]).tolist(), r"source\.nii\.gz: expected the affine \[2 0 0 0; "),
        ("shape", [1, 5, 4, 2], r"image\.nii\.gz: expected the shape \(5, 4, 2\) of trace.json, received \(5, 4, 3\)"),
        ("source_shape", [2, 6, 5, 4], r"source\.nii\.gz: expected the shape \(6, 5, 4, 2\) .* received \(6, 5, 4\)"),
        ("shape", [1, 5, 4], r"trace\.json: shape: expected 4 positive whole numbers, received \[1, 5, 4\]"),
        ("shape", [1, 5, 4, True], r"trace\.json: shape: expected 4 positive whole numbers"),
        ("affine", [[0.0] * 4] * 4, r"trace\.json: affine: holds no affine"),
        ("affine", "identity", r"trace\.json: affine: holds no affine"),
        ("spatial_dims", 2, r"trace\.json: shape: expected 3 positive whole numbers"),
    ):
        (folder / "trace.json").write_text(json.dumps({**index, key: value}))
        with pytest.raises(ValueError, match=message):
            load_trace(folder)


def test_members_are_all_there_and_no_others(folder):
    index = json.loads((folder / "trace.json").read_text())

    def without(name):
        files = {key: file for key, file in index["files"].items() if key != name}
        digests = {key: digest for key, digest in index.get("sha256", {}).items() if key != name}
        return {**index, "files": files} | ({"sha256": digests} if digests else {})

    for name in ("source", "image", "warped", "ddf", "inverse_ddf"):
        (folder / "trace.json").write_text(json.dumps(without(name)))
        with pytest.raises(ValueError, match=rf"trace\.json: files: expected {name}\.nii\.gz, received none"):
            load_trace(folder)
    (folder / "trace.json").write_text(json.dumps(without("velocity")))
    with pytest.raises(ValueError, match=r"velocity\.nii\.gz: lies in the folder, but trace\.json names no velocity"):
        load_trace(folder)
    (folder / "velocity.nii.gz").unlink()
    assert load_trace(folder).velocity is None
    (folder / "trace.json").write_text(json.dumps(index))
    with pytest.raises(FileNotFoundError, match=r"velocity\.nii\.gz: no such file, though trace\.json names it"):
        load_trace(folder)
    (folder / "velocity.nii.gz").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"velocity\.nii\.gz: cannot be read as NIfTI"):
        load_trace(folder)


@pytest.mark.parametrize("name", ["source", "image", "warped", "appearance", "mask", "ddf", "inverse_ddf"])
def test_a_member_replaced_by_another_of_the_same_grid_is_refused(tmp_path, name):
    """Nothing but its content reports that it is another one."""
    traces = [make_trace((8, 9, 7), OBLIQUE, mask=smooth(1, 8, 9, 7, amplitude=1.0, seed=s) > 0) for s in (0, 1)]
    other = Trace.build(
        traces[1].source + 1, traces[1].image + 1, 0.9 * traces[1].ddf, mask=traces[1].mask, affine=OBLIQUE
    )
    one, two = (save_trace(trace, tmp_path / str(k)) for k, trace in enumerate((traces[0], other)))
    shutil.copy(two / f"{name}.nii.gz", one / f"{name}.nii.gz")
    with pytest.raises(
        ValueError, match=rf"0/{name}\.nii\.gz: expected the file of SHA-256 \w{{16}}\.\.\. .* received another one"
    ):
        load_trace(one)


def test_digests_are_those_of_all_members(tmp_path):
    folder = save_trace(make_trace((8, 9), PLAIN), tmp_path / "trace")
    index = json.loads((folder / "trace.json").read_text())
    for digests in ({}, [], {"image": index["sha256"]["image"]}, dict.fromkeys(index["files"], 3)):
        (folder / "trace.json").write_text(json.dumps({**index, "sha256": digests}))
        with pytest.raises(ValueError, match=r"trace\.json: sha256: expected"):
            load_trace(folder)


# ------------------------------------------------------------------------------------------- how exactly it is kept
def test_steps_of_images_by_hand():
    assert intensity_step(torch.tensor([[[0.0, 0.3, 1000.0]]])) == 2**-6  # 1000 / 65534 = .0153 <= 1/64 = .0156
    assert intensity_step(torch.tensor([[[0.0, 0.3, 1024.0]]])) == 2**-5  # 1024 / 65534 = .015625 + 5e-7: next power
    assert intensity_step(torch.tensor([[[-1.0, 0.1, 1.0]]])) == 2**-14
    assert intensity_step(torch.tensor([[[0.0, 0.0]]])) == 1.0
    whole = torch.tensor([[[0.0, 70_001.0, 200_000.0]]])
    assert intensity_step(whole) == 1.0
    assert intensity_step(whole + 0.5) == 4.0


def test_a_few_outliers_do_not_coarsen_an_image():
    image = torch.rand(1, 40, 40, 40)
    image[0, 0, 0, 0] = 1e6
    assert intensity_step(image) <= 16 / 32767


SPREAD = torch.rand(1, 3, 4, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "image",
    [
        torch.full((1, 3, 4, 5), 0.3),
        SPREAD + 1e6,
        torch.arange(1.0, 17.0).reshape(1, 2, 4, 2) / 16 + 1e6,  # whose middle, 1000000.53125, is not a float32
        SPREAD * 1e-37,
        SPREAD * 1e37,
        torch.tensor([0.0, 1.0, 0.1, 1e6]).reshape(1, 1, 1, 4),
    ],
    ids=["constant", "far from 0", "a middle between two numbers", "tiny", "huge", "outlier"],
)
def test_odd_ranges_are_kept_as_exactly(tmp_path, image):
    step = intensity_step(image)
    write_compact_image(tmp_path / "image.nii.gz", image, PLAIN, step)
    error = (read_nifti_image(tmp_path / "image.nii.gz")[0].double() - image.double()).abs().max()
    assert float(error) <= max(float(image.max() - image.min()) / 65534, 2**-120)


def test_steps_of_fields_by_hand():
    assert field_steps(np.eye(4), FIELD_ERROR) == [2**-10] * 3
    assert field_steps(np.diag([0.5, 1.0, 3.0, 1.0]), FIELD_ERROR) == [2**-11, 2**-10, 2**-9]
    turned = np.array([[0.0, -2, 0, 0], [1, 0, 0, 0], [0, 0, 4, 0], [0, 0, 0, 1]])
    assert field_steps(turned, FIELD_ERROR) == [2**-9, 2**-10, 2**-8]
    c = np.sqrt(0.5)
    oblique = np.array([[c, -c, 0, 0], [c, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    # both steps move a voxel's component by .707 of theirs: 1/1024 is to be shared by the two
    assert field_steps(oblique, FIELD_ERROR)[:2] == [2**-11] * 2


@pytest.mark.parametrize("grid", GRIDS)
def test_fields_are_off_by_a_2048th_of_a_voxel_at_most(tmp_path, grid):
    trace = make_trace((12, 13, 11), GRIDS[grid], velocity=50 * torch.randn(3, 12, 13, 11))
    result = load_trace(save_trace(trace, tmp_path / "trace"))
    for name in ("ddf", "inverse_ddf", "velocity"):
        error = (getattr(result, name) - getattr(trace, name)).abs()
        assert float(error.max()) <= 1 / 2048 * (1 + 1e-5)  # float32 holds 50 voxels to 4e-6
        assert float(error.max()) > 1e-5, "it is rounded"
        stored = nibabel.load(tmp_path / "trace" / f"{name}.nii.gz")
        assert stored.get_data_dtype() == np.float32
    field = read_transform(tmp_path / "trace" / "ddf.nii.gz")
    torch.testing.assert_close(field.ddf, result.ddf, atol=1e-5, rtol=0)


def test_what_is_asked_for_is_written_and_told(tmp_path):
    trace = make_trace((8, 9, 7), ANISOTROPIC)
    folder = save_trace(trace, tmp_path / "trace", transforms=("h5", "nrrd"))
    also = {f"{name}.{ending}" for name in ("ddf", "inverse_ddf") for ending in ("h5", "nrrd")}
    assert {path.name for path in folder.iterdir()} >= also
    torch.testing.assert_close(read_transform(folder / "ddf.h5").ddf, trace.ddf, atol=1e-6, rtol=0)
    index = json.loads((folder / "trace.json").read_text())
    assert index["transforms"] == {"ddf": ["ddf.h5", "ddf.nrrd"], "inverse_ddf": ["inverse_ddf.h5", "inverse_ddf.nrrd"]}
    assert index["precision"]["field_error_voxels"] == 1 / 2048
    save_trace(trace, folder, overwrite=True)
    assert not any(path.suffix in (".h5", ".nrrd") for path in folder.iterdir())
    index = json.loads((save_trace(trace, tmp_path / "all", precise=True) / "trace.json").read_text())
    assert (index["precision"]["field_error_voxels"], index["transforms"]) == (0.0, {})
    assert nibabel.load(tmp_path / "all" / "ddf.nii.gz").get_data_dtype() == np.float64
    with pytest.raises(ValueError, match=r"transforms: expected one of .*h5.*nrrd.*received 'tfm'"):
        save_trace(trace, tmp_path / "other", transforms=("tfm",))
    assert not (tmp_path / "other").exists()


@pytest.fixture
def all_large(monkeypatch):
    """Rounds images of every size, in slabs of a few slices."""
    monkeypatch.setattr(trace_members, "LARGE", 0)
    monkeypatch.setattr(compact, "_SLAB", 100)


@pytest.mark.usefixtures("all_large")
@pytest.mark.parametrize("shape", [(20, 18), (12, 10, 8), (9, 8, 1)])
@pytest.mark.parametrize("source_channels", [1, 3])
def test_large_images_are_off_by_a_65534th_of_their_range(tmp_path, shape, source_channels):
    source = 900 * smooth(source_channels, *shape, amplitude=1.0) + 300
    mask = smooth(1, *shape, amplitude=1.0, seed=3).clamp(0, 1)
    still = [axis for axis, size in enumerate(shape) if size == 1]
    trace = Trace.build(source, -0.7 * source + 40, flow(*shape, still=still), mask=mask, affine=OBLIQUE)
    folder = save_trace(trace, tmp_path / "trace")
    result = load_trace(folder)
    steps = json.loads((folder / "trace.json").read_text())["precision"]["intensity_steps"]
    for name in ("source", "image", "warped", "appearance"):
        value, expected = getattr(result, name), getattr(trace, name)
        error, span = (value - expected).abs().max(), expected.max() - expected.min()
        assert 0 < float(error) <= min(float(span) / 65534, steps[name] / 2) * (1 + 1e-6), name
        stored = nibabel.load(folder / f"{name}.nii.gz")
        assert stored.get_data_dtype() == np.int16
        itk = sitk.ReadImage(str(folder / f"{name}.nii.gz"))
        theirs = sitk.GetArrayFromImage(itk).T
        theirs = theirs[..., None] if theirs.ndim == 3 else theirs
        assert np.array_equal(np.moveaxis(theirs, -1, 0).reshape(value.shape), value.numpy()), name
    assert float((result.mask - trace.mask).abs().max()) <= 2**-15
    ledger, before = result.ledger(), trace.ledger()
    summed = result.warped + ledger.appearance + ledger.residual
    torch.testing.assert_close(summed, result.image, atol=2e-4, rtol=0)  # float32 at 1000
    apart = sum(steps[name] / 2 for name in ("image", "warped", "appearance"))
    assert float((ledger.residual - before.residual).abs().max()) <= apart * (1 + 1e-3)


@pytest.mark.usefixtures("all_large")
def test_whole_numbers_binary_masks_and_equal_images_are_kept(tmp_path):
    source = torch.randint(-1024, 3000, (1, 14, 12, 10)).float()
    ct = Trace.build(source, source * 30, torch.zeros(3, 14, 12, 10), mask=source > 0)
    result = load_trace(save_trace(ct, tmp_path / "ct"))
    for name in ("source", "image", "warped", "appearance", "mask"):
        assert torch.equal(getattr(result, name), getattr(ct, name)), name
    image = 300 * smooth(1, 14, 12, 10, amplitude=1.0)
    ddf = flow(14, 12, 10)
    registered = Trace.build(image, Trace.build(image, image, ddf).warped, ddf)
    result = load_trace(save_trace(registered, tmp_path / "registered"))
    assert torch.equal(result.image, result.warped)
    assert not result.ledger().residual.any()


@pytest.mark.usefixtures("all_large")
def test_precise_keeps_large_images_and_dtype_is_honored(tmp_path):
    trace = make_trace((14, 12, 10), OBLIQUE, mask=smooth(1, 14, 12, 10, amplitude=1.0).clamp(0, 1))
    result = load_trace(save_trace(trace, tmp_path / "precise", precise=True))
    for name in ("source", "image", "warped", "appearance", "mask"):
        assert torch.equal(getattr(result, name), getattr(trace, name))
    folder = save_trace(trace, tmp_path / "double", dtype="float64")
    assert nibabel.load(folder / "image.nii.gz").get_data_dtype() == np.float64
    assert torch.equal(load_trace(folder).image, trace.image)


def test_the_same_trace_gives_the_same_bytes(tmp_path):
    trace = make_trace((14, 12, 10), OBLIQUE, velocity=torch.randn(3, 14, 12, 10))
    one, two = (save_trace(trace, tmp_path / name) for name in ("one", "two"))
    assert {p.name: p.read_bytes() for p in one.iterdir()} == {p.name: p.read_bytes() for p in two.iterdir()}


def test_a_grid_far_from_the_origin_or_of_tiny_voxels_is_its_own(tmp_path):
    """The header's float32 is no contradiction."""
    for number, (spacing, origin) in enumerate(((0.3, 5000.123456), (1e-5, 1e-3), (4.0, -1e5 - 0.3))):
        affine = torch.diag(torch.tensor([spacing, spacing, spacing, 1.0], dtype=torch.float64))
        affine[:3, 3] = origin
        trace = make_trace((8, 9, 7), affine)
        assert Grid((8, 9, 7), load_trace(save_trace(trace, tmp_path / str(number))).affine).coincides(
            Grid((8, 9, 7), affine), 0
        )


@pytest.mark.slow
@pytest.mark.real_data
def test_a_head_of_1_mm_takes_less_than_150_mb(tmp_path, real_data):
    """Two T1 of 182 x 218 x 182 voxels, registered: both fields, and the forward one once more as a velocity."""
    from medtrace.data.reading import read_image
    from medtrace.registration import register_images

    heads = [read_image(real_data / "open_ms" / "mni" / name / "T1.nii.gz") for name in ("patient07", "patient19")]
    affines = [head.affine for head in heads]
    result = register_images(*(head.as_tensor() for head in heads), *affines, spacing=2.0, check_starts=False)
    trace = Trace.build(
        *(head.as_tensor() for head in heads),
        result.ddf,
        inverse_ddf=result.inverse_ddf,
        velocity=result.ddf,
        affine=affines[1],
        source_affine=affines[0],
    )
    folder = save_trace(trace, tmp_path / "trace")
    assert sum(path.stat().st_size for path in folder.iterdir()) < 150e6
    result = load_trace(folder)
    assert float((result.ddf - trace.ddf).abs().max()) <= 1 / 2048 * (1 + 1e-5)
