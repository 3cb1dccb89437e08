"""Displacement fields in the X5 files of nitransforms: RAS mm, HDF5."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
from torch import Tensor

from medtrace.checks import check_choice
from medtrace.guard.probe import probe
from medtrace.io.nifti import LPS
from medtrace.io.transforms import DisplacementFile, displacement_file, displacement_lps
from medtrace.storage.files import atomic_file

_DOUBLED = "one slice, written twice"


def write_x5(path: Path | str, ddf: Tensor, affine: Tensor) -> None:
    """Write a pull displacement as nitransforms' X5 (needs the package nitransforms).

    A dense field of displacements in RAS mm on its grid, float64. As every transform there, it maps points of the
    reference (the grid of `ddf`) to points of the moving image, so that it resamples as `trace.ddf` does. A single
    slice is written twice, since nitransforms drops axes of length 1.

    Args:
        path: ends in .x5.
        ddf: (2, H, W), written as one slice, or (3, H, W, D), in voxels.
        affine: (4, 4) voxel to RAS mm of the grid that `ddf` is on.

    Raises:
        ImportError: if nitransforms is not installed.
        TypeError, ValueError: as `write_transform`.
    """
    path = Path(path)
    if not path.name.endswith(".x5"):
        raise ValueError(f"path: expected a name ending in .x5, received {path.name!r}")
    x5 = _x5()
    vectors, matrix = displacement_lps(ddf, affine)
    field = np.moveaxis(np.einsum("ij,j...->i...", LPS, vectors), 0, -1)
    notes = {"WrittenBy": "medtrace"}
    if field.shape[2] == 1:
        field = np.repeat(field, 2, axis=2)
        notes["Note"] = _DOUBLED
    node = x5.X5Transform(
        type="nonlinear",
        subtype="densefield",
        representation="displacements",
        metadata=notes,
        transform=field,
        dimension_kinds=("space", "space", "space", "vector"),
        domain=x5.X5Domain(grid=True, size=field.shape[:3], mapping=matrix, coordinates="cartesian"),
    )
    with atomic_file(path) as temporary:
        x5.to_filename(temporary, [node])


def read_x5(path: Path | str, spatial_dims: int = 3) -> DisplacementFile:
    """Read a dense field of displacements from X5 (needs the package nitransforms).

    Args:
        path: the file, holding one transform.
        spatial_dims: 3, or 2 for a field of one slice whose through-plane part is dropped.

    Raises:
        ImportError: if nitransforms is not installed.
        FileNotFoundError: if there is no such file.
        ValueError: if it holds anything else.
    """
    path = Path(path)
    check_choice("spatial_dims", spatial_dims, (2, 3))
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; check the path")
    x5 = _x5()
    probe(x5.from_filename, path, "X5")
    try:
        nodes = x5.from_filename(path)
    except Exception as error:  # h5py may raise any error on a broken file
        raise ValueError(f"{path}: cannot be read as X5 ({error}); write it again") from error
    if len(nodes) != 1 or nodes[0].subtype != "densefield" or nodes[0].domain is None:
        raise ValueError(f"{path}: expected one dense field with its grid, received {[node.type for node in nodes]}")
    node = nodes[0]
    affine = np.asarray(node.domain.mapping, dtype=np.float64)
    field = np.moveaxis(np.asarray(node.transform, dtype=np.float64), -1, 0)
    if field.ndim != 4 or field.shape[0] != 3:
        raise ValueError(f"{path}: expected a field (H, W, D, 3), received shape {np.shape(node.transform)}")
    if node.representation == "deformations":
        voxels = np.indices(field.shape[1:]).reshape(3, -1)
        field = field - (affine[:3, :3] @ voxels + affine[:3, 3:]).reshape(field.shape)
    if (node.metadata or {}).get("Note") == _DOUBLED:
        field = field[..., :1]
    return displacement_file(path, np.einsum("ij,j...->i...", LPS, field), affine, spatial_dims)


def _x5() -> ModuleType:
    try:
        from nitransforms.io import x5
    except ImportError as error:
        raise ImportError("nitransforms: expected to be installed, received none; pip install nitransforms") from error
    return x5
