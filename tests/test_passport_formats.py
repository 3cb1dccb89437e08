"""Field files of other programs: each is read by that program or library, which must agree with the trace."""

import gzip

import nibabel
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy.ndimage import map_coordinates, zoom

from medtrace.io.composite import read_motion, write_composite
from medtrace.io.fsl_warp import read_fsl_warp, write_fsl_warp
from medtrace.io.learn2reg import read_learn2reg, write_learn2reg
from medtrace.io.nifti import write_image
from medtrace.io.nitransforms_field import read_x5, write_x5
from medtrace.io.slicer_nrrd import read_slicer_nrrd, write_slicer_nrrd
from medtrace.io.transforms import write_transform
from medtrace.trace import Trace
from tests.passport_cases import (
    AFFINES,
    MIRROR,
    SHAPES,
    affine_of,
    bidirectional,
    cases,
    flow,
    inside_source,
    itk_image,
    largest,
    make_trace,
    mapped,
    points_within,
    smooth,
)


def resampled(trace, transform, folder):
    """SimpleITK's warped image, and its difference from the trace's where no border counts."""
    moving = itk_image(folder / "source.nii", trace.source, trace.source_affine)
    grid = itk_image(folder / "image.nii", trace.image, trace.affine)
    result = sitk.GetArrayFromImage(sitk.Resample(moving, grid, transform, sitk.sitkLinear, 99.0)).T.copy()
    theirs = torch.from_numpy(result).reshape(trace.warped.shape[1:])
    inside = inside_source(trace)
    assert inside.float().mean() > 0.4
    return (theirs - trace.warped[0])[inside]


@cases
def test_slicer_nrrd_resamples_and_moves_points(tmp_path, kind, name, elsewhere):
    trace = make_trace(kind, name, elsewhere)
    for field, (ddf, affine, shape, ours) in bidirectional(trace).items():
        write_slicer_nrrd(tmp_path / f"{field}.nrrd", ddf, affine)
        transform = sitk.DisplacementFieldTransform(sitk.ReadImage(str(tmp_path / f"{field}.nrrd")))
        if field == "ddf":
            assert largest("nrrd", "image", resampled(trace, transform, tmp_path)) < 1e-4
        points = points_within(shape, affine)
        assert largest("nrrd", "points, mm", mapped(transform, points) - ours(points)) < 1e-4
        assert (ours(points) - points).abs().max() > 0.3


@pytest.mark.parametrize("kind", SHAPES)
def test_slicer_nrrd_header(tmp_path, kind):
    shape, affine = SHAPES[kind], AFFINES["permuted"]
    ddf = flow(*shape)
    write_slicer_nrrd(tmp_path / "field.nrrd", ddf, affine, "modeling")
    data, header = nrrd.read(str(tmp_path / "field.nrrd"))
    assert header["displacement field type"] == "modeling"
    assert header["intent_code"] == "1006"
    assert header["kinds"] == ["vector", "domain", "domain", "domain"]
    assert header["space"] == "left-posterior-superior"
    np.testing.assert_array_equal(header["measurement frame"], np.eye(3))
    lps = (MIRROR @ affine).numpy()
    np.testing.assert_allclose(header["space directions"][1:], lps[:3, :3].T, atol=1e-12)
    np.testing.assert_allclose(header["space origin"], lps[:3, 3], atol=1e-12)
    full = np.zeros((3, *shape, 1)[: 5 if len(shape) == 2 else 4])
    full[: len(shape)] = ddf.numpy().reshape(full[: len(shape)].shape)
    expected = np.einsum("ij,j...->i...", lps[:3, :3], full)
    np.testing.assert_allclose(data.reshape(expected.shape), expected, atol=1e-5)
    result = read_slicer_nrrd(tmp_path / "field.nrrd", len(shape))
    assert result.field_type == "modeling"
    torch.testing.assert_close(result.ddf, ddf, atol=1e-5, rtol=0)
    torch.testing.assert_close(result.affine, affine, atol=1e-9, rtol=0)
    assert [path.name for path in tmp_path.iterdir()] == ["field.nrrd"]


def test_nrrd_of_other_programs(tmp_path):
    """What SimpleITK writes has no tag and counts as resampling; an unknown tag is refused."""
    vectors = np.random.default_rng(0).normal(size=(4, 5, 6, 3))
    image = sitk.GetImageFromArray(vectors, isVector=True)
    sitk.WriteImage(image, str(tmp_path / "itk.nrrd"))
    result = read_slicer_nrrd(tmp_path / "itk.nrrd")
    assert result.field_type == "resampling"
    # 1 mm voxels along L, P and S: a displacement in LPS mm is one in voxels
    np.testing.assert_allclose(result.ddf.numpy(), vectors.T, atol=1e-6)
    image.SetMetaData("displacement field type", "sideways")
    sitk.WriteImage(image, str(tmp_path / "odd.nrrd"))
    with pytest.raises(ValueError, match=r"odd.nrrd: expected .* resampling or modeling, received 'sideways'"):
        read_slicer_nrrd(tmp_path / "odd.nrrd")
    sitk.WriteImage(sitk.GetImageFromArray(vectors[..., 0]), str(tmp_path / "scalar.nrrd"))
    with pytest.raises(ValueError, match=r"scalar.nrrd: expected a 3-D field of 3-vectors, received 3-D of 1"):
        read_slicer_nrrd(tmp_path / "scalar.nrrd")


@cases
def test_nitransforms_resamples_and_moves_points(tmp_path, kind, name, elsewhere):
    resampling = pytest.importorskip("nitransforms.resampling")
    dense = pytest.importorskip("nitransforms.nonlinear").DenseFieldTransform
    trace = make_trace(kind, name, elsewhere)
    flat = len(trace.image.shape) == 3 or trace.image.shape[-1] == 1
    for field, (ddf, affine, shape, ours) in bidirectional(trace).items():
        write_x5(tmp_path / f"{field}.x5", ddf, affine)
        write_transform(tmp_path / f"{field}.nii.gz", ddf, affine)
        # At voxels, where it does not interpolate by cubic splines as the trace, linearly.
        axes = [torch.arange(0, size, 3) for size in (*shape, 1)[:3]]
        voxels = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3).double()
        points = voxels @ affine[:3, :3].T + affine[:3, 3]
        for path, form in ((f"{field}.x5", "X5"), (f"{field}.nii.gz", "itk")):
            transform = dense.from_filename(tmp_path / path, fmt=form)
            moved = torch.from_numpy(transform.map(points.numpy()))
            assert largest(f"nitransforms, {form}", "points, mm", moved - ours(points)) < 1e-4
        result = read_x5(tmp_path / f"{field}.x5", len(ddf))
        torch.testing.assert_close(result.ddf, ddf, atol=1e-5, rtol=0)
        torch.testing.assert_close(result.affine, affine)
    source = trace.source.numpy()[0].reshape(*trace.source.shape[1:], *[1] * (4 - trace.source.ndim))
    # A single slice has no neighbors to interpolate between: it is repeated, as its field is.
    source = np.repeat(source, 2, axis=2) if flat else source
    moving = nibabel.Nifti1Image(source.astype(np.float64), trace.source_affine.numpy())
    for path, form in (("ddf.x5", "X5"), ("ddf.nii.gz", "itk")):
        transform = dense.from_filename(tmp_path / path, fmt=form)
        theirs = torch.from_numpy(np.array(resampling.apply(transform, moving, order=1, mode="nearest").dataobj))
        theirs = theirs[..., 0] if flat else theirs
        inside = inside_source(trace)
        difference = (theirs.reshape(trace.warped.shape[1:]) - trace.warped[0])[inside]
        assert largest(f"nitransforms, {form}", "image", difference) < 1e-4


@cases
def test_learn2reg_nifti_as_the_evaluation_does(tmp_path, kind, name, elsewhere):
    trace = make_trace(kind, name, elsewhere)
    write_learn2reg(tmp_path / "disp.nii.gz", trace)
    stored = nibabel.load(tmp_path / "disp.nii.gz")
    displacement = np.asarray(stored.dataobj)
    shape = (*trace.image.shape[1:], 1)[:3]
    assert displacement.shape == (*shape, 3)
    np.testing.assert_allclose(stored.affine, trace.affine, atol=1e-4)
    identity = np.meshgrid(*[np.arange(size) for size in shape], indexing="ij")
    moving = trace.source[0].double().numpy().reshape((*trace.source.shape[1:], 1)[:3])
    where = np.array(identity) + displacement.transpose(3, 0, 1, 2)
    theirs = torch.from_numpy(map_coordinates(moving, where, order=1)).reshape(trace.warped.shape[1:])
    difference = (theirs - trace.warped[0])[inside_source(trace)]
    assert largest("learn2reg .nii.gz", "image", difference) < 1e-4
    ddf = read_learn2reg(tmp_path / "disp.nii.gz", trace.affine, trace.source_affine, trace.spatial_dims)
    torch.testing.assert_close(ddf, trace.ddf, atol=2e-5, rtol=0)


def test_learn2reg_npz_holds_half_the_resolution(tmp_path):
    shape = (48, 56, 40)
    image = smooth(1, *shape)
    x, y, z = torch.meshgrid(*[torch.arange(float(size)) for size in shape], indexing="ij")
    ddf = torch.stack([2 * torch.sin(y / 5), torch.cos(z / 4) + x / 30, 1.5 * torch.sin(x / 6)])
    trace = Trace.build(image, image, ddf, inverse_ddf=torch.zeros_like(ddf), affine=AFFINES["oblique"])
    write_learn2reg(tmp_path / "disp_0001_0002.npz", trace)
    stored = np.load(tmp_path / "disp_0001_0002.npz")["arr_0"]
    assert (stored.shape, stored.dtype) == ((3, 24, 28, 20), np.float16)
    doubled = np.array([zoom(component.astype("float32"), 2, order=2) for component in stored])
    difference = torch.from_numpy(doubled) - ddf
    assert largest("learn2reg .npz", "field, voxels (half resolution)", difference) < 0.15
    assert largest("learn2reg .npz", "field, voxels, 3 off the border", difference[:, 3:-3, 3:-3, 3:-3]) < 0.03
    identity = np.meshgrid(*[np.arange(size) for size in shape], indexing="ij")
    theirs = map_coordinates(trace.source[0].numpy(), identity + doubled, order=1)
    off = (torch.from_numpy(theirs) - trace.warped[0])[inside_source(trace)]
    assert largest("learn2reg .npz", "image (half resolution)", off) < 0.1
    ddf = read_learn2reg(tmp_path / "disp_0001_0002.npz", trace.affine)
    np.testing.assert_allclose(ddf.numpy(), doubled, atol=1e-4)
    with pytest.raises(ValueError, match=r"expected an even grid .* received \(18, 16, 1\); write .nii.gz"):
        write_learn2reg(tmp_path / "disp.npz", make_trace("2d", "plain"))


def fsl_by_hand(affine, shape):
    """FSL's coordinates of voxels, written out: index times spacing, from the far end where the determinant is > 0."""
    spacing = np.sqrt((affine.numpy()[:3, :3] ** 2).sum(axis=0))
    reversed_axis = np.linalg.det(affine.numpy()[:3, :3]) > 0

    def forward(voxels):
        index = np.array(voxels, dtype=np.float64)
        if reversed_axis:
            index[..., 0] = shape[0] - 1 - index[..., 0]
        return index * spacing

    def backward(coordinates):
        index = np.array(coordinates) / spacing
        if reversed_axis:
            index[..., 0] = shape[0] - 1 - index[..., 0]
        return index

    return forward, backward


@cases
def test_fsl_warp_by_its_own_formula(tmp_path, kind, name, elsewhere):
    trace = make_trace(kind, name, elsewhere)
    write_fsl_warp(tmp_path / "warp.nii.gz", trace.ddf, trace.affine, trace.source_affine, trace.source.shape[1:])
    stored = nibabel.load(tmp_path / "warp.nii.gz")
    assert int(stored.header["intent_code"]) == 2006
    warp = np.asarray(stored.dataobj, dtype=np.float64)
    shape = (*trace.image.shape[1:], 1)[:3]
    voxels = np.moveaxis(np.indices(shape), 0, -1)
    reference, _ = fsl_by_hand(trace.affine, shape)
    _, to_source_voxels = fsl_by_hand(trace.source_affine, trace.source.shape[1:])
    where = to_source_voxels(reference(voxels) + warp)
    moving = trace.source[0].double().numpy().reshape((*trace.source.shape[1:], 1)[:3])
    where[..., 2][np.abs(where[..., 2]) < 1e-3] = 0
    theirs = torch.from_numpy(map_coordinates(moving, np.moveaxis(where, -1, 0), order=1))
    difference = (theirs.reshape(trace.warped.shape[1:]) - trace.warped[0])[inside_source(trace)]
    assert largest("fsl, by its formula", "image", difference) < 2e-4
    ddf, affine = read_fsl_warp(
        tmp_path / "warp.nii.gz", trace.source_affine, trace.source.shape[1:], trace.spatial_dims
    )
    torch.testing.assert_close(ddf, trace.ddf, atol=1e-4, rtol=0)
    torch.testing.assert_close(affine, trace.affine, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("name", "elsewhere"), [("oblique", True), ("anisotropic", False), ("flipped", True), ("flipped", False)]
)
def test_fsl_warp_as_fslpy_reads_it(tmp_path, name, elsewhere):
    """FSL's own Python library: points by `transform`, and its resampling of the image."""
    fnirt = pytest.importorskip("fsl.transform.fnirt")
    nonlinear = pytest.importorskip("fsl.transform.nonlinear")
    fslimage = pytest.importorskip("fsl.data.image")
    trace = make_trace("3d", name, elsewhere)
    for field, (ddf, affine, shape, ours) in bidirectional(trace).items():
        other, other_shape = (
            (trace.source_affine, trace.source.shape[1:]) if field == "ddf" else (trace.affine, trace.image.shape[1:])
        )
        write_fsl_warp(tmp_path / f"{field}.nii.gz", ddf, affine, other, other_shape)
        write_image(tmp_path / "reference.nii.gz", torch.zeros(1, *shape), affine)
        write_image(tmp_path / "input.nii.gz", torch.zeros(1, *other_shape), other)
        reference, moving = (fslimage.Image(str(tmp_path / f"{k}.nii.gz")) for k in ("reference", "input"))
        warp = fnirt.readFnirt(str(tmp_path / f"{field}.nii.gz"), moving, reference, defType="relative")
        axes = [torch.arange(0, size, 3) for size in shape]
        voxels = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3).double()
        points = voxels @ affine[:3, :3].T + affine[:3, 3]
        moved = torch.from_numpy(warp.transform(points.numpy(), from_="world", to="world"))
        assert largest("fsl, fslpy", "points, mm", moved - ours(points)) < 1e-3
    write_image(tmp_path / "source.nii.gz", trace.source, trace.source_affine)
    source = fslimage.Image(str(tmp_path / "source.nii.gz"))
    write_image(tmp_path / "image.nii.gz", trace.image, trace.affine)
    warp = fnirt.readFnirt(
        str(tmp_path / "ddf.nii.gz"), source, fslimage.Image(str(tmp_path / "image.nii.gz")), defType="relative"
    )
    theirs = torch.from_numpy(nonlinear.applyDeformation(source, warp, order=1))
    assert largest("fsl, fslpy", "image", (theirs - trace.warped[0])[inside_source(trace)]) < 5e-4


def test_fsl_coefficients_are_refused(tmp_path):
    image = nibabel.Nifti1Image(np.zeros((4, 4, 4, 3), dtype=np.float32), np.eye(4))
    image.header["intent_code"] = 2009
    nibabel.save(image, tmp_path / "coefficients.nii.gz")
    with pytest.raises(ValueError, match=r"holds spline coefficients .* fnirtfileutils"):
        read_fsl_warp(tmp_path / "coefficients.nii.gz", AFFINES["plain"], (4, 4, 4))
    sheared = AFFINES["plain"].clone()
    sheared[0, 1] = 0.3
    with pytest.raises(ValueError, match="expected axes at right angles"):
        write_fsl_warp(tmp_path / "w.nii.gz", torch.zeros(3, 4, 4, 4), AFFINES["plain"], sheared, (4, 4, 4))


RIGID = affine_of((1, 1, 1), (4.0, -7.0, 11.0), (5.0, -3.0, 2.0))


@pytest.mark.parametrize("ending", ["h5", "tfm"])
@pytest.mark.parametrize("name", ["oblique", "flipped"])
def test_composite_leads_between_the_scans_as_they_were_given(tmp_path, name, ending):
    trace = make_trace("3d", name, True)
    target_transform = torch.linalg.inv(RIGID) @ affine_of((1, 1, 1), (0, 0, 5.0))
    for moves, ours, shape, affine, start, end in (
        ("source", trace.origin, trace.image.shape[1:], trace.affine, target_transform, RIGID),
        ("image", trace.locate, trace.source.shape[1:], trace.source_affine, RIGID, target_transform),
    ):
        path = tmp_path / f"{moves}.{ending}"
        write_composite(path, trace, moves, source_transform=RIGID, target_transform=target_transform)
        transform = sitk.ReadTransform(str(path))
        assert transform.GetName() == "CompositeTransform"
        inner = points_within(shape, affine)
        points = inner @ start[:3, :3].T + start[:3, 3]
        expected = ours(inner) @ end[:3, :3].T + end[:3, 3]
        assert largest(f"composite .{ending}", "points, mm", mapped(transform, points) - expected) < 1e-4
    # Without motions it is the field alone.
    write_composite(tmp_path / f"plain.{ending}", trace)
    transform = sitk.ReadTransform(str(tmp_path / f"plain.{ending}"))
    assert largest(f"composite .{ending}", "image", resampled(trace, transform, tmp_path)) < 1e-4


def test_motions_are_read_in_their_own_direction(tmp_path):
    euler = sitk.Euler3DTransform((3.0, 4.0, 5.0), 0.1, -0.2, 0.3, (1.0, 2.0, 3.0))
    sitk.WriteTransform(euler, str(tmp_path / "rigid.tfm"))
    matrix = read_motion(tmp_path / "rigid.tfm")
    points = torch.randn(5, 3, dtype=torch.float64) * 40
    torch.testing.assert_close(mapped(euler, points), points @ matrix[:3, :3].T + matrix[:3, 3])
    sitk.WriteTransform(sitk.TranslationTransform(2), str(tmp_path / "flat.tfm"))
    with pytest.raises(ValueError, match=r"flat.tfm: expected a linear 3-D transform, received .* in 2-D"):
        read_motion(tmp_path / "flat.tfm")
    with pytest.raises(ValueError, match="target_transform: expected shape"):
        write_composite(tmp_path / "x.h5", make_trace("2d", "plain"), target_transform=torch.eye(3))


def test_a_displacement_by_hand_in_every_format(tmp_path):
    """One voxel along the first axis, which runs to the left in 2 mm steps: what each file must hold."""
    affine = affine_of((2, 3, 4), flip=(-1, 1, 1))
    ddf = torch.zeros(3, 4, 4, 4)
    ddf[0] = 1.0
    image = smooth(1, 4, 4, 4)
    trace = Trace.build(image, image, ddf, inverse_ddf=-ddf, affine=affine)
    write_slicer_nrrd(tmp_path / "a.nrrd", ddf, affine)
    np.testing.assert_allclose(nrrd.read(str(tmp_path / "a.nrrd"))[0][:, 1, 1, 1], [2, 0, 0])  # left is positive
    header, data = (tmp_path / "a.nrrd").read_bytes().split(b"\n\n", 1)
    assert header.startswith(b"NRRD0005")
    assert len(gzip.decompress(data)) == 3 * 64 * 8
    write_learn2reg(tmp_path / "a.nii.gz", trace)
    np.testing.assert_allclose(nibabel.load(tmp_path / "a.nii.gz").dataobj[1, 1, 1], [1, 0, 0])  # voxels
    write_fsl_warp(tmp_path / "b.nii.gz", ddf, affine, affine, (4, 4, 4))
    np.testing.assert_allclose(nibabel.load(tmp_path / "b.nii.gz").dataobj[1, 1, 1], [2, 0, 0])  # negative determinant
    right = affine_of((2, 3, 4))
    write_fsl_warp(tmp_path / "c.nii.gz", ddf, right, right, (4, 4, 4))
    np.testing.assert_allclose(nibabel.load(tmp_path / "c.nii.gz").dataobj[1, 1, 1], [-2, 0, 0])  # positive: reversed
