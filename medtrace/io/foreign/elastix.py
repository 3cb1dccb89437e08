"""Transform parameter files of elastix, with the files before them, as ITK transforms."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from medtrace.geometry import Grid
from medtrace.guard.declared_size import check_metaimage
from medtrace.guard.probe import probe
from medtrace.io.foreign.content import Kind, kind_of, read_text
from medtrace.io.foreign.point_map import Images, Note, itk_geometry
from medtrace.io.nifti import LPS

_FIRST = "NoInitialTransform"
_LONGEST_CHAIN = 16
_ENTRY = re.compile(r"(?m)^[ \t]*\([ \t]*(\w+)((?:[ \t]+(?:\"[^\"\n]*\"|[^\s()\"]+))*)[ \t]*\)")
_TURNED = 1e-4
"""Largest entry by which directions may differ from the body's axes and still count as them."""
Parameters = Mapping[str, list[Any]]


def read_elastix(path: Path, images: Images) -> tuple[sitk.Transform, list[Note]]:
    """Read a parameter file and those that it names as coming before it.

    Points go from the fixed image (target) to the moving one (source), in LPS mm, first through the earliest file.

    Raises:
        ValueError: if a transform type is not known, a file before it is missing, or the images are another pair.
    """
    return _read(path, images, ())


def _read(path: Path, images: Images, seen: tuple[Path, ...]) -> tuple[sitk.Transform, list[Note]]:
    if path in seen or len(seen) >= _LONGEST_CHAIN:
        raise ValueError(f"{path}: the elastix files form a cycle, or more than {_LONGEST_CHAIN} are chained")
    parameters = _parameters(path)
    dims = {_number(path, parameters, f"{name}ImageDimension") for name in ("Fixed", "Moving")}
    if len(dims) != 1 or not dims <= {2, 3}:
        raise ValueError(f"{path}: expected elastix images in 2D or 3D, received {sorted(dims)}")
    notes = [] if seen else _check_images(path, parameters, images)
    own = _transform(path, parameters, int(dims.pop()))
    named = _text(parameters, "InitialTransformParameterFileName") or _text(
        parameters, "InitialTransformParametersFileName"
    )
    if not named or named == _FIRST:
        return own, notes
    before = path.parent / PureWindowsPath(PurePosixPath(named).name).name
    if not before.is_file() or kind_of(before) is not Kind.ELASTIX:
        raise ValueError(f"{path}: elastix applies {before.name} before it, which is missing; put it into its folder")
    first, more = _read(before, images, (*seen, path))
    if first.GetDimension() != own.GetDimension():
        raise ValueError(f"{path}: is in {own.GetDimension()}D and {before.name}, before it, is not; correct the files")
    notes = [*notes, *more, Note(path.name, "applied after the initial transform that it names")]
    if _text(parameters, "HowToCombineTransforms") == "Add":
        return _sum(path, [first, own], images), notes
    composite = sitk.CompositeTransform([own, first])  # the last is applied first
    composite.FlattenTransform()
    return composite, notes


def _parameters(path: Path) -> Parameters:
    """Entries of a file in elastix's own syntax or in TOML."""
    text = read_text(path)
    if re.search(r"(?m)^[ \t]*\(Transform[ \t]", text):
        entries: dict[str, list[Any]] = {}
        for name, values in _ENTRY.findall(text):
            entries[name] = [a if a or not b else b for a, b in re.findall(r"\"([^\"\n]*)\"|([^\s\"]+)", values)]
        return entries
    try:
        return {name: value if isinstance(value, list) else [value] for name, value in tomllib.loads(text).items()}
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: cannot be read as elastix's parameters ({error}); write it again") from error


def _text(parameters: Parameters, name: str) -> str:
    return str(parameters[name][0]) if parameters.get(name) else ""


def _numbers(path: Path, parameters: Parameters, name: str, count: int | None = None) -> list[float]:
    try:
        values = [float(value) for value in parameters[name]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected numbers for elastix's {name}, received {error}; write it again") from error
    if not np.isfinite(values).all() or (count is not None and len(values) != count):
        raise ValueError(
            f"{path}: expected {'finite' if count is None else count} numbers for elastix's {name}, received"
            f" {len(values)}; write it again"
        )
    return values


def _number(path: Path, parameters: Parameters, name: str) -> float:
    return _numbers(path, parameters, name, 1)[0]


def _true(parameters: Parameters, name: str, default: bool = False) -> bool:
    return _text(parameters, name).lower() == "true" if parameters.get(name) else default


def _transform(path: Path, parameters: Parameters, dims: int) -> sitk.Transform:
    kind = _text(parameters, "Transform")
    if kind == "DeformationFieldTransform":
        return _field(path, parameters, dims)
    count = int(_number(path, parameters, "NumberOfParameters"))
    values = _numbers(path, parameters, "TransformParameters", count)
    bspline = kind in ("BSplineTransform", "RecursiveBSplineTransform")
    if not bspline and kind not in _LINEAR:
        raise ValueError(
            f"{path}: is elastix's {kind}; expected {', '.join(sorted(_LINEAR))} or BSplineTransform. Run transformix"
            " -tp FILE -def all and take its deformationField, by --format itk"
        )
    transform = _bspline(path, parameters, dims) if bspline else _LINEAR[kind](dims)
    if len(values) != len(transform.GetParameters()):
        raise ValueError(
            f"{path}: expected {len(transform.GetParameters())} parameters of elastix's {kind} in {dims}D, received"
            f" {len(values)}; write it again"
        )
    if not bspline and kind != "TranslationTransform":
        center = _numbers(path, parameters, "CenterOfRotationPoint", dims)
        fixed = [*center, *transform.GetFixedParameters()[dims:]]
        transform.SetFixedParameters(fixed)
        if kind == "EulerTransform" and dims == 3 and _true(parameters, "ComputeZYX"):
            transform.SetComputeZYX(True)
    transform.SetParameters(values)
    if transform.IsLinear() and _flattens(transform):
        raise ValueError(f"{path}: expected an invertible elastix transform, received a singular one; write it again")
    return transform


def _field(path: Path, parameters: Parameters, dims: int) -> sitk.Transform:
    """A displacement field in its own file, which is sought beside the parameters."""
    named = _text(parameters, "DeformationFieldFileName")
    file = path.parent / PureWindowsPath(PurePosixPath(named).name).name
    if not named or not file.is_file():
        raise ValueError(f"{path}: elastix reads the field {named!r}, which is missing; put it into its folder")
    if file.name.lower().endswith((".mha", ".mhd")):
        check_metaimage(file)
    probe(sitk.ReadImage, file, "an image of ITK")
    image = sitk.ReadImage(str(file), sitk.sitkVectorFloat64)
    if image.GetDimension() != dims or image.GetNumberOfComponentsPerPixel() != dims:
        raise ValueError(f"{file}: expected vectors of {dims} numbers in {dims}D; write the field again")
    if not np.isfinite(sitk.GetArrayViewFromImage(image)).all():
        raise ValueError(f"{file}: expected finite displacements, received NaN or infinity; write it again")
    return sitk.DisplacementFieldTransform(image)


def _flattens(transform: sitk.Transform) -> bool:
    try:
        transform.GetInverse()
    except RuntimeError:
        return True
    return False


def _bspline(path: Path, parameters: Parameters, dims: int) -> sitk.Transform:
    if _true(parameters, "UseCyclicTransform"):
        raise ValueError(
            f"{path}: is a cyclic B-spline of elastix, which ITK lacks; run transformix -def all and take its"
            " deformationField, by --format itk"
        )
    named = [name for name in ("BSplineTransformSplineOrder", "BSplineTransformOrder") if parameters.get(name)]
    order = int(_number(path, parameters, named[0])) if named else 3
    if order not in (1, 2, 3):
        raise ValueError(f"{path}: expected elastix's splines of order 1 to 3, received {order}")
    size = _numbers(path, parameters, "GridSize", dims)
    spacing, origin = (_numbers(path, parameters, f"Grid{name}", dims) for name in ("Spacing", "Origin"))
    index = _numbers(path, parameters, "GridIndex", dims) if parameters.get("GridIndex") else [0.0] * dims
    # elastix writes a direction column by column, ITK's parameters hold it row by row.
    direction = (
        np.reshape(_numbers(path, parameters, "GridDirection", dims**2), (dims, dims)).T
        if parameters.get("GridDirection")
        else np.eye(dims)
    )
    count = len(parameters["TransformParameters"])
    if min(size) < order + 1 or min(spacing) <= 0 or np.prod(size) * dims != count:
        raise ValueError(f"{path}: expected elastix's {count} parameters on its GridSize {size}; write it again")
    start = np.array(origin) + direction @ (np.array(index) * spacing)
    transform = sitk.BSplineTransform(dims, order)
    transform.SetFixedParameters([*size, *start.tolist(), *spacing, *direction.ravel().tolist()])
    return transform


def _check_images(path: Path, parameters: Parameters, images: Images) -> list[Note]:
    """Check that elastix saw the target's grid, and used its directions."""
    if not _true(parameters, "UseDirectionCosines", default=False):
        for name, grid in (("source", images.source), ("target", images.target)):
            linear = LPS @ grid.affine.numpy()[:3, :3]
            if np.abs(linear / np.linalg.norm(linear, axis=0) - np.eye(3)).max() > _TURNED:
                raise ValueError(
                    f"{path}: elastix was given UseDirectionCosines false (or nothing), so it took the axes of the"
                    f" {name} for those of the body, which they are not; register again with it true"
                )
    names = ("Size", "Spacing", "Origin", "Direction")
    if not all(parameters.get(name) for name in names):
        return []
    dims = len(parameters["Size"])
    fixed = _grid(dims, *(_numbers(path, parameters, name) for name in names))
    pixels = {"target": images.target_pixel, "source": images.source_pixel}
    matches = {
        name: fixed is not None and _as_itk(grid, pixels[name], dims).coincides(fixed, 1e-2)
        for name, grid in (("target", images.target), ("source", images.source))
    }
    if matches["source"] and not matches["target"]:
        raise ValueError(
            f"{path}: elastix's fixed image has the grid of the source, not of the target; exchange --source and"
            " --target"
        )
    return [] if matches["target"] else [Note(path.name, "elastix's fixed image was not on the target's grid")]


def _grid(
    dims: int, size: Sequence[float], spacing: Sequence[float], origin: Sequence[float], direction: Sequence[float]
) -> Grid | None:
    affine = torch.eye(4, dtype=torch.float64)
    try:
        columns = np.reshape(direction, (dims, dims)).T * np.asarray(spacing)
        affine[:dims, :dims], affine[:dims, 3] = torch.from_numpy(columns), torch.tensor(origin, dtype=torch.float64)
        return Grid((*(int(n) for n in size), 1)[:3], affine)
    except (ValueError, RuntimeError):
        return None


def _as_itk(grid: Grid, pixel: tuple[float, float], dims: int) -> Grid:
    """A grid in LPS mm, in 2D with nothing through the plane."""
    origin, spacing, direction = itk_geometry(grid)
    affine = torch.eye(4, dtype=torch.float64)
    columns = np.reshape(direction, (3, 3)) * spacing
    scale = np.array([*pixel, 1.0])
    columns, start = columns * scale[:, None], np.array(origin) * scale
    affine[:dims, :dims] = torch.from_numpy(columns[:dims, :dims])
    affine[:dims, 3] = torch.from_numpy(start[:dims])
    return Grid(grid.shape, affine)


def _sum(path: Path, parts: Sequence[sitk.Transform], images: Images) -> sitk.Transform:
    """The sum of two displacements, of which no other form exists, on the target's grid."""
    if parts[0].GetDimension() != 3:
        raise ValueError(f"{path}: elastix adds its transforms, which is only read in 3D; compose them instead")
    size, geometry = list(images.target.shape), itk_geometry(images.target)
    fields = [sitk.TransformToDisplacementField(part, sitk.sitkVectorFloat64, size, *geometry) for part in parts]
    return sitk.DisplacementFieldTransform(fields[0] + fields[1])


_LINEAR = {
    "TranslationTransform": sitk.TranslationTransform,
    "EulerTransform": lambda dims: sitk.Euler2DTransform() if dims == 2 else sitk.Euler3DTransform(),
    "SimilarityTransform": lambda dims: sitk.Similarity2DTransform() if dims == 2 else sitk.Similarity3DTransform(),
    "AffineTransform": sitk.AffineTransform,
}
