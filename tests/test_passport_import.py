"""Fields of other programs become traces."""

import pytest
import SimpleITK as sitk
import torch

from medtrace.io import export_trace, load_trace, save_trace, write_composite, write_slicer_nrrd
from medtrace.workflows.import_field import import_field
from tests.passport_cases import affine_of, make_trace, mapped, points_within
from tests.test_passport_export import run

FILES = {
    "itk": "ddf.h5",
    "ants": "ddf.nii.gz",
    "nrrd": "ddf.nrrd",
    "nitransforms": "ddf.x5",
    "learn2reg": "disp.nii.gz",
    "fsl": "ddf.nii.gz",
}


@pytest.mark.parametrize("case", [("3d", "flipped", True), ("3d", "oblique", False), ("single", "oblique", True)])
@pytest.mark.parametrize("format", FILES)
def test_what_is_exported_comes_back(tmp_path, format, case):
    if format == "nitransforms":
        pytest.importorskip("nitransforms")
    trace = make_trace(*case)
    save_trace(trace, tmp_path / "trace")
    export_trace(trace, tmp_path / "out", format)
    scans = [tmp_path / "trace" / f"{name}.nii.gz" for name in ("source", "image")]
    result = import_field(tmp_path / "out" / FILES[format], format, *scans, tmp_path / "back")
    torch.testing.assert_close(result.ddf, trace.ddf, atol=1e-4, rtol=0)
    torch.testing.assert_close(result.warped, trace.warped, atol=1e-4, rtol=0)
    assert torch.equal(load_trace(tmp_path / "back").source, trace.source)


def test_composites_and_other_grids(tmp_path):
    """A composite with a rigid part, and a field that is on its own grid, are read at the target's voxels."""
    trace = make_trace("3d", "oblique", True)
    save_trace(trace, tmp_path / "trace")
    scans = [tmp_path / "trace" / f"{name}.nii.gz" for name in ("source", "image")]
    motion = affine_of((1, 1, 1), (2.0, -1, 3), (0.5, 1, -0.7))
    write_composite(tmp_path / "all.tfm", trace, source_transform=motion)
    result = import_field(tmp_path / "all.tfm", "itk", *scans, tmp_path / "composite")
    points = points_within(trace.image.shape[1:], trace.affine).round()
    voxels = torch.linalg.solve(trace.affine[:3, :3], (points - trace.affine[:3, 3]).T).T.round()
    points = voxels @ trace.affine[:3, :3].T + trace.affine[:3, 3]
    torch.testing.assert_close(
        result.origin(points), mapped(sitk.ReadTransform(str(tmp_path / "all.tfm")), points), atol=1e-4, rtol=0
    )
    coarse = torch.full((3, 5, 5, 5), 0.25)  # one voxel of 8 mm, shifted by 2 mm along each axis
    own = affine_of((8, 8, 8), origin=(trace.affine @ torch.tensor([7.0, 8, 6, 1]).double())[:3].numpy() - 16)
    write_slicer_nrrd(tmp_path / "coarse.nrrd", coarse, own)
    result = import_field(tmp_path / "coarse.nrrd", "nrrd", *scans, tmp_path / "coarse")
    moved = result.origin(points) - points
    near = (points - own[:3, 3] - 16).abs().amax(dim=1) < 6
    assert near.sum() > 5
    torch.testing.assert_close(moved[near], torch.full_like(moved[near], 2.0), atol=1e-4, rtol=0)


def test_command_and_refusals(tmp_path, capsys):
    trace = make_trace("3d", "flipped")
    save_trace(trace, tmp_path / "trace")
    export_trace(trace, tmp_path / "out", "nrrd")
    scans = ["--source", tmp_path / "trace" / "source.nii.gz", "--target", tmp_path / "trace" / "image.nii.gz"]
    field = tmp_path / "out" / "ddf.nrrd"
    code, out, _ = run(capsys, "import", field, "--format", "nrrd", *scans, "--out", tmp_path / "back")
    assert (code, "trace written to" in out) == (0, True)
    other = tmp_path / "out" / "inverse_ddf.nrrd"
    code, _, err = run(capsys, "import", other, "--format", "nrrd", *scans, "--out", tmp_path / "x")
    assert (code, "received modeling" in err) == (1, True)
    code, _, err = run(capsys, "import", field, "--format", "dipy", *scans, "--out", tmp_path / "x")
    assert (code, "format: expected one of 'itk'" in err) == (1, True)
    small = make_trace("2d", "plain")
    export_trace(small, tmp_path / "small", "learn2reg")
    code, _, err = run(
        capsys, "import", tmp_path / "small" / "disp.nii.gz", "--format", "learn2reg", *scans, "--out", tmp_path / "x"
    )
    assert (code, "expected a field on the grid (14, 16, 12)" in err) == (1, True)
    assert not (tmp_path / "x").exists()
