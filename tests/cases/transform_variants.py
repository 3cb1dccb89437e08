"""More transforms of other programs: the same kinds as in `transforms`, in other clothes.

    python -m tests.cases.transform_variants OUT [--only CASE]

As there; `fields` may hold ANTs' `[FILE,1]`. `by_content` says whether the content alone reports the format.
"""

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from PIL import Image

from tests.cases.common import case, grid_points, main
from tests.cases.transforms import (
    LPS,
    SHAPE,
    SOURCE,
    TARGET,
    affine_map,
    blob,
    lps_affine,
    move,
    right,
    smooth_displacement,
    write_itk_affine,
    write_natural_images,
    write_vector_nifti,
    write_volumes,
)

REFUSED = ("refuse",)


def exchanged(expected):
    """The same files, for the image that was the source as the target."""
    return expected | {"source": expected["target"], "target": expected["source"]}


def write_inverse(folder):
    """An affine and an inverse warp; returns points of the source (moving) and of the target (fixed)."""
    write_volumes(folder)
    write_itk_affine(affine_map(), folder / "out_0GenericAffine.mat")
    back = -smooth_displacement(grid_points(SHAPE, TARGET))
    write_vector_nifti(back @ LPS, TARGET, folder / "out_1InverseWarp.nii.gz")
    index = np.array([[10, 9, 4], [15, 14, 6], [20, 12, 5], [12, 20, 7], [18, 18, 4]])
    points = index @ SOURCE[:3, :3].T + SOURCE[:3, 3]
    middle = move(np.linalg.inv(affine_map()), points)
    return points, middle - smooth_displacement(middle)


@case
def ants_inverse_two_files(folder):
    """The way back: [out_0GenericAffine.mat,1] out_1InverseWarp.nii.gz, as antsApplyTransforms takes them.
    Reports: none; the usual output of ANTs and ANTsPy
    Before: `medtrace import` takes one file only
    Right: q -> affine^-1(q) -> + inverse warp, with the moving image as the target
    """
    points = write_inverse(folder)
    files = ["[out_0GenericAffine.mat,1]", "out_1InverseWarp.nii.gz"]
    return exchanged(right(files, "ants", *points, tolerance=0.15))


@case
def ants_inverse_lone_warp(folder):
    """Only out_1InverseWarp.nii.gz is given, with the affine beside it.
    Reports: none; the usual output of ANTs and ANTsPy
    Before: accepted in silence, without the affine
    Right: composed with the affine's inverse and said so, or refused with the word GenericAffine
    """
    points = write_inverse(folder)
    return exchanged(right(["out_1InverseWarp.nii.gz"], "ants", *points, tolerance=0.15)) | {
        "accept": ["read", "refuse"],
        "message": ["GenericAffine"],
        "said": ["GenericAffine"],
    }


@case
def ants_inverse_of_wrong_way(folder):
    """The inverse warp with the affine as it stands, not inverted.
    Reports: none
    Before: `medtrace import` takes one file only
    Right: refused, with ANTs' own list of the way back
    """
    points = write_inverse(folder)
    files = ["out_0GenericAffine.mat", "out_1InverseWarp.nii.gz"]
    return exchanged(right(files, "ants", *points, accept=REFUSED, message=["[out_0GenericAffine.mat,1]"]))


@case
def ants_files_exchanged(folder):
    """Affine before warp, which is another transform than antsRegistration found.
    Reports: none
    Before: `medtrace import` takes one file only
    Right: refused, with ANTs' order
    """
    points = write_volumes(folder)
    write_itk_affine(affine_map(), folder / "out_0GenericAffine.mat")
    write_vector_nifti(smooth_displacement(grid_points(SHAPE, TARGET)) @ LPS, TARGET, folder / "out_1Warp.nii.gz")
    files = ["out_0GenericAffine.mat", "out_1Warp.nii.gz"]
    return right(files, "ants", points, points, accept=REFUSED, message=["out_1Warp.nii.gz out_0GenericAffine.mat"])


@case
def ants_three_stages(folder):
    """`--collapse-output-transforms 0`: out_0DerivedInitialMovingTranslation.mat, out_1Affine.mat and a lone out_2Warp.nii.gz.
    Reports: none
    Before: accepted in silence, without the linear stages
    Right: translation(affine(p + warp(p))) and said so, or refused with the names
    """
    points = write_volumes(folder)
    shift = np.eye(4)
    shift[:3, 3] = [-1.0, 2.0, 0.5]
    write_itk_affine(shift, folder / "out_0DerivedInitialMovingTranslation.mat")
    write_itk_affine(affine_map(), folder / "out_1Affine.mat")
    write_vector_nifti(smooth_displacement(grid_points(SHAPE, TARGET)) @ LPS, TARGET, folder / "out_2Warp.nii.gz")
    source = move(shift @ affine_map(), points + smooth_displacement(points))
    return right(["out_2Warp.nii.gz"], "ants", points, source, said=["DerivedInitialMovingTranslation", "Affine"])


@case
def ants_without_numbers(folder):
    """An early ANTs: outWarp.nii.gz beside outAffine.txt, the warp alone given.
    Reports: none
    Before: accepted in silence, without the affine
    Right: affine(p + warp(p)) and said so, or refused with the word Affine
    """
    points = write_volumes(folder)
    write_itk_affine(affine_map(), folder / "outAffine.txt")
    write_vector_nifti(smooth_displacement(grid_points(SHAPE, TARGET)) @ LPS, TARGET, folder / "outWarp.nii.gz")
    source = move(affine_map(), points + smooth_displacement(points))
    return right(["outWarp.nii.gz"], "ants", points, source, said=["Affine.txt"])


@case
def ants_images_exchanged(folder):
    """Both files in ANTs' order, but with the fixed image as the source.
    Reports: none
    Before: the lone warp was accepted in silence
    Right: refused: the warp is on the grid of the other image
    """
    points = write_volumes(folder)
    write_itk_affine(affine_map(), folder / "out_0GenericAffine.mat")
    write_vector_nifti(smooth_displacement(grid_points(SHAPE, TARGET)) @ LPS, TARGET, folder / "out_1Warp.nii.gz")
    files = ["out_1Warp.nii.gz", "out_0GenericAffine.mat"]
    return exchanged(right(files, "ants", points, points, accept=REFUSED, message=["exchange"]))


@case
def displacements_in_micrometers(folder):
    """A warp whose vectors count micrometers: displacements of 4000 "mm".
    Reports: none
    Before: accepted, with a warning that the command line hides
    Right: refused: no voxel of the target comes from the source
    """
    points = write_volumes(folder)
    field = 1000 * smooth_displacement(grid_points(SHAPE, TARGET)) @ LPS
    write_vector_nifti(field, TARGET, folder / "warp.nii.gz")
    return right(["warp.nii.gz"], "ants", points, points, accept=REFUSED, message=["units"])


@case
def displacements_read_as_coordinates(folder):
    """A warp of ANTs given with --format spm.
    Reports: none
    Before: --format spm is unknown
    Right: refused: these are displacements
    """
    points = write_volumes(folder)
    write_vector_nifti(smooth_displacement(grid_points(SHAPE, TARGET)) @ LPS, TARGET, folder / "warp.nii.gz")
    return right(["warp.nii.gz"], "spm", points, points, accept=REFUSED, message=["displacements"], by_content=False)


@case
def itk_composite_of_four(folder):
    """A composite .tfm: rigid, a field on its own coarse grid, an affine, and a translation, in ITK's order.
    Reports: none
    Before: read rightly
    Right: `points`, by SimpleITK
    """
    points = write_volumes(folder)
    coarse = sitk.GetImageFromArray(np.zeros((14, 20, 20, 3)), isVector=True)
    coarse.SetSpacing((6.0, 6.0, 6.0))
    coarse.SetOrigin((-60.0, -40.0, -30.0))
    index = np.stack(np.meshgrid(*map(np.arange, coarse.GetSize()), indexing="ij"), -1)
    field = smooth_displacement((index * 6.0 + coarse.GetOrigin()) @ LPS) @ LPS
    image = sitk.GetImageFromArray(np.ascontiguousarray(field.transpose(2, 1, 0, 3)), isVector=True)
    image.CopyInformation(coarse)
    affine = sitk.AffineTransform(3)
    lps = lps_affine(affine_map())
    affine.SetMatrix(lps[:3, :3].ravel().tolist())
    affine.SetTranslation(lps[:3, 3].tolist())
    parts = [
        sitk.Euler3DTransform((3.0, 4.0, 5.0), 0.02, -0.03, 0.05, (1.0, 0.5, -1.0)),
        sitk.DisplacementFieldTransform(image),
        affine,
        sitk.TranslationTransform(3, (0.5, -1.0, 2.0)),
    ]
    composite = sitk.CompositeTransform(parts)
    sitk.WriteTransform(composite, str(folder / "all.tfm"))
    source = np.array([composite.TransformPoint(point) for point in (points @ LPS).tolist()]) @ LPS
    return right(["all.tfm"], "itk", points, source)


@case
def itk_bspline(folder):
    """A B-spline transform of SimpleITK as HDF5.
    Reports: none
    Before: read rightly
    Right: `points`, by SimpleITK
    """
    points = write_volumes(folder)
    transform = spline(folder)
    sitk.WriteTransform(transform, str(folder / "spline.h5"))
    source = np.array([transform.TransformPoint(point) for point in (points @ LPS).tolist()]) @ LPS
    return right(["spline.h5"], "itk", points, source)


def spline(folder):
    """A cubic B-spline over the target with coefficients of up to 3 mm."""
    fixed = sitk.ReadImage(str(folder / "target.nii.gz"))
    transform = sitk.BSplineTransformInitializer(fixed, [3, 3, 3], order=3)
    count = len(transform.GetParameters())
    transform.SetParameters((3 * np.sin(np.arange(count) * 0.7)).tolist())
    return transform


def write_slices(folder, ending="nii.gz"):
    """Two axial slices, turned in the plane, anisotropic, one flipped, at other heights; points of the target."""
    affines = {}
    for name, spacing, angle, flip, height in (
        ("source", (0.9, 1.3), 10, -1, 12.0),
        ("target", (1.1, 0.8), -15, 1, 7.0),
    ):
        c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        affine = np.eye(4)
        affine[:2, :2] = np.array([[c, -s], [s, c]]) * [flip * spacing[0], spacing[1]]
        affine[2, 2] = 5.0
        affine[:3, 3] = [20.0 if flip < 0 else -22.0, -25.0, height]
        points = grid_points((48, 50, 1), affine)
        nib.save(nib.Nifti1Image(blob(points, points.mean((0, 1, 2)) + 1), affine), folder / f"{name}.{ending}")
        affines[name] = affine
    index = np.array([[14, 15, 0], [24, 20, 0], [30, 28, 0], [18, 31, 0]])
    return index @ affines["target"][:3, :3].T + affines["target"][:3, 3], affines


def flat_points(transform, points, height):
    """A 2D transform on points in RAS mm, which end in the plane of the source."""
    moved = np.array([transform.TransformPoint((-x, -y)) for x, y, _ in points])
    return np.concatenate([-moved, np.full((len(moved), 1), height)], 1)


@case
def itk_2d_on_slices(folder):
    """A 2D affine as .h5 for two axial slices of other spacing, flip and height.
    Reports: ANTsX/ANTs#1023
    Before: refused: "expected a 3-D transform, received one in 2-D"
    Right: `points`: x and y by the transform, the height that of the source's slice
    """
    points, affines = write_slices(folder)
    transform = sitk.AffineTransform([1.04, 0.1, -0.08, 0.97], [2.0, -1.5], [3.0, 4.0])
    sitk.WriteTransform(transform, str(folder / "affine.h5"))
    return right(["affine.h5"], "itk", points, flat_points(transform, points, affines["source"][2, 3]))


@case
def ants_2d_two_files(folder):
    """ANTs in 2D: out_1Warp.nii.gz (X, Y, 1, 1, 2) on the target's slice and out_0GenericAffine.mat, only the warp given.
    Reports: ANTsX/ANTs#1023
    Before: refused: "expected a displacement field (H, W, D, 1, 3)"
    Right: `points`, and the affine said
    """
    points, affines = write_slices(folder)
    affine = sitk.AffineTransform([1.04, 0.1, -0.08, 0.97], [2.0, -1.5], [3.0, 4.0])
    sitk.WriteTransform(affine, str(folder / "out_0GenericAffine.mat"))
    where = grid_points((48, 50, 1), affines["target"])[:, :, 0] @ LPS
    weight = np.exp(-((where[..., :2] - [3.0, 5.0]) ** 2).sum(-1) / 300)
    field = np.stack([2.5 * weight, -2 * weight], -1)
    nifti = nib.Nifti1Image(field[:, :, None, None].astype(np.float32), affines["target"])
    nifti.header.set_intent("vector")
    nib.save(nifti, folder / "out_1Warp.nii.gz")
    lps = points @ LPS
    weight = np.exp(-((lps[:, :2] - [3.0, 5.0]) ** 2).sum(-1) / 300)
    between = np.concatenate([lps[:, :2] + np.stack([2.5 * weight, -2 * weight], -1), lps[:, 2:]], 1) @ LPS
    source = flat_points(affine, between, affines["source"][2, 3])
    return right(["out_1Warp.nii.gz"], "ants", points, source, said=["GenericAffine"])


@case
def itk_2d_natural_image_with_resolution(folder):
    """TIFF natural images of 254 dpi, whose pixels are 0.1 mm for ITK, and a 2D transform in those mm.
    Reports: none
    Before: refused: "expected a 3-D transform, received one in 2-D"
    Right: `points` in medtrace's pixels: 10 T(p / 10)
    """
    points = write_natural_images(folder)
    for name in ("source", "target"):
        Image.open(folder / f"{name}.png").save(folder / f"{name}.tif", dpi=(254, 254))
    transform = sitk.Euler2DTransform((2.4, 2.2), 0.1, (0.3, -0.2))
    sitk.WriteTransform(transform, str(folder / "euler.tfm"))
    return right(["euler.tfm"], "itk", points, flat_points(transform, points / 10, 0.0) * 10, "tif")


@case
def itk_2d_given_volumes(folder):
    """A 2D transform for two volumes.
    Reports: ANTsX/ANTs#1023
    Before: refused
    Right: refused: a 2D transform wants natural images or single slices
    """
    points = write_volumes(folder)
    sitk.WriteTransform(sitk.Euler2DTransform((2.4, 2.2), 0.1, (0.3, -0.2)), str(folder / "euler.tfm"))
    return right(["euler.tfm"], "itk", points, points, accept=REFUSED, message=["2D"])


@case
def spm_iy(folder):
    """SPM's iy_: on the grid of the source, coordinates in the target; so the images change places.
    Reports: none
    Before: read as a displacement
    Right: `points`
    """
    write_volumes(folder)
    index = np.array([[10, 9, 4], [15, 14, 6], [20, 12, 5], [12, 20, 7]])
    points = index @ SOURCE[:3, :3].T + SOURCE[:3, 3]
    back = np.linalg.inv(affine_map())
    write_vector_nifti(move(back, grid_points(SHAPE, SOURCE)), SOURCE, folder / "iy_source.nii")
    return exchanged(right(["iy_source.nii"], "spm", points, move(back, points), also_formats=["ants"]))


@case
def spm_on_another_grid(folder):
    """SPM's y_ on a coarser grid that turns its first axis over and reaches further than the target.
    Reports: none
    Before: read as a displacement
    Right: `points`: linear between the field's voxels
    """
    points = write_volumes(folder)
    grid = np.diag([-5.0, 5.0, 5.0, 1.0])
    grid[:3, 3] = [80.0, -90.0, -60.0]
    where = grid_points((30, 30, 26), grid)
    write_vector_nifti(move(affine_map(), where + smooth_displacement(where)), grid, folder / "y_mapping.nii")
    source = move(affine_map(), points + smooth_displacement(points))
    return right(["y_mapping.nii"], "spm", points, source, tolerance=0.15, also_formats=["itk"])


@case
def spm_with_holes(folder):
    """SPM's iy_-like file whose coordinates are NaN where nothing is known.
    Reports: none
    Before: refused
    Right: refused with the number of voxels
    """
    points = write_volumes(folder)
    field = move(affine_map(), grid_points(SHAPE, TARGET))
    field[:3] = np.nan
    write_vector_nifti(field, TARGET, folder / "y_source.nii")
    return right(["y_source.nii"], "spm", points, points, accept=REFUSED, message=["1008 voxel"])


@case
def a_natural_image_as_a_transform(folder):
    """A natural image where a transform is expected.
    Reports: none
    Before: refused by ITK's reader
    Right: refused in one line
    """
    points = write_natural_images(folder)
    return right(["source.png"], "itk", points, points, "png", accept=REFUSED, message=["natural image"])


if __name__ == "__main__":
    main(__doc__)
