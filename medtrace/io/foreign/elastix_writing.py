"""Chains of affines and fields as transform parameter files of elastix, for transformix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from medtrace.geometry import Grid
from medtrace.io.foreign.linear import affine_transform, planar_affine
from medtrace.io.foreign.point_map import itk_geometry
from medtrace.io.foreign.vectors import planar_transform
from medtrace.io.transforms import displacement_lps, itk_transform
from medtrace.storage.files import atomic_file, atomic_write
from medtrace.trace.chain import AffinePart, FieldPart, TransformChain


def write_elastix(folder: Path, chain: TransformChain, source: Grid, target: Grid, planar: bool = False) -> None:
    """Write TransformParameters.0.txt and so on, of which the last names the one before it, and so all.

    Args:
        folder: where; fields lie beside them as MetaImage, which the files name without a folder.
        chain: of affines and fields; a point of the target goes through the first part first, which is 0.
        source: grid of the moving image.
        target: grid of the fixed image, on which transformix writes.
        planar: in 2D, for a chain that stays in the axial plane of two 2D images.

    Raises:
        ValueError: if a part is of another kind, or an image is in 2D and the chain is not.
    """
    if not planar and (source.spatial_dims != 3 or target.spatial_dims != 3):
        raise ValueError(
            "format: elastix is written in 2D where both images and the transform lie in an axial plane, received a"
            " grid of two axes elsewhere; convert to itk or ants"
        )
    parts = chain.parts or (AffinePart(torch.eye(4)),)
    for number, part in enumerate(parts):
        if isinstance(part, AffinePart):
            own = _affine(part, planar)
        elif isinstance(part, FieldPart):
            own = _field(part, folder / f"DeformationField.{number}.mha", planar)
        else:
            raise ValueError(
                f"format: elastix holds affines and fields, received {type(part).__name__}; convert to itk"
            )
        before = f'"TransformParameters.{number - 1}.txt"' if number else '"NoInitialTransform"'
        entries = [*own, ("InitialTransformParameterFileName", before), ("HowToCombineTransforms", '"Compose"')]
        entries += _images(target, planar)
        text = "".join(f"({name} {value})\n" for name, value in entries)
        atomic_write(folder / f"TransformParameters.{number}.txt", text)


def _affine(part: AffinePart, planar: bool) -> list[tuple[str, str]]:
    matrix = part.matrix.numpy()
    transform = planar_affine(matrix) if planar else affine_transform(matrix)
    return [
        ("Transform", '"AffineTransform"'),
        ("NumberOfParameters", str(len(transform.GetParameters()))),
        ("TransformParameters", _numbers(transform.GetParameters())),
        ("CenterOfRotationPoint", _numbers([0] * transform.GetDimension())),
    ]


def _field(part: FieldPart, path: Path, planar: bool) -> list[tuple[str, str]]:
    vectors, affine = displacement_lps(part.ddf, part.affine)
    transform = planar_transform(vectors[:2, :, :, 0], part.grid, path) if planar else itk_transform(vectors, affine)
    image = sitk.DisplacementFieldTransform(transform).GetDisplacementField()
    with atomic_file(path) as temporary:
        sitk.WriteImage(sitk.Cast(image, sitk.sitkVectorFloat32), str(temporary), useCompression=True)
    return [
        ("Transform", '"DeformationFieldTransform"'),
        ("NumberOfParameters", "0"),
        ("DeformationFieldFileName", f'"{path.name}"'),
        ("DeformationFieldInterpolationOrder", "1"),
    ]


def _images(target: Grid, planar: bool) -> list[tuple[str, str]]:
    origin, spacing, direction = itk_geometry(target)
    dims = 2 if planar else 3
    columns = np.reshape(direction, (3, 3))[:dims, :dims].T.ravel()  # elastix writes a direction column by column
    return [
        ("FixedImageDimension", str(dims)),
        ("MovingImageDimension", str(dims)),
        ("FixedInternalImagePixelType", '"float"'),
        ("MovingInternalImagePixelType", '"float"'),
        ("Size", _numbers(target.shape[:dims])),
        ("Index", _numbers([0] * dims)),
        ("Spacing", _numbers(spacing[:dims])),
        ("Origin", _numbers(origin[:dims])),
        ("Direction", _numbers(columns)),
        ("UseDirectionCosines", '"true"'),
        ("ResampleInterpolator", '"FinalLinearInterpolator"'),
        ("Resampler", '"DefaultResampler"'),
        ("DefaultPixelValue", "0"),
        ("ResultImageFormat", '"mha"' if planar else '"nii"'),
        ("ResultImagePixelType", '"float"'),
    ]


def _numbers(values: Sequence[float] | np.ndarray) -> str:
    return " ".join(f"{value:.15g}" for value in values)
