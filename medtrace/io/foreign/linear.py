"""Linear transforms of FSL, FreeSurfer and AFNI, and plain matrices."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from medtrace.geometry import Grid, is_singular
from medtrace.io.foreign.content import read_text
from medtrace.io.foreign.point_map import Images, Note
from medtrace.io.fsl_warp import fsl_matrix
from medtrace.io.nifti import LPS

_OBLIQUE = np.cos(np.radians(0.01))
"""Largest cosine of an axis to the nearest of the body's axes below which AFNI takes a grid for oblique."""


def affine_transform(matrix_ras: np.ndarray) -> sitk.AffineTransform:
    """ITK's transform of a matrix (4, 4) on points in RAS mm."""
    transform = sitk.AffineTransform(3)
    transform.SetMatrix((LPS @ matrix_ras[:3, :3] @ LPS).ravel().tolist())
    transform.SetTranslation((LPS @ matrix_ras[:3, 3]).tolist())
    return transform


def planar_affine(matrix_ras: np.ndarray) -> sitk.AffineTransform:
    """ITK's 2D transform of what a matrix (4, 4) on points in RAS mm does in the axial plane."""
    transform = sitk.AffineTransform(2)
    transform.SetMatrix(matrix_ras[:2, :2].ravel().tolist())  # both axes are reversed, which changes no plane
    transform.SetTranslation((-matrix_ras[:2, 3]).tolist())
    return transform


def read_flirt(path: Path, images: Images) -> tuple[sitk.Transform, list[Note]]:
    """A matrix of FLIRT: from the input (source) to the reference (target), both in FSL's millimeters."""
    matrix = _numbers(path)
    to_fsl = [fsl_matrix(grid.affine, grid.shape).numpy() for grid in (images.source, images.target)]
    source, target = (grid.affine.numpy() for grid in (images.source, images.target))
    pull = source @ np.linalg.inv(to_fsl[0]) @ np.linalg.inv(matrix) @ to_fsl[1] @ np.linalg.inv(target)
    return affine_transform(pull), [
        Note(path.name, "taken as FLIRT's matrix from source (-in) to target (-ref), in FSL's millimeters")
    ]


def read_ras_matrix(path: Path) -> tuple[sitk.Transform, list[Note]]:
    """A matrix on points in RAS mm, from the target to the source: of greedy, c3d_affine_tool and NiftyReg."""
    return affine_transform(_numbers(path)), [Note(path.name, "taken as a matrix from target to source, in RAS mm")]


def read_afni(path: Path, images: Images) -> tuple[sitk.Transform, list[Note]]:
    """A matrix of 3dAllineate or 3dvolreg (.aff12.1D): from the base (target) to the input (source), LPS mm."""
    rows = [line for line in read_text(path).splitlines() if line.strip() and not line.lstrip().startswith("#")]
    values = np.array([float(word) for row in rows for word in row.split()])
    if values.size != 12:
        raise ValueError(
            f"{path}: holds {values.size // 12} matrices, one for each time point; write the one you need into its"
            " own file"
        )
    try:
        check_upright("source", images.source)
        check_upright("target", images.target)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    lps = np.vstack([values.reshape(3, 4), [0, 0, 0, 1]])
    _check(path, lps)
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    return affine_transform(flip @ lps @ flip), [Note(path.name, "taken as AFNI's matrix from target to source, LPS")]


def check_upright(name: str, grid: Grid) -> None:
    """Check that a grid is not oblique.

    Raises:
        ValueError: if it is, with what AFNI does then.
    """
    axes = (grid.affine[:3, :3] / grid.affine[:3, :3].norm(dim=0)).numpy()
    if np.abs(axes).max(axis=0).min() < _OBLIQUE:
        raise ValueError(
            f"is AFNI's, which turns an oblique image upright before it applies a matrix, and the {name} is oblique;"
            " use the images after 3dWarp -deoblique, or convert to ITK's format"
        )


def read_lta(path: Path, images: Images) -> tuple[sitk.Transform, list[Note]]:
    """FreeSurfer's LTA of voxels or RAS mm: from `src` to `dst`, of which either may be the source."""
    text = re.sub(r"#.*", "", read_text(path))
    kind, matrix = _lta_matrix(path, text)
    volumes = {name: _lta_volume(path, text, name) for name in ("src", "dst")}
    notes = []
    if kind == 0:
        if None in volumes.values():
            raise ValueError(
                f"{path}: maps voxels to voxels but does not describe both volumes; run lta_convert --inlta FILE"
                " --src SRC --trg DST --outlta OUT"
            )
        source, target = (volume.affine.numpy() for volume in volumes.values() if volume is not None)
        matrix = target @ matrix @ np.linalg.inv(source)
    same = {
        (own, name): volume is not None and volume.coincides(grid)
        for own, volume in volumes.items()
        for name, grid in (("source", images.source), ("target", images.target))
    }
    forward = same["src", "source"] + same["dst", "target"]
    backward = same["src", "target"] + same["dst", "source"]
    if backward > forward:
        notes.append(Note(path.name, "its src is the target and its dst the source, so it is applied as it stands"))
        return affine_transform(matrix), notes
    if not forward:
        notes.append(Note(path.name, "names neither image's grid; src is taken as the source and dst as the target"))
    return affine_transform(np.linalg.inv(matrix)), notes


def _lta_matrix(path: Path, text: str) -> tuple[int, np.ndarray]:
    kind, count = (re.search(rf"(?m)^[ \t]*{name}[ \t]*=[ \t]*(-?\d{{1,9}})\b", text) for name in ("type", "nxforms"))
    if kind is None or count is None or int(kind[1]) not in (0, 1) or int(count[1]) != 1:
        raise ValueError(
            f"{path}: expected an LTA of type 0 (voxels) or 1 (RAS) with one transform, received type"
            f" {kind[1] if kind else '?'} with {count[1] if count else '?'}; run lta_convert --inlta FILE --outlta OUT"
        )
    result = re.search(r"(?m)^[ \t]*1[ \t]+4[ \t]+4[ \t]*\n", text)
    words = [] if result is None else text[result.end() :].split()[:16]
    try:
        matrix = np.array([float(word) for word in words]).reshape(4, 4)
    except ValueError as error:
        raise ValueError(f"{path}: expected 16 numbers after '1 4 4' in the LTA; write it again") from error
    _check(path, matrix)
    return int(kind[1]), matrix


def _lta_volume(path: Path, text: str, name: str) -> Grid | None:
    """The grid that an LTA describes, None where it says that it knows none."""
    result = re.search(rf"(?m)^[ \t]*{name} volume info[ \t]*\n((?:[ \t]*\w+[ \t]*=.*(?:\n|$))+)", text)
    entries = {} if result is None else dict(re.findall(r"(?m)^[ \t]*(\w+)[ \t]*=[ \t]*(.*)$", result[1]))
    if not entries or entries.get("valid", "0").split()[:1] != ["1"]:
        return None
    try:
        shape = tuple(int(word) for word in entries["volume"].split())
        spacing = np.array([float(word) for word in entries["voxelsize"].split()])
        columns = [[float(word) for word in entries[f"{axis}ras"].split()] for axis in "xyz"]
        center = np.array([float(word) for word in entries["cras"].split()])
        affine = np.eye(4)
        affine[:3, :3] = np.array(columns).T * spacing
        affine[:3, 3] = center - affine[:3, :3] @ (np.array(shape) / 2)
        return Grid(shape, torch.from_numpy(affine))
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path}: its {name} volume info cannot be read ({error}); write it again") from error


def _numbers(path: Path) -> np.ndarray:
    rows = [line for line in read_text(path).splitlines() if line.strip() and not line.lstrip().startswith("#")]
    matrix = np.array([[float(word) for word in row.replace(",", " ").split()] for row in rows])
    _check(path, matrix)
    return matrix


def _check(path: Path, matrix: np.ndarray) -> None:
    if not np.isfinite(matrix).all() or not np.allclose(matrix[3], [0, 0, 0, 1], atol=1e-9) or is_singular(matrix):
        raise ValueError(f"{path}: expected an invertible affine matrix with last row 0 0 0 1; write it again")
