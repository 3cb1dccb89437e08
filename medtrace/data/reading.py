"""Read an image of any supported kind into one convention, or say why not in one line.

| file | reader | array axes | affine |
|---|---|---|---|
| `.nii`, `.nii.gz` | nibabel | (i, j, k) of the file | its own, voxel to RAS mm |
| `.nrrd`, `.nhdr`, `.mha`, `.mhd`, `.dcm`, a folder of one DICOM series | ITK | (i, j, k), the first axis fastest | \
LPS turned into RAS |
| `.png`, `.jpg`, `.jpeg`, `.bmp`, `.tif`, `.tiff` | see `pictures` | (x, y): *columns first* | diag(-1, -1, 1, 1) |
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import itk
import numpy as np
import SimpleITK as sitk
import torch
from monai.data import ITKReader, MetaTensor, NibabelReader
from torch import Tensor

from medtrace.data.pictures import PICTURES, read_picture
from medtrace.data.pictures import is_picture as is_picture
from medtrace.geometry.grid import is_singular
from medtrace.guard.declared_size import check_dicom, check_metaimage, check_nifti, check_nrrd

NIFTI = (".nii", ".nii.gz")
ITK_FORMATS = (".nrrd", ".nhdr", ".mha", ".mhd", ".dcm")
_ITK_KINDS = {
    ".nrrd": ("NrrdImageIO", check_nrrd),
    ".nhdr": ("NrrdImageIO", check_nrrd),
    ".mha": ("MetaImageIO", check_metaimage),
    ".mhd": ("MetaImageIO", check_metaimage),
    ".dcm": ("GDCMImageIO", check_dicom),
}
_POSITION = "0020|0032"
_UNEVEN = 0.1
"""Largest difference of two gaps between slices, as a share of the mean gap."""


def read_image(path: str | Path, page: int | None = None) -> MetaTensor:
    """Read a scan or a picture and check that it can be worked with.

    Args:
        path: a file of the kinds in the module's table, or a folder of one DICOM series.
        page: of a picture that has several, from 1.

    Returns:
        float32 (C, X, Y, Z) for a scan (a 2D one has Z = 1) or (C, X, Y) for a picture (C is 1 or 3), in the
        file's own units, with its 4x4 affine in float64.

    Raises:
        FileNotFoundError: if there is nothing at the path.
        ValueError: if it cannot be read, holds NaN or infinity, or is constant; the message names the file.
    """
    image = _read(Path(path), page)
    _check_values(path, image)
    return image


def read_mask(path: str | Path, image: Tensor, image_path: str | Path) -> Tensor:
    """Read a mask on the grid of an image.

    Args:
        path: the mask's file.
        image: (C, *spatial), the image that it belongs to.
        image_path: where that came from, for messages.

    Returns:
        Boolean (1, *spatial), true where the file is not zero.

    Raises:
        FileNotFoundError: if there is nothing at the path.
        ValueError: if it cannot be read, lies on another grid, has several channels, or is empty.
    """
    mask = _read(Path(path))
    if mask.shape[0] != 1:
        raise ValueError(f"{path}: expected a mask of one channel, received {mask.shape[0]}; give a single label map")
    check_same_grid(mask, path, image, image_path)
    inside = mask.as_tensor() != 0
    if not bool(inside.any()):
        raise ValueError(f"{path}: the mask is empty; mark the foreground with non-zero values, or leave it out")
    return inside


def read_labels(path: str | Path, image: Tensor, image_path: str | Path) -> Tensor:
    """Read a segmentation on the grid of an image.

    Args:
        path: the segmentation's file.
        image: (C, *spatial), the image that it belongs to.
        image_path: where that came from, for messages.

    Returns:
        (1, *spatial) uint8.

    Raises:
        FileNotFoundError: if there is nothing at the path.
        ValueError: if it cannot be read, lies on another grid, has several channels, or holds anything but whole
            numbers from 0 to 255.
    """
    labels = _read(Path(path))
    if labels.shape[0] != 1:
        raise ValueError(f"{path}: expected labels of one channel, received {labels.shape[0]}; give a single label map")
    check_same_grid(labels, path, image, image_path)
    values = labels.as_tensor()
    odd = ~((values >= 0) & (values <= 255) & (values == values.round()))
    if bool(odd.any()):
        raise ValueError(
            f"{path}: expected labels that are whole numbers from 0 to 255, received {float(values[odd][0]):g};"
            " renumber them"
        )
    return values.to(torch.uint8)


def check_same_grid(first: Tensor, first_path: str | Path, second: Tensor, second_path: str | Path) -> None:
    """Check that two images share their shape and, where both have one, their affine to 1e-3 mm.

    Raises:
        ValueError: if not; it names both files.
    """
    if first.shape[1:] != second.shape[1:]:
        raise ValueError(
            f"{first_path}: expected the grid {tuple(second.shape[1:])} of {second_path}, received"
            f" {tuple(first.shape[1:])}; resample one onto the other"
        )
    if not isinstance(first, MetaTensor) or not isinstance(second, MetaTensor):
        return
    corners = torch.tensor([[0, 0, 0, 1], [s - 1 for s in (*first.shape[1:], 1, 1)[:3]] + [1]], dtype=torch.float64)
    apart = ((corners @ first.affine.double().T) - (corners @ second.affine.double().T)).abs().max()
    if float(apart) > 1e-3 * float(second.affine[:3, :3].norm(dim=0).max()):
        raise ValueError(
            f"{first_path}: lies up to {float(apart):.3g} mm off {second_path}, whose voxels it should share; resample"
            " one onto the other"
        )


def _read(path: Path, page: int | None = None) -> MetaTensor:
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder; check the path")
    name = path.name.lower()
    if path.is_dir():
        return _scan(path, ITKReader(), "a DICOM series", check=_check_series)
    if name.endswith(NIFTI):
        check_nifti(path)
        return _scan(path, NibabelReader(squeeze_non_spatial_dims=True), "NIfTI")
    if name.endswith(ITK_FORMATS):
        reader, check = _ITK_KINDS[path.suffix.lower()]
        check(path)
        # The reader that the ending names: by its content, ITK would hand the file to any of thirty.
        return _scan(path, ITKReader(imageio=getattr(itk, reader).New()), f"{path.suffix[1:].upper()} file")
    if name.endswith(PICTURES):
        return read_picture(path, page)
    raise ValueError(
        f"{path}: unknown kind of file; expected {', '.join((*NIFTI, *ITK_FORMATS, *PICTURES))} or a DICOM folder"
    )


def _scan(path: Path, reader: Any, kind: str, check: Any = None) -> MetaTensor:
    try:
        if check is not None:
            check(path)
        data, meta = reader.get_data(reader.read(str(path)))
    except _Refused as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # readers of three libraries raise what they like on a broken file
        raise ValueError(f"{path}: cannot be read as {kind} ({_first_line(error)}); copy or export it again") from error
    if np.iscomplexobj(data) or data.dtype.fields is not None:
        raise ValueError(f"{path}: expected plain numbers, received {data.dtype}; convert it to scalars first")
    image = torch.from_numpy(np.ascontiguousarray(data, dtype=np.float32))
    channel = meta.get("original_channel_dim")
    no_channel = isinstance(channel, str) or channel is None or (isinstance(channel, float) and np.isnan(channel))
    image = image[None] if no_channel else image.movedim(int(channel), 0)
    if image.ndim == 3:
        image = image[..., None]
    if image.ndim != 4 or image.numel() == 0:
        raise ValueError(f"{path}: expected a 2D or 3D image, received shape {tuple(image.shape[1:])}; give one volume")
    return MetaTensor(image, affine=_affine(path, meta["affine"]))


def _affine(path: Path, affine: Any) -> Tensor:
    given = torch.as_tensor(np.asarray(affine), dtype=torch.float64)
    full = torch.eye(4, dtype=torch.float64)
    if given.shape == (3, 3):
        full[:2, :2], full[:2, 3] = given[:2, :2], given[:2, 2]
    else:
        full = given.clone()
    if not bool(torch.isfinite(full).all()) or is_singular(full):
        raise ValueError(f"{path}: its header gives no usable geometry (singular affine); set voxel sizes and axes")
    return full


class _Refused(ValueError):
    """A refusal whose message is complete."""


def _check_series(folder: Path) -> None:
    images = check_dicom(folder)
    reader = sitk.ImageSeriesReader
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # the messages below say it better
    names = reader.GetGDCMSeriesIDs(str(folder))
    sitk.ProcessObject.SetGlobalWarningDisplay(shown)
    if not names:
        raise _Refused(f"{folder}: holds no DICOM series; give the folder of the .dcm files, or an image file")
    if len(names) > 1:
        counts = [len(reader.GetGDCMSeriesFileNames(str(folder), name)) for name in names]
        raise _Refused(
            f"{folder}: expected one DICOM series, received {len(names)} (of {counts} files); put one series into a"
            " folder of its own"
        )
    files = reader.GetGDCMSeriesFileNames(str(folder), names[0])
    if left_out := {image.name for image in images} - {Path(file).name for file in files}:
        raise _Refused(f"{folder / min(left_out)}: is an image that cannot be read with its series; export it again")
    _check_even(folder, files)


def _check_even(folder: Path, files: Sequence[str]) -> None:
    """ITK spreads the slices of a series with a gap evenly, and so puts them where they are not."""
    reader = sitk.ImageFileReader()
    positions = []
    for file in files:
        reader.SetFileName(file)
        reader.ReadImageInformation()
        if not reader.HasMetaDataKey(_POSITION) or reader.GetDimension() != 3 or reader.GetSize()[2] != 1:
            return  # frames of one file, or no position: ITK has its own way
        positions.append([float(value) for value in reader.GetMetaData(_POSITION).split("\\")])
    if len(positions) < 3:
        return
    gaps = np.linalg.norm(np.diff(np.array(positions), axis=0), axis=1)
    if gaps.min() == 0 or gaps.max() - gaps.min() > _UNEVEN * gaps.mean():
        raise _Refused(
            f"{folder}: expected evenly spaced slices, received gaps of {gaps.min():.3g} to {gaps.max():.3g} mm; look"
            " for missing or doubled slices"
        )


def _check_values(path: str | Path, image: Tensor) -> None:
    values = image.as_tensor() if isinstance(image, MetaTensor) else image
    finite = torch.isfinite(values)
    if not bool(finite.all()):
        raise ValueError(
            f"{path}: holds {int((~finite).sum())} voxel(s) that are NaN or infinite; replace them (by 0 where there is"
            " no tissue) and save it again"
        )
    if bool(values.amin() == values.amax()):
        raise ValueError(f"{path}: is constant ({float(values.amin()):g} everywhere); there is nothing to translate")


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines()]
    lines = [line for line in lines if line and not re.fullmatch(r".*:\d+:", line)]  # ITK's own source lines
    return (lines[0] if lines else type(error).__name__)[:160]
