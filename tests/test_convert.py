"""`medtrace convert`: every format as the program that it is for reads it, or by its published definition."""

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from medtrace.geometry import Grid
from medtrace.io import save_trace, write_image
from medtrace.io.chain_export import CONVERT_FORMATS, Ends, write_chain
from medtrace.io.foreign import Images, read_point_map
from medtrace.io.foreign.chains import chain_of_point_map
from medtrace.io.nifti import LPS
from medtrace.trace import AffinePart, FieldPart, TransformChain
from medtrace.workflows.convert import convert
from tests.passport_cases import AFFINES, affine_of, make_trace, points_within, smooth

SHAPE = (16, 18, 14)
LINEAR = {"flirt": "flirt.mat", "lta": "affine.lta", "matrix": "affine.txt", "afni": "affine.aff12.1D"}
DENSE = {
    "fsl": "warp.nii.gz",
    "spm": "y_source.nii",
    "niftyreg": "deformation.nii.gz",
    "learn2reg": "disp.nii.gz",
    "nrrd": "ddf.nrrd",
    "nitransforms": "ddf.x5",
}
EXACT = {"itk": "transform.h5", "tfm": "transform.tfm", "ants": "1Warp.nii.gz", "elastix": "TransformParameters.1.txt"}
grids = pytest.mark.parametrize("name", ["oblique", "flipped", "permuted"])


def ends_of(name):
    target = Grid(SHAPE, AFFINES[name])
    turn, scale = affine_of((1, 1, 1), (2.0, -3.0, 1.0)), torch.diag(torch.tensor([1.1, 0.9, 1.05, 1.0]).double())
    source = Grid((17, 16, 18), turn @ target.affine @ scale)
    return Ends(source, target)


def linear_about(grid, angles=(3.0, -2.0, 4.0), shift=(0.7, -0.4, 0.9)):
    """An affine that turns about a grid's middle."""
    middle = torch.eye(4, dtype=torch.float64)
    middle[:3, 3] = grid.to_mm([[(size - 1) / 2 for size in grid.shape]])[0]
    return middle @ affine_of((1.03, 0.98, 1.0), angles, shift) @ torch.linalg.inv(middle)


def deforming(ends):
    return TransformChain(
        (FieldPart(smooth(3, *SHAPE) * 1.2, ends.target.affine, "zero"), AffinePart(linear_about(ends.target)))
    )


def read_back(file, ends, format):
    return chain_of_point_map(
        read_point_map(file, Images(ends.source, ends.target), "itk" if format == "tfm" else format)
    )


def apart(chain, other, points):
    return float((chain.origin(points) - other.origin(points)).norm(dim=1).max())


@grids
@pytest.mark.parametrize("format", LINEAR)
def test_linear_transforms_come_back_exactly(tmp_path, format, name):
    ends = ends_of("anisotropic" if format == "afni" else name)
    if format == "afni":
        ends = Ends(Grid((17, 16, 18), ends.target.affine), ends.target)
    chain = TransformChain((AffinePart(linear_about(ends.target)),))
    write_chain(chain, ends, tmp_path / "out", format)
    points = points_within(SHAPE, ends.target.affine)
    assert apart(read_back(tmp_path / "out" / LINEAR[format], ends, format), chain, points) < 1e-5
    back = read_back(tmp_path / "out" / f"inverse_{LINEAR[format]}", ends.swapped, format)
    assert apart(back, chain.inverse(), points) < 1e-5
    with pytest.raises(ValueError, match=f"format: {format} holds linear transforms only"):
        write_chain(deforming(ends), ends, tmp_path / "none", format)


@grids
@pytest.mark.parametrize("format", [*DENSE, *EXACT])
def test_deformations_come_back(tmp_path, format, name):
    if format == "nitransforms":
        pytest.importorskip("nitransforms")
    ends = ends_of(name)
    chain = deforming(ends)
    write_chain(chain, ends, tmp_path / "out", format)
    file = tmp_path / "out" / ({**DENSE, **EXACT}[format])
    own = read_back(file, ends, format)
    voxels = torch.stack(torch.meshgrid(*(torch.arange(2, n - 2) for n in SHAPE), indexing="ij")).reshape(3, -1).T
    assert apart(own, chain, ends.target.to_mm(voxels)) < (2e-5 if format in ("itk", "tfm") else 2e-4)
    if format in EXACT:  # between voxels, too
        assert apart(own, chain, points_within(SHAPE, ends.target.affine)) < (
            1e-5 if format in ("itk", "tfm") else 1e-4
        )


@grids
def test_itk_goes_both_ways_by_simpleitk(tmp_path, name):
    ends = ends_of(name)
    chain = deforming(ends)
    write_chain(chain, ends, tmp_path / "out", "itk")
    points = points_within(SHAPE, ends.target.affine, margin=5)
    there, back = (sitk.ReadTransform(str(tmp_path / "out" / f"{prefix}transform.h5")) for prefix in ("", "inverse_"))
    moved = np.array([there.TransformPoint(point) for point in (points.numpy() @ LPS).tolist()])
    assert np.abs(moved @ LPS - chain.origin(points).numpy()).max() < 1e-5
    again = np.array([back.TransformPoint(point) for point in moved.tolist()]) @ LPS
    assert np.median(np.linalg.norm(again - points.numpy(), axis=1)) < 0.05 * max(ends.target.spacing)


@grids
def test_antspy_takes_the_two_files(tmp_path, name):
    ants = pytest.importorskip("ants", reason="needs the extra 'ants'")
    pandas = pytest.importorskip("pandas")
    ends = ends_of(name)
    chain = deforming(ends)
    out = tmp_path / "out"
    files = write_chain(chain, ends, out, "ants")
    assert [file.name for file in files] == ["0GenericAffine.mat", "1InverseWarp.nii.gz", "1Warp.nii.gz"]
    points = points_within(SHAPE, ends.target.affine, margin=4)
    table = pandas.DataFrame(points.numpy() @ LPS, columns=["x", "y", "z"])
    moved = ants.apply_transforms_to_points(3, table, [str(out / "1Warp.nii.gz"), str(out / "0GenericAffine.mat")])
    result = moved[["x", "y", "z"]].to_numpy() @ LPS
    assert np.abs(result - chain.origin(points).numpy()).max() < 2e-4
    image = smooth(1, *ends.source.shape, seed=4)
    write_image(tmp_path / "source.nii.gz", image, ends.source.affine)
    write_image(tmp_path / "target.nii.gz", smooth(1, *SHAPE), ends.target.affine)
    fixed, moving = (ants.image_read(str(tmp_path / f"{k}.nii.gz")) for k in ("target", "source"))
    listed = [str(out / "1Warp.nii.gz"), str(out / "0GenericAffine.mat")]
    theirs = ants.apply_transforms(fixed, moving, listed, defaultvalue=-9).numpy()
    ours = chain.resample(image, ends.source, ends.target, fill=-9.0)[0].numpy()
    inside = (theirs != -9) & (ours != -9)
    assert inside.mean() > 0.3
    assert np.abs(theirs - ours)[inside].max() < 1e-4


@pytest.mark.parametrize("name", ["anisotropic", "flipped"])
def test_antspy_takes_2d_traces(tmp_path, name):
    ants = pytest.importorskip("ants", reason="needs the extra 'ants'")
    pandas = pytest.importorskip("pandas")
    affine = affine_of((0.7, 1.9, 5.0)) if name == "anisotropic" else affine_of((1.2, 0.8, 2.0), flip=(-1, 1, 1))
    trace = make_trace("2d", "plain")
    chain = TransformChain((FieldPart(trace.ddf, affine, known_inverse=FieldPart(trace.inverse_ddf, affine)),))
    grid = Grid(trace.ddf.shape[1:], affine)
    write_chain(chain, Ends(grid, grid), tmp_path / "out", "ants")
    points = points_within(grid.shape, affine, margin=4)
    table = pandas.DataFrame(points.numpy()[:, :2] @ LPS[:2, :2], columns=["x", "y"])
    moved = ants.apply_transforms_to_points(2, table, [str(tmp_path / "out" / "1Warp.nii.gz")])
    result = moved[["x", "y"]].to_numpy() @ LPS[:2, :2]
    assert np.abs(result - chain.origin(points).numpy()[:, :2]).max() < 1e-4


@grids
def test_lta_and_flirt_as_others_read_them(tmp_path, name):
    ends = ends_of(name)
    matrix = linear_about(ends.target)
    chain = TransformChain((AffinePart(matrix),))
    write_chain(chain, ends, tmp_path / "lta", "lta")
    lta = pytest.importorskip("nitransforms.io.lta")
    read = lta.FSLinearTransform.from_filename(tmp_path / "lta" / "affine.lta")
    assert np.allclose(read.to_ras(), matrix.numpy(), atol=1e-5)  # from target to source, as they count
    flirt = pytest.importorskip("fsl.transform.flirt")
    fslimage = pytest.importorskip("fsl.data.image")
    write_chain(chain, ends, tmp_path / "flirt", "flirt")
    images = [
        fslimage.Image(np.zeros(grid.shape, np.float32), xform=grid.affine.numpy())
        for grid in (ends.source, ends.target)
    ]
    theirs = flirt.fromFlirt(np.loadtxt(tmp_path / "flirt" / "flirt.mat"), *images, "world", "world")
    assert np.allclose(theirs, torch.linalg.inv(matrix).numpy(), atol=1e-6)


@grids
def test_spm_and_voxels_by_definition(tmp_path, name):
    ends = ends_of(name)
    chain = deforming(ends)
    write_chain(chain, ends, tmp_path / "spm", "spm")
    y = nibabel.load(tmp_path / "spm" / "y_source.nii")
    voxel = np.array([[5, 6, 7], [9, 4, 8]])
    expected = chain.origin(ends.target.to_mm(torch.from_numpy(voxel))).numpy()
    assert np.allclose(np.asarray(y.dataobj)[tuple(voxel.T)][:, 0], expected, atol=1e-4)
    write_chain(chain, ends, tmp_path / "l2r", "learn2reg")
    disp = np.asarray(nibabel.load(tmp_path / "l2r" / "disp.nii.gz").dataobj)
    moving = torch.from_numpy(voxel + disp[tuple(voxel.T)].astype(float))
    assert np.allclose(ends.source.to_mm(moving).numpy(), expected, atol=1e-4)
    same = Ends(ends.target, ends.target)
    write_chain(chain, same, tmp_path / "vxm", "voxelmorph")
    assert (
        apart(read_back(tmp_path / "vxm" / "disp.nii.gz", same, "voxelmorph"), chain, ends.target.to_mm(voxel)) < 1e-4
    )
    with pytest.raises(ValueError, match="on the target's grid for VoxelMorph"):
        write_chain(chain, ends, tmp_path / "none", "voxelmorph")
    assert not (tmp_path / "none").exists()


def test_from_program_to_program(tmp_path):
    trace = make_trace("3d", "flipped", elsewhere=True)
    save_trace(trace, tmp_path / "trace", precise=True)
    points = points_within(trace.image.shape[1:], trace.affine, margin=4)
    files = convert([tmp_path / "trace"], "ants", tmp_path / "ants")
    assert len(files) == 3
    images = {"source": tmp_path / "trace" / "source.nii.gz", "target": tmp_path / "trace" / "image.nii.gz"}
    said = []
    convert([tmp_path / "ants" / "1Warp.nii.gz"], "elastix", tmp_path / "elastix", say=said.append, **images)
    last = sorted(path for path in (tmp_path / "elastix").iterdir() if path.suffix == ".txt")[-1]
    convert([last], "itk", tmp_path / "itk", **images)
    itk = sitk.ReadTransform(str(tmp_path / "itk" / "transform.h5"))
    moved = np.array([itk.TransformPoint(point) for point in (points.numpy() @ LPS).tolist()]) @ LPS
    assert np.abs(moved - trace.origin(points).numpy()).max() < 1e-4
    assert any("0GenericAffine.mat" in line for line in said)
    with pytest.raises(ValueError, match="source: expected the moving image"):
        convert([tmp_path / "itk" / "transform.h5"], "spm", tmp_path / "none")
    assert set(CONVERT_FORMATS) == {*LINEAR, *DENSE, *EXACT, "voxelmorph"}
