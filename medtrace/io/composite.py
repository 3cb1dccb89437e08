"""A field and the rigid parts around it as one ITK composite transform: from grid to original scan in one file."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from medtrace.checks import check_choice, check_finite
from medtrace.geometry.grid import is_singular
from medtrace.io.nifti import LPS
from medtrace.io.transforms import displacement_lps, itk_transform, itk_transform_of, write_itk
from medtrace.trace import Trace

SUFFIXES = (".h5", ".hdf5", ".tfm", ".txt")
_RIGID = 1e-6
_LINEAR_BYTES = 1 << 20


def write_composite(
    path: Path | str,
    trace: Trace,
    moves: str = "source",
    *,
    source_transform: Tensor | None = None,
    target_transform: Tensor | None = None,
) -> None:
    """Write all that lies between two scans as one ITK composite transform, in the resampling direction.

    With `moves="source"` it leads from points of the target scan to points of the source scan: out of the target's
    frame (the inverse of `target_transform`), through `ddf`, into the source's frame (`source_transform`).
    `SimpleITK.Resample` with it brings the source scan as given onto the target. With `moves="image"` it is
    the way back, through `inverse_ddf`.

    A motion leads from the trace's frame to that of the scan as given, in RAS mm: where an image was aligned
    with a fixed one, it is the motion from the fixed to the moving one (`RigidTransform.matrix`, and the `rigid/*.tfm`
    of a prepared dataset, which are target motions). Crops, padding, resampling and reorientation need none: the
    affines hold them. Outside the field's grid ITK takes the displacement as 0.

    Args:
        path: ends in .h5 (compact), .tfm or .txt (text: large, and slow to read).
        trace: whose fields.
        moves: "source" or "image", what the file resamples.
        source_transform: (4, 4), affine; None is the identity.
        target_transform: likewise, of the target.

    Raises:
        TypeError: if a motion is not a tensor.
        ValueError: if the ending is unknown, a motion is not an affine or singular, or the grid is sheared.
        FileNotFoundError: if the folder does not exist.
    """
    path = Path(path)
    if not path.name.endswith(SUFFIXES):
        raise ValueError(f"path: expected a name ending in {', '.join(SUFFIXES)}, received {path.name!r}")
    check_choice("moves", moves, ("source", "image"))
    composite = composite_transform(trace, moves, source_transform, target_transform)
    write_itk(path, composite)


def composite_transform(
    trace: Trace, moves: str, source_transform: Tensor | None = None, target_transform: Tensor | None = None
) -> sitk.CompositeTransform:
    """The transform that `write_composite` writes; parts that are the identity are left out."""
    to_source = motion_matrix("source_transform", source_transform)
    to_target = motion_matrix("target_transform", target_transform)
    if moves == "source":
        field, affine, before, after = trace.ddf, trace.affine, np.linalg.inv(to_target), to_source
    else:
        field, affine, before, after = trace.inverse_ddf, trace.source_affine, np.linalg.inv(to_source), to_target
    parts: list[sitk.Transform] = []
    if not np.array_equal(after, np.eye(4)):
        parts.append(linear_transform(after))
    parts.append(itk_transform(*displacement_lps(field, affine)))
    if not np.array_equal(before, np.eye(4)):
        parts.append(linear_transform(before))
    return sitk.CompositeTransform(parts)  # the last is applied first


def linear_transform(matrix_ras: np.ndarray) -> sitk.Transform:
    """ITK's transform (LPS) of a 4x4 RAS matrix: Euler3D where it is rigid, else affine."""
    linear, offset = LPS @ matrix_ras[:3, :3] @ LPS, LPS @ matrix_ras[:3, 3]
    rigid = np.allclose(linear @ linear.T, np.eye(3), atol=_RIGID) and np.linalg.det(linear) > 0
    transform = sitk.Euler3DTransform() if rigid else sitk.AffineTransform(3)
    if rigid:
        transform.SetMatrix(linear.ravel().tolist(), 1e-4)
    else:
        transform.SetMatrix(linear.ravel().tolist())
    transform.SetTranslation(offset.tolist())
    return transform


def read_motion(path: Path | str) -> Tensor:
    """Read a linear ITK transform (rigid or affine; also the `rigid/*.tfm` of a prepared dataset and ANTs's `.mat`).

    Returns:
        (4, 4) float64, on points in RAS mm, in the file's own direction (ITK's: from fixed to moving).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read or is not linear and 3-D.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; check the path")
    _check_size(path)
    check_matlab(path)
    transform = itk_transform_of(path)
    if transform.GetDimension() != 3 or not transform.IsLinear():
        raise ValueError(
            f"{path}: expected a linear 3-D transform, received {transform.GetName()} in {transform.GetDimension()}-D"
        )
    corner = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    columns = [np.array(transform.TransformPoint(tuple(unit))) - corner for unit in np.eye(3).tolist()]
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = LPS @ np.stack(columns, axis=1) @ LPS, LPS @ corner
    if not np.isfinite(matrix).all():
        raise ValueError(f"{path}: expected finite numbers, received NaN or infinity; write it again")
    return torch.from_numpy(matrix)


def _check_size(path: Path) -> None:
    """Check that a file is as small as linear transforms are."""
    if path.stat().st_size > _LINEAR_BYTES:
        raise ValueError(f"{path}: expected a linear transform, received {path.stat().st_size} bytes; check the path")


def check_matlab(path: Path) -> None:
    """Check that a `.mat` file is as large as its matrices claim.

    Raises:
        ValueError: if it is not.
    """
    if path.suffix != ".mat":
        return
    content, place = path.read_bytes(), 0
    while place < len(content):  # Matlab, version 4: kind, rows, columns, imaginary, length of the name; then both
        kind, rows, columns, imaginary, name = struct.unpack("<5i", content[place : place + 20].ljust(20, b"\xff"))
        each = {0: 8, 10: 4}.get(kind, 0)
        if not each or rows < 1 or columns < 1 or imaginary != 0 or not 1 <= name <= 64:
            raise ValueError(f"{path}: cannot be read as a Matlab file of real matrices; write it again")
        place += 20 + name + rows * columns * each
    if place != len(content):
        raise ValueError(f"{path}: its matrices claim {place} bytes, the file has {len(content)}; write it again")


def motion_matrix(name: str, motion: Tensor | None) -> np.ndarray:
    """A motion as a checked float64 array (4, 4); the identity for None."""
    if motion is None:
        return np.eye(4)
    if not isinstance(motion, Tensor):
        raise TypeError(f"{name}: expected a torch tensor, received {type(motion).__name__}; use torch.as_tensor")
    if motion.shape != (4, 4):
        raise ValueError(f"{name}: expected shape (4, 4), received {tuple(motion.shape)}")
    check_finite(name, motion)
    matrix = motion.detach().cpu().double().numpy()
    if matrix[3].tolist() != [0.0, 0.0, 0.0, 1.0] or is_singular(matrix):
        raise ValueError(f"{name}: expected an invertible affine matrix with last row 0 0 0 1, received {matrix}")
    return matrix
