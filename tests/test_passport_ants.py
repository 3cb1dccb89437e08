"""ANTs applies our files to an image and to points, and agrees with the trace."""

import subprocess
import sys

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from medtrace.io import (
    export_trace,
    load_trace,
    read_nifti_image,
    read_transform,
    save_trace,
    write_composite,
    write_image,
    write_transform,
)
from medtrace.io.composite import linear_transform
from medtrace.trace import Trace
from tests.passport_cases import (
    MIRROR,
    affine_of,
    apply,
    bidirectional,
    cases,
    inside_source,
    largest,
    make_trace,
    points_within,
)

MOTION = affine_of((1, 1, 1), (4.0, -7.0, 11.0), (5.0, -3.0, 2.0))


@pytest.fixture(scope="module")
def ants():
    return pytest.importorskip("ants", reason="needs the extra 'ants'")


def moved_by_ants(ants, points, files, inverted=None):
    """ANTs on points (N, 3) in RAS mm; it takes a table in LPS mm."""
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(apply(MIRROR, points).numpy(), columns=["x", "y", "z"])
    moved = ants.apply_transforms_to_points(3, table, files, whichtoinvert=inverted or [False] * len(files))
    return apply(MIRROR, torch.tensor(moved[["x", "y", "z"]].to_numpy()).double())


@cases
def test_ants_agrees_on_image_and_points(tmp_path, ants, kind, name, elsewhere):
    trace = make_trace(kind, name, elsewhere)
    save_trace(trace, tmp_path / "trace", precise=True, transforms=["h5"])
    folder = tmp_path / "trace"
    moving, fixed = (ants.image_read(str(folder / f"{k}.nii.gz")) for k in ("source", "image"))
    warped = ants.apply_transforms(fixed, moving, [str(folder / "ddf.nii.gz")], interpolator="linear", defaultvalue=9)
    theirs = torch.from_numpy(warped.numpy().copy()).reshape(trace.warped.shape[1:])
    inside = inside_source(trace)
    assert inside.float().mean() > 0.4
    assert largest("ants", "image", (theirs - trace.warped[0])[inside]) < 1e-4
    back = ants.apply_transforms(moving, fixed, [str(folder / "inverse_ddf.nii.gz")], interpolator="linear")
    assert back.shape == moving.shape
    for field, (_, affine, shape, ours) in bidirectional(trace).items():
        points = points_within(shape, affine)
        expected = ours(points)
        assert (expected - points).abs().max() > 0.3
        for ending in ("nii.gz", "h5"):
            theirs = moved_by_ants(ants, points, [str(folder / f"{field}.{ending}")])
            assert largest(f"ants, .{ending}", "points, mm", theirs - expected) < 1e-3
    assert torch.equal(load_trace(folder).image, trace.image)


def test_ants_takes_the_composite_and_separate_parts(tmp_path, ants):
    """One file, or the field and the motion by themselves: ANTs moves a point by the first of its list first."""
    trace = make_trace("3d", "flipped", True)
    write_composite(tmp_path / "all.h5", trace, source_transform=MOTION)
    points = points_within(trace.image.shape[1:], trace.affine)
    expected = apply(MOTION, trace.origin(points))
    assert (
        largest("ants, composite .h5", "points, mm", moved_by_ants(ants, points, [str(tmp_path / "all.h5")]) - expected)
        < 1e-3
    )
    write_transform(tmp_path / "ddf.nii.gz", trace.ddf, trace.affine)
    sitk.WriteTransform(linear_transform(MOTION.numpy()), str(tmp_path / "motion.mat"))
    files = [str(tmp_path / "ddf.nii.gz"), str(tmp_path / "motion.mat")]
    moving_affine = MOTION @ trace.source_affine
    write_image(tmp_path / "source.nii.gz", trace.source, moving_affine)
    write_image(tmp_path / "image.nii.gz", trace.image, trace.affine)
    moving, fixed = (ants.image_read(str(tmp_path / f"{k}.nii.gz")) for k in ("source", "image"))
    assert largest("ants, field and .mat", "points, mm", moved_by_ants(ants, points, files) - expected) < 1e-3
    for chosen in ([str(tmp_path / "all.h5")], files):
        theirs = torch.from_numpy(ants.apply_transforms(fixed, moving, chosen, interpolator="linear").numpy().copy())
        assert largest("ants, composite", "image", (theirs - trace.warped[0])[inside_source(trace)]) < 1e-3


def test_a_warp_that_ants_wrote_is_read(tmp_path, ants):
    """A registration of ANTs itself: its files, read by us, resample as ANTs does."""
    trace = make_trace("3d", "oblique")
    write_image(tmp_path / "fixed.nii.gz", trace.warped, trace.affine)
    write_image(tmp_path / "moving.nii.gz", trace.source, trace.source_affine)
    fixed, moving = (ants.image_read(str(tmp_path / f"{k}.nii.gz")) for k in ("fixed", "moving"))
    result = ants.registration(fixed, moving, "SyNOnly", reg_iterations=(10, 0, 0), outprefix=str(tmp_path / "syn"))
    warp = next(path for path in result["fwdtransforms"] if path.endswith(".nii.gz"))
    read = read_transform(warp)
    torch.testing.assert_close(read.affine, trace.affine, atol=1e-4, rtol=0)
    ours = Trace.build(trace.source, trace.source, read.ddf, affine=read.affine, source_affine=trace.source_affine)
    theirs = ants.apply_transforms(fixed, moving, [warp], interpolator="linear")
    difference = (torch.from_numpy(theirs.numpy().copy()) - ours.warped[0])[inside_source(ours)]
    assert read.ddf.abs().max() > 0.2
    assert largest("ants, its own warp read by us", "image", difference) < 1e-3
    image, _ = read_nifti_image(tmp_path / "fixed.nii.gz")
    assert image.shape == trace.warped.shape


FLAT = """
import sys, ants, numpy
for folder in sys.argv[1:]:
    for images, suffix in (("flat", "_2d" if folder.endswith("off") else ""), ("volumes", "")):
        moving, fixed = (ants.image_read(f"{folder}/{images}/{name}.nii.gz") for name in ("source", "image"))
        for field, (reference, resampled) in {"ddf": (fixed, moving), "inverse_ddf": (moving, fixed)}.items():
            files = [f"{folder}/out/{field}{suffix}.nii.gz"]
            result = ants.apply_transforms(reference, resampled, files, interpolator="linear")
            numpy.save(f"{folder}/{images}/{field}.npy", result.numpy())
"""


def test_ants_takes_a_2d_trace_as_2d(tmp_path, ants):  # noqa: ARG001
    """In its own process, which ANTs ends with an abort where image and field differ in dimension."""
    traces = {"level": make_trace("2d", "plain"), "off": make_trace("2d", "anisotropic", True)}
    for name, trace in traces.items():
        folder = tmp_path / name
        (folder / "flat").mkdir(parents=True)
        save_trace(trace, folder / "volumes")
        assert len(export_trace(trace, folder / "out", "ants")) == (2 if name == "level" else 4)
        for member, affine in (("source", trace.source_affine), ("image", trace.affine)):
            image = nibabel.Nifti1Image(getattr(trace, member)[0].numpy(), affine.numpy())
            nibabel.save(image, folder / "flat" / f"{member}.nii.gz")
        for field, (ddf, affine, _, _) in bidirectional(trace).items():
            suffix = "" if name == "level" else "_2d"
            read = read_transform(folder / "out" / f"{field}{suffix}.nii.gz", spatial_dims=2)
            torch.testing.assert_close(read.ddf, ddf, atol=1e-5, rtol=0)
            torch.testing.assert_close(read.affine, affine, atol=1e-4, rtol=0)
    command = [sys.executable, "-c", FLAT, *(tmp_path / name for name in traces)]
    assert subprocess.run(command, check=False).returncode == 0
    for name, trace in traces.items():
        for images in ("flat", "volumes"):
            theirs = torch.from_numpy(np.load(tmp_path / name / images / "ddf.npy")).reshape(trace.warped[0].shape)
            difference = (theirs - trace.warped[0])[inside_source(trace)]
            assert largest(f"ants, 2D trace, {images}", "image", difference) < 1e-4
            assert np.load(tmp_path / name / images / "inverse_ddf.npy").shape[:2] == tuple(trace.source.shape[1:])
