"""NIfTI files of vectors: displacements or absolute coordinates, measured where the header does not tell."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
import torch

from medtrace.geometry import Grid
from medtrace.io.foreign.content import Kind
from medtrace.io.foreign.point_map import Images, Note
from medtrace.io.fsl_warp import fsl_matrix, read_fsl_warp
from medtrace.io.learn2reg import read_learn2reg
from medtrace.io.nifti import DOUBLED, LPS, check_orthogonal, read_nifti
from medtrace.io.transforms import check_grid, displacement_lps, is_axial, itk_transform

ABSOLUTE, DISPLACEMENT = "absolute", "displacement"
_VECTOR, _RAS_DISPLACEMENT = 1007, 1006
_FSL = range(2006, 2020)
_APART = 1.0
"""Margin, on a logarithmic scale, by which one reading must keep volumes nearer to 1 than the other."""
_SAMPLES = 64


class VectorFile(NamedTuple):
    """A NIfTI file of vectors."""

    path: Path
    vectors: np.ndarray
    """(2 or 3, H, W, D) float64, as stored."""
    grid: Grid
    intent: int
    intent_name: str
    parameter: float
    five_axes: bool
    """Whether the vectors stand along the fifth axis, as NIfTI says, and not the fourth."""


def read_vector_file(path: Path) -> VectorFile:
    """Read (H, W, D, 1, 3), (H, W, 1, 1, 2) or (H, W, D, 3).

    Raises:
        ValueError: if it is none of these, or holds NaN or infinity.
    """
    data, matrix, header = read_nifti(path)
    five = data.ndim == 5 and data.shape[3] == 1 and data.shape[4] in (2, 3)
    if not (five or (data.ndim == 4 and data.shape[3] == 3)) or (five and data.shape[4] == 2 and data.shape[2] != 1):
        raise ValueError(
            f"{path}: expected a field (H, W, D, 1, 3), (H, W, 1, 1, 2) or (H, W, D, 3), received shape {data.shape}"
        )
    if bytes(header["descrip"]).rstrip(b"\0") == DOUBLED and data.shape[2] == 2:
        data = data[:, :, :1]
    vectors = np.moveaxis(data[:, :, :, 0] if five else data, -1, 0).astype(np.float64)
    if not np.isfinite(vectors).all():
        missing = int((~np.isfinite(vectors)).any(axis=0).sum())
        raise ValueError(
            f"{path}: expected finite vectors, received NaN or infinity at {missing} voxel(s); fill them in, or crop"
            " the field to where it is known"
        )
    check_grid(path, matrix)
    name = bytes(header["intent_name"]).rstrip(b"\0").decode("latin-1").strip()
    grid = Grid(vectors.shape[1:], torch.from_numpy(matrix))
    return VectorFile(path, vectors, grid, int(header["intent_code"]), name, float(header["intent_p1"]), five)


def format_of(file: VectorFile) -> str:
    """The program whose file this is, by its shape, its intent and the size of its vectors.

    Raises:
        ValueError: if it may be that of several programs; the message states which to name.
    """
    if file.intent_name == "NREG_TRANS":
        return "niftyreg"
    if file.intent in _FSL:
        return "fsl"
    if not file.five_axes:
        raise ValueError(
            f"{file.path}: a field (H, W, D, 3) may hold voxels (Learn2Reg, VoxelMorph) or FSL's millimeters; name the"
            " program with --format learn2reg, voxelmorph or fsl"
        )
    if file.intent == _RAS_DISPLACEMENT or file.vectors.shape[0] == 2:
        return "itk"
    if file.intent != _VECTOR:
        raise ValueError(
            f"{file.path}: expected intent code 1007 (a vector) or 1006 (a displacement), received {file.intent};"
            " convert the field with the program that wrote it"
        )
    kind = measured_kind(file.vectors, file.grid)
    if kind is None and file.intent_name == "Mapping":  # as SPM calls its coordinates
        return "spm"
    if kind is None:
        raise ValueError(
            f"{file.path}: holds displacements (ITK, ANTs) or coordinates (SPM), and its numbers do not show which;"
            " name the program with --format ants or --format spm"
        )
    return "itk" if kind == DISPLACEMENT else "spm"


def measured_kind(
    vectors: np.ndarray, grid: Grid, frame: np.ndarray | None = None, sign: np.ndarray = LPS
) -> str | None:
    """Whether vectors are coordinates or displacements: by which reading a voxel keeps about its volume.

    A map of one body onto another neither flattens nor multiplies it. Read as displacements, coordinates do:
    from RAS to LPS they cancel the position, else they double it. Read as coordinates, displacements leave next to
    nothing of the volume.

    Args:
        vectors: (3, H, W, D) in mm.
        grid: on which they are defined.
        frame: (4, 4) from voxels to the millimeters of the coordinates; None is the grid's affine.
        sign: (3, 3) between displacements and coordinates: displacements in LPS, coordinates in RAS.

    Returns:
        "absolute", "displacement", or None where the two readings are about as likely.
    """
    axes = [axis for axis, size in enumerate(grid.shape) if size > 1]
    if not axes:
        return DISPLACEMENT
    steps = [max(1, size // _SAMPLES) for size in grid.shape]
    index = np.stack(np.meshgrid(*(np.arange(0, n, k) for n, k in zip(grid.shape, steps)), indexing="ij"))
    values = vectors[(slice(None), *(slice(None, None, k) for k in steps))].reshape(3, -1)
    design = np.concatenate([index.reshape(3, -1)[axes], np.ones((1, values.shape[1]))]).T
    slope = np.linalg.lstsq(design, values.T, rcond=None)[0][:-1].T
    own = (grid.affine.numpy() if frame is None else frame)[:3, axes]
    lengths = np.linalg.norm(own, axis=0)
    ratios = [_volume(columns / lengths) / _volume(own / lengths) for columns in (slope, own + sign @ slope)]
    absolute, displacement = (abs(np.log(max(ratio, 1e-12))) for ratio in ratios)
    if absolute + _APART < displacement:
        return ABSOLUTE
    return DISPLACEMENT if displacement + _APART < absolute else None


def _volume(columns: np.ndarray) -> float:
    return float(np.sqrt(max(0.0, np.linalg.det(columns.T @ columns))))


def _expect(file: VectorFile, wanted: str, format_: str, remedy: str, sign: np.ndarray = LPS) -> None:
    kind = measured_kind(file.vectors, file.grid, sign=sign)
    if kind not in (wanted, None):
        other = "absolute coordinates" if kind == ABSOLUTE else "displacements"
        raise ValueError(f"{file.path}: expected {wanted} vectors for --format {format_}, received {other}; {remedy}")


def read_itk_vectors(file: VectorFile) -> tuple[sitk.Transform, list[Note]]:
    """Displacements in mm, LPS (intent 1007, ITK and ANTs) or RAS (1006, NIfTI's own), in 2D or 3D."""
    if not file.five_axes or file.intent not in (0, _VECTOR, _RAS_DISPLACEMENT):
        raise ValueError(
            f"{file.path}: expected a displacement field (H, W, D, 1, 3) of intent 1007, 1006 or 0, received shape"
            f" {file.vectors.shape[1:] + file.vectors.shape[:1]} of intent {file.intent}; name its program by --format"
        )
    if file.intent_name == "NREG_TRANS":
        raise ValueError(f"{file.path}: is NiftyReg's; use --format niftyreg")
    if file.vectors.shape[0] == 2:
        return planar_transform(file.vectors[..., 0], file.grid, file.path), []
    sign = np.eye(3) if file.intent == _RAS_DISPLACEMENT else LPS
    _expect(file, DISPLACEMENT, "itk or ants", "if it is SPM's y_ or iy_ file, use --format spm", sign)
    if file.intent == _RAS_DISPLACEMENT:
        return _field(file, np.einsum("ij,j...->i...", LPS, file.vectors)), []
    return _field(file, file.vectors), [Note(file.path.name, "taken as ITK's displacements, in LPS mm")]


def read_spm(file: VectorFile) -> tuple[sitk.Transform, list[Note]]:
    """The origin of each voxel, in RAS mm of the source (SPM's y_ and iy_ files)."""
    if not file.five_axes or file.vectors.shape[0] != 3:
        raise ValueError(f"{file.path}: expected SPM's coordinates (H, W, D, 1, 3), received {file.vectors.shape}")
    _expect(file, ABSOLUTE, "spm", "if it is a warp of ITK or ANTs, use --format ants")
    return _absolute(file), [Note(file.path.name, "taken as SPM's coordinates, in RAS mm of the source")]


def read_niftyreg(file: VectorFile) -> tuple[sitk.Transform, list[Note]]:
    """NiftyReg's deformation (coordinates) or displacement field, in RAS mm."""
    if file.intent_name != "NREG_TRANS" or file.parameter not in (0, 1) or file.vectors.shape[0] != 3:
        raise ValueError(
            f"{file.path}: expected a deformation or displacement field of NiftyReg, received kind {file.parameter:g};"
            " run reg_transform -def FILE OUT"
        )
    if file.parameter == 0:
        return _absolute(file), []
    return _field(file, np.einsum("ij,j...->i...", LPS, file.vectors)), []


def read_fsl(file: VectorFile, images: Images) -> tuple[sitk.Transform, list[Note]]:
    """A warp of FSL, relative or absolute by what is measured."""
    if file.five_axes:
        raise ValueError(f"{file.path}: expected FSL's warp (H, W, D, 3), received five axes; name its program")
    _on_target(file, images)
    frame = fsl_matrix(file.grid.affine, file.grid.shape).numpy()
    kind = None if file.intent > 2006 else measured_kind(file.vectors, file.grid, frame, np.eye(3))
    ddf, affine = read_fsl_warp(file.path, images.source.affine, images.source.shape, absolute=kind == ABSOLUTE)
    text = "absolute (--abs)" if kind == ABSOLUTE else "relative (--rel)"
    return itk_transform(*displacement_lps(ddf, affine)), [Note(file.path.name, f"taken as FSL's {text} warp")]


def read_voxels(path: Path, kind: Kind, images: Images, format_: str) -> tuple[sitk.Transform, list[Note]]:
    """Displacements in voxels of the moving image, on the fixed image's grid (Learn2Reg, VoxelMorph)."""
    if format_ == "voxelmorph" and not images.source.coincides(images.target):
        raise ValueError(
            f"{path}: expected the source on the target's grid for VoxelMorph, which knows one grid, received two;"
            " give the images that the network was given"
        )
    if kind is Kind.NIFTI:
        file = read_vector_file(path)
        if measured_kind(file.vectors, file.grid, np.eye(4), np.eye(3)) == ABSOLUTE:
            raise ValueError(
                f"{path}: expected displacements in voxels for --format {format_}, received absolute coordinates;"
                " subtract each voxel's own"
            )
    ddf = read_learn2reg(path, images.target.affine, images.source.affine)
    if tuple(ddf.shape[1:]) != images.target.shape:
        raise ValueError(
            f"{path}: expected a field on the grid {images.target.shape} of the target, received {tuple(ddf.shape[1:])}"
        )
    note = Note(path.name, "taken as voxels of the moving image, on the fixed image's grid")
    return itk_transform(*displacement_lps(ddf, images.target.affine)), [note]


def planar_transform(vectors: np.ndarray, grid: Grid, path: Path | str) -> sitk.Transform:
    """ITK's 2D transform of (2, H, W) vectors, LPS mm, on a grid of one axial slice."""
    linear, origin = (LPS @ grid.affine.numpy()[:3, :3])[:2, :2], (LPS @ grid.affine.numpy()[:3, 3])[:2]
    spacing = np.linalg.norm(linear, axis=0)
    if not is_axial(grid.affine):
        raise ValueError(f"{path}: expected a 2D field in an axial plane, received another; write it as a volume")
    image = sitk.GetImageFromArray(np.ascontiguousarray(vectors.T, dtype=np.float64), isVector=True)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((linear / spacing).ravel().tolist())
    image.SetOrigin(origin.tolist())
    return sitk.DisplacementFieldTransform(image)


def _absolute(file: VectorFile) -> sitk.Transform:
    where = np.stack(np.meshgrid(*map(np.arange, file.grid.shape), indexing="ij")).reshape(3, -1)
    affine = file.grid.affine.numpy()
    own = (affine[:3, :3] @ where + affine[:3, 3:]).reshape(file.vectors.shape)
    return _field(file, np.einsum("ij,j...->i...", LPS, file.vectors - own))


def _field(file: VectorFile, vectors_lps: np.ndarray) -> sitk.Transform:
    try:
        check_orthogonal("affine", file.grid.affine.numpy())
    except ValueError as error:
        raise ValueError(f"{file.path}: {error}") from error
    return itk_transform(vectors_lps, file.grid.affine.numpy())


def _on_target(file: VectorFile, images: Images) -> None:
    if not file.grid.coincides(images.target):
        raise ValueError(
            f"{file.path}: expected a field on the grid {images.target.shape} of the target, received"
            f" {file.grid.shape}{'' if file.grid.shape != images.target.shape else ' elsewhere'}; give the image that"
            " was the reference"
        )
