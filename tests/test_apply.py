"""`medtrace apply`: images, labels and points through traces and other programs' transforms."""

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from typer.testing import CliRunner

from medtrace.cli import app
from medtrace.data.landmarks.points import read_landmarks, write_points
from medtrace.geometry import Grid
from medtrace.io import save_trace, write_composite, write_image
from medtrace.workflows.apply import apply
from tests.passport_cases import affine_of, inside_source, make_trace, points_within

MOTION = affine_of((1, 1, 1), (2.0, -3.0, 4.0))
FLIP = torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64)


@pytest.fixture(scope="module", params=[("3d", "oblique"), ("3d", "flipped"), ("2d", "anisotropic")], ids=str)
def saved(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("apply")
    trace = make_trace(*request.param, elsewhere=True)
    save_trace(trace, folder / "trace", precise=True)
    write_image(folder / "source.nii.gz", trace.source, trace.source_affine)
    return folder, trace


def test_an_image_becomes_the_warped_one(saved):
    folder, trace = saved
    done = apply([folder / "trace"], folder / "source.nii.gz", folder / "out.nii.gz", fill=-9)
    result = nibabel.load(folder / "out.nii.gz")
    expected = trace.warped[0].numpy()
    values = result.get_fdata().reshape(expected.shape)
    inside = inside_source(trace).numpy()
    assert inside.mean() > 0.3
    assert np.abs(values - expected)[inside].max() < 2e-5
    assert np.allclose(result.affine, trace.affine, atol=1e-5)
    assert done.inside == pytest.approx((values != -9).mean())


def test_points_go_there_and_back(saved):
    folder, trace = saved
    points = points_within(trace.source.shape[1:], trace.source_affine, margin=6)
    write_points(folder / "points.csv", [f"p{k}" for k in range(len(points))], points)
    for ending in (".csv", ".fcsv", ".mrk.json"):
        apply([folder / "trace"], folder / "points.csv", folder / f"moved{ending}")
        names, moved = read_landmarks(folder / f"moved{ending}")
        assert names[3] == "p3"
        assert float((moved - trace.locate(points)).norm(dim=1).max()) < 2e-5
    done = apply([folder / "trace"], folder / "moved.fcsv", folder / "back.csv", inverse=True)
    assert float((read_landmarks(folder / "back.csv")[1] - trace.origin(moved)).norm(dim=1).max()) < 2e-5
    assert done.kind == "points"
    assert done.count == len(points)


def test_labels_are_asked_for_and_kept(saved):
    folder, trace = saved
    labels = (trace.source > 0).to(torch.int16) * 7
    write_image(folder / "labels.nii.gz", labels, trace.source_affine)
    with pytest.raises(ValueError, match=r"holds 2 different whole numbers.* --as labels or --as image"):
        apply([folder / "trace"], folder / "labels.nii.gz", folder / "moved.nii.gz")
    apply([folder / "trace"], folder / "labels.nii.gz", folder / "moved.nii.gz", kind="labels")
    result = nibabel.load(folder / "moved.nii.gz")
    values = np.asarray(result.dataobj).reshape(trace.image.shape[1:])
    inside = inside_source(trace).numpy()
    assert result.get_data_dtype() == np.uint8
    assert set(np.unique(values)) == {0, 7}
    same = (values == trace.transfer(labels)[0].numpy())[inside]
    assert same.mean() > 0.999  # halves may go either way
    apply(
        [folder / "trace"],
        folder / "labels.nii.gz",
        folder / "pv.nii.gz",
        kind="labels",
        interpolation="partial-volume",
    )
    assert (
        ((np.asarray(nibabel.load(folder / "pv.nii.gz").dataobj).reshape(values.shape) == values)[inside]).mean() > 0.9
    )


def test_a_trace_and_itk_files_are_composed_exactly_as_itk_does(tmp_path):
    trace = make_trace("3d", "oblique", elsewhere=True)
    save_trace(trace, tmp_path / "trace", precise=True)
    write_composite(tmp_path / "trace.h5", trace)
    first = sitk.AffineTransform(3)
    first.SetMatrix((np.diag([1.02, 0.97, 1.0]) @ MOTION[:3, :3].numpy()).ravel().tolist())
    first.SetTranslation((1.0, 2.0, -0.5))
    first.SetCenter(
        (trace.affine[:3, :3] @ torch.tensor([7.0, 8, 6]).double() + trace.affine[:3, 3]).mul(FLIP).tolist()
    )
    sitk.WriteTransform(first, str(tmp_path / "first.tfm"))
    write_image(tmp_path / "source.nii.gz", trace.source, trace.source_affine)
    grid = Grid((13, 15, 11), trace.affine @ torch.diag(torch.tensor([1.1, 1.0, 0.9, 1.0], dtype=torch.float64)))
    write_image(tmp_path / "grid.nii.gz", torch.rand(1, *grid.shape), grid.affine)
    points = points_within(trace.source.shape[1:], trace.source_affine, margin=6)
    write_points(tmp_path / "points.csv", [str(k) for k in range(len(points))], points)
    composite = sitk.CompositeTransform([sitk.ReadTransform(str(tmp_path / "trace.h5")), first])
    reader = sitk.ReadImage(str(tmp_path / "source.nii.gz"), sitk.sitkFloat64)
    reference = sitk.Resample(reader, sitk.ReadImage(str(tmp_path / "grid.nii.gz")), composite, sitk.sitkLinear, -9.0)
    expected = sitk.GetArrayFromImage(reference).T
    for name in ("trace", "trace.h5"):
        listed = [tmp_path / "first.tfm", tmp_path / name]
        apply(listed, tmp_path / "source.nii.gz", tmp_path / "out.nii.gz", grid=tmp_path / "grid.nii.gz", fill=-9)
        values = nibabel.load(tmp_path / "out.nii.gz").get_fdata()
        inside = (values != -9) & (expected != -9)
        if name == "trace.h5":  # the same reading beyond the field's grid, too
            assert inside.mean() > 0.3
            assert np.abs(values - expected)[inside].max() < 1e-5
        apply(listed, tmp_path / "points.csv", tmp_path / "moved.csv")
        moved = read_landmarks(tmp_path / "moved.csv")[1]
        flip = np.array([-1.0, -1.0, 1.0])
        back = [composite.TransformPoint(point) for point in (moved.numpy() * flip).tolist()]
        inside_field = trace.in_target(
            torch.from_numpy(np.array([first.TransformPoint(p) for p in (moved.numpy() * flip).tolist()]) * flip)
        )
        error = np.linalg.norm(np.array(back) * flip - points.numpy(), axis=1)[inside_field.numpy()]
        limit = 1e-4 if name == "trace.h5" else 0.2  # a trace's own inverse field, read between voxels
        assert len(error) > 10
        assert error.max() < limit
    with pytest.raises(ValueError, match="grid: expected an image whose grid the result is to have"):
        apply([tmp_path / "first.tfm"], tmp_path / "source.nii.gz", tmp_path / "no.nii.gz")


def test_antss_two_files_are_one_transform(tmp_path):
    trace = make_trace("3d", "flipped")
    write_image(tmp_path / "source.nii.gz", trace.source, trace.source_affine)
    from medtrace.io import write_transform

    write_transform(tmp_path / "x1Warp.nii.gz", trace.ddf, trace.affine)
    affine = sitk.AffineTransform(3)
    affine.SetTranslation((2.0, -1.0, 0.5))
    sitk.WriteTransform(affine, str(tmp_path / "x0GenericAffine.mat"))
    said = []
    options = {"grid": tmp_path / "source.nii.gz", "fill": 0.0}
    source = tmp_path / "source.nii.gz"
    apply([tmp_path / "x1Warp.nii.gz"], source, tmp_path / "one.nii.gz", say=said.append, **options)
    both = [tmp_path / "x1Warp.nii.gz", tmp_path / "x0GenericAffine.mat"]
    apply(both, source, tmp_path / "two.nii.gz", **options)
    one, two = (nibabel.load(tmp_path / f"{name}.nii.gz").get_fdata() for name in ("one", "two"))
    assert np.array_equal(one, two)
    assert any("0GenericAffine.mat, beside it, was added" in line for line in said)
    with pytest.raises(ValueError, match="expected the files of one registration of ANTs as"):
        apply(both[::-1], source, tmp_path / "three.nii.gz", **options)


def test_formats_that_count_from_grids_ask_for_them(tmp_path):
    np.savetxt(tmp_path / "flirt.mat", np.eye(4))
    write_points(tmp_path / "points.csv", ["a"], torch.zeros(1, 3))
    with pytest.raises(ValueError, match="name the moving one with --source"):
        apply([tmp_path / "flirt.mat"], tmp_path / "points.csv", tmp_path / "out.csv", format="flirt")


def test_the_command_says_what_it_did(saved):
    folder, trace = saved
    source, out = folder / "source.nii.gz", folder / "cli.nii.gz"
    done = CliRunner().invoke(app, ["apply", str(folder / "trace"), str(source), "-o", str(out)])
    assert done.exit_code == 0, done.output
    assert "image through trace" in done.output
    assert "map into the image" in done.output
    back = folder / "back.nii.gz"
    listed = [f"[{folder / 'trace'},1]", str(folder / "trace")]  # first there, then back
    done = CliRunner().invoke(app, ["apply", *listed, str(source), "-o", str(back)])
    assert done.exit_code == 0, done.output
    assert "trace, then [trace,1]" in done.output
    chain = trace.chain.then(trace.chain.inverse())
    points = points_within(trace.source.shape[1:], trace.source_affine, margin=7)
    assert float((chain.origin(points) - points).norm(dim=1).max()) < 0.3
    result, own = nibabel.load(back), nibabel.load(source)
    assert result.shape == own.shape
    difference = np.abs(result.get_fdata() - own.get_fdata())
    assert np.median(difference) < 0.1 * own.get_fdata().std()
