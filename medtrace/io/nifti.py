"""NIfTI images and vector fields: right geometry for nibabel and for ITK."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import nibabel
import numpy as np
import torch
from torch import Tensor

from medtrace.checks import check_choice, check_finite
from medtrace.geometry.grid import check_invertible
from medtrace.geometry.volume import Volume, channels_first, read_volume
from medtrace.storage.encoders import write_nifti

StorageType = Literal["float32", "float64", "int16", "uint8"]
_WHOLE = (np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64)
"""Types that hold labels, the smallest first."""
SHEAR_TOLERANCE = 1e-4
"""Largest cosine between two axes of a grid that still counts as orthogonal."""
LPS = np.diag([-1.0, -1.0, 1.0])
"""Between RAS, which NIfTI affines lead to, and LPS, which ITK works in; its own inverse."""
_VECTOR, _RAS_DISPLACEMENT = 1007, 1006
DOUBLED = b"one slice, written twice"
NAMED = {"Mapping": "SPM", "NREG_TRANS": "NiftyReg"}
"""Intent names by which programs mark fields that ITK would take for its own."""


def check_orthogonal(name: str, affine: np.ndarray) -> None:
    """Check that a grid's axes are at right angles, as ITK and NIfTI's quaternion need.

    Args:
        name: the affine's name, for the message.
        affine: (4, 4) voxel to mm.

    Raises:
        ValueError: if they are not, to 1e-4 of a cosine.
    """
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    cosine = float(np.abs(axes.T @ axes - np.eye(3)).max())
    if cosine > SHEAR_TOLERANCE:
        raise ValueError(
            f"{name}: expected axes at right angles, received a sheared affine (cosine {cosine:.4f} between two axes),"
            " which ITK files cannot hold; resample the image to an orthogonal grid first (nibabel.processing"
            ".conform, or monai.transforms.SpatialResample)"
        )


def write_image(path: Path | str, image: Tensor, affine: Tensor, dtype: StorageType | None = None) -> None:
    """Write an image as NIfTI; labels as whole numbers, which nothing scales.

    Args:
        path: ends in .nii or .nii.gz.
        image: (C, H, W), written as one slice, or (C, H, W, D). Several channels become the fourth axis of a
            scalar image (H, W, D, C), since ITK reads a vector image of one slice as 2-D; resample them one by one.
        affine: (4, 4) voxel to RAS mm, at right angles; becomes the qform and the sform.
        dtype: "float32", "float64", "int16" with NIfTI's slope and intercept (1/65535 of the range; none where the
            image holds whole numbers of that type), or "uint8" for labels from 0 to 255. By default float32 and, of a
            tensor of integers or booleans, the smallest integer type that holds it.

    Raises:
        TypeError: if image or affine is not a tensor.
        ValueError: if a shape is wrong, the affine is sheared, a number is not finite, or a label does not fit.
    """
    check_choice("dtype", dtype, (None, *get_args(StorageType)))
    values = _slices("image", image).numpy()
    if dtype == "uint8":
        if not _holds(np.uint8, values):
            raise ValueError(
                "image: expected whole numbers from 0 to 255 for uint8, received others; use another dtype"
            )
        values = values.astype(np.uint8)
    elif dtype is None and values.dtype.kind in "biu":
        values = values.astype(next(kind for kind in _WHOLE if _holds(kind, values)))
    elif dtype == "int16" and _holds(np.int16, values):
        values = values.astype(np.int16)
    elif values.dtype.kind != "f":
        values = values.astype(np.float64 if dtype == "float64" else np.float32)
    kept = values.dtype.name if dtype is None else dtype
    data = values[0] if values.shape[0] == 1 else np.moveaxis(values, 0, -1)
    _write(Path(path), data, affine, kept)


def read_nifti_image(path: Path | str) -> tuple[Tensor, Tensor]:
    """Read an image written by `write_image`, or any NIfTI or FreeSurfer volume (see `medtrace.geometry.volume`).

    Args:
        path: the file.

    Returns:
        (C, H, W, D) float32, or float64 where stored so, and its affine, (4, 4) float64, voxel to RAS mm. Channels
        are the fourth axis, or the fifth of a vector image; a 2D image is one slice.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, or has more axes.
    """
    data, affine, _ = read_volume(Path(path))
    return _tensor(channels_first(Path(path), data)), torch.from_numpy(affine)


def write_vectors(path: Path | str, vectors_lps: np.ndarray, affine: Tensor, planar: bool = False) -> None:
    """Write (3, H, W, D) vectors in LPS mm as ITK and ANTs do: (H, W, D, 1, 3), vector intent, float32.

    A single slice is written twice, and the header says so: SimpleITK reads a vector file of one slice as a
    2-D image of 3-vectors, which no transform accepts. ANTs does, for images in 2D: `planar` writes it once.
    """
    single = vectors_lps.shape[-1] == 1 and not planar
    data = np.repeat(vectors_lps, 2, axis=-1) if single else vectors_lps
    _write(Path(path), np.moveaxis(data, 0, -1)[..., None, :], affine, "float32", DOUBLED if single else b"")


def read_vectors(path: Path | str) -> tuple[np.ndarray, np.ndarray]:
    """Read (3, H, W, D) vectors, returned in LPS mm and as precise as the file holds them, and the affine (4, 4).

    Vector intent (1007) holds LPS, as ITK and ANTs write it; displacement intent (1006) holds RAS, as NIfTI
    says.
    """
    data, affine, header = read_nifti(Path(path))
    if data.ndim == 5 and data.shape[2:] == (1, 1, 2):  # a field of 2D, which moves nothing through its plane
        data = np.concatenate([data, np.zeros_like(data[..., :1])], axis=-1)
    if data.ndim != 5 or data.shape[3:] != (1, 3):
        raise ValueError(f"{path}: expected a displacement field (H, W, D, 1, 3), received shape {data.shape}")
    intent = int(header["intent_code"])
    if intent not in (_VECTOR, _RAS_DISPLACEMENT):
        raise ValueError(
            f"{path}: expected intent code 1007 (ITK's displacement field, LPS) or 1006 (RAS), received {intent};"
            " convert the field with the program that wrote it"
        )
    name = bytes(header["intent_name"]).rstrip(b"\0").decode("latin-1")
    if name in NAMED:
        raise ValueError(
            f"{path}: is a field of {NAMED[name]}, not of ITK; read it with `medtrace import` or"
            " medtrace.io.foreign.read_point_map"
        )
    if bytes(header["descrip"]).rstrip(b"\0") == DOUBLED and data.shape[2] == 2:
        data = data[:, :, :1]
    vectors = np.moveaxis(data[..., 0, :], -1, 0)
    if intent == _RAS_DISPLACEMENT:
        vectors = np.einsum("ij,j...->i...", LPS, vectors)
    return vectors, affine


def _slices(name: str, image: Tensor) -> Tensor:
    if not isinstance(image, Tensor):
        raise TypeError(f"{name}: expected a torch tensor, received {type(image).__name__}; convert it first")
    if image.ndim not in (3, 4) or image.numel() == 0:
        raise ValueError(f"{name}: expected (channel, H, W) or (channel, H, W, D), received {tuple(image.shape)}")
    check_finite(name, image)
    image = image.detach().as_subclass(Tensor).cpu()
    image = image.float() if image.is_floating_point() and image.dtype != torch.float64 else image
    return image.unsqueeze(-1) if image.ndim == 3 else image


def _holds(kind: type[np.number], values: np.ndarray) -> bool:
    """Whether a type of whole numbers holds the values as they are."""
    low, high = np.iinfo(kind).min, np.iinfo(kind).max  # type: ignore[type-var]
    if not (low <= values.min() and values.max() <= high):
        return False
    return values.dtype.kind in "biu" or bool((values == np.rint(values)).all())


def _write(path: Path, data: np.ndarray, affine: Tensor, dtype: str, description: bytes = b"") -> None:
    if not path.name.endswith((".nii", ".nii.gz")):
        raise ValueError(f"path: expected a name ending in .nii or .nii.gz, received {path.name!r}")
    matrix = affine_array("affine", affine)
    check_orthogonal("affine", matrix)
    image = nibabel.Nifti1Image(data, matrix)
    image.set_data_dtype(dtype)
    image.set_sform(matrix, code=1)
    image.set_qform(matrix, code=1)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = description
    if data.ndim == 5:
        image.header.set_intent("vector")
    write_nifti(path, image)


def read_nifti(path: Path) -> Volume:
    """Voxels, affine and header of a NIfTI file, as `medtrace.geometry.volume` reads them.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, or is a FreeSurfer volume, which has no vector intent.
    """
    volume = read_volume(path)
    if not isinstance(volume.header, nibabel.Nifti1Header):
        raise ValueError(f"{path}: expected NIfTI, received a FreeSurfer volume; convert it first")
    return volume


def _tensor(data: np.ndarray) -> Tensor:
    kind = np.float64 if data.dtype == np.float64 else np.float32
    return torch.from_numpy(np.ascontiguousarray(data, dtype=kind))


def affine_array(name: str, affine: Tensor) -> np.ndarray:
    """An affine as a float64 array (4, 4), checked."""
    if not isinstance(affine, Tensor):
        raise TypeError(f"{name}: expected a torch tensor, received {type(affine).__name__}; use torch.as_tensor")
    if affine.shape != (4, 4):
        raise ValueError(f"{name}: expected shape (4, 4), also in 2D, received {tuple(affine.shape)}")
    check_finite(name, affine)
    matrix = affine.detach().cpu().double().numpy()
    check_invertible(name, matrix)
    return matrix
