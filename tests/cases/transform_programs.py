"""More transforms of elastix, FreeSurfer, FSL, AFNI, NiftyReg and greedy.

    python -m tests.cases.transform_programs OUT [--only CASE]

As in `transform_variants`.
"""

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from tests.cases.common import case, grid_points, main
from tests.cases.transform_variants import REFUSED, spline
from tests.cases.transforms import (
    LPS,
    SHAPE,
    SIZE,
    SOURCE,
    TARGET,
    affine_map,
    blob,
    fsl_scaled,
    lps_affine,
    lta_volume,
    move,
    right,
    smooth_displacement,
    write_natural_images,
    write_volumes,
)


def elastix_lines(kind, parameters, dims=3, initial=None, **more):
    size = SHAPE if dims == 3 else (SIZE, SIZE)
    lines = [
        f'(Transform "{kind}")',
        f"(NumberOfParameters {len(parameters)})",
        "(TransformParameters {})".format(" ".join(repr(float(value)) for value in parameters)),
        f'(InitialTransformParameterFileName "{initial or "NoInitialTransform"}")',
        f"(FixedImageDimension {dims})",
        f"(MovingImageDimension {dims})",
        "(Size {})".format(" ".join(map(str, size))),
    ]
    more = {"HowToCombineTransforms": '"Compose"', "UseDirectionCosines": '"true"'} | more
    return "\n".join([*lines, *(f"({name} {value})" for name, value in more.items())]) + "\n"


def words(values):
    return " ".join(repr(float(value)) for value in values)


def write_elastix_chain(folder, how="Compose", initial="/data/other/machine/TransformParameters.0.txt"):
    """Euler (in the order ZYX), then B-spline; SimpleITK's two transforms."""
    euler = sitk.Euler3DTransform((4.0, -6.0, 8.0), 0.1, -0.2, 0.15, (3.0, -2.0, 1.5))
    euler.SetComputeZYX(True)
    text = elastix_lines("EulerTransform", euler.GetParameters(), CenterOfRotationPoint="4 -6 8", ComputeZYX='"true"')
    (folder / "TransformParameters.0.txt").write_text(text, encoding="utf-8")
    bspline = spline(folder)
    fixed = bspline.GetFixedParameters()
    text = elastix_lines(
        "BSplineTransform",
        bspline.GetParameters(),
        initial=initial,
        HowToCombineTransforms=f'"{how}"',
        GridSize=" ".join(str(int(value)) for value in fixed[:3]),
        GridIndex="0 0 0",
        GridOrigin=words(fixed[3:6]),
        GridSpacing=words(fixed[6:9]),
        GridDirection=words(np.reshape(fixed[9:], (3, 3)).T.ravel()),
        BSplineTransformSplineOrder="3",
        UseCyclicTransform='"false"',
    )
    (folder / "TransformParameters.1.txt").write_text(text, encoding="utf-8")
    return euler, bspline


@case
def elastix_chain(folder):
    """TransformParameters.1.txt, a B-spline on an oblique grid after an Euler transform (ZYX) that it names on another machine.
    Reports: SuperElastix/SimpleElastix#107
    Before: refused with "Tags must be delimited by :"
    Right: `points`: first the Euler transform, then the B-spline
    """
    points = write_volumes(folder)
    euler, bspline = write_elastix_chain(folder)
    moved = [bspline.TransformPoint(euler.TransformPoint(point)) for point in (points @ LPS).tolist()]
    return right(["TransformParameters.1.txt"], "elastix", points, np.array(moved) @ LPS)


@case
def elastix_added(folder):
    """The same two files with HowToCombineTransforms "Add".
    Reports: SuperElastix/SimpleElastix#107
    Before: refused with "Tags must be delimited by :"
    Right: the sum of both displacements, or refused with the word elastix
    """
    points = write_volumes(folder)
    euler, bspline = write_elastix_chain(folder, "Add")
    lps = points @ LPS
    moved = [np.add(bspline.TransformPoint(p), euler.TransformPoint(p)) - p for p in lps.tolist()]
    return right(["TransformParameters.1.txt"], "elastix", points, np.array(moved) @ LPS)


@case
def elastix_without_its_first(folder):
    """The B-spline alone; the file that it names as coming before is missing.
    Reports: SuperElastix/SimpleElastix#107
    Before: refused
    Right: refused, naming TransformParameters.0.txt
    """
    points = write_volumes(folder)
    write_elastix_chain(folder)
    (folder / "TransformParameters.0.txt").unlink()
    files = ["TransformParameters.1.txt"]
    return right(files, "elastix", points, points, accept=REFUSED, message=["TransformParameters.0.txt"])


@case
def elastix_2d_similarity(folder):
    """A similarity transform of two natural images, in TOML as elastix 5.2 writes it on request.
    Reports: SuperElastix/SimpleElastix#364
    Before: refused
    Right: `points`: scale 1.1 and 0.2 rad about (20, 22)
    """
    points = write_natural_images(folder)
    lines = [
        'Transform = "SimilarityTransform"',
        "NumberOfParameters = 4",
        "TransformParameters = [1.1, 0.2, 3.0, -2.0]",
        'InitialTransformParameterFileName = "NoInitialTransform"',
        "FixedImageDimension = 2",
        "MovingImageDimension = 2",
        "CenterOfRotationPoint = [20.0, 22.0]",
        "UseDirectionCosines = true",
    ]
    (folder / "TransformParameters.0.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    c, s, center = 1.1 * np.cos(0.2), 1.1 * np.sin(0.2), np.array([20.0, 22.0])
    moved = (-points[:, :2] - center) @ np.array([[c, -s], [s, c]]).T + center + [3.0, -2.0]
    source = np.concatenate([-moved, np.zeros((len(moved), 1))], 1)
    return right(["TransformParameters.0.toml"], "elastix", points, source, "png")


@case
def elastix_without_directions(folder):
    """UseDirectionCosines false, between oblique images: elastix worked in axes that no header has.
    Reports: SuperElastix/SimpleElastix#364
    Before: refused
    Right: refused, with the word UseDirectionCosines
    """
    points = write_volumes(folder)
    text = elastix_lines("TranslationTransform", [1, 2, 3], UseDirectionCosines='"false"')
    (folder / "TransformParameters.0.txt").write_text(text, encoding="utf-8")
    files = ["TransformParameters.0.txt"]
    return right(files, "elastix", points, points, accept=REFUSED, message=["UseDirectionCosines"])


@case
def elastix_stack(folder):
    """A transform of elastix that ITK does not know.
    Reports: none
    Before: refused
    Right: refused with the kind and the way to a deformation field
    """
    points = write_volumes(folder)
    text = elastix_lines("SplineKernelTransform", [0, 0, 0])
    (folder / "TransformParameters.0.txt").write_text(text, encoding="utf-8")
    files = ["TransformParameters.0.txt"]
    return right(files, "elastix", points, points, accept=REFUSED, message=["-def all"])


def write_lta(folder, kind, stored, first, second):
    lines = [f"type      = {kind}", "nxforms   = 1", "mean      = 0.0 0.0 0.0", "sigma     = 1.0", "1 4 4"]
    lines += [" ".join(f"{value:.15e}" for value in row) for row in stored]
    lines += lta_volume("src", first) + lta_volume("dst", second)
    (folder / "register.lta").write_text("\n".join(lines) + "\n", encoding="utf-8")


@case
def lta_of_voxels(folder):
    """FreeSurfer's .lta of type 0 (LINEAR_VOX_TO_VOX): source voxels to target voxels.
    Reports: nipreps/smriprep#185
    Before: refused
    Right: `points`, by both volumes that the file describes
    """
    points = write_volumes(folder)
    write_lta(folder, 0, np.linalg.inv(TARGET) @ np.linalg.inv(affine_map()) @ SOURCE, SOURCE, TARGET)
    return right(["register.lta"], "lta", points, move(affine_map(), points))


@case
def lta_the_other_way(folder):
    """An .lta whose src is our target and whose dst is our source: its matrix is what is asked for.
    Reports: freesurfer/freesurfer#373
    Before: refused
    Right: `points`, the matrix as it is stored, and said so; or refused with the words src and dst
    """
    points = write_volumes(folder)
    write_lta(folder, 1, affine_map(), TARGET, SOURCE)
    return right(["register.lta"], "lta", points, move(affine_map(), points), said=["dst"])


@case
def lta_of_tkregister(folder):
    """An .lta of type 14 (REGISTER_DAT).
    Reports: freesurfer/freesurfer#765
    Before: refused
    Right: refused with the type and lta_convert
    """
    points = write_volumes(folder)
    write_lta(folder, 14, affine_map(), SOURCE, TARGET)
    return right(["register.lta"], "lta", points, points, accept=REFUSED, message=["lta_convert"])


@case
def flirt_of_mixed_handedness(folder):
    """flirt.mat between a right-handed and a left-handed grid: FSL turns the first axis of one of them.
    Reports: nipreps/smriprep#185
    Before: refused
    Right: `points`
    """
    points = write_volumes(folder)
    turned = SOURCE.copy()
    turned[:3, 0] *= -1
    turned[:3, 3] += SOURCE[:3, 0] * (SHAPE[0] - 1)
    where = grid_points(SHAPE, turned)
    nib.save(nib.Nifti1Image(blob(where, where.mean((0, 1, 2)) + 2), turned), folder / "source.nii.gz")
    flirt = fsl_scaled(TARGET) @ np.linalg.inv(TARGET) @ np.linalg.inv(affine_map())
    flirt = flirt @ turned @ np.linalg.inv(fsl_scaled(turned))
    np.savetxt(folder / "flirt.mat", flirt, fmt="%.12g")
    return right(["flirt.mat"], "flirt", points, move(affine_map(), points), also_formats=["fsl"], by_content=False)


@case
def matrix_of_nobody(folder):
    """Sixteen numbers, which FLIRT, greedy and NiftyReg write alike, without --format.
    Reports: none
    Before: refused: "failed to read file"
    Right: refused: the content does not tell whose they are
    """
    points = write_volumes(folder)
    np.savetxt(folder / "affine.mat", affine_map(), fmt="%.12g")
    message = ["--format flirt or --format matrix"]
    return right(["affine.mat"], None, points, points, accept=REFUSED, message=message)


@case
def matrix_of_greedy(folder):
    """greedy's affine.mat: RAS mm, from the fixed image (target) to the moving one.
    Reports: none
    Before: refused: "failed to read file"
    Right: `points`
    """
    points = write_volumes(folder)
    np.savetxt(folder / "affine.mat", affine_map(), fmt="%.12g")
    return right(["affine.mat"], "matrix", points, move(affine_map(), points), by_content=False)


@case
def niftyreg_field(folder):
    """NiftyReg's deformation field: coordinates in RAS mm, named NREG_TRANS.
    Reports: none
    Before: read as a displacement of ITK
    Right: `points`
    """
    points = write_volumes(folder)
    grid = grid_points(SHAPE, TARGET)
    where = move(affine_map(), grid + smooth_displacement(grid))
    image = nib.Nifti1Image(where[:, :, :, None].astype(np.float32), TARGET)
    image.header.set_intent("vector", name="NREG_TRANS")
    nib.save(image, folder / "deformation.nii.gz")
    source = move(affine_map(), points + smooth_displacement(points))
    return right(["deformation.nii.gz"], "niftyreg", points, source, also_formats=["itk"])


@case
def afni_oblique(folder):
    """AFNI's .aff12.1D between oblique images, which AFNI turns upright first.
    Reports: none
    Before: refused
    Right: refused, with the word oblique
    """
    points = write_volumes(folder)
    text = "# 3dAllineate matrices (DICOM-to-DICOM, row-by-row):\n" + words(lps_affine(affine_map())[:3].ravel()) + "\n"
    (folder / "affine.aff12.1D").write_text(text, encoding="utf-8")
    return right(["affine.aff12.1D"], "afni", points, points, accept=REFUSED, message=["oblique"])


@case
def afni_upright(folder):
    """AFNI's .aff12.1D between upright images: base (target) to source, LPS mm.
    Reports: none
    Before: refused
    Right: `points`
    """
    affine = np.diag([-2.0, 2.0, 3.0, 1.0])
    affine[:3, 3] = [30.0, -30.0, -15.0]
    for name in ("source", "target"):
        where = grid_points(SHAPE, affine)
        nib.save(nib.Nifti1Image(blob(where, where.mean((0, 1, 2))), affine), folder / f"{name}.nii.gz")
    points = np.array([[10, 9, 4], [15, 14, 6], [20, 12, 5]]) @ affine[:3, :3].T + affine[:3, 3]
    text = "# 3dAllineate matrices (DICOM-to-DICOM, row-by-row):\n" + words(lps_affine(affine_map())[:3].ravel()) + "\n"
    (folder / "affine.aff12.1D").write_text(text, encoding="utf-8")
    return right(["affine.aff12.1D"], "afni", points, move(affine_map(), points))


@case
def fsl_absolute_warp(folder):
    """FSL's convertwarp --absout: the input's coordinates in FSL's mm, not displacements.
    Reports: none
    Before: taken as relative
    Right: `points`
    """
    points = write_volumes(folder)
    grid = grid_points(SHAPE, TARGET)
    source = move(affine_map(), grid + smooth_displacement(grid))
    to_fsl = fsl_scaled(SOURCE) @ np.linalg.inv(SOURCE)
    image = nib.Nifti1Image(move(to_fsl, source).astype(np.float32), TARGET)
    image.header["intent_code"] = 2006
    nib.save(image, folder / "warp.nii.gz")
    source = move(affine_map(), points + smooth_displacement(points))
    return right(["warp.nii.gz"], "fsl", points, source, said=["absolute"])


if __name__ == "__main__":
    main(__doc__)
