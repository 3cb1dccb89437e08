"""Chains of affines and fields as files of other programs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from medtrace.checks import check_choice
from medtrace.fields import identity_grid
from medtrace.geometry import Grid
from medtrace.io.foreign.chains import ItkPart
from medtrace.io.foreign.elastix_writing import write_elastix
from medtrace.io.foreign.linear import affine_transform, planar_affine
from medtrace.io.foreign.linear_writing import afni_text, flirt_text, lta_text, matrix_text
from medtrace.io.foreign.vectors import planar_transform
from medtrace.io.fsl_warp import write_fsl_warp
from medtrace.io.nifti import check_orthogonal
from medtrace.io.nitransforms_field import write_x5
from medtrace.io.slicer_nrrd import write_slicer_nrrd
from medtrace.io.transforms import displacement_lps, is_axial, itk_transform, write_itk, write_planar, write_transform
from medtrace.storage.directories import atomic_directory
from medtrace.storage.encoders import write_nifti
from medtrace.storage.files import atomic_write
from medtrace.trace.chain import AffinePart, FieldPart, Part, TransformChain

_MINIMUM_MM = 1e-9


class Ends(NamedTuple):
    """Between which images a transform leads."""

    source: Grid
    target: Grid

    @property
    def swapped(self) -> Ends:
        return Ends(self.target, self.source)


def write_chain(chain: TransformChain, ends: Ends, folder: Path | str, format: str) -> list[Path]:
    """Write a transform for another program, and the way back beside it.

    | format | files |
    |---|---|
    | itk, tfm | `transform.h5` or `.tfm`: every part as it is, in 2D between 2D images; `inverse_transform` |
    | ants | `1Warp.nii.gz`, `0GenericAffine.mat`, `1InverseWarp.nii.gz`, as antsRegistration names them |
    | elastix | `TransformParameters.0.txt`, ...: the last names those before it; fields as `.mha` beside them |
    | nrrd | `ddf.nrrd`, `inverse_ddf.nrrd` (3D Slicer) |
    | nitransforms | `ddf.x5`, `inverse_ddf.x5` |
    | fsl | `flirt.mat` of a linear transform, else `warp.nii.gz`; `inverse_...` |
    | spm | `y_source.nii`, `iy_source.nii` |
    | niftyreg | `deformation.nii.gz` or, of a linear one, `affine.txt`; `inverse_...` |
    | learn2reg, voxelmorph | `disp.nii.gz`, `inverse_disp.nii.gz` |
    | flirt, lta, matrix, afni | `flirt.mat`, `affine.lta`, `affine.txt`, `affine.aff12.1D`: linear transforms |

    Args:
        chain: from points of the target to points of the source.
        ends: grids of both images, of two or three axes.
        folder: a new or empty folder; it appears complete or not at all.
        format: format of the table.

    Returns:
        The files, sorted.

    Raises:
        ValueError: if the format cannot hold the transform.
    """
    check_choice("format", format, CONVERT_FORMATS)
    simple = chain.simplified()
    matrix = simple.matrix
    if format in _LINEAR:
        if matrix is None:
            raise ValueError(
                f"format: {format} holds linear transforms only, and this one deforms; expected one of"
                f" {', '.join(name for name in CONVERT_FORMATS if name not in _LINEAR)}"
            )
        name, write = _LINEAR[format]
        with atomic_directory(folder) as temporary:
            atomic_write(temporary / name, write(matrix, _volume(ends.source), _volume(ends.target)))
            back = write(torch.linalg.inv(matrix), _volume(ends.target), _volume(ends.source))
            atomic_write(temporary / f"inverse_{name}", back)
        return sorted(Path(folder).iterdir())
    if matrix is not None and format in ("fsl", "niftyreg"):
        return write_chain(simple, ends, folder, "flirt" if format == "fsl" else "matrix")
    with atomic_directory(folder) as temporary:
        _WRITERS[format](simple, ends, temporary)
    return sorted(Path(folder).iterdir())


def as_itk(chain: TransformChain, planar: bool = False) -> sitk.Transform:
    """A chain as ITK's composite transform, part by part; fields beyond whose grid ITK moves nothing.

    Args:
        chain: of affines, fields and transforms of ITK.
        planar: in 2D, for a chain that `in_plane` allows it for.
    """
    parts = [_as_itk(part, planar) for part in chain.parts] or [_as_itk(AffinePart(torch.eye(4)), planar)]
    return parts[0] if len(parts) == 1 else sitk.CompositeTransform(parts[::-1])  # the last is applied first


def in_plane(chain: TransformChain, ends: Ends) -> bool:
    """Whether a chain between two 2D images stays in their axial plane, so that programs can hold it in 2D."""
    return all(grid.spatial_dims == 2 and is_axial(grid.affine) for grid in ends) and all(
        map(_keeps_plane, chain.parts)
    )


def _keeps_plane(part: Part) -> bool:
    if isinstance(part, FieldPart):
        return part.grid.spatial_dims == 2 and is_axial(part.affine)
    if not isinstance(part, AffinePart):
        return False
    through = torch.cat([part.matrix[2, :2], part.matrix[:2, 2]])
    return float(through.abs().max()) <= _MINIMUM_MM


def _as_itk(part: Part, planar: bool = False) -> sitk.Transform:
    if isinstance(part, AffinePart):
        return planar_affine(part.matrix.numpy()) if planar else affine_transform(part.matrix.numpy())
    if isinstance(part, FieldPart) and planar:
        vectors, _ = displacement_lps(part.ddf, part.affine)
        return planar_transform(vectors[:2, :, :, 0], part.grid, "ddf")
    if isinstance(part, FieldPart):
        return itk_transform(*displacement_lps(part.ddf, part.affine))
    if isinstance(part, ItkPart):
        return part.transform
    raise TypeError(f"part: expected an affine or a field, received {type(part).__name__}; sample it on a grid first")


def _on_grids(chain: TransformChain, grid: Grid) -> TransformChain:
    """The same chain with parts that have no form of their own, such as inverses of fields, sampled on a grid."""
    if all(isinstance(part, (AffinePart, FieldPart, ItkPart)) for part in chain.parts):
        return chain
    return TransformChain((FieldPart(chain.displacement(grid), grid.affine),))


def _both(chain: TransformChain, ends: Ends) -> tuple[tuple[str, TransformChain, Ends], ...]:
    return ("", chain, ends), ("inverse_", chain.inverse(), ends.swapped)


def _composite(suffix: str) -> Callable[[TransformChain, Ends, Path], None]:
    def write(chain: TransformChain, ends: Ends, folder: Path) -> None:
        for prefix, one, between in _both(chain, ends):
            own = _on_grids(one, between.target)
            write_itk(folder / f"{prefix}transform{suffix}", as_itk(own, in_plane(own, between)))

    return write


def _elastix(chain: TransformChain, ends: Ends, folder: Path) -> None:
    own = _on_grids(chain, ends.target)
    write_elastix(folder, own, ends.source, ends.target, in_plane(own, ends))


def _ants(chain: TransformChain, ends: Ends, folder: Path) -> None:
    """A point of the target goes through the warp, then through the affine."""
    warp, linear = chain.parts[:-1], chain.parts[-1:]
    if not (linear and isinstance(linear[0], AffinePart)):
        warp, linear = chain.parts, (AffinePart(torch.eye(4)),)
    write_itk(folder / "0GenericAffine.mat", _as_itk(linear[0], in_plane(chain, ends)))
    if not warp:
        return
    deformation = TransformChain(warp)
    one = warp[0]
    own = one.grid if len(warp) == 1 and isinstance(one, FieldPart) else ends.target
    known = one.known_inverse.grid if isinstance(one, FieldPart) and one.known_inverse is not None else own
    planar = own.spatial_dims == 2 and is_axial(own.affine)
    write = write_planar if planar else write_transform
    write(folder / "1Warp.nii.gz", deformation.displacement(own), own.affine)
    back = known if len(warp) == 1 else own
    write(folder / "1InverseWarp.nii.gz", deformation.inverse().displacement(back), back.affine)


def _dense(
    names: tuple[str, str], write: Callable[[Path, Tensor, Ends], object]
) -> Callable[[TransformChain, Ends, Path], None]:
    def write_both(chain: TransformChain, ends: Ends, folder: Path) -> None:
        for name, (_, one, between) in zip(names, _both(chain, ends)):
            write(folder / name, one.displacement(between.target), between)

    return write_both


def _nrrd(chain: TransformChain, ends: Ends, folder: Path) -> None:
    for kind, (prefix, one, between) in zip(("resampling", "modeling"), _both(chain, ends)):
        grid = between.target
        write_slicer_nrrd(folder / f"{prefix}ddf.nrrd", one.displacement(grid), grid.affine, kind)  # type: ignore[arg-type]


def _fsl(path: Path, ddf: Tensor, ends: Ends) -> None:
    write_fsl_warp(path, ddf, ends.target.affine, ends.source.affine, ends.source.shape)


def _x5(path: Path, ddf: Tensor, ends: Ends) -> None:
    write_x5(path, ddf, ends.target.affine)


def _coordinates(ddf: Tensor, grid: Grid) -> np.ndarray:
    """The origin of every voxel, (H, W, D, 3) in RAS mm."""
    where = identity_grid(grid.shape, dtype=torch.float64) + ddf
    points = grid.to_mm(where.reshape(grid.spatial_dims, -1).T).numpy()
    return points.reshape(*_volume(grid).shape, 3)


def _spm(path: Path, ddf: Tensor, ends: Ends) -> None:
    _write_vectors(path, _coordinates(ddf, ends.target)[:, :, :, None], ends.target, "Mapping")


def _niftyreg(path: Path, ddf: Tensor, ends: Ends) -> None:
    _write_vectors(path, _coordinates(ddf, ends.target)[:, :, :, None], ends.target, "NREG_TRANS")


def _voxels(path: Path, ddf: Tensor, ends: Ends) -> None:
    """Displacements in voxels of the moving image."""
    grid = _volume(ends.target)
    where = torch.from_numpy(_coordinates(ddf, ends.target).reshape(-1, 3))
    moved = _volume(ends.source).to_voxels(where).T.reshape(3, *grid.shape) - identity_grid(
        grid.shape, dtype=torch.float64
    )
    moved[moved.abs() < _MINIMUM_MM] = 0.0
    image = nibabel.Nifti1Image(np.moveaxis(moved.numpy(), 0, -1).astype(np.float32), grid.affine.numpy())
    write_nifti(path, image)


def _voxelmorph(path: Path, ddf: Tensor, ends: Ends) -> None:
    if not _volume(ends.source).coincides(_volume(ends.target)):
        raise ValueError(
            "source: expected the source on the target's grid for VoxelMorph, which knows one grid, received two;"
            " resample the source first, or convert to learn2reg"
        )
    _voxels(path, ddf, ends)


def _write_vectors(path: Path, values: np.ndarray, grid: Grid, name: str) -> None:
    matrix = grid.affine.numpy()
    check_orthogonal("affine", matrix)
    image = nibabel.Nifti1Image(values.astype(np.float32), matrix)
    image.set_sform(matrix, code=1)
    image.set_qform(matrix, code=1)
    image.header.set_xyzt_units("mm")
    image.header.set_intent("vector", name=name)
    write_nifti(path, image)


def _volume(grid: Grid) -> Grid:
    return grid if grid.spatial_dims == 3 else Grid((*grid.shape, 1), grid.affine)


_LINEAR: dict[str, tuple[str, Callable[[Tensor, Grid, Grid], str]]] = {
    "flirt": ("flirt.mat", flirt_text),
    "lta": ("affine.lta", lta_text),
    "matrix": ("affine.txt", matrix_text),
    "afni": ("affine.aff12.1D", afni_text),
}
_WRITERS: dict[str, Callable[[TransformChain, Ends, Path], None]] = {
    "itk": _composite(".h5"),
    "tfm": _composite(".tfm"),
    "ants": _ants,
    "elastix": _elastix,
    "nrrd": _nrrd,
    "nitransforms": _dense(("ddf.x5", "inverse_ddf.x5"), _x5),
    "fsl": _dense(("warp.nii.gz", "inverse_warp.nii.gz"), _fsl),
    "spm": _dense(("y_source.nii", "iy_source.nii"), _spm),
    "niftyreg": _dense(("deformation.nii.gz", "inverse_deformation.nii.gz"), _niftyreg),
    "learn2reg": _dense(("disp.nii.gz", "inverse_disp.nii.gz"), _voxels),
    "voxelmorph": _dense(("disp.nii.gz", "inverse_disp.nii.gz"), _voxelmorph),
}
CONVERT_FORMATS = (*_WRITERS, *_LINEAR)
"""Formats that `write_chain` writes."""
