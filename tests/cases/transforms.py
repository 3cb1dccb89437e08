"""Transforms of other programs, with the points that they map.

    python -m tests.cases.transforms OUT [--only CASE]

Every case has source.* (moving) and target.* (fixed), the program's file(s), `fields`, in the order in which that program takes them,
and `points`: pairs [target RAS mm, source RAS mm]: what lies at the first in the target came from the second in the source
(`Trace.origin`). `tolerance` is in mm. The geometry is oblique in 3D and shifted in 2D, so that a forgotten axis shows.
"""

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from PIL import Image

from tests.cases.common import case, grid_points, main, oblique_affine

LPS = np.diag([-1.0, -1.0, 1.0])
SHAPE = (30, 28, 12)
TARGET = oblique_affine((2.0, 2.2, 4.0), (-20.0, -35.0, -10.0), (8, -6, 12))
SOURCE = oblique_affine((2.1, 2.0, 3.8), (-24.0, -33.0, -14.0), (3, 4, -5))
SIZE = 48  # of a natural image, whose affine is diag(-1, -1, 1, 1)


def blob(points, middle, width=14.0):
    return (50 + 900 * np.exp(-((points - middle) ** 2).sum(-1) / (2 * width**2))).astype(np.float32)


def write_volumes(folder):
    """source.nii.gz and target.nii.gz; returns RAS points well inside the target."""
    for name, affine in (("source", SOURCE), ("target", TARGET)):
        points = grid_points(SHAPE, affine)
        volume = blob(points, points.mean((0, 1, 2)) + 2) + 0.5 * blob(points, points.mean((0, 1, 2)) - 8, 6)
        nib.save(nib.Nifti1Image(volume, affine), folder / f"{name}.nii.gz")
    index = np.array([[10, 9, 4], [15, 14, 6], [20, 12, 5], [12, 20, 7], [18, 18, 4]])
    return index @ TARGET[:3, :3].T + TARGET[:3, 3]


def write_natural_images(folder):
    """source.png and target.png; returns RAS points well inside."""
    row, column = np.mgrid[:SIZE, :SIZE]
    for name, shift in (("source", 0), ("target", 3)):
        values = 20 + 200 * np.exp(-((row - 22) ** 2 + (column - 24 - shift) ** 2) / 120)
        Image.fromarray(np.round(values).astype(np.uint8)).save(folder / f"{name}.png")
    index = np.array([[14, 15], [24, 20], [30, 28], [18, 31]])
    return np.concatenate([-index, np.zeros((len(index), 1))], 1).astype(float)


def lps_affine(matrix_ras):
    """A 4 x 4 map of RAS points as one of LPS points."""
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    return flip @ matrix_ras @ flip


def affine_map():
    """A map of RAS points that turns, scales and shifts: target to source."""
    matrix = np.eye(4)
    matrix[:3, :3] = oblique_affine((1.03, 0.98, 1.0), (0, 0, 0), (2, -3, 5))[:3, :3]
    matrix[:3, 3] = [3.0, -2.0, 1.5]
    return matrix


def move(matrix, points):
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def smooth_displacement(points):
    """A smooth displacement in RAS mm, up to 4 mm, linear enough to be read exactly at voxels."""
    middle = np.array([5.0, -5.0, 10.0])
    weight = np.exp(-((points - middle) ** 2).sum(-1, keepdims=True) / (2 * 18.0**2))
    return weight * np.array([3.0, -2.0, 1.5])


def right(fields, format_, target_points, source_points, kind="nii.gz", tolerance=0.05, accept=("read",), **more):
    points = [[np.round(a, 5).tolist(), np.round(b, 5).tolist()] for a, b in zip(target_points, source_points)]
    return {
        "entry": "import",
        "fields": fields,
        "format": format_,
        "source": f"source.{kind}",
        "target": f"target.{kind}",
        "points": points,
        "tolerance": tolerance,
        "accept": list(accept),
        **more,
    }


def write_itk_affine(matrix_ras, path):
    """An ITK affine transform (points of the fixed image to the moving one, LPS)."""
    lps = lps_affine(matrix_ras)
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(lps[:3, :3].ravel().tolist())
    transform.SetTranslation(lps[:3, 3].tolist())
    sitk.WriteTransform(transform, str(path))


def write_vector_nifti(vectors, affine, path, unit="mm"):
    """A 5D vector NIfTI (X, Y, Z, 1, components), intent 1007."""
    image = nib.Nifti1Image(vectors[:, :, :, None].astype(np.float32), affine)
    image.header.set_intent("vector")
    image.header.set_xyzt_units(unit)
    nib.save(image, path)


@case
def ants_two_files(folder):
    """What antsRegistration and ANTsPy write: out_1Warp.nii.gz and out_0GenericAffine.mat, warp first.
    Reports: none; the usual output of ANTs and ANTsPy
    Before: `medtrace import` takes one file only
    Right: both files in one command: source point = affine(p + warp(p)), as `points` say
    """
    points = write_volumes(folder)
    write_itk_affine(affine_map(), folder / "out_0GenericAffine.mat")
    write_vector_nifti(smooth_displacement(grid_points(SHAPE, TARGET)) @ LPS, TARGET, folder / "out_1Warp.nii.gz")
    source = move(affine_map(), points + smooth_displacement(points))
    return right(["out_1Warp.nii.gz", "out_0GenericAffine.mat"], "ants", points, source)


@case
def ants_lone_warp(folder):
    """The same folder, but only out_1Warp.nii.gz is given, as an ANTs user is tempted to.
    Reports: none; the usual output of ANTs and ANTsPy
    Before: accepted in silence: the affine part is missing, points are several mm off (the distance is in `without_affine_mm`)
    Right: out_0GenericAffine.mat lies beside it: refused or composed; at the very least one line that says so
    """
    result = ants_two_files(folder)
    target, source = (np.array([pair[side] for pair in result["points"]]) for side in (0, 1))
    off = np.linalg.norm(target + smooth_displacement(target) - source, axis=1)
    return result | {
        "fields": ["out_1Warp.nii.gz"],
        "accept": ["read", "refuse"],
        "message": ["GenericAffine"],
        "without_affine_mm": [round(float(value), 3) for value in off],
    }


@case
def ants_affine_alone(folder):
    """out_0GenericAffine.mat alone, a control.
    Reports: none
    Before: read rightly
    Right: `points`
    """
    points = write_volumes(folder)
    write_itk_affine(affine_map(), folder / "out_0GenericAffine.mat")
    return right(["out_0GenericAffine.mat"], "ants", points, move(affine_map(), points))


@case
def itk_2d_euler(folder):
    """A 2D Euler transform that SimpleITK found for two natural images.
    Reports: ANTsX/ANTs#1023
    Before: refused: "expected a 3-D transform, received one in 2-D"
    Right: `points` (a natural image's affine is diag(-1, -1, 1, 1), so LPS and pixels agree)
    """
    points = write_natural_images(folder)
    transform = sitk.Euler2DTransform((24.0, 22.0), 0.1, (3.0, -2.0))
    sitk.WriteTransform(transform, str(folder / "euler.tfm"))
    moved = np.array([transform.TransformPoint((-x, -y)) for x, y, _ in points])
    return right(["euler.tfm"], "itk", points, np.concatenate([-moved, np.zeros((len(moved), 1))], 1), "png")


@case
def itk_2d_displacement(folder):
    """A 2D displacement field as ITK and ANTs write it: NIfTI (X, Y, 1, 1, 2), LPS mm.
    Reports: ANTsX/ANTs#1023
    Before: refused: "expected a displacement field (H, W, D, 1, 3)"
    Right: `points`
    """
    points = write_natural_images(folder)
    x, y = np.meshgrid(np.arange(SIZE), np.arange(SIZE), indexing="ij")
    weight = np.exp(-((x - 22.0) ** 2 + (y - 22.0) ** 2) / 200)
    field = np.stack([3 * weight, -2 * weight], -1)
    image = sitk.GetImageFromArray(np.ascontiguousarray(field.transpose(1, 0, 2)), isVector=True)
    sitk.WriteImage(image, str(folder / "warp2d.nii.gz"))
    index = np.round(-points[:, :2]).astype(int)
    moved = -points[:, :2] + field[index[:, 0], index[:, 1]]
    return right(["warp2d.nii.gz"], "itk", points, np.concatenate([-moved, np.zeros((len(moved), 1))], 1), "png")


@case
def spm_y(folder):
    """SPM's y_source.nii: NIfTI (X, Y, Z, 1, 3), intent vector, *absolute* RAS mm in the source for each voxel of the target.
    Reports: none; the format of a large field
    Before: read as a displacement (tens of voxels), with a warning that the command line hides
    Right: `points`, or refused as absolute coordinates
    """
    points = write_volumes(folder)
    grid = grid_points(SHAPE, TARGET)
    write_vector_nifti(move(affine_map(), grid + smooth_displacement(grid)), TARGET, folder / "y_source.nii")
    return right(
        ["y_source.nii"],
        "spm",
        points,
        move(affine_map(), points + smooth_displacement(points)),
        accept=("read", "refuse"),
        also_formats=["itk", "ants"],
    )


@case
def elastix_parameters(folder):
    """elastix's TransformParameters.0.txt: an Euler transform about a center, LPS, fixed to moving.
    Reports: SuperElastix/SimpleElastix#182, SuperElastix/SimpleElastix#107, SuperElastix/SimpleElastix#364
    Before: refused with "Tags must be delimited by :"
    Right: `points`: rotation by 0.1 rad about z round (4, -6, 8) LPS, then (3, -2, 1.5); or refused with the word elastix
    """
    points = write_volumes(folder)
    turn = np.array([[np.cos(0.1), -np.sin(0.1), 0], [np.sin(0.1), np.cos(0.1), 0], [0, 0, 1]])
    center, shift = np.array([4.0, -6.0, 8.0]), np.array([3.0, -2.0, 1.5])
    lines = [
        '(Transform "EulerTransform")',
        "(NumberOfParameters 6)",
        "(TransformParameters 0 0 0.1 3 -2 1.5)",
        '(InitialTransformParametersFileName "NoInitialTransform")',
        '(HowToCombineTransforms "Compose")',
        "(FixedImageDimension 3)",
        "(MovingImageDimension 3)",
        "(CenterOfRotationPoint 4 -6 8)",
        '(ComputeZYX "false")',
        f"(Size {SHAPE[0]} {SHAPE[1]} {SHAPE[2]})",
        '(UseDirectionCosines "true")',
    ]
    (folder / "TransformParameters.0.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    source = ((points @ LPS - center) @ turn.T + center + shift) @ LPS
    return right(
        ["TransformParameters.0.txt"], "elastix", points, source, accept=("read", "refuse"), message=["elastix"]
    )


def lta_volume(name, affine):
    """The geometry block of an LTA: center and direction cosines in RAS."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    axes = affine[:3, :3] / spacing
    center = affine[:3, :3] @ (np.array(SHAPE) / 2) + affine[:3, 3]
    lines = [
        f"{name} volume info",
        "valid = 1  # volume info valid",
        f"filename = {name}.nii.gz",
        "volume = {} {} {}".format(*SHAPE),
        "voxelsize = {:.6f} {:.6f} {:.6f}".format(*spacing),
    ]
    lines += ["{} = {:.8f} {:.8f} {:.8f}".format(f"{axis}ras  ", *axes[:, k]) for k, axis in enumerate("xyz")]
    return [*lines, "cras   = {:.6f} {:.6f} {:.6f}".format(*center)]


@case
def freesurfer_lta(folder):
    """FreeSurfer's .lta of type 1 (LINEAR_RAS_TO_RAS), which maps *source* RAS to target RAS.
    Reports: nipreps/smriprep#185, freesurfer/freesurfer#373, freesurfer/freesurfer#765
    Before: refused: "cannot be read as an ITK transform"
    Right: `points` (the inverse of the stored matrix); or refused with the word LTA or FreeSurfer
    """
    points = write_volumes(folder)
    stored = np.linalg.inv(affine_map())
    lines = ["type      = 1", "nxforms   = 1", "mean      = 0.0 0.0 0.0", "sigma     = 1.0", "1 4 4"]
    lines += [" ".join(f"{value:.15e}" for value in row) for row in stored]
    (folder / "source_to_target.lta").write_text(
        "\n".join(lines + lta_volume("src", SOURCE) + lta_volume("dst", TARGET)) + "\n", encoding="utf-8"
    )
    return right(
        ["source_to_target.lta"],
        "lta",
        points,
        move(affine_map(), points),
        accept=("read", "refuse"),
        message=["lta", "freesurfer"],
    )


def fsl_scaled(affine):
    """Voxels to FSL's scaled mm: spacing, with the first axis turned where the determinant is positive."""
    scaled = np.diag([*np.linalg.norm(affine[:3, :3], axis=0), 1.0])
    if np.linalg.det(affine[:3, :3]) > 0:
        scaled[0] = [-scaled[0, 0], 0, 0, (SHAPE[0] - 1) * scaled[0, 0]]
    return scaled


@case
def flirt_matrix(folder):
    """FSL FLIRT's flirt.mat: source to target in FSL's scaled millimeters, as text.
    Reports: nipreps/smriprep#185, Washington-University/workbench#37
    Before: refused: "failed to read file"
    Right: `points`; or refused with the word FLIRT or FSL
    """
    points = write_volumes(folder)
    flirt = (
        fsl_scaled(TARGET)
        @ np.linalg.inv(TARGET)
        @ np.linalg.inv(affine_map())
        @ SOURCE
        @ np.linalg.inv(fsl_scaled(SOURCE))
    )
    np.savetxt(folder / "flirt.mat", flirt, fmt="%.12g")
    return right(
        ["flirt.mat"],
        "flirt",
        points,
        move(affine_map(), points),
        accept=("read", "refuse"),
        message=["flirt", "fsl"],
        also_formats=["fsl"],
    )


if __name__ == "__main__":
    main(__doc__)
