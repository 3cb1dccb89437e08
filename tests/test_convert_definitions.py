"""What `medtrace convert` writes, read by the published definition of each format, or by another library."""

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from medtrace.geometry import Grid
from medtrace.io.chain_export import Ends, write_chain
from medtrace.io.nifti import LPS
from medtrace.trace import AffinePart, FieldPart, TransformChain
from medtrace.workflows.convert import convert
from medtrace.workflows.transform_arguments import read_transforms
from tests.passport_cases import AFFINES, affine_of, flow, other_grid, points_within, smooth

SHAPE = (16, 18, 14)
AXIAL = {
    "turned": affine_of((0.9, 1.3, 2.0), (0.0, 0.0, 25.0), (-30.0, 12, 7)),
    "flipped": affine_of((1.2, 0.8, 2.0), origin=(10.0, -20, 7), flip=(-1, 1, 1)),
}
IN_SPACE = {
    "2d, oblique": (SHAPE[:2], AFFINES["oblique"]),
    "2d, flipped": (SHAPE[:2], AFFINES["flipped"]),
    "3d, oblique": (SHAPE, AFFINES["oblique"]),
    "3d, flipped": (SHAPE, AFFINES["flipped"]),
}
in_space = pytest.mark.parametrize("case", IN_SPACE)
axial = pytest.mark.parametrize("name", AXIAL)


def apply(matrix, points):
    return points @ np.asarray(matrix)[:3, :3].T + np.asarray(matrix)[:3, 3]


def ends_of(case):
    """A target's grid, and a source in its plane, turned and of other voxels."""
    shape, affine = IN_SPACE[case]
    source_affine, source_shape = other_grid(affine, shape)
    return Ends(Grid(source_shape, source_affine), Grid(shape, affine))


def deforming(ends):
    """A smooth field, and after it an affine that stays in the plane of 2D images."""
    grid = ends.target
    inside = torch.eye(4, dtype=torch.float64)
    inside[:2, :2], inside[:2, 3] = torch.tensor([[1.02, -0.03], [0.05, 0.97]]), torch.tensor([0.4, -0.6])
    linear = AffinePart(grid.affine @ inside @ torch.linalg.inv(grid.affine))
    return TransformChain((FieldPart(flow(*grid.shape, amplitude=1.5), grid.affine, "zero"), linear))


def voxels_of(grid, margin=3):
    """Whole voxels (N, 3) of a grid, away from its border."""
    axes = [torch.arange(margin, n - margin, 2) for n in grid.shape]
    flat = torch.cartesian_prod(*axes).reshape(-1, len(axes))
    return np.pad(flat.numpy(), ((0, 0), (0, 3 - len(axes))))


def volume(grid):
    return (*grid.shape, 1)[:3]


def stored(path):
    """Vectors at their voxels (H, W, D, 3), as NIfTI has them."""
    values = np.asarray(nibabel.load(path).dataobj, dtype=np.float64)
    return values[:, :, :, 0] if values.ndim == 5 else values


def fsl_mm(affine, shape):
    """FSL's coordinates of voxels: times their size, the first axis reversed where the affine is right-handed."""
    scale = np.diag([*np.linalg.norm(affine[:3, :3], axis=0).tolist(), 1.0])
    if np.linalg.det(affine[:3, :3]) > 0:
        scale = scale @ np.array([[-1, 0, 0, shape[0] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    return scale


@in_space
@pytest.mark.parametrize("format", ["niftyreg", "spm", "learn2reg", "fsl", "nrrd", "nitransforms"])
def test_fields_mean_what_their_format_says(tmp_path, format, case):
    ends = ends_of(case)
    chain = deforming(ends)
    write_chain(chain, ends, tmp_path / "out", format)
    voxels = voxels_of(ends.target)
    target, source = (np.asarray(grid.affine) for grid in (ends.target, ends.source))
    world = apply(target, voxels)
    index = tuple(voxels.T)
    if format == "niftyreg":  # RAS mm of the floating image at each voxel of the reference: a deformation field
        image = nibabel.load(tmp_path / "out" / "deformation.nii.gz")
        assert image.header["intent_name"].item() == b"NREG_TRANS"
        assert float(image.header["intent_p1"]) == 0
        moved = stored(tmp_path / "out" / "deformation.nii.gz")[index]
    elif format == "spm":  # RAS mm, too
        moved = stored(tmp_path / "out" / "y_source.nii")[index]
    elif format == "learn2reg":  # voxels of the moving image, less one's own
        moved = apply(source, voxels + stored(tmp_path / "out" / "disp.nii.gz")[index])
    elif format == "fsl":  # mm of the input less mm of the reference, each in FSL's frame of its image
        own, other = fsl_mm(target, volume(ends.target)), fsl_mm(source, volume(ends.source))
        where = apply(own, voxels) + stored(tmp_path / "out" / "warp.nii.gz")[index]
        moved = apply(source @ np.linalg.inv(other), where)
    elif format == "nrrd":  # Slicer: LPS mm displacements; read by ITK, which knows nothing of Slicer
        image = sitk.ReadImage(str(tmp_path / "out" / "ddf.nrrd"), sitk.sitkVectorFloat64)
        transform = sitk.DisplacementFieldTransform(image)
        moved = np.array([transform.TransformPoint(point) for point in (world @ LPS).tolist()]) @ LPS
    else:  # RAS mm displacements
        h5py, _ = pytest.importorskip("h5py"), pytest.importorskip("nitransforms")
        with h5py.File(tmp_path / "out" / "ddf.x5") as file:
            node = file["TransformGroup"]["0"]
            assert np.allclose(np.asarray(node["Domain"]["Mapping"]), target)
            moved = world + np.asarray(node["Transform"])[index]
    assert np.abs(moved - chain.origin(torch.from_numpy(world)).numpy()).max() < 2e-4


@in_space
def test_voxelmorph_adds_to_voxels(tmp_path, case):
    ends = ends_of(case)
    same = Ends(ends.target, ends.target)
    chain = TransformChain((FieldPart(flow(*ends.target.shape, amplitude=1.5), ends.target.affine),))
    write_chain(chain, same, tmp_path / "out", "voxelmorph")
    voxels = voxels_of(ends.target)
    affine = np.asarray(ends.target.affine)
    moved = apply(affine, voxels + stored(tmp_path / "out" / "disp.nii.gz")[tuple(voxels.T)])
    expected = chain.origin(torch.from_numpy(apply(affine, voxels)))
    assert np.abs(moved - expected.numpy()).max() < 1e-4


@in_space
def test_plain_and_afni_matrices(tmp_path, case):
    ends = ends_of(case)
    matrix = deforming(ends).parts[1].matrix.numpy()
    chain = TransformChain((AffinePart(torch.from_numpy(matrix)),))
    write_chain(chain, ends, tmp_path / "matrix", "matrix")  # RAS mm of the reference to RAS mm of the floating image
    assert np.allclose(np.loadtxt(tmp_path / "matrix" / "affine.txt"), matrix, atol=1e-9)
    assert np.allclose(np.loadtxt(tmp_path / "matrix" / "inverse_affine.txt"), np.linalg.inv(matrix), atol=1e-9)
    if "oblique" in case:
        with pytest.raises(ValueError, match="deoblique"):
            write_chain(chain, ends, tmp_path / "afni", "afni")
    upright = Grid(ends.target.shape, torch.diag(torch.tensor([-1.2, 0.8, 2.0, 1.0])).double())
    write_chain(chain, Ends(upright, upright), tmp_path / "up", "afni")
    rows = np.loadtxt(tmp_path / "up" / "affine.aff12.1D").reshape(3, 4)  # DICOM order, base to input
    points = np.array([[3.0, -4, 5], [0, 0, 0], [1, 2, 3]])
    moved = (points @ LPS @ rows[:, :3].T + rows[:, 3]) @ LPS
    assert np.allclose(moved, apply(matrix, points), atol=1e-9)


def planar_pair(name):
    """2D images in an axial plane, on two grids."""
    affine = AXIAL[name]
    shift = torch.eye(4, dtype=torch.float64)
    shift[:2, 3] = torch.tensor([2.0, -1.0])
    ends = Ends(Grid((20, 17), affine @ shift), Grid(SHAPE[:2], affine))
    return ends, deforming(ends)


@axial
@pytest.mark.parametrize("ending", ["itk", "tfm", "ants"])
def test_2d_transforms_are_in_2d(tmp_path, name, ending):
    ends, chain = planar_pair(name)
    files = write_chain(chain, ends, tmp_path / "out", ending)
    points = points_within(ends.target.shape, ends.target.affine, margin=4)
    if ending == "ants":
        linear = sitk.ReadTransform(str(tmp_path / "out" / "0GenericAffine.mat"))
        field = np.asarray(nibabel.load(tmp_path / "out" / "1Warp.nii.gz").dataobj)
        assert linear.GetDimension() == 2
        assert field.shape[:3] == (*ends.target.shape, 1)
        return
    for file, one in zip((files[1], files[0]), (chain, chain.inverse())):
        transform = sitk.ReadTransform(str(file))
        assert transform.GetDimension() == 2
        start = points if one is chain else chain.origin(points)
        moved = np.array([transform.TransformPoint(p) for p in (start.numpy() @ LPS)[:, :2].tolist()]) @ LPS[:2, :2]
        error = np.abs(moved - one.origin(start).numpy()[:, :2]).max(axis=1)
        assert (error.max() if one is chain else np.median(error)) < (1e-6 if one is chain else 0.05)


@axial
def test_elastix_in_2d(tmp_path, name):
    """Points by the parameters' definition: through the field, then x -> A (x - c) + c + t."""
    ends, chain = planar_pair(name)
    write_chain(chain, ends, tmp_path / "out", "elastix")
    last = (tmp_path / "out" / "TransformParameters.1.txt").read_text()
    entries = dict(line.strip("()\n").split(" ", 1) for line in last.splitlines())
    assert entries["FixedImageDimension"] == "2"
    assert entries["InitialTransformParameterFileName"] == '"TransformParameters.0.txt"'
    numbers = np.array([float(word) for word in entries["TransformParameters"].split()])
    field = sitk.ReadImage(str(tmp_path / "out" / "DeformationField.0.mha"), sitk.sitkVectorFloat64)
    first = sitk.DisplacementFieldTransform(field)
    points = points_within(ends.target.shape, ends.target.affine, margin=4)
    flat = np.array([first.TransformPoint(p) for p in (points.numpy() @ LPS)[:, :2].tolist()])
    moved = (flat @ numbers[:4].reshape(2, 2).T + numbers[4:]) @ LPS[:2, :2]
    assert np.abs(moved - chain.origin(points).numpy()[:, :2]).max() < 1e-4
    volumes = [Grid((*grid.shape, 1), grid.affine) for grid in ends]
    again = read_transforms([tmp_path / "out" / "TransformParameters.1.txt"], *volumes, format="elastix")
    assert float((again.chain.origin(points) - chain.origin(points)).norm(dim=1).max()) < 1e-4


def test_a_warp_beside_is_the_known_inverse(tmp_path):
    grid = Grid(SHAPE, AFFINES["flipped"])
    ddf = flow(*SHAPE, amplitude=1.5)
    chain = TransformChain((FieldPart(ddf, grid.affine, "zero"),))
    write_chain(chain, Ends(grid, grid), tmp_path / "ants", "ants")
    read = read_transforms([tmp_path / "ants" / "1Warp.nii.gz"], grid, grid)
    assert any("1InverseWarp.nii.gz beside it is taken as its inverse" in note for note in read.notes)
    back = sitk.DisplacementFieldTransform(
        sitk.ReadImage(str(tmp_path / "ants" / "1InverseWarp.nii.gz"), sitk.sitkVectorFloat64)
    )
    points = points_within(SHAPE, grid.affine, margin=4)
    theirs = np.array([back.TransformPoint(p) for p in (points.numpy() @ LPS).tolist()]) @ LPS
    assert np.abs(read.chain.locate(points).numpy() - theirs).max() < 1e-4
    other = TransformChain((FieldPart(3 * smooth(3, *SHAPE, seed=7), grid.affine, "zero"),))
    write_chain(other, Ends(grid, grid), tmp_path / "other", "ants")
    (tmp_path / "other" / "1InverseWarp.nii.gz").rename(tmp_path / "ants" / "1InverseWarp.nii.gz")
    read = read_transforms([tmp_path / "ants" / "1Warp.nii.gz"], grid, grid)
    assert any("does not undo it" in note for note in read.notes)
    assert float((read.chain.origin(read.chain.locate(points)) - points).norm(dim=1).max()) < 1e-3


def test_2d_files_go_from_program_to_program(tmp_path):
    ends, chain = planar_pair("turned")
    write_chain(chain, ends, tmp_path / "itk", "itk")
    images = {}
    for name, grid in zip(("source", "target"), ends):
        images[name] = tmp_path / f"{name}.nii.gz"
        nibabel.Nifti1Image(np.zeros((*grid.shape, 1), np.float32), grid.affine.numpy()).to_filename(images[name])
    convert([tmp_path / "itk" / "transform.h5"], "spm", tmp_path / "spm", **images)
    values = stored(tmp_path / "spm" / "y_source.nii")
    voxels = voxels_of(ends.target)
    world = apply(ends.target.affine, voxels)
    expected = chain.origin(torch.from_numpy(world)).numpy()
    assert np.abs(values[tuple(voxels.T)] - expected).max() < 2e-4
