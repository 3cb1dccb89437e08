"""Displacement fields as NRRD, with the tags by which 3D Slicer takes them for transforms."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import SimpleITK as sitk
from torch import Tensor

from medtrace.checks import check_choice
from medtrace.guard.declared_size import check_nrrd
from medtrace.io.nifti import LPS
from medtrace.io.transforms import displacement_file, displacement_lps, image_affine
from medtrace.storage.files import atomic_write

FieldType = Literal["resampling", "modeling"]
_COMPRESSION = 2  # displacements hardly compress further at ten times the time
TYPE_KEY, INTENT_KEY, DISPLACEMENT_INTENT = "displacement field type", "intent_code", "1006"


class SlicerField(NamedTuple):
    """A displacement read from Slicer's NRRD."""

    ddf: Tensor
    """(spatial_dims, ...) float32, in voxels, array-axis order, on its own grid."""
    affine: Tensor
    """(4, 4) float64, voxel to RAS mm."""
    field_type: FieldType
    """"resampling" (from target to source, as `ddf`) or "modeling" (from source to target, as `inverse_ddf`)."""


def write_slicer_nrrd(path: Path | str, ddf: Tensor, affine: Tensor, field_type: FieldType = "resampling") -> None:
    """Write a displacement as the NRRD that 3D Slicer loads as a transform: LPS mm, float64, gzip.

    The header is the one Slicer itself writes: `kinds: vector domain domain domain`, an identity measurement frame,
    `intent_code:=1006` and `displacement field type:=resampling` or `modeling`. Both types set the same node to move
    the *source*: `trace.ddf` as "resampling" (Slicer's from-parent transform, which resamples volumes), or
    `trace.inverse_ddf` as "modeling" (to parent, which moves markups and models without inverting anything). Slicer
    before 5.10 does not know the tag and takes any file as resampling.

    Args:
        path: ends in .nrrd.
        ddf: (2, H, W), written as one slice, or (3, H, W, D), in voxels.
        affine: (4, 4) voxel to RAS mm of the grid that `ddf` is on.
        field_type: the direction to write into the header.

    Raises:
        TypeError: if ddf or affine is not a tensor.
        ValueError: if a shape is wrong, a number is not finite, the ending is unknown or the affine is sheared.
        FileNotFoundError: if the folder does not exist.
    """
    path = Path(path)
    if not path.name.endswith(".nrrd"):
        raise ValueError(f"path: expected a name ending in .nrrd, received {path.name!r}")
    check_choice("field_type", field_type, get_args(FieldType))
    vectors, matrix = displacement_lps(ddf, affine)
    header = _header(vectors.shape[1:], matrix, field_type)
    data = np.asarray(vectors, dtype="<f8").tobytes(order="F")
    atomic_write(path, header.encode("ascii") + gzip.compress(data, compresslevel=_COMPRESSION, mtime=0))


def read_slicer_nrrd(path: Path | str, spatial_dims: int = 3) -> SlicerField:
    """Read a displacement field that Slicer, ITK or `write_slicer_nrrd` wrote as NRRD (vectors in LPS mm).

    Args:
        path: the file. Without Slicer's tag it counts as resampling, as in Slicer and ITK.
        spatial_dims: 3, or 2 for a field of one slice whose through-plane part is dropped.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a 3-D field of 3-vectors, or its tag is unknown.
    """
    path = Path(path)
    check_choice("spatial_dims", spatial_dims, (2, 3))
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; check the path")
    check_nrrd(path)
    try:
        image = sitk.ReadImage(str(path), imageIO="NrrdImageIO")
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ValueError(f"{path}: cannot be read as NRRD ({reason}); write it again") from error
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 3:
        raise ValueError(
            f"{path}: expected a 3-D field of 3-vectors, received {image.GetDimension()}-D of"
            f" {image.GetNumberOfComponentsPerPixel()} component(s)"
        )
    kind: Any = image.GetMetaData(TYPE_KEY) if image.HasMetaDataKey(TYPE_KEY) else "resampling"
    if kind not in get_args(FieldType):
        raise ValueError(f"{path}: expected '{TYPE_KEY}' to be resampling or modeling, received {kind!r}; correct it")
    vectors = sitk.GetArrayFromImage(image).T.astype(np.float64)
    read = displacement_file(path, vectors, image_affine(image), spatial_dims)
    return SlicerField(read.ddf, read.affine, kind)


def _header(shape: tuple[int, ...], affine: np.ndarray, field_type: str) -> str:
    def vector(values: np.ndarray) -> str:
        return "(" + ",".join(repr(float(value)) for value in values) + ")"

    directions = " ".join(vector(column) for column in (LPS @ affine[:3, :3]).T)
    return "\n".join(
        [
            "NRRD0005",
            "type: double",
            "dimension: 4",
            "space: left-posterior-superior",
            "sizes: 3 " + " ".join(str(size) for size in shape),
            f"space directions: none {directions}",
            "kinds: vector domain domain domain",
            "endian: little",
            "encoding: gzip",
            f"space origin: {vector(LPS @ affine[:3, 3])}",
            "measurement frame: (1,0,0) (0,1,0) (0,0,1)",
            f"{TYPE_KEY}:={field_type}",
            f"{INTENT_KEY}:={DISPLACEMENT_INTENT}",
            "\n",
        ]
    )
