"""Transforms of other programs against those programs, or libraries that read the same files."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from medtrace.data.reading import read_image
from medtrace.geometry import Grid
from medtrace.io.foreign import Images, read_point_map
from medtrace.io.foreign.ants import Member, completed
from medtrace.io.foreign.content import Kind, kind_of
from medtrace.io.foreign.plausibility import check_plausible
from medtrace.io.foreign.vectors import measured_kind
from medtrace.io.transforms import read_transform
from tests.cases import common, transform_programs, transform_variants, transforms
from tests.cases.common import grid_points
from tests.cases.transforms import LPS, SHAPE, SOURCE, TARGET, affine_map, move, smooth_displacement
from tests.passport_cases import points_within


def images_of(folder):
    source, target = (read_image(next(folder.glob(f"{name}.*"))) for name in ("source", "target"))
    return Images(*(Grid((*image.shape[1:], 1)[:3], image.affine) for image in (source, target)))


def made(tmp_path, module, name):
    """The files of a case, its images, and points of the target."""
    expected = common.write(common.CASES[module.__name__][name], tmp_path / name)
    points = torch.tensor([pair[0] for pair in expected["points"]]).double()
    return tmp_path / name / expected["fields"][0], images_of(tmp_path / name), points


@pytest.mark.parametrize(
    ("module", "name", "format", "theirs"),
    [
        (transforms, "freesurfer_lta", "lta", "fs"),
        (transform_programs, "lta_of_voxels", "lta", "fs"),
        (transforms, "flirt_matrix", "flirt", "fsl"),
        (transform_programs, "flirt_of_mixed_handedness", "flirt", "fsl"),
        (transform_programs, "afni_upright", "afni", "afni"),
        (transforms, "ants_affine_alone", "ants", "itk"),
    ],
)
def test_nitransforms_reads_linear_files_alike(tmp_path, module, name, format, theirs):
    linear = pytest.importorskip("nitransforms.linear")
    path, images, points = made(tmp_path, module, name)
    scans = {"moving": str(path.parent / "source.nii.gz"), "reference": str(path.parent / "target.nii.gz")}
    read = linear.load(str(path), fmt=theirs, **scans)
    matrix = np.squeeze(read.matrix)
    ours = read_point_map(path, images, format).origin(points)
    assert np.abs(move(matrix, points.numpy()) - ours.numpy()).max() < 1e-4


def test_fslpy_reads_flirt_alike(tmp_path):
    affine = pytest.importorskip("fsl.transform.flirt")
    image = pytest.importorskip("fsl.data.image")
    path, images, points = made(tmp_path, transform_programs, "flirt_of_mixed_handedness")
    source, target = (image.Image(str(path.parent / f"{name}.nii.gz")) for name in ("source", "target"))
    matrix = np.linalg.inv(affine.fromFlirt(affine.readFlirt(str(path)), source, target, "world", "world"))
    ours = read_point_map(path, images, "fsl").origin(points)
    assert np.abs(move(matrix, points.numpy()) - ours.numpy()).max() < 1e-4


@pytest.mark.parametrize("dims", [2, 3])
def test_a_registration_of_ants_is_read_as_ants_reads_it(tmp_path, dims):
    """Its own files, both ways, also where the warp alone is named."""
    ants = pytest.importorskip("ants", reason="needs the extra 'ants'")
    pandas = pytest.importorskip("pandas")
    if dims == 3:
        transforms.write_volumes(tmp_path)
    else:
        _, affines = transform_variants.write_slices(tmp_path)
        for name, affine in affines.items():
            volume = nib.load(tmp_path / f"{name}.nii.gz")
            nib.save(nib.Nifti1Image(np.asarray(volume.dataobj)[..., 0], affine), tmp_path / f"{name}.nii.gz")
    fixed, moving = (ants.image_read(str(tmp_path / f"{name}.nii.gz")) for name in ("target", "source"))
    settings = {"reg_iterations": (10, 5), "aff_iterations": (50, 20), "aff_shrink_factors": (2, 1)}
    settings |= {"aff_smoothing_sigmas": (1, 0), "syn_metric": "meansquares", "random_seed": 1}
    result = ants.registration(fixed, moving, "SyN", outprefix=str(tmp_path / "out_"), **settings)
    images = images_of(tmp_path)
    backward = Images(images.target, images.source)
    ways = (
        (images, result["fwdtransforms"], [False, False], "out_1Warp.nii.gz"),
        (backward, result["invtransforms"], [True, False], ""),
    )
    for pair, files, inverted, lone in ways:
        points = points_within(pair.target.shape, pair.target.affine, margin=4.0)
        columns = ["x", "y", "z"][:dims]
        table = pandas.DataFrame((points.numpy() @ LPS)[:, :dims], columns=columns)
        theirs = ants.apply_transforms_to_points(dims, table, files, whichtoinvert=inverted)[columns].to_numpy()
        listed = [f"[{file},1]" if turned else file for file, turned in zip(files, inverted)]
        for given in (listed, *([tmp_path / lone] if lone else [tmp_path / "out_1InverseWarp.nii.gz"])):
            point_map = read_point_map(given, pair)
            moved = point_map.origin(points).numpy() @ LPS
            assert np.abs(theirs - (points.numpy() @ LPS)[:, :dims]).max() > 0.5
            assert np.abs(moved[:, :dims] - theirs).max() < 1e-3
            check_plausible(tmp_path / "out_1Warp.nii.gz", point_map, point_map.displacement())


def test_displacement_and_points_are_one_map(tmp_path):
    """On another grid too, and for a 2D transform with the height of the slice."""
    for name in ("itk_composite_of_four", "itk_2d_on_slices", "itk_2d_natural_image_with_resolution"):
        path, images, _ = made(tmp_path, transform_variants, name)
        if name.endswith("resolution"):
            images = Images(images.source, images.target, (0.1, 0.1), (0.1, 0.1))
        point_map = read_point_map(path, images)
        shape = (5, 6, 1) if point_map.dimensions == 2 else (5, 6, 4)
        grid = Grid(shape, images.target.affine @ torch.diag(torch.tensor([3.0, 2.0, 1.0, 1.0])).double())
        ddf = point_map.displacement(grid)
        voxels = torch.from_numpy(np.indices(grid.shape).reshape(3, -1).T.astype(float))
        moved = grid.to_mm(voxels + ddf.reshape(3, -1).T)
        torch.testing.assert_close(moved, point_map.origin(grid.to_mm(voxels)), atol=1e-9, rtol=0)


@pytest.mark.parametrize("scale", [1e-5, 1.0, 1e3])
def test_coordinates_are_told_from_displacements_at_any_size(scale):
    """Also for grids whose axes are turned over, and maps that turn by a right angle."""
    size = np.diag([scale, scale, scale, 1.0])
    for affine in (TARGET, TARGET @ np.diag([-1.0, 1, 1, 1]), np.eye(4)):
        grid = Grid(SHAPE, torch.from_numpy(size @ affine))
        points = grid_points(SHAPE, affine)
        quarter = np.array([[0.0, -1, 0, 3], [1, 0, 0, -4], [0, 0, 1, 5], [0, 0, 0, 1]])
        for matrix in (affine_map(), quarter):
            where = move(matrix, points + smooth_displacement(points))
            coordinates = np.moveaxis(scale * where, -1, 0)
            assert measured_kind(coordinates, grid) == "absolute"
            shift = np.moveaxis(scale * (where - points) @ LPS, -1, 0)
            assert measured_kind(shift, grid) == "displacement"


def test_prefixes_that_end_in_a_digit_are_kept_apart(tmp_path):
    """ANTs writes subject1 + 1Warp, and of another registration subject2 + 0GenericAffine, side by side."""
    for name in ("subject11Warp.nii.gz", "subject10GenericAffine.mat", "subject20GenericAffine.mat", "s3Warp.nii.gz"):
        (tmp_path / name).touch()
    members, notes = completed([Member(tmp_path / "subject11Warp.nii.gz")])
    assert [member.path.name for member in members] == ["subject11Warp.nii.gz", "subject10GenericAffine.mat"]
    assert "points go 1Warp.nii.gz then 0GenericAffine.mat" in notes[0].text
    members, notes = completed([Member(tmp_path / "s3Warp.nii.gz")])
    assert (len(members), "only the warp is read" in notes[0].text) == (1, True)
    (tmp_path / "s3Affine.txt").touch()
    members, _ = completed([Member(tmp_path / "s3Warp.nii.gz")])
    assert [member.path.name for member in members] == ["s3Warp.nii.gz", "s3Affine.txt"]
    (tmp_path / "subject10GenericAffine.txt").touch()
    with pytest.raises(ValueError, match="two files beside it may be the linear part"):
        completed([Member(tmp_path / "subject11Warp.nii.gz")])


def test_voxels_of_ten_nanometers_are_read(tmp_path):
    """Nothing is compared with a fixed length."""
    size, vectors = np.diag([1e-5, 1e-5, 1e-5, 1.0]), smooth_displacement(grid_points(SHAPE, TARGET)) @ LPS
    transforms.write_vector_nifti(1e-5 * vectors, size @ TARGET, tmp_path / "warp.nii.gz")
    images = Images(*(Grid(SHAPE, torch.from_numpy(size @ affine)) for affine in (SOURCE, TARGET)))
    point_map = read_point_map(tmp_path / "warp.nii.gz", images)
    ddf = point_map.displacement()
    points = grid_points(SHAPE, TARGET)
    moved = np.linalg.solve(TARGET[:3, :3], smooth_displacement(points).reshape(-1, 3).T).reshape(3, *SHAPE)
    assert np.abs(ddf.numpy() - moved).max() < 1e-3
    assert check_plausible(tmp_path / "warp.nii.gz", point_map, ddf) == []


def test_fields_that_other_programs_mark_are_not_read_as_itks(tmp_path):
    path, images, points = made(tmp_path, transforms, "spm_y")
    image = nib.load(path)
    image.header.set_intent("vector", name="Mapping")
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header), tmp_path / "y_marked.nii")
    with pytest.raises(ValueError, match=r"y_marked.nii: is a field of SPM, not of ITK"):
        read_transform(tmp_path / "y_marked.nii")
    marked = read_point_map(tmp_path / "y_marked.nii", images)
    torch.testing.assert_close(marked.origin(points), read_point_map(path, images).origin(points))


def test_a_kind_is_told_whatever_the_name(tmp_path):
    for module, name, kind in (
        (transforms, "elastix_parameters", Kind.ELASTIX),
        (transforms, "freesurfer_lta", Kind.LTA),
        (transforms, "flirt_matrix", Kind.MATRIX),
        (transforms, "ants_affine_alone", Kind.ITK),
        (transforms, "itk_2d_euler", Kind.ITK),
        (transforms, "spm_y", Kind.NIFTI),
        (transform_variants, "itk_bspline", Kind.ITK),
        (transform_programs, "afni_upright", Kind.AFNI),
    ):
        path, _, _ = made(tmp_path, module, name)
        assert kind_of(path.rename(tmp_path / "file")) is kind
    (tmp_path / "file").write_text("nothing of this")
    with pytest.raises(ValueError, match="file: is not a transform that can be read"):
        kind_of(tmp_path / "file")
    path, images, _ = made(tmp_path, transforms, "flirt_matrix")
    with pytest.raises(ValueError, match=r"flirt.mat: is a matrix of 4 x 4 numbers as text, not a file of ants"):
        read_point_map(path, images, "ants")


def test_what_does_not_fit_is_refused(tmp_path):
    path, images, _ = made(tmp_path, transform_variants, "itk_composite_of_four")
    with pytest.raises(ValueError, match="only linear transforms are inverted"):
        read_point_map(f"[{path},1]", images)
    transform_programs.write_elastix_chain(path.parent)
    chain = sorted(path.parent.glob("TransformParameters.*"))
    with pytest.raises(ValueError, match=r"expected one file of elastix.*names those before it"):
        read_point_map(chain, images)
    sitk.WriteTransform(sitk.Euler2DTransform(), str(tmp_path / "flat.tfm"))
    with pytest.raises(ValueError, match="expected transforms of one dimension"):
        read_point_map([path, tmp_path / "flat.tfm"], images)
    with pytest.raises(FileNotFoundError, match=r"absent.tfm: no such file"):
        read_point_map(tmp_path / "absent.tfm", images)
    with pytest.raises(ValueError, match="files: expected one transform file or more"):
        read_point_map([], images)


def test_nothing_of_the_target_in_the_source_is_refused(tmp_path):
    path, images, _ = made(tmp_path, transforms, "ants_affine_alone")
    moved = torch.from_numpy(TARGET).clone()
    moved[0, 3] += 300
    elsewhere = Images(images.source, Grid(SHAPE, moved))
    point_map = read_point_map(path, elsewhere)
    with pytest.raises(ValueError, match="puts no voxel of the target into the source"):
        check_plausible(path, point_map, point_map.displacement())
    half = torch.from_numpy(SOURCE).clone()
    half[:3, 3] += torch.from_numpy(SOURCE[:3, :3] @ [28.0, 26.0, 10.5])
    sitk.WriteTransform(sitk.TranslationTransform(3, (0.0, 0.0, 0.0)), str(tmp_path / "none.tfm"))
    point_map = read_point_map(tmp_path / "none.tfm", Images(images.source, Grid(SHAPE, half)))
    notes = check_plausible(tmp_path / "none.tfm", point_map, point_map.displacement())
    assert ["of the target's voxels come from within the source" in note.text for note in notes] == [True]
