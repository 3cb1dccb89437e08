"""Chains of affines and fields as transform parameter files of elastix, for transformix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from medtrace.geometry import Grid
from medtrace.io.foreign.linear import affine_transform
from medtrace.io.foreign.point_map import itk_geometry
from medtrace.io.transforms import displacement_lps, itk_transform
from medtrace.storage.files import atomic_file, atomic_write
from medtrace.trace.chain import AffinePart, FieldPart, TransformChain


def write_elastix(folder: Path, chain: TransformChain, source: Grid, target: Grid) -> None:
    """Write TransformParameters.0.txt and so on, of which the last names the one before it, and so all.

    Args:
        folder: where; fields lie beside them as MetaImage, which the files name without a folder.
        chain: of affines and fields in 3D; a point of the target goes through the first part first, which is 0.
        source: grid of the moving image.
        target: of the fixed image, on which transformix writes.

    Raises:
        ValueError: if a part is of another kind, or an image is in 2D.
    """
    if source.spatial_dims != 3 or target.spatial_dims != 3:
        raise ValueError("format: elastix is written in 3D, received a grid of two axes; convert to itk or ants")
    parts = chain.parts or (AffinePart(torch.eye(4)),)
    for number, part in enumerate(parts):
        if isinstance(part, AffinePart):
            own = _affine(part)
        elif isinstance(part, FieldPart):
            own = _field(part, folder / f"DeformationField.{number}.mha")
        else:
            raise ValueError(
                f"format: elastix holds affines and fields, received {type(part).__name__}; convert to itk"
            )
        before = f'"TransformParameters.{number - 1}.txt"' if number else '"NoInitialTransform"'
        entries = [*own, ("InitialTransformParameterFileName", before), ("HowToCombineTransforms", '"Compose"')]
        entries += _images(target)
        text = "".join(f"({name} {value})\n" for name, value in entries)
        atomic_write(folder / f"TransformParameters.{number}.txt", text)


def _affine(part: AffinePart) -> list[tuple[str, str]]:
    transform = affine_transform(part.matrix.numpy())
    return [
        ("Transform", '"AffineTransform"'),
        ("NumberOfParameters", "12"),
        ("TransformParameters", _numbers(transform.GetParameters())),
        ("CenterOfRotationPoint", "0 0 0"),
    ]


def _field(part: FieldPart, path: Path) -> list[tuple[str, str]]:
    image = itk_transform(*displacement_lps(part.ddf, part.affine)).GetDisplacementField()
    with atomic_file(path) as temporary:
        sitk.WriteImage(sitk.Cast(image, sitk.sitkVectorFloat32), str(temporary), useCompression=True)
    return [
        ("Transform", '"DeformationFieldTransform"'),
        ("NumberOfParameters", "0"),
        ("DeformationFieldFileName", f'"{path.name}"'),
        ("DeformationFieldInterpolationOrder", "1"),
    ]


def _images(target: Grid) -> list[tuple[str, str]]:
    origin, spacing, direction = itk_geometry(target)
    columns = np.reshape(direction, (3, 3)).T.ravel()  # elastix writes a direction column by column
    return [
        ("FixedImageDimension", "3"),
        ("MovingImageDimension", "3"),
        ("FixedInternalImagePixelType", '"float"'),
        ("MovingInternalImagePixelType", '"float"'),
        ("Size", _numbers(target.shape)),
        ("Index", "0 0 0"),
        ("Spacing", _numbers(spacing)),
        ("Origin", _numbers(origin)),
        ("Direction", _numbers(columns)),
        ("UseDirectionCosines", '"true"'),
        ("ResampleInterpolator", '"FinalLinearInterpolator"'),
        ("Resampler", '"DefaultResampler"'),
        ("DefaultPixelValue", "0"),
        ("ResultImageFormat", '"nii"'),
        ("ResultImagePixelType", '"float"'),
    ]


def _numbers(values: Sequence[float] | np.ndarray) -> str:
    return " ".join(f"{value:.15g}" for value in values)
