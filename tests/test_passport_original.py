"""Traces of prepared images, brought to the scans as they were given."""

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.data import MetaTensor

from medtrace.data import load_dataset
from medtrace.geometry.resampling import Reorientation, center_window, shifted_affine
from medtrace.io import read_motion, read_nifti_image, to_original, write_composite
from medtrace.trace import Trace
from medtrace.transforms import RigidAlignment
from medtrace.workflows.prepare import prepare
from tests.passport_cases import affine_of, apply, flow, inside_source, itk_image, largest, points_within, smooth
from tests.test_prepare import moved_scan, rotation, tissue

ORIGINAL = affine_of((1.2, 0.9, 1.6), (12, -8, 25), (40.0, -30, 10), flip=(-1, 1, 1), order=(1, 0, 2))
MOTION = affine_of((1, 1, 1), (4.0, -7.0, 11.0), (5.0, -3.0, 2.0))
SHAPE = (26, 24, 20)


def ramp(shape, affine, motion=None):
    """An image whose value is linear in space, so that no interpolation blurs it: 0.1 x + 0.2 y - 0.3 z."""
    axes = torch.meshgrid(*[torch.arange(size, dtype=torch.float64) for size in (*shape, 1)[:3]], indexing="ij")
    points = apply(affine, torch.stack(axes, dim=-1).reshape(-1, 3))
    points = points if motion is None else apply(motion, points)
    return (points @ torch.tensor([0.1, 0.2, -0.3], dtype=torch.float64)).reshape(1, *shape).float()


def cropped():
    """The original scan, and a crop of it whose axes run right, front, up: whole voxels, so nothing is interpolated."""
    scan = smooth(1, *SHAPE)
    plan = Reorientation.to_ras(ORIGINAL, SHAPE)
    turned, start = center_window(plan.apply(scan), (18, 16, 14))
    return scan, turned, shifted_affine(plan.affine(ORIGINAL), start)


def resample(scan, scan_affine, image, affine, path, folder):
    moving, grid = itk_image(folder / "moving.nii", scan, scan_affine), itk_image(folder / "grid.nii", image, affine)
    result = sitk.Resample(moving, grid, sitk.ReadTransform(str(path)), sitk.sitkLinear, 99.0)
    return torch.from_numpy(sitk.GetArrayFromImage(result).T.copy()).reshape(image.shape[1:])


@pytest.mark.parametrize("ending", ["h5", "tfm"])
def test_one_file_resamples_the_original_scan_into_warped(tmp_path, ending):
    """Cropped and reoriented, and its header moved by a rigid motion: SimpleITK reads the scan once."""
    scan, image, affine = cropped()
    # The method saw the image in another frame; MOTION leads from there to the scan's.
    moved = torch.linalg.inv(MOTION) @ affine
    trace = Trace.build(image, image.flip(1), flow(*image.shape[1:]), affine=moved, source_affine=moved)
    write_composite(tmp_path / f"all.{ending}", trace, source_transform=MOTION)
    theirs = resample(scan, ORIGINAL, trace.image, trace.affine, tmp_path / f"all.{ending}", tmp_path)
    assert largest("original scan, one file", "image", (theirs - trace.warped[0])[inside_source(trace)]) < 1e-4


def test_one_file_when_the_method_saw_a_resampled_and_aligned_copy(tmp_path):
    """The source was read on the target's grid by its alignment, as `RigidAlignment` does."""
    motion = MOTION  # from the fixed frame to the scan's
    fixed_affine, shape = affine_of((1.5, 1.5, 1.5), origin=(-18.0, -20, -12)), (16, 18, 14)
    center = apply(fixed_affine, torch.tensor([[7.5, 8.5, 6.5]], dtype=torch.float64))
    scan_affine = affine_of((1.2, 0.9, 1.6), (12, -8, 25))
    big = (60, 70, 50)
    scan_affine[:3, 3] = apply(motion, center)[0] - scan_affine[:3, :3] @ torch.tensor(big).double() / 2
    scan = ramp(big, scan_affine)
    aligned = RigidAlignment(fill=0.0)
    fixed = MetaTensor(smooth(1, *shape), affine=fixed_affine)
    estimate = aligned.estimate(MetaTensor(smooth(1, *big), affine=scan_affine), fixed)._replace(matrix=motion)
    seen = aligned.apply(MetaTensor(scan, affine=scan_affine), fixed, estimate).as_tensor()
    torch.testing.assert_close(seen, ramp(shape, fixed_affine, motion), atol=1e-3, rtol=0)
    trace = Trace.build(seen, seen, flow(*shape), affine=fixed_affine)
    write_composite(tmp_path / "all.h5", trace, source_transform=motion)
    theirs = resample(scan, scan_affine, trace.image, trace.affine, tmp_path / "all.h5", tmp_path)
    assert (
        largest("original scan, aligned copy", "image (ramp)", (theirs - trace.warped[0])[inside_source(trace)]) < 1e-3
    )
    original = to_original(trace, scan, scan_affine, source_transform=motion)
    assert (
        largest("to_original, aligned copy", "image (ramp)", (original.warped - trace.warped)[0][inside_source(trace)])
        < 1e-3
    )


def test_points_in_the_scans_own_mm(tmp_path):
    """Both sides cropped and moved: points go as by hand, and ITK agrees with the new trace's files."""
    scan, image, affine = cropped()
    source_transform, target_transform = MOTION, torch.linalg.inv(MOTION) @ affine_of((1, 1, 1), (0, 9, 0), (1.0, 2, 3))
    own = torch.linalg.inv(source_transform) @ affine
    trace = Trace.build(image, image.flip(1), flow(*image.shape[1:]), affine=own, source_affine=own)
    target_affine = target_transform @ torch.linalg.inv(source_transform) @ ORIGINAL
    original = to_original(
        trace,
        scan,
        ORIGINAL,
        source_transform=source_transform,
        target_shape=SHAPE,
        target_affine=target_affine,
        target_transform=target_transform,
    )
    assert original.source is not None
    assert torch.equal(original.source, scan)
    assert original.image.shape == (1, *SHAPE)
    voxels = points_within(image.shape[1:], torch.eye(4, dtype=torch.float64)).round()
    inner = apply(own, voxels)
    here, there = apply(source_transform, inner), apply(target_transform, inner)
    expected = apply(target_transform, trace.locate(inner))
    assert largest("to_original", "locate at voxels, mm", original.locate(here) - expected) < 1e-4
    expected = apply(source_transform, trace.origin(inner))
    assert largest("to_original", "origin at voxels, mm", original.origin(there) - expected) < 1e-4
    write_composite(tmp_path / "all.h5", trace, source_transform=source_transform, target_transform=target_transform)
    theirs = resample(scan, ORIGINAL, original.image, original.affine, tmp_path / "all.h5", tmp_path)
    region = torch.zeros(SHAPE, dtype=torch.bool)
    grid = torch.cartesian_prod(*[torch.arange(size).double() for size in SHAPE])
    region.view(-1)[:] = trace.in_target(apply(torch.linalg.inv(target_transform) @ target_affine, grid))
    region &= inside_source(original)
    assert region.sum() > 1000
    assert largest("to_original", "image, against the composite", (theirs - original.warped[0])[region]) < 1e-4
    # The crop kept whole voxels, so the image has the trace's values there; elsewhere it is the source, moved.
    there = apply(torch.linalg.inv(original.affine) @ target_transform @ own, voxels).round().long()
    here = voxels.long()
    theirs = original.image[0][tuple(there.T)]
    torch.testing.assert_close(theirs, trace.image[0][tuple(here.T)], atol=1e-4, rtol=0)
    outside = ~trace.in_target(apply(torch.linalg.inv(target_transform) @ target_affine, grid)).reshape(SHAPE)
    assert outside.sum() > 1000
    assert torch.equal(original.image[0][outside], original.warped[0][outside])


def test_without_a_target_grid_the_image_is_not_interpolated():
    scan, image, affine = cropped()
    mask = image > 0
    trace = Trace.build(image, image.flip(1), flow(*image.shape[1:]), affine=affine, mask=mask)
    original = to_original(trace, scan, ORIGINAL, target_transform=MOTION, to_units=lambda values: 100 * values + 7)
    assert torch.equal(original.image, 100 * trace.image + 7)
    assert torch.equal(original.mask, trace.mask)
    torch.testing.assert_close(original.affine, MOTION @ trace.affine)
    inside = inside_source(trace)  # beyond the crop the scan itself is seen, and not the crop's border
    assert (original.warped - trace.warped)[0][inside].abs().max() < 1e-4


def test_a_slice_goes_back_to_its_volume():
    scan, image, affine = cropped()
    slice_affine = shifted_affine(affine, (0, 0, 5))
    trace = Trace.build(image[..., 5], image[..., 5].flip(1), flow(*image.shape[1:3]), affine=slice_affine)
    original = to_original(trace, scan, ORIGINAL)
    assert original.image.shape == (1, *image.shape[1:3], 1)
    assert (original.warped[..., 0] - trace.warped)[0][inside_source(trace)].abs().max() < 1e-4
    on_slice = points_within(trace.source.shape[1:], slice_affine)
    torch.testing.assert_close(original.origin(on_slice), trace.origin(on_slice), atol=1e-4, rtol=0)
    # In the volume only the slice moves.
    still = original.inverse_ddf.abs().amax(dim=0) < 1e-4
    slices = still.flatten(0, 1) if still.shape[2] == SHAPE[2] else still
    assert slices.all(dim=0).sum() == SHAPE[2] - 1


def test_what_does_not_fit_is_named():
    scan, image, affine = cropped()
    trace = Trace.build(image, image, flow(*image.shape[1:]), affine=affine)
    with pytest.raises(ValueError, match="target_shape: expected together with target_affine"):
        to_original(trace, scan, ORIGINAL, target_shape=SHAPE)
    with pytest.raises(ValueError, match="source_transform: expected an invertible affine"):
        to_original(trace, scan, ORIGINAL, source_transform=torch.zeros(4, 4))
    with pytest.raises(ValueError, match=r"source: expected \(channel, \*spatial\) with 3 spatial axes"):
        to_original(trace, scan[..., 0], ORIGINAL)
    with pytest.raises(ValueError, match="target_shape: expected 3 axes"):
        to_original(trace, scan, ORIGINAL, target_shape=(3, 4, 5, 6), target_affine=ORIGINAL)


@pytest.fixture(scope="module")
def dated_scans(tmp_path_factory):
    """A scan, a later one of the same head that moved, that motion, and both prepared: aligned, cropped, resampled."""
    folder = tmp_path_factory.mktemp("dated")
    shape, affine = (36, 42, 30), np.diag([-2.0, 2.0, 2.2, 1.0])
    affine[:3, 3] = 36, -42, -33
    motion = rotation((3.0, -2.0, 4.0), (3.0, -2.0, 1.5))
    for name, moved in (("before", np.eye(4)), ("after", motion)):
        nibabel.save(nibabel.Nifti1Image(moved_scan(shape, affine, moved, tissue), affine), folder / f"{name}.nii")
    (folder / "pairs.csv").write_text("subject,source,target\nS,before.nii,after.nii\n")
    common = {"fractions": (1.0, 0.0, 0.0), "progress": False}
    prepare(folder / "pairs.csv", folder / "3d", spatial_dims=3, spacing=(2.0, 2.0, 2.0), crop=(30, 36, 28), **common)
    prepare(folder / "pairs.csv", folder / "2d", spatial_dims=2, slices=3, crop=(30, 36, 28), **common)
    return folder, torch.from_numpy(motion)


def identity_trace(item):
    """The trace of a prepared pair by a method that finds nothing to move: the alignment has done it."""
    source, target = item["source"], item["target"]
    return Trace.build(source, target, torch.zeros(source.ndim - 1, *source.shape[1:]), affine=source.affine)


@pytest.mark.parametrize("dims", [2, 3])
def test_prepared_pairs_go_back_to_their_scans(tmp_path, dated_scans, dims):
    """By the affines and the rigid file that `prepare` wrote, a point and an image reach the later scan as it was."""
    folder, motion = dated_scans
    item = load_dataset(folder / f"{dims}d")[0]
    trace = identity_trace(item)
    found = read_motion(item["rigid_file"])
    points = points_within(trace.source.shape[1:], trace.source_affine)
    expected = apply(motion, points)
    assert (apply(found, points) - expected).norm(dim=1).max() < 0.5  # how well the alignment was found
    before, after = (read_nifti_image(folder / f"{name}.nii") for name in ("before", "after"))
    original = to_original(
        trace,
        before[0],
        before[1],
        target_shape=after[0].shape[1:],
        target_affine=after[1],
        target_transform=found,
    )
    if dims == 3:
        torch.testing.assert_close(original.locate(points), apply(found, points), atol=1e-3, rtol=0)
    write_composite(tmp_path / "all.h5", trace, target_transform=found)
    grid = sitk.ReadImage(str(folder / "after.nii"))
    transform = sitk.ReadTransform(str(tmp_path / "all.h5"))
    moved = sitk.Resample(sitk.ReadImage(str(folder / "before.nii")), grid, transform, sitk.sitkLinear)
    theirs, target = (torch.from_numpy(sitk.GetArrayFromImage(image).T.copy()) for image in (moved, grid))
    inside = (theirs > 50) & (target > 50)
    unmoved = (before[0][0] - target)[inside].abs().mean()
    assert (theirs - target)[inside].abs().mean() < 0.35 * unmoved
    if dims == 3:
        kept = original.covered[0]
        assert largest("to_original, prepared pair", "image of 0 to 670", (theirs - original.warped[0])[kept]) < 0.1
