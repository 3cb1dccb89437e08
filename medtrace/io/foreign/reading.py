"""One or several transform files of another program as a map from points of the target to the source."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from medtrace.checks import check_choice
from medtrace.io.composite import check_matlab
from medtrace.io.foreign import ants, linear, vectors
from medtrace.io.foreign.content import Kind, kind_of
from medtrace.io.foreign.elastix import read_elastix
from medtrace.io.foreign.point_map import Images, Note, PointMap
from medtrace.io.nitransforms_field import read_x5
from medtrace.io.slicer_nrrd import read_slicer_nrrd
from medtrace.io.transforms import displacement_lps, itk_transform, itk_transform_of

IMPORT_FORMATS = {
    "itk": (Kind.ITK, Kind.NIFTI),
    "ants": (Kind.ITK, Kind.NIFTI),
    "nrrd": (Kind.NRRD,),
    "nitransforms": (Kind.X5,),
    "learn2reg": (Kind.NIFTI, Kind.ARCHIVE),
    "voxelmorph": (Kind.NIFTI,),
    "fsl": (Kind.NIFTI, Kind.MATRIX),
    "flirt": (Kind.MATRIX,),
    "matrix": (Kind.MATRIX,),
    "afni": (Kind.AFNI,),
    "spm": (Kind.NIFTI,),
    "niftyreg": (Kind.NIFTI, Kind.MATRIX),
    "elastix": (Kind.ELASTIX,),
    "lta": (Kind.LTA,),
}
"""Names of formats, and the kinds of file that each may be."""
_CHAINED = ("itk", "ants")


def read_point_map(
    files: str | os.PathLike | Sequence[str | os.PathLike], images: Images, format: str | None = None
) -> PointMap:
    """Read a transform that leads from the target (fixed) to the source (moving), or is known to lead the other way.

    Args:
        files: one file, or several of ITK and ANTs in the order of antsApplyTransforms (a point of the target goes
            through the first of them first); `[FILE,1]` inverts a linear one.
        images: between which it leads.
        format: a name of `IMPORT_FORMATS`; None finds it from the content of the first file.

    Returns:
        The map, with a note for each thing that was assumed.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is of another format, cannot be read, or does not fit the images; the message names it.
    """
    if format is not None:
        check_choice("format", format, list(IMPORT_FORMATS))
    listed = [files] if isinstance(files, (str, os.PathLike)) else list(files)
    members = [ants.parse_member(os.fspath(file)) for file in listed]
    if not members:
        raise ValueError("files: expected one transform file or more, received none; name them")
    kinds = {member.path: kind_of(member.path) for member in members}
    chosen = format or format_of_file(members[0].path, kinds[members[0].path])
    notes: list[Note] = []
    if chosen in _CHAINED:
        members, notes = ants.completed(members)
    elif len(members) > 1 or members[0].inverted:
        raise ValueError(
            f"{members[-1].path}: expected one file of {chosen}, to be applied as it is, received"
            f" {' '.join(map(str, members))}; only files of ITK and ANTs are chained or inverted"
            + ("; elastix's last file names those before it" if chosen == "elastix" else "")
        )
    transforms = []
    for member in members:
        transform, more = _read(member.path, chosen, kinds.get(member.path) or kind_of(member.path), images)
        transforms.append(_inverse(member.path, transform) if member.inverted else transform)
        notes += more
    if len({transform.GetDimension() for transform in transforms}) != 1:
        raise ValueError(
            f"{members[-1].path}: expected transforms of one dimension, received 2D and 3D; check the list"
        )
    whole = transforms[0] if len(transforms) == 1 else sitk.CompositeTransform(transforms[::-1])
    if whole.GetDimension() == 2 and (images.source_pixel, images.target_pixel) != ((1.0, 1.0), (1.0, 1.0)):
        text = "taken in mm as ITK reads them from the natural images' resolution, of {:g} and {:g} mm a pixel"
        notes.append(Note(members[0].path.name, text.format(images.source_pixel[0], images.target_pixel[0])))
    try:
        return PointMap(whole, images, chosen, tuple(notes))
    except ValueError as error:
        raise ValueError(f"{members[0].path}: {error}") from error


def format_of_file(path: Path, kind: Kind | None = None) -> str:
    """The name of `IMPORT_FORMATS` that a file's content reports.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it has none, or may have several; the message states how to name one.
    """
    kind = kind_of(path) if kind is None else kind
    if kind is Kind.NIFTI:
        return vectors.format_of(vectors.read_vector_file(path))
    if kind is Kind.MATRIX:
        raise ValueError(
            f"{path}: {kind} may be FLIRT's (FSL's millimeters, source to target) or one in RAS mm from target to"
            " source (greedy, c3d_affine_tool, NiftyReg); choose with --format flirt or --format matrix"
        )
    return next(name for name, kinds in IMPORT_FORMATS.items() if kind in kinds)


def _read(path: Path, format_: str, kind: Kind, images: Images) -> tuple[sitk.Transform, list[Note]]:
    if kind not in IMPORT_FORMATS[format_] and not (format_ in _CHAINED and kind is Kind.NRRD):
        others = [name for name, kinds in IMPORT_FORMATS.items() if kind in kinds]
        raise ValueError(f"{path}: is {kind}, not a file of {format_}; use --format {' or '.join(others[:3])}")
    if kind is Kind.ITK:
        return read_itk(path), []
    if kind is Kind.NRRD:
        return _nrrd(path)
    if kind is Kind.ELASTIX:
        return read_elastix(path, images)
    if kind is Kind.LTA:
        return linear.read_lta(path, images)
    if kind is Kind.AFNI:
        return linear.read_afni(path, images)
    if kind is Kind.X5:
        ddf, affine = read_x5(path)
        return itk_transform(*displacement_lps(ddf, affine)), []
    if kind is Kind.MATRIX:
        return linear.read_flirt(path, images) if format_ in ("fsl", "flirt") else linear.read_ras_matrix(path)
    if format_ in ("learn2reg", "voxelmorph"):
        return vectors.read_voxels(path, kind, images, format_)
    file = vectors.read_vector_file(path)
    if format_ == "fsl":
        return vectors.read_fsl(file, images)
    if format_ == "spm":
        return vectors.read_spm(file)
    if format_ == "niftyreg":
        return vectors.read_niftyreg(file)
    transform, notes = vectors.read_itk_vectors(file)
    return transform, [*notes, *_place(file, images)]


def _place(file: vectors.VectorFile, images: Images) -> list[Note]:
    """Whether a field is on the target's grid, or on the source's, as one that leads the other way does."""
    on_target, on_source = file.grid.coincides(images.target), file.grid.coincides(images.source)
    text = "is on the grid of the source and not of the target, like fields that lead the other way"
    if on_target or not on_source:
        return []
    name = file.path.name.removesuffix(".gz").removesuffix(".nii")
    if name.endswith("Warp") and not name.endswith("InverseWarp"):
        raise ValueError(f"{file.path}: {text}; exchange --source and --target")
    return [] if name.endswith("InverseWarp") else [Note(file.path.name, text)]


def read_itk(path: Path) -> sitk.Transform:
    """Any transform of ITK (.h5, .tfm, .txt, .mat), in 2D or 3D, that has no end in a crash of its reader."""
    check_matlab(path)
    transform = itk_transform_of(path)
    if transform.GetDimension() not in (2, 3):
        raise ValueError(f"{path}: expected a transform in 2D or 3D, received {transform.GetDimension()}D")
    numbers = [*transform.GetFixedParameters(), *(transform.GetParameters() if transform.IsLinear() else ())]
    if not np.isfinite(numbers).all():
        raise ValueError(f"{path}: expected finite parameters, received NaN or infinity; write it again")
    return transform


def _inverse(path: Path, transform: sitk.Transform) -> sitk.Transform:
    if not transform.IsLinear():
        raise ValueError(f"{path}: only linear transforms are inverted; name the file of the inverse warp")
    try:
        return transform.GetInverse()
    except RuntimeError as error:
        raise ValueError(f"{path}: expected an invertible transform, received a singular one") from error


def _nrrd(path: Path) -> tuple[sitk.Transform, list[Note]]:
    read = read_slicer_nrrd(path)
    if read.field_type != "resampling":
        raise ValueError(
            f"{path}: expected a field of the type resampling, received modeling, which leads from source to target;"
            " import it with source and target exchanged, or invert it in Slicer"
        )
    return itk_transform(*displacement_lps(read.ddf, read.affine)), []
